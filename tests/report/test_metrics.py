"""The Prometheus textfile: what it says of runs, and that it never costs one."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from engine.inputs.settings import Settings
from engine.operations.measuring import measure_tend
from engine.report.metrics import MetricsError, RunMetrics, write
from engine.simulator.world import World
from tests.support.command import ROOT, Backend, Desk, wait_until

NOBODY = {"user": "eve", "code": "InvalidParameterValue.AccountNotExistError"}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    found = Desk(tmp_path)
    found.write("config.yaml", "metrics_file: out/acctops.prom\n")
    (found.work / "out").mkdir()
    return found


@pytest.fixture
def backend(desk: Desk):
    world = World(latency=0)
    for instance, users in (("postgres-aaaaaaaa", ["ann", "bob"]), ("postgres-bbbbbbbb", ["eve"])):
        world.seed(instance, "ap-singapore", users)
    with Backend(world) as found:
        desk.env["ACCTOPS_ENDPOINT"] = found.endpoint
        yield found


def samples(path: Path) -> dict[tuple[str, ...], float]:
    """Name and label values → value, as a scraper reads them."""
    families = text_string_to_metric_families(path.read_text())
    found = {}
    for sample in (sample for family in families for sample in family.samples):
        labels = [sample.labels[name] for name in sorted(sample.labels, key=_job_first)]
        found[sample.name.removeprefix("acctops_"), *labels] = sample.value
    return found


def _job_first(label: str) -> tuple[bool, str]:
    return label != "job", label


def test_a_paused_run_is_told_from_one_that_hangs(desk: Desk, backend: Backend) -> None:
    """An alarm on a run that makes no progress leaves it out: while it is paused, and once its process ended so."""
    backend.world.latency = 0.05
    desk.job(*(f"postgres-{number:08}/app" for number in range(100)), extra="name: long")
    process = desk.popen("run", "job.yaml", "--yes", "--rate", "5")
    desk.wait_for("settled", 1)
    file = desk.work / "out/acctops.prom"
    wait_until(lambda: file.exists() and samples(file).get(("run_paused", "long")) == 0)
    assert desk.run("pause", "latest").code == 0
    wait_until(lambda: samples(file)["run_paused", "long"] == 1)
    assert desk.run("stop", "latest").code == 0
    desk.end(process)
    assert (samples(file)["run_paused", "long"], samples(file)["run_live", "long"]) == (1, 0)


def test_a_run_is_measured(desk: Desk, backend: Backend) -> None:
    """The figures are those of its report, by job."""
    backend.script(NOBODY)
    done = desk.run("run", desk.job(extra='name: lock "all"\nexclude: ["*/bob"]'), "--yes", "--json").json
    file = desk.work / "out/acctops.prom"
    found = samples(file)
    job = 'lock "all"'
    assert {key[2]: found[key] for key in found if key[0] == "run_targets"} == done["counts"]
    assert {key[2]: found[key] for key in found if key[0] == "run_left_out"} == done["left_out"]
    assert found["run_throttled", job] == done["throttled"]
    assert found["run_seconds", job] == done["seconds"]
    assert (found["run_live", job], found["run_exit_code", job]) == (0, done["exit"] or 1)
    (lane,) = done["pace"]
    assert found.get(("run_quota_used_ratio", job, lane["lane"])) == lane["used"]
    assert ("last_success_time_seconds", job) not in found
    assert file.stat().st_mode & 0o777 == 0o644
    assert list(file.parent.iterdir()) == [file], "nothing half-written is left beside it"


def test_each_job_keeps_its_last_success(desk: Desk, backend: Backend) -> None:
    """A failed run, and the run of another job, do not take it away."""
    file = desk.work / "out/acctops.prom"
    one, two = desk.job("postgres-aaaaaaaa/ann", name="one.yaml"), desk.job("postgres-bbbbbbbb/eve", name="two.yaml")
    assert desk.run("run", one, "--yes").code == 0
    success = samples(file)["last_success_time_seconds", "one"]
    assert success == pytest.approx(samples(file)["run_update_time_seconds", "one"], abs=1)
    backend.script(NOBODY)
    assert desk.run("run", two, "--yes").code == 1
    backend.script({"code": "InvalidParameterValue.AccountNotExistError"})
    desk.run("unlock", "postgres-aaaaaaaa/ann", "--region", "ap-singapore", "--yes")
    one.write_text(one.read_text().replace("ann", "bob"))
    assert desk.run("run", one, "--yes").code == 1
    found = samples(file)
    assert found["last_success_time_seconds", "one"] == success
    assert (found["run_exit_code", "one"], found["run_exit_code", "two"]) == (1, 1)
    assert ("last_success_time_seconds", "two") not in found


def test_a_lost_file_knows_the_last_success_from_the_journals(desk: Desk, backend: Backend) -> None:
    """An alert on it does not begin at never."""
    file = desk.work / "out/acctops.prom"
    assert desk.run("run", desk.job(), "--yes").code == 0
    success = samples(file)["last_success_time_seconds", "job"]
    file.unlink()
    backend.script({"code": "InvalidParameterValue.AccountNotExistError"})
    assert desk.run("run", desk.job("postgres-aaaaaaaa/nobody"), "--yes").code == 1
    assert samples(file)["last_success_time_seconds", "job"] == pytest.approx(success, abs=2)


def test_a_rerun_is_a_success_if_all_of_its_job_is_done(desk: Desk, backend: Backend) -> None:
    """As for `overdue`: exit 0 of a part is not the Saturday's."""
    file = desk.work / "out/acctops.prom"
    backend.script(NOBODY, {"user": "bob", "code": "InvalidParameterValue.InstanceNotExist"})
    done = desk.run("run", desk.job(), "--yes", "--json").json
    assert {each["user"] for each in done["failures"]} == {"bob", "eve"}
    backend.script()
    for code, whole in (("InvalidParameterValue.AccountNotExistError", False), (None, True)):
        flags = ["--code", code] if code else []
        assert desk.run("rerun", done["run"], "--yes", *flags).code == 0
        assert samples(file)["run_exit_code", "job"] == 0
        assert (("last_success_time_seconds", "job") in samples(file)) is whole


def test_a_run_is_measured_while_it_goes(desk: Desk, backend: Backend) -> None:
    """From its beginning on, and again and again: live, without an exit code."""
    file = desk.work / "out/acctops.prom"
    accounts = [f"postgres-aaaaaaaa/u{number}" for number in range(60)]
    backend.world.seed("postgres-aaaaaaaa", "ap-singapore", [each.partition("/")[2] for each in accounts])
    process = desk.popen("run", desk.job(*accounts, extra="rate: 1"), "--yes")
    wait_until(file.exists)
    first = samples(file)
    assert first["run_live", "job"] == 1
    assert ("run_exit_code", "job") not in first
    assert sum(value for key, value in first.items() if key[0] == "run_targets") == 60
    wait_until(lambda: samples(file)["run_update_time_seconds", "job"] > first["run_update_time_seconds", "job"])
    later = samples(file)
    assert later["run_targets", "job", "unattempted"] < first["run_targets", "job", "unattempted"]
    assert later["run_seconds", "job"] > first["run_seconds", "job"]
    process.kill()
    desk.end(process)


def test_a_rehearsal_is_not_measured(desk: Desk) -> None:
    """The last success must not be one of the simulator's."""
    assert desk.run("run", desk.job(), "--simulate", "--yes").code == 0
    assert not list((desk.work / "out").iterdir())


@pytest.mark.parametrize("kind", ["directory missing", "a directory", "a pipe", "a link", "unreadable text"])
def test_a_file_that_cannot_be_written_costs_nothing(desk: Desk, backend: Backend, kind: str) -> None:
    """A warning and a note, once; the run is as without it. What is no metrics is replaced."""
    file = desk.work / "out/acctops.prom"
    match kind:
        case "directory missing":
            file.parent.rmdir()
            why = "No such file or directory"
        case "a directory":
            file.mkdir()
            why = "Is a directory"
        case "a pipe":
            os.mkfifo(file)
            why = "is a named pipe, no file"
        case "a link":
            file.symlink_to(desk.job())
            why = "Too many levels of symbolic links"
        case _:
            file.write_bytes(b'\xff{]} acctops_run_live{job="x" 1\n')
            why = ""
    done = desk.run("run", desk.job(), "--yes", "--json")
    assert (done.code, done.json["counts"]["changed"]) == (0, 3)
    notes = [record["data"] for record in desk.records("note") if record["what"] == "metrics_failed"]
    assert notes == ([{"why": f"{file} cannot be written: {why}"}] if why else [])
    assert done.err.count(f"warning: metrics: {file} cannot be written: {why}") == bool(why)
    assert why or samples(file)["run_exit_code", "job"] == 0


def test_jobs_that_end_together_keep_each_other_s_samples(tmp_path: Path) -> None:
    """Read, merged and renamed under a lock; a reader never finds half a file."""
    file = tmp_path / "acctops.prom"

    def put(number: int) -> None:
        sample = ("acctops_run_exit_code", {}, float(number))
        write(file, RunMetrics(job=f"job-{number}", at=0.0, exit_code=None, samples=(sample,)), None)

    with ThreadPoolExecutor(8) as pool:
        # In one process all have one name for the new file, which two processes have not: the lock holds them apart.
        list(pool.map(put, range(40)))
    assert samples(file) == {("run_exit_code", f"job-{number}"): number for number in range(40)}


def test_a_lock_that_is_held_is_not_waited_for_long(tmp_path: Path) -> None:
    """By whomever: in words, and nothing is written."""
    import fcntl

    fd = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(MetricsError, match="another process holds a lock on"):
        write(tmp_path / "acctops.prom", RunMetrics(job="x", at=0.0, exit_code=None, samples=()), None)
    os.close(fd)
    assert not list(tmp_path.iterdir())


def tending(file: Path | None) -> Settings:
    """The settings of a `tend` whose config names this file."""
    return Settings(state_dir=Path("/nowhere"), metrics_file=file, origin={"metrics_file": "config.yaml:1:15"})


def test_a_tend_and_the_runs_keep_each_other_s_samples(desk: Desk, backend: Backend) -> None:
    """Tend works for all jobs: its sample has no job, and is there, once, whoever wrote the file last."""
    file = desk.work / "out/acctops.prom"
    assert desk.run("run", desk.job("postgres-aaaaaaaa/ann", name="one.yaml"), "--yes").code == 0
    before = samples(file)
    assert ("tend_last_success_time_seconds",) not in before, "0 would be a tend in 1970"
    for at in (1800000000.1239, 1800000300.0):
        assert measure_tend(tending(file), at) is None
        assert samples(file) == {**before, ("tend_last_success_time_seconds",): round(at, 3)}
    assert file.stat().st_mode & 0o777 == 0o644
    assert desk.run("run", desk.job("postgres-bbbbbbbb/eve", name="two.yaml"), "--yes").code == 0
    after = samples(file)
    assert after["tend_last_success_time_seconds",] == 1800000300.0
    assert {"one", "two"} <= {key[1] for key in after if len(key) > 1}
    file.unlink()
    assert measure_tend(tending(file), 1.5) is None
    assert samples(file) == {("tend_last_success_time_seconds",): 1.5}


def test_a_tend_that_cannot_be_measured_is_a_sentence(tmp_path: Path) -> None:
    """Whatever is wrong with the file: it is told, and what was tended stands."""
    assert measure_tend(tending(None), 1.0) is None
    found = measure_tend(tending(tmp_path / "gone/acctops.prom"), 1.0)
    assert found == f"{tmp_path}/gone/acctops.prom cannot be written: No such file or directory"
    (tmp_path / "acctops.prom").mkdir()
    found = measure_tend(tending(tmp_path / "acctops.prom"), 1.0)
    assert found == f"{tmp_path}/acctops.prom cannot be written: Is a directory"


def test_a_tend_without_the_package_says_how_to_get_it(tmp_path: Path) -> None:
    """It is no reason not to tend, and no traceback."""
    code = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "from pathlib import Path\n"
        "from engine.inputs.settings import Settings\n"
        "from engine.operations.measuring import measure_tend\n"
        "origin = {'metrics_file': 'config.yaml:1:15'}\n"
        "print(measure_tend(Settings(state_dir=Path(), metrics_file=Path('x'), origin=origin), 1.0))"
    )
    env = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert "config.yaml:1:15: metrics_file needs the package prometheus-client" in done.stdout, done.stderr
    assert "pip install 'acctops[metrics]'" in done.stdout and not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", ["plan", "run", "doctor"])
def test_without_the_package_nothing_is_sent(desk: Desk, backend: Backend, verb: str) -> None:
    """Clear words, and how to get it; before a run exists."""
    code = (
        "import sys; sys.modules['prometheus_client'] = None\nfrom engine.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    yes = ["--yes"] if verb == "run" else []
    done = subprocess.run(
        [sys.executable, "-c", code, verb, str(desk.job()), *yes],
        env=desk.env, cwd=desk.work, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == (1 if verb == "doctor" else 2), said
    assert "config.yaml:1:15: metrics_file needs the package prometheus-client" in said
    assert "pip install 'acctops[metrics]'" in said
    assert not backend.writes() and not desk.journals()
