"""The signs of a worker for supervisors and for Prometheus: a file whose time is now, and samples in `metrics_file`."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import ConfigError
from engine.operations.measuring import aside

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.inputs.settings import Settings
    from engine.workers.host import Host

EVERY_S = 1.0
"""Seconds between two touches of the file."""
_DISK_S = 5.0
"""Longest wait for a disk, in seconds."""


class Signs:
    """Shows that a worker is ready, and what it does. A disk that fails ends no worker."""

    def __init__(
        self, settings: Settings, ready_file: str | None, say: Callable[[str], None], *, clock: Callable[[], float]
    ) -> None:
        """`clock` is UNIX time. ConfigError if the file cannot be made."""
        self._ready = Path(ready_file).absolute() if ready_file is not None else None
        self._metrics = settings.metrics_file
        self._say = say
        self._clock = clock
        self._had_trouble = False
        self._turn = threading.Lock()
        if self._ready is not None:
            try:
                self._ready.unlink(missing_ok=True)  # one of a worker that was killed says nothing of this one
                if not os.access(self._ready.parent, os.W_OK):
                    raise PermissionError(13, "no such directory, or it cannot be written")
            except OSError as error:
                raise ConfigError(f"--ready-file {self._ready}: {error.strerror}") from None

    async def show(self, host: Host) -> None:
        """Keep them true until cancelled."""
        from engine.report.metrics import EVERY_S as METRICS_S

        due = 0.0
        while True:
            if self._ready is not None:
                await self._tried(lambda: self._touch(is_ready=host.is_ready))
            if self._metrics is not None and time.monotonic() >= due:
                due = time.monotonic() + METRICS_S
                await self._tried(lambda: self._measure(host, is_there=True))
            await asyncio.sleep(EVERY_S)

    async def remove(self, host: Host) -> None:
        """Take them away: the worker has left."""
        if self._ready is not None:
            await self._tried(lambda: self._touch(is_ready=False))
        if self._metrics is not None:
            await self._tried(lambda: self._measure(host, is_there=False))

    def _touch(self, *, is_ready: bool) -> None:
        assert self._ready is not None
        with self._turn:
            if not is_ready:
                self._ready.unlink(missing_ok=True)
                return
            fd = os.open(self._ready, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            try:
                os.utime(fd)
            finally:
                os.close(fd)

    def _measure(self, host: Host, *, is_there: bool) -> None:
        from engine.report.metrics import WorkerMetrics, write_worker

        assert self._metrics is not None
        found = WorkerMetrics(
            at=self._clock(),
            is_ready=host.is_ready,
            lanes=host.sessions,
            runs=len(host.leads),
            slots=host.slots_taken,
            answered_s=time.monotonic() - host.answered_at,
        )
        write_worker(self._metrics, host.name, found if is_there else None, now=self._clock())

    async def _tried(self, call: Callable[[], None]) -> None:
        from engine.report.metrics import MetricsError

        try:
            async with asyncio.timeout(_DISK_S):
                await aside(call)
        except (OSError, MetricsError) as error:  # TimeoutError is one
            if not self._had_trouble:
                self._had_trouble = True
                words = error.strerror or "the disk does not answer" if isinstance(error, OSError) else str(error)
                self._say(f"readiness and metrics are not told: {words}")
