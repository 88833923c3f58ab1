"""A process that was told twice to end, ends: whatever it waits for that never comes.

A disk that does not answer, and a name server, hold a thread that nothing can wake. A thread of ours, begun with the
second signal, ends the process if it is still there when its time is up.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress

LEAVE_S = 1.7
"""The second signal has ended the process within two seconds."""

_stays: list[threading.Event] = []
_runs: list[str] = []
"""The run that this command works on, once it may have sent something."""
_ends: list[int] = []
"""The exit code of its session, once that is over."""


def note_run(run_id: str) -> None:
    """From here on an interrupt cannot mean that nothing was sent."""
    _runs.append(run_id)


def note_end(code: int) -> None:
    """The session is over, and on disk: impatience with what is printed of it changes nothing in what was done."""
    _ends.append(code)


def ended_with() -> int | None:
    """The exit code of the session that this command has carried out, if it is over."""
    return _ends[-1] if _ends else None


def interrupted_words(how: str) -> str:
    """What is true of a command that a signal ended outside of any session; `how`: interrupted or terminated."""
    if not _runs:
        return f"{how} before anything was sent"
    return f"{how}; what run {_runs[-1]} did is recorded: acctops status {_runs[-1]}"


def leave_soon(code: int, words: str) -> None:
    """End the process with `code` in less than two seconds, in these words if any, unless `stay` is called before."""
    stays = threading.Event()
    _stays.append(stays)

    def end() -> None:
        if not stays.wait(LEAVE_S):
            with suppress(OSError):
                os.write(2, f"acctops: {words}\n".encode(errors="replace") if words else b"")
            with suppress(Exception):
                sys.stdout.flush()
            os._exit(code)

    threading.Thread(target=end, name="leaving", daemon=True).start()


def stay() -> None:
    """The command is over, in order: nothing more has to be ended."""
    _runs.clear()
    _ends.clear()
    while _stays:
        _stays.pop().set()
