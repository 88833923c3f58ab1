"""A question that is answered late: what changed since is looked at again, named, and never becomes more than asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from engine.simulator.world import World
from tests.promises.test_undo_cli import ANN, BOB, EVE, A, Office, fleet
from tests.support.command import Backend, Desk, Done, records

pytestmark = pytest.mark.both_stores

SUPER = "tencentDBSuper"


@contextmanager
def inside(desk: Desk, world: World) -> Iterator[Office]:
    with Backend(world) as backend:
        yield Office(desk, backend)


def answer(
    office: Office, *argv: str | Path, meanwhile: Callable[[], Any], typed: str = "y", late: bool = True
) -> Done:
    """Run a command whose question is answered after something happened, and minutes later if `late`."""
    passed_s = 0.0

    def person() -> str:
        nonlocal passed_s
        meanwhile()
        passed_s = 300.0 if late else 0.0
        return f"{typed}\n"

    done = office.desk.run(*argv, typed=person, clock=lambda: time.time() + passed_s)
    assert "Traceback" not in done.text and "internal error" not in done.text
    return done


def lock(office: Office, label: str) -> str:
    """Somebody else's run locks an account, or finds it so; its id."""
    office.desk.job(label, name="other.yaml")
    return str(office.run("run", "other.yaml", "--yes", "--json").json["run"])


def changed(office: Office) -> set[str]:
    """Users that the newest run has as changed."""
    lines = records(office.desk.journals()[-1])
    users = {line["call"]: line["user"] for line in lines if line["kind"] == "call"}
    return {users[line["call"]] for line in lines if line["kind"] == "settled" and line["outcome"] == "changed"}


def test_what_others_lock_while_a_person_thinks_is_not_ours_to_undo(desk: Desk) -> None:
    """It is `already`, and named, so that the undo leaves it locked."""
    with inside(desk, fleet()) as office:
        desk.job()
        done = answer(office, "run", "job.yaml", meanwhile=lambda: office.edit(ANN, status=5))
        assert done.code == 0 and changed(office) == {"bob", "eve"}
        assert "since you were asked: 1 account was locked by somebody else: left as it is" in done.err
        run = desk.journals()[-1].parent.name
        assert desk.run("undo", run, "--yes").code == 0
        assert office.locked() == {"ann"}


def test_what_is_unlocked_again_while_a_person_thinks_is_locked(desk: Desk) -> None:
    """Found locked when the plan was made, it is not settled by that."""
    with inside(desk, fleet()) as office:
        desk.job()
        office.account(ANN).status = 5
        done = answer(office, "run", "job.yaml", meanwhile=lambda: office.edit(ANN, status=2))
        assert done.code == 0 and changed(office) == {"ann", "bob", "eve"}
        assert "1 account was not locked any more, and will be" in done.err


def test_a_guard_that_was_written_while_a_person_thinks_holds(desk: Desk) -> None:
    """protect leaves out what it names; a limit below the plan ends it; a config that broke ends it."""
    with inside(desk, fleet()) as office:
        desk.job()
        done = answer(office, "run", "job.yaml", meanwhile=lambda: desk.write("config.yaml", 'protect: ["*/eve"]\n'))
        assert done.code == 0 and office.locked() == {"ann", "bob"}
        assert "since you were asked: left out, protected: postgres-bbbbbbbb/eve  */eve" in done.err
        limit = "limits: {max_targets: 1}\n"
        for text, code in ((limit, 3), ("protect: [\n", 2)):
            desk.write("config.yaml", "keep_admins: 0\n")
            refused = answer(office, "run", "job.yaml", meanwhile=lambda text=text: desk.write("config.yaml", text))
            assert refused.code == code, refused.text
        assert len(desk.journals()) == 1


def test_the_last_superuser_is_not_locked_as_the_other_was_meanwhile(desk: Desk) -> None:
    """With keep_admins it is left out; without, a person who was not told of it is asked anew."""
    admins: list[Any] = [{"name": name, "type": SUPER} for name in ("root", "dba")]
    for keep, late in ((1, True), (1, False), (0, True)):
        with inside(desk_at(desk, f"{keep}{late}"), fleet(a=[*admins, "ann"])) as office:
            office.desk.write("config.yaml", f"keep_admins: {keep}\n")
            office.desk.job(f"{A}/root", ANN)
            done = answer(
                office,
                "run",
                "job.yaml",
                meanwhile=lambda office=office: office.edit(f"{A}/dba", status=5),
                late=late,
            )
            if keep:
                assert done.code == 0 and office.locked() == {"dba", "ann"}
                assert records(office.desk.journals()[-1], "omit")[0]["rule"] == "keep_admins: 1"
            else:
                assert done.code == 3 and office.locked() == {"dba"}
                assert "this would lock the last; run it again to be asked anew" in done.err


def desk_at(desk: Desk, name: str) -> Desk:
    """A desk of its own beside another."""
    place = desk.place / name
    place.mkdir()
    return Desk(place)


# ---- undo ----------------------------------------------------------------------------------------------------------


def test_an_account_that_was_locked_anew_while_a_person_thinks_stays(desk: Desk) -> None:
    """Unlocked and locked again by somebody: it is theirs now; named, exit 1, and the rest is undone."""
    with inside(desk, fleet()) as office:
        run = office.lock(ANN, EVE)
        done = answer(office, "undo", run, meanwhile=lambda: office.edit(ANN))
        assert done.code == 1 and office.locked() == {"ann"}
        assert f"since you were asked: left out, edited: {ANN}  changed since" in done.err
        assert "Local.Edited" in desk.run("report", desk.journals()[-1].parent.name).out
        again = desk.run("undo", run, "--yes")
        assert again.code == 1 and office.locked() == {"ann"}, "the next one says so, too"


@pytest.mark.parametrize("late", [True, False])
def test_an_account_that_another_run_came_to_hold_while_a_person_thinks_stays(desk: Desk, late: bool) -> None:
    """However soon the yes comes: holds are asked for once more when nobody can add to them any more."""
    with inside(desk, fleet()) as office:
        run = office.lock(ANN, EVE)
        other = ""

        def meanwhile() -> None:
            nonlocal other
            other = lock(office, ANN)

        done = answer(office, "undo", run, meanwhile=meanwhile, late=late)
        assert done.code == 0 and office.locked() == {"ann"}
        assert f"left out, held: {ANN}  held by {other}" in done.err
        only = desk.run("undo", run, "--yes", "--target", ANN)
        assert only.code == 0 and office.locked() == {"ann"}
        assert desk.run("undo", other, "--yes").code == 0 and not office.locked(), "the last holder opens it"


def test_an_undo_of_which_nothing_is_left_sends_nothing(desk: Desk) -> None:
    """Its one account is another run's by now: its own hold ends, which is what was asked, and that is said."""
    with inside(desk, fleet()) as office:
        run = office.lock(ANN)
        done = answer(office, "undo", run, meanwhile=lambda: lock(office, ANN))
        assert done.code == 0 and office.locked() == {"ann"} and not office.unlocks()
        assert "held by others by now" in done.err
        assert run not in desk.run("holds").out


def test_an_undo_that_was_cut_looks_at_holds_again_when_it_goes_on(desk: Desk) -> None:
    """What another run has come to hold before the resume, or before a rerun, is not unlocked by it."""
    stop = {"action": "UnlockAccount", "after": 1, "times": 1, "code": "AuthFailure.SecretIdNotFound"}
    with inside(desk, fleet(stop)) as office:
        run = office.lock(ANN, BOB, EVE)
        assert desk.run("undo", run, "--yes").code == 4
        undo = desk.journals()[-1].parent.name
        held = office.locked() & {"ann", "bob", "eve"}
        assert len(held) == 2
        labels = {"ann": ANN, "bob": BOB, "eve": EVE}
        lock(office, labels[min(held)])
        resumed = desk.run("resume", undo)
        assert resumed.code == 0, resumed.text
        assert office.locked() == {min(held)} and "held by others: 1 by " in resumed.out
