"""Who holds which accounts, over all runs of one action. No I/O, no clock.

A hold is a run's claim that an account stays as the run left it. A run and its reruns are one incident: they hold
together, and have one end. A hold ends when it is released, or when an undo has brought the account back. An account
may be opened once nobody holds it; the latest change of it is the one that is taken back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from msgspec import Struct

from engine.api.actions import ACTIONS
from engine.journal.records import THENS, unix_seconds
from engine.model import GOOD, Call, Outcome

if TYPE_CHECKING:
    from engine.journal import records
    from engine.journal.ledger import Entry, Ledger


class Key(tuple[str, str, str, str]):
    """An account: cloud account, region, instance, user.

    Two keys are the same whatever the cloud account is called: jobs name it as they like, or not at all, and an
    instance has its id alone in its region.
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and self[1:] == other[1:]

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self[1:])


UNLOCK, UNLOCK_ROTATED, TELL = THENS[2], THENS[1], THENS[0]


def key_of(call: Call) -> Key:
    """Return the account of a call."""
    return Key((call.account, call.region, call.instance, call.user))


def label_of(key: Key) -> str:
    """Return `instance/user`."""
    return f"{key[2]}/{key[3]}"


class Had(Struct, frozen=True):
    """What a run says of one account: that it changed it, found it so, or may have changed it."""

    outcome: Outcome
    entry: Entry


class Part(Struct, frozen=True, kw_only=True):
    """What one run says of the accounts in question."""

    run_id: str
    action: str
    had: Mapping[Key, Had]
    parent: records.Parent | None = None
    job: str = ""
    ticket: str | None = None
    operator: str = ""
    at: str = ""
    """When the run began, in UTC."""
    until: str | None = None
    then: str | None = None
    """`hold_until` and `hold_then` of its settings."""
    limits: tuple[records.HoldLine, ...] = ()
    releases: tuple[records.Released, ...] = ()
    told: tuple[records.Note, ...] = ()
    problem: str | None = None
    """Why its journal cannot be read or is not believed; None if it can be. Then each account of its plan that can be
    read counts as held without end."""


_HELD = (*GOOD, Outcome.UNKNOWN)
"""Outcomes with which a run holds an account; what nobody knows counts as held."""


def part_of(ledger: Ledger, keys: Collection[Key] | None = None) -> Part:
    """Return what a run says of the accounts `keys`, or of all."""
    run = ledger.run
    had = {
        key_of(call): Had(outcome, entry)
        for call, entry, outcome in ledger.outcomes()
        if outcome in _HELD and (keys is None or key_of(call) in keys)
    }
    return Part(
        run_id=run.run,
        action=run.action,
        had=had,
        parent=run.parent,
        job=run.job.name,
        ticket=run.ticket,
        operator=run.operator,
        at=run.at,
        until=run.settings.hold_until,
        then=run.settings.hold_then,
        limits=tuple(ledger.limits),
        releases=tuple(ledger.releases),
        told=tuple(ledger.told),
    )


class Family(Struct, frozen=True, kw_only=True, dict=True):
    """A run and its reruns: one incident, with one end of its holds."""

    run: str
    """The oldest run."""
    members: tuple[Part, ...]
    """Oldest first."""
    until: str | None
    """UTC time at which its holds end; None: never."""
    then: str
    undone: frozenset[Key] = frozenset()
    """Accounts that undos have brought back."""

    @cached_property
    def names(self) -> frozenset[str]:
        """The ids of its runs."""
        return frozenset(part.run_id for part in self.members)

    @property
    def head(self) -> Part:
        """Its oldest run."""
        return self.members[0]

    @property
    def problem(self) -> str | None:
        """Why its journal cannot be read; None if it can be."""
        return self.head.problem

    def __str__(self) -> str:
        words = f"{self.run} ({self.head.ticket})" if self.head.ticket else self.run
        return f"{words}, whose journal is damaged" if self.problem is not None else words

    @cached_property
    def _released(self) -> dict[str, set[str]]:
        """Run → labels of the accounts that it does not hold any more."""
        found: dict[str, set[str]] = {}
        for part in self.members:
            for line in part.releases:
                for run in line.runs:
                    found.setdefault(run, set()).update(line.targets)
        return found

    def holds(self, key: Key) -> bool:
        """Return whether it holds an account now."""
        return key not in self.undone and any(self.holders(key))

    def holders(self, key: Key) -> list[str]:
        """Return the runs of it whose hold on an account was not released."""
        label = label_of(key)
        return [
            part.run_id for part in self.members if key in part.had and label not in self._released.get(part.run_id, ())
        ]

    def held(self) -> dict[Key, str]:
        """Return the accounts that it holds now → since when, in UTC."""
        since: dict[Key, str] = {}
        for part in self.members:
            for key, had in part.had.items():
                if key not in since and self.holds(key):
                    since[key] = had.entry.settled_at or part.at
        return since

    @property
    def ends_at(self) -> float | None:
        """UNIX time at which its holds end; None: never."""
        return unix_seconds(self.until) if self.until is not None else None

    def is_past(self, now: float) -> bool:
        """Return whether its end has come, by UNIX time `now`."""
        return self.ends_at is not None and self.ends_at <= now


class HeldNow(Struct, frozen=True, kw_only=True):
    """Who holds the accounts of one run now, in numbers; for an undo: those of the run that it undid."""

    accounts: int
    """Accounts that the run, with its reruns, holds."""
    until: str | None
    """UTC time at which its holds end; None: never."""
    then: str
    released: int
    """Accounts that it held, and that were released."""
    others: tuple[tuple[str, str | None, int], ...]
    """Others that hold any of the accounts: the run, its ticket, how many accounts."""


def end_of(members: Sequence[Part]) -> tuple[str | None, str | None]:
    """Return when the holds of one incident end, and what is done then; its runs stand in their order, oldest first."""
    limits = sorted((line for part in members for line in part.limits), key=lambda line: (line.at, line.seq))
    return (limits[-1].until, limits[-1].then) if limits else (members[0].until, members[0].then)


class Change(Struct, frozen=True, kw_only=True):
    """The latest change of an account that nobody has taken back."""

    run: str
    entry: Entry


class Bar(Struct, frozen=True):
    """Why an account must not be opened now."""

    words: str
    run: str
    """The run that holds it; empty if none does."""
    is_for_a_person: bool = False
    """Whether no time ends it, but a person."""


class Holds:
    """Who holds which accounts, by what the runs of an action and of its inverse say."""

    def __init__(self, action: str, parts: Iterable[Part]) -> None:
        """`parts` of other actions than `action` and its inverse are left out of account."""
        self.action = action
        self._inverse = ACTIONS[action].inverse
        parts = [part for part in parts if part.action in (action, self._inverse, "")]
        self._by_run = {part.run_id: part for part in parts if part.problem is None}
        self._damaged = [part for part in parts if part.problem is not None]
        self._roots = _roots(self._by_run)
        self._reruns: dict[str, list[str]] = {}
        """Oldest run of a chain of reruns → all of the chain."""
        for run, root in self._roots.items():
            self._reruns.setdefault(root, []).append(run)
        self._undos: dict[str, list[str]] = {}
        """Run → its undos."""
        self._parts: dict[Key, list[Part]] = {}
        for part in self._by_run.values():
            if part.parent is not None and part.parent.verb == "undo":
                self._undos.setdefault(part.parent.run, []).append(part.run_id)
            for key in part.had:
                self._parts.setdefault(key, []).append(part)

    @cached_property
    def families(self) -> tuple[Family, ...]:
        """The incidents of the action, oldest first; each whose journal is damaged is one of its own."""
        found: dict[str, list[Part]] = {}
        for part in self._by_run.values():
            if part.action == self.action and (root := self._incident(part.run_id)) is not None:
                found.setdefault(root, []).append(part)
        # A run in which all failed belongs to its reruns, too: what ends or limits their holds stands beside it.
        # The run that began it comes first by the links: a clock may have been set back before its rerun.
        families = [
            self._family(sorted(members, key=lambda part, root=root: (part.run_id != root, _age(part))))  # type: ignore[misc]
            for root, members in found.items()
            if any(part.had for part in members)
        ]
        families += [
            Family(run=part.run_id, members=(part,), until=None, then=TELL)
            for part in self._damaged
            if part.action != self._inverse
        ]
        return tuple(sorted(families, key=lambda family: _age(family.head)))

    def family_of(self, run: str) -> Family | None:
        """Return the incident that a run belongs to; None if it has no account in question, or is an undo."""
        return self._family_by_run.get(run)

    @cached_property
    def _family_by_run(self) -> dict[str, Family]:
        return {run: family for family in self.families for run in family.names}

    def holding(self, key: Key, *, but: str = "") -> list[Family]:
        """Return who holds an account now, without the family of run `but`."""
        return [family for family in self._had.get(key, ()) if but not in family.names and family.holds(key)]

    def change(self, key: Key) -> Change | None:
        """Return the latest change of an account that no later run has taken back; None if there is none.

        A change is one from another state: an account that was so before is not changed.
        """
        action = ACTIONS[self.action]
        latest: tuple[str, Entry] | None = None
        for part in self._parts.get(key, ()):
            entry = part.had[key].entry
            if part.action != self.action or part.had[key].outcome is not Outcome.CHANGED or entry.was_desired(action):
                continue
            if key in self._undone[part.run_id]:
                continue
            if latest is None or _is_later(entry, latest[1]):
                latest = part.run_id, entry
        if latest is None or any(_is_later(each, latest[1]) for each in self._opened(key)):
            return None
        if self._was_seen_otherwise(key, *latest):
            return None
        return Change(run=latest[0], entry=latest[1])

    def _was_seen_otherwise(self, key: Key, run: str, entry: Entry) -> bool:
        """Return whether an undo has read the account as not standing as the run left it, after that."""
        return self._seen.get(run, {}).get(label_of(key), "") > (entry.settled_at or "")

    @cached_property
    def _seen(self) -> dict[str, dict[str, str]]:
        """Run → account → when it was last read as not standing as the run left it."""
        found: dict[str, dict[str, str]] = {}
        for part in self._by_run.values():
            for note in part.told:
                targets = note.data.get("targets") if note.what == "seen" else None
                if isinstance(targets, list):
                    found.setdefault(part.run_id, {}).update({str(label): note.at for label in targets})
        return found

    def now(self, run: str, keys: Collection[Key]) -> HeldNow:
        """Return who holds the accounts `keys` of a run."""
        mine = self.family_of(run)
        held = set(mine.held()) if mine is not None else set()
        had = {key for part in mine.members for key in part.had} if mine is not None else set()
        counts = ((each, sum(map(each.holds, keys))) for each in self.families if run not in each.names)
        return HeldNow(
            accounts=len(held),
            until=mine.until if mine is not None else None,
            then=mine.then if mine is not None else TELL,
            released=len(had - held - mine.undone) if mine is not None else 0,
            others=tuple((each.run, each.head.ticket, count) for each, count in counts if count),
        )

    def given_back(self, family: Family) -> set[Key]:
        """Return the accounts of an incident that an undo has brought back: its own, or one that waited on its release.

        An account that a run of the inverse action opened by hand is not among them.
        """
        found = set(family.undone)
        for part in family.members:
            for key, had in part.had.items():
                undos = (each for each in self._parts[key] if each.action == self._inverse and self._is_undo(each))
                if any(each.had[key].outcome in GOOD and _is_later(each.had[key].entry, had.entry) for each in undos):
                    found.add(key)
        return found

    def _is_undo(self, part: Part) -> bool:
        parent = self._by_run[self._roots[part.run_id]].parent
        return parent is not None and parent.verb == "undo"

    def owed(self) -> dict[Key, Change]:
        """Return the accounts that stand changed, as far as journals know, and that nobody holds."""
        changes = ((key, self.change(key)) for key in self._had if not self.holding(key))
        return {key: change for key, change in changes if change is not None}

    def bar(self, key: Key, now: float) -> Bar | None:
        """Return what keeps a machine from opening an account at UNIX time `now`; None if nothing does.

        Whether its password was changed (`needs_rotation`), and whether it stands as it was left, a reading says.
        """
        holding = self.holding(key)
        for family in holding:
            if family.until is None:
                return Bar(f"held by {family}, without end", family.run, is_for_a_person=family.problem is not None)
            if not family.is_past(now):
                return Bar(f"held by {family} until {family.until[:16]}Z", family.run)
        for family in holding:
            if family.then == TELL:
                words = f"held by {family}, whose limit has passed, until a person releases it (then: tell)"
                return Bar(words, family.run, is_for_a_person=True)
        if not holding:
            return Bar(
                "its last hold was ended by a person, not by a limit: a person opens it", "", is_for_a_person=True
            )
        return None

    def is_opened(self, key: Key) -> bool:
        """Return whether a run of ours has opened an account, or may have, after all that had it as the action wants.

        One that is under way counts from its first send.
        """
        parts = self._parts.get(key, ())
        had = [part.had[key].entry for part in parts if part.action == self.action]
        return any(
            all(_is_later(part.had[key].entry, entry) for entry in had)
            for part in parts
            if part.action == self._inverse
        )

    def needs_rotation(self, key: Key) -> bool:
        """Return whether a machine may open an account only if its password was changed after the lock."""
        return any(
            family.then == UNLOCK_ROTATED
            for family in self._had.get(key, ())
            if family.holds(key) or not self._is_over(family, key)
        )

    def undone_keys(self, run: str, above: frozenset[str] = frozenset()) -> set[Key]:
        """Return the accounts that undos of a run have brought back, without those that were undone again since.

        `above` are the runs on the way to this one: links that lead in a circle are followed once.
        """
        keys: set[Key] = set()
        above |= {run}
        for child in self._undos.get(run, ()):
            family = self._reruns[self._roots[child]]  # a rerun of an undo brings back what failed in it
            again = {key for part in family if part not in above for key in self.undone_keys(part, above)}
            done = {key for part in family for key, had in self._by_run[part].had.items() if had.outcome in GOOD}
            keys |= done - again
        return keys

    @cached_property
    def _undone(self) -> dict[str, set[Key]]:
        return {run: self.undone_keys(run) for run in self._by_run}

    def _is_over(self, family: Family, key: Key) -> bool:
        """Return whether an account was opened after the family had it: its word on it is of another time."""
        opened = self._opened(key)
        return key in family.undone or all(
            any(_is_later(each, part.had[key].entry) for each in opened) for part in family.members if key in part.had
        )

    def _opened(self, key: Key) -> list[Entry]:
        return [
            part.had[key].entry
            for part in self._parts.get(key, ())
            if part.action == self._inverse and part.had[key].outcome in GOOD
        ]

    @cached_property
    def _had(self) -> dict[Key, list[Family]]:
        found: dict[Key, list[Family]] = {}
        for family in self.families:
            for key in {key for part in family.members for key in part.had}:
                found.setdefault(key, []).append(family)
        return found

    def _family(self, members: Sequence[Part]) -> Family:
        head = members[0]
        until, then = end_of(members)
        undone = frozenset[Key]().union(*(self._undone[part.run_id] for part in members))
        return Family(run=head.run_id, members=tuple(members), until=until, then=then or TELL, undone=undone)

    def _incident(self, run: str, depth: int = 0) -> str | None:
        """Return the run that began the incident of a run. An undo begins none; the undo of an undo goes on with it."""
        root = self._roots[run]
        parent = self._by_run[root].parent
        if parent is None or parent.verb != "undo":
            return root
        if parent.run not in self._by_run or depth > _MOST_UNDOS:
            return None
        undone = self._by_run[self._roots[parent.run]].parent
        is_again = undone is not None and undone.verb == "undo" and undone.run in self._by_run
        return self._incident(undone.run, depth + 1) if is_again and undone is not None else None


_MOST_UNDOS = 100
"""More undos of undos than anybody makes: then the links lead in a circle."""


def _roots(by_run: Mapping[str, Part]) -> dict[str, str]:
    """Return each run → the oldest run that it repeats, directly or through others; itself if it repeats none."""
    roots: dict[str, str] = {}
    for run in by_run:
        way = [run]
        while way[-1] not in roots:
            parent = by_run[way[-1]].parent
            is_rerun = parent is not None and parent.verb == "rerun" and parent.run in by_run
            if not is_rerun or parent is None or parent.run in way:
                roots[way[-1]] = way[-1]
                break
            way.append(parent.run)
        roots.update(dict.fromkeys(way, roots[way[-1]]))
    return roots


def _age(part: Part) -> tuple[str, str]:
    return part.at, part.run_id


def _is_later(one: Entry, other: Entry) -> bool:
    """Return whether a run had an account after another: by the server's UpdateTime, else by this machine's clock."""
    mine, its = _updated(one), _updated(other)
    if mine and its and mine != its:
        return mine > its
    return (one.settled_at or one.first_sent_at or "") > (other.settled_at or other.first_sent_at or "")


def _updated(entry: Entry) -> str:
    """Return the UpdateTime that an account had once a run was done with it; empty if it is not known."""
    known = entry.before if entry.outcome is Outcome.ALREADY else entry.verified
    return known.update_time or "" if known is not None else ""
