"""What a run is gone on with: under every guard, limit and flag of today, and believed no further than today's job."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from engine.journal import records
from engine.journal.lines import Chain
from engine.journal.reader import read
from engine.model import call_id
from engine.simulator.fleet import fleet_from
from engine.simulator.world import World
from tests.support.command import Backend, Desk, Done

A, B = "postgres-aaaaaaaa", "postgres-bbbbbbbb"
STRANGER = 54321
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
pytestmark = pytest.mark.both_stores


class Site:
    """A desk beside a world of two instances, and what a crash leaves behind."""

    def __init__(self, desk: Desk, backend: Backend) -> None:
        self.desk, self.backend = desk, backend
        desk.env["ACCTOPS_ENDPOINT"] = backend.endpoint
        self.old, self.new = desk.place / "old", desk.place / "new"
        for place in (self.old, self.new):
            place.mkdir()

    def locked(self) -> set[str]:
        found = set()
        for name in (A, B):
            instance = self.backend.world.instance(name)
            assert instance is not None
            found |= {user for user, account in instance.accounts.items() if account.status == 5}
        return found

    def job(self, *users: str, action: str = "LockAccount", extra: str = "") -> Path:
        written = self.desk.job(*(users or (f"{A}/app", f"{A}/breakglass_1")), action=action, extra=extra)
        path = self.old / "job.yaml"
        path.write_bytes(written.read_bytes())
        written.unlink()
        return path

    def copy(self, job: Path, **config: str) -> Path:
        """The same job in another directory, beside another config."""
        path = self.new / "job.yaml"
        path.write_bytes(job.read_bytes())
        if config:
            (self.new / "config.yaml").write_text("".join(f"{key}: {value}\n" for key, value in config.items()))
        return path

    def cut_off(self, job: Path, *flags: str) -> str:
        """A run of the job that was killed before its first send."""
        self.backend.script({"action": "LockAccount", "code": "InternalError"})
        done = self.desk.run("run", job, "--yes", "--deadline", "1s", *flags)
        assert done.code != 0 and self.locked() == set(), done.text
        self.backend.script()
        return self.rewrite(self.path(), lambda record: record)

    def path(self) -> Path:
        return self.desk.journal()

    def rewrite(self, path: Path, change: Callable[[Any], Any]) -> str:
        """The journal up to the operator's yes, changed and sealed anew: what a crash leaves, or a forger makes."""
        kept = [line for line in read(path) if isinstance(line, (records.Run, records.CallLine, records.Confirmed))]
        chain = Chain(path.parent.name)
        lines = [
            chain.add(replace(change(line), v=0, seq=0, at="", run="", hash=""), line.at or "2026-11-28T00:00:00.000Z")
            for line in kept
        ]
        self.desk.rewrite(path.parent.name, b"".join(lines))
        return path.parent.name

    def run(self, *argv: str | Path, code: int = 0) -> Done:
        done = self.desk.run(*argv)
        assert done.code == code, done.text
        assert "Traceback" not in done.err and "internal error" not in done.err
        return done


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    names = {A: ["app", "etl", "breakglass_1"], B: ["eve"]}
    instances = [{"id": name, "region": "ap-singapore", "accounts": users} for name, users in names.items()]
    with Backend(World(fleet=fleet_from({"instances": instances}), quotas={"*": None})) as backend:
        yield Site(Desk(tmp_path), backend)


# ---- guards, limits and flags of this command ----------------------------------------------------------------------


def test_guards_beside_the_job_of_today_hold_for_the_run_it_goes_on_with(site: Site) -> None:
    """The same job, copied beside a rule: what the rule protects is not locked by the run that a crash left."""
    job = site.job()
    run = site.cut_off(job)
    done = site.run("run", site.copy(job, protect='["*/breakglass_*"]'), "--yes")
    assert f"run {run} of this job was cut off" in done.err
    assert site.locked() == {"app"} and len(site.desk.journals()) == 1


def test_a_directory_where_the_job_was_is_not_taken_for_a_run_without_one(site: Site) -> None:
    """The rules that stood in the file are not dropped in silence: refused, with the way on."""
    job = site.job(extra='protect: ["*/etl"]')
    run = site.cut_off(job)
    job.unlink()
    job.mkdir()
    done = site.run("resume", run, "--yes", code=2)
    assert "is no file any more, so its guards cannot be known" in done.err and site.locked() == set()
    job.rmdir()
    done = site.run("resume", run, "--yes")
    assert "are not asked: it is gone" in done.err


def test_guards_of_both_places_add_up(site: Site) -> None:
    """Those beside the file of the run hold as before."""
    job = site.job(f"{A}/app", f"{A}/etl", f"{A}/breakglass_1")
    site.cut_off(job)
    (site.old / "config.yaml").write_text('protect: ["*/etl"]\n')
    site.run("run", site.copy(job, protect='["*/breakglass_*"]'), "--yes")
    assert site.locked() == {"app"}


@pytest.mark.parametrize(
    ("config", "flags", "said", "code"),
    [
        ({"limits": "{max_targets: 1}"}, (), "limits.max_targets 1: the plan has 2 calls", 3),
        ({"limits": "{max_share: 10%}"}, (), "limits.max_share 10%: 2 of the 3 accounts read", 3),
        ({}, ("--expect", "7"), "--expect 7: the plan has 2 calls", 3),
        ({}, ("--ticket", "CHG-2"), "--ticket CHG-2: the cut-off run", 2),
        ({}, ("--reason", "leak"), "--reason leak: the cut-off run", 2),
    ],
)
def test_a_limit_or_flag_that_does_not_hold_for_it_refuses(
    site: Site, config: dict[str, str], flags: tuple[str, ...], said: str, code: int
) -> None:
    """Dropped in silence it would be no limit; the way on is said."""
    job = site.job()
    site.cut_off(job)
    writes = len(site.backend.writes())
    done = site.run("run", site.copy(job, **config), "--yes", *flags, code=code)
    assert said in done.err and "--on-unfinished new" in done.err
    assert len(site.backend.writes()) == writes and site.locked() == set()


def test_flags_that_can_hold_do(site: Site) -> None:
    """The same ticket, the right number, an exclusion, and a lower rate said in the config of today."""
    job = site.job(f"{A}/app", f"{A}/etl", f"{B}/eve")
    run = site.cut_off(job, "--ticket", "CHG-1")
    path = site.copy(job, rate="2", keep_admins="1")
    flags = ("--ticket", "CHG-1", "--expect", "2", "--exclude", "*/etl", "--deadline", "9m")
    done = site.run("run", path, "--yes", "--json", *flags)
    assert done.json["run"] == run and site.locked() == {"app", "eve"}
    (session,) = site.desk.records("session")
    assert session["settings"]["session_deadline_s"] == 540 and session["settings"]["rate"] == 2
    assert session["settings"]["keep_admins"] == 1


def test_a_limit_that_became_stricter_holds_for_a_resume(site: Site) -> None:
    """As every guard of today does."""
    job = site.job(extra="limits: {max_share: 90%}")
    run = site.cut_off(job)
    (site.old / "config.yaml").write_text("limits: {max_targets: 1}\n")
    assert "limits.max_targets 1" in site.run("resume", run, "--yes", code=3).err
    (site.old / "config.yaml").write_text("limits: {max_share: 10%}\n")
    assert "limits.max_share 10%" in site.run("resume", run, "--yes", code=3).err
    (site.old / "config.yaml").write_text("limits: {max_share: 95%}\n")
    reads = len(site.backend.reads())
    site.run("resume", run, "--yes")
    assert site.locked() == {"app", "breakglass_1"} and len(site.backend.reads()) > reads


# ---- a job file that cannot be asked any more ----------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["resume", "rerun", "undo"])
@pytest.mark.parametrize("slip", ["a slip", "a pipe", "a link", "another's"])
def test_guards_of_a_job_that_cannot_be_read_are_not_dropped(site: Site, verb: str, slip: str) -> None:
    """One slip in the line below a new rule must not set free what the rule protects."""
    job = site.job()
    if verb == "undo":
        site.run("run", job, "--yes")
        run = site.path().parent.name
    else:
        run = site.cut_off(job)
        if verb == "rerun":
            site.backend.script({"action": "LockAccount", "code": "InvalidParameter"})
            site.run("resume", run, "--yes", code=1)
            site.backend.script()
    before, writes = site.locked(), len(site.backend.writes())
    if slip == "a slip":
        job.write_text('protect: ["*/breakglass_*"]\nkeep_admin 1\n' + job.read_text())
    elif slip == "another's":
        if os.geteuid() != 0:
            pytest.skip("only root can give files away")
        os.chown(job, STRANGER, -1)
    else:
        job.unlink()
        os.mkfifo(job) if slip == "a pipe" else job.symlink_to("nowhere")
    done = site.run(verb, run, "--yes", code=2)
    assert str(job) in done.err and ("move it away" in done.err or "trust_owners" in done.err)
    assert site.locked() == before and len(site.backend.writes()) == writes
    # The way on, literally.
    job.rename(job.with_suffix(".old"))
    done = site.run(verb, run, "--yes")
    assert f"guards of {job} are not asked: it is gone" in done.err
    assert site.locked() == (set() if verb == "undo" else {"app", "breakglass_1"})


def test_a_near_name_of_a_config_is_said_by_what_goes_on(site: Site) -> None:
    """The guards that somebody wrote there are missed by an undo as by a run."""
    site.run("run", site.job(), "--yes")
    (site.old / "config.yml").write_text('protect: ["*/app"]\n')
    assert f"{site.old}/config.yml: is not read" in site.run("undo", site.path().parent.name, "--yes").err


def test_guards_are_asked_of_a_job_whose_lists_are_gone(site: Site) -> None:
    """The journal has the targets; the rules stand in the job itself."""
    (site.old / "list.csv").write_text(f"instance,user\n{A},app\n{A},breakglass_1\n")
    job = site.old / "job.yaml"
    job.write_text("action: LockAccount\nregion: ap-singapore\ntargets: [{csv: list.csv}]\n")
    run = site.cut_off(job)
    (site.old / "list.csv").unlink()
    job.write_text('protect: ["*/breakglass_*"]\n' + job.read_text())
    site.run("resume", run, "--yes")
    assert site.locked() == {"app"}


# ---- what a journal may not decide ---------------------------------------------------------------------------------


def swap_last_call(record: Any) -> Any:
    """A forger's call in the place of the job's last."""
    if not isinstance(record, records.CallLine) or record.user != "breakglass_1":
        return record
    identity = call_id("", "ap-singapore", B, "eve", "LockAccount")
    return replace(record, call=identity, instance=B, user="eve")


def test_a_run_with_a_call_that_is_not_of_the_job_is_not_gone_on_with(site: Site) -> None:
    """Whoever wrote it; the job of today says which accounts are meant."""
    job = site.job()
    site.cut_off(job)
    site.rewrite(site.path(), swap_last_call)
    done = site.run("run", job, "--yes")
    assert "it has a call that is not of the job" in done.err and "beginning anew" in done.err
    assert site.locked() == {"app", "breakglass_1"}


@needs_root
@pytest.mark.files_only("owners and modes of files; a database says itself who may write there")
def test_a_run_that_others_could_have_written_is_not_gone_on_with(site: Site) -> None:
    """Unless the operator's own config trusts them, by name or as a group."""
    job = site.job()
    run = site.cut_off(job)
    os.chown(site.path(), STRANGER, -1)
    for verb in ("resume", "rerun"):
        done = site.run(verb, run, "--yes", code=2)
        assert f"run {run}: is not believed" in done.err and "trust_owners" in done.err
    assert site.locked() == set()
    own = site.desk.place / "xdg-config/acctops/config.yaml"
    own.parent.mkdir(parents=True)
    own.write_text(f"trust_owners: [{STRANGER}]\n")
    site.run("resume", run, "--yes")
    assert site.locked() == {"app", "breakglass_1"}
    own.unlink()
    assert "is not believed" in site.run("undo", run, "--yes", code=2).err


@needs_root
@pytest.mark.files_only("owners and modes of files; a database says itself who may write there")
def test_run_begins_anew_beside_a_run_of_others(site: Site) -> None:
    """What they planted costs nothing but a line."""
    job = site.job()
    site.cut_off(job)
    os.chown(site.path(), STRANGER, -1)
    done = site.run("run", job, "--yes")
    assert "its journal is not believed" in done.err and len(site.desk.journals()) == 2


@needs_root
@pytest.mark.files_only("owners and modes of files; a database says itself who may write there")
@pytest.mark.parametrize("mode", ["owner", "everybody", "sticky"])
def test_a_state_directory_of_others_is_refused(site: Site, mode: str) -> None:
    """They could put runs there, to be gone on with."""
    job = site.job()
    site.desk.state.mkdir()
    if mode == "owner":
        os.chown(site.desk.state, STRANGER, -1)
    elif mode == "sticky":  # each owns what he puts there, and anybody may put runs there
        (site.desk.state / "runs").mkdir()
        (site.desk.state / "runs").chmod(0o1777)
    else:
        site.desk.state.chmod(0o777)
    done = site.run("run", job, "--yes", code=2)
    assert "state directory" in done.err and "is not believed" in done.err and "--state-dir" in done.err
    assert site.locked() == set()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://0.0.0.0:{port}", "names an endpoint that may not be called"),
        ("http://evil.example", "names an endpoint that may not be called"),
        ("https://evil.example", "https://evil.example, which is not the vendor's"),
        ("https://postgres.tencentcloudapi.com.evil.example", "which is not the vendor's"),
        ("https://x@evil.example", "names an endpoint that may not be called"),
    ],
)
@pytest.mark.parametrize("verb", ["resume", "rerun", "undo", "verify"])
def test_a_journal_sends_keys_to_nobody_who_is_not_named_today(site: Site, url: str, said: str, verb: str) -> None:
    """A signed request carries the token; only the vendor, this machine, and whom today's settings name get one."""
    job = site.job()
    run = site.cut_off(job)
    port = site.backend.endpoint.rpartition(":")[2]

    def forged(record: Any) -> Any:
        if not isinstance(record, records.Run):
            return record
        return replace(record, settings=replace(record.settings, endpoint=(url.format(port=port),)))

    site.rewrite(site.path(), forged)
    reads = len(site.backend.world.audit)
    flags = () if verb == "verify" else ("--yes",)
    assert said in site.run(verb, run, *flags, code=2).err
    assert len(site.backend.world.audit) == reads


def test_an_endpoint_that_a_flag_names_today_is_called(site: Site) -> None:
    """The way on that the refusal says; here nobody listens, and it comes as far as that."""
    job = site.job()
    run = site.cut_off(job)
    url = "https://127.0.0.1.example"

    def moved(record: Any) -> Any:
        if not isinstance(record, records.Run):
            return record
        return replace(record, settings=replace(record.settings, endpoint=(url,)))

    site.rewrite(site.path(), moved)
    assert f"--endpoint {url}" in site.run("resume", run, "--yes", code=2).err
    done = site.desk.run("resume", run, "--yes", "--endpoint", url, "--deadline", "1s")
    assert "not the vendor's" not in done.err and done.code != 2


@pytest.mark.parametrize("profile", ["../../tmp/evil", ".hidden", "a/b"])
def test_a_journal_names_no_file_of_keys_that_a_flag_could_not(site: Site, profile: str) -> None:
    """A profile is a name; a path would lead to somebody else's keys."""
    run = site.cut_off(site.job())

    def forged(record: Any) -> Any:
        if not isinstance(record, records.Run):
            return record
        return replace(record, settings=replace(record.settings, profile=profile))

    site.rewrite(site.path(), forged)
    assert "names whose keys to use, and not as it may" in site.run("resume", run, "--yes", code=2).err


def test_a_program_for_passwords_is_run_only_if_the_job_of_today_names_it(site: Site) -> None:
    """From a journal alone no program is taken."""
    ran = site.desk.place / "ran"
    extra = "passwords: {command: [./give, '{user}']}"
    job = site.job(f"{A}/app", action="CloseAccountCAM", extra=extra)
    give = site.old / "give"
    give.write_text(f"#!/bin/sh\ntouch {ran}\necho 'Aa1!aaaaaaaa'\n")
    give.chmod(0o755)
    site.backend.script({"action": "CloseAccountCAM", "code": "InternalError"})
    site.desk.run("run", job, "--yes", "--deadline", "1s")
    site.backend.script()
    evil = site.desk.place / "evil"
    evil.write_text(f"#!/bin/sh\ntouch {ran}\necho 'Aa1!aaaaaaaa'\n")
    evil.chmod(0o755)

    def forged(record: Any) -> Any:
        if not isinstance(record, records.Run):
            return record
        return replace(record, settings=replace(record.settings, passwords={"command": [str(evil)]}))

    run = site.rewrite(site.path(), lambda record: record)
    honest = site.path().read_bytes()
    site.rewrite(site.path(), forged)
    ran.unlink(missing_ok=True)
    for verb in ("resume", "rerun"):
        done = site.run(verb, run, "--yes", *(("--only", "unattempted") if verb == "rerun" else ()), code=2)
        assert "the job names another today" in done.err
    job.rename(site.old / "away.yaml")
    assert "run its job again" in site.run("resume", run, "--yes", code=2).err
    assert not ran.exists()
    (site.old / "away.yaml").rename(job)
    site.desk.rewrite(run, honest)
    assert site.desk.run("resume", run, "--yes").code in (0, 1)


def test_from_where_guards_lie_nothing_else_is_taken(site: Site) -> None:
    """A journal names the place: its rules hold, its programs are not run, its proxy is not used."""
    job = site.job()
    run = site.cut_off(job)
    ran = site.desk.place / "ran"
    trap = site.desk.place / "trap"
    trap.mkdir()
    (trap / "config.yaml").write_text(
        f'protect: ["*/breakglass_*"]\ncredentials: {{command: [touch, {ran}]}}\n'
        f"notify: {{command: [touch, {ran}], on: [start, finish, failure]}}\nstate_dir: {trap}/state\n"
        f"network: {{proxy: 'http://127.0.0.1:9'}}\n"
    )

    def forged(record: Any) -> Any:
        return replace(record, guarded_by=str(trap)) if isinstance(record, records.Run) else record

    site.rewrite(site.path(), forged)
    done = site.run("resume", run, "--yes")
    assert site.locked() == {"app"} and not ran.exists() and not (trap / "state").exists()
    assert f"{trap}/config.yaml: its guards hold; its credentials, network, notify would hold with --config" in done.err


@needs_root
@pytest.mark.files_only("owners and modes of files; a database says itself who may write there")
def test_a_planted_rerun_adds_nothing_to_a_family(site: Site) -> None:
    """An undo of the family would set free what the forger names."""
    job = site.job(f"{A}/app")
    site.run("run", job, "--yes")
    run = site.path().parent.name
    eve = site.backend.world.account(B, "eve")
    assert eve is not None
    eve.status = 5
    planted = site.desk.state / "runs" / "20990101T000000Z-evil"
    shutil.copytree(site.path().parent, planted)

    def forged(record: Any) -> Any:
        if isinstance(record, records.Run):
            return replace(record, parent=records.Parent(run, "rerun", "ab" * 32))
        return replace(record, instance=B, user="eve") if isinstance(record, records.CallLine) else record

    site.rewrite(planted / "journal.jsonl", forged)
    os.chown(planted / "journal.jsonl", STRANGER, -1)
    done = site.run("undo", run, "--family", "--yes")
    assert done.code == 0 and site.locked() == {"eve"}


# ---- selections without effect -------------------------------------------------------------------------------------


def test_an_exclusion_without_effect_is_said_for_each_rule(site: Site) -> None:
    """In the job and on the command line, read or not."""
    job = site.job(extra='exclude: ["*/payrol_*", "*/app"]')
    for flags in (("--offline",), ()):
        done = site.run("plan", job, "--exclude", "postgres-nope/etl", "--exclude", "*/breakglass_?", *flags)
        assert f"{job}:3:11: exclude */payrol_* matches none of the 2 targets; a slip?" in done.err
        assert "--exclude: exclude postgres-nope/etl matches none of the 2 targets" in done.err
        assert done.err.count("exclude") == 3, done.err


def test_an_exclusion_without_effect_is_said_where_a_match_is_answered(site: Site) -> None:
    """The list that is fed back must not have what somebody thought was left out."""
    path = site.old / "match.yaml"
    path.write_text(
        'action: LockAccount\nregion: ap-singapore\nexclude: ["*/etl", "*/payrol"]\n'
        'targets: [{match: {users: {glob: "*"}}}]\n'
    )
    for argv in (("discover", path), ("plan", path)):
        done = site.run(*argv)
        assert "exclude */payrol matches none of the 4 targets" in done.err and "exclude */etl" not in done.err


def test_a_protect_rule_is_not_called_idle_where_an_instance_is_unread(site: Site) -> None:
    """Nobody knows who is there."""
    (site.old / "config.yaml").write_text('protect: ["*/ghost"]\n')
    job = site.job()
    assert "protect */ghost matches none of the 3 accounts read" in site.run("plan", job).err
    site.backend.script({"action": "DescribeAccounts", "code": "OperationDenied.InstanceAccessDeniedError"})
    assert "ghost" not in site.run("plan", job).err


def test_a_target_of_an_undo_that_matches_nothing_is_refused(site: Site) -> None:
    """Each by itself: beside a good one a slip would be lost, and exit 0 would pass for done."""
    site.run("run", site.job(), "--yes")
    run = site.path().parent.name
    names = site.desk.write("names.txt", f"{A}/app\n{A}/breakglas_1\n")
    for target in (f"{A}/ap", "*/nobody", f"@{names}"):
        done = site.run("undo", run, "--yes", "--target", f"{A}/app", "--target", target, code=2)
        assert "matches none of the 2 calls of the run" in done.err
    assert f"did you mean {A}/breakglass_1?" in done.err
    done = site.run("undo", run, "--yes", "--target", "*/[z-a]", code=2)
    assert "--target" in done.err and "can never match" in done.err
    assert site.locked() == {"app", "breakglass_1"}
    done = site.run("undo", run, "--yes", "--exclude", "*/breakglas_1")
    assert "--exclude: */breakglas_1 matches none of the 2 calls of the run; a slip?" in done.err


def test_an_exclusion_and_a_code_without_effect_are_said_of_a_rerun(site: Site) -> None:
    """A code that nobody knows is a slip, and refused."""
    run = site.cut_off(site.job())
    site.backend.script({"action": "LockAccount", "code": "InvalidParameter"})
    site.run("resume", run, "--yes", "--exclude", "*/nobody", code=1)
    site.backend.script()
    assert "did you mean InvalidParameter?" in site.run("rerun", run, "--code", "InvalidParametr", "--yes", code=2).err
    done = site.run("rerun", run, "--code", "InternalError", "--yes")
    assert "no call of the run has this code" in done.err
    done = site.run("rerun", run, "--exclude", "*/nobody", "--yes")
    assert "--exclude: */nobody matches none of the 2 calls of the run" in done.err


@pytest.mark.parametrize("flags", [("--yes",), ()])
def test_a_misspelt_region_where_nothing_is_found_is_refused(site: Site, flags: tuple[str, ...]) -> None:
    """Nothing is sent, and the near name is said."""
    job = site.job()
    job.write_text(job.read_text().replace("ap-singapore", "ap-singapor"))
    done = site.run("run", job, *flags, code=2)
    assert "region ap-singapor" in done.err and "did you mean ap-singapore?" in done.err
    assert not site.backend.writes() and not site.desk.journals()
