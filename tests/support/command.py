"""The command as an operator has it: in process or as a process, in an environment of its own, beside a server.

`Desk` is the operator's desk: directories, environment, keys. `Backend` is the simulator over real sockets in a
thread of the test's process, so that what the server saw can be compared with what the journal says.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import pty
import select
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import click
import pytest

from engine.cli import main
from engine.cli.app import app
from engine.cli.talk import out, say
from engine.journal.protocols import Runs
from engine.journal.store import runs_at
from engine.simulator import DEMO_SECRET_ID, DEMO_SECRET_KEY
from engine.simulator.faults import FaultScript, rules_from
from engine.simulator.server import serve
from engine.simulator.world import World
from tests.support.stores import database_here, lines_of, owning, rewrite

ROOT = Path(__file__).resolve().parents[2]
ASKING = ("Describe", "GetCaller", "AssumeRole", "Metadata")
"""How actions begin that change no account."""
PATIENCE_S = 30.0
"""How long a condition is waited for before the test fails."""


def commands(group: click.Group = app, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command, with the words that call it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, name
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


class _Typed(io.TextIOWrapper):
    """Standard input with a person behind it."""

    def __init__(self, typed: str | Callable[[], str]) -> None:
        super().__init__(io.BytesIO(typed.encode() if isinstance(typed, str) else b""))
        self._answer = typed

    def isatty(self) -> bool:
        return True

    def readline(self, size: int = -1, /) -> str:
        if isinstance(self._answer, str):
            return super().readline(size)
        with ThreadPoolExecutor(1) as elsewhere:  # what a person does meanwhile, a command even, has its own event loop
            return elsewhere.submit(self._answer).result()


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)

    @property
    def text(self) -> str:
        """All that was printed."""
        return self.out + self.err


class Desk:
    """Where an operator works: nothing of the tester's own home, configuration or keys is seen."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.state = place / "state"
        self.database = database_here()
        """URL of the database that has the runs; None: files below `state` have them."""
        (place / "home").mkdir()
        (place / "work").mkdir()
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(place / "home"),
            "XDG_STATE_HOME": str(place / "xdg-state"),
            "XDG_CONFIG_HOME": str(place / "xdg-config"),
            "ACCTOPS_STATE_DIR": str(self.state),
            # No test may reach the API by a slip: nobody listens on the discard port.
            "ACCTOPS_ENDPOINT": "http://127.0.0.1:9",
            "TENCENTCLOUD_SECRET_ID": DEMO_SECRET_ID,
            "TENCENTCLOUD_SECRET_KEY": DEMO_SECRET_KEY,
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "error",
            # A bound on file sizes, which stands for a full disk, would cut the bytecode of the source, too.
            "PYTHONDONTWRITEBYTECODE": "1",
            "LANG": "C.UTF-8",
        }
        if self.database is not None:
            self.env["ACCTOPS_DATABASE"] = self.database
        self.said: list[str] = []
        """Everything every command printed, to look for secrets in."""

    @property
    def work(self) -> Path:
        """The current directory."""
        return self.place / "work"

    def write(self, name: str, text: str | bytes) -> Path:
        path = self.work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    def job(self, *users: str, name: str = "job.yaml", action: str = "LockAccount", extra: str = "") -> Path:
        """A job of `instance/user` targets; by default one of three accounts."""
        targets = users or ("postgres-aaaaaaaa/ann", "postgres-aaaaaaaa/bob", "postgres-bbbbbbbb/eve")
        lines = [f"action: {action}", "region: ap-singapore", extra, "targets:"]
        return self.write(name, "\n".join([*lines, *(f"  - {target}" for target in targets)]) + "\n")

    # In this process: fast, and everything of the command but its signals, terminals and streams is as at work.

    def run(
        self,
        *argv: str | Path,
        stdin: bytes = b"",
        typed: str | Callable[[], str] | None = None,
        cwd: Path | None = None,
        at: float | None = None,
        clock: Callable[[], float] | None = None,
    ) -> Done:
        """Run a command to its end, in this process.

        `typed` is what a person at a terminal types, or does before typing it; `at` the UNIX time at which it begins,
        as its clock has it, or `clock` is that.
        """
        begun = time.time()
        if clock is None:
            clock = time.time if at is None else lambda: at + time.time() - begun
        given = io.TextIOWrapper(io.BytesIO(stdin)) if typed is None else _Typed(typed)
        streams = given, io.StringIO(), io.StringIO()
        with environment(self.env, cwd or self.work), _streams(*streams):
            code = main([str(part) for part in argv], clock=clock)
        done = Done(code, streams[1].getvalue(), streams[2].getvalue())
        self.said.append(done.text)
        return done

    # As a process.

    def popen(self, *argv: str | Path, under: Sequence[str] = (), **options: Any) -> subprocess.Popen[bytes]:
        """Start a command; without a terminal, its output in pipes unless said otherwise; `under` another one."""
        settings: dict[str, Any] = {  # Any: subprocess's own keyword arguments
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "start_new_session": True,
            "cwd": self.work,
            "env": self.env,
        } | options
        process: subprocess.Popen[bytes] = subprocess.Popen([*under, *self.argv(*argv)], **settings)
        return process

    def argv(self, *argv: str | Path) -> list[str]:
        return [sys.executable, "-m", "engine", *map(str, argv)]

    def end(self, process: subprocess.Popen[bytes], *, stdin: bytes | None = None) -> Done:
        """Wait for a process to end."""
        try:
            printed, said = process.communicate(stdin, timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            printed, said = process.communicate()
            pytest.fail(f"{process.args!r} did not end within {PATIENCE_S:.0f} s: {(said or b'').decode()[-2000:]}")
        done = Done(process.returncode, (printed or b"").decode(), (said or b"").decode())
        self.said.append(done.text)
        return done

    # What is kept of runs.

    @property
    def where(self) -> dict[str, Any]:
        """Where an `Engine` finds them. Any: its own keyword arguments."""
        return {"state_dir": self.state} if self.database is None else {"database": self.database}

    def runs(self, *, simulated: bool = False) -> Runs:
        """The store, as a command has it."""
        return runs_at(self.state, simulated=simulated, database=self.database)

    def journals(self, *, simulated: bool = False) -> list[Path]:
        """Journals, oldest first; of a database, copies as they stand now."""
        if self.database is not None:
            found = []
            for run_id, lines in lines_of(self.database, simulated=simulated).items():
                path = self.place / "copies" / run_id / "journal.jsonl"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(lines)
                found.append(path)
            return found
        root = self.state / "simulated" if simulated else self.state
        # Their names count whole seconds; their first record's time decides.
        return sorted(root.glob("runs/*/journal.jsonl"), key=lambda path: str(records(path, "run")[0]["at"]))

    def journal(self, *, simulated: bool = False) -> Path:
        """The one journal."""
        (found,) = self.journals(simulated=simulated)
        return found

    def path(self, run_id: str, *, simulated: bool = False) -> Path:
        """The journal of a run, or a copy of it."""
        if self.database is None:  # it may be damaged, so nothing of it is read
            return (self.state / "simulated" if simulated else self.state) / "runs" / run_id / "journal.jsonl"
        (found,) = [path for path in self.journals(simulated=simulated) if path.parent.name == run_id]
        return found

    def rewrite(self, run_id: str, lines: bytes) -> None:
        """Let the journal of a run be these lines: what a crash leaves, or a forger makes; none: it is gone."""
        if self.database is not None:
            rewrite(self.database, run_id, lines)
        elif lines:
            self.path(run_id).write_bytes(lines)
        else:
            self.path(run_id).unlink()

    def aside(self, run_id: str) -> bytes:
        """The lines beside the journal of a run."""
        if self.database is not None:
            return lines_of(self.database, chain=-1).get(run_id, b"")
        path = self.path(run_id).with_name("aside.jsonl")
        return path.read_bytes() if path.exists() else b""

    def notes(self, run_id: str) -> list[dict[str, Any]]:
        """The notes beside the journal of a run."""
        found = [json.loads(line) for line in self.aside(run_id).splitlines()]
        return [record for record in found if record["kind"] == "note"]

    def rewrite_aside(self, run_id: str, lines: bytes) -> None:
        """Let these lines stand beside the journal of a run."""
        if self.database is not None:
            rewrite(self.database, run_id, lines, chain=-1)
        else:
            self.path(run_id).with_name("aside.jsonl").write_bytes(lines)

    def remove(self, run_id: str) -> None:
        """Remove a run, so that nothing shows that there was one."""
        if self.database is None:
            shutil.rmtree(self.path(run_id).parent)
            return
        with owning(self.database) as connection:
            for table, column in (("batch", "run"), ("shard", "run"), ("run", "id")):
                connection.execute(f"delete from acctops.{table} where {column} = %s".encode(), [run_id])

    def unlist(self) -> None:
        """Remove the list of the ends of runs."""
        if self.database is None:
            (self.state / "heads.jsonl").unlink()
            return
        with owning(self.database) as connection:
            connection.execute("delete from acctops.head_line")

    def records(self, kind: str | None = None, *, simulated: bool = False) -> list[dict[str, Any]]:
        return records(self.journal(simulated=simulated), kind)

    def wait_for(self, kind: str, count: int = 1, *, simulated: bool = False) -> None:
        """Wait until the one journal has so many records of a kind."""

        def there() -> bool:
            found = self.journals(simulated=simulated)
            return bool(found) and len(records(found[-1], kind)) >= count

        wait_until(there)


def records(path: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The whole lines of a journal, with no code of the engine's."""
    lines = path.read_bytes().split(b"\n")[:-1]
    found = [json.loads(line) for line in lines]
    return [record for record in found if kind is None or record["kind"] == kind]


def wait_until(is_so: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    until = time.monotonic() + patience_s
    while not is_so():
        assert time.monotonic() < until, "it never came to that"
        time.sleep(0.005)


@contextlib.contextmanager
def environment(env: Mapping[str, str], cwd: Path) -> Iterator[None]:
    before, where = dict(os.environ), Path.cwd()
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    try:
        yield
    finally:
        os.chdir(where)
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _streams(stdin: Any, stdout: Any, stderr: Any) -> Iterator[None]:
    before = sys.stdin, sys.stdout, sys.stderr
    sys.stdin, sys.stdout, sys.stderr = stdin, stdout, stderr
    try:
        yield
    finally:
        sys.stdin, sys.stdout, sys.stderr = before
        assert not (out.gone or say.gone), "a stream of the test broke"


# ---- a server ------------------------------------------------------------------------------------------------------


class Backend:
    """A world behind a loopback port, in a thread with a loop of its own. A context manager."""

    def __init__(self, world: World, *, ports: int = 1) -> None:
        self.world = world
        self.endpoints: tuple[str, ...] = ()
        self._ports = ports
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="simulator")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Event | None = None

    @property
    def endpoint(self) -> str:
        return self.endpoints[0]

    async def _serve(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        server = await serve(self.world, ports=(0,) * self._ports)
        self.endpoints = server.endpoints
        self._ready.set()
        await self._ended.wait()
        await server.aclose()

    def __enter__(self) -> Backend:
        self._thread.start()
        assert self._ready.wait(PATIENCE_S)
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._loop is not None and self._ended is not None
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    def script(self, *rules: dict[str, Any]) -> None:
        """From now on this goes wrong, and nothing else."""
        self.world._faults = FaultScript(rules_from(rules), Random(0))

    def writes(self) -> list[Any]:
        """Arrivals of writes, in order."""
        return [arrival for arrival in tuple(self.world.audit) if not arrival.action.startswith(ASKING)]

    def reads(self) -> list[Any]:
        """Arrivals of DescribeAccounts, in order."""
        return [arrival for arrival in tuple(self.world.audit) if arrival.action == "DescribeAccounts"]


# ---- a terminal ----------------------------------------------------------------------------------------------------


@dataclass
class Terminal:
    """A person at a terminal on which a command runs."""

    process: subprocess.Popen[bytes]
    _fd: int
    screen: str = ""
    _closed: bool = field(default=False)

    def wait_for(self, text: str) -> None:
        """Wait until the screen has shown a text."""
        until = time.monotonic() + PATIENCE_S
        while text not in self.screen:
            assert time.monotonic() < until, f"never shown: {text!r}; shown was {self.screen!r}"
            assert self._read() or text in self.screen, f"ended before showing {text!r}: {self.screen!r}"

    def type(self, line: str) -> None:
        os.write(self._fd, line.encode() + b"\n")

    def close(self) -> None:
        """The window is closed: the kernel hangs up."""
        if not self._closed:
            self._closed = True
            os.close(self._fd)

    def end(self) -> int:
        """Read to the end; the exit code."""
        while self._read():
            pass
        return self.process.wait(PATIENCE_S)

    def _read(self) -> bool:
        ready, _, _ = select.select([self._fd], [], [], PATIENCE_S)
        assert ready, f"silent: {self.screen!r}"
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # nobody has it open any more
            return False
        self.screen += data.decode(errors="replace")
        return bool(data)


@contextlib.contextmanager
def on_terminal(desk: Desk, *argv: str | Path, **streams: Any) -> Iterator[Terminal]:
    """Run a command on a terminal of its own, which is its controlling one; `streams` replaces some of the three."""
    ours, theirs = pty.openpty()
    # The child opens its terminal anew, so that it becomes the controlling one of its session.
    opener = (
        "import os,sys,fcntl,termios;"
        "fcntl.ioctl(int(sys.argv[1]),termios.TIOCSCTTY,0);os.close(int(sys.argv[1]));"
        "os.execv(sys.argv[2],sys.argv[2:])"
    )
    command = [sys.executable, "-S", "-c", opener, str(theirs), *desk.argv(*argv)]
    stdio: dict[str, Any] = {"stdin": theirs, "stdout": theirs, "stderr": theirs} | streams  # Any: as above
    env = {**desk.env, "TERM": "xterm", "COLUMNS": "200"}
    process: subprocess.Popen[bytes] = subprocess.Popen(
        command, cwd=desk.work, env=env, start_new_session=True, pass_fds=(theirs,), **stdio
    )
    os.close(theirs)
    terminal = Terminal(process, ours)
    try:
        yield terminal
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        terminal.close()
        desk.said.append(terminal.screen)
