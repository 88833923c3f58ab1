"""Two incidents that overlap, from the command line to the server and back, until nothing is held and nothing is owed.

Bob leaked in both. Whatever ends first, and however it ends, he stays locked until nobody needs that any more.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest

from tests.promises.test_undo_cli import ANN, BOB, EVE, B, Office, fleet
from tests.support.command import Backend, Desk

pytestmark = pytest.mark.both_stores

HOW = ("undo", "release", "limit")
HOUR = 3600.0


@pytest.fixture
def office(desk: Desk) -> Iterator[Office]:
    with Backend(fleet(b=["eve", {"name": "carl", "status": "locked"}])) as backend:
        yield Office(desk, backend)


class Story:
    """The two incidents, and what time it is for the command: limits are hours away."""

    def __init__(self, office: Office) -> None:
        self.office = office
        self.later_s = 0.0
        self.runs = {}
        for name, labels in (("first", (ANN, BOB)), ("second", (BOB, EVE, f"{B}/carl"))):
            office.desk.job(*labels, name=f"{name}.yaml", extra=f"ticket: INC-{name}")
            self.runs[name] = str(self.run("run", f"{name}.yaml", "--yes", "--json").json["run"])

    def run(self, *argv: str, code: int = 0) -> Any:
        done = self.office.desk.run(*argv, at=time.time() + self.later_s)
        assert done.code == code, done.text
        assert "Traceback" not in done.text and "internal error" not in done.text
        return done

    def end(self, name: str, how: str) -> None:
        """One of the incidents is over."""
        run = self.runs[name]
        if how == "undo":
            self.run("undo", run, "--yes", "--json")
        elif how == "release":
            assert "nothing was sent" in self.run("release", run, "--reason", "over").out
        else:
            self.run("hold", run, "--for", "1h", "--then", "unlock")
            self.later_s += 1.5 * HOUR
            self.run("tend")

    def open_what_is_owed(self) -> None:
        """Do literally what is printed, and nothing else."""
        for line in re.findall(r"^open them: (.+)$", self.run("holds", "--owed").out, re.MULTILINE):
            words = shlex.split(line)
            assert words[:2] == ["acctops", "undo"]
            self.run(*words[1:], "--yes")


@pytest.mark.parametrize(("order", "one", "other"), list(product((("first", "second"), ("second", "first")), HOW, HOW)))
def test_both_end_in_any_order_and_way_and_nothing_is_left(
    office: Office, order: tuple[str, str], one: str, other: str
) -> None:
    """An account opens too early, twice or never; or a command says that all is well while somebody is locked out."""
    story = Story(office)
    assert office.locked() == {"ann", "bob", "eve", "carl"}
    story.end(order[0], one)
    assert "bob" in office.locked(), "the other incident still needs him locked"
    assert "bob" not in office.unlocks()
    still = story.run("holds", "--json").json["holds"]
    assert story.runs[order[1]] in [each["run"] for each in still]
    story.end(order[1], other)
    story.run("tend")
    story.open_what_is_owed()
    done = story.run("holds")
    assert done.out.strip() == "nobody holds anything", done.text
    assert story.run("holds", "--owed").out.strip() == "nothing is owed"
    assert office.locked() == {"carl"}, "he was locked by hand, before"
    assert office.unlocks() == ["ann", "bob", "eve"], "each once"
    assert story.run("tend", "--json").json["deeds"] == []


def test_who_still_holds_is_named_with_its_ticket_by_each_command(office: Office) -> None:
    """Somebody gives an account back, and it stays locked: he must learn whom to ask."""
    story = Story(office)
    first, second = story.runs["first"], story.runs["second"]
    done = story.run("undo", first, "--yes")
    assert f"{BOB}: held by {second} (INC-second)" in done.err
    assert "holds 3 since" in story.run("holds", "--target", "*/bob").out or BOB in story.run("holds").out
    released = story.run("release", first)
    assert "holds none of these any more" in released.out and f"1 account still held by {second}" in released.out


def test_a_part_is_released_and_the_rest_stays_held(office: Office) -> None:
    """Of the second incident only bob is over: he is owed by the first, which had locked him and is undone by then."""
    story = Story(office)
    first, second = story.runs["first"], story.runs["second"]
    story.run("undo", first, "--yes")
    done = story.run("release", second, "--target", BOB)
    (line,) = re.findall(r"^open them: (.+)$", done.out, re.MULTILINE)
    assert first in line, "the latest change owes the unlock"
    story.open_what_is_owed()
    assert office.locked() == {"eve", "carl"}
    assert story.run("holds", "--owed").out.strip() == "nothing is owed"
    (held,) = story.run("holds", "--json").json["holds"]
    assert held["run"] == second and {each["user"] for each in held["targets"]} == {"eve", "carl"}


def test_a_release_names_the_accounts_that_another_run_owes_and_no_more(office: Office) -> None:
    """The printed undo of the first run without a name would open ann, too, whom that run still holds."""
    story = Story(office)
    first, second = story.runs["first"], story.runs["second"]
    story.run("release", first, "--target", BOB)
    (line,) = re.findall(r"^open them: (.+)$", story.run("release", second, "--target", BOB).out, re.MULTILINE)
    assert f"undo {first} --target {BOB}" in line
    story.open_what_is_owed()
    assert office.unlocks() == ["bob"] and "ann" in office.locked()


def test_the_undo_of_what_was_not_read_names_its_accounts(office: Office) -> None:
    """A run with --no-verify is undone by names only: without them the printed command is refused."""
    office.desk.job(ANN, name="blind.yaml")
    office.run("run", "blind.yaml", "--yes", "--no-verify")
    office.run("release", "latest")
    (line,) = re.findall(r"^open them: (.+)$", office.run("holds", "--owed").out, re.MULTILINE)
    office.run(*shlex.split(line)[1:], "--yes")
    assert office.unlocks() == ["ann"] and office.run("holds", "--owed").out.strip() == "nothing is owed"


def test_a_hold_whose_end_has_come_is_shown_with_what_to_do(office: Office) -> None:
    """The notice came by night; whoever looks in the morning is told the two commands."""
    story = Story(office)
    first = story.runs["first"]
    story.run("hold", first, "--for", "1h")
    story.later_s += 2 * HOUR
    shown = story.run("holds").out
    assert f"give them back: acctops undo {first}\nor hold them longer: acctops hold {first} --for 4h\n" in shown


def test_due_and_owed_together_are_refused(office: Office) -> None:
    """Else it says that nothing is owed, while somebody is locked out whom nobody holds."""
    story = Story(office)
    story.run("release", story.runs["first"])
    refused = story.run("holds", "--due", "--owed", code=2)
    assert "give --due or --owed, not both" in refused.err


def test_an_undo_by_limit_says_why_accounts_stay_that_nobody_holds(office: Office) -> None:
    """The sentence must not end with `held by` and no name."""
    story = Story(office)
    run = story.runs["first"]
    story.run("release", run, "--target", ANN)
    done = story.run("undo", run, "--due", "--target", ANN, "--yes")
    assert "1 account stays as it is, its last hold was ended by a person, not by a limit" in done.err


def test_what_holds_nothing_says_what_it_is_and_where_to_look(office: Office) -> None:
    """`latest` is the undo that was just made: the answer names the run that was undone, and who holds the rest."""
    story = Story(office)
    first = story.runs["first"]
    story.run("undo", first, "--yes")
    for argv in (("release", "latest"), ("hold", "latest", "--for", "4h")):
        refused = story.run(*argv, code=2)
        assert f"it is the undo of run {first}, and an undo holds nothing" in refused.err
        assert "acctops holds" in refused.err


def test_an_undo_that_releases_the_other_opens_at_once(office: Office) -> None:
    """`--release` is the word of a person who knows better; what it ended is noted, and the other run opens no more."""
    story = Story(office)
    first, second = story.runs["first"], story.runs["second"]
    story.run("undo", first, "--release", second, "--yes")
    assert office.locked() == {"eve", "carl"} and office.unlocks() == ["ann", "bob"]
    (held,) = story.run("holds", "--json").json["holds"]
    assert held["run"] == second and {each["user"] for each in held["targets"]} == {"eve", "carl"}
    story.run("undo", second, "--yes")
    assert office.locked() == {"carl"} and office.unlocks() == ["ann", "bob", "eve"]


def test_an_account_that_was_opened_in_the_console_is_owed_no_more(office: Office) -> None:
    """The printed undo finds it open: then the list of what is owed is empty, else somebody follows it for ever."""
    story = Story(office)
    first = story.runs["first"]
    story.run("release", first)
    office.edit(ANN, status=2)
    story.open_what_is_owed()
    assert story.run("holds", "--owed").out.strip() == "nothing is owed"


@pytest.mark.parametrize("second", [(ANN, BOB), (BOB, EVE)], ids=["the same", "some"])
def test_two_that_end_at_the_same_time_leave_nothing_locked_unsaid(office: Office, second: tuple[str, ...]) -> None:
    """Each undo sees that the other run holds the accounts: the last one to let go opens them, or says who does."""
    for _ in range(3):
        runs = []
        for name, labels in (("first", (ANN, BOB)), ("second", second)):
            office.desk.job(*labels, name=f"{name}.yaml")
            runs.append(str(office.desk.run("run", f"{name}.yaml", "--yes", "--json").json["run"]))
        processes = [office.desk.popen("undo", run, "--yes") for run in runs]
        ends = [office.desk.end(process) for process in processes]
        assert [done.code for done in ends] == [0, 0], "\n".join(done.err for done in ends)
        said = "".join(done.err for done in ends)
        left = office.desk.run("holds", "--json").json
        assert not left["holds"]
        assert all(re.search(r"ended at the same time; open them: acctops undo", said) for _ in left["owed"]), said
        for words in re.findall(r"at the same time; open them: acctops (.*)", said):
            assert office.desk.run(*shlex.split(words), "--yes").code == 0
        assert not office.desk.run("holds", "--json").json["owed"]


def test_a_protected_account_does_not_keep_an_undo_from_letting_go_of_the_others(office: Office) -> None:
    """Else the two incidents block each other as long as the rule stands."""
    story = Story(office)
    office.desk.write("config.yaml", f"protect: ['{ANN}']\n")
    done = story.run("undo", story.runs["first"], "--yes", code=3)
    assert "the run's holds end on 1 account" in done.err
    assert "held by" not in story.run("undo", story.runs["second"], "--yes").err
    left = story.run("holds", "--json").json
    assert [target["user"] for held in left["holds"] for target in held["targets"]] == ["ann"]


def test_holds_of_a_cam_run_are_shown_beside_those_of_a_lock(office: Office) -> None:
    """Whoever looks who holds what must see both: a journal is passed over for one action, and not for the other."""
    lock = office.lock(ANN)
    cam = office.run("cam-on", BOB, "--region", "ap-singapore", "--yes", "--json").json["run"]
    held = {each["run"]: each["action"] for each in office.run("holds", "--json").json["holds"]}
    assert held == {lock: "LockAccount", cam: "OpenAccountCAM"}


@pytest.mark.files_only("home.json, by which a state directory knows its host")
def test_a_state_directory_that_is_adopted_is_tended_at_once(office: Office) -> None:
    """It failed here before, as it was another host's: who says that it is this one's waits for no retry."""
    run = office.lock(ANN)
    office.run("hold", run, "--for", "1ms", "--then", "unlock")
    (office.desk.state / "home.json").write_text('{"id": "1", "host": "another"}\n')
    time.sleep(1.1)  # the server's Date has whole seconds
    assert "acctops tend --adopt" in office.run("tend", code=1).err
    assert "opened" in office.run("tend", "--adopt").out and "ann" not in office.locked()
