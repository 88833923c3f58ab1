"""How a plan is divided into waves. No I/O, no clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.inputs.job import Wave, WavesSpec


def sizes(waves: Sequence[Wave], calls: int) -> tuple[int, ...]:
    """Return how many of `calls` each wave takes, in plan order. A wave for which nothing is left takes none."""
    found, left = [], calls
    for wave in waves:
        found.append(min(left, wave.of(calls)))
        left -= found[-1]
    return tuple(found)


def problem(waves: WavesSpec, calls: int) -> str | None:
    """Return why a plan of so many calls cannot go in these waves, in words; None if it can."""
    taken = sum(sizes(waves.waves, calls))
    if taken == calls:
        return None
    return (
        f"{waves.place}: waves: they take {taken:,} of {calls:,} accounts, so {calls - taken:,} would be in no wave; "
        "end with {take: rest}"
    )


def soaks_s(waves: WavesSpec, calls: int) -> float:
    """Return the seconds for which the waves of a plan soak, all together."""
    return sum(wave.soak_s for wave, count in zip(waves.waves, sizes(waves.waves, calls), strict=True) if count)


__all__ = ["problem", "sizes", "soaks_s"]
