"""Gather from the journals of a state directory who holds which accounts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct, field

from engine.api.actions import ACTIONS
from engine.errors import AcctopsError
from engine.journal import records
from engine.journal.ledger import Entry
from engine.model import Outcome
from engine.planning.holds import Family, Had, Holds, Key, Part, key_of, label_of, part_of

if TYPE_CHECKING:
    from engine.journal.protocols import RunHead, Runs
    from engine.model import Call
    from engine.outside.trust import Trust


class Gathered(Struct, frozen=True, kw_only=True):
    """Who holds which accounts, by all journals of a state directory."""

    holds: Holds
    looked_at: int
    """How many journals are in the directory."""
    damaged: Mapping[str, str]
    """Run whose journal cannot be read, or is not believed → why. The accounts of its plan count as held."""
    blind: Mapping[str, str]
    """Those of the damaged ones whose plan cannot be read whole: nobody knows what they hold."""
    read: Mapping[str, tuple[object, Part | None]] = field(default_factory=dict)
    """Run → its journal's version when it was read, and what it says; None: nothing of the accounts in question."""
    watches: frozenset[str] = frozenset()
    """The runs among them that only watch others."""


_NAMED = 3
_MOST_TARGETS = 1000
"""Accounts that one `released` record names, so that its line stays short."""


def batched(labels: Sequence[str]) -> list[list[str]]:
    """Return accounts in parts that one record can name."""
    return [list(labels[at : at + _MOST_TARGETS]) for at in range(0, len(labels), _MOST_TARGETS)]


def release(
    store: Runs, family: Family, keys: Iterable[Key], *, why: str | None, by: str, clock: Callable[[], float]
) -> int:
    """End the holds of an incident on accounts, durably, and return how many ended. Sends nothing."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for key in keys:
        if family.holds(key):
            groups.setdefault(tuple(family.holders(key)), []).append(label_of(key))
    lines = [
        records.Released(targets=tuple(part), by=by, why=why, runs=runs)
        for runs, labels in groups.items()
        for part in batched(labels)
    ]
    if lines:
        store.add_aside(family.run, lines, clock=clock)
    return sum(map(len, groups.values()))


def gather(
    store: Runs,
    action: str,
    trust: Trust,
    keys: Collection[Key] | None = None,
    *,
    known: Gathered | None = None,
    ignored: Collection[str] = (),
) -> Gathered:
    """Return who holds the accounts `keys` (None: all) of an action, by every run of it and of its inverse.

    Only journals whose plan has one of the accounts are read whole. A journal that has not changed since `known`, which
    was gathered for these accounts or more of the same action, is not read again. `ignored` are damaged journals that
    count for nothing.
    """
    inverse = ACTIONS[action].inverse
    actions = {action, inverse}
    wanted = None if keys is None else frozenset(keys)
    read: dict[str, tuple[object, Part | None]] = {}
    damaged: dict[str, str] = {}
    blind: dict[str, str] = {}
    parts: list[Part] = []
    looked_at = 0
    for run_id in store.lost():
        if run_id not in ignored:
            damaged[run_id] = blind[run_id] = "its journal was removed, and its directory is there"
    watches: set[str] = set()
    if known is not None and known.holds.action not in actions:
        known = None  # it passed over the runs of this action
    for run_id in store.names():
        version = store.version(run_id)
        before = known.read.get(run_id) if known is not None else None
        if known is not None and before is not None and before[0] == version:  # two stats: no more for each look
            read[run_id] = before
            parts += [before[1]] if before[1] is not None else []
            looked_at += run_id not in known.watches
            watches |= {run_id} & known.watches
            continue
        head = store.head(run_id)
        if head.watched is not None:
            read[run_id] = version, None
            watches.add(run_id)
            continue
        looked_at += 1
        part, why = _read(store, head, actions, wanted, trust)
        if why is None:
            read[run_id] = version, part
            parts += [part] if part is not None else []
        elif run_id not in ignored:
            damaged[run_id] = why
            part, is_all = _readable(store, head, wanted, why)
            parts.append(part)
            if not is_all:
                blind[run_id] = why
    return Gathered(
        holds=Holds(action, parts),
        looked_at=looked_at,
        damaged=damaged,
        blind=blind,
        read=read,
        watches=frozenset(watches),
    )


def held_words(store: Runs, action: str, calls: Collection[Call], trust: Trust, flags: str = "") -> str | None:
    """Return in words who holds accounts of a plan already; None if nobody does.

    What the action would give back is somebody's; what it keeps out is then held by several.
    """
    inverse = ACTIONS[action].inverse
    if inverse is None or not calls:
        return None
    keeping = action if ACTIONS[action].keeps_out else inverse
    keys = {key_of(call) for call in calls}
    holds = gather(store, keeping, trust, keys).holds
    found = [(family, sum(map(family.holds, keys))) for family in holds.families]
    shown = [f"{count:,} by {family}" for family, count in found if count]
    if not shown:
        return None
    named = ", ".join(shown[:_NAMED]) + (f" and {len(shown) - _NAMED:,} more runs" if len(shown) > _NAMED else "")
    if keeping == action:
        return f"held already: {named}; they stay {ACTIONS[action].done_word} until each of these runs gives them back"
    done = ACTIONS[inverse].done_word
    first = next(family.run for family, count in found if count)
    way = f"acctops undo {first}{flags}"
    return f"held, so somebody wants them {done}: {named}. This ends no hold; to give back what a run holds: {way}"


def _read(
    store: Runs, head: RunHead, actions: Collection[str | None], keys: Collection[Key] | None, trust: Trust
) -> tuple[Part | None, str | None]:
    """Return what a run says of the accounts, None if nothing; or why nothing is known: unreadable, or not believed."""
    if head.problem is not None:
        return None, head.problem
    if head.action not in actions or (keys is not None and not _has_any(store, head.run_id, keys)):
        return None, None
    # Whom the journal may be of is looked up last: it costs as much as all the rest.
    if (why := store.doubt(head.run_id, trust)) is not None:
        return None, f"is not believed, as {why}"
    try:
        return part_of(store.replay(head.run_id).ledger, keys), None
    except (AcctopsError, OSError) as error:
        return None, str(error)


def _has_any(store: Runs, run_id: str, wanted: Collection[Key]) -> bool:
    found = store.readable_calls(run_id)
    return not found.is_all or any(key_of(call) in wanted for call in found.calls)


def _readable(store: Runs, head: RunHead, keys: Collection[Key] | None, why: str) -> tuple[Part, bool]:
    """Return what a damaged journal may hold: each account of its plan that can be read; and whether that is all."""
    found = store.readable_calls(head.run_id)
    entry = Entry()
    had = {key_of(call): Had(Outcome.UNKNOWN, entry) for call in found.calls if keys is None or key_of(call) in keys}
    action = found.calls[0].action if found.calls else ""
    return Part(run_id=head.run_id, action=action, had=had, problem=why, at=_begun(head)), found.is_all


def _begun(head: RunHead) -> str:
    """Return when a run began, by its first line, or else by its name."""
    if head.started_at:
        return head.started_at
    name = head.run_id
    return f"{name[:4]}-{name[4:6]}-{name[6:8]}T{name[9:11]}:{name[11:13]}:{name[13:15]}.000Z" if len(name) > 15 else ""
