"""Who may open which account, and when: every command about holds against the page's rules as plain sets.

The page is "Holds, releases, time limits". `Page` below knows only its sentences. The commands run in memory, over a
real state directory, and after each step the accounts, the holds and what is owed must be as the page says.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from engine.errors import UsageError
from engine.operations.carrying import Ended
from engine.planning.holds import label_of
from engine.simulator.estate import LOCKED, NORMAL
from engine.simulator.faults import FaultScript, rules_from
from tests.support.room import Room, closed, outcomes

ANN, BOB, EVE, CARL = EVERY = tuple(
    f"postgres-{letter * 8}/{user}" for letter, user in (("a", "ann"), ("a", "bob"), ("b", "eve"), ("b", "carl"))
)
EXAMPLES = int(os.environ.get("ACCTOPS_HOLDS_EXAMPLES", "0"))
"""Incidents stories are told by the hundred, each another one; 0: a few, the same each time."""
NO_SUCH = "OperationDenied.InstanceAccessDeniedError"

some = st.lists(st.sampled_from(EVERY), min_size=1, unique=True)
few = st.lists(st.sampled_from(EVERY), max_size=2, unique=True)
spans = st.sampled_from([60.0, 1800.0, 3600.0, 7200.0])
thens = st.sampled_from(["tell", "unlock", "unlock", "unlock_rotated"])


# ---- the page --------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Incident:
    """A run and its reruns. They hold together, and have one end."""

    runs: list[str]
    holds: set[str] = field(default_factory=set)
    until: float | None = None
    then: str = "tell"

    def is_past(self, now: float) -> bool:
        return self.until is not None and self.until <= now


@dataclass
class Account:
    """An account as the world has it, and what the page asks of its past."""

    is_locked: bool = False
    changed_by: str | None = None
    """The run of ours that locked it last, from unlocked; None: none has, or it was taken back."""
    is_as_left: bool = True
    """Whether it stands as that run left it."""
    is_rotated: bool = False
    """Whether its password was changed after that. Then other edits count as part of that: it may be opened."""
    had: set[int] = field(default_factory=set)
    """The incidents that had it since it was last opened by a run of ours."""


class Page:
    """The rules, in sets."""

    def __init__(self) -> None:
        self.accounts = {label: Account() for label in EVERY}
        self.incidents: list[Incident] = []
        self.left: dict[str, dict[str, str]] = {}
        """Run → how it left each account of its plan."""
        self.repeats: dict[str, list[str]] = {}
        """Run → its reruns."""

    def incident(self, run: str) -> Incident:
        return next(each for each in self.incidents if run in each.runs)

    def holders(self, label: str) -> list[Incident]:
        return [each for each in self.incidents if label in each.holds]

    # What runs do.

    def lock(self, run: str, labels: Iterable[str], failing: Iterable[str], of: str | None = None) -> dict[str, str]:
        if of is None:
            self.incidents.append(Incident([run]))
        else:
            self.incident(of).runs.append(run)
            self.repeats.setdefault(of, []).append(run)
        mine = self.incident(run)
        left = self.left[run] = {}
        for label in labels:
            account = self.accounts[label]
            if account.is_locked:
                left[label] = "already"
            elif label in failing:
                left[label] = "failed"
                continue
            else:
                left[label] = "changed"
                account.is_locked, account.changed_by = True, run
                account.is_as_left, account.is_rotated = True, False
            mine.holds.add(label)
            account.had.add(self.incidents.index(mine))
        return left

    def unlock(self, labels: Iterable[str]) -> None:
        """A run of ours opens accounts, or finds them open."""
        for label in labels:
            account = self.accounts[label]
            account.is_locked, account.changed_by = False, None
            account.had.clear()

    def by_hand(self, label: str, *, lock: bool) -> None:
        account = self.accounts[label]
        if account.is_locked != lock:
            account.is_locked, account.is_as_left = lock, False

    def rotate(self, label: str) -> None:
        self.accounts[label].is_rotated = self.accounts[label].changed_by is not None

    # The rules.

    def may_be_taken_back(self, label: str) -> bool:
        """A run of ours changed it, and it stands as that left it; a new password is no other state."""
        account = self.accounts[label]
        return account.is_locked and account.changed_by is not None and (account.is_as_left or account.is_rotated)

    def undo(self, run: str, chosen: Iterable[str], released: Incident | None) -> set[str]:
        """`undo RUN` ends all its holds on what is chosen, and opens what nobody else holds and stands as left."""
        mine, opened = self.incident(run), set()
        for label, how in self.left[run].items():
            if label not in chosen or how == "failed":
                continue  # what only a rerun locked is the rerun's to give back, or that of --family
            others = [each for each in self.holders(label) if each is not mine and each is not released]
            is_ours = self.accounts[label].changed_by is not None
            if not others and is_ours and self.accounts[label].is_locked:
                if not self.may_be_taken_back(label):
                    continue  # somebody edited it: the undo is not done, and ends nothing there
                opened.add(label)
            if released is not None:
                released.holds.discard(label)
            mine.holds.discard(label)
        self.unlock(opened)
        return opened

    def tend(self, now: float) -> set[str]:
        """A machine opens an account only if all its holds are past, none says tell, and it may be taken back."""
        opened = set()
        for label, account in self.accounts.items():
            holders = self.holders(label)
            if not holders or not all(each.is_past(now) and each.then != "tell" for each in holders):
                continue
            party = [self.incidents[number] for number in account.had] + holders
            if account.is_locked and account.changed_by is not None:
                if not self.may_be_taken_back(label) or (
                    any(each.then == "unlock_rotated" for each in party) and not account.is_rotated
                ):
                    continue  # it stays, and a person is told
                opened.add(label)
            for each in holders:
                each.holds.discard(label)
        self.unlock(opened)
        return opened

    def owed(self) -> set[str]:
        return {label for label, each in self.accounts.items() if each.changed_by and not self.holders(label)}


def fail(room: Room, labels: Iterable[str]) -> None:
    """From now on the API refuses to lock these accounts, and no others."""
    rules = [{"action": "LockAccount", "user": label.partition("/")[2], "code": NO_SUCH} for label in labels]
    room.world._faults = FaultScript(rules_from(rules), Random(0))


# ---- the commands ----------------------------------------------------------------------------------------------------


class Incidents(RuleBasedStateMachine):
    """What operators, applications, the console and a timer do, in any order."""

    def __init__(self) -> None:
        super().__init__()
        memory = Path("/dev/shm")
        self.place = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
        self.page = Page()
        self.room = Room(self.place, closed(EVERY))
        self.room.__enter__()

    def teardown(self) -> None:
        try:
            self.to_the_end()
        finally:
            self.room.__exit__(None, None, None)
            shutil.rmtree(self.place)

    @initialize(locked=few)
    def somebody_has_locked_some_before(self, locked: list[str]) -> None:
        for label in locked:
            self.room.by_hand(label, LOCKED)
            self.page.by_hand(label, lock=True)

    # Runs.

    @rule(labels=some, failing=few)
    def incident(self, labels: list[str], failing: list[str]) -> None:
        self.room.wait(3)
        fail(self.room, failing)
        done = self.room.lock(*labels)
        assert {label: str(how) for label, how in outcomes(done).items()} == self.page.lock(
            done.ledger.run.run, labels, failing
        )

    @precondition(lambda self: any("failed" in left.values() for left in self.page.left.values()))
    @rule(data=st.data(), failing=few)
    def repeat(self, data: st.DataObject, failing: list[str]) -> None:
        self.room.wait(3)
        run = data.draw(st.sampled_from([run for run, left in self.page.left.items() if "failed" in left.values()]))
        fail(self.room, failing)
        done, later, reruns = self.room.rerun(run), set[str](), [run]
        while reruns:
            reruns += self.page.repeats.get(each := reruns.pop(), [])
            later |= {label for label, how in self.page.left[each].items() if how != "failed"}
        labels = [label for label, how in self.page.left[run].items() if how == "failed" and label not in later]
        if not isinstance(done, Ended):
            assert not labels
            return
        assert {label: str(how) for label, how in outcomes(done).items()} == self.page.lock(
            done.ledger.run.run, labels, failing, of=run
        )

    @rule(labels=some)
    def unlock_by_command(self, labels: list[str]) -> None:
        self.room.wait(3)
        self.room.lock(*labels, action="UnlockAccount", name="open")
        self.page.unlock(labels)

    # Others.

    @rule(label=st.sampled_from(EVERY), status=st.sampled_from([LOCKED, NORMAL]))
    def in_the_console(self, label: str, status: int) -> None:
        self.room.wait(3)
        self.room.by_hand(label, status)
        self.page.by_hand(label, lock=status == LOCKED)

    @rule(label=st.sampled_from(EVERY))
    def new_password(self, label: str) -> None:
        self.room.wait(3)
        self.room.rotate(label)
        self.page.rotate(label)

    @rule(seconds=st.sampled_from([1.0, 1000.0, 3600.0, 30000.0]))
    def time_passes(self, seconds: float) -> None:
        self.room.wait(seconds)

    # Holds.

    @precondition(lambda self: self.page.left)
    @rule(data=st.data(), span=spans, then=thens)
    def limit(self, data: st.DataObject, span: float, then: str) -> None:
        run = data.draw(st.sampled_from(list(self.page.left)))
        mine = self.page.incident(run)
        try:
            self.room.limit(run, self.room.clock() + span, then)
        except UsageError as error:
            assert not mine.holds and "holds nothing" in str(error)
            return
        assert mine.holds, "a limit of nothing"
        mine.until, mine.then = self.room.clock() + span, then

    @precondition(lambda self: any(each.holds and each.until for each in self.page.incidents))
    @rule(data=st.data())
    def no_limit(self, data: st.DataObject) -> None:
        mine = data.draw(st.sampled_from([each for each in self.page.incidents if each.holds and each.until]))
        self.room.limit(mine.runs[-1], None)
        mine.until = None

    @precondition(lambda self: self.page.left)
    @rule(data=st.data(), labels=some, whole=st.booleans())
    def release(self, data: st.DataObject, labels: list[str], whole: bool) -> None:
        self.room.wait(3)
        run = data.draw(st.sampled_from(list(self.page.left)))
        labels = [label for label in labels if label in self.page.left[run]]
        mine = self.page.incident(run)
        chosen = set(self.page.left[run]) if whole or not labels else set(labels)
        before = mine.holds & chosen
        try:
            done = self.room.release(run, *(() if whole else labels))
        except UsageError as error:
            assert not mine.holds and "holds nothing" in str(error)
            return
        mine.holds -= chosen
        assert done.count == len(before)

    @precondition(lambda self: self.page.left)
    @rule(data=st.data(), labels=some, whole=st.booleans(), others=st.booleans())
    def undo(self, data: st.DataObject, labels: list[str], whole: bool, others: bool) -> None:
        self.room.wait(3)
        run = data.draw(st.sampled_from(list(self.page.left)))
        labels = [label for label in labels if label in self.page.left[run]]
        other = None
        if others:
            other = data.draw(st.sampled_from(list(self.page.left)))
        self._undo(run, labels if labels and not whole else [], other)

    def _undo(self, run: str, labels: list[str], other: str | None = None) -> set[str]:
        chosen = labels or list(self.page.left[run])
        before = len(self.room.unlocks())
        self.room.undo(run, *labels, released=(other,) if other else ())
        opened = self.page.undo(run, chosen, self.page.incident(other) if other else None)
        assert sorted(self.room.unlocks()[before:]) == sorted(opened)
        return opened

    @rule()
    def timer(self) -> None:
        self.room.wait(3)
        before = len(self.room.unlocks())
        now = self.room.clock()
        done = self.room.tend()
        assert not done.failed, done
        assert sorted(self.room.unlocks()[before:]) == sorted(self.page.tend(now)), "opened by the machine"

    # What is always so.

    @invariant()
    def the_world_is_as_the_page_says(self) -> None:
        locked = {label for label in EVERY if self.room.is_locked(label)}
        assert locked == {label for label, each in self.page.accounts.items() if each.is_locked}

    @invariant()
    def the_holds_are_as_the_page_says(self) -> None:
        found = self.room.holds()
        assert {each.family.run: {label_of(key) for key, _ in each.accounts} for each in found.held} == {
            each.runs[0]: each.holds for each in self.page.incidents if each.holds
        }
        assert {label_of(key) for each in found.owed for key in each.accounts} == self.page.owed()

    def to_the_end(self) -> None:
        """Everybody lets go, and what is owed is opened by the commands that are printed: then nothing is left."""
        for mine in self.page.incidents:
            for run in mine.runs:
                if mine.holds and run != mine.runs[0]:
                    self._undo(run, [])
            if mine.holds:
                self.room.release(mine.runs[0])
                mine.holds -= set(self.page.left[mine.runs[0]])
        self.timer()
        for each in self.room.holds().owed:
            for step in each.steps:
                assert step.words[:2] == ("undo", each.run)
                self._undo(each.run, [word for word in step.words[2:] if word != "--target"])
        assert not self.room.holds().held, "nobody holds anything"
        for label, account in self.page.accounts.items():
            assert not self.page.may_be_taken_back(label), f"{label} stays locked, and nobody holds it"
            assert self.room.is_locked(label) is account.is_locked


def test_an_account_opens_exactly_when_the_page_says() -> None:
    """A hold ends too early, or never; an account that somebody else still needs shut is opened, or is forgotten."""
    run_state_machine_as_test(
        Incidents,
        settings=settings(
            max_examples=EXAMPLES or 12,
            stateful_step_count=25,
            deadline=None,
            derandomize=not EXAMPLES,
            database=None,
            phases=[Phase.generate] if EXAMPLES else list(Phase),
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


# ---- stories that were told wrong once -------------------------------------------------------------------------------


def test_what_only_a_rerun_locked_has_the_end_of_its_incident(tmp_path: Path) -> None:
    """The first run failed everywhere, its rerun locked: the limit, given to either, opens; a release frees others."""
    with Room(tmp_path, closed(EVERY)) as room:
        fail(room, [ANN])
        first = room.lock(ANN).ledger.run.run
        fail(room, [])
        again = room.rerun(first)
        assert isinstance(again, Ended) and room.is_locked(ANN)
        assert room.limit(first, room.clock() + 3600, "unlock").count == 1
        (held,) = room.holds().held
        assert held.family.run == first and held.family.until is not None
        room.wait(4000)
        assert [deed.what for deed in room.tend().deeds] == ["opened"]
        assert not room.is_locked(ANN) and not room.holds().held


def test_a_release_of_the_first_run_frees_what_its_rerun_locked(tmp_path: Path) -> None:
    """Another incident's undo asks only for its own account: the release stands beside a run without that account."""
    with Room(tmp_path, closed(EVERY)) as room:
        fail(room, [BOB])
        first = room.lock(ANN, BOB).ledger.run.run
        fail(room, [])
        room.rerun(first)
        room.wait(5)
        other = room.lock(BOB).ledger.run.run
        assert room.release(first).count == 2
        room.wait(5)
        room.undo(other)
        assert room.unlocks() == [BOB]


def test_a_rerun_by_a_clock_that_was_set_back_belongs_to_its_run(tmp_path: Path) -> None:
    """The hour of the rerun is before that of the run: a timer still finds the incident, and opens all of it."""
    with Room(tmp_path, closed(EVERY)) as room:
        fail(room, [BOB])
        room.wait(7200)
        first = room.lock(ANN, BOB).ledger.run.run
        fail(room, [])
        room.ours_ahead_s = -3600.0
        room.rerun(first)
        room.ours_ahead_s = 0.0
        room.limit(first, room.clock() + 3600, "unlock")
        room.wait(4000)
        assert [(deed.what, deed.run) for deed in room.tend().deeds] == [("opened", first)]
        assert sorted(room.unlocks()) == [ANN, BOB]


def test_a_limit_of_the_first_run_holds_for_its_rerun(tmp_path: Path) -> None:
    """The undo of another incident names until when the account is held, and a machine opens it once all is past."""
    with Room(tmp_path, closed(EVERY)) as room:
        fail(room, [BOB])
        first = room.lock(ANN, BOB).ledger.run.run
        room.limit(first, room.clock() + 7200, "unlock")
        fail(room, [])
        room.rerun(first)
        room.wait(5)
        other = room.lock(BOB).ledger.run.run
        room.limit(other, room.clock() + 3600, "unlock")
        room.wait(4000)
        room.tend()
        assert not room.unlocks()
        room.wait(4000)
        room.tend()
        assert sorted(room.unlocks()) == [ANN, BOB]


def test_the_hold_of_another_run_ends_with_an_undo_that_opens_nothing(tmp_path: Path) -> None:
    """`undo A --release B` ends B's hold also where A itself holds nothing any more, and a third run keeps it shut."""
    with Room(tmp_path, closed(EVERY)) as room:
        runs = []
        for _ in range(3):
            runs.append(room.lock(ANN).ledger.run.run)
            room.wait(5)
        room.undo(runs[0])
        assert [each.family.run for each in room.holds().held] == runs[1:]
        room.undo(runs[0], released=(runs[1],))
        assert [each.family.run for each in room.holds().held] == runs[2:]
        assert not room.unlocks()


def test_an_undo_that_is_repeated_leaves_what_a_colleague_locked_since(tmp_path: Path) -> None:
    """Lock, rotate, undo; a week later a colleague locks the account in the console: the run's undo is not for that."""
    with Room(tmp_path, closed(EVERY)) as room:
        run = room.lock(ANN, BOB).ledger.run.run
        room.wait(60)
        room.rotate(ANN)
        room.wait(60)
        room.undo(run, ANN)
        room.wait(7 * 86400)
        room.by_hand(ANN, LOCKED)
        room.wait(60)
        room.undo(run, include_edited=True)
        assert room.unlocks() == [ANN, BOB] and room.is_locked(ANN)


def test_a_limit_over_accounts_that_no_run_of_ours_locked_ends_quietly(tmp_path: Path) -> None:
    """Its run found them locked, so the timer has nothing to open: it must not fail each time, nor tell so each day."""
    with Room(tmp_path, closed(EVERY)) as room:
        room.by_hand(ANN, LOCKED)
        room.wait(5)
        run = room.lock(ANN).ledger.run.run
        room.limit(run, room.clock() + 3600, "unlock")
        room.wait(4000)
        assert not room.tend().failed
        assert not room.holds().held and room.is_locked(ANN)


def test_what_a_rerun_locks_after_the_end_is_opened_by_the_next_timer(tmp_path: Path) -> None:
    """It inherits an end that has passed. The timer had noted that nothing is left to do, and must look again."""
    with Room(tmp_path, closed(EVERY)) as room:
        fail(room, [BOB])
        first = room.lock(ANN, BOB).ledger.run.run
        room.limit(first, room.clock() + 3600, "unlock")
        fail(room, [])
        for _ in range(2):
            room.wait(4000)
            room.tend()
        assert room.unlocks() == [ANN]
        room.rerun(first)
        assert room.is_locked(BOB)
        room.wait(300)
        room.tend()
        assert room.unlocks() == [ANN, BOB] and not room.holds().held
