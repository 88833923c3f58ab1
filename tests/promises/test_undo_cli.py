"""Undo, verify and what is read beforehand, through the command line: over a real socket, against a whole fleet."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.simulator import DEMO_SECRET_ID, DEMO_SECRET_KEY
from engine.simulator.estate import Account
from engine.simulator.faults import rules_from
from engine.simulator.fleet import fleet_from
from engine.simulator.sts import KeyRecord
from engine.simulator.world import World
from tests.support.command import Backend, Desk, Done, on_terminal, records

pytestmark = pytest.mark.both_stores

A, B = "postgres-aaaaaaaa", "postgres-bbbbbbbb"
ANN, BOB, EVE = f"{A}/ann", f"{A}/bob", f"{B}/eve"
DENIED = "OperationDenied.InstanceAccessDeniedError"
LATER_S = 60.0
"""By how much somebody's change is later: the listing's times count whole seconds."""


def fleet(*faults: dict[str, Any], **others: list[Any]) -> World:
    """ann and bob on one instance, eve on another, and `others` by the last letter of their instance."""
    accounts: dict[str, list[Any]] = {"a": ["ann", "bob"], "b": ["eve"]} | others
    instances = [
        {"id": f"postgres-{letter * 8}", "region": "ap-singapore", "accounts": each}
        for letter, each in accounts.items()
    ]
    return World(fleet=fleet_from({"instances": instances}), faults=rules_from(faults), quotas={"*": None})


class Office:
    """A desk beside a world."""

    def __init__(self, desk: Desk, backend: Backend) -> None:
        self.desk, self.backend = desk, backend
        desk.env["ACCTOPS_ENDPOINT"] = backend.endpoint

    def account(self, label: str) -> Account:
        instance, _, user = label.partition("/")
        account = self.backend.world.account(instance, user)
        assert account is not None
        return account

    def locked(self) -> set[str]:
        """Users that are locked now."""
        world = self.backend.world
        known = [instance for letter in "abc" if (instance := world.instance(f"postgres-{letter * 8}")) is not None]
        return {user for instance in known for user, account in instance.accounts.items() if account.status == 5}

    def edit(self, label: str, **values: Any) -> None:
        """Somebody else changes an account, some time after the run."""
        account = self.account(label)
        account.update_time = time.time() + LATER_S
        for name, value in values.items():
            setattr(account, name, value)

    def rotate(self, label: str) -> None:
        """Its application has got a new password."""
        self.edit(label, password_update_time=time.time() + LATER_S)

    def run(self, *argv: str | Path, code: int = 0) -> Done:
        done = self.desk.run(*argv)
        assert done.code == code, done.text
        assert "Traceback" not in done.text and "internal error" not in done.text
        return done

    def lock(self, *targets: str, **options: Any) -> str:
        """Lock by a job; the run's id."""
        return str(self.apply(*targets, **options)["run"])

    def apply(self, *targets: str, code: int = 0, flags: tuple[str, ...] = (), **options: Any) -> Any:
        """Carry out a job; its document."""
        self.desk.job(*(targets or (ANN, BOB, EVE)), **options)
        return self.run("run", "job.yaml", "--yes", "--json", *flags, code=code).json

    def undo(self, run: str, *flags: str, code: int = 0) -> Any:
        """Undo without a question; its document."""
        return self.run("undo", run, "--yes", "--json", *flags, code=code).json

    def path(self, run: str) -> Path:
        return self.desk.path(run)

    def unlocks(self) -> list[str]:
        return sorted(arrival.user for arrival in self.backend.writes() if arrival.action == "UnlockAccount")


@pytest.fixture
def office(desk: Desk) -> Iterator[Office]:
    with Backend(fleet(b=["eve", {"name": "carl", "status": "locked"}])) as backend:
        yield Office(desk, backend)


def inside(desk: Desk, world: World) -> Iterator[Office]:
    with Backend(world) as backend:
        yield Office(desk, backend)


# ---- undo: exactly what the run changed ----------------------------------------------------------------------------


def test_an_undo_brings_back_what_the_run_changed_and_still_stands(office: Office) -> None:
    run = office.lock(ANN, BOB, EVE, f"{B}/carl")
    office.edit(EVE, status=2)  # somebody needed it
    done = office.run("undo", run, "--yes")
    assert "to unlock  2" in done.err and f"stays, changed since  1  {EVE}" in done.err
    assert "2 of these still have the password they had before the run" in done.err
    assert "0 other journals looked at for holds, in " in done.err
    assert re.search(r"2 of 2 verified unlocked at \d\d:\d\d:\d\dZ", done.out)
    assert office.unlocks() == ["ann", "bob"] and office.locked() == {"carl"}


def test_an_undo_is_a_run_of_its_own_linked_both_ways(office: Office) -> None:
    run = office.lock()
    child = office.undo(run)
    assert child["action"] == "UnlockAccount" and child["counts"]["changed"] == 3
    assert child["verified"] == {"agree": 3, "disagree": 0, "unread": 0}
    (note,) = office.desk.notes(run)
    assert (note["what"], note["data"]) == ("undone_by", {"run": child["run"], "verb": "undo"})
    (line,) = records(office.path(child["run"]), "run")
    head = records(office.path(run))[-1]["hash"]
    assert line["parent"] == {"run": run, "verb": "undo", "head": head}, "the head of the run that has ended stays"
    assert records(office.path(child["run"]))[0]["at"] >= note["at"], "the parent is told first"
    refused = office.run("resume", run, code=3)
    assert f"was undone by {child['run']}" in refused.err
    assert office.run("journal", "verify", run).code == 0


def test_nothing_is_sent_and_nothing_written_before_the_yes(office: Office) -> None:
    run = office.lock()
    before = office.path(run).read_bytes()
    writes = len(office.backend.writes())
    assert "nobody is there to confirm" in office.run("undo", run, code=3).err
    assert "name the run" in office.run("undo", "latest", "--yes", code=3).err
    with on_terminal(office.desk, "undo", "latest") as terminal:
        terminal.wait_for("to unlock  3")
        terminal.wait_for("About to unlock 3 accounts on 2 instances.")
        terminal.wait_for("Go on? [y/N] ")
        terminal.type("n")
        assert terminal.end() == 3
    assert office.path(run).read_bytes() == before
    assert len(office.backend.writes()) == writes and len(office.desk.journals()) == 1
    with on_terminal(office.desk, "undo", "latest") as terminal:
        terminal.wait_for("Go on? [y/N] ")
        terminal.type("y")
        assert terminal.end() == 0
    assert not office.locked() - {"carl"}


def test_an_undo_may_be_repeated_app_by_app_until_nothing_is_left(office: Office) -> None:
    run = office.lock()
    office.desk.write("app.txt", f"\ufeff# the shop\n{BOB}\n\n")
    assert office.undo(run, "--target", "@app.txt")["counts"]["changed"] == 1
    assert office.locked() == {"ann", "eve", "carl"}
    second = office.run("undo", run, "--yes", "--target", f"{A}/*")
    assert f"stays, changed since  1  {BOB}" in second.err or "stays, left out by --target" in second.err
    assert office.locked() == {"eve", "carl"}
    assert office.undo(run, "--exclude", "*/eve")["run"] is None, "eve stays: nothing else is left"
    assert office.undo(run)["counts"]["changed"] == 1
    journals = len(office.desk.journals())
    last = office.undo(run)
    assert last["run"] is None and last["parent"] == run and last["exit"] == 0
    assert last["kept"]["changed_since"] == 3
    assert "nothing is left to undo" in office.run("undo", run, "--yes").err
    assert len(office.desk.journals()) == journals == 4
    assert office.unlocks() == ["ann", "bob", "eve"], "none twice"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be read"),
        ("\n# nothing\n", "names no account"),
        ("ann\n", "'ann' is not instance/user"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_a_list_of_targets_that_is_none_is_named(office: Office, text: Any, words: str) -> None:
    run = office.lock()
    if text is not None:
        office.desk.write("list.txt", text)
    assert words in office.run("undo", run, "--yes", "--target", "@list.txt", code=2).err
    assert not office.unlocks()


def test_an_undo_of_an_undo_locks_again(office: Office) -> None:
    run = office.lock()
    first = office.undo(run)["run"]
    again = office.undo(first)
    assert again["action"] == "LockAccount" and again["counts"]["changed"] == 3
    assert office.locked() == {"ann", "bob", "eve", "carl"}
    verified = office.run("verify", run, "--json").json
    assert verified["verified"] == {"agree": 3, "disagree": 0, "unread": 0} and verified["undone"] == 0
    assert office.undo(again["run"])["counts"]["changed"] == 3
    assert office.locked() == {"carl"}


def test_a_cut_undo_can_be_resumed_and_a_failed_one_rerun(desk: Desk) -> None:
    faults = [
        {"action": "UnlockAccount", "user": "eve", "code": DENIED, "times": 1},
        {"action": "UnlockAccount", "after": 1, "times": 1, "code": "AuthFailure.SecretIdNotFound"},
    ]
    for office in inside(desk, fleet(*faults)):
        run = office.lock()
        cut = office.undo(run, code=4)
        assert cut["counts"]["unattempted"] == 1
        resumed = office.run("resume", cut["run"], "--json", code=1).json
        assert resumed["counts"]["changed"] == 2 and resumed["counts"]["failed"] == 1
        assert office.locked() == {"eve"}
        rerun = office.run("rerun", cut["run"], "--yes", "--json").json
        assert rerun["action"] == "UnlockAccount" and rerun["counts"]["changed"] == 1
        assert not office.locked()
        family = office.run("report", cut["run"], "--json", "--family").json
        assert family["counts"]["changed"] == 3 and family["failures"] == []


def test_what_was_edited_stays_and_what_was_rotated_goes(office: Office) -> None:
    run = office.lock()
    office.edit(BOB)
    office.rotate(EVE)
    only = office.run("undo", run, "--yes", "--rotated")
    assert f"stays, not rotated  2  {ANN}: has the password it was locked with" in only.err
    assert office.unlocks() == ["eve"]
    second = office.run("undo", run, "--yes", code=1)
    assert f"stays, edited  1  {BOB}: changed since, at " in second.err and "--include-edited takes it" in second.err
    assert f"stays, edited  1; if the edits may be kept: acctops undo {run} --include-edited" in second.out
    assert office.unlocks() == ["ann", "eve"]
    assert office.undo(run, "--include-edited")["counts"]["changed"] == 1
    assert not office.locked() - {"carl"}


def test_the_preview_counts_the_passwords_that_leaked(office: Office) -> None:
    run = office.lock()
    office.rotate(EVE)
    done = office.run("undo", run, code=3)
    assert "to unlock  3" in done.err and "2 of these still have the password they had before the run" in done.err


# ---- undo: held by another run -------------------------------------------------------------------------------------


@pytest.fixture
def overlapping(office: Office) -> tuple[Office, str, str]:
    """Two incidents: bob leaked in both."""
    office.desk.job(ANN, BOB, name="first.yaml", extra="ticket: INC-1")
    first = office.run("run", "first.yaml", "--yes", "--json").json["run"]
    office.desk.job(BOB, EVE, name="second.yaml", extra="ticket: INC-2")
    second = office.run("run", "second.yaml", "--yes", "--json").json
    assert second["counts"]["already"] == second["counts"]["changed"] == 1
    return office, first, second["run"]


def test_what_another_incident_holds_stays_until_that_is_undone(overlapping: tuple[Office, str, str]) -> None:
    """The first incident is over: that is told, is no failure, and the last one opens what both held."""
    office, first, second = overlapping
    done = office.run("undo", first, "--yes")
    assert f"stays, held  1  {BOB}: held by {second} (INC-2)" in done.err
    assert f"1 other journal looked at for holds, in {office.desk.runs().place}" in done.err
    assert office.unlocks() == ["ann"] and office.locked() == {"bob", "eve", "carl"}
    assert "nothing is left to undo" in office.run("undo", first, "--yes").err
    assert office.undo(second)["counts"]["changed"] == 2, "eve, and bob, whom only the first had changed"
    assert office.locked() == {"carl"}


def test_of_two_incidents_the_one_that_locked_may_be_the_last_one(overlapping: tuple[Office, str, str]) -> None:
    """In the other order it comes out the same."""
    office, first, second = overlapping
    assert office.undo(second)["counts"]["changed"] == 1, "eve"
    assert office.locked() == {"ann", "bob", "carl"}
    assert office.undo(first)["counts"]["changed"] == 2
    assert office.locked() == {"carl"}


def test_a_hold_is_released_by_name_and_by_no_other(overlapping: tuple[Office, str, str]) -> None:
    office, first, second = overlapping
    for name in ("", "nonsense", first[:4]):
        refused = office.run("undo", first, "--yes", "--release", name, code=2)
        assert second in refused.err or "no run" in refused.err
    assert not office.unlocks()
    assert office.undo(first, "--release", second)["counts"]["changed"] == 2


def test_a_journal_that_cannot_be_read_may_hold_anything(overlapping: tuple[Office, str, str]) -> None:
    office, first, second = overlapping
    office.desk.rewrite(second, office.path(second).read_bytes().replace(b"INC-2", b"INC-3", 1))
    done = office.run("undo", first, code=3)
    assert f"acctops undo {first} --ignore {second}" in done.err and not office.unlocks()
    assert "to unlock  2" in office.run("undo", first, "--ignore", second, code=3).err


def test_a_journal_that_was_removed_may_have_held_anything(overlapping: tuple[Office, str, str]) -> None:
    """Its directory is there: nobody knows what it held, and `rm` must not open accounts."""
    office, first, second = overlapping
    office.desk.rewrite(second, b"")
    done = office.run("undo", first, "--yes", code=3)
    assert f"--ignore {second}" in done.err and not office.unlocks()
    assert office.undo(first, "--ignore", second)["counts"]["changed"] == 2


def test_an_undo_leaves_the_holds_of_its_reruns(desk: Desk) -> None:
    """Only the rerun locked eve: an undo of the first run, without --family, does not give her up."""
    denied = {"action": "LockAccount", "user": "eve", "code": DENIED, "times": 1}
    for office in inside(desk, fleet(denied)):
        run = office.apply(code=1)["run"]
        office.run("rerun", run, "--yes", "--quiet")
        office.undo(run)
        (held,) = office.run("holds", "--json").json["holds"]
        assert [each["user"] for each in held["targets"]] == ["eve"]


def test_a_damaged_journal_holds_every_account_of_its_plan(overlapping: tuple[Office, str, str]) -> None:
    """Its plan can be read, and what became of it not: so it may hold all of it, and for ever."""
    office, first, second = overlapping
    kept = office.path(second).read_bytes()
    office.desk.rewrite(second, kept.replace(b'"outcome":"already"', b'"outcome":"failed!"', 1))
    done = office.run("undo", first, "--yes")
    assert f"held by {second}, whose journal is damaged" in done.err and "DAMAGED" in done.err
    assert office.unlocks() == ["ann"]
    assert office.undo(first, "--ignore", second)["counts"]["changed"] == 1


# ---- undo: refused before anything is sent -------------------------------------------------------------------------


def test_a_run_that_goes_on_is_not_undone(office: Office) -> None:
    office.desk.job()
    process = office.desk.popen("run", "job.yaml", "--yes", "--rate", "1")
    office.desk.wait_for("reply")
    run = office.desk.journal().parent.name
    refused = office.run("undo", run, "--yes", "--quiet", code=6)
    assert f"acctops stop {run}" in refused.err
    assert office.desk.end(process).code == 0
    assert not office.unlocks()


def test_an_undo_needs_the_identity_and_the_endpoint_of_the_run(office: Office) -> None:
    run = office.lock()
    refused = office.run("undo", run, "--yes", "--endpoint", "http://127.0.0.1:1", code=2)
    assert f"the run used {office.backend.endpoint}" in refused.err
    credential = Path(office.desk.env["HOME"]) / ".tccli" / "other.credential"
    credential.parent.mkdir()
    credential.write_text(json.dumps({"secretId": "AKIDFOREIGN", "secretKey": "a-foreign-secret"}))
    credential.chmod(0o600)
    office.backend.world.keys["AKIDFOREIGN"] = KeyRecord(
        secret_key="a-foreign-secret", uin="100000000099", identity="u99"
    )
    for verb in (["undo", run, "--yes"], ["verify", run]):
        refused = office.run(*verb, "--profile", "other", code=5)
        assert "the run acted on account 100000000001, these keys are of 100000000099" in refused.err
    assert not office.unlocks()


def test_other_keys_of_the_same_account_may_undo(office: Office) -> None:
    """A rotated profile, a colleague's sub-account: the accounts belong to the same cloud account."""
    run = office.lock()
    credential = Path(office.desk.env["HOME"]) / ".tccli" / "colleague.credential"
    credential.parent.mkdir()
    credential.write_text(json.dumps({"secretId": DEMO_SECRET_ID, "secretKey": DEMO_SECRET_KEY}))
    credential.chmod(0o600)
    office.run("verify", run, "--profile", "colleague")
    office.run("undo", run, "--yes", "--profile", "colleague")
    assert office.unlocks()


def test_while_nobody_knows_whose_the_keys_are_the_source_decides(office: Office) -> None:
    """STS out of reach: then the keys of another source are refused, unread."""
    office.backend.script({"action": "GetCallerIdentity", "code": "InternalError"})
    run = office.lock()
    credential = Path(office.desk.env["HOME"]) / ".tccli" / "other.credential"
    credential.parent.mkdir()
    credential.write_text(json.dumps({"secretId": DEMO_SECRET_ID, "secretKey": DEMO_SECRET_KEY}))
    credential.chmod(0o600)
    for verb in (["undo", run, "--yes"], ["verify", run]):
        refused = office.run(*verb, "--profile", "other", code=5)
        assert "the run used the keys of environment" in refused.err and "profile other" in refused.err
    assert not office.unlocks()


def test_what_has_no_inverse_cannot_be_undone_or_verified(desk: Desk) -> None:
    for office in inside(desk, fleet(a=[{"name": "ann", "cam": True}])):
        run = office.apply(ANN, action="RefreshAccountPassword")["run"]
        assert "no action is its inverse" in office.run("undo", run, "--yes", code=2).err
        assert "there is nothing to verify" in office.run("verify", run, code=2).err


def test_a_run_that_was_not_read_is_undone_by_a_list_only(office: Office) -> None:
    run = office.apply(flags=("--no-verify",))["run"]
    for flags in ([], ["--target", "*/*"]):
        refused = office.run("undo", run, "--yes", *flags, code=3)
        assert "--target @FILE" in refused.err
    office.desk.write("list.txt", f"{ANN}\n{EVE}\n")
    child = office.undo(run, "--target", "@list.txt")
    assert child["counts"]["changed"] == 2 and child["verified"]["agree"] == 2, "an undo is read back"
    assert office.unlocks() == ["ann", "eve"] and office.locked() == {"bob", "carl"}


def test_a_run_in_doubt_is_resumed_before_it_is_undone(desk: Desk) -> None:
    faults = [
        {"action": "LockAccount", "user": "eve", "hang": True, "apply": True},
        {"action": "DescribeAccounts", "instance": B, "after": 1, "code": DENIED},
    ]
    for office in inside(desk, fleet(*faults)):
        run = office.apply(extra="retry: {transient: 300ms}", flags=("--timeout", "300ms"), code=1)["run"]
        refused = office.run("undo", run, "--yes", code=3)
        assert "of 1 calls" in refused.err and f"first: acctops resume {run}" in refused.err
        office.backend.script()
        assert office.run("resume", run).code == 0
        assert office.undo(run)["counts"]["changed"] == 3


def test_a_run_that_was_cut_and_undone_does_not_go_on(desk: Desk) -> None:
    """Locking the rest of what somebody has just brought back would be the second outage."""
    fatal = {"action": "LockAccount", "after": 1, "times": 1, "code": "AuthFailure.SecretIdNotFound"}
    for office in inside(desk, fleet(fatal)):
        run = office.apply(code=4)["run"]
        locked = office.locked()
        assert len(locked) == 1
        assert office.undo(run)["counts"]["changed"] == 1
        before = office.path(run).read_bytes()
        assert "was undone by" in office.run("resume", run, code=3).err
        assert not office.locked() and office.path(run).read_bytes() == before


def test_a_copied_journal_is_undone_without_knowing_of_holds(office: Office) -> None:
    run = office.lock()
    copy = office.desk.write("copy.jsonl", office.path(run).read_bytes())
    done = office.run("undo", copy, "--yes", "--target", "*/ann")
    assert "no other run was looked at" in done.err and "is not told of this undo" in done.err
    assert office.unlocks() == ["ann"]
    assert office.path(run).read_bytes() == copy.read_bytes()


def test_a_run_that_matches_two_is_not_guessed(overlapping: tuple[Office, str, str]) -> None:
    office, first, _ = overlapping
    for verb in (["undo", "--yes"], ["verify"], ["report", "--stuck"]):
        assert "is the beginning of 2 runs" in office.run(*verb, first[:4], code=2).err


def test_protected_and_bounded_now_holds_for_an_undo(office: Office) -> None:
    run = office.lock()
    office.desk.write("config.yaml", 'protect: ["*/bob"]\nlimits: {max_targets: 1}\n')
    done = office.run("undo", run, "--yes", code=3)
    assert "stays, protected" in done.err and BOB in done.err
    assert "limits.max_targets 1: the plan has 2 calls" in done.err
    assert office.undo(run, "--target", "*/ann")["counts"]["changed"] == 1
    office.desk.write("config.yaml", 'protect: ["*/*"]\n')
    office.run("undo", run, "--yes", code=3)
    assert office.unlocks() == ["ann"]


# ---- undo of CAM ---------------------------------------------------------------------------------------------------


@pytest.fixture
def cam(office: Office) -> tuple[Office, str]:
    run = office.apply(ANN, BOB, action="OpenAccountCAM")["run"]
    assert office.account(ANN).cam is True
    return office, run


def test_an_undo_of_cam_needs_its_passwords_before_anything_is_read(cam: tuple[Office, str]) -> None:
    office, run = cam
    seen = len(office.backend.world.audit)
    for flags, word in (
        ([], "give --password-command or --password-file"),
        (["--password-command", "x", "--password-file", "y"], "not both"),
    ):
        assert word in office.run("undo", run, "--yes", *flags, code=2).err
    assert len(office.backend.world.audit) == seen, "not even a reading"
    before = office.path(run).read_bytes()
    refused = office.desk.run("undo", run, "--yes", "--password-file", "none.csv")
    assert refused.code in (2, 5) and "none.csv" in refused.err
    assert office.path(run).read_bytes() == before and len(office.desk.journals()) == 1
    assert {arrival.action for arrival in office.backend.writes()} == {"OpenAccountCAM"}
    locked = office.lock(EVE)
    assert "takes no password" in office.run("undo", locked, "--yes", "--password-command", "x", code=2).err


def test_an_undo_of_cam_sets_the_passwords_it_is_given(cam: tuple[Office, str]) -> None:
    office, run = cam
    given = {"ann": "Aa1!undo-of-ann", "bob": "Aa1!undo-of-bob"}
    rows = "".join(f"{A},{user},{password}\n" for user, password in given.items())
    office.desk.write("passwords.csv", "instance,user,password\n" + rows).chmod(0o600)
    child = office.undo(run, "--password-file", "passwords.csv")
    assert child["action"] == "CloseAccountCAM" and child["counts"]["changed"] == 2
    for user, password in given.items():
        account = office.account(f"{A}/{user}")
        assert account.cam is False and account.password == password and account.passwords_set == 1
    written = [*office.desk.journals(), *office.desk.state.rglob("*")]
    kept = b"".join(path.read_bytes() for path in written if path.is_file())
    assert not any(password.encode() in kept for password in given.values())


def test_an_undo_whose_program_is_missing_sends_nothing_and_is_rerun(cam: tuple[Office, str]) -> None:
    office, run = cam
    child = office.undo(run, "--password-command", "./vault {user}", code=1)
    assert child["attempts"] == 0 and {failure["code"] for failure in child["failures"]} == {"Local.PasswordSource"}
    office.desk.write("vault", '#!/bin/sh\necho "Aa1!of-$1"\n').chmod(0o700)
    assert office.run("rerun", child["run"], "--yes", "--json").json["counts"]["changed"] == 2
    assert office.account(BOB).password == "Aa1!of-bob"


def test_an_undo_of_cam_asks_a_program(cam: tuple[Office, str]) -> None:
    office, run = cam
    office.desk.write("vault", '#!/bin/sh\necho "Aa1!of-$1"\n').chmod(0o700)
    assert office.undo(run, "--password-command", "./vault {user}", "--target", "*/ann")["counts"]["changed"] == 1
    assert office.account(ANN).password == "Aa1!of-ann" and office.account(BOB).cam is True


# ---- verify --------------------------------------------------------------------------------------------------------


def test_verify_names_what_came_back_and_writes_nothing(office: Office) -> None:
    run = office.lock(ANN, BOB, EVE, f"{B}/carl")
    before = office.path(run).read_bytes()
    good = office.run("verify", run)
    assert re.fullmatch(r"4 of 4 still locked at \d\d:\d\d:\d\dZ\n", good.out) and good.err == ""
    office.edit(BOB, status=2)
    came_back = office.run("verify", "latest", code=1)
    assert "3 of 4 still locked" in came_back.out and f"CAME BACK, not locked: {BOB} (ap-singapore)" in came_back.out
    document = office.run("verify", run, "--json", code=1).json
    assert document["run"] == run and document["exit"] == 1
    assert document["verified"] == {"agree": 3, "disagree": 1, "unread": 0}
    assert [(each["instance"], each["user"]) for each in document["back"]] == [(A, "bob")]
    assert office.path(run).read_bytes() == before and not office.unlocks()


def test_what_was_undone_on_purpose_did_not_come_back(office: Office) -> None:
    run = office.lock()
    office.undo(run, "--target", "*/ann")
    done = office.run("verify", run)
    assert "2 of 3 still locked" in done.out and "1 undone since, on purpose" in done.out
    office.edit(BOB, status=2)
    document = office.run("verify", run, "--json", code=1).json
    assert document["undone"] == 1 and [each["user"] for each in document["back"]] == ["bob"]


def test_verify_watches(office: Office) -> None:
    run = office.lock()
    reads = len(office.backend.reads())
    process = office.desk.popen("verify", run, "--watch", "800ms,1600ms", "--json")
    while len(office.backend.reads()) < reads + 2:
        time.sleep(0.005)
    office.edit(EVE, status=2)
    done = office.desk.end(process)
    assert done.code == 1
    readings = done.json["readings"]
    assert [each["verified"]["disagree"] for each in readings] == [0, 1, 1]
    assert done.json["back"] == readings[-1]["back"] != []
    assert len(office.backend.reads()) == reads + 3 * 2


@pytest.mark.parametrize("watch", ["soon", "", "5", "5m,", "5m,5m", "30m,5m", "-5m", "5m;30m"])
def test_a_watch_that_makes_no_sense_is_refused(office: Office, watch: str) -> None:
    run = office.lock()
    seen = len(office.backend.world.audit)
    assert "--watch" in office.run("verify", run, f"--watch={watch}", code=2).err
    assert len(office.backend.world.audit) == seen


def test_verify_says_what_it_could_not_read(desk: Desk) -> None:
    """And why: an instance that is gone is another thing to do than a permission that is missing."""
    denied = {"action": "DescribeAccounts", "instance": B, "after": 2, "code": DENIED}
    for office in inside(desk, fleet(denied)):
        run = office.lock()
        done = office.run("verify", run, code=1)
        assert "2 of 3 still locked" in done.out and f"not read: {EVE} (ap-singapore)  {DENIED}\n" in done.out
        assert "CAME BACK" not in done.out


def test_verify_names_what_was_never_locked(desk: Desk) -> None:
    """`2 of 2 still locked`, exit 0, after a run that failed with a third would pass for a lockdown."""
    denied = {"action": "LockAccount", "user": "eve", "code": DENIED, "times": 1}
    for office in inside(desk, fleet(denied)):
        run = office.apply(code=1)["run"]
        done = office.run("verify", run, code=1)
        assert "2 of 3 still locked" in done.out and "; 1 never were\n" in done.out
        assert f"NEVER locked by this run: {EVE} (ap-singapore)" in done.out
        assert f"acctops rerun {run} --only failed" in done.err
        document = office.run("verify", run, "--json", code=1).json
        assert [each["user"] for each in document["never"]] == ["eve"]
        assert document["verified"] == {"agree": 2, "disagree": 0, "unread": 0}
        office.edit(EVE, status=5)
        assert "2 of 2 still locked" in (now := office.run("verify", run).out) and "1 more is, not by this run" in now


def test_a_family_report_takes_off_what_was_undone_since(office: Office) -> None:
    """Three were locked, one was unlocked on purpose: nobody may read "3 of 3 verified locked" of the family."""
    run = office.lock()
    office.undo(run, "--target", "*/ann")
    own = office.run("report", run).out
    assert "3 of 3 verified locked at " in own, "a journal is what it is"
    family = office.run("report", run, "--family").out
    assert "2 of 3 verified locked at " in family and "; 1 undone since, on purpose" in family
    assert office.run("report", run, "--family", "--json").json["verified"]["agree"] == 2


# ---- families and what is stuck ------------------------------------------------------------------------------------


def test_a_family_has_the_latest_word_on_every_account(desk: Desk) -> None:
    denied = {"action": "LockAccount", "user": "eve", "code": DENIED, "times": 1}
    for office in inside(desk, fleet(denied)):
        run = office.apply(code=1)["run"]
        stuck = office.run("report", run, "--stuck").out
        assert f"1 × {DENIED}: " in stuck and f"  {EVE}  ap-singapore  RequestId " in stuck and "  → " in stuck
        assert ANN not in stuck
        office.run("rerun", run, "--yes", "--quiet")
        assert office.run("report", run, "--json").json["counts"]["failed"] == 1, "a journal is what it is"
        for name in (run, "latest"):
            family = office.run("report", name, "--json", "--family").json
            assert family["counts"]["changed"] == 3 and family["failures"] == []
        assert "nothing is stuck" in office.run("report", run, "--stuck", "--family").out
        rows = office.run("report", run, "--format", "csv", "--family").out.splitlines()
        assert len(rows) == 4 and all("changed" in row for row in rows[1:])
        assert "2 of 2 still locked" in office.run("verify", run).out
        assert "3 of 3 still locked" in office.run("verify", run, "--family").out
        stuck = office.run("report", run, "--stuck", "--format", "csv", code=0).out.splitlines()
        assert len(stuck) == 2 and "it is as asked since run" in stuck[1]
        assert office.undo(run, "--family")["counts"]["changed"] == 3
        assert not office.locked()


# ---- what is read before -------------------------------------------------------------------------------------------


def test_a_plan_says_how_every_account_stands(desk: Desk) -> None:
    others: dict[str, list[Any]] = {
        "a": ["ann", {"name": "root", "type": "tencentDBSuper"}],
        "b": [{"name": "eve", "status": "locked"}],
    }
    world = fleet(**others)
    world.seed("postgres-tttttttt", "ap-tokyo", ["tom"])
    for office in inside(desk, world):
        desk.job(ANN, f"{A}/root", f"{A}/anne", EVE, "postgres-tttttttt/tom", "postgres-nnnnnnnn/ned")
        done = office.run("plan", "job.yaml")
        for words in (
            "read 2 instances (3 accounts) in ",
            "to change  2",
            "already locked  1",
            f"no such account  1  {A}/anne",
            "postgres-tttttttt/tom (found in ap-tokyo)",
            "no such instance  2",
            "locks the last superuser of 1 instance  (keep_admins: 1 keeps one)",
        ):
            assert words in done.out, done.out
        document = office.run("plan", "job.yaml", "--json").json
        standing = {f"{call['instance']}/{call['user']}": call["standing"] for call in document["calls"]}
        assert standing[ANN] == "open" and standing[EVE] == "already" and standing[f"{A}/anne"] == "no_account"
        assert document["calls"][0]["user"] == "root", "superusers first"
        assert document["standing"]["no_instance"] == 2 and document["last_admins"] == [A]
        assert document["would_refuse"] == []
        assert not office.backend.writes() and not desk.state.exists()

        ended = office.apply(
            ANN, f"{A}/root", f"{A}/anne", EVE, "postgres-tttttttt/tom", "postgres-nnnnnnnn/ned", code=1
        )
        assert ended["counts"] == {"changed": 2, "already": 1, "failed": 3, "unknown": 0, "unattempted": 0}
        said = {failure["user"]: failure["message"] for failure in ended["failures"]}
        assert "did you mean ann?" in said["anne"] and "found in ap-tokyo" in said["tom"]
        assert "nor seen in any other region" in said["ned"]
        assert sorted(arrival.user for arrival in office.backend.writes()) == ["ann", "root"]


def test_an_expected_count_is_pinned(office: Office) -> None:
    office.desk.job()
    refused = office.run("run", "job.yaml", "--yes", "--expect", "4", code=3)
    assert "--expect 4: the plan has 3 calls" in refused.err and "nothing was sent" in refused.err
    seen = office.run("plan", "job.yaml", "--expect", "4")
    assert "WOULD REFUSE  --expect 4: the plan has 3 calls" in seen.out and ANN in seen.out
    assert not office.backend.writes() and not office.desk.journals()
    assert office.run("run", "job.yaml", "--yes", "--expect", "3").code == 0
    office.run("run", "job.yaml", "--yes", "--expect", "-1", code=2)


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ("max_targets: 2", "limits.max_targets 2: the plan has 3 calls"),
        ("max_share: 50%", "limits.max_share 50%: 3 of the 4 accounts read are 75.0%"),
    ],
)
def test_a_plan_beyond_a_guard_is_shown_and_its_run_refused(office: Office, limit: str, words: str) -> None:
    office.desk.job()
    office.desk.write("config.yaml", f"limits: {{{limit}}}\n")
    plan = office.run("plan", "job.yaml")
    assert f"WOULD REFUSE  {words}" in plan.out and ANN in plan.out and "config.yaml:1:" in plan.out
    document = office.run("plan", "job.yaml", "--json").json
    assert document["would_refuse"] == [words] and len(document["calls"]) == 3
    refused = office.run("run", "job.yaml", "--yes", "--json", code=3)
    assert words in refused.json["error"]
    assert not office.backend.writes() and not office.desk.journals()
    assert office.run("run", "job.yaml", "--yes", "--exclude", "*/eve", "--exclude", "*/bob").code == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("limits: {max_share: 120%}", "limits.max_share"),
        ("limits: {max_targets: 0}", "limits.max_targets"),
        ("stop_after: 101%", "stop_after"),
        ("keep_admins: -1", "keep_admins"),
    ],
)
def test_a_guard_that_makes_no_sense_stops_everything(office: Office, text: str, words: str) -> None:
    office.desk.job()
    office.desk.write("config.yaml", text + "\n")
    for argv in (["plan", "job.yaml"], ["run", "job.yaml", "--yes"]):
        assert "config.yaml:1:" in office.run(*argv, code=2).err
        assert words in office.run(*argv, code=2).err
    assert not office.backend.world.audit


def test_a_protect_rule_that_matches_everything_or_nothing_is_said(office: Office) -> None:
    office.desk.job()
    office.desk.write("config.yaml", 'protect: ["*/*"]\n')
    everything = office.run("run", "job.yaml", "--yes", code=3)
    assert "every account" in everything.err and "every target is left out (3 protected)" in everything.err
    office.desk.write("config.yaml", 'protect: ["*/ghost"]\n')
    nothing = office.run("plan", "job.yaml")
    assert "protect */ghost (" in nothing.out
    assert "config.yaml:1:11: protect */ghost matches none of the 4 accounts read" in nothing.err
    assert len(office.run("plan", "job.yaml", "--json").json["warnings"]) == 1
    office.desk.write("config.yaml", 'protect: ["*/carl"]\n')
    assert "warning" not in office.run("plan", "job.yaml").err, "an account that is there and not in the job"


def test_an_instance_keeps_its_admins(desk: Desk) -> None:
    admins = [{"name": name, "type": "tencentDBSuper"} for name in ("root", "dba")]
    gone = {"name": "old", "type": "tencentDBSuper", "status": "locked"}
    for office in inside(desk, fleet(a=[*admins, gone, "ann"])):
        desk.write("config.yaml", "keep_admins: 1\n")
        desk.job(f"{A}/root", f"{A}/dba", ANN)
        assert "keep_admins 1 (" in office.run("plan", "job.yaml").out
        done = office.apply(f"{A}/root", f"{A}/dba", ANN)
        assert done["left_out"]["protected"] == 1 and done["counts"]["changed"] == 2
        assert office.locked() == {"root", "ann", "old"}, "the one named last stays"
        assert "1 protected, NOT locked" in office.run("report", done["run"]).out
        again = office.run("run", "job.yaml", "--yes", "--json")
        assert again.json["counts"]["changed"] == 0 and office.account(f"{A}/dba").status == 2
        refused = office.run("run", "job.yaml", "--yes", "--no-verify", code=2)
        assert "keep_admins" in refused.err


# ---- what may not be read, and what is slow ------------------------------------------------------------------------


def test_without_leave_to_read_anywhere_a_person_decides(desk: Desk) -> None:
    for office in inside(desk, fleet({"action": "DescribeAccounts", "code": DENIED})):
        desk.job()
        refused = office.run("run", "job.yaml", "--yes", code=5)
        assert DENIED in refused.err
        assert refused.err.rstrip().endswith(f"acctops run {desk.work / 'job.yaml'} --no-verify"), "what goes on"
        assert not desk.journals() and not office.backend.writes()
        assert office.run("plan", "job.yaml").code == 0
        with on_terminal(desk, "run", "job.yaml") as terminal:
            terminal.wait_for("UNREAD")
            terminal.wait_for("undo will need a list")
            terminal.wait_for("Go on? [y/N] ")
            terminal.type("y")
            assert terminal.end() == 0
            assert "accepted, not read back" in terminal.screen
        assert office.locked() == {"ann", "bob", "eve"}
        (run,) = desk.records("run")
        assert run["settings"]["verify"] is False


def test_an_instance_that_may_not_be_read_is_locked_unread_and_unknown(desk: Desk) -> None:
    denied = {"action": "DescribeAccounts", "instance": B, "code": DENIED}
    for office in inside(desk, fleet(denied)):
        done = office.apply(code=1, extra="retry: {transient: 300ms}")
        assert done["counts"]["changed"] == 2 and done["counts"]["unknown"] == 1
        assert [failure["user"] for failure in done["failures"]] == ["eve"]
        assert office.locked() == {"ann", "bob", "eve"}
        assert [arrival.user for arrival in office.backend.writes()][-1] == "eve", "unread ones come last"
        office.backend.script()
        resumed = office.run("resume", done["run"], "--json").json
        assert resumed["counts"]["changed"] == 3 and len(office.backend.writes()) == 3


def test_a_straggler_is_named_comes_last_and_passes_its_guards_when_read(desk: Desk) -> None:
    slow = {"action": "DescribeAccounts", "instance": B, "slow": 4, "times": 1}
    admins: list[Any] = [{"name": "root", "type": "tencentDBSuper"}, "eve"]
    for office in inside(desk, fleet(slow, b=admins)):
        desk.write("config.yaml", "keep_admins: 1\n")
        begun = time.monotonic()
        desk.job(EVE, f"{B}/root", ANN, BOB)
        done = office.run("run", "job.yaml", "--yes", "--json")
        assert time.monotonic() - begun < 8
        assert f"not read: {B}" in done.err and "not read yet  2  (sent last)" in done.err
        assert [arrival.user for arrival in office.backend.writes()] == ["ann", "bob", "eve"]
        assert done.json["left_out"]["protected"] == 1 and done.json["counts"]["changed"] == 3
        (before,) = [line for line in desk.records("before") if line["type"] == "tencentDBSuper"]
        assert before["status"] == 2


def test_what_cannot_be_read_cannot_pass_a_guard_that_needs_it(desk: Desk) -> None:
    for office in inside(desk, fleet({"action": "DescribeAccounts", "code": DENIED})):
        desk.job()
        desk.write("config.yaml", "keep_admins: 1\n")
        with on_terminal(desk, "run", "job.yaml") as terminal:
            assert terminal.end() == 3
            assert "without readings keep_admins cannot hold" in terminal.screen
        (desk.work / "config.yaml").unlink()
        fatal = {"action": "LockAccount", "after": 1, "times": 1, "code": "AuthFailure.SecretIdNotFound"}
        office.backend.script(fatal)
        run = office.apply(flags=("--no-verify",), code=4)["run"]
        desk.write("config.yaml", "keep_admins: 1\n")
        for verb in (["resume", run], ["rerun", run, "--yes"]):
            refused = office.run(*verb, code=3)
            assert "without readings keep_admins cannot hold" in refused.err
        assert len(office.locked()) == 1


def test_an_instance_that_may_not_be_read_keeps_its_admins(desk: Desk) -> None:
    denied = {"action": "DescribeAccounts", "instance": B, "code": DENIED}
    for office in inside(desk, fleet(denied, b=[{"name": "root", "type": "tencentDBSuper"}])):
        desk.write("config.yaml", "keep_admins: 1\n")
        desk.job(ANN, f"{B}/root", extra="retry: {transient: 300ms}")
        done = desk.run("run", "job.yaml", "--yes", "--json")
        assert office.locked() == {"ann"} and done.code != 0


def test_no_verify_counts_for_what_goes_on_and_not_for_an_undo(office: Office) -> None:
    run = office.lock()
    assert "remove --no-verify" in office.run("undo", run, "--yes", "--no-verify", code=2).err
    office.backend.script({"action": "LockAccount", "code": DENIED, "times": 1})
    office.edit(ANN, status=2)
    failed = office.apply(code=1)["run"]
    reads = len(office.backend.reads())
    again = office.run("rerun", failed, "--yes", "--json", "--no-verify").json
    assert again["counts"]["changed"] == 1 and again["verified"]["unread"] == 1
    assert len(office.backend.reads()) == reads


# ---- already is not always contained -------------------------------------------------------------------------------


def test_what_is_locked_already_is_locked_again_if_asked_and_not_undone(office: Office) -> None:
    done = office.apply(f"{B}/carl", ANN, EVE, extra="resend_already: true")
    assert done["counts"]["already"] == 1 and done["counts"]["changed"] == 2
    assert [arrival.user for arrival in office.backend.writes()][-1] == "carl", "last"
    assert office.undo(done["run"])["counts"]["changed"] == 2
    assert office.locked() == {"carl"}
    spared = office.apply(f"{B}/carl", ANN)
    assert spared["counts"]["already"] == 1 and spared["attempts"] == 1, "not asked, not sent"


# ---- a run that only simulates -------------------------------------------------------------------------------------


def test_a_simulated_run_is_undone_in_the_simulator(desk: Desk) -> None:
    for name in ("TENCENTCLOUD_SECRET_ID", "TENCENTCLOUD_SECRET_KEY"):
        del desk.env[name]
    desk.job()
    assert desk.run("run", "job.yaml", "--simulate", "--yes", "--quiet").code == 0
    run = desk.journal(simulated=True).parent.name
    verified = desk.run("verify", run)
    assert verified.code == 0 and verified.out.startswith("SIMULATED  3 of 3 still locked")
    done = desk.run("undo", run, "--yes")
    assert done.code == 0 and done.out.startswith("SIMULATED  ") and "3 of 3 verified unlocked" in done.out
    assert desk.run("verify", run).out.startswith("SIMULATED  0 of 3 still locked at"), "a drill is told what it did"
    assert not desk.journals() and len(desk.journals(simulated=True)) == 2


def test_the_question_names_both_numbers_of_the_plan_and_takes_either(desk: Desk) -> None:
    """The plan says "to change 10" of 11: whoever types what stands last on the screen is not sent away."""
    world = World(latency=0)
    users = [f"u{number}" for number in range(11)]
    world.seed("postgres-aaaaaaaa", "ap-singapore", users)
    for office in inside(desk, world):
        office.edit("postgres-aaaaaaaa/u0", status=5)
        desk.job(*(f"postgres-aaaaaaaa/{user}" for user in users))
        refused = desk.run("run", "job.yaml", typed="12\n")
        assert "About to lock 11 accounts" in refused.err and "(10 of them change now)" in refused.err
        assert refused.code == 3 and desk.run("run", "job.yaml", typed="10\n").code == 0
