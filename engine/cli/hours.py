"""Holding to a job's window: who may start outside it, and how long a session may go on.

Nobody there: nothing is sent outside the window. A person at a terminal may say `--now`; a rerun, which a person
starts by naming a run, needs only that person.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from engine.cli.ask import can_ask
from engine.cli.talk import say
from engine.errors import ConfigError, RefusedError
from engine.inputs.window import Window, closes_at, from_record, moment, next_opening
from engine.model import Place
from engine.report.spans import duration

if TYPE_CHECKING:
    from engine.cli.options import Options
    from engine.journal.records import RunSettings


def window_of(settings: RunSettings) -> Window | None:
    """The window a journal holds its run to."""
    if settings.window is None:
        return None
    try:
        return from_record(settings.window, Place("the journal"))
    except ValueError as error:
        raise ConfigError(f"the window of this run cannot be read here: {error}") from error


def hold(window: Window | None, options: Options, *, rerun: bool = False, stdin_is_list: bool = False) -> Options:
    """RefusedError for a start outside the window, unless a person takes it upon themselves: then with `now` set."""
    if window is None:
        return options
    now = options.clock()
    if options.now:
        if options.simulate or can_ask(stdin_is_list=stdin_is_list):
            return options
        raise RefusedError(
            f"--now is for a person at a terminal, and nobody is there: the window {window.label} holds; nothing was "
            f"sent{_when(window, now)}"
        )
    if closes_at(window, now) is not None:
        return options
    if rerun and can_ask(stdin_is_list=stdin_is_list):
        say(f"outside the window {window.label}, as a person asks for it")
        return replace(options, now=True)
    raise RefusedError(
        f"outside the window {window.label} ({window.place}): it is {moment(window, now)}; nothing was sent"
        f"{_when(window, now)}; a person at a terminal may add --now"
    )


def _when(window: Window, now: float) -> str:
    opens = next_opening(window, now)
    return f"; it next opens {moment(window, opens)}, in {duration(opens - now)}"


def time_left(window: Window | None, options: Options, deadline_s: float) -> tuple[float, str]:
    """Seconds a session may send, and what to say when they are over: its deadline, or the end of the window."""
    own = deadline_s, f"deadline of {deadline_s:.0f} s reached"
    if window is None or options.now:
        return own
    now = options.clock()
    left_s = (closes_at(window, now) or now) - now  # closed by now, while it was asked: it sends no more
    if left_s >= deadline_s:
        return own
    again = moment(window, next_opening(window, now))
    return left_s, f"the window {window.label} closed; it next opens {again}, and resume goes on then"
