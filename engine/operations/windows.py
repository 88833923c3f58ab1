"""Hold to a job's window: nothing is sent outside it, unless a person decides that (`Terms.now`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from engine.errors import ConfigError, RefusedError
from engine.inputs.window import Window, closes_at, from_record, moment, next_opening
from engine.model import Place
from engine.operations.events import News
from engine.report.spans import duration
from engine.run.bounds import TimeLeft

if TYPE_CHECKING:
    from engine.journal.records import RunSettings
    from engine.operations.terms import Terms


_CLOSED = "the window "
"""How the reason of a session begins whose window has closed."""


def is_closed(why: str) -> bool:
    """Return whether a session ended as its window closed, by the reason in its `end`."""
    return why.startswith(_CLOSED)


def window_of(settings: RunSettings) -> Window | None:
    """Return the window to which a journal holds its run, if any; ConfigError if it cannot be read."""
    if settings.window is None:
        return None
    try:
        return from_record(settings.window, Place("the journal"))
    except ValueError as error:
        raise ConfigError(f"the window of this run cannot be read here: {error}") from error


def hold(window: Window | None, terms: Terms, *, rerun: bool = False) -> Terms:
    """Return the terms; RefusedError for a start outside the window, unless a person decides that with `now`.

    A rerun, which a person starts by naming a run, needs only that person; the returned terms then have `now` set.
    """
    if window is None or terms.is_saving:
        return terms
    now = terms.clock()
    if terms.now:
        if terms.simulate or terms.attended:
            return terms
        raise RefusedError(
            f"--now is for a person at a terminal, and nobody is there: the window {window.label} holds; nothing was "
            f"sent{_when(window, now)}"
        )
    if closes_at(window, now) is not None:
        return terms
    if rerun and terms.attended:
        terms.tell(News(f"outside the window {window.label}, as a person asks for it"))
        return replace(terms, now=True)
    raise RefusedError(
        f"outside the window {window.label} ({window.place}): it is {moment(window, now)}; nothing was sent"
        f"{_when(window, now)}; a person at a terminal may add --now"
    )


def _when(window: Window, now: float) -> str:
    opens = next_opening(window, now)
    return f"; it next opens {moment(window, opens)}, in {duration(opens - now)}"


def time_left(window: Window | None, terms: Terms, deadline_s: float) -> TimeLeft:
    """Return how long a session may send: until its deadline, which a pause puts off, or the end of the window."""
    if window is None or terms.now:
        return TimeLeft(deadline_s)
    now = terms.clock()
    left_s = (closes_at(window, now) or now) - now  # if closed by now, nothing more is sent
    again = moment(window, next_opening(window, now))
    why = f"{_CLOSED}{window.label} closed; it next opens {again}, and resume goes on then"
    return TimeLeft(deadline_s, left_s, why)
