"""From the course of a run to shapes: paths in a plane of 1000 × 100, which a page stretches. Pure.

A page draws no text inside of a picture: labels stand beside it, and all numbers in tables, for every size of screen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.report.course import Course

WIDE, HIGH = 1000, 100
_COLUMNS = 200


class Shape(str):
    """A path of ours: no word of others, and never cut."""

    __slots__ = ()


class Marks(Struct, frozen=True):
    """What happened to a run as a whole, on the time axis."""

    pauses: tuple[tuple[float, float], ...]
    """Left edge and width of each."""
    sessions: tuple[float, ...]
    """Where each further session began."""


class LanePlot(Struct, frozen=True, kw_only=True):
    """Calls a second of a lane, over time."""

    name: str
    sent: Shape
    """Path of all that left."""
    throttled: Shape
    """Path of those that were throttled, on the ground."""
    quota_y: float
    top: float
    """Calls a second at the upper edge."""
    most: float
    """Calls a second of the highest column."""
    seconds: float
    """Width of a column."""


def marks(course: Course, begin: float, end: float) -> Marks:
    """Return pauses and sessions between two times."""
    found = []
    for since, until in course.pauses:
        left, right = _x(since, begin, end), _x(until if until is not None else end, begin, end)
        found.append((left, round(max(2.0, right - left), 1)))
    return Marks(tuple(found), tuple(_x(at, begin, end) for at, _ in course.sessions[1:]))


def steps(times: Sequence[float], total: int, begin: float, end: float) -> Shape:
    """Return the area under how many of `total` were reached at each time; `times` are sorted."""
    if not times or not total:
        return Shape()
    points = ["M0 100"]
    last = -1.0
    for count, at in enumerate(times, 1):
        x = _x(at, begin, end)
        is_last = count == len(times)
        if is_last or x - last >= 1:
            points.append(f"H{x:g} V{HIGH - HIGH * count / total:.2f}")
            last = x
    return Shape(" ".join((*points, f"H{WIDE} V{HIGH} Z")))


def lane_plots(course: Course, quota: float, begin: float, end: float) -> tuple[LanePlot, ...]:
    """Return the plot of each lane, in the order of their names."""
    span = max(end - begin, 1.0)
    wide = max(course.width, -(-int(span + 1) // _COLUMNS))
    wide += -wide % course.width
    found = []
    for name, bins in sorted(course.lanes.items()):
        columns: dict[int, list[int]] = {}
        for number, (sent, throttled) in bins.items():
            into = columns.setdefault(int((number * course.width - int(begin)) // wide), [0, 0])
            into[0] += sent
            into[1] += throttled
        most = max((sent / wide for sent, _ in columns.values()), default=0.0)
        top = max(most, quota) * 1.1
        paths: list[list[str]] = [[], []]
        for column, counts in sorted(columns.items()):
            left = _x(int(begin) + column * wide, begin, end)
            right = _x(int(begin) + (column + 1) * wide, begin, end)
            for path, count in zip(paths, counts, strict=True):
                if count:
                    path.append(
                        f"M{left:g} 100 V{HIGH - HIGH * count / wide / top:.2f} H{max(right, left + 1):g} V100 Z"
                    )
        found.append(
            LanePlot(
                name=name,
                sent=Shape(" ".join(paths[0])),
                throttled=Shape(" ".join(paths[1])),
                quota_y=round(HIGH - HIGH * quota / top, 2),
                top=top,
                most=round(most, 1),
                seconds=wide,
            )
        )
    return tuple(found)


def bar(count: int, most: int) -> float:
    """Return how wide the bar of a count is, at least so that it is seen."""
    return max(4.0, round(WIDE * count / most, 1)) if count and most else 0.0


def span(since: float, until: float, begin: float, end: float) -> tuple[float, float]:
    """Return left edge and width of a span on the time axis."""
    left = _x(since, begin, end)
    return left, max(4.0, round(_x(until, begin, end) - left, 1))


def _x(at: float, begin: float, end: float) -> float:
    return round(min(max(0.0, WIDE * (at - begin) / max(end - begin, 0.001)), WIDE), 1)
