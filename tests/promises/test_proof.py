"""What was removed, cut, written anew or put back older is found by `journal verify --all`, as is a missing seal."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any

import pytest

from engine.errors import Reason
from engine.inputs.sealing import SealSpec
from engine.journal.heads import HeadLine, Seal, read_heads, read_seals
from engine.journal.lines import Chain, decode_unchecked
from engine.journal.store import RunStore
from engine.model import Place
from engine.operations.proving import prove
from engine.operations.terms import Terms
from engine.outside.sshkeys import sign
from engine.simulator.world import World
from tests.support.command import Backend, Desk, Done
from tests.support.signing import make_key, needs_ssh_keygen

A, B = "postgres-aaaaaaaa", "postgres-bbbbbbbb"
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not here; it stamps and checks")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def backend(desk: Desk) -> Iterator[Backend]:
    world = World(quotas={"*": None})
    world.seed(A, "ap-singapore", ["ann", "bob"])
    world.seed(B, "ap-singapore", ["eve", "kim"])
    with Backend(world) as server:
        desk.env["ACCTOPS_ENDPOINT"] = server.endpoint
        yield server


def ran(desk: Desk, *users: str, **options: Any) -> Done:
    """A run that ended well."""
    done = desk.run("run", desk.job(*users, name=f"job{len(desk.journals())}.yaml"), "--yes", **options)
    assert done.code == 0, done.text
    return done


@pytest.fixture
def three(desk: Desk, backend: Backend) -> list[str]:
    """Three runs, oldest first."""
    for target in (f"{A}/ann", f"{A}/bob", f"{B}/eve"):
        ran(desk, target)
    return [line.run for line in read_heads(desk.state)]


def proof(desk: Desk, *flags: str) -> Done:
    done = desk.run("journal", "verify", "--all", *flags)
    assert "Traceback" not in done.text and "internal error" not in done.text
    return done


def journal(desk: Desk, run: str) -> Path:
    return desk.state / "runs" / run / "journal.jsonl"


def sealed_with(desk: Desk, **more: Any) -> Path:
    """From now on a config seals the ends of runs with a new key."""
    key = desk.place / f"seal{len(list(desk.place.glob('seal*.pub')))}"
    make_key(key)
    desk.write("config.yaml", "seal: " + json.dumps({"key": str(key), **more}) + "\n")
    return key


def written_anew(path: Path, change: Callable[[Any], Any]) -> None:
    """A journal written anew by somebody who knows the rule of its chain: each line holds."""
    records = [decode_unchecked(line) for line in path.read_bytes().splitlines()]
    assert all(record is not None for record in records)
    chain: Chain | None = None
    lines = []
    for record in records:
        assert record is not None
        at, run = record.at, record.run
        new = change(record)
        if new is None:
            continue
        new.seq = 0
        chain = chain or Chain(run)
        lines.append(chain.add(new, at))
    path.write_bytes(b"".join(lines))


# ---- as it is meant --------------------------------------------------------------------------------------------------


def test_every_end_is_listed(desk: Desk, three: list[str]) -> None:
    """A line for each run, in order, with the head that the run printed."""
    listed = read_heads(desk.state)
    assert [line.seq for line in listed] == [1, 2, 3] and len(set(three)) == 3
    done = proof(desk)
    assert done.code == 0, done.text
    assert "the chains of 3 runs hold" in done.out and listed[-1].hash in done.out
    for line in listed:
        last = journal(desk, line.run).read_bytes().splitlines()[-1]
        assert line.head == json.loads(last)["hash"] and line.exit == 0 and not line.late
    found = proof(desk, "--json").json
    assert found["stores"][0]["faults"] == [] and found["stores"][0]["last"]["hash"] == listed[-1].hash
    assert oct((desk.state / "heads.jsonl").stat().st_mode & 0o777) == "0o600"


def test_a_further_end_adds_a_line(desk: Desk, backend: Backend) -> None:
    """A run that was stopped and resumed has two lines, and both are of lines of its journal."""
    job = desk.job(f"{A}/ann", f"{A}/bob", f"{B}/eve", extra="stop_after: 1")
    backend.script({"action": "LockAccount", "code": "AuthFailure.UnauthorizedOperation", "times": 1})
    assert desk.run("run", job, "--yes").code != 0
    run = read_heads(desk.state)[0].run
    desk.run("resume", run, "--yes")
    lines = [line for line in read_heads(desk.state) if line.run == run]
    assert len(lines) == 2 and lines[0].lines < lines[1].lines
    assert proof(desk).code == 0


def test_the_chain_is_checked_by_python_alone(desk: Desk, three: list[str]) -> None:
    """The rule of the list is that of a journal, as engine/journal.md has it."""
    head = "0" * 64
    for line in (desk.state / "heads.jsonl").read_bytes().splitlines():
        said = json.loads(line)
        assert said["previous"] == head
        content = line.removesuffix(b',"hash":"%b"}' % said["hash"].encode()) + b"}"
        head = hashlib.sha256(head.encode() + content).hexdigest()
        assert head == said["hash"]
    assert three


# ---- what an attacker does -------------------------------------------------------------------------------------------


def rewrite(desk: Desk, run: str) -> None:
    written_anew(
        journal(desk, run),
        lambda record: setattr(record, "reason", "nothing") or record if type(record).__name__ == "Run" else record,
    )


def remove_run(desk: Desk, run: str) -> None:
    shutil.rmtree(journal(desk, run).parent)


def remove_journal(desk: Desk, run: str) -> None:
    journal(desk, run).unlink()


def cut_the_end(desk: Desk, run: str) -> None:
    lines = journal(desk, run).read_bytes().splitlines(keepends=True)
    journal(desk, run).write_bytes(b"".join(lines[:-1]))


def cut_half(desk: Desk, run: str) -> None:
    lines = journal(desk, run).read_bytes().splitlines(keepends=True)
    journal(desk, run).write_bytes(b"".join(lines[: len(lines) // 2]))


def edit_a_line(desk: Desk, run: str) -> None:
    text = journal(desk, run).read_bytes()
    journal(desk, run).write_bytes(text.replace(b'"changed"', b'"already"', 1))


def forge_an_end(desk: Desk, run: str) -> None:
    """Behind the end a second one, which no session wrote."""
    path = journal(desk, run)
    lines = path.read_bytes().splitlines(keepends=True)
    end = decode_unchecked(lines[-1].strip())
    assert end is not None
    chain = Chain(run, end.seq, end.hash)
    end.seq = 0
    path.write_bytes(b"".join(lines) + chain.add(end, end.at))


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        (rewrite, "written anew"),
        (remove_run, "its journal is gone"),
        (remove_journal, "its journal is gone"),
        (cut_the_end, "its end was cut off, or it is an older copy"),
        (cut_half, "its end was cut off, or it is an older copy"),
        (edit_a_line, "the hash differs"),
        (forge_an_end, "does not list that end"),
    ],
)
@pytest.mark.parametrize("which", [0, 2])
def test_what_is_done_to_a_journal_is_named(
    desk: Desk, three: list[str], attack: Callable[[Desk, str], None], words: str, which: int
) -> None:
    """Exit 7, the run by name, and nothing of the other two."""
    attack(desk, three[which])
    done = proof(desk)
    assert done.code == 7, done.text
    assert f"CORRUPT  run {three[which]}" in done.out and words in done.out
    assert all(f"CORRUPT  run {other}" not in done.out for other in three if other != three[which])
    faults = proof(desk, "--json").json["stores"][0]["faults"]
    assert {fault["run"] for fault in faults} == {three[which]}
    assert proof(desk, "--quiet").out.count("CORRUPT") == len(faults)


def drop_line(lines: list[bytes], at: int) -> list[bytes]:
    return lines[:at] + lines[at + 1 :]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: drop_line(lines, 0), "heads.jsonl:1: seq is 2"),
        (lambda lines: drop_line(lines, 1), "heads.jsonl:2: seq is 3"),
        (lambda lines: drop_line(lines, 2), "does not list that end"),
        (lambda lines: [lines[1], lines[0], lines[2]], "heads.jsonl:1: seq is 2"),
        (lambda lines: [*lines, lines[2]], "heads.jsonl:4: seq is 3"),
        (
            lambda lines: [lines[0], lines[1].replace(b'"exit":0', b'"exit":1'), lines[2]],
            "heads.jsonl:2: the hash differs",
        ),
        (lambda lines: [lines[0], b"null\n", lines[2]], "heads.jsonl:2: is no line of this list"),
        (lambda lines: [lines[0], b'{"v":9}\n', lines[2]], "heads.jsonl:2: is no line of this list"),
    ],
)
def test_what_is_done_to_the_list_is_named(
    desk: Desk, three: list[str], change: Callable[[list[bytes]], list[bytes]], words: str
) -> None:
    """By file and line; the removed last line by the run that it listed."""
    path = desk.state / "heads.jsonl"
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
    done = proof(desk)
    assert done.code == 7 and words in done.out, done.text
    assert three


def test_the_last_lines_and_their_runs_show_by_a_hash_kept_elsewhere(desk: Desk, three: list[str]) -> None:
    """Removed together they leave no trace, and the page says so; a hash that was kept tells."""
    path = desk.state / "heads.jsonl"
    kept = read_heads(desk.state)[-1].hash
    assert proof(desk, "--head", kept).code == 0
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    remove_run(desk, three[-1])
    alone = proof(desk)
    assert alone.code == 0 and "Keep the hash of the last line elsewhere" in alone.err
    done = proof(desk, "--head", kept)
    assert done.code == 7 and f"{kept} is not in heads.jsonl" in done.out
    assert "is that of line 1; 1 line after it" in proof(desk, "--head", read_heads(desk.state)[0].hash).out
    assert proof(desk, "--head", "abc").code == 2
    assert desk.run("journal", "verify").code == 2
    assert desk.run("journal", "verify", three[0], "--all").code == 2


def test_a_run_that_is_verified_alone_is_compared_with_the_list(desk: Desk, three: list[str]) -> None:
    """`journal verify RUN` needs no printed head for what the list shows."""
    good = desk.run("journal", "verify", three[0])
    assert good.code == 0 and "it is as line 1 of heads.jsonl lists it" in good.out
    assert desk.run("journal", "verify", three[0], "--json").json["listed"]["seq"] == 1
    cut_the_end(desk, three[0])
    done = desk.run("journal", "verify", three[0])
    assert done.code == 7 and "its end was cut off" in done.err


def test_an_older_copy_of_a_journal_is_told(desk: Desk, backend: Backend) -> None:
    """T18: an undo that knows a part says so, and never exits 0 until its reader says that no more was changed."""
    ran(desk, f"{A}/ann", f"{A}/bob", f"{B}/eve", f"{B}/kim")
    (listed,) = read_heads(desk.state)
    path = journal(desk, listed.run)
    lines = path.read_bytes().splitlines(keepends=True)
    kinds = [json.loads(line)["kind"] for line in lines]
    half = [at for at, kind in enumerate(kinds) if kind == "settled"][1] + 1
    path.write_bytes(b"".join(lines[:half]))
    assert "an older copy" in desk.run("undo", listed.run, "--yes").err, (
        "even where it is refused as calls are in doubt"
    )
    settled = [at for at, kind in enumerate(kinds) if kind == "settled"][-1] + 1
    path.write_bytes(b"".join(lines[:settled]))
    done = desk.run("undo", listed.run, "--target", "*/ann", "--yes", "--json")
    assert done.code == done.json["exit"] == 1, done.text
    assert "an older copy" in done.err and f"had {listed.lines} lines" in done.err
    nothing = desk.run("undo", listed.run, "--target", "*/ann", "--yes")
    assert nothing.code == 1 and "nothing is left to undo" in nothing.text
    way = f"acctops undo {listed.run} --ignore {listed.run}"
    assert way in done.err
    known = desk.run(*way.split()[1:], "--yes")
    assert known.code == 0 and "an older copy" in known.err, known.text
    assert "an older copy" in desk.run("rerun", listed.run, "--only", "failed", "--yes").err
    assert proof(desk).code == 7, "what was lost stays to be seen"


def test_an_end_that_was_not_listed_is_listed_late(desk: Desk, three: list[str]) -> None:
    """A process that dies between its end and the list: named, and once `tend` has listed it, marked late."""
    path = desk.state / "heads.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    assert proof(desk).code == 7
    tended = desk.run("tend")
    assert tended.code == 0 and "listed" in tended.out and three[-1] in tended.out
    again = desk.run("tend", "--json")
    assert again.json["deeds"] == [], "doing it twice does no more"
    done = proof(desk)
    assert done.code == 0 and "1 run listed late" in done.out and three[-1] in done.out
    assert read_heads(desk.state)[-1].late


def test_runs_from_before_the_list_are_no_fault(desk: Desk, three: list[str]) -> None:
    """After an update old runs have no line; they are named as that."""
    (desk.state / "heads.jsonl").unlink()
    done = proof(desk)
    assert done.code == 0 and "no list of ends" in done.out
    ran(desk, f"{B}/kim")
    done = proof(desk)
    assert done.code == 0 and "3 runs from before the list" in done.out
    assert desk.run("tend", "--json").json["deeds"] == []


def test_a_list_that_cannot_be_written_fails_no_run(desk: Desk, backend: Backend) -> None:
    """The run ends as it did, with a warning that says what does it later."""
    (desk.state).mkdir(parents=True)
    (desk.state / "heads.jsonl").mkdir()
    done = ran(desk, f"{A}/ann")
    assert "the end of the run is not listed" in done.err and "acctops tend" in done.err
    (desk.state / "heads.jsonl").rmdir()
    (desk.state / "heads.jsonl").write_bytes(b"not a list\n")
    assert "its last line is damaged" in ran(desk, f"{A}/bob").err
    assert (desk.state / "heads.jsonl").read_bytes() == b"not a list\n", "nothing is added behind it"
    assert proof(desk).code == 7


@pytest.mark.parametrize("what", ["pipe", "link", "directory", "device"])
def test_a_list_that_is_no_file_is_a_fault(desk: Desk, three: list[str], what: str) -> None:
    """Nobody who looks waits for it, and it does not pass for an empty list."""
    path = desk.state / "heads.jsonl"
    path.rename(desk.state / "kept")
    if what == "pipe":
        os.mkfifo(path)
    elif what == "directory":
        path.mkdir()
    else:
        path.symlink_to("kept" if what == "link" else "/dev/zero")
    done = proof(desk)
    assert done.code == 7 and f"{path}: cannot be read" in done.out and three, done.text
    assert desk.run("status").code == 0


def test_a_torn_line_is_cut_and_lost_nothing(desk: Desk, three: list[str]) -> None:
    """What a crash left behind the last newline counts for nothing."""
    with (desk.state / "heads.jsonl").open("ab") as file:
        file.write(b'{"v":1,"seq":4,"at":"2026')
    assert proof(desk).code == 0
    ran(desk, f"{B}/kim")
    assert [line.seq for line in read_heads(desk.state)] == [1, 2, 3, 4]
    assert three and proof(desk).code == 0


class Moving(RunStore):
    """A state directory in which a run ends while it is checked."""

    def __init__(self, state_dir: Path, meanwhile: Callable[[], object], at: str) -> None:
        super().__init__(state_dir)
        self._meanwhile = {at: meanwhile}

    def listed(self) -> tuple[HeadLine, ...]:
        found = super().listed()
        self._meanwhile.pop("behind the list", lambda: None)()
        return found

    def names(self) -> tuple[str, ...]:
        self._meanwhile.pop("before the runs", lambda: None)()
        return super().names()

    def seals(self) -> tuple[Seal, ...]:
        found = super().seals()
        return found[:-1] if self._meanwhile.pop("before its seal", None) is not None else found


@needs_ssh_keygen
@pytest.mark.parametrize("at", ["behind the list", "before the runs", "before its seal"])
def test_a_run_that_ends_while_all_are_checked_is_no_fault(desk: Desk, backend: Backend, at: str) -> None:
    """A check of thousands of runs takes a while, and somebody is paged for what it says."""
    key = sealed_with(desk)
    ran(desk, f"{A}/ann")
    spec = SealSpec(place=Place("config.yaml"), key=str(key))
    store = Moving(desk.state, lambda: ran(desk, f"{A}/bob"), at)
    found = prove(Terms(), store, spec, None)
    assert found.faults == () and found.reason is Reason.OK
    assert len(read_heads(desk.state)) == (1 if at == "before its seal" else 2)


def test_ends_at_the_same_time_are_all_listed(desk: Desk, backend: Backend) -> None:
    """Twelve runs that end together: twelve lines of one chain."""
    for number in range(12):
        backend.world.seed(f"postgres-c{number:07}", "ap-singapore", ["zoe"])
    jobs = [desk.job(f"postgres-c{number:07}/zoe", name=f"j{number}.yaml") for number in range(12)]
    processes = [desk.popen("run", job, "--yes") for job in jobs]
    assert {desk.end(process).code for process in processes} == {0}
    assert [line.seq for line in read_heads(desk.state)] == list(range(1, 13))
    assert proof(desk).code == 0


# ---- seals -----------------------------------------------------------------------------------------------------------


@needs_ssh_keygen
def test_an_end_is_signed(desk: Desk, backend: Backend) -> None:
    """By the config's key, and ssh-keygen alone says that it holds."""
    key = sealed_with(desk, required_since="2026-01-01")
    ran(desk, f"{A}/ann")
    done = proof(desk)
    assert done.code == 0 and "signed: 1 of 1 line, by a key that counts" in done.out
    (line,), (seal,) = read_heads(desk.state), read_seals(desk.state)
    assert seal.signature is not None and seal.hash == line.hash
    signers, signature = (
        desk.write("signers", f"seal {key.with_suffix('.pub').read_text()}"),
        desk.write("s", seal.signature),
    )
    argv = ["ssh-keygen", "-Y", "verify", "-f", signers, "-I", "seal", "-n", "acctops-seal@1", "-s", signature]
    assert subprocess.run(argv, input=line.raw, capture_output=True, timeout=30).returncode == 0
    assert "PRIVATE" not in "".join(desk.said)


def remove_seal(desk: Desk) -> None:
    path = desk.state / "seals.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def remove_seals(desk: Desk) -> None:
    (desk.state / "seals.jsonl").unlink()


def move_seal(desk: Desk) -> None:
    """The signature of the first line stands in the place of the last one's."""
    path = desk.state / "seals.jsonl"
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    lines[-1]["signature"] = lines[0]["signature"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def spoil_seal(desk: Desk) -> None:
    path = desk.state / "seals.jsonl"
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    lines[-1]["signature"] = "nonsense"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def garbage(desk: Desk) -> None:
    (desk.state / "seals.jsonl").write_text("{\n")


def drop_listed(desk: Desk) -> None:
    """The last line of the list and its run, but not the seal."""
    path = desk.state / "heads.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    remove_run(desk, json.loads(lines[-1])["run"])


@needs_ssh_keygen
@pytest.mark.parametrize("since", ["2026-01-01", None])
@pytest.mark.parametrize(
    ("attack", "words"),
    [
        (remove_seal, "was to be signed by SHA256:"),
        (remove_seals, "was to be signed by SHA256:"),
        (move_seal, "its signature"),
        (spoil_seal, "its signature"),
        (garbage, "seals.jsonl:1: is no seal"),
        (drop_listed, "which heads.jsonl does not have"),
    ],
)
def test_what_is_done_to_a_seal_is_named(
    desk: Desk, backend: Backend, attack: Callable[[Desk], None], words: str, since: str | None
) -> None:
    """Also where no seal is required: the line itself names the key that was to sign it."""
    sealed_with(desk, **({"required_since": since} if since else {}))
    ran(desk, f"{A}/ann")
    ran(desk, f"{A}/bob")
    assert proof(desk).code == 0
    attack(desk)
    done = proof(desk)
    assert done.code == 7 and words in done.out, done.text


@needs_ssh_keygen
def test_another_key_does_not_count(desk: Desk, backend: Backend) -> None:
    """Somebody writes all of it anew, and signs with a key of his own; after a change of keys both count by a file."""
    first = sealed_with(desk)
    ran(desk, f"{A}/ann")
    second = sealed_with(desk)
    ran(desk, f"{A}/bob")
    done = proof(desk)
    assert done.code == 7 and "that is not the key of the config" in done.out and "seal.signers" in done.out
    names = [f"ops {key.with_suffix('.pub').read_text()}" for key in (first, second)]
    signers = desk.write("signers", "".join(names))
    desk.write("config.yaml", "seal: " + json.dumps({"key": str(second), "signers": str(signers)}) + "\n")
    assert proof(desk).code == 0, proof(desk).text
    signers.write_text(f'ops valid-before="20260101Z" {first.with_suffix(".pub").read_text()}{names[1]}')
    assert proof(desk).code == 7
    signers.write_text("".join(name.replace("ops ", 'ops namespaces="git" ') for name in names))
    assert proof(desk).code == 7
    signers.write_text("".join(names))
    path = desk.state / "seals.jsonl"
    seals, before = [json.loads(line) for line in path.read_bytes().splitlines()], path.read_bytes()
    seals[0]["signature"] = sign(read_heads(desk.state)[0].raw, second, "acctops-seal@1")
    path.write_text("".join(json.dumps(line) + "\n" for line in seals))
    assert "the line names SHA256:" in proof(desk).out, "a key that counts, and not the one that was to sign"
    path.write_bytes(before)
    (desk.work / "config.yaml").unlink()
    nobody = proof(desk)
    assert nobody.code == 0 and "2 by keys that no config names" in nobody.out


@needs_ssh_keygen
@pytest.mark.parametrize("what", ["passphrase", "gone", "readable", "directory", "no key"])
def test_a_key_that_does_not_sign_fails_no_run(desk: Desk, backend: Backend, what: str) -> None:
    """The run ends as it did, at once, and nobody is asked for a passphrase; required seals then are missed."""
    key = sealed_with(desk, required_since="2026-01-01")
    if what == "passphrase":
        subprocess.run(["ssh-keygen", "-q", "-p", "-N", "secret phrase", "-f", key], check=True, timeout=30)
    elif what == "readable":
        key.chmod(0o644)
    else:
        key.unlink()
        key.with_suffix(".pub").unlink()
        if what == "directory":
            key.mkdir()
        elif what == "no key":
            key.write_text("nothing\n")
            key.chmod(0o600)
    done = ran(desk, f"{A}/ann")
    assert "not sealed" in done.err and str(key) in done.err
    assert what != "readable" or "others may read this key" in done.err
    missed = proof(desk)
    assert missed.code == 7, missed.text
    doctor = desk.run("doctor")
    assert "seal" in doctor.out and str(key) in doctor.out


@needs_ssh_keygen
def test_a_missed_seal_is_made_up_late(desk: Desk, backend: Backend) -> None:
    """Once the key signs again `tend` seals it, and it stays marked as late."""
    key = sealed_with(desk, required_since="2026-01-01")
    key.chmod(0o644)
    ran(desk, f"{A}/ann")
    tended = desk.run("tend", "--json")
    assert [deed["what"] for deed in tended.json["deeds"]] == [], "a key that does not sign adds no lines"
    key.chmod(0o600)
    tended = desk.run("tend", "--json")
    assert [deed["what"] for deed in tended.json["deeds"]] == ["sealed"]
    done = proof(desk)
    assert done.code == 0 and "listed late" in done.out
    assert desk.run("tend", "--json").json["deeds"] == []


@needs_ssh_keygen
def test_a_notice_carries_the_signed_line(desk: Desk, backend: Backend) -> None:
    """So who gets it keeps the line elsewhere, without doing anything."""
    key = sealed_with(desk)
    told = desk.place / "told"
    config = {"seal": {"key": str(key)}, "notify": {"command": ["tee", str(told)], "on": ["finish"]}}
    desk.write("config.yaml", json.dumps(config))
    ran(desk, f"{A}/ann")
    seal = json.loads(told.read_text())["seal"]
    (line,), (kept,) = read_heads(desk.state), read_seals(desk.state)
    assert seal == {"line": line.raw.decode(), "signature": kept.signature}


@needs_ssh_keygen
@pytest.mark.parametrize(
    ("seal", "words"),
    [
        ("{}", "says neither key nor tsa"),
        ("yes", "expected a mapping"),
        ("{key: ~/k}", "write the whole path"),
        ("{tsa: 'ftp://x'}", "expected a URL"),
        ("{tsa: 'http://me:secret@x/'}", "has no user"),
        ("{tsa: http://x/, required_since: 2026-12-01}", "needs key"),
        ("{key: k, required_since: soon}", "expected a time"),
        ("{key: k, kee: k}", "kee"),
    ],
)
def test_a_wrong_config_is_named(desk: Desk, seal: str, words: str) -> None:
    """By line and column, and a password is not repeated."""
    desk.write("config.yaml", f"seal: {seal}\n")
    done = desk.run("journal", "verify", "--all")
    assert done.code == 2 and words in done.err and "config.yaml:1" in done.err, done.text
    assert "secret" not in done.text


# ---- time stamps -----------------------------------------------------------------------------------------------------


class Authority(ThreadingHTTPServer):
    """A local time-stamping authority that `openssl ts` runs; it can lie."""

    daemon_threads = True

    def __init__(self, place: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Stamping)
        self.place, self.how = place, "well"
        self.answers: list[bytes] = []
        place.mkdir()
        place.joinpath("tsa.cnf").write_text(_CONFIG)
        for argv in _MAKING:
            subprocess.run(["openssl", *argv.split(" ")], cwd=place, check=True, capture_output=True, timeout=60)
        place.joinpath("serial").write_text("01\n")
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/tsr"

    @property
    def ca(self) -> Path:
        return self.place / "ca.pem"

    def stamped(self, asked: bytes) -> bytes:
        self.place.joinpath("q").write_bytes(asked)
        argv = ["ts", "-reply", "-queryfile", "q", "-config", "tsa.cnf", "-section", "one", "-out", "r"]
        subprocess.run(["openssl", *argv], cwd=self.place, check=True, capture_output=True, timeout=60)
        return self.place.joinpath("r").read_bytes()


class _Stamping(BaseHTTPRequestHandler):
    server: Authority

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["Content-Length"]))
        how = self.server.how
        if how == "hangs":
            time.sleep(40)
        answer = {"garbage": b"no", "empty": b"", "huge": b"x" * 200_000}.get(how)
        if how == "again" and self.server.answers:
            answer = self.server.answers[0]
        if answer is None and how == "other":
            answer = self.server.stamped(_asked_for(b"other data", self.server.place))
        if answer is None:
            answer = self.server.stamped(asked)
            self.server.answers.append(answer)
        self.send_response(503 if how == "busy" else 200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        pass


def _asked_for(data: bytes, place: Path) -> bytes:
    place.joinpath("d").write_bytes(data)
    argv = ["ts", "-query", "-data", "d", "-sha256", "-cert", "-out", "q2"]
    subprocess.run(["openssl", *argv], cwd=place, check=True, capture_output=True, timeout=60)
    return place.joinpath("q2").read_bytes()


_MAKING = (
    "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 30 -config tsa.cnf -extensions ca -subj /CN=CA",
    "req -newkey rsa:2048 -nodes -keyout tsa.key -out tsa.csr -config tsa.cnf",
    "x509 -req -in tsa.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile tsa.cnf -extensions tsa "
    "-out tsa.pem",
)
_CONFIG = """
[ req ]
distinguished_name = dn
prompt = no
[ dn ]
CN = TSA
[ ca ]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign
[ tsa ]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = critical,timeStamping
[ one ]
dir = .
serial = ./serial
crypto_device = builtin
signer_cert = ./tsa.pem
certs = ./ca.pem
signer_key = ./tsa.key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
ordering = yes
ess_cert_id_chain = no
"""


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[Authority]:
    server = Authority(tmp_path / "tsa")
    yield server
    server.shutdown()
    server.server_close()


@needs_openssl
def test_an_end_is_stamped(desk: Desk, backend: Backend, authority: Authority) -> None:
    """By the first authority that does so; who vouches for it is said by the config, else by nobody."""
    seal = {"tsa": ["http://127.0.0.1:9/", authority.url], "tsa_ca": str(authority.ca)}
    desk.write("config.yaml", "seal: " + json.dumps(seal) + "\n")
    ran(desk, f"{A}/ann")
    done = proof(desk)
    assert done.code == 0 and "stamped: 1 line, vouched for" in done.out, done.text
    (seal_line,) = read_seals(desk.state)
    assert seal_line.tsa == authority.url and base64.b64decode(seal_line.stamp or "") == authority.answers[0]
    desk.write("config.yaml", "seal: " + json.dumps({"tsa": [authority.url]}) + "\n")
    assert "1 of which no config says who vouches" in proof(desk).out
    other = json.dumps({"tsa": [authority.url], "tsa_ca": str(authority.place / "tsa.pem")})
    desk.write("config.yaml", f"seal: {other}\n")
    assert proof(desk).code == 7
    assert "nobody in" in ran(desk, f"{A}/bob").err, "and such a stamp is not kept"
    assert len(read_seals(desk.state)) == 1


@needs_openssl
@pytest.mark.parametrize("how", ["garbage", "empty", "huge", "again", "other", "busy", "hangs"])
def test_an_authority_that_lies_is_told_and_fails_no_run(
    desk: Desk, backend: Backend, authority: Authority, how: str
) -> None:
    """What it answers is not kept, whatever it is, and the run ends as it did."""
    desk.write("config.yaml", "seal: " + json.dumps({"tsa": authority.url, "tsa_ca": str(authority.ca)}) + "\n")
    ran(desk, f"{A}/ann")
    authority.how = how
    done = ran(desk, f"{A}/bob")
    assert "has no time stamp" in done.err and authority.url in done.err
    assert len(read_seals(desk.state)) == 1
    assert proof(desk).code == 0


@needs_openssl
def test_a_stamp_of_another_line_is_named(desk: Desk, backend: Backend, authority: Authority) -> None:
    """A stamp that was put to another line is a fault."""
    desk.write("config.yaml", "seal: " + json.dumps({"tsa": authority.url}) + "\n")
    ran(desk, f"{A}/ann")
    ran(desk, f"{A}/bob")
    path = desk.state / "seals.jsonl"
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    lines[0]["stamp"], lines[1]["stamp"] = lines[1]["stamp"], lines[0]["stamp"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = proof(desk)
    assert done.code == 7 and "the stamp is of other data" in done.out


# ---- a model ---------------------------------------------------------------------------------------------------------


def test_any_byte_of_the_list_and_its_seals_counts(desk: Desk, three: list[str]) -> None:
    """A hundred random bytes changed, one after the other: each is found."""
    rng = Random(16)
    path = desk.state / "heads.jsonl"
    data = path.read_bytes()
    for _ in range(100):
        at = rng.randrange(len(data) - 1)
        other = rng.choice([byte for byte in range(32, 127) if byte != data[at]])
        path.write_bytes(data[:at] + bytes([other]) + data[at + 1 :])
        assert proof(desk, "--quiet").code == 7, (at, data[at], other)
    path.write_bytes(data)
    assert proof(desk).code == 0 and three


def test_only_a_hash_of_real_runs_is_told_to_be_kept(desk: Desk) -> None:
    """Who has only rehearsed is not told to compare a hash, as that would call the state directory corrupt."""
    ran_once = desk.run("run", desk.job(f"{A}/ann"), "--simulate", "--yes")
    assert ran_once.code == 0, ran_once.text
    done = desk.run("journal", "verify", "--all")
    assert done.code == 0 and "--all --head HASH" not in done.text, done.text
    line = next(line for line in done.out.splitlines() if line.startswith("hash "))
    assert line.endswith("(--head compares that of real runs alone)"), line
    compared = desk.run("journal", "verify", "--all", "--head", line.split()[1])
    assert compared.code == 7 and "or the hash is that of simulated ones" in compared.out, compared.text


@needs_ssh_keygen
def test_a_long_check_of_signatures_shows_that_it_goes_on(desk: Desk, three: list[str]) -> None:
    """A list of years takes minutes: nobody takes that for a hang, and `--quiet` stays quiet."""
    store, last = RunStore(desk.state), read_heads(desk.state)[-1]
    for _ in range(500):
        line = store.list_end(last.run, head=last.head, lines=last.lines, exit_code=0, clock=time.time)
        store.add_seal(Seal(seq=line.seq, run=line.run, hash=line.hash, signature="none"))
    done = desk.run("journal", "verify", "--all")
    assert done.code == 7 and "checked 500 of 500 signatures" in done.err, done.text[-2000:]
    assert "checked" not in desk.run("journal", "verify", "--all", "--quiet").err
