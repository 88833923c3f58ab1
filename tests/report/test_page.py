"""The HTML report: what hostile words, sizes and states do to it, and what a real browser makes of it."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from msgspec.structs import replace

from engine.journal import records
from engine.journal.ledger import Ledger
from engine.model import CallId, Outcome, Proof, Target, Verdict
from engine.planning.plan import make_plan
from engine.planning.undo import merged
from engine.report.contained import contained, contained_line
from engine.report.course import Course
from engine.report.nextstep import way_on
from engine.report.page import MOST_ROWS, Live, Page, Rows, html, moment, part
from engine.simulator.world import World
from tests.support.browser import chromium
from tests.support.command import Backend, Desk
from tests.support.drill import first_lines, run_line, run_settings

EVIL = (
    "</script><script>alert(1)</script>",
    '"><img src=http://x.invalid/a onerror=alert(2)>',
    "<svg/onload=alert(3)>",
    "'; alert(4) //",
    "\u202egnp.exe\u2066",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(5)",
    "]]><!-- &lt;b&gt; &amp;",
    "=HYPERLINK(1)",
    "x" * 10_000,
)


def zone(at: float) -> str:
    return f"wall {at:.0f}"


def lines_of(users: list[str], *, failed: int = 0, words: str = "no such account", end: bool = True, **run: object):
    """The journal of a run of these users; the first `failed` of them failed."""
    plan = make_plan("LockAccount", [Target("postgres-aaaaaaaa", user, "ap-singapore") for user in users])
    first = replace(run_line(plan, run_settings()), **{"simulated": False, **run})  # type: ignore[arg-type]
    at = 1_790_000_000.0
    found: list[records.AnyRecord] = list(first_lines(plan, Ledger(first)))
    for number, call in enumerate(plan.calls):
        stamp, known = records.rfc3339(at + number / 20, digits=6), CallId(call.id)
        bad = number < failed
        code = "InvalidParameterValue.AccountNotExistError" if bad else None
        found += [
            records.Sent(call=known, attempt=1, lane="a/LockAccount/b", trace="t", key="…0000"),
            records.ReplyLine(call=known, attempt=1, sent_at=stamp, request_id=f"id-{number}", code=code, message=words
                              if bad else None, http=200, ms=40, verdict=Verdict.REJECTED if bad else Verdict.DONE),
            records.Settled(call=known, outcome=Outcome.FAILED if bad else Outcome.CHANGED, proof=None if bad
                            else Proof.READ, attempts=1, request_id=f"id-{number}", code=code),
        ]  # fmt: skip
    if end:
        counts = {"failed": failed, "changed": len(users) - failed}
        found.append(records.End(counts=counts, attempts=len(users), throttled=0, worst_second={}, seconds=1.0,
                                 exit=1 if failed else 0, stopped=None))  # fmt: skip
    for number, line in enumerate(found):
        line.at = records.rfc3339(at + number / 60)
    return found


def page_text(lines: list[records.AnyRecord], *, live: Live | None = None) -> str:
    ledger = Ledger.of(lines)
    way = way_on([ledger])
    rows = Rows(zone)
    rows.add(ledger.run.run, ledger, way)
    one = part(ledger, Course().fold(lines), way, journal="j", head="h" * 64, zone=zone, now=1_790_000_100.0,
               seals=("sealed by ana",))  # fmt: skip
    page = Page(title=f"{ledger.run.job.name} {ledger.run.ticket}", made=moment(0.0, zone), parts=(one,),
                rows=rows.shown(), rows_said=rows.said("The CSV has all."), live=live)  # fmt: skip
    return "".join(html(page))


def evil_lines() -> list[records.AnyRecord]:
    every = " ".join(EVIL[:-1])
    return lines_of(
        [*EVIL, "plain_one", "plain_two"], failed=6, words=every, reason=every, ticket=EVIL[0], operator=EVIL[1],
        host=EVIL[2], job=records.JobRef(EVIL[0] + EVIL[4], EVIL[1], "0" * 64),
    )  # fmt: skip


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_words_of_others_stay_words() -> None:
    """No name, reason, ticket or message adds a tag, an attribute or a link, turns the text around, or is endless."""
    tags, plain = _Tags(), _Tags()
    text = page_text(evil_lines())
    tags.feed(text)
    plain.feed(page_text(lines_of(["a", "b"], failed=1)))
    assert {tag for tag, _ in tags.found} <= {tag for tag, _ in plain.found} | {"p"}
    assert sum(tag == "script" for tag, _ in tags.found) == 1
    assert not [attrs for _, attrs in tags.found if {name for name in attrs if name.startswith("on") or name == "src"}]
    assert "\u202e" not in text and "\u2066" not in text and "{{ 7 * 7 }}" in text
    assert "x" * 700 not in text and "(10,000 signs)" in text


def test_a_page_says_all_that_an_auditor_asks_for() -> None:
    """Who, when (UTC and local), why, what is open with RequestIds and advice, the numbers of each picture, head."""
    text = page_text(lines_of(["a", "b", "c", "d"], failed=1, ticket="INC-1", reason="leak"))
    said = ("INC-1", "leak", "tester on here", "wall 1790000000", "2026-09-21 14:13:20 UTC", "id-0", "What to do:",
            "50 % (2)", "not reached", "quota 20.0/s",
            "h" * 64, "sealed by ana", "failed: InvalidParameterValue")  # fmt: skip
    assert [words for words in said if words not in text] == []
    assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text
    assert len(re.findall(r"<h1\b", text)) == 1 and '<html lang="en">' in text


def test_pictures_are_whole() -> None:
    """A path is of ours and is never cut, however long the run was."""
    shapes = re.findall(r' d="([^"]*)"', page_text(lines_of([f"u{number}" for number in range(3000)], failed=9)))
    assert max(map(len, shapes)) > 5000
    assert [shape for shape in shapes if not re.fullmatch(r"[MHVZ0-9. ]*", shape)] == []


def test_a_good_exit_of_the_last_run_hides_nothing_of_its_family() -> None:
    """A rerun of three accounts ends with exit 0; the family whose other accounts are open is not done."""
    lines = lines_of(["a", "b", "c"], failed=1)
    lines[-1] = replace(lines[-1], exit=0)
    text = page_text(lines)
    assert "Ended: not all as asked" in text and "Done: all as asked" not in text


@pytest.mark.parametrize("count", [0, 1])
def test_a_run_that_was_cut_off_is_not_called_done(count: int) -> None:
    """Without an `end` the first words say so, also where nothing was settled."""
    lines = lines_of(["a"] * count or ["b"], end=False)
    text = page_text(lines if count else lines[:2])
    assert "Cut off" in text and "Done: all as asked" not in text


def test_ten_thousand_failures_are_bounded() -> None:
    """The page has the first five thousand, says so, and stays a size that a ticket takes."""
    text = page_text(lines_of([f"u{number}" for number in range(10_001)], failed=10_001))
    assert text.count('data-of="Outcome"') == MOST_ROWS
    assert "Here are the first 5,000 of 10,001 that failed" in text
    assert len(text) < 6_000_000


class _Quiet(http.server.SimpleHTTPRequestHandler):
    asked: list[str]

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """A directory over http, and what was asked for."""
    asked: list[str] = []
    handler = type("Handler", (_Quiet,), {"asked": asked})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=tmp_path)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("way", ["file", "http"])
def test_in_a_browser(tmp_path: Path, served: tuple[str, list[str]], way: str) -> None:
    """Nothing is fetched, asked or run; filter and sort work; it fits a phone, at 200 % too."""
    (tmp_path / "run.html").write_text(page_text(evil_lines()))
    url = f"{served[0]}/run.html" if way == "http" else f"file://{tmp_path}/run.html"
    with chromium(tmp_path / "profile") as browser:
        browser.get(url)
        console = [entry for entry in browser.get_log("browser") if "favicon" not in entry["message"]]
        assert console == []
        sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        asked = [
            each["params"]["request"]["url"]
            for each in sent
            if each["method"] == "Network.requestWillBeSent" and each["params"]["documentURL"] == url
        ]  # the browser's own first page has requests, too
        assert [one for one in asked if one != url and not one.startswith("chrome:")] == []
        assert set(served[1]) <= {"/run.html", "/favicon.ico"}  # the second is a browser's own habit
        shown = "return [...document.querySelectorAll('#targets tbody tr')].filter(r => !r.hidden)"
        assert len(browser.execute_script(shown)) == 12
        names = browser.execute_script(f"{shown}.map(r => r.querySelector('[data-of=User]').textContent)")
        assert EVIL[0] in names and EVIL[2] in names
        browser.find_element("id", "filter").send_keys("plain_")
        assert len(browser.execute_script(shown)) == 2
        assert "2 of 12 rows" in browser.find_element("id", "shown").text
        browser.find_element("id", "filter").clear()
        browser.find_element("css selector", "#filter").send_keys(" ")
        order = f"{shown}.map(r => r.cells[4-1].textContent)"
        heads = browser.find_elements("css selector", "#targets thead th button")
        user = next(head for head in heads if head.text.startswith("User"))
        user.click()
        up = browser.execute_script(order)
        user.click()
        assert browser.execute_script(order) == up[::-1] != up
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
        heading = "getComputedStyle(each, '::before').content"
        printed = f"return [...document.querySelectorAll('#targets thead th')].map(each => {heading})"
        assert '"User"' in browser.execute_script(printed), "text, as no browser repeats a button on the next page"
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
        for wide in (390, 640):  # 640 is a laptop's 1280 at 200 %
            size = {"width": wide, "height": 900, "deviceScaleFactor": 1, "mobile": True}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            browser.get(url)
            assert browser.execute_script("return document.documentElement.scrollWidth") <= wide
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
        browser.get(url)
        assert len(browser.find_elements("css selector", "#targets tbody tr")) == 12
        assert browser.find_elements("id", "filter") == []


def test_an_old_page_turns_red(tmp_path: Path) -> None:
    """A run that hangs or was killed leaves a page that would look alive for ever; the words say it, too."""
    for name, at in (("old", 1_000_000_000.0), ("over", 1_000_000_000.0)):
        live = Live(at=at, every_s=2.0, over=name == "over")
        (tmp_path / f"{name}.html").write_text(page_text(lines_of(["a"]), live=live))
    with chromium(tmp_path / "profile") as browser:
        browser.get(f"file://{tmp_path}/old.html")
        written = browser.find_element("id", "written")
        assert "old" in (written.get_attribute("class") or "").split() and "OLD: written" in written.text
        browser.get(f"file://{tmp_path}/over.html")
        assert "OLD" not in browser.find_element("id", "written").text


def test_a_family_keeps_what_its_first_run_was_confirmed_and_approved_by() -> None:
    """Who looks at a run with its reruns sees that it went on without an approval, and times from the confirmation."""
    lines = lines_of(["a", "b"], failed=0)
    at = next(line.at for line in lines if isinstance(line, records.Sent))
    said = records.Note(what="unapproved", data={"reason": "nobody was awake", "by": "ann"})
    confirmed = records.Confirmed(how="--yes", by="ann", terminal=None)
    said.at = confirmed.at = at
    first = next(number for number, line in enumerate(lines) if isinstance(line, records.Sent))
    alone = Ledger.of([*lines[:first], said, confirmed, *lines[first:]])
    whole = merged([alone])
    assert whole.unapproved is said and whole.confirmed is confirmed and whole.approved == alone.approved
    assert contained(whole) == contained(alone)


def test_a_page_says_when_the_accounts_were_contained() -> None:
    """In the same words as the last lines of a report: a ticket needs one number, and the same everywhere."""
    lines = lines_of(["a", "b", "c"])
    assert contained_line(Ledger.of(lines)) in page_text(lines) and "all after" in contained_line(Ledger.of(lines))


def test_a_page_of_a_family_tells_of_waves_and_a_simulated_run_of_no_watch(tmp_path: Path) -> None:
    """Reports with `--family` have what those without have; nobody is sent to tend what nothing tends."""
    desk = Desk(tmp_path)
    job = desk.job("postgres-aaaaaaaa/ann", "postgres-aaaaaaaa/bob",
                   extra="waves: [{take: 1, soak: 1s}, {take: rest}]\nwatch: {after: [1s]}")  # fmt: skip
    run = desk.run("run", job, "--simulate", "--yes", "--json").json["run"]
    for words in ((run,), (run, "--family")):
        text = desk.run("report", *words, "--format", "html").out
        assert "wave 2  1 account  passed" in text and "watch: " not in text
    assert desk.run("report", run, "--json").json["watch"] is None


def world() -> World:
    found = World(latency=0.002, quotas={"*": None})
    found.seed("postgres-aaaaaaaa", "ap-singapore", ["ann", "bob"])
    return found


def test_reports_of_runs_tickets_and_weeks(tmp_path: Path) -> None:
    """One file, for its owner alone; a ticket takes the undo of its run in; what does not exist is said."""
    desk = Desk(tmp_path)
    desk.job("postgres-aaaaaaaa/ann", "postgres-aaaaaaaa/bob")
    with Backend(world()) as backend:
        desk.env["ACCTOPS_ENDPOINT"] = backend.endpoint
        run = desk.run("run", "job.yaml", "--yes", "--ticket", "INC-9", "--json").json["run"]
        undo = desk.run("undo", run, "--yes", "--json").json["run"]
    for words in ((run,), (run, undo), (run, "--family"), ("--ticket", "INC-9"), ("--since", "1d")):
        done = desk.run("report", *words, "--format", "html", "-o", "out.html")
        assert done.code == 0, done.text
        text = (desk.work / "out.html").read_text()
        assert run in text and (undo in text) == (words not in ((run,), (run, "--family")) or undo in text)
        assert (desk.work / "out.html").stat().st_mode & 0o777 == 0o600
        if words[0] == "--ticket":
            assert "2 runs on one timeline" in text and "2 × ✓ Done" in text and f"undo of {run}" in text
    assert "no run with the ticket INC-8" in desk.run("report", "--ticket", "INC-8", "--format", "html").err
    (desk.work / "there").mkdir()
    refused = desk.run("report", run, "--format", "html", "-o", "there")
    assert refused.code == 2 and "is a directory; name a file" in refused.err


def test_without_jinja2_the_pip_command_is_said(tmp_path: Path) -> None:
    """Before anything is sent, exit 2."""
    code = (
        "import sys; sys.modules['jinja2'] = None; import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *more: None if name == 'jinja2' else find(name, *more)\n"
        "from engine.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    desk = Desk(tmp_path)
    desk.job("postgres-aaaaaaaa/ann")
    for words in (("report", "x", "--format", "html"), ("run", "job.yaml", "--simulate", "--yes", "--page", "p.html")):
        argv = [sys.executable, "-c", code, *words]
        done = subprocess.run(argv, cwd=desk.work, env=desk.env, capture_output=True, text=True)
        assert done.returncode == 2 and "pip install 'acctops[report]'" in done.stderr, done.stderr
    assert desk.journals(simulated=True) == []


def test_a_page_while_the_run_goes_and_after_it(tmp_path: Path) -> None:
    """Counts and codes alone, unless names are asked for; the last page says how it ended; its mode is kept."""
    desk = Desk(tmp_path)
    desk.job("postgres-aaaaaaaa/ann", "postgres-aaaaaaaa/bob")
    with Backend(world()) as backend:
        desk.env["ACCTOPS_ENDPOINT"] = backend.endpoint
        backend.script({"action": "LockAccount", "user": "bob", "code": "InvalidParameterValue.AccountNotExistError"})
        run = desk.run("run", "job.yaml", "--yes", "--json", "--page", "page.html").json["run"]
        page = desk.work / "page.html"
        text = page.read_text()
        assert "its last page" in text and "1 of 2 verified locked" in text and "AccountNotExistError" in text
        assert "postgres-aaaaaaaa" not in text and page.stat().st_mode & 0o777 == 0o644
        desk.run("rerun", run, "--yes", "--page-names", "--page", "page.html")
        assert "postgres-aaaaaaaa" in page.read_text() and page.stat().st_mode & 0o777 == 0o600, "made for all to read"
        page.chmod(0o640)
        desk.write("config.yaml", "page_file: page.html\n")
        desk.run("rerun", run, "--yes", "--page-names", "--config", "config.yaml")
        assert "postgres-aaaaaaaa" in page.read_text() and page.stat().st_mode & 0o777 == 0o640


def test_a_rehearsal_replaces_no_page_of_a_config(tmp_path: Path) -> None:
    """People look at that page for the real run; `--page` on the command line is meant for this one."""
    desk = Desk(tmp_path)
    job = desk.job("postgres-aaaaaaaa/ann")
    wall = desk.write("wall.html", "the page of the real run")
    desk.write("config.yaml", "page_file: wall.html\n")
    for words in (("run", job, "--simulate", "--yes"), ("drill", job)):
        assert desk.run(*words, "--config", "config.yaml").code == 0
        assert wall.read_text() == "the page of the real run"
    assert desk.run("run", job, "--simulate", "--yes", "--config", "config.yaml", "--page", "mine.html").code == 0
    assert "SIMULATED" in (desk.work / "mine.html").read_text() and wall.read_text() == "the page of the real run"


def test_a_new_page_with_names_is_for_its_owner_and_its_last_one_has_the_head(tmp_path: Path) -> None:
    """Nobody else reads who is locked; who kept the page can check the journal by it."""
    desk = Desk(tmp_path)
    done = desk.run("run", desk.job("postgres-aaaaaaaa/ann"), "--simulate", "--yes", "--page", "page.html",
                    "--page-names", "--json")  # fmt: skip
    page = desk.work / "page.html"
    assert page.stat().st_mode & 0o777 == 0o600
    assert f"--head {done.json['journal_head']}" in page.read_text()


def test_the_page_of_a_resume_tells_of_the_session_before(tmp_path: Path) -> None:
    """Calls, times and sessions from the beginning on, as the report after it has them."""
    desk = Desk(tmp_path)
    users = [f"u{number:02}" for number in range(12)]
    backed = World(quotas={"*": None})
    backed.seed("postgres-aaaaaaaa", "ap-singapore", users)
    with Backend(backed) as backend:
        desk.env["ACCTOPS_ENDPOINT"] = backend.endpoint
        job = desk.job(*(f"postgres-aaaaaaaa/{user}" for user in users))
        process = desk.popen("run", job, "--yes", "--rate", "5")
        desk.wait_for("reply", 2)
        process.terminate()
        desk.end(process)
        assert desk.run("resume", "latest", "--yes", "--rate", "100", "--page", "page.html").code == 0
    text, report = (desk.work / "page.html").read_text(), desk.run("report", "latest", "--format", "html").out
    told = re.search(r"<p>Sessions: run [^<]*, resume [^<]*</p>", text)
    assert told is not None and told[0] in report, text


@pytest.mark.parametrize("kind", ["directory", "link", "no directory", "full"])
def test_a_page_that_cannot_be_written_stops_nothing(tmp_path: Path, kind: str) -> None:
    """One warning, one note, and the run ends as it would have."""
    desk = Desk(tmp_path)
    desk.job("postgres-aaaaaaaa/ann", "postgres-aaaaaaaa/bob")
    path = desk.work / "page.html"
    if kind == "directory":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(desk.write("theirs", "theirs"))
    elif kind == "full":
        path = Path("/dev/full")
    else:
        path = desk.work / "nowhere" / "page.html"
    with Backend(world()) as backend:
        desk.env["ACCTOPS_ENDPOINT"] = backend.endpoint
        done = desk.run("run", "job.yaml", "--yes", "--page", path)
    assert done.code == 0 and done.err.count("cannot be written") == 1, done.text
    assert [each["what"] for each in desk.records("note") if "failed" in each["what"]] == ["page_failed"]
    assert kind != "link" or (desk.work / "theirs").read_text() == "theirs"


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="a full disk is made by mounting one")
def test_a_full_disk_keeps_the_last_page_and_ends_no_run(tmp_path: Path) -> None:
    """Whoever looks has the last whole page, which shows its age; the run goes on, and is told once."""
    desk = Desk(tmp_path)
    desk.job("postgres-aaaaaaaa/ann", "postgres-aaaaaaaa/bob")
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", small], capture_output=True).returncode:
        pytest.skip("nothing may be mounted here")
    try:
        page = small / "page.html"
        page.write_text("the page before")
        (small / "filler").write_bytes(b"x" * 56_000)
        with Backend(world()) as backend:
            desk.env["ACCTOPS_ENDPOINT"] = backend.endpoint
            done = desk.run("run", "job.yaml", "--yes", "--page", page)
        assert done.code == 0 and done.err.count("No space left") == 1, done.text
        assert page.read_text() == "the page before"
        assert {path.name for path in small.iterdir()} == {"page.html", "filler"}, "no half page is left"
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_reader_never_sees_half_a_page(tmp_path: Path) -> None:
    """A web server that reads all the time, and one that reads slowly, get whole pages, whichever one they get."""
    desk = Desk(tmp_path)
    users = [f"u{number:03}" for number in range(80)]
    desk.job(*(f"postgres-aaaaaaaa/{user}" for user in users))
    backed = World(latency=0)
    backed.seed("postgres-aaaaaaaa", "ap-singapore", users)
    page, over, seen = desk.work / "page.html", threading.Event(), []

    def read() -> None:
        while not over.is_set():
            with contextlib.suppress(FileNotFoundError), page.open(encoding="utf-8") as file:
                head = file.read(1000)
                over.wait(0.01)  # it may be replaced just now
                seen.append(head + file.read())
            over.wait(0.001)

    reader = threading.Thread(target=read)
    with Backend(backed) as backend:
        desk.env["ACCTOPS_ENDPOINT"] = backend.endpoint
        reader.start()
        try:
            done = desk.run("run", "job.yaml", "--yes", "--page", page, "--page-names")
        finally:
            over.set()
            reader.join()
    assert done.code == 0, done.text
    assert len(set(seen)) > 1 and all(text.startswith("<!") and text.rstrip().endswith("</html>") for text in seen)


def test_a_time_is_told_twice_only_where_the_wall_shows_another() -> None:
    """A machine on UTC says each time once."""
    assert moment(0.0, lambda _at: "1970-01-01 08:00:00 CST (UTC+0800)").is_elsewhere
    assert not moment(0.0, lambda _at: "1970-01-01 00:00:00 UTC (UTC+0000)").is_elsewhere
