"use strict";
(function () {
  var table = document.getElementById("targets");
  var busy = false;
  if (table) {
    var body = table.tBodies[0], rows = Array.prototype.slice.call(body.rows);
    var tools = document.createElement("div"), kinds = {};
    tools.className = "tools";
    rows.forEach(function (row) { kinds[row.cells[0].textContent.trim()] = 1; });
    function field(words, tag) {
      var label = document.createElement("label"), input = document.createElement(tag);
      label.appendChild(document.createTextNode(words));
      label.appendChild(document.createElement("br"));
      label.appendChild(input);
      tools.appendChild(label);
      return input;
    }
    var text = field("Show rows with these words", "input"), kind = field("Outcome", "select");
    text.id = "filter"; text.type = "search"; kind.id = "outcome";
    [""].concat(Object.keys(kinds).sort()).forEach(function (name) {
      var option = document.createElement("option");
      option.value = name; option.textContent = name || "all";
      kind.appendChild(option);
    });
    var said = document.createElement("p");
    said.id = "shown"; said.setAttribute("role", "status");
    tools.appendChild(said);
    table.parentNode.insertBefore(tools, table);
    var texts = null;
    function filter() {
      busy = Boolean(text.value || kind.value);
      texts = texts || rows.map(function (row) { return row.textContent.toLowerCase(); });
      var words = text.value.toLowerCase().split(/\s+/), count = 0;
      rows.forEach(function (row, at) {
        var fits = words.every(function (word) { return texts[at].indexOf(word) >= 0; }) &&
          (!kind.value || row.cells[0].textContent.trim() === kind.value);
        row.hidden = !fits;
        count += fits ? 1 : 0;
      });
      said.textContent = count + " of " + rows.length + " rows shown";
    }
    text.addEventListener("input", filter);
    kind.addEventListener("change", filter);
    said.textContent = rows.length + " of " + rows.length + " rows shown";
    Array.prototype.forEach.call(table.tHead.rows[0].cells, function (head, column) {
      var button = document.createElement("button");
      button.type = "button";
      head.setAttribute("data-of", head.textContent); // what is printed: no browser repeats a button on the next page
      while (head.firstChild) { button.appendChild(head.firstChild); }
      head.appendChild(button);
      button.addEventListener("click", function () {
        var down = head.getAttribute("aria-sort") === "ascending";
        Array.prototype.forEach.call(table.tHead.rows[0].cells, function (each) { each.removeAttribute("aria-sort"); });
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        var collator = new Intl.Collator(undefined, { numeric: true });
        var order = rows.map(function (row, at) { return { row: row, at: at, key: row.cells[column].textContent.trim() }; });
        texts = null;
        order.sort(function (a, b) { return (down ? -1 : 1) * collator.compare(a.key, b.key) || a.at - b.at; });
        rows = order.map(function (one) { return one.row; });
        var all = document.createDocumentFragment();
        rows.forEach(function (row) { all.appendChild(row); });
        body.appendChild(all);
        busy = true;
      });
    });
  }
  var written = document.getElementById("written");
  if (written && !written.hasAttribute("data-over")) {
    var at = Number(written.getAttribute("data-at")) * 1000, every = Number(written.getAttribute("data-every")) * 1000;
    var first = written.textContent, age = document.createElement("span");
    age.setAttribute("role", "status");
    written.appendChild(age);
    var look = function () {
      var gone = Math.round((Date.now() - at) / 1000), old = gone * 1000 > Math.max(20000, 5 * every);
      written.classList.toggle("old", old);
      age.textContent = old ? " OLD: written " + gone + " s ago. Its run may have ended or hang." : "";
    };
    look();
    setInterval(look, 1000);
    setInterval(function () { if (!busy && document.visibilityState === "visible") { location.reload(); } }, 5000);
  }
})();
