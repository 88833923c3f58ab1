"""Guards on what a run may reach: which of several holds, what they need, their words. No I/O.

Guards never compete, they add up toward the stricter, whoever said them (promise P2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from engine.api.actions import takes_admins

if TYPE_CHECKING:
    from engine.inputs.job import Glob
    from engine.model import Place

STRICTER: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {"keep_admins": max, "max_targets": min, "max_share": min}
)
"""Guard that is a number → which of two is the stricter. Any: whole numbers and shares."""


def strictest(guard: str, said: Iterable[tuple[Any, Place]]) -> tuple[Any, Place] | None:
    """The strictest of what was said of a guard, with its place; of equals the first. Any: as in STRICTER."""
    return STRICTER[guard](said, key=lambda one: one[0], default=None)  # type: ignore[no-any-return]


def guard_words(guard: str, value: float) -> str:
    """A guard as the operator writes it."""
    if guard == "max_share":
        return f"limits.max_share {value * 100:g}%"
    return f"limits.max_targets {value:,}" if guard == "max_targets" else f"{guard} {value:,}"


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
