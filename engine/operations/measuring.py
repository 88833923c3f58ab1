"""The metrics of one session, written at its beginning, every ten seconds, and at its end; and the one of `tend`.

Another thread writes them, and is waited for only some seconds: a dead disk must not delay what matters.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from engine.errors import AcctopsError, Reason

if TYPE_CHECKING:
    from engine.inputs.settings import Settings
    from engine.journal.ledger import Ledger
    from engine.journal.protocols import Runs
    from engine.report.metrics import RunMetrics

_DISK_S = 5.0
"""Longest wait for the disk, in seconds."""


class Measuring:
    """The metrics of one session, written now and then."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        store: Runs,
        trouble: Callable[[str], None],
        *,
        clock: Callable[[], float],
    ) -> None:
        """`trouble` is told, once, why the metrics cannot be written."""
        self._path = settings.metrics_file if not ledger.run.simulated else None
        self._ledger = ledger
        self._store = store
        self._trouble = trouble
        self._clock = clock
        self._had_trouble = False
        self._looked_back = False
        self._began: float | None = None

    async def keep(self) -> None:
        """Write the metrics every ten seconds, until cancelled."""
        if self._path is None:
            return
        from engine.report.metrics import EVERY_S

        self._began = asyncio.get_running_loop().time()
        while True:
            await self._write(None)
            await asyncio.sleep(EVERY_S)

    async def last(self, reason: Reason) -> None:
        """Write the metrics of the session that has ended."""
        if self._path is not None:
            await self._write(reason)

    async def _write(self, reason: Reason | None) -> None:
        from engine.report.metrics import MetricsError, run_metrics

        end = self._ledger.end
        worked = asyncio.get_running_loop().time() - self._began if self._began is not None else 0.0
        metrics = run_metrics(
            self._ledger,
            now=self._clock(),
            seconds=end.seconds if end is not None else worked,
            exit_code=reason,
        )
        try:
            async with asyncio.timeout(_DISK_S):
                await aside(lambda: self._put(metrics))
        except TimeoutError:
            self._failed(f"{self._path} cannot be written: the disk does not answer")
        except MetricsError as error:
            self._failed(str(error))
        except Exception as error:  # noqa: BLE001 - a defect in measuring, or in a library, must not end a run either
            self._failed(f"{self._path} cannot be written: {type(error).__name__}: {error}")

    def _failed(self, why: str) -> None:
        if not self._had_trouble:
            self._had_trouble = True
            self._trouble(why)

    def _put(self, metrics: RunMetrics) -> None:
        """Write the file of metrics; called in a thread."""
        from engine.report.metrics import write

        assert self._path is not None
        write(self._path, metrics, self._success_at(metrics))

    def _success_at(self, metrics: RunMetrics) -> float | None:
        """Return when the job last succeeded: by this run, else, looked up once, by journals; None: the file has it."""
        from engine.operations.success import is_good, last_good, runs_named
        from engine.report.metrics import known_success

        run = self._ledger.run
        assert self._path is not None
        with contextlib.suppress(AcctopsError):
            # A rerun may end well by itself; its job is done only if the runs it repeats are, too.
            if metrics.exit_code == Reason.OK and (
                run.parent is None
                or is_good(self._store, self._store.head(run.run), runs_named(self._store, metrics.job))
            ):
                return metrics.at
            if not self._looked_back and known_success(self._path, metrics.job) is None:
                self._looked_back = True
                good = last_good(self._store, runs_named(self._store, metrics.job), metrics.at)
                return good.ended_at if good is not None else None
        return None


def measure_tend(settings: Settings, at: float) -> str | None:
    """Write into `metrics_file`, if there is one, that `tend` ended with exit 0 at UNIX time `at`.

    Returns in words why that failed, and raises nothing. Waits for the disk as a session does.
    """
    path = settings.metrics_file
    if path is None:
        return None
    found: list[str] = []

    def work() -> None:
        try:
            from engine.report.metrics import MetricsError, check_installed, write_tended

            check_installed(path, settings.origin["metrics_file"])
            try:
                write_tended(path, at)
            except MetricsError as error:
                found.append(str(error))
        except AcctopsError as error:
            found.append(str(error))
        except Exception as error:  # noqa: BLE001 - as for a session: a defect in measuring ends nothing else
            found.append(f"{path} cannot be written: {type(error).__name__}: {error}")

    writer = threading.Thread(target=work, name="metrics", daemon=True)
    try:
        writer.start()
    except RuntimeError as error:  # the system gives no more threads
        return f"{path} cannot be written: {error}"
    writer.join(_DISK_S)
    if writer.is_alive():
        return f"{path} cannot be written: the disk does not answer"
    return next(iter(found), None)


async def aside(call: Callable[[], None]) -> None:
    """Make a blocking call in a daemon thread, for which nobody has to wait, not even the interpreter's exit."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def tell(error: Exception | None) -> None:
        if not done.done():
            done.set_exception(error) if error is not None else done.set_result(None)

    def work() -> None:
        error: Exception | None = None
        try:
            call()
        except Exception as found:  # noqa: BLE001 - raised again where it is waited for
            error = found
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(tell, error)

    threading.Thread(target=work, name="metrics", daemon=True).start()
    await done
