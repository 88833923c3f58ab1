"""Reads what is to be done after a run: `hold` and `watch` of a job file, and the flags that say the same. No I/O.

Whether a time is past is not known here, as nobody has said what time it is: a job whose time has passed can still be
read, for its guards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from engine.api.actions import ACTIONS
from engine.api.names import shown
from engine.inputs.job import HoldSpec, WatchSpec
from engine.inputs.jobfile.fields import convert, kinds
from engine.inputs.jobfile.filemodel import HoldKeys, WatchKeys
from engine.inputs.jobfile.nodes import Scalar

if TYPE_CHECKING:
    from engine.inputs.jobfile.fields import Fields
    from engine.inputs.jobfile.nodes import Node
    from engine.inputs.jobfile.problems import Problems
    from engine.model import Place

_HOLD = "{for: 12h, then: tell}"
_WATCH = "{after: [5m, 30m], every: 1d, for: 30d}"
_ENDS = ("for", "until")
_MOST_AFTER = 100
_SOON_S = (300.0, 1800.0)
_DAY_S = 86400.0


def read_hold(fields: Fields, node: Node, action: str | None) -> HoldSpec | None:
    """Return the `hold` mapping of a job of this action (None: not known); None if something is wrong (noted)."""
    before = fields.problems.count
    if type(node) is Scalar and node.text:
        key = None if not node.text[:1].isdigit() else "until" if "-" in node.text else "for"
        said = f"; write {{{key}: {node.text}}}" if key is not None else f" such as {_HOLD}"
        fields.wrong(node, "hold", f"expected a mapping{said}; without an end, leave hold away")
        return None
    table = fields.table(node, "hold", f"a mapping such as {_HOLD}")
    if table is None:
        return None
    fields.keys(table, "hold", kinds(HoldKeys))
    found = {
        key: fields.value(table.entries[key].value, kind, f"hold.{key}")
        for key, kind in kinds(HoldKeys).items()
        if key in table.entries
    }
    ends = [key for key in table.entries if key in _ENDS]
    if not ends and fields.problems.count == before:
        fields.wrong(node, "hold", f"says neither for nor until, such as {_HOLD}; without an end, leave hold away")
    if len(ends) > 1:
        place = fields.place(table.entries[ends[1]].key)
        fields.problems.add(place, f"hold.{ends[1]}", f"{ends[0]} and {ends[1]} together; keep one of the two")
    then = found.get("then") or "tell"
    if (why := _why_not_held(action)) is not None:
        fields.wrong(node, "hold", f"{why}; remove it")
    elif (why := _why_not_opened(action, then)) is not None:
        fields.wrong(table.entries["then"].value, "hold.then", f"{why}; write then: tell")
    if fields.problems.count > before:
        return None
    end = table.entries[ends[0]].value
    return HoldSpec(
        for_s=found.get("for"),
        until=found.get("until"),
        then=then,
        place=fields.place(end),
        said=f"hold.{ends[0]}",
    )


def read_watch(fields: Fields, node: Node, action: str | None) -> WatchSpec | None:
    """Return the `watch` mapping of a job of this action (None: not known); None if something is wrong (noted)."""
    before = fields.problems.count
    table = fields.table(node, "watch", f"a mapping such as {_WATCH}")
    if table is None:
        return None
    fields.keys(table, "watch", kinds(WatchKeys))
    found: dict[str, Any] = {
        key: fields.value(table.entries[key].value, kind, f"watch.{key}")
        for key, kind in kinds(WatchKeys).items()
        if key != "after" and key in table.entries
    }
    after = _ascending(fields, table.entries["after"].value) if "after" in table.entries else ()
    if "after" not in table.entries and "every" not in table.entries and fields.problems.count == before:
        fields.wrong(node, "watch", f"says neither after nor every, such as {_WATCH}")
    elif "every" in table.entries and "for" not in table.entries:
        what = "needs for: how long after the run it goes on, such as for: 30d"
        fields.wrong(table.entries["every"].value, "watch.every", what)
    elif "for" in table.entries and "every" not in table.entries:
        what = "says how long every goes on, and there is no every; add one, or remove it"
        fields.wrong(table.entries["for"].value, "watch.for", what)
    every_s, for_s = found.get("every"), found.get("for")
    if every_s is not None and for_s is not None and for_s < every_s:
        fields.wrong(table.entries["for"].value, "watch.for", "is shorter than every, so nothing would be read")
    if (why := _why_not_watched(action)) is not None:
        fields.wrong(node, "watch", f"{why}; remove it")
    if fields.problems.count > before:
        return None
    return WatchSpec(after_s=after, every_s=every_s, for_s=for_s, place=fields.place(node))


def _ascending(fields: Fields, node: Node) -> tuple[float, ...]:
    """Return durations, each longer than the one before; what is wrong is noted."""
    if type(node) is Scalar and node.text:
        fields.wrong(node, "watch.after", f"expected a list; write [{node.text}]")
        return ()
    items = fields.series(node, "watch.after", "a list of durations such as [5m, 30m]")
    if items is None:
        return ()
    if len(items.items) > _MOST_AFTER:
        what = f"expected at most {_MOST_AFTER} durations, got {len(items.items):,}; `every` goes on"
        fields.wrong(node, "watch.after", what)
        return ()
    (list_kind, *_) = get_args(kinds(WatchKeys)["after"])
    (kind,) = get_args(list_kind)
    found: list[float] = []
    for index, item in enumerate(items.items):
        here = f"watch.after[{index}]"
        each = fields.value(item, kind, here)
        if each is not None and found and each <= found[-1]:
            fields.wrong(item, here, "is not later than the one before; write them in order, each once")
        elif each is not None:
            found.append(each)
    return tuple(found)


def hold_of_flags(
    action: str, *, for_: str | None, until: str | None, then: str | None, problems: Problems, place: Place
) -> HoldSpec | None:
    """Return what `--for`, `--until` and `--then` say; None if they say nothing, or something is wrong (noted)."""
    before = problems.count
    found: dict[str, Any] = {}
    for key, text in (("for", for_), ("until", until), ("then", then)):
        if text is not None:
            found[key] = _converted(text, kinds(HoldKeys)[key], f"--{key}", problems, place)
    ends = [key for key in _ENDS if key in found]
    if len(ends) > 1:
        problems.add(place, "--until", "--for and --until together; keep one of the two")
    elif "then" in found and not ends:
        problems.add(place, "--then", "goes with --for or --until")
    if ends and (why := _why_not_held(action)) is not None:
        problems.add(place, f"--{ends[0]}", f"{why}; leave it away")
    elif found.get("then") and (why := _why_not_opened(action, found["then"])) is not None:
        problems.add(place, "--then", f"{why}; write --then tell")
    if not ends or problems.count > before:
        return None
    return HoldSpec(
        for_s=found.get("for"),
        until=found.get("until"),
        then=found.get("then") or "tell",
        place=place,
        said=f"--{ends[0]}",
    )


def watch_of_flag(action: str, text: str | None, problems: Problems, place: Place) -> WatchSpec | None:
    """Return what `--watch SPAN` says: soon after the run, then every day so long; for less than a day, at its end."""
    if text is None:
        return None
    span = _converted(text, kinds(WatchKeys)["for"], "--watch", problems, place)
    if span is None:
        return None
    if (why := _why_not_watched(action)) is not None:
        problems.add(place, "--watch", f"{why}; leave it away")
        return None
    if span < _DAY_S:
        return WatchSpec(after_s=(*(soon for soon in _SOON_S if soon < span), span), place=place)
    return WatchSpec(after_s=_SOON_S, every_s=_DAY_S, for_s=span, place=place)


def _converted(text: str, kind: Any, flag: str, problems: Problems, place: Place) -> Any:
    """Return the value of a flag as its key in a job file has it; None if it is wrong (noted). Any: as in `fields`."""
    try:
        return convert(text, kind)
    except ValueError as exc:
        said = str(exc)
        problems.add(place, flag, f"{said}, got {shown(text)}" if said.startswith("expected") else said)
        return None


# ---- what an action allows -------------------------------------------------------------------------------------------


def _why_not_held(action: str | None) -> str | None:
    if action is None or ACTIONS[action].inverse is not None:
        return None
    return f"{action} cannot be held: no action takes it back"


def _why_not_opened(action: str | None, then: str) -> str | None:
    """Return why no machine may do this at the end of a hold; None if it may."""
    inverse = ACTIONS[action].inverse if action is not None else None
    if then == "tell" or inverse is None or inverse == "UnlockAccount":
        return None
    if ACTIONS[inverse].needs_password:
        return f"{then} is for LockAccount: turning CAM verification off sets new passwords, so no machine does it"
    return f"{then} is for LockAccount: what {action} did is taken back by a person alone"


def _why_not_watched(action: str | None) -> str | None:
    if action is None or ACTIONS[action].is_desired is not None:
        return None
    return f"no reading shows whether {action} still holds, so there is nothing to watch"
