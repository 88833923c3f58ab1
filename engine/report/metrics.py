"""How runs go, as a textfile for Prometheus's node exporter. The only importer of prometheus-client.

One file for all jobs: a run replaces the samples of its own job and keeps those of the others, under a lock, and the
file is renamed into its place whole. Measuring is never worth a run: what cannot be written is `MetricsError`, in
words, and nothing here waits long.
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
from engine.report.text import pace

if TYPE_CHECKING:
    from prometheus_client import Gauge

    from engine.journal.ledger import Ledger

EVERY_S = 10.0
"""How often the file is written while a run goes."""
MOST = 4 << 20
"""Bytes of a file whose samples are kept; ours has some hundred a job."""
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
    """How one run stands, as numbers."""

    job: str
    at: float
    """UNIX time at which it stands so."""
    exit_code: int | None
    """None while it goes."""
    samples: tuple[tuple[str, Mapping[str, str], float], ...]
    """Name, labels beside `job`, value."""


def run_metrics(ledger: Ledger, *, now: float, seconds: float, exit_code: int | None) -> RunMetrics:
    """How a run stands at UNIX time `now`."""
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
    """ConfigError if metrics are asked for and cannot be made, before anything is sent."""
    if path is not None and find_spec("prometheus_client") is None:
        raise ConfigError(
            f"{origin}: metrics_file needs the package prometheus-client, which is not installed: "
            "pip install 'acctops[metrics]', or take the line out"
        )


def known_success(path: Path, job: str) -> float | None:
    """When the job last succeeded, as far as the file knows; MetricsError if it cannot be read."""
    with _in_words(path):
        return _present(path, job)[1]


def write(path: Path, metrics: RunMetrics, success_at: float | None) -> None:
    """Put the samples of one job into the file, whole or not at all; MetricsError in words if that cannot be.

    `success_at` is when the job last succeeded; None: what the file says of that stands.
    """
    with _in_words(path), _locked(path.parent):
        others, known = _present(path, metrics.job)
        data = _text(metrics, others, success_at if success_at is not None else known)
        replace_whole(path, data, 0o644)  # readable by anybody, whatever the umask is: it is there to be scraped


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
    """What the file says of other jobs, and when this one last succeeded."""
    from prometheus_client.parser import text_string_to_metric_families

    others: _Samples = []
    success: float | None = None
    # What is no file of ours, or was damaged, is written anew.
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
        # Not through a link, which others may have planted in a directory that they share with us.
        return read_regular(path, MOST, follow=False).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Among the runs of this host: two jobs that end together must not lose each other's last word."""
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
