"""What this process may use: its open files, made sure of before the first send.

Each connection is an open file. With too few of them a run would stumble in the middle, over whatever needs one next.
So the soft limit is raised as far as the hard one lets it, and what still is too little bounds how much is under way.
"""

from __future__ import annotations

import importlib
import resource
from contextlib import suppress
from pathlib import Path

RESERVE = 64
"""Files that are not connections: streams, journal, locks, the loop's own, a notice, and what a library opens."""
_RARE = ("tenacity", "traceback", "linecache", "tokenize", "difflib", "json", "encodings.idna", "ssl")
"""Modules that are first needed when something goes wrong, or when keys are renewed."""
ADVICE = "raise it with `ulimit -n`, or LimitNOFILE= of the unit"


def make_room(connections: int, reserve: int = RESERVE) -> int:
    """How many of so many `connections` may be open at a time, once the soft limit is raised as far as it can be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + max(reserve, _open_files() + reserve // 2)
    if soft != resource.RLIM_INFINITY and soft < needed:
        wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with suppress(OSError, ValueError):  # a sandbox that forbids it
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return connections
    return max(0, connections - (needed - soft))


def open_files_limit() -> int:
    """How many files this process may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def load_rare(more: tuple[str, ...] = ()) -> None:
    """Import what is needed only when something goes wrong: by then there may be no open file left to import with."""
    for name in (*_RARE, *more):
        importlib.import_module(name)


def _open_files() -> int:
    try:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())
    except OSError:
        return RESERVE // 2
