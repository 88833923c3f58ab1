"""Guards on what a run may reach: which of several holds, what they need, their words. No I/O.

Guards never compete, they add up toward the stricter, whoever said them (promise P2).
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
    """Which of two holds. Any: whole numbers and shares."""
    group: str = ""
    """The key in files under which it is written, with a dot behind it."""
    is_share: bool = False


STRICTER: Mapping[str, Guard] = MappingProxyType(
    {
        "keep_admins": Guard(stricter=max),
        "max_targets": Guard(stricter=min, group="limits."),
        "max_share": Guard(stricter=min, group="limits.", is_share=True),
    }
)
"""By name. Every config file and the job may say them, and the strictest word holds."""


def strictest(guard: str, said: Iterable[tuple[Any, Place]]) -> tuple[Any, Place] | None:
    """The strictest of what was said of a guard, with its place; of equals the first. Any: as in STRICTER."""
    return STRICTER[guard].stricter(said, key=lambda one: one[0], default=None)  # type: ignore[no-any-return]


def guard_words(guard: str, value: float) -> str:
    """A guard as the operator writes it."""
    row = STRICTER[guard]
    return f"{row.group}{guard} " + (f"{value * 100:g}%" if row.is_share else f"{value:,}")


def need_readings(action: str, *, keep_admins: int | None, max_share: float | None) -> tuple[str, ...]:
    """Which guards cannot hold for `action` unless the instances are read: who is an admin, how many accounts."""
    admins = ("keep_admins",) if keep_admins and takes_admins(action) else ()
    return admins if max_share is None else (*admins, "max_share")


def empty_plan_warnings(globs: Iterable[Glob], verb: str) -> list[str]:
    """Of globs that match every account: allowed, but nothing is sent then."""
    return [
        f"{glob.place}: {glob.pattern} {verb} every account: nothing will be sent"
        for glob in globs
        if glob.matches_everything
    ]
