"""The bounds of a session: what the operator, the guards and the plan ask for beside the run's own settings."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct, field

from engine.journal.control import Asked
from engine.model import Call, CallId, Omit, Reading, Rival, Where
from engine.pacing.backoff import Policy


class TimeLeft(NamedTuple):
    """How long a session may send, in seconds from its start."""

    deadline_s: float
    """Without the time in which no new call may begin (`halts`)."""
    closes_s: float = math.inf
    """Until the window closes, whatever happens meanwhile."""
    closes_why: str = ""
    """What to say then."""


GREEN, RED, SILENT = "green", "red", "silent"


class Word(NamedTuple):
    """What a gate said."""

    word: str
    """GREEN, RED or SILENT."""
    why: str = ""
    """Why it is silent."""


class WaveTerms(Struct, frozen=True, kw_only=True):
    """What the waves of a session go by."""

    soaks_s: Sequence[float]
    """Seconds of each soak, of wave 1 first."""
    every_s: float
    """Seconds between two questions while a wave soaks."""
    ask: Callable[[int, Sequence[Call]], Awaitable[Word]] | None = None
    """Asks the gate about a wave and its calls; None: there is no gate."""
    may_undo: Callable[[Sequence[Call]], Awaitable[str | None]] | None = None
    """Says why a wave could not be undone, if it came to that; None: it is not asked before a wave begins."""


class Bounds(Struct, frozen=True, kw_only=True):
    """The bounds of one session."""

    policy: Policy
    """How long calls are tried again."""
    left: TimeLeft
    """How long the session may send."""
    deadline_at: Callable[[float], float] = lambda _rate: 0.0
    """Returns the least deadline of a session that sends so many calls a second and lane, in seconds."""
    stop_after: int | None = None
    """Number of failed calls that stops the run; None: no number does."""
    stop_requested: Callable[[], bool] = lambda: False
    """Returns whether another process asks the session to stop; called a few times a second."""
    asked: Callable[[Container[str]], Sequence[Asked]] = lambda _known: ()
    """Returns what people ask of the session, but for those of these names; called a few times a second."""
    caught_up: Callable[[], None] = lambda: None
    """Called whenever all that people have asked so far is carried out."""
    most_rate: float = math.inf
    """Calls a second and lane that nobody may ask for more than."""
    forget_asked: Callable[[str], None] = lambda _id: None
    """Removes one of these requests, by its name."""
    waves: WaveTerms | None = None
    """What the waves of the run go by; None: it has none."""
    ask_secret: Callable[[Call], Awaitable[str]] | None = None
    """Returns the password of a call; None: the action takes none."""
    no_send: frozenset[CallId] = frozenset()
    """Calls that are only read and settled: a guard now forbids them, or a later rerun has them."""
    elsewhere: frozenset[CallId] = frozenset()
    """Calls that failed in this run and that later reruns have done."""
    readings: dict[Where, Reading] = field(default_factory=dict)
    """Readings made for the plan. The session empties it, so that no reading is kept in memory twice."""
    located: Mapping[Where, str] = field(default_factory=dict)
    """Instances of the plan that were found in another region: instance → that region."""
    keep_admins: int = 0
    """How many usable superusers each instance must keep."""
    rivals: tuple[Rival, ...] = ()
    """Other runs that lock accounts at the same time."""
    stays: Callable[[Call, Reading], Omit | None] = lambda _call, _reading: None
    """Returns why an account must stay as it is, by a newer reading (an undo's rule); None: it may be changed."""
    may_begin: Callable[[], None] = lambda: None
    """Raises AcctopsError if the first call of the run may not be sent any more: its approval has expired."""
    resend_already: bool = False
    """Whether calls are sent even where the account is already as desired."""
