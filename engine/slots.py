"""Device, floor 2: one lane's quota, shared by the processes of one host through a locked file, without a server.

The file holds when the lane's last sends leave, on the host's monotonic clock, so that a stepped wall clock changes
nothing. A process that wants to send locks the file for some microseconds and writes down the earliest moment that
breaks no second, whoever used it. Each asks for one slot at a time, so the processes take turns. The kernel frees the
lock of a process that dies; a slot it had taken is lost, once. Across hosts this does not reach.
"""

from __future__ import annotations

import asyncio
import fcntl
import grp
import hashlib
import mmap
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

from engine.errors import ConfigError

_MAGIC = 0x61636374
_HEADER = struct.Struct("<IId")
"""Magic, number of sends kept, the schedule's last slot."""
_MOST = 256
_SIZE = _HEADER.size + 8 * _MOST
CATCH_UP = 2.0
"""Slots of the schedule that may be made up for: fewer than in `pacing`, as several processes may be late at once."""
FUTURE_S = 60.0
"""A slot further ahead than this was written before the host was restarted: its clock began anew."""
_RETRY_S = 0.001
HELD_S = 1.0
"""A lock that is held for so long is that of a process which was stopped (Ctrl-Z) in the microseconds it has it."""
_UNIMPORTANT_S = 0.002
"""Lateness that the guard has room for."""


class SharedSlots:
    """The slots of one lane, as all processes of this host see them."""

    def __init__(
        self,
        directory: Path,
        lane: str,
        *,
        group: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the lane's file in `directory`, made if need be. ConfigError if it cannot be written.

        With a `group`, its members share the lane, too. `clock` is the one that all processes of this host have.
        """
        self.now = clock
        self._is_held = False
        """Whether the lock was last found to be held for too long."""
        self.path = directory / (hashlib.sha256(lane.encode()).hexdigest()[:32] + ".slots")
        try:
            _make(directory, group)
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            is_new = os.fstat(self._fd).st_size < _SIZE
            # On a full disk this fails in words; a page of a file with holes could not be written, and is a SIGBUS.
            os.posix_fallocate(self._fd, 0, _SIZE)
            if is_new and group is not None:
                os.fchown(self._fd, -1, grp.getgrnam(group).gr_gid)
                os.fchmod(self._fd, 0o660)
            self._map = mmap.mmap(self._fd, _SIZE)
        except (OSError, KeyError) as error:
            why = getattr(error, "strerror", None) or f"there is no group {group}"
            raise ConfigError(f"{self.path} cannot be written: {why}; name another with --state-dir") from error

    def close(self) -> None:
        """Let go of the file."""
        self._map.close()
        os.close(self._fd)

    async def reserve(self, *, rate: float, interval_s: float, window_s: float) -> float:
        """Take the next slot: at most `rate` in any `window_s`, `interval_s` apart. Returns when, by the host's clock.

        Never blocks the loop: a lock that another process holds is asked for again, until it is clear that this one
        does not give it back. Then this process goes by its own pace, and the server throttles if that is too much.
        """
        give_up_at = self.now() + (0.0 if self._is_held else HELD_S)
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if self.now() >= give_up_at:
                    self._is_held = True
                    return self.now()
                await asyncio.sleep(_RETRY_S)
                continue
            self._is_held = False
            try:
                return self._take(self.now(), max(1, int(rate)), interval_s, window_s)
            finally:
                fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _take(self, now: float, depth: int, interval_s: float, window_s: float) -> float:
        schedule, leaving = self._load(now)
        depth = min(depth, _MOST)
        schedule = max(schedule + interval_s, now - CATCH_UP * interval_s)
        at = max(now, schedule)
        if len(leaving) >= depth:
            at = max(at, leaving[-depth] + window_s)
        leaving.append(at)
        leaving.sort()
        self._store(schedule, leaving[-_MOST:])
        return at

    def left_late(self, slot_at: float, late_s: float) -> None:
        """What took the slot of `slot_at` left so much later: later slots must keep their distance from that."""
        if late_s <= _UNIMPORTANT_S:
            return
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # best effort: the guard has room for one
        try:
            schedule, leaving = self._load(self.now())
            if slot_at in leaving:
                leaving.remove(slot_at)
                leaving.append(slot_at + late_s)
                leaving.sort()
                self._store(schedule, leaving)
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _load(self, now: float) -> tuple[float, list[float]]:
        magic, count, schedule = _HEADER.unpack_from(self._map, 0)
        if magic != _MAGIC or count > _MOST or not schedule < now + FUTURE_S:
            return float("-inf"), []
        return schedule, list(struct.unpack_from(f"<{count}d", self._map, _HEADER.size))

    def _store(self, schedule: float, leaving: list[float]) -> None:
        struct.pack_into(f"<{len(leaving)}d", self._map, _HEADER.size, *leaving)
        _HEADER.pack_into(self._map, 0, _MAGIC, len(leaving), schedule)


def _make(directory: Path, group: str | None) -> None:
    if directory.is_dir():
        return
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if group is not None:
        os.chown(directory, -1, grp.getgrnam(group).gr_gid)
        directory.chmod(0o2770)
