"""Writes metrics of runs to a textfile for Prometheus's node exporter. The only importer of prometheus-client.

All jobs share one file, and `tend`, which works for all jobs, has one sample without a job in it. Each writer replaces
its own samples and keeps those of the others, under a lock; then it renames the whole file into place. Metrics must
never stop a run: if they cannot be written, this module raises `MetricsError`, in words, after a short wait at most.
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
from engine.journal.records import PASSED, SOAKING, unix_seconds
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
_TENDED = "acctops_tend_last_success_time_seconds"
_WORKER_AT = "acctops_worker_update_time_seconds"
_WORKER_GONE_S = 600.0
"""Seconds after which the samples of a worker that writes none are taken away: each start has a name of its own."""
_GAUGES = {
    # name: its labels, help
    "acctops_run_targets": (("job", "outcome"), "Targets of the job's latest run, by outcome as it stands."),
    "acctops_run_left_out": (("job", "reason"), "Targets the job's latest run left out, by reason."),
    "acctops_run_throttled": (
        ("job",),
        "Calls of the job's latest run that were refused for the quota, and tried again.",
    ),
    "acctops_run_quota_used_ratio": (("job", "lane"), "Share of its quota that each lane of the latest run has used."),
    "acctops_run_seconds": (("job",), "How long the latest session of the job's latest run has worked."),
    "acctops_run_start_time_seconds": (("job",), "When the job's latest run began, in Unix time."),
    "acctops_run_update_time_seconds": (("job",), "When these samples of the job were written, in Unix time."),
    "acctops_run_live": (("job",), "1 while the job's latest run goes, else 0."),
    "acctops_run_paused": (
        ("job",),
        "1 while somebody has paused the job's latest run, and once its process ended so; else 0.",
    ),
    "acctops_run_exit_code": (("job",), "How the job's latest run ended; absent while it goes."),
    "acctops_run_waves": (("job",), "How many waves the job's latest run has; absent without waves."),
    "acctops_run_waves_passed": (("job",), "How many waves of the job's latest run have passed; absent without waves."),
    "acctops_run_soak_end_time_seconds": (
        ("job",),
        "When the soak of the job's latest run ends, in Unix time; absent when none goes.",
    ),
    _SUCCESS: (("job",), "When a run of the job last ended with exit 0, in Unix time."),
    "acctops_worker_ready": (("worker",), "1 while the worker can take lanes, else 0."),
    "acctops_worker_lanes": (("worker",), "Lanes that the worker serves."),
    "acctops_worker_runs": (("worker",), "Runs that the worker leads."),
    "acctops_worker_slots": (("worker",), "Slots of the quota that the worker has used since its start."),
    "acctops_worker_database_silent_seconds": (("worker",), "Seconds since the database last answered the worker."),
    _WORKER_AT: (("worker",), "When these samples of the worker were written, in Unix time."),
    _TENDED: ((), "When `acctops tend` last ended with exit 0, in Unix time."),
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


class WorkerMetrics(Struct, frozen=True, kw_only=True):
    """The state of one worker, as numbers."""

    at: float
    """UNIX time of the state."""
    is_ready: bool
    lanes: int
    runs: int
    slots: int
    answered_s: float
    """Seconds since the database last answered."""


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
        ("acctops_run_paused", {}, ledger.pause is not None),
    ]
    if ledger.waves:
        states = [line.state for n, line in ledger.waves.items() if n]
        samples.append(("acctops_run_waves", {}, len(states)))
        samples.append(("acctops_run_waves_passed", {}, states.count(PASSED)))
        wave = ledger.wave
        if exit_code is None and wave is not None and wave.state == SOAKING and wave.until is not None:
            samples.append(("acctops_run_soak_end_time_seconds", {}, unix_seconds(wave.until)))
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
        return _success(_present(path), job)


def write(path: Path, metrics: RunMetrics, success_at: float | None) -> None:
    """Replace the samples of one job in the file, whole or not at all; raise MetricsError in words if that fails.

    `success_at` is the UNIX time of the job's last success; None keeps the time in the file.
    """
    job = metrics.job
    with _in_words(path), _locked(path.parent):
        present = _present(path)
        success_at = success_at if success_at is not None else _success(present, job)
        samples = [each for each in present if each[1].get("job") != job]
        samples += [(name, {"job": job, **labels}, value) for name, labels, value in metrics.samples]
        if success_at is not None:
            samples.append((_SUCCESS, {"job": job}, round(success_at, 3)))
        _replace(path, samples)


def write_tended(path: Path, at: float) -> None:
    """Put the UNIX time at which `acctops tend` last ended with exit 0 into the file; raise MetricsError likewise."""
    with _in_words(path), _locked(path.parent):
        samples = [each for each in _present(path) if each[0] != _TENDED]
        _replace(path, [*samples, (_TENDED, {}, round(at, 3))])


def write_worker(path: Path, worker: str, metrics: WorkerMetrics | None, *, now: float) -> None:
    """Replace the samples of one worker in the file; None: it has left. Raise MetricsError likewise.

    Those of workers that were killed are taken away ten minutes later. `now` is UNIX time.
    """
    with _in_words(path), _locked(path.parent):
        present = _present(path)
        gone = {labels["worker"] for name, labels, at in present if name == _WORKER_AT and now - at > _WORKER_GONE_S}
        samples = [each for each in present if each[1].get("worker") not in {worker, *gone}]
        if metrics is not None:
            values = {
                "acctops_worker_ready": float(metrics.is_ready),
                "acctops_worker_lanes": metrics.lanes,
                "acctops_worker_runs": metrics.runs,
                "acctops_worker_slots": metrics.slots,
                "acctops_worker_database_silent_seconds": round(metrics.answered_s, 3),
                _WORKER_AT: round(metrics.at, 3),
            }
            samples += [(name, {"worker": worker}, value) for name, value in values.items()]
        _replace(path, samples)


@contextlib.contextmanager
def _in_words(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MetricsError(f"{path} cannot be written: {error.strerror or error}") from None


def _replace(path: Path, samples: _Samples) -> None:
    from prometheus_client import CollectorRegistry, Gauge, generate_latest

    registry = CollectorRegistry()
    said = {name for name, _, _ in samples}
    gauges: dict[str, Gauge] = {}
    for name, (labels, words) in _GAUGES.items():
        if labels or name in said:  # one without labels would stand there as 0
            gauges[name] = Gauge(name, words, labels, registry=registry)
    for name, values, value in samples:
        (gauges[name].labels(**values) if values else gauges[name]).set(value)
    replace_whole(path, generate_latest(registry), 0o644)  # readable by all whatever the umask, so that it is scraped


def _success(samples: _Samples, job: str) -> float | None:
    return next((value for name, labels, value in samples if name == _SUCCESS and labels["job"] == job), None)


def _present(path: Path) -> _Samples:
    """Return the samples in the file, as far as they are ours."""
    from prometheus_client.parser import text_string_to_metric_families

    found: _Samples = []
    # A file that is not ours, or was damaged, is replaced.
    with contextlib.suppress(ValueError, KeyError, IndexError):
        for family in text_string_to_metric_families(_read(path)):
            found += [
                (sample.name, sample.labels, sample.value)
                for sample in family.samples
                if sample.name in _GAUGES and set(sample.labels) == set(_GAUGES[sample.name][0])
            ]
    return found


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
