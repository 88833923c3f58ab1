"""The command. Composition, signals, exit codes; every import that costs stands inside a command body.

`main(argv)` is the whole command as a function; `entry` is what the console script calls.
"""

from __future__ import annotations

import contextlib
import gc
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence


def main(argv: Sequence[str] | None = None, *, clock: Callable[[], float] = time.time) -> int:
    """Run one command; returns its exit code (`errors.Reason`). Raises for nothing that can happen at night.

    `clock` is UNIX time, by which windows, journals and spans such as `--since 7d` go; signatures go by the machine's.
    """
    import click

    from engine.cli.app import app
    from engine.cli.leaving import ended_with, interrupted_words, stay
    from engine.cli.talk import refuse, say, take_any_text, tell_remarks
    from engine.errors import AcctopsError, Reason

    take_any_text()
    arguments = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in arguments
    tell_remarks(drop=True)  # of a command before this one, in the same process
    try:
        with _ended_by_sigterm():
            result = app.main(args=arguments, prog_name="acctops", standalone_mode=False, obj=clock)
        return int(result) if isinstance(result, int) else int(Reason.OK)
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        say(error.format_message())
        return int(Reason.USAGE)
    except click.UsageError as error:
        where = f" ({error.ctx.command_path} --help)" if error.ctx is not None else ""
        words = " ".join(error.format_message().split())  # one line: what a command lacks is a list of choices
        return refuse(f"{words}{where}", Reason.USAGE, as_json=as_json)
    except AcctopsError as error:
        return refuse(_to_be_pasted(str(error), arguments), error.reason, as_json=as_json)
    except (KeyboardInterrupt, click.Abort) as error:
        if isinstance(error.__cause__, EOFError):  # click takes it for a Ctrl-D at a prompt of its own; it has none
            return refuse(_defect(error.__cause__), Reason.STOPPED, as_json=as_json)
        if (ended := ended_with()) is not None:
            return ended
        return refuse(_to_be_pasted(interrupted_words("interrupted"), arguments), Reason.INTERRUPTED, as_json=as_json)
    except _TerminatedError:
        return refuse(_to_be_pasted(interrupted_words("terminated"), arguments), Reason.TERMINATED, as_json=as_json)
    except Exception as error:  # noqa: BLE001 - the command's last line: a defect ends in a sentence, too
        return refuse(_defect(error), Reason.STOPPED, as_json=as_json)
    finally:
        stay()


def entry() -> None:
    """Console script."""
    # Nothing that starts, plans or looks back makes cycles worth looking for, and looking is 7 % of `plan` and `status`
    # (measured). A session and the simulator, which go on for hours, switch it on.
    gc.disable()
    _one_sentence_each()
    from engine.cli.leaving import leave_soon
    from engine.cli.talk import hush_closed_streams
    from engine.errors import Reason

    code = main()
    if code in (Reason.INTERRUPTED, Reason.TERMINATED):
        leave_soon(code, "")  # a name server that never answers holds a thread, and Python waits for it at the exit
    hush_closed_streams()
    sys.exit(code)


def _to_be_pasted(text: str, arguments: Sequence[str]) -> str:
    """A refusal whose commands find the run that they name: with `--state-dir` and `--config` as they were given here.

    What refuses stands deep below the command line, and knows the run, but not how it was found.
    """
    import re

    from engine.outside.foreign import pasted

    given = [
        word
        for flag in ("--state-dir", "--config")
        for at, argument in enumerate(arguments)
        for word in ((flag, argument.partition("=")[2]) if argument.startswith(f"{flag}=") else ())
        or ((flag, arguments[at + 1]) if argument == flag and at + 1 < len(arguments) else ())
    ]
    if not given:
        return text
    command = (
        r"(acctops (?:resume|rerun|undo|stop|status|report|verify) \d{8}T\d{6}Z-\w+\b)(?! --(?:state-dir|config)\b)"
    )
    return re.sub(command, lambda found: f"{found[1]} {pasted(given)}", text)


def _defect(error: BaseException) -> str:
    from engine.cli.talk import defect_words, show_traceback

    show_traceback(error)
    return (
        f"internal error, a defect of acctops: {defect_words(error)}\n"
        "what a run recorded stands: see acctops status; please report this with the output under ACCTOPS_DEBUG=1"
    )


def _one_sentence_each() -> None:
    """What ends where nobody catches it (while the command is loaded, in a thread, in a destructor, at the exit) ends
    in a sentence, too: Python's own words are a traceback."""

    def tell(error: BaseException | None) -> None:
        from engine.cli.talk import defect_words, show_traceback, warn

        if isinstance(error, KeyboardInterrupt):
            from engine.cli.leaving import interrupted_words

            warn(interrupted_words("interrupted"))
        elif error is not None:
            show_traceback(error)
            warn(f"internal error, a defect of acctops: {defect_words(error)}")

    sys.excepthook = lambda _kind, error, _trace: tell(error)
    sys.unraisablehook = lambda raised: tell(raised.exc_value)
    threading.excepthook = lambda raised: tell(raised.exc_value)


class _TerminatedError(BaseException):
    """SIGTERM came while there was no session to drain. Like KeyboardInterrupt: nobody catches it on the way."""


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Outside a session there is nothing to drain: SIGTERM ends the command, in words and without leftovers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(_number: int, _frame: object) -> None:
        from engine.cli.leaving import interrupted_words, leave_soon
        from engine.errors import Reason

        leave_soon(Reason.TERMINATED, interrupted_words("terminated"))
        raise _TerminatedError

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
