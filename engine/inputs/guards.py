"""Guards on what a run may reach: which of several holds, what they need, their words. No I/O.

Guards add up: of several the strictest holds, wherever it is written (promise P2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from engine.api.actions import takes_admins

if TYPE_CHECKING:
    from engine.inputs.job import Glob
    from engine.model import Place


class Guard(Struct, frozen=True, kw_only=True):
    """A guard that is a number."""

    stricter: Callable[..., Any]
    """`min` or `max`: picks the stricter value. Any: whole numbers and shares."""
    group: str = ""
    """The key in files under which it is written, with a dot at the end."""
    is_share: bool = False


STRICTER: Mapping[str, Guard] = MappingProxyType(
    {
        "keep_admins": Guard(stricter=max),
        "max_targets": Guard(stricter=min, group="limits."),
        "max_share": Guard(stricter=min, group="limits.", is_share=True),
    }
)
"""Guards by name. Every config file and the job may set them, and the strictest value holds."""


def strictest(guard: str, said: Iterable[tuple[Any, Place]]) -> tuple[Any, Place] | None:
    """Return the strictest value of a guard with its place, of equals the first; None if none. Any: as in STRICTER."""
    return STRICTER[guard].stricter(said, key=lambda one: one[0], default=None)  # type: ignore[no-any-return]


def guard_words(guard: str, value: float) -> str:
    """Return a guard as the operator writes it, such as `limits.max_share 5%`."""
    row = STRICTER[guard]
    return f"{row.group}{guard} " + (f"{value * 100:g}%" if row.is_share else f"{value:,}")


def need_readings(action: str, *, keep_admins: int | None, max_share: float | None) -> tuple[str, ...]:
    """Return the guards that hold for `action` only if accounts are read: who is an admin, how many accounts."""
    admins = ("keep_admins",) if keep_admins and takes_admins(action) else ()
    return admins if max_share is None else (*admins, "max_share")


def empty_plan_warnings(globs: Iterable[Glob], verb: str) -> list[str]:
    """Return a warning for each glob that matches every account: it is allowed, but nothing will be sent."""
    return [
        f"{glob.place}: {glob.pattern} {verb} every account: nothing will be sent"
        for glob in globs
        if glob.matches_everything
    ]
