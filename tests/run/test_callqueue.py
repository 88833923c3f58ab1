"""Which call goes next: a state machine against a naive queue, and the stories an operator would tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.run.callqueue import CallQueue, Health

GOOD, SICK, SILENT = Health.GOOD, Health.SICK, Health.SILENT
RELIEF = 16


class Line:
    """What the naive queue knows of an instance."""

    def __init__(self, limit: int) -> None:
        self.flying = 0
        self.limit = limit
        self.streak = 0
        self.held_until = 0.0
        self.sick_since: float | None = None


class NaiveQueue:
    """The rules of `callqueue` as a person would check them: by looking at every call, every time."""

    def __init__(self, instances: list[str], waiting: Iterable[int], per_instance: int) -> None:
        self.of = instances
        self.per_instance = per_instance
        self.lines = {key: Line(per_instance) for key in instances}
        self.fresh = set(waiting)
        self.retries: set[int] = set()
        self.last_was_retry = False

    def line(self, index: int) -> Line:
        return self.lines[self.of[index]]

    def take(self, now: float, retries_only: bool) -> int | None:
        def below_limit(index: int) -> bool:
            line = self.line(index)
            return line.held_until <= now and line.flying < line.limit

        def relieved(index: int) -> bool:
            line = self.line(index)
            return line.streak == 0 and line.flying < max(RELIEF, self.per_instance)

        for may_go in (below_limit, relieved):
            fresh = [] if retries_only else [index for index in self.fresh if may_go(index)]
            retries = [index for index in self.retries if may_go(index)]
            if fresh or retries:
                is_retry = bool(retries) and not (fresh and self.last_was_retry)
                index = min(retries if is_retry else fresh)
                (self.retries if is_retry else self.fresh).remove(index)
                self.last_was_retry = is_retry
                self.line(index).flying += 1
                return index
        return None

    def release(self, index: int, health: Health, now: float) -> None:
        line = self.line(index)
        line.flying -= 1
        if health is GOOD:
            line.streak, line.held_until, line.sick_since = 0, 0.0, None
            line.limit = min(self.per_instance, line.limit + 1)
        elif health is SICK:
            line.streak += 1
            line.limit = max(1, line.limit // 2)
            line.sick_since = now if line.sick_since is None else line.sick_since
            if line.streak >= 3:
                line.held_until = max(line.held_until, now + min(30.0, 2.0 ** (line.streak - 3)))

    def held(self, now: float) -> dict[str, float]:
        return {key: line.held_until - now for key, line in self.lines.items() if line.held_until > now}


class Queues(RuleBasedStateMachine):
    """The same history for both queues: nothing lost or doubled, the same choices, the same waits."""

    @initialize(
        instances=st.lists(st.sampled_from("abcd"), min_size=1, max_size=60),
        share=st.sampled_from((0.0, 0.5, 1.0)),
        per_instance=st.sampled_from((1, 2, 4, 20)),
    )
    def begin(self, instances: list[str], share: float, per_instance: int) -> None:
        self.instances = instances
        waiting = [index for index in range(len(instances)) if index % 10 < share * 10]
        self.naive = NaiveQueue(instances, waiting, per_instance)
        self.queue = CallQueue(instances, waiting, per_instance=per_instance)
        self.now = 5.0
        self.flying: list[int] = []
        self.parked = [index for index in range(len(instances)) if index not in waiting]
        """Calls that are elsewhere: backing off, settled, or not to be sent."""

    @rule(times=st.integers(1, 12), retries_only=st.booleans())
    def take(self, times: int, retries_only: bool) -> None:
        for _ in range(times):
            index = self.queue.take(self.now, retries_only=retries_only)
            assert index == self.naive.take(self.now, retries_only)
            if index is None:
                held = self.naive.held(self.now)
                wake_at = self.queue.wake_at()
                assert wake_at == (pytest.approx(self.now + min(held.values())) if held else None)
                break
            self.flying.append(index)

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), health=st.sampled_from(Health), back=st.sampled_from(("now", "later", "lossless")))
    def release(self, data: st.DataObject, health: Health, back: str) -> None:
        index = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        self.queue.release(index, health, self.now)
        self.naive.release(index, health, self.now)
        if back == "later":
            self.parked.append(index)
        else:
            self.back(index, retry=back == "now")

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), health=st.sampled_from((SICK, SICK, GOOD)))
    def release_all_of_an_instance(self, data: st.DataObject, health: Health) -> None:
        key = self.instances[data.draw(st.sampled_from(self.flying))]
        for index in [index for index in self.flying if self.instances[index] == key]:
            self.flying.remove(index)
            self.queue.release(index, health, self.now)
            self.naive.release(index, health, self.now)
            self.back(index, retry=True)

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), back=st.booleans())
    def drop(self, data: st.DataObject, back: bool) -> None:
        index = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        self.queue.drop(index)
        self.naive.line(index).flying -= 1
        if back:
            self.back(index, retry=False)
        else:
            self.parked.append(index)

    @precondition(lambda self: self.parked)
    @rule(data=st.data(), retry=st.booleans())
    def put_back(self, data: st.DataObject, retry: bool) -> None:
        self.back(self.parked.pop(data.draw(st.integers(0, len(self.parked) - 1))), retry=retry)

    def back(self, index: int, *, retry: bool) -> None:
        self.queue.put_back(index, self.now, retry=retry)
        (self.naive.retries if retry else self.naive.fresh).add(index)

    @rule(seconds=st.sampled_from((0.0, 0.25, 1.0, 2.0, 30.0)))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def wait_for_a_hold_to_end(self) -> None:
        held = self.naive.held(self.now)
        if held:
            self.now = min(line.held_until for line in self.naive.lines.values() if line.held_until > self.now)

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "queue"):
            return
        naive = self.naive
        assert len(self.queue) == len(naive.fresh) + len(naive.retries)
        assert self.queue.fresh == len(naive.fresh)
        assert self.queue.sick() == {key for key, line in naive.lines.items() if line.sick_since is not None}
        for index in range(len(self.instances)):
            assert self.queue.sick_since(index) == naive.line(index).sick_since

    def teardown(self) -> None:
        """In the end every call that waits can be had: none is lost in a heap."""
        if not hasattr(self, "queue"):
            return
        for index in self.flying:
            self.queue.release(index, GOOD, self.now)
        self.now += 60.0
        found = []
        while (index := self.queue.take(self.now)) is not None:
            found.append(index)
            self.queue.release(index, GOOD, self.now)
        assert sorted(found) == sorted(self.naive.fresh | self.naive.retries)


Queues.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestQueues = Queues.TestCase


# ---- stories -------------------------------------------------------------------------------------------------------


def queue_of(calls: dict[str, int], per_instance: int = 4) -> tuple[CallQueue, list[str]]:
    """A queue with so many calls of each instance, in round-robin order; and the instance of each call."""
    order = [key for turn in range(max(calls.values())) for key, count in calls.items() if turn < count]
    return CallQueue(order, range(len(order)), per_instance=per_instance), order


def take_one(queue: CallQueue, now: float = 0.0) -> int:
    index = queue.take(now)
    assert index is not None
    return index


def take_all(queue: CallQueue, now: float = 0.0) -> list[int]:
    taken = []
    while (index := queue.take(now)) is not None:
        taken.append(index)
    return taken


def make_sick(queue: CallQueue, order: list[str], key: str, now: float = 0.0, answers: int = 3) -> None:
    """Let an instance answer "busy" so many times; its calls wait again as retries."""
    for _ in range(answers):
        index = next(index for index in iter(lambda: queue.take(now), None) if order[index] == key)
        queue.release(index, SICK, now)
        queue.put_back(index, now, retry=True)


def test_calls_go_in_plan_order() -> None:
    """While nothing fails and nothing is crowded, the order of sending is the order of the plan."""
    queue, order = queue_of({"a": 3, "b": 2, "c": 1})
    assert take_all(queue) == list(range(len(order)))


def test_a_throttled_call_keeps_its_place() -> None:
    """It lost nothing, so it goes before everything that stands behind it in the plan."""
    queue, _ = queue_of({"a": 4, "b": 4})
    index = queue.take(0.0)
    assert index == 0
    queue.take(0.0)
    queue.release(0, SILENT, 0.0)
    queue.put_back(0, 0.0, retry=False)
    assert queue.take(0.0) == 0


@pytest.mark.parametrize("per_instance", [1, 4, 20])
def test_the_limit_holds_while_others_have_work(per_instance: int) -> None:
    """No instance gets more than its share at a time as long as another call could go instead."""
    queue, order = queue_of({"a": 100, "b": 100, "c": 100}, per_instance)
    flying = Counter(order[take_one(queue)] for _ in range(3 * per_instance))
    assert flying == dict.fromkeys("abc", per_instance)


@pytest.mark.parametrize(("per_instance", "most"), [(1, 16), (4, 16), (20, 20)])
def test_a_lone_instance_may_rise_to_sixteen_and_no_further(per_instance: int, most: int) -> None:
    """One instance with a hundred accounts is not done four at a time while the lane idles."""
    queue, _ = queue_of({"a": 100}, per_instance)
    assert take_all(queue) == list(range(most))


def test_relief_ends_when_others_have_work_again() -> None:
    """The instance that had risen gets nothing until it is below its limit; the others go on."""
    queue, order = queue_of({"a": 100, "b": 3}, per_instance=2)
    taken = take_all(queue)
    assert Counter(order[index] for index in taken) == {"a": 16, "b": 3}
    for index in [index for index in taken if order[index] == "b"]:
        queue.release(index, SILENT, 0.0)
        queue.put_back(index, 0.0, retry=False)
    queue.release(0, GOOD, 0.0)
    assert [order[take_one(queue)] for _ in range(4)] == ["b", "b", "b", "a"]


def test_retries_and_untried_calls_take_turns() -> None:
    """While both wait, neither starves the other: also when one instance alone is left and has been relieved."""
    queue, _ = queue_of({"a": 40}, per_instance=2)
    first = [take_one(queue) for _ in range(8)]
    for index in first:
        queue.release(index, SILENT, 0.0)
        queue.put_back(index, 0.0, retry=True)
    taken = take_all(queue)
    assert len(taken) == 16
    assert [index in first for index in taken] == [True, False] * 8


def test_only_retries_when_told_so() -> None:
    """With too many calls open, no new one is begun."""
    queue, _ = queue_of({"a": 10, "b": 10})
    index = queue.take(0.0)
    assert index is not None
    assert queue.take(0.0, retries_only=True) is None
    queue.release(index, SICK, 0.0)
    queue.put_back(index, 0.0, retry=True)
    assert queue.take(0.0, retries_only=True) == index
    assert queue.take(0.0, retries_only=True) is None


def test_a_sick_instance_is_halved_then_held_then_probed_one_at_a_time() -> None:
    """4, 2, 1 in flight; then nothing for a second; then a single probe."""
    queue, order = queue_of({"a": 50})
    flying = take_all(queue)
    for index in flying[:3]:
        queue.release(index, SICK, 10.0)
    assert queue.sick_since(0) == 10.0
    for index in flying[3:]:
        queue.release(index, SILENT, 10.0)
    assert queue.take(10.5) is None
    assert queue.wake_at() == 11.0
    assert queue.sick() == {"a"}
    probe = queue.take(11.0)
    assert probe is not None
    assert queue.take(11.0) is None
    assert queue.wake_at() is None
    assert len(queue) == len(order) - len(flying) - 1


def test_holds_double_to_half_a_minute() -> None:
    """1, 2, 4, 8, 16, 30, 30 s between probes of an instance that stays sick."""
    queue, order = queue_of({"a": 50})
    make_sick(queue, order, "a", answers=3)
    now, waits = 0.0, []
    for _ in range(7):
        assert queue.take(now) is None
        wake_at = queue.wake_at()
        assert wake_at is not None
        waits.append(wake_at - now)
        now = wake_at
        index = queue.take(now)
        assert index is not None
        queue.release(index, SICK, now)
        queue.put_back(index, now, retry=True)
    assert waits == [1, 2, 4, 8, 16, 30, 30]


def test_one_good_answer_sets_an_instance_free() -> None:
    """At once, not when its hold would have ended; then its limit grows back by one an answer."""
    queue, _ = queue_of({"a": 50})
    flying = take_all(queue)
    for index in flying[:3]:
        queue.release(index, SICK, 0.0)
    for index in flying[4:]:
        queue.release(index, SILENT, 0.0)
    assert queue.take(0.0) is None
    queue.release(flying[3], GOOD, 0.5)
    assert queue.sick_since(0) is None
    assert queue.wake_at() is None
    assert queue.sick() == set()
    assert queue.take(0.5) is not None


def test_a_sick_instance_never_blocks_the_healthy() -> None:
    """A thousand calls of a broken instance stand first in the plan: the others go as if it were not there."""
    order = ["sick"] * 1000 + [key for _ in range(50) for key in ("b", "c", "d")]
    queue = CallQueue(order, range(len(order)), per_instance=4)
    make_sick(queue, order, "sick")
    for now in range(1, 40):  # also when its hold ends, it takes one probe and no more
        probes = 0
        for _ in range(4):
            index = queue.take(now / 10)
            if index is not None and order[index] == "sick":
                probes += 1
                queue.release(index, SICK, now / 10)
                queue.put_back(index, now / 10, retry=True)
            elif index is not None:
                queue.release(index, GOOD, now / 10)
        assert probes <= 1
    assert len(queue) == 1000
    assert queue.sick() == {"sick"}


def test_a_call_given_up_frees_its_place() -> None:
    """`drop` says nothing of the instance, but the place in flight is free for the next call."""
    queue, _ = queue_of({"a": 9, "b": 1}, per_instance=1)
    assert (queue.take(0.0), queue.take(0.0)) == (0, 1)
    queue.release(1, SICK, 0.0)
    queue.put_back(1, 0.0, retry=True)
    assert queue.take(0.0) == 1  # a stands at its limit, and was passed over
    queue.drop(0)
    assert queue.take(0.0) == 2


def test_a_call_given_up_frees_the_place_of_a_sick_instance_too() -> None:
    """It gets no relief, so this is the only way its next call can go."""
    queue, order = queue_of({"a": 9})
    make_sick(queue, order, "a", answers=2)
    flying = queue.take(0.0)
    assert flying is not None
    assert queue.take(0.0) is None
    queue.drop(flying)
    assert queue.take(0.0) is not None


def test_nothing_to_send_is_none_from_the_start() -> None:
    """An empty plan, or one whose calls are all settled."""
    for queue in (CallQueue([], [], per_instance=4), CallQueue(["a", "b"], [], per_instance=4)):
        assert queue.take(0.0) is None
        assert queue.wake_at() is None
        assert len(queue) == queue.fresh == 0


@pytest.mark.timeout(60)
@pytest.mark.parametrize("instances", [1, 400, 100_000])
def test_a_hundred_thousand_calls(instances: int) -> None:
    """Whatever their spread, with a retry for every call: each take is a few heap steps, or this would take hours."""
    order = [str(index % instances) for index in range(100_000)]
    queue = CallQueue(order, range(len(order)), per_instance=4)
    tried: set[int] = set()
    done = 0
    while True:
        flying = [index for _ in range(100) if (index := queue.take(0.0)) is not None]
        if not flying:
            break
        for index in flying:
            queue.release(index, SILENT, 0.0)
            if index in tried:
                done += 1
            else:
                tried.add(index)
                queue.put_back(index, 0.0, retry=True)
    assert done == len(order)
