"""What bounds a session: what the operator, the guards and the plan say beside the run's own settings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from msgspec import Struct, field

from engine.model import Call, CallId, Omit, Reading, Rival, Where
from engine.pacing.backoff import Policy


class Bounds(Struct, frozen=True, kw_only=True):
    """The bounds of one session."""

    policy: Policy
    """How long calls are tried again."""
    deadline_s: float
    """After so long nothing more is sent."""
    deadline_why: str = ""
    """What is said then; else that the deadline is reached."""
    stop_after: int | None = None
    """So many failed calls stop the run."""
    stop_requested: Callable[[], bool] = lambda: False
    """Asked now and then whether somebody wants it stopped."""
    ask_secret: Callable[[Call], Awaitable[str]] | None = None
    """Where the password of a call comes from."""
    no_send: frozenset[CallId] = frozenset()
    """Calls that are only read and settled: a guard forbids them by now, or a later rerun has them."""
    elsewhere: frozenset[CallId] = frozenset()
    """Failed calls that later reruns have brought about."""
    readings: dict[Where, Reading] = field(default_factory=dict)
    """What was read for the plan. It is emptied: what is read again must not be kept twice."""
    located: Mapping[str, str] = field(default_factory=dict)
    """Instances known to be in other regions."""
    keep_admins: int = 0
    """How many superusers each instance must keep."""
    rivals: tuple[Rival, ...] = ()
    """Other runs that lock accounts right now."""
    stays: Callable[[Call, Reading], Omit | None] = lambda _call, _reading: None
    """Why an account must stay as it is, by a newer reading: an undo's rule."""
    resend_already: bool = False
    """Whether accounts that are as desired are sent all the same."""
