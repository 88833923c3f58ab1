"""Where a config asks for it, nothing is sent that two different keys have not signed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine import Approval, Engine
from engine.errors import RefusedError
from engine.model import call_id
from engine.operations.proposal import Planned
from engine.outside.sshkeys import sign
from engine.planning.approvals import PlanFile, SavedPlan, Signed, file_of, read_plan
from engine.simulator.world import World
from tests.support.command import Backend, Desk, Done, environment, records
from tests.support.signing import People, make_key, needs_ssh_keygen

pytestmark = needs_ssh_keygen

A, B = "postgres-aaaaaaaa", "postgres-bbbbbbbb"
ALL = {(A, "ann"), (A, "bob"), (B, "eve")}


@pytest.fixture
def backend(desk: Desk) -> Iterator[Backend]:
    world = World(quotas={"*": None})
    world.seed(A, "ap-singapore", ["ann", "bob"])
    world.seed(B, "ap-singapore", ["eve"])
    with Backend(world) as server:
        desk.env["ACCTOPS_ENDPOINT"] = server.endpoint
        yield server


@pytest.fixture
def people(desk: Desk) -> People:
    return People(desk)


def locked(backend: Backend) -> set[tuple[str, str]]:
    found = ((name, backend.world.instance(name)) for name in (A, B))
    return {
        (name, user)
        for name, instance in found
        if instance is not None
        for user, account in instance.accounts.items()
        if account.status == 5
    }


def refused(done: Done, backend: Backend, *words: str, code: int = 3) -> None:
    """One message, the right exit code, and nothing was sent."""
    assert done.code == code, done.text
    assert "Traceback" not in done.text and "internal error" not in done.text
    for word in words:
        assert word in done.text, done.text
    assert not backend.writes()


def load(desk: Desk, plan: str = "plan.json") -> PlanFile:
    return read_plan((desk.work / plan).read_bytes())


def forged(people: People, *signers: str, not_after: float | None = None, **changes: Any) -> str:
    """Another plan file that these people sign with their own keys, without acctops: by itself it is all right."""
    found = load(people.desk)
    whole = {**msgspec.to_builtins(found.plan), **changes}
    file = file_of(msgspec.convert(whole, SavedPlan))
    text = file.statement(not_after or time.time() + 600).text
    signed = tuple(Signed(text, sign(text.encode(), people.key(name))) for name in signers)
    people.desk.write("forged.json", msgspec.structs.replace(file, signed=signed).data)
    return "forged.json"


# ---- as it is meant --------------------------------------------------------------------------------------------------


def test_a_plan_is_saved_approved_and_applied(desk: Desk, backend: Backend, people: People) -> None:
    """The whole way, as an operator goes it; the journal proves by itself what was signed."""
    saved = people.save(desk.job())
    assert saved.code == 0, saved.text
    assert "signed by ana" in saved.text and "acctops approve plan.json" in saved.text
    approved = people.approve()
    assert approved.code == 0, approved.text
    assert "postgres-aaaaaaaa/ann" in approved.text and "acctops apply plan.json" in approved.text
    assert not backend.writes() and not desk.journals()
    done = people.apply()
    assert done.code == 0, done.text
    assert locked(backend) == ALL
    assert "approved by 2 keys" in done.text
    keys = [record["fingerprint"] for record in desk.records("approved")]
    assert len(set(keys)) == 2
    (run,) = desk.records("run")
    assert run["plan_digest"] == load(desk).plan.plan_digest
    verified = desk.run("journal", "verify", "latest", "--json")
    assert verified.json["approved"] == keys
    used = (desk.state / "used" / load(desk).hash).read_text().splitlines()
    assert used == [run["run"], str(desk.state.resolve())]


def test_a_public_key_signs_by_an_agent(desk: Desk, backend: Backend, people: People) -> None:
    """Private halves stay in an agent or on a token."""
    assert people.save(desk.job()).code == 0
    people.key("bob").rename(desk.place / "bob.private")
    public = desk.place / "keys" / "bob.pub"
    alone = desk.run("approve", "plan.json", "--key", public, "--yes")
    refused(alone, backend, "nothing was signed", "bob.pub")
    said = subprocess.run(["ssh-agent", "-s"], capture_output=True, text=True, check=True, timeout=30).stdout
    variables = dict(part.split("=", 1) for line in said.splitlines() for part in line.split(";")[:1] if "=" in part)
    try:
        desk.env |= variables
        add = ["ssh-add", "-q", str(desk.place / "bob.private")]
        subprocess.run(add, env=desk.env, check=True, timeout=30, stderr=subprocess.DEVNULL)
        assert desk.run("approve", "plan.json", "--key", public, "--yes").code == 0
    finally:
        os.kill(int(variables["SSH_AGENT_PID"]), 15)
    assert people.apply().code == 0
    assert locked(backend) == ALL


def test_a_person_types_the_number(desk: Desk, backend: Backend, people: People) -> None:
    """Without --yes a plan is read, and its number typed."""
    assert people.save(desk.job()).code == 0
    key = people.key("bob")
    refused(desk.run("approve", "plan.json", "--key", key, typed="4\n"), backend, "not confirmed")
    assert desk.run("approve", "plan.json", "--key", key, typed="3\n").code == 0


@pytest.mark.parametrize("verb", ["rerun", "undo", "lock"])
def test_every_verb_that_begins_a_run_can_save_its_plan(
    desk: Desk, backend: Backend, people: People, verb: str
) -> None:
    """What undoes or repeats a run is signed and applied in the same way, from another directory even."""
    job = desk.job()
    if verb == "rerun":
        people.ask(actions="UnlockAccount")
        backend.script({"code": "InvalidParameterValue.AccountNotExistError"})
        desk.run("run", job, "--yes")
        backend.script()
        people.ask()
        argv: list[str | Path] = ["rerun", "latest"]
    elif verb == "undo":
        people.ask(actions="OpenAccountCAM")
        assert desk.run("run", job, "--yes").code == 0
        people.ask(actions="UnlockAccount")
        targets = desk.write("targets.txt", "".join(f"{instance}/{user}\n" for instance, user in sorted(ALL)))
        argv = ["undo", "latest", "--target", f"@{targets.name}"]
    else:
        desk.write("list.csv", "instance,user\n" + "".join(f"{instance},{user}\n" for instance, user in sorted(ALL)))
        argv = ["lock", "@list.csv", "--region", "ap-singapore"]
    before = len(backend.writes())
    without = desk.run(*argv, "--yes") if verb == "lock" else desk.run(argv[0], _latest(desk), *argv[2:], "--yes")
    assert without.code == 3 and "--save plan.json" in without.text, without.text
    saved = desk.run(*argv, "--save", "plan.json", "--key", people.key("ana"))
    assert saved.code == 0, saved.text
    assert people.approve().code == 0
    assert len(backend.writes()) == before
    elsewhere = desk.place / "elsewhere"
    elsewhere.mkdir()
    done = people.apply(str(desk.work / "plan.json"), cwd=elsewhere)
    assert done.code == 0, done.text
    assert locked(backend) == (set() if verb == "undo" else ALL)
    assert len(records(desk.journals()[-1], "approved")) == 2


def _latest(desk: Desk) -> str:
    return desk.journals()[-1].parent.name


def test_only_what_is_open_is_sent_and_none_is_added(desk: Desk, backend: Backend, people: People) -> None:
    """A match asked again finds more by then: nobody has signed that. What is gone by then is said, and left out."""
    job = desk.write(
        "match.yaml",
        "action: LockAccount\nregion: ap-singapore\nlimits: {max_targets: 9}\n"
        "targets:\n  - match: {users: {glob: '*'}}\n",
    )
    assert people.save(job).code == 0
    assert people.approve().code == 0
    backend.world.seed("postgres-cccccccc", "ap-singapore", ["zoe"])
    instance = backend.world.instance(A)
    assert instance is not None
    del instance.accounts["bob"]
    done = people.apply()
    assert "1 account that it means by now was not signed, and stays as it is" in done.text
    assert "1 of the 3 that were signed are not open any more" in done.text
    assert sent(backend) == ALL - {(A, "bob")}
    (run,) = desk.records("run")
    assert run["plan_digest"] == load(desk).plan.plan_digest
    assert len(desk.records("call")) == 3
    (gone,) = (line for line in desk.records("omit") if line.get("call") is not None)
    assert gone["user"] == "bob"
    assert desk.run("journal", "verify", "latest").code == 0


def sent(backend: Backend) -> set[tuple[str, str]]:
    return {(arrival.instance, arrival.user) for arrival in backend.writes()}


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_no_verb_sends_without_an_approval(desk: Desk, backend: Backend, people: People) -> None:
    """Each says which commands go on."""
    job = desk.job()
    by_hand = (f"{A}/ann", f"{A}/bob", f"{B}/eve", "--region", "ap-singapore")
    refused(desk.run("run", job, "--yes"), backend, "needs the signatures of 2 different keys", f"acctops plan {job}")
    refused(desk.run("lock", *by_hand, "--yes"), backend, "--save plan.json --key KEY")
    people.ask(actions="[UnlockAccount, OpenAccountCAM]")
    refused(desk.run("unlock", *by_hand, "--yes"), backend, "UnlockAccount of 3 accounts")
    refused(desk.run("cam-on", *by_hand, "--yes"), backend, "OpenAccountCAM of 3 accounts")
    assert not desk.journals()
    assert desk.run("lock", *by_hand, "--yes").code == 0, "containment does not wait"


def test_a_run_that_was_cut_off_needs_one_too(desk: Desk, backend: Backend, people: People) -> None:
    """A config that asks since then stops the resume, and names the command that does the rest."""
    people.ask(actions="UnlockAccount")
    stopped_early(desk, backend, lambda job: desk.run("run", job, "--yes"))
    people.ask()
    before = len(backend.writes())
    resumed = desk.run("resume", _latest(desk), "--yes")
    assert resumed.code == 3 and f"acctops rerun {_latest(desk)}" in resumed.text, resumed.text
    assert len(backend.writes()) == before


def stopped_early(desk: Desk, backend: Backend, carry_out: Callable[[Path], Done]) -> None:
    """A run that has sent, and that its deadline has stopped with calls that are open."""
    done = carry_out(desk.job(extra="deadline: 1s\nrate: 1\n"))
    assert done.code == 4, done.text
    assert 0 < len(backend.writes()) < len(ALL)


Change = Callable[[dict[str, Any]], object]


def statement(old: str, new: str) -> Change:
    def change(file: dict[str, Any]) -> None:
        signed = file["statements"][1]
        assert old in signed["statement"]
        signed["statement"] = signed["statement"].replace(old, new, 1)

    return change


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (lambda file: file["plan"]["calls"][0].update(user="root2"), 2, "its digest is not that of its calls"),
        (lambda file: file["plan"]["calls"].pop(), 2, "its digest is not that of its calls"),
        (lambda file: file["plan"]["calls"].append(file["plan"]["calls"][0]), 2, "an account twice"),
        (lambda file: file["plan"].update(reason="another"), 3, "the plan was edited since"),
        (lambda file: file["plan"]["request"]["terms"].update(no_verify=True), 3, "the plan was edited since"),
        (lambda file: file["plan"]["job"].update(digest="z"), 3, "the plan was edited since"),
        (lambda file: file["plan"].update(version="0.0.1"), 3, "was made by acctops 0.0.1"),
        (lambda file: file["plan"].update(v=2), 2, "its format '2'"),
        (lambda file: file["plan"].update(more=1), 2, "no plan that acctops saved"),
        (lambda file: file["plan"].update(calls=[]), 2, "it has no calls"),
        (lambda file: file["plan"].update(action="DropEverything"), 2, "none of this version"),
        (lambda file: file["plan"].update(settings={}), 2, "no plan that acctops saved"),
        (lambda file: file["plan"]["calls"][0].update(user="a\u202eb"), 2, "cannot be"),
        (lambda file: file["statements"].clear(), 3, "signed by nobody"),
        (lambda file: file["statements"].pop(), 3, "signed by ana"),
        (lambda file: file["statements"].__setitem__(1, file["statements"][0]), 3, "signed by ana"),
        (lambda file: file["statements"][1].update(signature="none"), 3, "does not hold"),
        (lambda file: file["statements"][1].update(signature=file["statements"][0]["signature"]), 3, "not hold"),
        (lambda file: file["statements"][1].update(statement="{}"), 3, "a statement is none"),
        (statement('"not_after":"2', '"not_after":"3'), 3, "later than the config lets"),
        (statement('"count":3', '"count":2'), 3, "of another number of calls"),
        (statement('"count":3', '"count": 3'), 3, "not spelled"),
        (statement("LockAccount", "UnlockAccount"), 3, "of another action"),
        (statement('"then":[]', '"then":["UnlockAccount when its hold ends"]'), 3, "something else later"),
        (lambda file: file["statements"].extend(file["statements"] * 40), 2, "more than 50 statements"),
        (lambda file: file.pop("statements"), 2, "no JSON object of plan and statements"),
    ],
)
def test_an_edited_plan_is_refused(
    desk: Desk, backend: Backend, people: People, change: Change, code: int, words: str
) -> None:
    """Whatever is changed after it was signed, nothing is sent."""
    assert people.save(desk.job()).code == 0
    assert people.approve().code == 0
    path = desk.work / "plan.json"
    file = json.loads(path.read_text())
    change(file)
    path.write_text(json.dumps(file))
    refused(people.apply(), backend, words, code=code)
    assert not desk.journals()


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"plan": NaN, "statements": []}', b"1" * 5000]
)
@pytest.mark.parametrize("verb", ["approve", "apply"])
def test_what_is_no_plan_is_said_to_be_none(
    desk: Desk, backend: Backend, people: People, data: bytes, verb: str
) -> None:
    """A file cut short, or another one, is named in one sentence."""
    desk.write("plan.json", data)
    refused(people.approve() if verb == "approve" else people.apply(), backend, "plan.json", code=2)


def test_a_plan_is_applied_once(desk: Desk, backend: Backend, people: People) -> None:
    """Neither the same file nor a copy of it, signed by others, locks again what somebody has opened since."""
    assert people.save(desk.job()).code == 0
    shutil.copy(desk.work / "plan.json", desk.work / "copy.json")
    assert people.approve().code == 0
    assert people.apply().code == 0
    run = _latest(desk)
    before = len(backend.writes())
    again = people.apply()
    assert again.code == 3 and f"used by {run}: acctops resume {run}" in again.text, again.text
    assert people.approve("copy.json", "eve").code == 0
    copied = people.apply("copy.json")
    assert copied.code == 3 and f"used by {run}" in copied.text
    assert len(backend.writes()) == before and len(desk.journals()) == 1


def test_of_several_that_apply_at_once_one_does(desk: Desk, backend: Backend, people: People) -> None:
    """The others say that the plan is used, or that its job is at work."""
    assert people.save(desk.job()).code == 0
    assert people.approve().code == 0
    codes = sorted(desk.end(each).code for each in [desk.popen("apply", "plan.json", "--yes") for _ in range(3)])
    assert codes[0] == 0 and set(codes[1:]) <= {3, 6}, codes
    assert len(desk.journals()) == 1
    assert len(backend.writes()) == 3


def test_a_use_that_broke_off_is_never_a_second_run(desk: Desk, backend: Backend, people: People) -> None:
    """A crash between the mark and the run costs a new plan, and the words say so."""
    assert people.save(desk.job()).code == 0
    assert people.approve().code == 0
    used = desk.state / "used"
    used.mkdir(parents=True, mode=0o700)
    (used / load(desk).hash).touch(mode=0o600)
    refused(people.apply(), backend, "broke off before it began", "plan and approve anew")


# ---- whose word counts -----------------------------------------------------------------------------------------------


def test_nobody_approves_his_own_plan(desk: Desk, backend: Backend, people: People) -> None:
    """Two names of one key are one key, also where a file is signed without acctops."""
    people.allow("ana", "bob", lines=(people.line("ana", principal="somebody-else"),))
    assert people.save(desk.job()).code == 0
    copy = desk.place / "keys" / "copy"
    shutil.copy(people.key("ana"), copy)
    refused(desk.run("approve", "plan.json", "--key", copy, "--yes"), backend, "has signed this plan already")
    refused(people.apply(), backend, "signed by ana")
    refused(people.apply(forged(people, "ana", "ana")), backend, "signed by ana")


def test_a_stranger_approves_nothing(desk: Desk, backend: Backend, people: People) -> None:
    """A key must stand in the file of signers, whatever its comment says."""
    assert people.save(desk.job()).code == 0
    refused(people.approve(who="mallory"), backend, "is not one of", str(people.signers))
    refused(people.apply(forged(people, "ana", "mallory")), backend, "is not one of")


@pytest.mark.parametrize(
    ("options", "words", "code"),
    [
        ('valid-before="20200101Z"', "does not count now", 3),
        ('valid-after="20990101Z"', "does not count now", 3),
        ('namespaces="git"', "does not hold", 3),
        ('valid-before="20990101"', "end it with Z: 20990101Z", 2),
        ('valid-after="202001010000"', "is local time", 2),
    ],
)
def test_a_key_counts_only_as_the_signers_say(
    desk: Desk, backend: Backend, people: People, options: str, words: str, code: int
) -> None:
    """A key that has expired, begins later, or is for something else; and a time that means another one elsewhere."""
    assert people.save(desk.job()).code == 0
    assert people.approve().code == 0
    people.allow("ana", lines=(people.line("bob", options),))
    refused(people.apply(), backend, words, code=code)


def test_a_key_counts_by_the_clock_of_the_command(desk: Desk, backend: Backend, people: People) -> None:
    """An approval is checked at its time: a key that ends tonight signs nothing tomorrow, and its run goes on then."""
    tonight = datetime.fromtimestamp(time.time() + 3600, UTC).strftime("%Y%m%d%H%M%SZ")
    people.allow("ana", lines=(people.line("bob", f'valid-before="{tonight}"'),))
    assert people.save(desk.job(), "late.json", at=time.time() + 7200).code == 0
    refused(people.approve("late.json", at=time.time() + 7200), backend, "does not count now")

    def carry_out(job: Path) -> Done:
        assert people.save(job).code == 0
        assert people.approve().code == 0
        return people.apply()

    stopped_early(desk, backend, carry_out)
    assert desk.run("resume", _latest(desk), "--yes", "--deadline", "1m", at=time.time() + 7200).code == 0
    assert locked(backend) == ALL


def test_a_key_that_was_taken_out_does_not_count_any_more(desk: Desk, backend: Backend, people: People) -> None:
    """Somebody's laptop was stolen between the signature and the send."""
    assert people.save(desk.job()).code == 0
    assert people.approve().code == 0
    people.allow("ana", "eve")
    refused(people.apply(), backend, "is not one of")


def test_a_key_that_is_taken_out_while_the_question_stands(desk: Desk, backend: Backend, people: People) -> None:
    """The last look at the signatures is behind the confirmation, and costs the plan nothing."""
    assert people.save(desk.job()).code == 0
    assert people.approve().code == 0

    def meanwhile() -> str:
        people.allow("ana", "eve")
        return "3\n"

    refused(desk.run("apply", "plan.json", typed=meanwhile), backend, "is not one of")
    assert not desk.journals()
    people.allow("ana", "bob")
    assert people.apply().code == 0


def test_a_key_must_stand_in_every_file_of_signers(desk: Desk, backend: Backend, people: People) -> None:
    """Configs add up: one beside where the command is typed names who else must agree."""
    assert people.save(desk.job()).code == 0
    assert people.approve().code == 0
    other = desk.place / "elsewhere"
    other.mkdir()
    signers = other / "signers"
    signers.write_text("\n".join(people.line(name) for name in ("ana", "eve")) + "\n")
    signers.chmod(0o444)
    (other / "config.yaml").write_text("approvals: {actions: LockAccount, signers: signers}\n")
    plan = str(desk.work / "plan.json")
    refused(people.apply(plan, cwd=other), backend, "is not one of", str(signers))
    people.allow("ana", "bob")
    refused(people.approve(plan, "eve", cwd=other), backend, "is not one of", str(people.signers))
    people.allow("ana", "bob", "eve")
    assert people.approve(plan, "eve", cwd=other).code == 0
    people.allow("ana", "bob")
    refused(people.apply(plan, cwd=other), backend, "is not one of", str(people.signers), str(signers))
    people.allow("ana", "bob", "eve")
    assert people.apply(plan, cwd=other).code == 0


@pytest.mark.parametrize("mode", [0o666, 0o646, 0o664 if os.geteuid() == 0 else 0o644])
def test_signers_that_the_sender_may_write_decide_nothing(
    desk: Desk, backend: Backend, people: People, mode: int
) -> None:
    """Who sends could add a key of his own."""
    assert people.save(desk.job()).code == 0
    assert people.approve().code == 0
    people.signers.chmod(mode)
    refused(people.apply(), backend, "may write it, and so could decide who approves", code=2)


@pytest.mark.parametrize("spoil", ["missing", "directory", "unnamed"])
def test_signers_that_cannot_be_read_stop_it(desk: Desk, backend: Backend, people: People, spoil: str) -> None:
    """A gate whose list of people is gone lets nobody through."""
    assert people.save(desk.job()).code == 0
    assert people.approve().code == 0
    if spoil == "unnamed":
        people.ask(signers=None)
    else:
        people.signers.unlink()
        if spoil == "directory":
            people.signers.mkdir()
    refused(people.apply(), backend, "signers", code=2)


def test_without_ssh_keygen_it_is_named(desk: Desk, backend: Backend, people: People) -> None:
    """A host without it can neither sign nor check, and says what to install."""
    assert people.save(desk.job()).code == 0
    assert people.approve().code == 0
    empty = desk.place / "empty"
    empty.mkdir()
    desk.env["PATH"] = str(empty)
    refused(people.apply(), backend, "ssh-keygen is not here", "install openssh-client")
    refused(people.save(desk.job(), "other.json"), backend, "ssh-keygen is not here")
    refused(people.approve(who="eve"), backend, "ssh-keygen is not here")
    assert not (desk.work / "other.json").exists()


# ---- how long, where, for what ---------------------------------------------------------------------------------------


def test_an_approval_expires(desk: Desk, backend: Backend, people: People) -> None:
    """The first of its signatures that expires ends it; none counts longer than the config of now says."""
    assert people.save(desk.job()).code == 0
    assert people.approve(at=time.time() + 900).code == 0
    refused(people.apply(at=time.time() + 1801), backend, "has expired at")
    people.ask(valid="10m")
    refused(people.apply(), backend, "later than the config lets a signature count")


def test_nothing_is_sent_if_it_expires_before_the_first_send(desk: Desk, backend: Backend, people: People) -> None:
    """The last look at the clock is before the first call; what the words advise leads to the end."""
    assert people.save(desk.job()).code == 0
    assert people.approve().code == 0
    done = people.apply(clock=lambda: time.time() + (3600 if desk.journals() else 0))
    refused(done, backend, "before anything was sent; plan and approve anew")
    assert desk.records("run") and not desk.records("sent")
    run = _latest(desk)
    refused(desk.run("resume", run, "--yes", at=time.time() + 3600), backend, f"acctops rerun {run}")
    again = desk.run("rerun", run, "--save", "again.json", "--key", people.key("ana"))
    assert again.code == 0, again.text
    assert people.approve("again.json").code == 0
    assert people.apply("again.json").code == 0
    assert locked(backend) == ALL


def test_a_run_goes_on_by_its_own_approval(desk: Desk, backend: Backend, people: People) -> None:
    """Once it has sent, no clock stops it; a key that was taken out since does."""

    def carry_out(job: Path) -> Done:
        assert people.save(job).code == 0
        assert people.approve().code == 0
        return people.apply()

    stopped_early(desk, backend, carry_out)
    before = len(backend.writes())
    people.allow("ana", "eve")
    without = desk.run("resume", _latest(desk), "--yes")
    assert without.code == 3 and "is not one of" in without.text, without.text
    assert len(backend.writes()) == before
    people.allow("ana", "bob")
    assert desk.run("resume", _latest(desk), "--yes", "--deadline", "1m", at=time.time() + 7200).code == 0
    assert locked(backend) == ALL
    assert len(backend.writes()) > before


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"version": "0.0.1"}, 3, "was made by acctops 0.0.1"),
        ({"state": "0123456789abcdef"}, 3, "another state directory"),
        ({"uins": {"": "100000000999"}}, 5, "100000000999"),
        ({"uins": {}}, 5, "cloud accounts"),
        ({"parent": "20261122T031321Z-k3f9"}, 3, "the run that it goes back to"),
        ({"verb": "rerun"}, 2, "does not say what was typed"),
        ({"request": {}}, 2, "does not say how it was made"),
    ],
)
def test_a_plan_for_something_else_is_refused_though_two_have_signed_it(
    desk: Desk, backend: Backend, people: People, changes: dict[str, Any], code: int, words: str
) -> None:
    """Of another version, for another state directory, for another cloud account."""
    assert people.save(desk.job()).code == 0
    refused(people.apply(forged(people, "ana", "bob", **changes)), backend, words, code=code)


def test_a_job_that_was_edited_since_is_refused(desk: Desk, backend: Backend, people: People) -> None:
    """What was signed is what the job said then."""
    job = desk.job()
    assert people.save(job).code == 0
    assert people.approve().code == 0
    job.write_text(job.read_text() + "reason: another one\n")
    refused(people.apply(), backend, "is no longer as it was", "plan and approve anew")


def test_a_setting_that_changed_since_is_refused(desk: Desk, backend: Backend, people: People) -> None:
    """Nothing that decides what is sent, and how, is another than what was signed."""
    assert people.save(desk.job()).code == 0
    assert people.approve().code == 0
    config = desk.work / "config.yaml"
    config.write_text(config.read_text() + "rate: 3\n")
    refused(people.apply(), backend, "rate is no longer as it was")


def test_protect_of_today_wins(desk: Desk, backend: Backend, people: People) -> None:
    """A guard that was added after the signature holds, and what it leaves is sent."""
    assert people.save(desk.job()).code == 0
    assert people.approve().code == 0
    config = desk.work / "config.yaml"
    config.write_text(config.read_text() + 'protect: ["*/bob"]\n')
    done = people.apply()
    assert done.code == 0, done.text
    assert locked(backend) == ALL - {(A, "bob")}
    assert [line["reason"] for line in desk.records("omit")] == ["protected"]
    assert desk.run("journal", "verify", "latest").code == 0


# ---- without it ------------------------------------------------------------------------------------------------------


def test_somebody_may_go_on_without_if_the_config_lets_him(desk: Desk, backend: Backend, people: People) -> None:
    """Everybody who gets notices is told, whatever they are told otherwise, and every report says so."""
    job = desk.job()
    refused(desk.run("run", job, "--yes", "--unapproved", "fire"), backend, "--unapproved is not allowed here")
    people.ask(unapproved="true")
    told = desk.work / "told"
    told.mkdir()
    script = desk.write("tell.sh", f"#!/bin/sh\ncat > {told}/$$.json\n")
    script.chmod(0o755)
    config = desk.work / "config.yaml"
    config.write_text(config.read_text() + f"notify: {{command: [{script}], on: [failure]}}\n")
    done = desk.run("run", job, "--yes", "--unapproved", "fire", "--json")
    assert done.code == 0, done.text
    assert done.json["unapproved"] == "fire" and "WITHOUT THE APPROVAL" in done.err
    (notice,) = (json.loads(path.read_text()) for path in told.iterdir())
    assert (notice["event"], notice["unapproved"]) == ("unapproved", "fire")
    assert "WITHOUT THE APPROVAL that was asked for: fire" in desk.run("report", "latest").out


def test_a_simulated_run_needs_none(desk: Desk, people: People) -> None:
    """A drill touches no account; and there is nothing to approve of it."""
    assert desk.run("run", desk.job(), "--simulate", "--yes").code == 0
    by_hand = ("lock", f"{A}/ann", "--region", "ap-singapore", "--simulate")
    assert desk.run(*by_hand, "--save", "plan.json", "--key", people.key("ana")).code == 2


def test_the_journal_shows_a_signature_that_is_not_of_its_plan(desk: Desk, backend: Backend, people: People) -> None:
    """Somebody who knows the rule of the chain seals other signatures into it."""
    assert people.save(desk.job()).code == 0
    assert people.approve().code == 0
    assert people.apply().code == 0
    path = desk.journal()
    lines = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
    for change in ("fingerprint", "signature"):
        bent = [dict(line) for line in lines]
        signed = [line for line in bent if line["kind"] == "approved"]
        signed[1][change] = signed[0][change]
        path.write_bytes(sealed(bent))
        found = desk.run("journal", "verify", "latest")
        assert found.code == 7 and "`approved`" in found.text, found.text


Rewrite = Callable[[list[dict[str, Any]]], object]


def first(lines: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    return next(line for line in lines if line["kind"] == kind)


def other_calls(lines: list[dict[str, Any]]) -> None:
    calls = [line for line in lines if line["kind"] == "call"]
    calls[-1].update(user="root2", call=call_id("", "ap-singapore", calls[-1]["instance"], "root2", "LockAccount"))
    ids = "\n".join(line["call"] for line in calls)
    first(lines, "run")["plan_digest"] = hashlib.sha256(ids.encode()).hexdigest()


@pytest.mark.parametrize(
    ("rewrite", "words"),
    [
        (other_calls, "of other calls"),
        (lambda lines: first(lines, "run").update(action="UnlockAccount"), "of"),
        (lambda lines: first(lines, "run")["settings"].update(hold_then="unlock"), "something else later"),
        (lambda lines: first(lines, "approved").update(at="2099-01-01T00:00:00.000Z"), "had expired"),
    ],
)
def test_signatures_in_a_journal_are_of_nothing_else(
    desk: Desk, backend: Backend, people: People, rewrite: Rewrite, words: str
) -> None:
    """Good signatures under another plan, or of another time, are worth nothing: to a resume, and to who verifies."""
    assert people.save(desk.job()).code == 0
    assert people.approve().code == 0
    late = people.apply(clock=lambda: time.time() + (3600 if desk.journals() else 0))
    assert late.code == 3 and not backend.writes(), late.text
    path = desk.journal()
    lines = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
    lines = lines[: next(at for at, line in enumerate(lines) if line["kind"] == "confirmed") + 1]
    rewrite(lines)
    path.write_bytes(sealed(lines))
    verified = desk.run("journal", "verify", "latest")
    assert verified.code == 7 and words in verified.text, verified.text
    resumed = desk.run("resume", _latest(desk), "--yes")
    assert resumed.code in {2, 3, 7} and "Traceback" not in resumed.text, resumed.text
    assert not backend.writes()


def test_a_certificate_is_no_key(desk: Desk, backend: Backend, people: People) -> None:
    """Two certificates can be of one key, so they do not count as two people."""
    authority = desk.place / "keys" / "authority"
    make_key(authority)
    public = authority.with_suffix(".pub").read_text().strip()
    argv = ["ssh-keygen", "-q", "-s", authority, "-I", "ana again", "-n", "bob", desk.place / "keys" / "ana.pub"]
    subprocess.run(argv, check=True, timeout=30)
    people.allow("ana", lines=(f"bob cert-authority {public}",))
    assert people.save(desk.job()).code == 0
    done = desk.run("approve", "plan.json", "--key", desk.place / "keys" / "ana-cert.pub", "--yes")
    refused(done, backend, "two certificates can be of one key")
    refused(people.apply(), backend, "signed by ana")


def test_a_plan_of_another_host_is_refused(desk: Desk, backend: Backend, people: People) -> None:
    """A state directory on a shared disk belongs to one host: two would not see each other's use."""
    assert people.save(desk.job()).code == 0
    assert people.approve().code == 0
    desk.env["ACCTOPS_HOST_ID"] = "another"
    refused(people.apply(), backend, "another state directory")


def sealed(lines: list[dict[str, Any]]) -> bytes:
    """The lines with a chain of their own."""
    head, whole = "0" * 64, b""
    for line in lines:
        said = {key: value for key, value in line.items() if key != "hash"}
        content = json.dumps(said, separators=(",", ":"), ensure_ascii=False).encode()
        head = hashlib.sha256(head.encode() + content).hexdigest()
        whole += content[:-1] + f',"hash":"{head}"}}\n'.encode()
    return whole


def test_doctor_says_whether_anybody_can_pass(desk: Desk, backend: Backend, people: People) -> None:
    """A gate that nobody can pass is found before the night on which it matters."""

    def found() -> dict[str, Any]:
        checks = desk.run("doctor", "--json").json["checks"]
        return next(each for each in checks if each["check"] == "approvals" and each["result"] != "warn")

    assert found()["result"] == "ok"
    people.allow("ana", lines=(people.line("ana", principal="twice"), people.line("bob", 'valid-before="20200101Z"')))
    assert found()["result"] == "fail" and "has 1 that count today" in found()["words"]
    people.ask(approvers=3)
    people.allow("ana", "bob", "eve")
    assert found()["result"] == "fail"
    people.signers.chmod(0o666)
    assert "may write it" in found()["words"]


def test_flags_that_would_be_dropped_are_refused(desk: Desk, people: People) -> None:
    """A plan that is saved is signed, and nothing else."""
    job = desk.job()
    for argv in (
        ("plan", job, "--save", "p"),
        ("plan", job, "--key", "k"),
        ("plan", job, "--save", "p", "--key", "k", "--offline"),
        ("plan", job, "--reason", "why"),
        ("apply",),
        ("approve", "plan.json"),
    ):
        assert desk.run(*argv).code == 2, argv
    desk.write("there.json", "{}")
    assert "is there already" in people.save(job, "there.json").text


def test_the_flags_of_approve_and_apply_do_something(desk: Desk, backend: Backend, people: People) -> None:
    """What is typed is never dropped: how it is shown, which config and state directory hold, and the window."""
    assert people.save(desk.job(*(f"{A}/u{number}" for number in range(30)))).code == 0
    key = ("--key", people.key("bob"))
    assert "and 10 more" in desk.run("approve", "plan.json", *key, typed="0\n").out
    assert "u29" in desk.run("approve", "plan.json", "--all", *key, typed="0\n").out
    more = desk.write("more.yaml", "approvals: {approvers: 3, actions: LockAccount}\n")
    lacking = desk.run("approve", "plan.json", *key, "--yes", "--json", "--config", more).json["lacking"]
    assert "4 different keys" in lacking
    assert desk.run("approve", "plan.json", "--key", people.key("eve"), "--yes", "--quiet").text == ""
    refused(people.apply("plan.json", "--config", str(more)), backend, "4 different keys")
    refused(people.apply("plan.json", "--state-dir", str(desk.place / "other")), backend, "another state directory")
    refused(people.apply("plan.json", "--quiet", "--json", "--now", at=time.time() + 9999), backend, "has expired")


def test_a_window_is_no_reason_not_to_prepare(desk: Desk, backend: Backend, people: People) -> None:
    """A plan is saved and signed before its window, and sends only inside of it."""
    shut = 'window: {days: [mon], from: "00:00", until: "00:01", timezone: UTC}'
    assert people.save(desk.job(extra=shut)).code == 0
    assert people.approve().code == 0
    refused(people.apply(), backend, "outside the window")
    assert desk.run("apply", "plan.json", "--now", typed="3\n").code == 0
    assert locked(backend) == ALL


def test_tend_opens_nothing_that_people_must_sign(desk: Desk, backend: Backend, people: People) -> None:
    """A machine has no key: it tells once, with the command, and the accounts stay locked until people have signed."""
    people.ask(actions="OpenAccountCAM")
    job = desk.job(extra="hold: {for: 1h, then: unlock}")
    assert desk.run("run", job, "--yes").code == 0
    people.ask(actions="UnlockAccount")
    before, late = len(backend.writes()), time.time() + 3660
    told = desk.run("tend", at=late)

    assert told.code == 0 and "needs the signatures of 2 different keys" in told.text, told.text
    assert "signatures" not in desk.run("tend", at=late + 300).text, "it is told once"
    assert len(backend.writes()) == before
    assert locked(backend) == ALL
    run = _latest(desk)
    saved = desk.run("undo", run, "--family", "--due", "--save", "u.json", "--key", people.key("ana"), at=late)
    assert saved.code == 0, saved.text
    assert people.approve("u.json", at=late).code == 0
    assert people.apply("u.json", at=late).code == 0
    assert locked(backend) == set()


async def test_a_program_needs_one_too(desk: Desk, backend: Backend, people: People) -> None:
    """An approval that a program makes is a value, and no signature."""
    job = desk.job()
    with environment(desk.env, desk.work):
        async with Engine() as acctops:
            with pytest.raises(RefusedError, match="signatures of 2 different keys"):
                await acctops.plan(job)
            planned = await acctops.plan(job, is_applying=True)
            assert isinstance(planned, Planned)
            with pytest.raises(RefusedError, match="signatures of 2 different keys"):
                await acctops.begin(planned, Approval(how="I say so"))
    assert not backend.writes() and not desk.journals()
