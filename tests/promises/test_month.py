"""A month of holds with a timer that misses hours and days, in virtual time, by the server's own record of times."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random

import pytest

from engine.journal import records
from engine.journal.records import unix_seconds
from engine.operations.tend import LATE_S, SOON_S
from tests.support.room import Room, closed

DAY = 86400.0
LABELS = [f"postgres-aaaaaaaa/user{number}" for number in range(9)]


@pytest.mark.parametrize("seed", [1, 2])
def test_a_month_of_limits_with_a_timer_that_misses_days(tmp_path: Path, seed: int) -> None:
    """An account opens a minute early, or a limit that passed while the machine was off is never looked at again."""
    rng = Random(seed)
    with Room(tmp_path, closed(LABELS)) as room:
        begun = room.now()
        ends: dict[str, float] = {}
        thens: dict[str, str] = {}
        of: dict[str, str] = {}
        for label in LABELS:
            of[label] = run = room.lock(label).ledger.run.run
            ends[label] = begun + rng.uniform(0.1, 30.0) * DAY
            thens[label] = rng.choice(["tell", "unlock", "unlock_rotated"])
            room.limit(run, ends[label], thens[label])
        rotated = {label for label in LABELS if rng.random() < 0.5}
        for label in rotated:
            room.wait(5)
            room.rotate(label)
        room.world.audit.clear()
        timers = []
        while room.now() < begun + 34 * DAY:
            room.wait(rng.choice([300.0, 3000.0, 7 * 3600.0, 3 * DAY]))
            timers.append(room.now())
            done = room.tend()
            assert not done.failed, done
            for deed in done.deeds:
                if deed.what in ("opened", "told") and "ended" in deed.words:
                    label = next(label for label, run in of.items() if run == deed.run)
                    is_late = timers[-1] - ends[label] > LATE_S
                    assert ("late" in deed.words) is is_late, deed
        opened = {}
        for arrival in room.world.audit:
            if arrival.action == "UnlockAccount":
                assert f"{arrival.instance}/{arrival.user}" not in opened, "none twice"
                opened[f"{arrival.instance}/{arrival.user}"] = arrival.at
        for label, then in thens.items():
            is_due = then == "unlock" or (then == "unlock_rotated" and label in rotated)
            assert (label in opened) is is_due is not room.is_locked(label), (label, then)
            if is_due:
                first = next(at for at in timers if at >= ends[label])
                assert opened[label] >= ends[label], "never early"
                assert opened[label] < first + 60, "by the first timer after its end"
        # each thing is told once
        for label, run in of.items():
            notes = [each.data for each in room.store.aside(run) if isinstance(each, records.Note)]
            told = Counter(str(data["what"]) for data in notes if "until" in data)
            assert set(told.values()) <= {1}, (label, told)
            was_seen_soon = any(ends[label] - SOON_S <= at < ends[label] for at in timers)
            assert told["soon"] == was_seen_soon
            assert told["due"] == (thens[label] == "tell")
            assert all(unix_seconds(str(data["until"])) for data in notes if "until" in data)


def test_a_limit_that_is_moved_is_told_of_anew(tmp_path: Path) -> None:
    """The hour before the first end was told; who moved the end must hear of the new one, too."""
    with Room(tmp_path, closed(LABELS)) as room:
        run = room.lock(LABELS[0]).ledger.run.run
        room.limit(run, room.clock() + 1800, "unlock")
        assert [deed.what for deed in room.tend().deeds] == ["told"]
        assert room.tend().deeds == ()
        room.limit(run, room.clock() + 2400, "unlock")
        assert [deed.what for deed in room.tend().deeds] == ["told"]
        room.wait(2000)
        assert room.tend().deeds == () and room.is_locked(LABELS[0]), "the first end counts no more"
        room.wait(500)
        assert [deed.what for deed in room.tend().deeds] == ["opened"]


def test_a_timer_finds_what_was_rotated_after_the_end(tmp_path: Path) -> None:
    """`unlock_rotated`: at the end the application still has the old password; it is opened once it has a new one."""
    with Room(tmp_path, closed(LABELS)) as room:
        run = room.lock(LABELS[0]).ledger.run.run
        room.limit(run, room.clock() + 3600, "unlock_rotated")
        room.wait(4000)
        (deed,) = room.tend().deeds
        assert deed.what == "told" and "password" in deed.words
        room.wait(DAY)
        assert room.tend().deeds == (), "told once"
        room.rotate(LABELS[0])
        room.wait(300)
        assert [deed.what for deed in room.tend().deeds] == ["opened"]
