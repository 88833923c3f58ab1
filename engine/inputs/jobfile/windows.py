"""Reads the `window` mapping of a job file into a Window. No I/O but zone data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from engine.inputs.jobfile.fields import kinds
from engine.inputs.jobfile.filemodel import WindowKeys
from engine.inputs.jobfile.nodes import Scalar, Series
from engine.inputs.window import Window, clock_text

if TYPE_CHECKING:
    from engine.inputs.jobfile.fields import Fields
    from engine.inputs.jobfile.nodes import Node

_SAMPLE = '{days: [sat], from: "01:00", until: "05:00", timezone: Asia/Shanghai}'


def read_window(fields: Fields, node: Node) -> Window | None:
    """Return the window; None if something is wrong (noted)."""
    if type(node) is Series:
        what = "a job has one window; name several days in it, or write one job file for each window"
        fields.wrong(node, "window", f"{what}: {_SAMPLE}")
        return None
    table = fields.table(node, "window", f"a mapping such as {_SAMPLE}")
    if table is None:
        return None
    known = kinds(WindowKeys)
    fields.keys(table, "window", known)
    for key in known:
        if key not in table.entries:
            fields.wrong(node, f"window.{key}", f"is missing; a window is {_SAMPLE}")
    found: dict[str, Any] = {
        key: fields.value(table.entries[key].value, kind, f"window.{key}")
        for key, kind in known.items()
        if key != "days" and key in table.entries
    }
    days = _days(fields, table.entries["days"].value) if "days" in table.entries else ()
    start, until, zone = (found.get(key) for key in ("from", "until", "timezone"))
    if start is None or until is None or zone is None or not days:
        return None
    until_node = table.entries["until"].value
    if start == until:
        what = f"is empty: it closes when it opens, at {clock_text(start)}; for whole days write 00:00 and 24:00"
        fields.wrong(until_node, "window.until", what)
        return None
    return Window(days=days, start=start, until=until, timezone=zone, place=fields.place(node))


def _days(fields: Fields, node: Node) -> tuple[int, ...]:
    """Return the days (0 is Monday), each once, in the order of the week."""
    if type(node) is Scalar and node.text:
        fields.wrong(node, "window.days", f"expected a list; write [{node.text}]")
        return ()
    items = fields.series(node, "window.days", "a list of days such as [sat, sun]")
    if items is None:
        return ()
    (list_kind, *_) = get_args(kinds(WindowKeys)["days"])
    (day_kind,) = get_args(list_kind)
    found = [fields.value(item, day_kind, f"window.days[{index}]") for index, item in enumerate(items.items)]
    return tuple(sorted({day for day in found if day is not None}))
