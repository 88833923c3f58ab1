"""One lane's quota, shared by the processes of one host through a locked file, without a server.

The file holds the moments at which the lane's last sends leave. They are on the host's monotonic clock, so setting the
wall clock changes nothing. A process that wants to send locks the file for some microseconds. It writes down the
earliest moment that puts no second over the quota, counting the sends of all processes. Each process asks for one slot
at a time, so they take turns. When a process dies, the kernel frees its lock, and one slot is lost. Processes of other
hosts are not known here.

With a group, others write this file, too. So the file is read and written by position and never mapped, and links are
not followed. Content that no pacing run can have written is thrown away, and the user is told.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import math
import os
import stat
import struct
import time
from collections.abc import Callable
from pathlib import Path

from engine.errors import ConfigError
from engine.outside.trust import Trust, gid_of, group_words, owner_words

_MAGIC = 0x61636374
_HEADER = struct.Struct("<IId")
"""Magic, number of sends kept, the schedule's last slot."""
_MOST = 256
_SIZE = _HEADER.size + 8 * _MOST
CATCH_UP = 2.0
"""Slots of the schedule that may be caught up: fewer than in `pacer`, as several processes may be late at once."""
FUTURE_S = 60.0
"""A slot further ahead than this, and than `FUTURE_SLOTS`, is from before the host's restart, or from no run."""
FUTURE_SLOTS = 100
"""At most so many processes have a slot and wait for it."""
_RETRY_S = 0.001
HELD_S = 1.0
"""A process that holds the lock for so many seconds was stopped (Ctrl-Z) in the microseconds in which it had it."""
_UNIMPORTANT_S = 0.002
"""Seconds of lateness for which the guard has room."""
_NO_ONE_ELSE = Trust()


class SharedSlots:
    """The slots of one lane, as all processes of this host see them."""

    def __init__(
        self,
        directory: Path,
        lane: str,
        *,
        group: str | None = None,
        trust: Trust = _NO_ONE_ELSE,
        tell: Callable[[str], None] = lambda _words: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open or make the lane's file in `directory`. ConfigError if it cannot be written, or is not to be trusted.

        With a `group`, its members share the lane, too. `tell` gets the words, once, if the content of the file is
        thrown away or cannot be used. `clock` must be the same in all processes of this host.
        """
        self.now = clock
        self._tell = tell
        self._has_told = False
        self._is_held = False
        """Whether the lock was last found to be held for too long."""
        self.path = directory / (hashlib.sha256(lane.encode()).hexdigest()[:32] + ".slots")
        try:
            gid = gid_of(group) if group is not None else None
            _make(directory, gid)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            self._fd = os.open(self.path, flags, 0o600)
        except (OSError, KeyError) as error:
            why = getattr(error, "strerror", None) or f"there is no group {group}"
            raise ConfigError(f"{self.path} cannot be written: {why}; name another with --state-dir") from error
        try:
            found = os.fstat(self._fd)
            if why := _why_not(found, gid, trust):
                raise ConfigError(f"{self.path} is not used: {why}; remove it, or name another with --state-dir")
            # On a full disk this fails here, in words.
            os.posix_fallocate(self._fd, 0, _SIZE)
            if not found.st_size and gid is not None:
                os.fchown(self._fd, -1, gid)
                os.fchmod(self._fd, 0o660)
        except OSError as error:
            os.close(self._fd)
            raise ConfigError(f"{self.path} cannot be written: {error.strerror}; another: --state-dir") from error
        except ConfigError:
            os.close(self._fd)
            raise

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    async def reserve(self, *, rate: float, interval_s: float, window_s: float) -> float:
        """Take the next slot: at most `rate` in any `window_s`, `interval_s` apart. Return when, by `now`.

        Never blocks the loop: this process asks again for a lock that another process holds, for `HELD_S`. After that
        it goes by its own pace, and the server throttles if that is too fast.
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
            except OSError as error:
                self._say(
                    f"{self.path} cannot be used: {error.strerror}; other runs on this host are not known to this one"
                )
                return self.now()
            finally:
                fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _take(self, now: float, depth: int, interval_s: float, window_s: float) -> float:
        schedule, leaving = self._load(now + max(FUTURE_S, FUTURE_SLOTS * interval_s))
        depth = min(depth, _MOST)
        schedule = max(schedule + interval_s, now - CATCH_UP * interval_s)
        at = max(now, schedule)
        if len(leaving) >= depth:
            at = max(at, leaving[-depth] + window_s)
        leaving.append(at)
        leaving.sort()
        self._store(schedule, leaving[-_MOST:])
        return at

    def is_good(self, _slot_at: float) -> bool:
        """Return True: a call that leaves late is noted at once, and all later slots keep their distance from it."""
        return True

    def left_late(self, slot_at: float, late_s: float) -> None:
        """Note that the call in the slot of `slot_at` left `late_s` later: later slots keep their distance from it."""
        if late_s <= _UNIMPORTANT_S:
            return
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # best effort: the guard has room for one
        try:
            schedule, leaving = self._load(math.inf)
            if slot_at in leaving:
                leaving.remove(slot_at)
                leaving.append(slot_at + late_s)
                leaving.sort()
                self._store(schedule, leaving)
        except OSError:
            pass  # the next `reserve` tells the user
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _load(self, latest: float) -> tuple[float, list[float]]:
        """Return the schedule and the last sends; no sends if a moment is no number, or is after `latest`."""
        text = os.pread(self._fd, _SIZE, 0)
        if not any(text[: _HEADER.size]):
            return float("-inf"), []
        if len(text) == _SIZE:
            magic, count, schedule = _HEADER.unpack_from(text, 0)
            if magic == _MAGIC and 0 < count <= _MOST:
                leaving = list(_MOMENTS[count].unpack_from(text, _HEADER.size))
                # A sum is finite only if all its parts are: profiled, cheaper than a check of each.
                if schedule <= latest and math.isfinite(sum(leaving) + schedule) and max(leaving) <= latest:
                    return schedule, leaving
        self._say(f"{self.path}: what stood there was written before this host was started, or by no run: begun anew")
        return float("-inf"), []

    def _store(self, schedule: float, leaving: list[float]) -> None:
        text = _HEADER.pack(_MAGIC, len(leaving), schedule) + _MOMENTS[len(leaving)].pack(*leaving)
        os.pwrite(self._fd, text, 0)

    def _say(self, words: str) -> None:
        if not self._has_told:
            self._has_told = True
            self._tell(words)


_MOMENTS = tuple(struct.Struct(f"<{count}d") for count in range(_MOST + 1))


def _why_not(found: os.stat_result, gid: int | None, trust: Trust) -> str | None:
    """Say why a file of slots is not used; None if it may be used."""
    if not stat.S_ISREG(found.st_mode):
        return "it is no regular file"
    if found.st_nlink != 1:
        return "it is a file of another name, too"
    if found.st_uid not in {0, os.geteuid(), *trust.uids} and found.st_gid != gid:
        return f"it belongs to {owner_words(found.st_uid)}"
    if found.st_mode & stat.S_IWOTH:
        return "everybody can write it"
    if found.st_mode & stat.S_IWGRP and found.st_gid not in {0, gid, *trust.gids}:
        return f"the group {group_words(found.st_gid)} can write it"
    return None


def _make(directory: Path, gid: int | None) -> None:
    if directory.is_dir():
        return
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if gid is not None:
        os.chown(directory, -1, gid)
        directory.chmod(0o2770)
