"""Exit codes and the exceptions an operator can fix."""

from __future__ import annotations

import inspect

import pytest

from engine import errors
from engine.errors import AcctopsError, JobError, Reason

EXITS = {
    "OK": 0,
    "INCOMPLETE": 1,
    "USAGE": 2,
    "REFUSED": 3,
    "STOPPED": 4,
    "DENIED": 5,
    "BUSY": 6,
    "CORRUPT": 7,
    "INTERRUPTED": 130,
    "TERMINATED": 143,
}
ERRORS = {
    "AcctopsError": Reason.USAGE,
    "UnreachableError": Reason.STOPPED,
    "BusyError": Reason.BUSY,
    "ConfigError": Reason.USAGE,
    "CredentialsError": Reason.DENIED,
    "JobError": Reason.USAGE,
    "JournalCorruptError": Reason.CORRUPT,
    "JournalVersionError": Reason.USAGE,
    "JournalWriteError": Reason.STOPPED,
    "AllHeldError": Reason.OK,
    "NotYetError": Reason.REFUSED,
    "TooSoonError": Reason.REFUSED,
    "NothingLeftError": Reason.INCOMPLETE,
    "RefusedError": Reason.REFUSED,
    "UsageError": Reason.USAGE,
}
FOUND = {name: error for name, error in inspect.getmembers(errors, inspect.isclass) if issubclass(error, BaseException)}


def test_exit_codes_are_the_documented_ones() -> None:
    """Cron jobs and pipelines compare these numbers: they never move."""
    assert {each.name: each.value for each in Reason} == EXITS


def test_every_error_has_its_exit_code() -> None:
    """One class, one exit code; a new class needs a row here."""
    assert {name: error.reason for name, error in FOUND.items()} == ERRORS


@pytest.mark.parametrize("error", FOUND.values(), ids=FOUND.keys())
def test_errors_have_one_root_and_say_what_they_are_for(error: type[AcctopsError]) -> None:
    """`except AcctopsError` catches whatever an operator can fix."""
    assert issubclass(error, AcctopsError)
    assert error.__doc__


def test_a_job_error_holds_every_problem_and_prints_one_a_line() -> None:
    """All that is wrong with a job file is told at once."""
    error = JobError(["job.yaml:1:1: action: missing", "job.yaml:4:3: targets[0]: empty"])
    assert error.problems == ("job.yaml:1:1: action: missing", "job.yaml:4:3: targets[0]: empty")
    assert str(error) == "job.yaml:1:1: action: missing\njob.yaml:4:3: targets[0]: empty"
