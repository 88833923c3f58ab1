"""After an approval: what a machine, or one person alone, may still do under it, and what needs a further one."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.outside.sshkeys import sign
from engine.planning.approvals import SavedPlan, Signed, file_of, read_plan
from engine.simulator.world import World
from tests.support.command import Backend, Desk, Done
from tests.support.signing import People, needs_ssh_keygen

pytestmark = needs_ssh_keygen

A = "postgres-aaaaaaaa"
ALL = {"ann", "bob", "eve"}
HOUR = 3600.0
HOLD = "hold: {for: 1h, then: unlock}"


@pytest.fixture
def backend(desk: Desk) -> Iterator[Backend]:
    world = World(quotas={"*": None})
    world.seed(A, "ap-singapore", sorted(ALL))
    with Backend(world) as server:
        desk.env["ACCTOPS_ENDPOINT"] = server.endpoint
        yield server


@pytest.fixture
def people(desk: Desk) -> People:
    return People(desk, actions="[LockAccount, UnlockAccount]")


def job(desk: Desk, extra: str = "") -> Path:
    return desk.job(*(f"{A}/{user}" for user in sorted(ALL)), extra=extra)


def locked(backend: Backend) -> set[str]:
    instance = backend.world.instance(A)
    assert instance is not None
    return {user for user, account in instance.accounts.items() if account.status == 5}


def applied(people: People, job: Path, **options: Any) -> str:
    """A run that Ana and Bob have signed; returns its id."""
    assert people.save(job).code == 0
    assert people.approve().code == 0
    done = people.apply(**options)
    assert done.code == 0, done.text
    people.desk.work.joinpath("plan.json").unlink()
    return latest(people.desk)


def latest(desk: Desk) -> str:
    return desk.journals()[-1].parent.name


def only_told(done: Done, backend: Backend, *words: str) -> None:
    assert done.code == 0, done.text
    for word in (*words, "--save plan.json --key KEY"):
        assert word in done.text, done.text
    assert locked(backend) == ALL


# ---- a machine, at the end of a hold ---------------------------------------------------------------------------------


def test_a_machine_unlocks_under_the_approval_that_says_so(desk: Desk, backend: Backend, people: People) -> None:
    """Two people have signed that the accounts open in an hour, so nobody has to come and sign that again."""
    assert people.save(job(desk, HOLD)).code == 0
    shown = people.approve()
    assert "UnlockAccount when its hold ends" in shown.out and "for 1h" in shown.out
    file = read_plan((desk.work / "plan.json").read_bytes())
    assert [json.loads(each.statement)["then"] for each in file.signed] == [["UnlockAccount when its hold ends"]] * 2
    assert people.apply().code == 0
    assert desk.run("tend", at=time.time() + HOUR - 60).code == 0
    assert locked(backend) == ALL
    done = desk.run("tend", at=time.time() + HOUR + 60)
    assert done.code == 0 and "opened 3 accounts" in done.text, done.text
    assert locked(backend) == set()
    assert desk.run("journal", "verify", "latest").code == 0


WAVES = "waves: [{take: 1}, {take: rest}]\ngate: {command: [./gate.sh]}\non_red: undo"
RED_AT_2 = """#!/bin/sh
question=$(cat)
nonce=$(printf %s "$question" | sed -n 's/.*"nonce":"\\([0-9a-f]*\\)".*/\\1/p')
case "$question" in *'"wave":2,'*) echo "red $nonce"; exit 1;; esac
echo "green $nonce"
"""


def red_at_2(desk: Desk) -> None:
    desk.write("gate.sh", RED_AT_2).chmod(0o755)


def test_a_red_wave_is_undone_under_the_approval_that_says_so(desk: Desk, backend: Backend, people: People) -> None:
    """Two people have signed `on_red: undo`, too; nobody has to be woken to take the wave back."""
    red_at_2(desk)
    assert people.save(job(desk, WAVES)).code == 0
    assert "UnlockAccount when a wave is red" in people.approve().out
    done = people.apply()
    assert done.code == 4 and len(locked(backend)) == 1, done.text
    assert "verified unlocked" in done.out


def test_a_red_wave_that_nobody_signed_for_is_told_and_stays(desk: Desk, backend: Backend, people: People) -> None:
    """A lock of ten accounts needs no signature here, and its undo by a machine would: it is said before it begins."""
    red_at_2(desk)
    people.ask(actions="[UnlockAccount]", above=1)
    done = desk.run("run", job(desk, WAVES), "--yes")
    assert done.code == 1 and len(locked(backend)) == 3, done.text
    assert "a red wave so large stays as it is" in done.err
    assert "wave 2 is NOT undone: refused: UnlockAccount of 2 accounts needs the signatures" in done.err
    assert "--wave 2 --save plan.json --key KEY" in done.err


def test_a_wave_that_is_not_red_is_not_undone_under_an_approval(desk: Desk, backend: Backend, people: People) -> None:
    """Two people have signed for a red wave; one person alone cannot take back a green one with that."""
    red_at_2(desk)
    people.ask(actions="[LockAccount, UnlockAccount]", above=0)
    assert people.save(job(desk, WAVES)).code == 0
    assert people.approve().code == 0
    assert people.apply().code == 4
    run = next(path.parent.name for path in desk.journals() if "undone_by" in (path.parent / "aside.jsonl").read_text())
    done = desk.run("undo", run, "--wave", "1", "--yes")
    assert done.code == 3 and "needs the signatures" in done.err and len(locked(backend)) == 1, done.text


def test_a_rerun_is_opened_under_the_approval_of_its_run(desk: Desk, backend: Backend, people: People) -> None:
    """The accounts that only the rerun locked stand in the plan that was signed first."""
    people.ask(actions="[LockAccount, UnlockAccount]", above=1)
    backend.script({"user": "bob", "times": 1, "code": "InvalidParameterValue.AccountNotExistError"})
    assert people.save(job(desk, HOLD)).code == 0
    assert people.approve().code == 0
    assert people.apply().code == 1
    backend.script()
    again = desk.run("rerun", latest(desk), "--yes")  # one account is not above what asks
    assert again.code == 0, again.text
    assert locked(backend) == ALL
    assert "opened 3 accounts" in desk.run("tend", at=time.time() + HOUR + 60).text
    assert locked(backend) == set()


@pytest.mark.parametrize("extra", ["", "hold: {for: 1h, then: tell}", "hold: {for: 1h, then: unlock_rotated}"])
def test_one_person_cannot_have_a_machine_open_what_was_not_signed(
    desk: Desk, backend: Backend, people: People, extra: str
) -> None:
    """Who changes the end of a hold by himself changes what is told, and opens nothing."""
    run = applied(people, job(desk, extra))
    assert desk.run("hold", run, "--for", "1h", "--then", "unlock", "--reason", "alone").code == 0
    late = time.time() + HOUR + 60
    only_told(desk.run("tend", at=late), backend, "was approved without the words “UnlockAccount when its hold ends”")


def test_a_rerun_that_was_signed_has_the_end_that_was_signed(desk: Desk, backend: Backend, people: People) -> None:
    """It inherits the end of its run's hold: who shortens that before it is applied changes what was signed."""
    people.ask(actions="UnlockAccount")
    backend.script({"user": "bob", "times": 1, "code": "InvalidParameterValue.AccountNotExistError"})
    assert desk.run("run", job(desk, HOLD), "--yes").code == 1
    backend.script()
    people.ask(actions="[LockAccount, UnlockAccount]", above=0)
    run = latest(desk)
    saved = desk.run("rerun", run, "--save", "plan.json", "--key", people.key("ana"))
    assert saved.code == 0, saved.text
    assert people.approve().code == 0
    before = len(backend.writes())
    assert desk.run("hold", run, "--for", "1m", "--reason", "alone").code == 0
    done = people.apply()
    assert done.code == 3 and "hold_until is no longer as it was" in done.text, done.text
    assert len(backend.writes()) == before


def test_a_hold_that_one_person_shortened_ends_when_it_was_signed_to(
    desk: Desk, backend: Backend, people: People
) -> None:
    """What two people signed for an hour is not opened after a minute; and at that end it is."""
    run = applied(people, job(desk, HOLD))
    assert desk.run("hold", run, "--for", "1m", "--reason", "alone").code == 0
    soon, late = time.time() + 120, time.time() + HOUR + 60
    only_told(desk.run("tend", at=soon), backend, "which was shortened since")
    by_hand = desk.run("undo", run, "--family", "--due", "--yes", at=soon)
    assert by_hand.code == 3 and locked(backend) == ALL, by_hand.text
    assert "opened 3 accounts" in desk.run("tend", at=late).text


def test_a_longer_or_stricter_end_needs_no_further_signature(desk: Desk, backend: Backend, people: People) -> None:
    """Containment may go on longer than was signed, and the end is then the later one."""
    run = applied(people, job(desk, HOLD))
    assert desk.run("hold", run, "--for", "3h", "--reason", "longer").code == 0
    assert desk.run("tend", at=time.time() + HOUR + 60).code == 0
    assert locked(backend) == ALL
    assert "opened 3 accounts" in desk.run("tend", at=time.time() + 3 * HOUR + 60).text


def test_an_approval_whose_key_was_taken_out_opens_nothing(desk: Desk, backend: Backend, people: People) -> None:
    """Bob's key was stolen: what it has signed is proven again, and does not count."""
    applied(people, job(desk, HOLD))
    people.allow("ana", "eve")
    only_told(desk.run("tend", at=time.time() + HOUR + 60), backend, "is not one of")
    people.allow("ana", "bob")
    assert "opened 3 accounts" in desk.run("tend", at=time.time() + HOUR + 60).text


def test_more_keys_than_have_signed_are_asked_for_by_now(desk: Desk, backend: Backend, people: People) -> None:
    """A config that asks for a third person since then is not met by two."""
    applied(people, job(desk, HOLD))
    people.ask(actions="[LockAccount, UnlockAccount]", approvers=2)
    only_told(desk.run("tend", at=time.time() + HOUR + 60), backend, "signatures of 3 different keys")


def test_a_lock_without_an_approval_lets_no_machine_open(desk: Desk, backend: Backend, people: People) -> None:
    """A lock does not wait for signatures, and so nobody has signed for its end."""
    people.ask(actions="UnlockAccount")
    done = desk.run("run", job(desk, HOLD), "--yes")
    assert done.code == 0 and "at the end of the hold `tend` only tells" in done.err, done.text
    only_told(desk.run("tend", at=time.time() + HOUR + 60), backend, "was begun without an approval")


@pytest.mark.parametrize("more", ["--include-edited", "--release", "--ignore"])
def test_a_person_takes_no_more_than_a_machine_under_it(
    desk: Desk, backend: Backend, people: People, more: str
) -> None:
    """By hand the end of a hold opens what `tend` would open, and flags that take more need signatures."""
    run = applied(people, job(desk, HOLD))
    late = time.time() + HOUR + 60
    value = () if more == "--include-edited" else (run,)
    refused = desk.run("undo", run, "--family", "--due", more, *value, "--yes", at=late)
    assert refused.code == 3 and "2 different keys" in refused.text, refused.text
    assert locked(backend) == ALL
    assert desk.run("undo", run, "--family", "--due", "--yes", at=late).code == 0
    assert locked(backend) == set()


def test_a_release_opens_nothing_by_itself(desk: Desk, backend: Backend, people: People) -> None:
    """An undo that is no undo by limit needs signatures, whatever the statement of its run says."""
    run = applied(people, job(desk, HOLD))
    late = time.time() + HOUR + 60
    refused = desk.run("undo", run, "--yes", at=late)
    assert refused.code == 3 and locked(backend) == ALL, refused.text


def test_an_undo_under_it_that_died_is_gone_on_with_by_the_next(desk: Desk, backend: Backend, people: People) -> None:
    """A machine that stopped in the middle leaves nothing for which somebody has to sign."""
    applied(people, job(desk, "hold: {for: 2s, then: unlock}\nrate: 1\n"))
    time.sleep(2.5)
    dying = desk.popen("tend")
    until = time.monotonic() + 20
    while len(locked(backend)) == len(ALL) and time.monotonic() < until:
        time.sleep(0.02)
    dying.kill()
    desk.end(dying)
    assert locked(backend)
    assert len(desk.journals()) == 2
    done = desk.run("tend", at=time.time() + 5)
    assert done.code == 0 and locked(backend) == set(), done.text
    assert len(desk.journals()) == 2, "it goes on in the journal of the first"


# ---- one person, at a run that was approved --------------------------------------------------------------------------


def test_nobody_makes_an_approved_run_faster_alone(desk: Desk, backend: Backend, people: People) -> None:
    """Its rate is signed. Slower, fewer and in another order are no more than what was signed."""
    slow = job(desk, "rate: 1\n")
    assert people.save(slow).code == 0
    assert people.approve().code == 0
    process = desk.popen("apply", "plan.json", "--yes")
    until = time.monotonic() + 20
    while not desk.journals() and time.monotonic() < until:
        time.sleep(0.02)
    run = latest(desk)
    faster = desk.run("change", run, "--rate", "5")
    assert faster.code == 2 and "was approved for 1 a second, and 5 is more" in faster.text, faster.text
    assert desk.run("change", run, "--rate", "0.9").code == 0
    assert desk.run("pause", run).code == 0
    assert desk.run("resume", run).code == 0
    assert desk.run("stop", run).code in {0, 4, 5, 130, 143}
    desk.end(process)
    before = len(backend.writes())
    for flags, words in (
        (("--rate", "5"), "approved for 1 a second"),
        (("--no-verify",), "approved with readings"),
        (("--profile", "x", "--profile", "y"), "fewer keys"),
    ):
        done = desk.run("resume", run, *flags, "--yes")
        assert done.code == 2 and words in done.text, done.text
    assert len(backend.writes()) == before
    assert desk.run("resume", run, "--yes", "--deadline", "1m").code == 0
    assert locked(backend) == ALL


def test_a_copy_of_a_state_directory_is_another_one(desk: Desk, backend: Backend, people: People) -> None:
    """Otherwise each copy would apply the plan once more, and go on with the run that was cut off."""
    assert people.save(job(desk)).code == 0
    assert people.approve().code == 0
    copy = desk.place / "copy"
    shutil.copytree(desk.state, copy)
    applied_there = people.apply("plan.json", "--state-dir", str(copy))
    assert applied_there.code == 3 and "another state directory" in applied_there.text, applied_there.text
    late = people.apply(clock=lambda: time.time() + (HOUR if desk.journals() else 0))
    assert late.code == 3 and not backend.writes(), late.text
    shutil.rmtree(copy)
    shutil.copytree(desk.state, copy)
    resumed = desk.run("resume", latest(desk), "--state-dir", str(copy), "--yes")
    assert resumed.code == 3 and "is a copy" in resumed.text, resumed.text
    assert resumed.text.count("is a copy") == 1
    shutil.rmtree(copy / "used")
    without = desk.run("resume", latest(desk), "--state-dir", str(copy), "--yes")
    assert without.code == 3 and f"acctops rerun {latest(desk)} --state-dir" in without.text, without.text
    assert not backend.writes()
    assert desk.run("resume", latest(desk), "--yes").code == 0
    assert locked(backend) == ALL


# ---- what is shown is what is done -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hold": {"for_s": 43200.0, "until": None, "then": "unlock"}}, "the end of its hold"),
        ({"hold": None}, "the end of its hold"),
        ({"reason": "harmless"}, "the reason, the ticket or a flag"),
        ({"ticket": "INC-9"}, "the reason, the ticket or a flag"),
        ({"asked": ["--exclude", "x/*"]}, "the reason, the ticket or a flag"),
        ({"guarded_by": "/"}, "the place of its guards"),
    ],
)
def test_a_plan_that_shows_something_else_than_it_does_is_refused(
    desk: Desk, backend: Backend, people: People, changes: dict[str, Any], words: str
) -> None:
    """Ana writes a file of her own that shows Bob another hold, reason or flag than will be; Bob signs what he sees."""
    assert people.save(job(desk, HOLD)).code == 0
    found = read_plan((desk.work / "plan.json").read_bytes())
    file = file_of(msgspec.convert({**msgspec.to_builtins(found.plan), **changes}, SavedPlan))
    text = file.statement(time.time() + 600).text
    signed = (Signed(text, sign(text.encode(), people.key("ana"))),)
    desk.write("plan.json", msgspec.structs.replace(file, signed=signed).data)
    assert people.approve().code == 0
    done = people.apply()
    assert done.code == 3 and words in done.text, done.text
    assert not backend.writes()


@pytest.mark.parametrize(
    "spoil",
    [
        {"hold": {"for_s": 1.0, "until": None, "then": "explode"}},
        {"hold": {"for_s": None, "until": 1e300, "then": "tell"}},
        {"hold": {"for_s": 1.0, "until": None, "then": "tell", "more": 1}},
    ],
)
def test_a_file_that_makes_no_sense_is_one_message(
    desk: Desk, backend: Backend, people: People, spoil: dict[str, Any]
) -> None:
    """Somebody else wrote it: it ends with words, not with a traceback."""
    assert people.save(job(desk, HOLD)).code == 0
    whole = json.loads((desk.work / "plan.json").read_text())
    whole["plan"].update(spoil)
    desk.write("plan.json", json.dumps(whole))
    done = people.approve()
    assert done.code == 2 and "Traceback" not in done.text and "internal error" not in done.text, done.text


def test_an_approver_sees_who_has_signed_and_how_fast(desk: Desk, backend: Backend, people: People) -> None:
    """By name and key, and until when; and why a signature does not count."""
    assert people.save(job(desk, "rate: 7\n")).code == 0
    shown = people.approve(who="eve").out
    assert "rate  7 a second" in shown and "signed by  ana (SHA256:" in shown
    people.allow("ana", "bob")
    assert "statement 2: key SHA256:" in people.approve().out


@pytest.mark.parametrize("verb", ["approve", "apply"])
def test_without_the_directory_of_the_job_nobody_knows_its_guards(
    desk: Desk, backend: Backend, people: People, verb: str
) -> None:
    """A config beside the job may ask for more, so it must be there to be read."""
    place = desk.work / "jobs"
    place.mkdir()
    inner = place / "job.yaml"
    inner.write_bytes(job(desk).read_bytes())
    assert people.save(inner).code == 0
    if verb == "apply":
        assert people.approve().code == 0
    shutil.rmtree(place)
    done = people.approve() if verb == "approve" else people.apply()
    assert done.code == 2 and "do it where the job is" in done.text, done.text
    assert not backend.writes()


def test_two_who_sign_at_once_both_count(desk: Desk, backend: Backend, people: People) -> None:
    """Eve signs while Bob still reads: his signature is put beside hers."""
    people.ask(actions="[LockAccount, UnlockAccount]", approvers=2)
    assert people.save(job(desk)).code == 0

    def meanwhile() -> str:
        assert people.approve(who="eve").code == 0
        return "3\n"

    assert desk.run("approve", "plan.json", "--key", people.key("bob"), typed=meanwhile).code == 0
    assert people.apply().code == 0
    assert locked(backend) == ALL


def test_a_schedule_says_that_a_timer_has_no_key(desk: Desk, backend: Backend, people: People) -> None:
    """Or the window opens on Saturday, and nothing is sent."""
    window = 'window: {days: [sat], from: "02:00", until: "04:00", timezone: Asia/Singapore}'
    said = desk.run("schedule", job(desk, window), "--format", "systemd")
    assert said.code == 0 and "a timer has no key" in said.err and "acctops apply PLAN --yes" in said.err, said.text
    people.ask(actions="UnlockAccount")
    assert "a timer has no key" not in desk.run("schedule", job(desk, window), "--format", "systemd").err
