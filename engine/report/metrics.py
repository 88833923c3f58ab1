"""Writes metrics of runs to a textfile for Prometheus's node exporter. The only importer of prometheus-client.

All jobs share one file. A run replaces the samples of its own job and keeps those of the others, under a lock; then it
renames the whole file into place. Metrics must never stop a run: if they cannot be written, this module raises
`MetricsError`, in words, after a short wait at most.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from engine.errors import ConfigError
from engine.journal.records import unix_seconds
from engine.outside.trust import read_regular, replace_whole
from engine.report.documents import pace

if TYPE_CHECKING:
    from prometheus_client import Gauge

    from engine.journal.ledger import Ledger

EVERY_S = 10.0
"""Seconds between two writes of the file while a run is live."""
MOST = 4 << 20
"""Bytes that are read of a file that exists; ours has a few hundred a job."""
_LOCK_S = 1.0
_SUCCESS = "acctops_last_success_time_seconds"
_GAUGES = {
    # name: its labels beside `job`, help
    "acctops_run_targets": (("outcome",), "Targets of the job's latest run, by outcome as it stands."),
    "acctops_run_left_out": (("reason",), "Targets the job's latest run left out, by reason."),
    "acctops_run_throttled": ((), "Calls of the job's latest run that were refused for the quota, and tried again."),
    "acctops_run_quota_used_ratio": (("lane",), "Share of its quota that each lane of the latest run has used."),
    "acctops_run_seconds": ((), "How long the latest session of the job's latest run has worked."),
    "acctops_run_start_time_seconds": ((), "When the job's latest run began, in Unix time."),
    "acctops_run_update_time_seconds": ((), "When these samples of the job were written, in Unix time."),
    "acctops_run_live": ((), "1 while the job's latest run goes, else 0."),
    "acctops_run_exit_code": ((), "How the job's latest run ended; absent while it goes."),
    _SUCCESS: ((), "When a run of the job last ended with exit 0, in Unix time."),
}
_Samples = list[tuple[str, Mapping[str, str], float]]
"""Name, labels, value."""


class MetricsError(Exception):
    """Why the file was not written, in words."""


class RunMetrics(Struct, frozen=True, kw_only=True):
    """The state of one run at one time, as numbers."""

    job: str
    at: float
    """UNIX time of the state."""
    exit_code: int | None
    """Exit code of the run; None while it is live."""
    samples: tuple[tuple[str, Mapping[str, str], float], ...]
    """Name, labels beside `job`, value."""


def run_metrics(ledger: Ledger, *, now: float, seconds: float, exit_code: int | None) -> RunMetrics:
    """Return the metrics of a run at UNIX time `now`; `exit_code` is None while it is live."""
    run = ledger.run
    samples: _Samples = [("acctops_run_targets", {"outcome": name}, count) for name, count in ledger.counts().items()]
    samples += [("acctops_run_left_out", {"reason": name}, count) for name, count in ledger.left_out().items()]
    samples += [
        ("acctops_run_quota_used_ratio", {"lane": lane["lane"]}, lane["used"])
        for lane in pace(ledger)
        if lane["used"] is not None
    ]
    samples += [
        ("acctops_run_throttled", {}, ledger.throttled),
        ("acctops_run_seconds", {}, round(seconds, 3)),
        ("acctops_run_start_time_seconds", {}, unix_seconds(run.at)),
        ("acctops_run_update_time_seconds", {}, round(now, 3)),
        ("acctops_run_live", {}, exit_code is None),
    ]
    if exit_code is not None:
        samples.append(("acctops_run_exit_code", {}, exit_code))
    return RunMetrics(job=run.job.name, at=now, exit_code=exit_code, samples=tuple(samples))


def check_installed(path: Path | None, origin: str) -> None:
    """Raise ConfigError, before anything is sent, if metrics are asked for and the package for them is missing."""
    if path is not None and find_spec("prometheus_client") is None:
        raise ConfigError(
            f"{origin}: metrics_file needs the package prometheus-client, which is not installed: "
            "pip install 'acctops[metrics]', or take the line out"
        )


def known_success(path: Path, job: str) -> float | None:
    """Return the UNIX time of the job's last success in the file, or None; raise MetricsError if it is unreadable."""
    with _in_words(path):
        return _present(path, job)[1]


def write(path: Path, metrics: RunMetrics, success_at: float | None) -> None:
    """Replace the samples of one job in the file, whole or not at all; raise MetricsError in words if that fails.

    `success_at` is the UNIX time of the job's last success; None keeps the time in the file.
    """
    with _in_words(path), _locked(path.parent):
        others, known = _present(path, metrics.job)
        data = _text(metrics, others, success_at if success_at is not None else known)
        replace_whole(path, data, 0o644)  # readable by all whatever the umask, so that it can be scraped


@contextlib.contextmanager
def _in_words(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MetricsError(f"{path} cannot be written: {error.strerror or error}") from None


def _text(metrics: RunMetrics, others: _Samples, last_success_at: float | None) -> bytes:
    from prometheus_client import CollectorRegistry, Gauge, generate_latest

    registry = CollectorRegistry()
    gauges: dict[str, Gauge] = {}
    ours: _Samples = [(name, {"job": metrics.job, **labels}, value) for name, labels, value in metrics.samples]
    if last_success_at is not None:
        ours.append((_SUCCESS, {"job": metrics.job}, round(last_success_at, 3)))
    for name, (labels, words) in _GAUGES.items():
        gauges[name] = Gauge(name, words, ("job", *labels), registry=registry)
    for name, said, value in [*others, *ours]:
        gauges[name].labels(**said).set(value)
    return generate_latest(registry)


def _present(path: Path, job: str) -> tuple[_Samples, float | None]:
    """Return the samples of other jobs in the file, and the time of this job's last success (None if unknown)."""
    from prometheus_client.parser import text_string_to_metric_families

    others: _Samples = []
    success: float | None = None
    # A file that is not ours, or was damaged, is replaced.
    with contextlib.suppress(ValueError, KeyError, IndexError):
        for family in text_string_to_metric_families(_read(path)):
            for sample in family.samples:
                labels = _GAUGES.get(sample.name, (None, ""))[0]
                if labels is None or set(sample.labels) != {"job", *labels}:
                    continue
                if sample.labels["job"] != job:
                    others.append((sample.name, sample.labels, sample.value))
                elif sample.name == _SUCCESS:
                    success = sample.value
    return others, success


def _read(path: Path) -> str:
    try:
        # Not through a link: other users of a shared directory may have put it there.
        return read_regular(path, MOST, follow=False).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the lock among the runs of this host, so that two jobs that end together both keep their samples."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        until = time.monotonic() + _LOCK_S
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise OSError(0, f"another process holds a lock on {directory}") from None
                time.sleep(0.01)
        yield
    finally:
        os.close(fd)
