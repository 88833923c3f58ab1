"""Why a command or a session ends as it does (`Reason`), and the exceptions an operator can fix, with one root.

What the API answers is data (`model.Reply`, `model.Fault`), never an exception. An exception here ends the command
with one message, for the reason of its class. The message says what happened, where, and what to do next.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence


class Reason(IntEnum):
    """Why a session, or a use case, ended as it did.

    Its number is written in journals (`end`), documents, notices and metrics. `cli` exits with it. README, "Exit
    codes", has the table; a test compares the two.
    """

    OK = 0
    """Every selected target is in the desired state."""
    INCOMPLETE = 1
    """Finished; some targets failed or are unknown."""
    USAGE = 2
    """Usage, config or job-file error, or a journal from a newer version; nothing sent."""
    REFUSED = 3
    """Refused by a guard, or not confirmed; nothing sent."""
    STOPPED = 4
    """Stopped early (failures limit, deadline, fatal code, disk); the rest is listed and resumable."""
    DENIED = 5
    """Credentials or permission refused before any accepted write."""
    BUSY = 6
    """Another process holds this run, or a live run has the same job, or does the opposite on one of its accounts."""
    CORRUPT = 7
    """The journal is corrupt or was tampered with."""
    INTERRUPTED = 130
    """Interrupted (Ctrl-C); resumable."""
    TERMINATED = 143
    """Terminated (SIGTERM); resumable."""


class AcctopsError(Exception):
    """Root of everything an operator can fix."""

    reason: ClassVar[Reason] = Reason.USAGE


class UsageError(AcctopsError):
    """The command line asks for something that cannot be done as asked."""


class ConfigError(AcctopsError):
    """A configuration file or environment variable is wrong."""


class JobError(AcctopsError):
    """The job file, or a list it names, is wrong: every problem found, each as `file:line:column: what`."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class RefusedError(AcctopsError):
    """A guard refuses, or the operator did not confirm; nothing was sent."""

    reason = Reason.REFUSED


class NothingLeftError(AcctopsError):
    """By the time it was to be sent, all that an undo was to bring back must stay as it is; nothing was sent."""

    reason = Reason.INCOMPLETE


class NotYetError(AcctopsError):
    """A limit has passed by this machine's clock, and by the server's it will within a minute; nothing was sent."""

    reason = Reason.REFUSED


class TooSoonError(RefusedError):
    """What is asked for may be asked again from a certain time on; nothing was sent."""

    def __init__(self, words: str, at: float) -> None:
        """`at`: that time, in UNIX seconds."""
        super().__init__(words)
        self.at = at


class AllHeldError(AcctopsError):
    """By the time it was to be sent, others hold all that an undo was to bring back: as asked, and nothing was sent."""

    reason = Reason.OK


class CredentialsError(AcctopsError):
    """No usable credentials were found, or they were refused before any write was accepted."""

    reason = Reason.DENIED


class UnreachableError(AcctopsError):
    """The API cannot be reached, and without it nothing can be planned; nothing was sent."""

    reason = Reason.STOPPED


class BusyError(AcctopsError):
    """Another process holds this run, or a live run has the same job."""

    reason = Reason.BUSY


class JournalCorruptError(AcctopsError):
    """A journal line is not what was written: edited, dropped or swapped."""

    reason = Reason.CORRUPT


class JournalVersionError(AcctopsError):
    """The journal holds lines this version does not know: a newer acctops wrote them, and must be used to read them."""


class JournalWriteError(AcctopsError):
    """The journal cannot be written any more (disk full, I/O error); nothing further is sent."""

    reason = Reason.STOPPED
