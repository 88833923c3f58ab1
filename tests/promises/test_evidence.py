"""An evidence bundle has all that was recorded, is the same each time, and shows every alteration with Python alone."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from engine.evidence import verify
from engine.journal.heads import Seal
from engine.journal.store import RunStore
from engine.simulator.world import World
from tests.support.command import Backend, Desk, records

PROGRAM = Path(verify.__file__)
GONE = {"code": "InvalidParameterValue.AccountNotExistError", "user": "bob", "times": 1}


class Story:
    """A lockdown of a ticket, its rerun and its undo, and a run of another ticket; all in the list of ends."""

    def __init__(self, place: Path, *, sealed: bool) -> None:
        place.mkdir()
        self.desk = desk = Desk(place)
        with Backend(World(latency=0, quotas={"*": None})) as backend:
            desk.env["ACCTOPS_ENDPOINT"] = backend.endpoint
            backend.world.seed("postgres-aaaaaaaa", "ap-singapore", ["ann", "bob"])
            backend.world.seed("postgres-bbbbbbbb", "ap-singapore", ["eve"])
            backend.script(GONE)
            desk.job()
            self.first = desk.run("run", "job.yaml", "--yes", "--json", "--ticket", "INC-1").json["run"]
            backend.script()
            self.other = desk.run("lock", "postgres-bbbbbbbb/eve", "--region", "ap-singapore", "--yes", "--json",
                                  "--ticket", "INC-2").json["run"]  # fmt: skip
            self.rerun = desk.run("rerun", self.first, "--yes", "--json").json["run"]
            self.undo = desk.run("undo", self.first, "--yes", "--json").json["run"]
        self.store = RunStore(desk.state)
        if sealed:
            key = desk.work / "key"
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(key)], check=True)
            public = key.with_suffix(".pub").read_text().strip()
            desk.write("signers", f"# a comment with hunter2\nauditor@site {public} laptop-of-ann\n").chmod(0o444)
            desk.write("config.yaml", "approvals: {signers: signers}\n")
            said = subprocess.run(["ssh-keygen", "-lf", str(key)], check=True, capture_output=True, text=True).stdout
            self.fingerprint = said.split()[1]
        for run in (self.first, self.other, self.rerun, self.undo):
            lines = records(desk.state / "runs" / run / "journal.jsonl")
            line = self.store.list_end(run, head=lines[-1]["hash"], lines=len(lines), exit_code=0, clock=lambda: 1.79e9,
                                       seal=self.fingerprint if sealed and run == self.first else None)  # fmt: skip
            if line.seal is not None:
                argv = ["ssh-keygen", "-q", "-Y", "sign", "-f", str(desk.work / "key"), "-n", "acctops-seal@1"]
                signed = subprocess.run(argv, input=line.raw, capture_output=True, check=True).stdout.decode()
                self.store.add_seal(Seal(seq=line.seq, run=run, hash=line.hash, signature=signed))

    def bundle(self, *argv: str, name: str = "b.zip", code: int = 0) -> Path:
        done = self.desk.run("evidence", *argv, "--out", name)
        assert done.code == code, done.text
        return self.desk.work / name


def unpacked(bundle: Path, into: Path) -> Path:
    with zipfile.ZipFile(bundle) as file:
        file.extractall(into)
    return into


def asked(folder: Path, program: Path | None = None) -> tuple[int, str]:
    """What `verify.py` says, on a machine with Python alone."""
    argv = [os.path.realpath(sys.executable), "-I", "-S", str(program or folder / "verify.py")]
    done = subprocess.run(
        [*argv, *([str(folder)] if program else [])], env={"PATH": ""}, capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout


def mended(folder: Path) -> None:
    """SHA256SUMS written anew by whoever altered a member."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    rows = (
        f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n"
        for name in names
        if name != "SHA256SUMS"
    )
    (folder / "SHA256SUMS").write_text("".join(rows))


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    sealed = shutil.which("ssh-keygen") is not None
    yield Story(tmp_path_factory.mktemp("evidence") / "desk", sealed=sealed)


@pytest.fixture(scope="module")
def good(story: Story) -> Path:
    return unpacked(story.bundle("--ticket", "INC-1", name="good.zip"), story.desk.place / "good")


def test_a_bundle_is_good_by_python_alone(story: Story, good: Path) -> None:
    """The auditor has no acctops, no packages and no programs. All runs of the ticket are in it, and no other."""
    code, text = asked(good)
    assert code == 0 and "all is as it was written: 3 runs" in text, text
    assert {path.name for path in (good / "runs").iterdir()} == {story.first, story.rerun, story.undo}
    for member in ("journal.jsonl", "job.yaml", "report.json", "report.csv"):
        assert (good / "runs" / story.first / member).is_file()
    assert (good / "verify.py").read_bytes() == PROGRAM.read_bytes()


def test_an_ed25519_seal_is_checked_without_ssh_keygen(story: Story, good: Path) -> None:
    """And ssh-keygen agrees; no comment of the file of signers is handed on."""
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not here")
    code, text = asked(good)
    assert code == 0 and f"the signature holds: key {story.fingerprint}, of auditor@site in signers" in text
    argv = [sys.executable, str(good / "verify.py"), "--with-ssh-keygen"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0 and "ssh-keygen finds it good" in done.stdout
    assert "hunter2" not in (good / "signers").read_text() and "laptop" not in (good / "signers").read_text()


def altered(folder: Path, rng: Random) -> tuple[str, str]:
    """Alter one thing; return what was done and the name that must be told."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    journals = [name for name in names if name.endswith("journal.jsonl")]
    kinds = ("byte", "byte", "removed", "added", "renamed", "swapped", "exchanged", "cut", "head", "foreign", "line")
    kind, name = rng.choice(kinds), rng.choice(names)
    path = folder / name
    if kind == "byte":
        data = bytearray(path.read_bytes())
        at = rng.randrange(len(data))
        data[at] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
    elif kind == "removed":
        path.unlink()
    elif kind == "added":
        name = rng.choice(["runs/x.txt", "note.txt", f"{journals[0]}.old", ".hidden"])
        (folder / name).write_text("more\n")
    elif kind == "renamed":
        path.rename(path.with_name(f"{path.name}.x"))
    elif kind == "swapped":
        other = folder / rng.choice([each for each in names if each != name])
        mine, theirs = path.read_bytes(), other.read_bytes()
        if mine == theirs:
            theirs += b" "
        path.write_bytes(theirs)
        other.write_bytes(mine)
    else:
        return kind, in_journals(folder, kind, journals, rng)
    return f"{kind} {name}", name


def in_journals(folder: Path, kind: str, journals: list[str], rng: Random) -> str:
    """Alter what a hash list alone does not protect, and mend the hash list; return the name that must be told."""
    name = "heads.jsonl" if kind == "head" else rng.choice(journals)
    path = folder / name
    lines = path.read_bytes().splitlines(keepends=True)
    if kind == "exchanged":
        at = rng.randrange(len(lines) - 1)
        lines[at], lines[at + 1] = lines[at + 1], lines[at]
    elif kind == "cut":
        lines = lines[: rng.randrange(1, len(lines))]
    elif kind == "foreign":
        shutil.copytree(folder / Path(name).parent, folder / "runs" / "20260101T000000Z-zzzz")
        mended(folder)
        return "20260101T000000Z-zzzz"
    else:
        del lines[rng.randrange(len(lines))]
    path.write_bytes(b"".join(lines))
    mended(folder)
    return name


@pytest.mark.parametrize("seed", range(50))
def test_every_alteration_is_named(good: Path, tmp_path: Path, seed: int) -> None:
    """By a byte, a member or a line, with the hash list mended where that is what somebody would do."""
    folder = shutil.copytree(good, tmp_path / "bundle")
    what, name = altered(folder, Random(seed))
    code, text = asked(folder, PROGRAM)
    assert code == 1 and name in text, (what, text)
    inside = folder / "verify.py"
    if inside.is_file() and inside.read_bytes() == PROGRAM.read_bytes():
        assert asked(folder) == (code, text)


def test_a_run_of_another_ticket_is_named(story: Story, good: Path, tmp_path: Path) -> None:
    """A run that somebody adds, with its own good chain, its line in the manifest and the sums mended."""
    folder = shutil.copytree(good, tmp_path / "bundle")
    theirs = unpacked(story.bundle(story.other, name="other.zip"), tmp_path / "other")
    shutil.copytree(theirs / "runs" / story.other, folder / "runs" / story.other)
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    manifest["runs"] += json.loads((theirs / "MANIFEST.json").read_text())["runs"]
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))
    mended(folder)
    code, text = asked(folder)
    assert code == 1 and f"runs/{story.other}: does not belong here: it is of ticket 'INC-2'" in text


def test_a_run_taken_out_with_all_that_lists_it_is_named(story: Story, good: Path, tmp_path: Path) -> None:
    """Out of the manifest and the sums, too: the journals of the others name it."""
    folder = shutil.copytree(good, tmp_path / "bundle")
    shutil.rmtree(folder / "runs" / story.undo)
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    manifest["runs"] = [each for each in manifest["runs"] if each["run"] != story.undo]
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))
    mended(folder)
    code, text = asked(folder)
    assert code == 1 and f"runs/{story.undo}: is missing" in text


def test_two_calls_give_the_same_bytes(story: Story, tmp_path: Path) -> None:
    """In another zone, locale, directory and with another umask."""
    one = story.bundle(story.first, name="one.zip").read_bytes()
    env = {**story.desk.env, "TZ": "Asia/Tokyo", "LC_ALL": "C", "LANG": "C"}
    process = story.desk.popen("evidence", story.first, "--out", "two.zip", env=env, cwd=tmp_path, umask=0o277)
    assert story.desk.end(process).code == 0
    two = tmp_path / "two.zip"
    assert two.read_bytes() == one and two.stat().st_mode & 0o777 == 0o600


def test_nothing_is_overwritten(story: Story, tmp_path: Path) -> None:
    """A file, a directory, a link, a pipe, a place that is not there: exit 2, and nothing is changed or left."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to("gone")
    os.mkfifo(tmp_path / "pipe")
    for name in ("file", "directory", "link", "pipe", "no/where"):
        done = story.desk.run("evidence", story.first, "--out", tmp_path / name)
        assert done.code == 2 and name in done.err, done.text
    assert (tmp_path / "file").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["directory", "file", "link", "pipe"]


def test_a_full_disk_leaves_nothing(story: Story) -> None:
    if not os.access("/dev/full", os.W_OK):
        pytest.skip("there is no /dev/full")
    small = story.desk.place / "small"
    small.mkdir()
    process = story.desk.popen("evidence", story.first, "--out", small / "b.zip", under=("prlimit", "--fsize=4000"))
    done = story.desk.end(process)
    assert done.code == 2 and "cannot be written" in done.err and not list(small.iterdir())


class Alone:
    """A story that a test may damage."""

    def __init__(self, place: Path) -> None:
        self.story = Story(place / "desk", sealed=False)
        self.out = place / "out"

    def path(self, run: str) -> Path:
        return self.story.desk.state / "runs" / run / "journal.jsonl"


@pytest.fixture
def alone(tmp_path: Path) -> Alone:
    return Alone(tmp_path)


def test_a_run_that_was_removed_is_named(alone: Alone) -> None:
    """Its line in the list of ends and the run that it undid say that it was there: exit 1, with what to run next."""
    shutil.rmtree(alone.path(alone.story.undo).parent)
    done = alone.story.desk.run("evidence", alone.story.first, "--out", "b.zip")
    assert done.code == 1 and f"missing: runs/{alone.story.undo}/journal.jsonl" in done.err and "next: " in done.err
    code, text = asked(unpacked(alone.story.desk.work / "b.zip", alone.out))
    assert code == 0 and f"not in the bundle: runs/{alone.story.undo}/journal.jsonl" in text


def test_a_damaged_journal_is_in_it_as_it_is(alone: Alone) -> None:
    """Exit 7, and whoever checks the bundle is told, too."""
    path = alone.path(alone.story.first)
    path.write_bytes(path.read_bytes().replace(b"bob", b"rob"))
    done = alone.story.desk.run("evidence", alone.story.first, "--out", "b.zip", "--json")
    assert done.code == 7 and [each["what"] for each in done.json["damaged"]] == [
        f"runs/{alone.story.first}/journal.jsonl"
    ]
    folder = unpacked(alone.story.desk.work / "b.zip", alone.out)
    assert (folder / "runs" / alone.story.first / "journal.jsonl").read_bytes() == path.read_bytes()
    code, text = asked(folder)
    assert code == 1 and "so it was already when the bundle was made" in text


def test_a_journal_that_was_cut_is_damaged_by_the_list_of_ends(alone: Alone) -> None:
    """Its own chain holds; the list says how many lines it had."""
    path = alone.path(alone.story.other)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    done = alone.story.desk.run("evidence", alone.story.other, "--out", "b.zip", "--json")
    assert done.code == 7 and "it was cut or replaced" in done.text


def test_a_run_without_end_is_said(alone: Alone) -> None:
    """It is taken up to its last whole line."""
    path = alone.path(alone.story.other)
    (alone.story.desk.state / "heads.jsonl").unlink()
    path.write_bytes(path.read_bytes()[:-20])
    done = alone.story.desk.run("evidence", alone.story.other, "--out", "b.zip", "--json")
    assert done.code == 0 and done.json["cut_off"] == [alone.story.other]
    code, text = asked(unpacked(alone.story.desk.work / "b.zip", alone.out))
    assert code == 0 and "cut off: its journal has no end" in text


def test_a_job_that_was_edited_is_named(alone: Alone) -> None:
    """Its text is not what the run was planned from, so it is not in the bundle."""
    alone.story.desk.job("postgres-aaaaaaaa/zoe")
    done = alone.story.desk.run("evidence", alone.story.first, "--out", "b.zip")
    assert done.code == 1 and "its digest differs" in done.err
    assert not list(unpacked(alone.story.desk.work / "b.zip", alone.out).rglob("job*.yaml"))


def test_a_watch_belongs_to_its_run(alone: Alone) -> None:
    """By the link beside the run's journal, and by its parent; from either side the bundle has both."""
    desk = alone.story.desk
    with Backend(World(latency=0, quotas={"*": None})) as backend:
        desk.env["ACCTOPS_ENDPOINT"] = backend.endpoint
        words = ("lock", "postgres-cccccccc/zoe", "--region", "ap-singapore", "--watch", "1h", "--yes", "--json")
        run = desk.run(*words).json["run"]
        watched = desk.run("tend", at=time.time() + 400)
        assert watched.code == 0, watched.text
    parents = {path.parent.name: records(path, "run")[0]["parent"] or {} for path in desk.journals()}
    (watch,) = [each for each, parent in parents.items() if parent.get("run") == run and parent["verb"] == "watch"]
    for asked_for in (run, watch):
        assert desk.run("evidence", asked_for, "--out", f"{asked_for}.zip", "--json").json["runs"] == sorted(
            (run, watch)
        )
    code, text = asked(unpacked(desk.work / f"{run}.zip", alone.out))
    assert code == 0, text


def test_what_was_typed_was_never_a_job_file(alone: Alone) -> None:
    """So it is not missing: exit 0."""
    assert alone.story.desk.run("evidence", alone.story.other, "--out", "b.zip").code == 0


def test_no_secret_of_a_job_is_in_it(desk: Desk) -> None:
    """Arguments of commands, and what looks like a secret in a comment, are taken out; the manifest has the lines."""
    secrets = ("s3cr3t-argument", "hunter22", "T0ken4711", "AKIDabcdefghijk123", "alice:pw")
    job = desk.job(
        "postgres-aaaaaaaa/ann",
        extra=f"notify: {{command: [tee, --token, {secrets[0]}]}}  # password: {secrets[1]}\n"
        f"# https://hooks.example/{secrets[2]}\n# {secrets[3]}\n# http://{secrets[4]}@proxy:3128",
    )
    run = desk.run("run", job, "--simulate", "--yes", "--json").json["run"]
    done = desk.run("evidence", run, "--out", "b.zip", "--json")
    name = f"runs/{run}/job.redacted.yaml"
    assert done.code == 0 and done.json["redacted"] == [{"member": name, "lines": [3, 4, 5, 6]}], done.text
    with zipfile.ZipFile(desk.work / "b.zip") as file:
        whole = b"".join(map(file.read, file.namelist()))
        text = file.read(name).decode()
    assert not [each for each in secrets if each.encode() in whole]
    assert "postgres-aaaaaaaa/ann" in text and "hooks.example" in text and "tee" in text
    assert asked(unpacked(desk.work / "b.zip", desk.place / "out"))[0] == 0


def test_hostile_names_are_obeyed_by_nothing(desk: Desk) -> None:
    """Neither a terminal nor a zip program sees them as more than text."""
    (desk.work / "\x1b[31m;rm").mkdir()
    job = desk.job("postgres-aaaaaaaa/ann", name="\x1b[31m;rm/j.yaml", extra='name: "../../=cmd"')
    run = desk.run("run", job, "--simulate", "--yes", "--json").json["run"]
    done = desk.run("evidence", run, "--out", "b.zip")
    assert done.code == 0 and "\x1b" not in done.text
    with zipfile.ZipFile(desk.work / "b.zip") as file:
        assert all(verify.OF_RUN.fullmatch(name) or name in verify.TOP for name in file.namelist())
    code, text = asked(unpacked(desk.work / "b.zip", desk.place / "out"))
    assert code == 0 and text.isascii() and "\x1b" not in text


def test_no_such_run_or_ticket(desk: Desk) -> None:
    for argv in (["--ticket", "INC-9"], ["latest"], [], ["latest", "--ticket", "INC-9"]):
        done = desk.run("evidence", *argv, "--out", "b.zip")
        assert done.code == 2 and not (desk.work / "b.zip").exists(), done.text


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "null", "\0", '{"runs":[{"run":"x"}],"missing":3,"about":[]}', "[" * 9999]
)
def test_any_manifest_is_named_and_no_traceback(good: Path, tmp_path: Path, text: str) -> None:
    folder = shutil.copytree(good, tmp_path / "bundle")
    (folder / "MANIFEST.json").write_text(text)
    mended(folder)
    code, said = asked(folder)
    assert code == 1 and "WRONG" in said


def test_arguments_that_a_journal_keeps_are_said(desk: Desk) -> None:
    """A journal is handed on as it is: what its gate is called with must be looked at."""
    job = desk.job("postgres-aaaaaaaa/ann", extra="waves: [{take: rest}]\ngate: {command: [./gate.sh, --token, x1]}")
    desk.write("gate.sh", "#!/bin/sh\n").chmod(0o755)
    run = desk.run("run", job, "--simulate", "--yes", "--json").json["run"]
    done = desk.run("evidence", run, "--out", "b.zip")
    assert done.code == 0 and "keeps arguments of commands" in done.err, done.text


@pytest.mark.parametrize("seed", range(20))
def test_members_of_any_shape_give_no_traceback(good: Path, tmp_path: Path, seed: int) -> None:
    """Whatever stands where a number, a text or a list should, with the sums mended: it is wrong, and said in words."""
    rng = Random(seed)
    folder = shutil.copytree(good, tmp_path / "bundle")
    names = [path for path in sorted(folder.rglob("*.json*")) if path.is_file()]
    path = rng.choice(names)
    rows = [path.read_bytes()] if path.suffix == ".json" else path.read_bytes().splitlines()
    at = rng.randrange(len(rows))
    row = json.loads(rows[at])
    for _ in range(3):
        value = rng.choice([None, -1, 10**30, 1.5, "", "x", [], [[]], {}, {"run": []}, True])
        row[rng.choice(sorted(row))] = value
    rows[at] = json.dumps(row).encode()
    path.write_bytes(b"".join(each + b"\n" for each in rows))
    mended(folder)
    code, said = asked(folder)
    assert code in (0, 1) and said, said
    # What is no proof is compared with SHA256SUMS alone: words of the manifest and of a report, the URL of a seal.
    assert code == 1 or path.name in ("report.json", "MANIFEST.json", "seals.jsonl"), said


def in_manifest(folder: Path, run: str | None, **changes: object) -> None:
    """Alter the manifest, or what it says of a run, and mend the sums."""
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    (manifest if run is None else next(each for each in manifest["runs"] if each["run"] == run)).update(changes)
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))
    mended(folder)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("as_of", "2020-01-01T00:00:00.000Z", "says as of 2020-01-01T00:00:00.000Z"),
        ("simulated", True, "says simulated: true"),
        ("action", "UnlockAccount", "its action is 'UnlockAccount'; its journal says 'LockAccount'"),
        ("ticket", "INC-9", "its ticket is 'INC-9'"),
        ("job", "another", "its job is 'another'"),
        ("state", "cut off", "that it is 'cut off'; by its journal it ended with line"),
    ],
)
def test_what_the_manifest_tells_is_compared_with_the_journals(
    story: Story, good: Path, tmp_path: Path, key: str, value: object, said: str
) -> None:
    """A reader looks at the manifest and the last line, and not into journals: they must not say something else."""
    folder = shutil.copytree(good, tmp_path / "bundle")
    in_manifest(folder, None if key in ("as_of", "simulated") else story.first, **{key: value})
    code, text = asked(folder)
    assert code == 1 and "WRONG: MANIFEST.json: says " in text and said in text, text


@pytest.mark.parametrize("member", ["report.json", "report.csv", "report.html", "job.yaml"])
def test_a_member_taken_out_of_the_sums_as_well_is_missing(
    story: Story, good: Path, tmp_path: Path, member: str
) -> None:
    """Every bundle has these beside a journal, unless the manifest says why not."""
    folder = shutil.copytree(good, tmp_path / "bundle")
    path = folder / "runs" / story.first / member
    if not path.exists():
        pytest.skip("what makes this report is not installed")
    path.unlink()
    mended(folder)
    code, text = asked(folder)
    assert code == 1 and f"WRONG: runs/{story.first}/{member}: is missing" in text, text


def test_a_session_forged_behind_the_last_listed_end_is_wrong(story: Story, good: Path, tmp_path: Path) -> None:
    """With a good chain, the manifest and the sums mended: the list of ends does not have that end."""
    folder = shutil.copytree(good, tmp_path / "bundle")
    place = folder / "runs" / story.undo
    lines = (place / "journal.jsonl").read_bytes().splitlines()
    last = json.loads(lines[-1])
    more = {key: value for key, value in last.items() if key != "hash"} | {"seq": len(lines) + 1}
    body = json.dumps(more, separators=(",", ":")).encode()
    new = hashlib.sha256(last["hash"].encode() + body).hexdigest()
    lines.append(body[:-1] + f',"hash":"{new}"}}'.encode())
    (place / "journal.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
    report = place / "report.json"
    report.write_text(report.read_text().replace(last["hash"], new))
    in_manifest(folder, story.undo, lines=len(lines), head=new)
    code, text = asked(folder)
    assert code == 1 and f"line {len(lines)} is an end that heads.jsonl does not list" in text, text


def test_a_bundle_of_simulated_runs_says_so_in_its_last_line(desk: Desk) -> None:
    """Nobody takes a rehearsal for the real thing."""
    run = desk.run("run", desk.job("postgres-aaaaaaaa/ann"), "--simulate", "--yes", "--json").json["run"]
    assert desk.run("evidence", run, "--out", "b.zip").code == 0
    code, text = asked(unpacked(desk.work / "b.zip", desk.work / "out"))
    assert code == 0 and "all is as it was written: 1 runs, SIMULATED" in text, text


def test_runs_of_the_list_that_are_not_in_the_bundle_are_named(story: Story, good: Path) -> None:
    """The auditor can ask for them: only their owner knows that they are of another incident."""
    assert f"heads.jsonl lists 1 runs whose journals are not in the bundle, and should be of other incidents: " \
           f"{story.other}" in asked(good)[1]  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="sparse files and /proc are Linux's")
@pytest.mark.parametrize("name", ["MANIFEST.json", "SHA256SUMS", "heads.jsonl", "README.txt", "journal", "report.json"])
def test_a_member_without_end_fills_no_memory(story: Story, good: Path, tmp_path: Path, name: str) -> None:
    """Half a gigabyte of nothing in any member: wrong, and in words, within 200 MB."""
    folder = shutil.copytree(good, tmp_path / "bundle")
    inside = {"journal": f"runs/{story.first}/journal.jsonl", "report.json": f"runs/{story.first}/report.json"}
    path = folder / inside.get(name, name)
    os.truncate(path, 500 << 20)
    limited = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_AS, (230 << 20, 230 << 20)); "
        "program = sys.argv.pop(1); runpy.run_path(program, run_name='__main__')"
    )
    argv = [os.path.realpath(sys.executable), "-I", "-S", "-c", limited, str(PROGRAM), str(folder)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "WRONG" in done.stdout and "MemoryError" not in done.stdout, done
    assert not done.stderr, done.stderr


def test_thousands_of_faults_end_the_search(good: Path, tmp_path: Path) -> None:
    """A forger's list of a million seals, each of no line, neither hangs it nor fills the screen."""
    folder = shutil.copytree(good, tmp_path / "bundle")
    with (folder / "seals.jsonl").open("ab") as file:
        file.write(b'{"seq":1,"run":"x","hash":"x","signature":"x","stamp":null}\n' * 100_000)
    mended(folder)
    code, text = asked(folder)
    assert code == 1 and len(text.splitlines()) < 1100 and "or more; the rest was not looked at" in text


def test_the_journal_of_another_run_in_its_place_is_wrong(story: Story, good: Path, tmp_path: Path) -> None:
    """With its own good chain, and manifest, report and sums mended: each line says whose it is."""
    folder = shutil.copytree(good, tmp_path / "bundle")
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    theirs = next(each for each in manifest["runs"] if each["run"] == story.undo)
    shutil.copy(folder / "runs" / story.undo / "journal.jsonl", folder / "runs" / story.rerun / "journal.jsonl")
    report = folder / "runs" / story.rerun / "report.json"
    report.write_text(re.sub(r'"journal_head": "[0-9a-f]*"', f'"journal_head": "{theirs["head"]}"', report.read_text()))
    in_manifest(folder, story.rerun, **{key: theirs[key] for key in ("lines", "head", "action", "job", "ticket")})
    code, text = asked(folder)
    assert code == 1 and f"line 1 is of run '{story.undo}', not of {story.rerun}" in text, text
