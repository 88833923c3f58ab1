"""Advice never strands an account: whoever does what the last lines say, literally, comes to an end at which every
account is as asked, or is named with its reason.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

from engine.simulator.faults import rules_from
from engine.simulator.fleet import fleet_from
from engine.simulator.world import World
from tests.support.command import Backend, Desk, Done, records

STEPS = 12
"""So many commands at most, from the first to the last."""
REFUSED = "InvalidParameterValue.InvalidAccountNameError"
"""A refusal for good: no repeating mends it."""
FATAL = "AuthFailure.SecretIdNotFound"
COMMAND = re.compile(r"acctops [a-z]+ .*")


def estate(instances: int, users: int) -> dict[str, list[str]]:
    return {f"postgres-{number:08}": [f"user{user}" for user in range(users)] for number in range(instances)}


def world_of(estate: dict[str, list[str]], *faults: dict[str, Any]) -> World:
    fleet = [{"id": name, "region": "ap-singapore", "accounts": users} for name, users in estate.items()]
    return World(fleet=fleet_from({"instances": fleet}), faults=rules_from(faults), quotas={"*": None})


class Night:
    """An operator who does what is printed, and nothing else."""

    def __init__(self, desk: Desk, backend: Backend, estate: dict[str, list[str]]) -> None:
        self.desk, self.backend, self.estate = desk, backend, estate
        desk.env["ACCTOPS_ENDPOINT"] = backend.endpoint
        self.labels = [f"{instance}/{user}" for instance, users in estate.items() for user in users]

    def do(self, *argv: str | Path) -> Done:
        done = self.desk.run(*argv)
        assert "Traceback" not in done.text and "a defect of acctops" not in done.text, done.text
        assert not re.search(r"acctops [a-z]+ (?:RUN|JOB)\b", done.text), done.text
        return done

    def lock(self, *flags: str, extra: str = "") -> Done:
        self.desk.job(*self.labels, extra=extra)
        return self.do("run", "job.yaml", "--yes", *flags)

    def next_of(self, done: Done) -> list[str] | None:
        """The first command of the last lines."""
        lines = [line for line in done.text.splitlines() if line.startswith("go on:")]
        if not lines and (found := re.search(r"(?:first|go on with): (acctops [^;()\n]+)", done.text)):
            lines = [found[1]]
        return shlex.split(lines[0].partition("acctops ")[2]) if lines else None

    def follow(self, done: Done) -> Done:
        """Do what is advised until nothing is, or until it repeats itself and changes nothing any more."""
        for _ in range(STEPS):
            argv = self.next_of(done)
            if argv is None:
                return done
            again = self.do(*argv, *([] if argv[0] in ("status", "report") else ["--yes"]))
            if argv[0] == "rerun" and self.bad(again) == self.bad(done) and not self.moved(again):
                return again
            done = again
        pytest.fail(f"no end in {STEPS} steps:\n{done.text}")

    def moved(self, done: Done) -> bool:
        return not re.search(r"^0 of ", done.out, re.MULTILINE)

    def bad(self, done: Done) -> set[str]:
        """Accounts that the last output names."""
        return {label for label in self.labels if label in done.text}

    def stands(self) -> dict[str, int]:
        """How the server has each account."""
        found = {}
        for label in self.labels:
            instance, _, user = label.partition("/")
            account = self.backend.world.account(instance, user)
            assert account is not None
            found[label] = account.status
        return found

    def not_so(self, status: int) -> set[str]:
        return {label for label, now in self.stands().items() if now != status}

    def holders(self, run: str) -> list[str]:
        """The other runs that hold anything."""
        return [each["run"] for each in self.desk.run("holds", "--json").json["holds"] if each["run"] != run]

    def run_id(self) -> str:
        return self.desk.journals()[-1].parent.name


def night(desk: Desk, where: dict[str, list[str]], *faults: dict[str, Any]) -> Iterator[Night]:
    with Backend(world_of(where, *faults)) as backend:
        yield Night(desk, backend, where)


# ---- rounds --------------------------------------------------------------------------------------------------------


def troubles(rng: random.Random) -> tuple[dict[str, Any], ...]:
    """Faults that end after a while, and some that never do."""
    passing: Sequence[dict[str, Any]] = (
        {"action": "LockAccount", "user": "user1", "code": "InvalidParameterValue.InvalidAccountNameError", "times": 2},
        {"action": "LockAccount", "after": rng.randint(0, 8), "times": 1, "code": FATAL},
        {"action": "LockAccount", "reset_after": True, "times": rng.randint(1, 3)},
        {"action": "LockAccount", "status": 502, "times": rng.randint(1, 3)},
        {"action": "LockAccount", "code": "InternalError", "times": rng.randint(1, 6)},
        {"action": "LockAccount", "code": "OperationDenied.InstanceAccessDeniedError", "times": rng.randint(1, 3)},
        {"action": "DescribeAccounts", "after": rng.randint(2, 6), "code": "InternalError", "times": rng.randint(1, 9)},
        {"action": "UnlockAccount", "after": rng.randint(0, 5), "times": 1, "code": FATAL},
        {"action": "UnlockAccount", "reset_after": True, "times": rng.randint(1, 2)},
        {"action": "DescribeAccounts", "code": "InternalError", "after": rng.randint(9, 14), "times": 4},
    )
    lasting: Sequence[dict[str, Any]] = ({"user": "user2", "action": "LockAccount", "code": REFUSED},)
    return (*rng.sample(list(passing), rng.randint(1, 3)), *(lasting if rng.random() < 0.3 else ()))


def stops(rng: random.Random) -> tuple[tuple[str, ...], str]:
    """How the first session may be cut short: flags, and a line of the job."""
    return rng.choice(
        (
            ((), ""),
            (("--deadline", f"{rng.randint(1, 4) * 50}ms", "--rate", "60"), ""),
            ((), "stop_after: 2"),
            (("--exclude", "*/user3"), ""),
        )
    )


def habit(it: Night, rng: random.Random, done: Done) -> Done:
    """Once in a while somebody does something else first, as people do."""
    run = it.run_id()
    match rng.choice(("advice", "advice", "failed", "unattempted", "latest", "crash", "part")):
        case "failed":
            return it.do("rerun", run, "--only", "failed", "--yes")
        case "unattempted":
            return it.do("rerun", run, "--only", "unattempted,unknown", "--yes")
        case "latest":
            return it.do("resume", "latest", "--yes")
        case "crash":  # its last line was not written any more
            path = it.desk.journals()[-1]
            lines = path.read_bytes().splitlines(keepends=True)
            if b'"kind":"end"' in lines[-1]:
                path.write_bytes(b"".join(lines[:-1]))
            return it.do("status", run)
        case "part":
            first, second = it.do("rerun", run, "--only", "failed", "--yes"), it.run_id()
            return first if second == run else it.do("status", rng.choice((run, second)))
    return done


@pytest.mark.parametrize("seed", range(30))
def test_following_the_advice_strands_no_account(desk: Desk, seed: int) -> None:
    """Whatever fails and however a run is stopped: at the end of the advice every account is locked, or named with why.
    Then the same for its undo.
    """
    rng = random.Random(seed)
    flags, extra = stops(rng)
    retry = "retry: {transient: 200ms, busy: 200ms}"
    for it in night(desk, estate(rng.randint(2, 5), rng.randint(2, 4)), *troubles(rng)):
        first = it.lock(*flags, extra="\n".join((extra, retry)))
        last = it.follow(habit(it, rng, first))
        excluded = {label for label in it.labels if label.endswith("/user3") and "--exclude" in flags}
        named = it.bad(last) | excluded
        assert it.not_so(5) <= named, f"locked by nobody and named nowhere: {it.not_so(5) - named}\n{last.text}"
        assert last.code != 0 or it.not_so(5) <= excluded, f"exit 0: {last.text}"
        run = records(desk.journals()[0], "run")[0]["run"]
        undone = it.follow(it.do("undo", run, "--family", "--yes"))
        for other in it.holders(run):  # the job was run again, as advised: that run holds what it found locked
            undone = it.follow(it.do("undo", other, "--family", "--yes"))
        left = it.not_so(2)
        assert undone.code != 0 or not left, f"exit 0: {undone.text}"
        assert left <= it.bad(undone), f"left locked and named nowhere: {left - it.bad(undone)}\n{undone.text}"


# ---- a part that was repeated --------------------------------------------------------------------------------------


@pytest.fixture
def stopped(desk: Desk) -> Iterator[Night]:
    """Nine accounts; the keys are refused after the fourth call, one of the first three for another reason."""
    faults = (
        {"action": "LockAccount", "user": "user0", "instance": "postgres-00000001", "code": REFUSED, "times": 1},
        {"action": "LockAccount", "after": 3, "times": 1, "code": FATAL},
    )
    for it in night(desk, estate(3, 3), *faults):
        done = it.lock("--rate", "20")
        assert done.code == 4 and "1 failed" in done.out and "unattempted" in done.out
        yield it


def open_of(done: Done) -> str:
    """What the last lines say of the whole family."""
    return next((line for line in done.out.splitlines() if line.startswith("of run ")), "")


def test_a_stopped_run_advises_to_resume_it_and_nothing_else(stopped: Night) -> None:
    """A rerun of what failed, advised beside it, has once been taken for all there was to do."""
    run = stopped.run_id()
    for verb in ("status", "report", "stop"):
        said = stopped.do(verb, run).text
        assert f"go on:  acctops resume {run}" in said and "rerun" not in said
    assert f"→ acctops resume {run}" in stopped.do("status").out
    assert f"→ acctops resume {run}" in stopped.do("status", "--since", "1h").out
    assert stopped.do("status", run, "--json").json["go_on"] == f"acctops resume {run}"


def test_a_rerun_of_a_part_says_what_of_the_whole_is_open(stopped: Night) -> None:
    """It ends with 0 for what it was asked, and says in words and JSON that this was not all, however quiet it is."""
    run = stopped.run_id()
    left = len(stopped.not_so(5)) - 1
    done = stopped.do("rerun", run, "--only", "failed", "--yes", "--quiet")
    assert done.code == 0
    assert open_of(done) == f"of run {run} and its reruns {left} of 9 are still open: {left} unattempted"
    assert f"go on:  acctops resume {run}" in done.out
    child = stopped.run_id()
    for argv in (["status", child], ["report", child], ["status", run], ["resume", "latest"], ["resume", child]):
        assert open_of(stopped.do(*argv)) == open_of(done), argv
    document = stopped.do("status", child, "--json").json
    assert document["exit"] == 0 and document["open"] == left and document["go_on"] == f"acctops resume {run}"
    nothing = stopped.do("rerun", run, "--only", "failed", "--yes")
    assert "settled by a later rerun" in nothing.err and open_of(nothing) == open_of(done)


def test_a_run_that_was_continued_goes_on_with_its_own_calls(stopped: Night) -> None:
    """And with none that a later rerun has: nothing is sent twice, nothing is left."""
    run = stopped.run_id()
    stopped.do("rerun", run, "--only", "failed", "--yes")
    before = [(arrival.instance, arrival.user) for arrival in stopped.backend.writes()]
    left = {tuple(label.split("/")) for label in stopped.not_so(5)}
    done = stopped.do("resume", run, "--yes")
    sent = [(arrival.instance, arrival.user) for arrival in stopped.backend.writes()][len(before) :]
    assert set(sent) == left and len(sent) == len(left)
    assert not stopped.not_so(5) and open_of(done) == f"of run {run} and its reruns all 9 are as asked"
    assert done.code == 0, "nothing is open any more, so nothing is to be done"
    again = stopped.do("resume", run)
    assert again.code == 0 and "nothing to resume" in again.err
    family = stopped.do("report", run, "--family", "--json").json
    assert family["counts"]["changed"] == 9 and family["left_out"]["rerun"] == 0 and family["open"] == 0
    assert stopped.do("undo", run, "--family", "--yes").code == 0 and not stopped.not_so(2)


def test_a_resume_that_sees_the_work_of_a_rerun_taken_back_does_not_say_that_all_is_as_asked(stopped: Night) -> None:
    """What the rerun has proven is older than what the resume reads itself; the last line leads to who came back."""
    run = stopped.run_id()
    stopped.do("rerun", run, "--only", "failed", "--yes")
    stopped.do("unlock", "postgres-00000001/user0", "--region", "ap-singapore", "--yes")
    done = stopped.do("resume", run, "--yes")
    assert done.code == 1 and open_of(done) == f"of run {run} and its reruns 1 of 9 are still open: 1 failed"
    argv = stopped.next_of(done)
    assert argv is not None and argv[0] == "verify"
    looked = stopped.do(*argv)
    assert looked.code == 1 and "CAME BACK, not locked: postgres-00000001/user0" in looked.out
    again = re.search(r"1 account came back: acctops (.*)", looked.err)
    assert again is not None
    assert stopped.do(*shlex.split(again[1]), "--yes").code == 0 and not stopped.not_so(5)


def test_what_a_later_rerun_has_open_is_that_one_s(stopped: Night) -> None:
    """A rerun of the rest that was stopped, too: its parent leaves it all to it, and says which command takes it."""
    run = stopped.run_id()
    stopped.backend.script({"action": "LockAccount", "after": 1, "times": 1, "code": FATAL})
    assert stopped.do("rerun", run, "--only", "unattempted,unknown", "--yes").code == 4
    child = stopped.run_id()
    writes = len(stopped.backend.writes())
    done = stopped.do("resume", run, "--yes")
    assert done.code == 1 and len(stopped.backend.writes()) == writes
    lines = [line for line in done.out.splitlines() if line.startswith(("go on:", "then:"))]
    assert lines == [f"then:   acctops resume {child}", f"go on:  acctops rerun {run} --only failed"][::-1]
    assert stopped.follow(done).code == 0 and not stopped.not_so(5)


def test_an_attempt_in_doubt_is_read_by_the_run_that_made_it(desk: Desk) -> None:
    """The rerun finds the account locked already: it was the first run's attempt, so its undo must bring it back."""
    for it in night(desk, estate(1, 2)):
        it.lock()
        run, path = it.run_id(), desk.journal()
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(takewhile(lambda line: b'"kind":"verified"' not in line, lines)))  # a crash
        done = it.do("rerun", run, "--only", "unknown", "--yes", "--json").json
        assert done["counts"]["already"] == 2
        alone = it.do("undo", run, "--family", "--yes")
        assert alone.code == 1 and "stays, unproven  2; named one by one" in alone.out and not it.not_so(5)
        refused = it.do("undo", run, "--yes")
        assert refused.code == 3 and f"first: acctops resume {run}" in refused.err
        assert it.follow(refused).code == 0
        assert it.do("undo", run, "--family", "--yes").code == 0 and not it.not_so(2)


# ---- limits of one session -----------------------------------------------------------------------------------------


def test_the_deadline_of_a_flag_ends_with_its_session(desk: Desk) -> None:
    """`--deadline 100ms` was for one night; that of the job holds for all, and is said."""
    for it in night(desk, estate(3, 3)):
        done = it.lock("--deadline", "100ms", "--rate", "20")
        assert done.code == 4 and "deadline of" in done.out
        (settings,) = [line["settings"] for line in records(desk.journal(), "run")]
        assert settings["deadline_s"] is None and settings["session_deadline_s"] == 0.1
        resumed = it.do("resume", it.run_id())
        assert resumed.code == 0 and "as run" not in resumed.err
    assert not it.not_so(5)


@pytest.mark.parametrize("verb", ["resume", "rerun"])
def test_the_deadline_of_the_job_goes_on_and_is_said(desk: Desk, verb: str) -> None:
    for it in night(desk, estate(3, 3)):
        assert it.lock("--rate", "20", extra="deadline: 150ms").code == 4
        run = it.run_id()
        again = it.do(verb, run, "--yes")
        assert f"as run {run} was told: deadline 0.1 s (--deadline D)" in again.err and again.code in (0, 4)


def test_a_deadline_of_an_older_journal_is_kept_and_said(desk: Desk) -> None:
    """It does not tell whether it came of a flag."""
    for it in night(desk, estate(3, 3)):
        assert it.lock("--rate", "20", extra="deadline: 150ms").code == 4
        rewrite(desk.journal(), lambda line: line.get("settings", {}).pop("session_deadline_s", None))
        assert "was told: deadline" in it.do("resume", it.run_id()).err


# ---- undo: one rule ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beside", [True, False], ids=["beside something undone", "alone"])
@pytest.mark.parametrize("why", ["edited", "gone", "unread", "before_unknown"])
def test_an_undo_that_leaves_something_exits_1_whatever_else_it_did(desk: Desk, why: str, beside: bool) -> None:
    """Exit 0 would say that all is as before. Each reason is counted, and followed by the command that takes it."""
    where = {"postgres-00000000": ["ann"], "postgres-00000001": ["bob"]}
    (ann, bob) = "postgres-00000000/ann", "postgres-00000001/bob"
    for it in night(desk, where):
        it.lock()
        run = it.run_id()
        leave(it, why, run, "postgres-00000001", "bob")
        if not beside:
            assert it.do("undo", run, "--target", "*/ann", "--yes").code == 0
        done = it.do("undo", run, "--yes")
        assert done.code == 1 and it.not_so(5) == {ann}, done.text
        again = it.do("undo", run, "--yes", "--json")
        assert again.code == again.json["exit"] == 1 and again.json["open"] == 1
        command = next(line for line in reversed(done.out.splitlines()) if f"acctops undo {run}" in line)
        if why == "unread":
            assert command.startswith("go on:") and again.json["go_on"] == f"acctops undo {run}"
            it.backend.script()
        else:
            assert f"stays, {why.replace('_', ' ')}  1" in command and again.json["go_on"] is None
        taken = it.do(*shlex.split(command.rpartition("acctops ")[2]), "--yes")
        assert taken.code == 0, taken.text
        assert it.not_so(5) == ({ann} if why == "gone" else {ann, bob})


def leave(it: Night, why: str, run: str, instance: str, user: str) -> None:
    """Make an undo of the run leave one account."""
    account = it.backend.world.account(instance, user)
    assert account is not None
    if why == "edited":
        account.update_time = account.update_time + 3600
    elif why == "gone":
        there = it.backend.world.instance(instance)
        assert there is not None
        it.labels.remove(f"{instance}/{user}")
        del there.accounts[user]
        account.name = "dbadmin"
        there.accounts["dbadmin"] = account
    elif why == "unread":
        it.backend.script(
            {"action": "DescribeAccounts", "instance": instance, "code": "OperationDenied.CamDeniedError"}
        )
    else:
        forget_before(it, run, user)


def forget_before(it: Night, run: str, user: str) -> None:
    """As if one account had not been read before it was changed."""
    path = it.desk.state / "runs" / run / "journal.jsonl"
    (call,) = [line["call"] for line in records(path, "call") if line["user"] == user]

    def forget(line: dict[str, Any]) -> None:
        if line["kind"] == "before" and line["call"] == call:
            line.update(dict.fromkeys(("status", "cam", "type", "update_time", "password_update_time")), why="not read")

    rewrite(path, forget)


def rewrite(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Another journal than was written, whole; nothing else knows what it was."""
    path.parents[2].joinpath("heads.jsonl").unlink(missing_ok=True)
    head, lines = "0" * 64, []
    for line in records(path):
        line.pop("hash")
        edit(line)
        content = json.dumps(line, separators=(",", ":"), ensure_ascii=False).encode()
        head = hashlib.sha256(head.encode() + content).hexdigest()
        lines.append(content[:-1] + f',"hash":"{head}"}}\n'.encode())
    path.write_bytes(b"".join(lines))


def test_an_undo_of_a_run_says_what_its_reruns_changed(stopped: Night) -> None:
    """Undone alone, the run leaves locked what a rerun of it has locked."""
    run = stopped.run_id()
    stopped.do("rerun", run, "--only", "failed", "--yes")
    done = stopped.do("undo", run, "--yes")
    assert f"1 more were changed by reruns of it: acctops undo {run} --family" in done.err
    (last,) = [line for line in done.out.splitlines() if "1 more were changed by reruns" in line]
    assert last.endswith(f": acctops undo {run} --family")
    assert len(stopped.not_so(2)) == 1
    assert stopped.do("undo", run, "--family", "--yes").code == 0 and not stopped.not_so(2)


def test_what_a_stopped_run_never_did_can_be_done_after_its_undo(stopped: Night) -> None:
    """It is not resumed, as that was taken back; the refusal says which new run does it all the same."""
    run = stopped.run_id()
    assert stopped.do("undo", run, "--yes").code == 0
    refused = stopped.do("resume", run)
    assert refused.code == 3 and "was undone by" in refused.err
    assert f"acctops rerun {run} --only failed,unattempted" in refused.err
    shown = stopped.do("status", run).out
    assert "go on:" not in shown and f"acctops rerun {run} --only failed,unattempted" in shown


# ---- what can be pasted --------------------------------------------------------------------------------------------


def test_every_printed_command_finds_its_run_from_anywhere(desk: Desk, tmp_path: Path) -> None:
    """With the state directory and the config that were named, quoted for a shell; the id is the true one."""
    elsewhere, config = tmp_path / "my runs", desk.write("my config.yaml", "workers: 50\n")
    place = ("--state-dir", str(elsewhere), "--config", str(config))
    fatal = {"action": "LockAccount", "after": 2, "times": 1, "code": FATAL}
    for it in night(desk, estate(2, 2), fatal):
        done = it.lock(*place)
        for said in (done, it.do("status", "latest", *place), it.do("status", *place)):
            line = next(line for line in reversed(said.out.splitlines()) if "acctops resume" in line)
            words = shlex.split(line.partition("acctops ")[2])
            assert words[2:] == [*place], line
        done = it.do(*words)
        assert done.code == 0 and not it.not_so(5)
        run = words[1]
        undone = it.do("undo", run, "--yes", *place)
        assert undone.code == 0
        refused = it.do("resume", run, *place)
        assert refused.code == 3
        for command in COMMAND.findall(refused.err):
            assert "--state-dir" in command and "--config" in command


@pytest.mark.parametrize("is_there", [True, False], ids=["the job is there", "the job is gone"])
def test_what_came_back_is_followed_by_the_command_that_does_it_again(desk: Desk, is_there: bool) -> None:
    """The job, or the accounts by name: pasted as it is, it brings them where they were."""
    names = estate(2, 2)
    with Backend(world_of(names)) as backend:
        night = Night(desk, backend, names)
        night.lock()
        run = desk.journal().parent.name
        night.do("unlock", *night.labels[:3], "--region", "ap-singapore", "--yes")
        if not is_there:
            (desk.work / "job.yaml").unlink()
        done = night.do("verify", run)
        assert done.code == 1
        found = re.search(r"3 accounts came back: (acctops .*)", done.err)
        assert found is not None, done.err
        argv = shlex.split(found[1])[1:]
        assert argv[0] == ("run" if is_there else "lock")
        assert night.do(*argv, "--yes").code == 0
        assert night.do("verify", run).code == 0


def test_rows_that_are_all_bad_are_counted_before_they_are_offered(desk: Desk) -> None:
    """`--skip-bad-rows` is offered with the number of rows that it would send, and not where that is none."""
    bad = "instance,user,region\npostgres-aaaaaaaa,ann,nowhere at all\npostgres-aaaaaaaa,bob,nowhere at all\n"
    desk.write("list.csv", bad)
    desk.write("job.yaml", "action: LockAccount\ntargets:\n  - {csv: list.csv}\n")
    plain = desk.run("plan", "job.yaml", "--offline")
    assert plain.code == 2 and "sends the good ones" not in plain.err
    skipped = desk.run("plan", "job.yaml", "--offline", "--skip-bad-rows")
    assert skipped.code == 2 and "leaves nothing to send" in skipped.err
    desk.write("list.csv", f"{bad}postgres-aaaaaaaa,eve,ap-singapore\n")
    assert "sends the good ones (1)" in desk.run("plan", "job.yaml", "--offline").err
    assert desk.run("plan", "job.yaml", "--offline", "--skip-bad-rows").code == 0


def test_a_region_where_no_instance_of_the_job_is_leads_back_to_the_job(desk: Desk) -> None:
    """A rerun has the same region and would say the same for ever; the job, corrected, is what ends it."""
    names = estate(1, 2)
    with Backend(world_of(names)) as backend:
        night = Night(desk, backend, names)
        job = night.desk.job(*night.labels)
        job.write_text(job.read_text().replace("ap-singapore", "ap-tokyo"))
        done = night.do("run", "job.yaml", "--yes")
        assert done.code == 1 and "found in ap-singapore" in done.out
        assert "acctops rerun" not in done.out
        last = done.out.rstrip().splitlines()[-2]
        assert "once the job is corrected: acctops run" in last
        night.desk.job(*night.labels)
        assert night.do(*shlex.split(COMMAND.findall(last)[0])[1:], "--yes").code == 0
