"""Guards are found wherever the job came from, and what is found there and cannot be used stops the command."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import ConfigError
from engine.inputs.config import find_configs
from engine.inputs.files import homes, is_stream, load_job
from engine.simulator.fleet import fleet_from
from engine.simulator.world import World
from tests.support.command import Backend, Desk

A = "postgres-aaaaaaaa"
STRANGER = 54321
RULE = 'protect: ["*/breakglass_*"]\n'
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def backend(desk: Desk) -> Iterator[Backend]:
    accounts = ["app", "etl", "breakglass_1"]
    fleet = fleet_from({"instances": [{"id": A, "region": "ap-singapore", "accounts": accounts}]})
    with Backend(World(fleet=fleet, quotas={"*": None})) as backend:
        desk.env["ACCTOPS_ENDPOINT"] = backend.endpoint
        yield backend


def locked(backend: Backend) -> set[str]:
    instance = backend.world.instance(A)
    assert instance is not None
    return {name for name, account in instance.accounts.items() if account.status == 5}


def job(desk: Desk, name: str = "job.yaml", extra: str = "") -> Path:
    return desk.job(f"{A}/app", f"{A}/breakglass_1", name=name, extra=extra)


def fed(fifo: Path, data: bytes) -> threading.Thread:
    """Somebody who writes into a pipe, once."""
    writer = threading.Thread(target=lambda: fifo.write_bytes(data))
    writer.start()
    return writer


# ---- where the job came from ---------------------------------------------------------------------------------------


def test_a_job_through_a_pipe_stands_under_the_guards_of_the_current_directory(desk: Desk, backend: Backend) -> None:
    """`run <(…)` is a way to run a job like any other, and its lists lie here, too."""
    text = "action: LockAccount\nregion: ap-singapore\ntargets: [{csv: list.csv}]\n"
    desk.write("config.yaml", RULE)
    desk.write("list.csv", f"instance,user\n{A}/app\n".replace("/", ",") + f"{A},breakglass_1\n")
    read, write = os.pipe()
    os.write(write, text.encode())
    os.close(write)
    try:
        process = desk.popen("run", f"/dev/fd/{read}", "--yes", pass_fds=(read,))
        done = desk.end(process)
    finally:
        os.close(read)
    assert done.code == 0, done.text
    assert locked(backend) == {"app"}
    (first,) = desk.records("run")
    assert (first["job"]["name"], first["guarded_by"]) == ("a stream", str(desk.work))


def test_a_named_pipe_and_dev_stdin_are_looked_after_likewise(desk: Desk, backend: Backend, tmp_path: Path) -> None:
    """A pipe elsewhere does not lie beside guards; the operator stands beside them."""
    desk.write("config.yaml", RULE)
    data = job(desk, "plain.yaml").read_bytes()
    (tmp_path / "far").mkdir()
    os.mkfifo(tmp_path / "far/pipe")
    writer = fed(tmp_path / "far/pipe", data)
    assert "*/breakglass_*" in desk.run("plan", tmp_path / "far/pipe", "--offline").out
    writer.join()
    for spelled in ("/dev/stdin", "/proc/self/fd/0", "/dev/fd/0", "-"):
        done = desk.run("plan", spelled, "--offline", stdin=data)
        assert done.code == 0 and "protected  1" in done.out and "standard input" in done.out, spelled


def test_a_stream_is_no_job_for_the_night(desk: Desk, tmp_path: Path) -> None:
    """A schedule would find nothing there; and nobody waits for a pipe to learn whether a job is overdue."""
    os.mkfifo(desk.work / "pipe")
    for path in ("-", "pipe", "/dev/stdin", "/dev/fd/7"):
        done = desk.run("schedule", path, "--format", "cron")
        assert done.code == 2 and "put the job into a file" in done.err
    assert desk.run("overdue", "pipe", "--every", "8d", "--notify").code == 1


def test_which_paths_are_streams(tmp_path: Path) -> None:
    """By where they lead, however they are spelled."""
    (tmp_path / "job.yaml").write_text("x")
    (tmp_path / "in").symlink_to("/dev/stdin")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    streams = ["-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0", "/dev/../dev/fd/3", "/dev/null"]
    assert all(map(is_stream, [*streams, tmp_path / "in", tmp_path / "link"]))
    assert not any(map(is_stream, [tmp_path / "job.yaml", tmp_path, tmp_path / "none", "job.yaml"]))


def test_guards_hold_beside_a_link_and_beside_each_place_it_leads_to(desk: Desk, backend: Backend) -> None:
    """A job that is linked into another directory leaves no guard behind; its lists are found where they lie."""
    for place in ("real", "between", "elsewhere"):
        (desk.place / place).mkdir()
    (desk.place / "real/config.yaml").write_text(RULE)
    (desk.place / "between/config.yaml").write_text('protect: ["*/etl"]\n')
    (desk.place / "real/list.csv").write_text(f"instance,user\n{A},app\n{A},etl\n{A},breakglass_1\n")
    real = desk.place / "real/job.yaml"
    real.write_text("action: LockAccount\nregion: ap-singapore\ntargets: [{csv: list.csv}]\n")
    (desk.place / "between/m.yaml").symlink_to(real)
    link = desk.place / "elsewhere/l.yaml"
    link.symlink_to("../between/m.yaml")
    assert load_job(link).sources == (str(desk.place / "real/list.csv"),)
    assert desk.run("run", link, "--yes").code == 0
    assert locked(backend) == {"app"}
    undone = desk.run("undo", desk.journal().parent.name, "--yes", cwd=Path("/"))
    assert undone.code == 0 and locked(backend) == set()


def test_every_link_on_the_way_is_a_home(tmp_path: Path) -> None:
    """A link to a link, and a directory that is one."""
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/job.yaml").write_text("x")
    (tmp_path / "p").mkdir()
    (tmp_path / "p/dir").symlink_to(tmp_path / "a")
    (tmp_path / "top").symlink_to("p/dir")
    found = {home.resolve() for home in homes(tmp_path / "top/b/job.yaml")}
    assert found == {tmp_path / "a/b"}
    (tmp_path / "p/config.yaml").write_text('protect: ["*/p"]\n')
    configs = find_configs(*homes(tmp_path / "top/b/job.yaml"), environ={}, system=tmp_path / "none")
    assert [rule.pattern for rule in configs.protect] == ["*/p"]


# ---- there, and of no use ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dangling", "directory", "pipe", "socket", "loop", "device"])
@pytest.mark.parametrize("place", ["work", "home", "named"])
def test_a_config_that_is_there_and_no_use_stops(desk: Desk, kind: str, place: str) -> None:
    """Counting as absent would leave out its guards; a pipe holds nobody up."""
    path = {"work": desk.work, "home": desk.place / "xdg-config/acctops", "named": desk.place}[place] / "config.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        here = Path.cwd()
        os.chdir(path.parent)  # the address of a socket is short
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
        os.chdir(here)
    else:
        path.symlink_to({"dangling": "nowhere", "loop": "config.yaml", "device": "/dev/zero"}[kind])
    flags = ("--config", str(path)) if place == "named" else ()
    done = desk.run("plan", job(desk), "--offline", *flags)
    assert done.code == 2 and str(path) in done.err and "Traceback" not in done.err
    assert desk.run("status", *flags).code == 2


def test_a_directory_on_the_way_that_leads_nowhere_stops(desk: Desk) -> None:
    """A home that is not mounted hides the user's guards."""
    (desk.place / "xdg-config").symlink_to(desk.place / "not-mounted")
    done = desk.run("plan", job(desk), "--offline")
    assert done.code == 2 and f"{desk.place}/xdg-config is a link that leads nowhere" in done.err


@pytest.mark.parametrize("name", ["config.yml", "Config.yaml", ".config.yaml", "config.yaml.txt", "CONFIG.JSON"])
def test_a_near_name_is_said(desk: Desk, name: str) -> None:
    """Somebody wrote guards there, and nobody reads them."""
    desk.write(name, RULE)
    done = desk.run("plan", job(desk), "--offline")
    assert done.code == 0 and f"{desk.work / name}: is not read, as acctops reads config.yaml alone" in done.err


def test_a_file_of_another_tool_beside_a_config_is_not_said(desk: Desk) -> None:
    """Who has a config.yaml knows how it is called."""
    desk.write("config.yaml", RULE)
    desk.write("config.json", "{}")
    assert "is not read" not in desk.run("plan", job(desk), "--offline").err


def test_the_config_of_who_called_sudo_is_missed(tmp_path: Path) -> None:
    """As root one has another home: the guards in one's own do not hold there, and that is said."""
    path = tmp_path / "ann/.config/acctops/config.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(RULE)
    here = tmp_path / "work"
    here.mkdir()

    def find(**environ: str) -> tuple[str, ...]:
        found = find_configs(
            here, environ=environ, system=tmp_path / "none", caller_home=lambda _environ: tmp_path / "ann"
        )
        return found.warnings

    assert any(str(path) in words and "called sudo" in words for words in find(HOME=str(tmp_path / "root")))
    assert find(HOME=str(tmp_path / "ann")) == ()
    assert not any("sudo" in words for words in find_configs(here, environ={}, system=tmp_path / "none").warnings)


# ---- of others -----------------------------------------------------------------------------------------------------


def strange(path: Path) -> None:
    os.chown(path, STRANGER, -1)


@needs_root
@pytest.mark.parametrize("verb", [("plan", "job.yaml", "--offline"), ("status",), ("run", "job.yaml", "--yes")])
def test_a_config_of_others_above_the_job_is_neither_believed_nor_skipped(desk: Desk, verb: tuple[str, ...]) -> None:
    """It could run a program and send keys anywhere; or be a guard that somebody relies on."""
    job(desk)
    planted = desk.place / "config.yaml"
    ran = desk.place / "ran"
    planted.write_text(f"credentials: {{command: [touch, {ran}]}}\nnotify: {{command: [touch, {ran}]}}\n")
    strange(planted)
    desk.env.pop("TENCENTCLOUD_SECRET_ID")
    done = desk.run(*verb)
    assert done.code == 2 and f"{planted}: is not believed, as {planted} belongs to user {STRANGER}" in done.err
    assert "Move the job, or cd, to where no file of others is found" in done.err
    assert f"trust_owners: [{STRANGER}]` in {desk.place}/xdg-config/acctops/config.yaml" in done.err
    assert not ran.exists()


@needs_root
def test_whom_the_operators_own_config_trusts_is_believed(desk: Desk, backend: Backend) -> None:
    """By number or name; what a found config says of trust means nothing."""
    own = desk.place / "xdg-config/acctops/config.yaml"
    own.parent.mkdir(parents=True)
    near = desk.write("config.yaml", RULE)
    strange(near)
    own.write_text(f"trust_owners: [{STRANGER}, no-such-user]\n")
    done = desk.run("run", job(desk), "--yes")
    assert done.code == 0 and locked(backend) == {"app"}
    shown = desk.run("config", "show", "job.yaml", "--origin")
    assert "no-such-user" in shown.err and str(STRANGER) in shown.out
    own.write_text("site: international\n")
    near.write_text(f"trust_owners: {STRANGER}\n" + RULE)
    assert desk.run("plan", "job.yaml", "--offline").code == 2
    os.chown(near, 0, -1)
    done = desk.run("plan", "job.yaml", "--offline")
    assert done.code == 0 and "trust_owners means nothing here" in done.err
    strange(own)
    done = desk.run("plan", "job.yaml", "--offline")
    assert done.code == 2 and f"{own}: is not believed" in done.err and "nobody but you" in done.err


@needs_root
def test_a_directory_that_everybody_can_write_makes_a_config_nobodys(desk: Desk) -> None:
    """Who can replace a file decides what stands in it; in a sticky directory nobody can."""
    shared = desk.place / "shared"
    (shared / "mine").mkdir(parents=True)
    (shared / "config.yaml").write_text(RULE)
    path = shared / "mine/job.yaml"
    path.write_bytes(job(desk).read_bytes())
    shared.chmod(0o777)
    done = desk.run("plan", path, "--offline")
    assert done.code == 2 and f"chmod o-w {shared}" in done.err
    shared.chmod(0o1777)
    assert desk.run("plan", path, "--offline").code == 0


@needs_root
@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_a_job_of_others_is_refused(desk: Desk, backend: Backend, kind: str) -> None:
    """It names programs and places for keys; one on standard input was handed in by the operator."""
    path = job(desk)
    data = path.read_bytes()
    writer = None
    if kind == "pipe":
        path.unlink()
        os.mkfifo(path)
        writer = fed(path, data)
    strange(path)
    done = desk.run("run", path, "--yes")
    if writer is not None:
        writer.join()
    assert done.code == 2 and "job.yaml: is not believed" in done.err and "trust_owners" in done.err
    assert locked(backend) == set()
    assert desk.run("plan", "-", "--offline", stdin=data).code == 0


@needs_root
@pytest.mark.parametrize("broken", [False, True])
def test_nobody_is_told_of_a_refusal_by_a_program_of_others(desk: Desk, broken: bool) -> None:
    """The notice of a run that came to nothing is not sent by the very job that is not believed."""
    ran = desk.place / "ran"
    strange(job(desk, extra=f"notify: {{command: [touch, {ran}]}}"))
    if broken:
        desk.write("config.yaml", "sites: x\n")
    assert desk.run("run", "job.yaml", "--yes").code == 2
    assert desk.run("overdue", "job.yaml", "--every", "8d", "--notify").code in (1, 2)
    assert not ran.exists()
    os.chown(desk.work / "job.yaml", 0, -1)
    assert desk.run("run", "job.yaml", "--yes").code != 0
    assert ran.exists(), "the operator's own is told"


@needs_root
def test_what_another_users_process_has_open_is_his_and_nobody_handed_it_in(desk: Desk) -> None:
    """A link of his to a descriptor of his: root would run his job as if it stood on standard input."""
    job = desk.job(f"{A}/app")
    with job.open() as file, subprocess.Popen(["sleep", "60"], stdin=file, user=STRANGER, cwd="/") as process:
        try:
            theirs = f"/proc/{process.pid}/fd/0"
            (desk.work / "theirs.yaml").symlink_to(theirs)
            for path in (theirs, "theirs.yaml"):
                done = desk.run("plan", path, "--offline")
                assert done.code == 2 and f"{theirs} is a link of user {STRANGER}" in done.err
        finally:
            process.kill()


@needs_root
def test_a_list_of_others_is_read_and_said(desk: Desk) -> None:
    """Exports are often another's; the job names the list, and guards bound what it can do."""
    desk.write("list.csv", f"instance,user\n{A},app\n")
    strange(desk.work / "list.csv")
    path = desk.write("job.yaml", "action: LockAccount\nregion: ap-singapore\ntargets: [{csv: list.csv}]\n")
    done = desk.run("plan", path, "--offline")
    assert done.code == 0 and "somebody else may have said which accounts these are" in done.err


@needs_root
@pytest.mark.parametrize("key", ["credentials.command", "notify.command", "network.ca_bundle", "passwords.command"])
def test_a_program_or_certificates_that_others_could_change_are_said(desk: Desk, key: str) -> None:
    """They run with the operator's keys, or say who may listen; who named them answers for them, and should know."""
    section, _, name = key.partition(".")
    tool = desk.write("tools/it", "#!/bin/sh\n")
    tool.chmod(0o755)
    value = str(tool) if name == "ca_bundle" else f"[{tool}]"
    text = f"{section}: {{{name}: {value}}}\n"
    extra = text if section == "passwords" else ""
    if not extra:
        desk.write("config.yaml", text)
    path = desk.job(f"{A}/app", action="CloseAccountCAM" if extra else "LockAccount", extra=extra)
    assert "may decide what it does" not in desk.run("plan", path, "--offline").err
    strange(tool)
    done = desk.run("plan", path, "--offline")
    assert done.code == 0 and f"warning: {key}: {tool} belongs to" in done.err, done.err


@needs_root
def test_passwords_in_a_file_of_others_are_refused(desk: Desk, backend: Backend) -> None:
    """He who wrote it would know the new passwords."""
    file = desk.write("passwords.csv", f"instance,user,password\n{A},app,Aa1!aaaaaaaa\n")
    file.chmod(0o600)
    strange(file)
    path = desk.job(f"{A}/app", action="CloseAccountCAM", extra="passwords: {file: passwords.csv}")
    done = desk.run("run", path, "--yes")
    assert done.code == 5 and "is not believed" in done.err and not backend.writes()


# ---- paths and places ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ('"/srv/st"', "is quoted"),
        ("'/srv/st'", "is quoted"),
        ("$HOME/st", "has a $"),
        ("/srv/st\r", "that nobody sees"),
        ("/srv/st ", "that nobody sees"),
        ("~ann/st", "only a shell knows"),
    ],
)
@pytest.mark.parametrize("way", ["variable", "flag", "config"])
def test_a_state_directory_that_only_a_shell_would_understand_is_refused(
    desk: Desk, said: str, words: str, way: str
) -> None:
    """A directory of that very name would be made, and the journals in it missed."""
    flags: tuple[str, ...] = ()
    if way == "variable":
        desk.env["ACCTOPS_STATE_DIR"] = said
    else:
        desk.env.pop("ACCTOPS_STATE_DIR")
    if way == "flag":
        flags = ("--state-dir", said)
    if way == "config":
        quoted = said.replace("\r", "\\r").replace('"', '\\"')
        desk.write("config.yaml", f'state_dir: "{quoted}"\n')
    done = desk.run("run", job(desk), "--simulate", "--yes", *flags)
    assert done.code == 2 and words in done.err
    assert {path.name for path in desk.work.iterdir()} <= {"job.yaml", "config.yaml"}


@pytest.mark.parametrize("said", ["~", "~/"])
@pytest.mark.parametrize("way", ["variable", "config"])
def test_a_tilde_alone_is_the_home_directory(desk: Desk, said: str, way: str) -> None:
    """As `~/x` is, wherever it is said."""
    desk.env.pop("ACCTOPS_STATE_DIR")
    if way == "variable":
        desk.env["ACCTOPS_STATE_DIR"] = said
    else:
        desk.write("config.yaml", f'state_dir: "{said}"\n')
    done = desk.run("run", job(desk), "--simulate", "--yes", "--json")
    assert done.code == 0 and str(done.json["journal"]).startswith(f"{desk.place}/home/simulated/")
    assert not (desk.work / "~").exists()


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (("run", "JOB", "--simulate", "--yes"), 0),
        (("plan", "JOB", "--offline"), 0),
        (("status",), 2),
        (("overdue", "JOB", "--every", "8d"), 2),
        (("lock", f"{A}/app", "--region", "ap-singapore", "--simulate", "--yes"), 2),
    ],
)
def test_a_current_directory_that_was_deleted_is_one_sentence(desk: Desk, argv: tuple[str, ...], code: int) -> None:
    """What needs none works; what would look for guards there says so."""
    path = job(desk)
    gone = desk.place / "gone"
    gone.mkdir()
    under = ("sh", "-c", f'rmdir {gone}; exec "$0" "$@"')
    process = desk.popen(*(str(path) if word == "JOB" else word for word in argv), under=under, cwd=gone)
    done = desk.end(process, stdin=None)
    assert done.code == code, done.text
    assert "internal error" not in done.err and "Traceback" not in done.err
    assert code == 0 or "the current directory was deleted" in done.err
    shutil.rmtree(gone, ignore_errors=True)


def test_find_configs_says_where_it_cannot_look(tmp_path: Path) -> None:
    """A loop of links above a job hides what is there."""
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ConfigError):
        find_configs(tmp_path / "loop", environ={}, system=tmp_path / "none")
