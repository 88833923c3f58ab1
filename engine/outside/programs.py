"""Runs a program of the operator's and takes what it prints. No shell.

Used for what an operator keeps elsewhere, passwords and API keys, and for what only the operator can judge, the gate of
a wave. What it prints may be a secret: nothing here shows it. It gets the environment as it is: a vault's login, an
agent, keys to ask the vendor's own store with are in there.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from engine.outside.foreign import Secrets, without_userinfo

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_LOOK_S = 0.01
_TURNS = 20
"""Turns of the loop in which what is there is read, whatever the clock says."""
_REST_S = 0.2
"""How long what a program has printed is read after its end, if somebody else holds its output open."""
_MOST_SAID = 4096
_OPAQUE = re.compile(r"(?=[A-Za-z+=_-]*[0-9])(?=[0-9+=_-]*[A-Za-z])[A-Za-z0-9+=_-]{20,}")
"""What looks like a key or a part of one: an instance's id is shorter, and words have no digits."""


class Printed(NamedTuple):
    """What a program that has ended left behind."""

    output: bytes
    """One byte more than was allowed, if it printed more."""
    errors: bytes
    status: int

    def __repr__(self) -> str:
        return f"Printed(status={self.status})"

    def complaint(self) -> str:
        """`exit status 3: what it said first`, without anything it printed on standard output."""
        said = self.errors[:_MOST_SAID].decode("utf-8", "replace").strip().partition("\n")[0]
        printed = self.output.decode("utf-8", "replace")
        # As a line, or within JSON, and in whatever spelling.
        secrets = Secrets((*map(str.strip, printed.splitlines()), *re.findall(r"[\w+/=.-]{8,}", printed)))
        said = secrets.scrub(without_userinfo(said))
        said = _OPAQUE.sub("[redacted]", said)  # a trace (`sh -x`), a library's complaint: what it got is in it
        said = "".join(sign for sign in said[:200] if sign.isprintable())
        ended = f"exit status {self.status}" if self.status > 0 else f"killed by signal {-self.status}"
        return f"{ended}{': ' + said if said else ''}"


def program_path(program: str, file: str) -> str:
    """One with a slash is a path, relative to the `file` that names it; one without is looked for on PATH."""
    if program.startswith("~/"):
        return str(Path(program).expanduser())
    return str(Path(file).absolute().parent / program) if "/" in program else program


async def run_program(
    argv: Sequence[str],
    *,
    limit_s: float,
    most: int,
    given: bytes | None = None,
    ends_alone: bool = False,
    folder: Path | None = None,
) -> Printed:
    """Run `argv` to its end, for at most `limit_s`, keeping `most` bytes; OSError or ValueError if it cannot start.

    TimeoutError when it does not end: it and what it started are killed, as they are when the waiting is cancelled.
    `given` stands on its standard input. With `ends_alone` what it started ends with it. It starts in `folder`.
    """
    import asyncio  # here: what only looks must start without asyncio

    # Not asyncio's own subprocesses: up to Python 3.11 one that is cancelled while it starts is waited for for ever.
    with _standing(given) as standard_input:
        process = subprocess.Popen(  # noqa: ASYNC220, S603 - asyncio starts its own just so; the operator's own program
            argv,
            stdin=standard_input,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            cwd=folder,
        )
    assert process.stdout is not None and process.stderr is not None
    try:
        async with asyncio.timeout(limit_s):
            kept = [_Kept(most), _Kept(most)]
            pipes = (process.stdout, process.stderr)
            reading = [asyncio.ensure_future(each.fill(pipe)) for each, pipe in zip(kept, pipes, strict=True)]
            try:
                while not _has_ended(process):
                    if not (await asyncio.wait(reading, timeout=_LOOK_S))[1]:
                        await asyncio.sleep(_LOOK_S)  # it closed its output, and is about to end
                # What it started may hold its output open for hours: its own answer is there by now.
                await asyncio.wait(reading, timeout=_REST_S)
                for _ in range(_TURNS):  # a loop that was held up for that long has read nothing of it yet
                    if all(task.done() for task in reading):
                        break
                    await asyncio.sleep(0)
                if ends_alone:
                    _kill(process)
            finally:
                for task in reading:
                    task.cancel()
                await asyncio.gather(*reading, return_exceptions=True)
            return Printed(bytes(kept[0].data), bytes(kept[1].data), process.wait())
    finally:
        _end(process)
        process.stdout.close()
        process.stderr.close()


class _Kept:
    """The first bytes of a pipe that is read to its end, so that its writer never waits and memory stays."""

    def __init__(self, most: int) -> None:
        self.data = bytearray()
        self._most = most + 1

    async def fill(self, pipe: IO[bytes]) -> None:
        import asyncio

        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        try:
            while chunk := await reader.read(self._most):
                self.data += chunk[: self._most - len(self.data)]
        finally:
            transport.close()


@contextlib.contextmanager
def _standing(given: bytes | None) -> Iterator[IO[bytes] | int]:
    """Give a file with these bytes, which no directory names: a program that does not read them stops nobody."""
    if given is None:
        yield subprocess.DEVNULL
        return
    with tempfile.TemporaryFile() as file:
        file.write(given)
        file.seek(0)
        yield file


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Return whether a program has ended. Its number is kept until somebody waits for it, and with it its group's."""
    if process.returncode is not None:
        return True
    with contextlib.suppress(ChildProcessError):
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    return True


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a program that nobody has waited for, with what it started: it leads a session of its own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a program that still runs, with what it started."""
    if process.returncode is None and not _has_ended(process):
        _kill(process)
    process.wait()
