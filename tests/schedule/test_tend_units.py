"""The units of `acctops tend`: one set for all jobs of a state directory, and what tells if it is not done any more."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.journal.records import rfc3339
from engine.journal.store import runs_at
from engine.operations.overdue import TENDED
from engine.schedule import cron, k8s, systemd
from engine.schedule.units import Tending
from tests.support.command import ROOT, Desk, Done
from tests.support.cron import CronFile
from tests.support.systemd import elapses, needs_systemd, verified

ODD = "a b%d$c'x"
"""A directory that has to be quoted in every way."""
WINDOW = '{days: [sat], from: "01:00", until: "05:00", timezone: Asia/Shanghai}'
UNITS = [f"acctops-tend{end}" for end in ("-overdue.service", "-overdue.timer", ".service", ".timer")]
POD = ("--image", "registry/acctops:1", "--user", "7")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    found = Desk(tmp_path)
    found.env["ACCTOPS_PROFILE"] = ""
    return found


def tending(directory: str = "/srv/dba", program: str = "/opt/acctops", **more: Any) -> Tending:
    plain: dict[str, Any] = {
        "tend": (program, "tend", "--quiet", "--state-dir", f"{directory}/state"),
        "overdue": (program, "overdue", "--tend", "--every", "15m", "--state-dir", f"{directory}/state"),
        "state_dir": f"{directory}/state",
        "user": "dba",
        "directory": directory,
        "env_file": f"{directory}/env",
        "env_file_may_miss": False,
    }
    return Tending(**plain | more)


def job(desk: Desk, name: str = "job.yaml", extra: str = "") -> Path:
    return desk.job(extra=f"window: {WINDOW}\n{extra}", name=name)


def put(
    desk: Desk, *argv: str | Path, form: str = "systemd", into: Path | None = None, cwd: Path | None = None
) -> Done:
    """Write units to a folder, as the command does."""
    units = into or desk.work / "units"
    units.mkdir(exist_ok=True)
    return desk.run("schedule", *argv, "--format", form, "--into", units, cwd=cwd)


def written(desk: Desk, units: str = "units") -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted((desk.work / units).iterdir())}


def of_tend(files: dict[str, str]) -> dict[str, str]:
    return {name: text for name, text in files.items() if name.startswith("acctops-tend")}


def containers(documents: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0] for each in documents]


# ---- each scheduler ----------------------------------------------------------------------------------------------


@needs_systemd
def test_systemd_takes_the_units_of_tend(desk: Desk) -> None:
    """From a directory and with a program whose names need every kind of quoting."""
    program = desk.write(f"{ODD.replace(chr(39), '')}/bin/acctops", "#!/bin/sh\n")
    program.chmod(0o755)
    held = tending(str(desk.work / ODD), str(program), user="root", environment={"ACCTOPS_HOST_ID": "a b%$"})
    units = [desk.write(f"units/{file.name}", file.text) for file in systemd.tend_files(held)]
    done = verified(desk.place, *units)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    assert sorted(path.name for path in units) == UNITS


@needs_systemd
def test_systemd_tends_every_five_minutes() -> None:
    """By its own reckoning; what was missed is made up for, and the check begins only when a first tend has ended."""
    files = {file.name: file.text for file in systemd.tend_files(tending())}
    timer = files["acctops-tend.timer"]
    (calendar,) = re.findall("^OnCalendar=(.*)$", timer, re.MULTILINE)
    base = datetime(2026, 3, 29, 0, 57, tzinfo=UTC)
    assert calendar == "*:0/5" and "\nPersistent=true\n" in timer
    assert elapses(calendar, base, 3) == [base.timestamp() + 60 * after for after in (3, 8, 13)]
    check = files["acctops-tend-overdue.timer"]
    assert "\nOnActiveSec=15min\nOnUnitActiveSec=15min\n" in check and "OnCalendar" not in check


def test_a_tend_is_ended_as_a_run_is(desk: Desk) -> None:
    """SIGTERM to acctops alone, and as long as a drain takes; the same file of keys and variables."""
    desk.write("config.yaml", "timeout: 2m\n")
    desk.env["ACCTOPS_HOST_ID"] = "db-ops"
    assert put(desk, job(desk), "--env-file", desk.write("keys.env", "A=b\n")).code == 0
    files = written(desk)
    for line in ("Type=oneshot", "KillMode=mixed", r"TimeoutStopSec=\d+", "EnvironmentFile=.*", "Environment=.*"):
        (run,) = re.findall(f"^{line}$", files["acctops-job.service"], re.MULTILINE)
        assert re.findall(f"^{line}$", files["acctops-tend.service"], re.MULTILINE) == [run], line
    assert "TimeoutStopSec=150" in files["acctops-tend.service"]
    assert 'Environment="ACCTOPS_HOST_ID=db-ops"' in files["acctops-tend-overdue.service"]


def test_cron_tends_in_a_bare_environment(desk: Desk) -> None:
    """Every five minutes, with the file of keys; and what looks whether it does is the mail."""
    keys = desk.write(f"{ODD}/env", "KEY=from-the-file\n")
    program = desk.write(f"{ODD}/acctops", '#!/bin/sh\necho "$KEY $PWD $*"\n')
    program.chmod(0o755)
    (file,) = cron.tend_files(tending(str(keys.parent), str(program)))
    assert file.name == "acctops-tend", "a name with a dot is passed over in silence"
    night = CronFile(file.text)
    assert [minutes for minutes, _, _ in night.lines] == ["*/5", "2,17,32,47"]
    done = night.start(0)
    assert (
        done.stderr == ""
        and done.stdout == f"from-the-file {keys.parent} tend --quiet --state-dir {keys.parent}/state\n"
    )
    # The check, as it is.
    made = desk.run("schedule", "--tend", "--format", "cron")
    assert made.code == 0, made.text
    check = CronFile(made.out).start(1, PYTHONPATH=str(ROOT))
    assert check.returncode == 1 and check.stdout.startswith("OVERDUE  tend: "), check.stderr
    runs_at(desk.state, simulated=False).set_mark(TENDED, rfc3339(datetime.now(UTC).timestamp()))
    check = CronFile(made.out).start(1, PYTHONPATH=str(ROOT))
    assert (check.returncode, check.stdout + check.stderr) == (0, "")


def test_kubernetes_tends_on_one_host(desk: Desk) -> None:
    """Pods come and go, and only the host of a state directory opens accounts: all pods of the volume have its name."""
    made = desk.run("schedule", job(desk), "--format", "k8s", *POD)
    assert made.code == 0, made.text
    documents = list(yaml.safe_load_all(made.out))
    assert [each["metadata"]["name"] for each in documents] == [
        "acctops-job", "acctops-job-overdue", "acctops-tend", "acctops-tend-overdue",
    ]  # fmt: skip
    for container in containers(documents):
        assert {"name": "ACCTOPS_HOST_ID", "value": "acctops-state"} in container["env"]
        assert {"name": "state", "mountPath": str(desk.state)} in container["volumeMounts"]
    tend, check = documents[2:]
    for each, schedule in ((tend, "*/5 * * * *"), (check, "2,17,32,47 * * * *")):
        spec = each["spec"]
        assert (spec["schedule"], spec["concurrencyPolicy"]) == (schedule, "Forbid")
        assert spec["startingDeadlineSeconds"] > 10, "without it a hundred missed starts end it for good"
        assert spec["jobTemplate"]["spec"]["template"]["spec"]["volumes"] == [
            {"name": "state", "persistentVolumeClaim": {"claimName": "acctops-state"}}
        ], "no config, nothing else to mount"
    grace = tend["spec"]["jobTemplate"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace == documents[0]["spec"]["jobTemplate"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert containers([tend])[0]["command"][:2] == ["acctops", "tend"]
    desk.env["ACCTOPS_HOST_ID"] = "cluster-7"
    said = desk.run("schedule", "--tend", "--format", "k8s", *POD).out
    assert all({"name": "ACCTOPS_HOST_ID", "value": "cluster-7"} in each["env"]
               for each in containers(list(yaml.safe_load_all(said))))  # fmt: skip


def test_a_pod_tends_by_the_configs_of_here(desk: Desk) -> None:
    """Each at its path, from a ConfigMap whose making stands in the head; the job is not among them."""
    config = desk.write("config.yaml", 'protect: ["*/root"]\nnotify: {command: [page]}\n')
    made = desk.run("schedule", "--tend", "--format", "k8s", *POD)
    assert f"kubectl create configmap acctops-tend \\\n#     --from-file=0-config.yaml={config}" in made.out
    for container in containers(list(yaml.safe_load_all(made.out))):
        assert [each["mountPath"] for each in container["volumeMounts"]] == [str(desk.state), str(config)]
        assert container["workingDir"] == str(desk.work)


def test_kubernetes_schema_takes_the_units_of_tend() -> None:
    """Strictly: no key that it does not know."""
    validator = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed (108 MB)")
    pod = k8s.Pod(image="registry/acctops:1", user_id=1000, state_dir="/var/lib/acctops", mounted=())
    (file,) = k8s.tend_files(tending(), pod)
    for document in yaml.safe_load_all(file.text):
        validator.validate(document, "1.31", strict=True)


# ---- one set for all jobs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["cron", "systemd", "k8s"])
def test_all_jobs_of_a_state_directory_have_the_same_units_of_tend(desk: Desk, form: str) -> None:
    """Of other folders, windows, names and flags: the second job is not refused, and changes nothing."""
    desk.write("config.yaml", "notify: {command: [page]}\n")
    pod = POD if form == "k8s" else ()
    assert put(desk, job(desk, "a/one.yaml"), *pod, form=form).code == 0
    first = of_tend(written(desk))
    more = ("--rate", "3", "--timeout", "5m", "--deadline", "2h", "--workers", "7", "--every", "9d")
    done = put(desk, job(desk, "b/two.yaml", "deadline: 3h"), *pod, *more, form=form, cwd=desk.place)
    assert done.code == 0, done.text
    assert of_tend(written(desk)) == first and len(first) == (4 if form == "systemd" else 1)
    again = put(desk, "--tend", *pod, form=form)
    assert again.code == 0 and of_tend(written(desk)) == first
    assert ".yaml" not in "".join(first.values()).replace("config.yaml", "").replace("acctops-tend.yaml", "")


def test_what_to_enable_is_said_with_the_job(desk: Desk) -> None:
    """All timers, in one line to paste; alone, too."""
    timers = "acctops-tend.timer acctops-tend-overdue.timer"
    assert f"enable --now acctops-job.timer acctops-job-overdue.timer {timers}" in put(desk, job(desk)).err
    assert f"systemctl enable --now {timers}\n" in put(desk, "--tend").err


@pytest.mark.parametrize("place", ["a folder", "a link"])
def test_other_units_of_tend_stay_and_the_way_on_is_one(desk: Desk, place: str) -> None:
    """Made by other flags: exit 2, nothing is written. The printed command, as it is, makes them as the job needs."""
    desk.write("v1/config.yaml", "notify: {command: [page]}\n")
    first, second = job(desk, "v1/one.yaml"), job(desk, "v1/two.yaml")
    if place == "a link":
        (desk.work / "current").symlink_to("v1")
        first, second = (desk.work / "current" / each.name for each in (first, second))
    assert put(desk, first).code == 0
    before = written(desk)
    refused = put(desk, second, "--profile", "other one", "--env-file", desk.work / "keys.env")
    assert (refused.code, written(desk)) == (2, before)
    assert f"{desk.work}/units/acctops-tend.service: is there already, made by other flags" in refused.err
    assert put(desk, second, "--profile", "other one", "--no-tend").code == 0
    assert of_tend(written(desk)) == of_tend(before) and "acctops-two.service" in written(desk)
    command = refused.err.partition("to have them as here: ")[2].strip()
    there, _, line = command.partition(" && ")
    words = shlex.split(line)
    assert words[0] == "acctops"
    folder = shlex.split(there)[1]
    desk.env["PWD"] = folder  # as `cd` leaves it
    assert desk.run(*words[1:], cwd=Path(folder)).code == 0
    assert '--profile "other one"' in written(desk)["acctops-tend.service"]
    desk.env["PWD"] = str(desk.work)
    done = put(desk, second, "--profile", "other one", "--env-file", desk.work / "keys.env")
    assert done.code == 0, done.err


@pytest.mark.parametrize("form", ["cron", "systemd"])
def test_the_units_of_another_state_directory_are_not_replaced(desk: Desk, form: str) -> None:
    """Both are named, and nobody stops to be tended without a word."""
    other = desk.place / "other"
    assert put(desk, "--tend", "--state-dir", other, form=form).code == 0
    before = written(desk)
    for what in ([job(desk)], ["--tend"]):
        refused = put(desk, *what, form=form)
        assert (refused.code, written(desk)) == (2, before)
        assert f"is for the state directory {other}, and this is for {desk.state}; nothing was written" in refused.err
        assert f"--state-dir {other}" in refused.err and ("--no-tend" in refused.err) == (what != ["--tend"])
    assert put(desk, job(desk), "--no-tend", form=form).code == 0
    assert put(desk, job(desk), "--state-dir", other, form=form).code == 0


def test_what_others_put_under_the_names_of_tend_stays(desk: Desk) -> None:
    """A unit of somebody's own, and one of a job, by a version that gave a job of that name the same one."""
    units = desk.work / "units"
    units.mkdir()
    mine = units / "acctops-tend.timer"
    mine.write_text("[Timer]\nOnCalendar=daily\n")
    refused = put(desk, job(desk))
    assert refused.code == 3 and "not made by acctops schedule; nothing was written" in refused.err
    mine.write_text("# Made by `acctops schedule`: job tend.\n# Of the job file /srv/tend.yaml\n")
    refused = put(desk, job(desk))
    assert refused.code == 2 and f"{mine}: is the unit of /srv/tend.yaml, and `acctops tend` would" in refused.err
    assert [path.name for path in units.iterdir()] == [mine.name]


@pytest.mark.parametrize("name", ["tend", "Tend", "tend-overdue", "TEND overdue!"])
def test_a_job_that_is_called_tend_has_units_of_its_own(desk: Desk, name: str) -> None:
    """Neither replaces the other."""
    assert put(desk, job(desk, extra=f"name: {name}")).code == 0
    files = written(desk)
    assert len(files) == 8 and all("# Of the state directory " in files[name] for name in UNITS)
    assert len([text for text in files.values() if f"# Of the job file {desk.work}/job.yaml\n" in text]) == 4


# ---- the command -------------------------------------------------------------------------------------------------


def test_tend_alone_needs_no_job(desk: Desk) -> None:
    """Holds are made by hand, too; the limit of its check is said by --every."""
    made = desk.run("schedule", "--tend", "--format", "systemd", "--every", "30m", "--profile", "prod")
    assert made.code == 0
    runs = re.findall("^ExecStart=(.*)$", made.out, re.MULTILINE)
    assert runs[0].endswith(f" tend --quiet --state-dir {desk.state} --profile prod")
    assert runs[1].endswith(f" overdue --tend --every 30m --quiet --notify --state-dir {desk.state}")
    assert made.out.count("\nWorkingDirectory=/\n") == 2, "no config holds, and no job's folder is of all jobs"


def test_tend_finds_the_config_of_the_jobs(desk: Desk) -> None:
    """Who is told, where metrics go, which keys sign: from the folder in which a job would look for it."""
    desk.write("jobs/config.yaml", "notify: {command: [page]}\nprofile: prod\n")
    assert put(desk, job(desk, "jobs/eu/night/job.yaml")).code == 0
    assert f"\nWorkingDirectory={desk.work}/jobs\n" in written(desk)["acctops-tend.service"]
    assert f"\nWorkingDirectory={desk.work}/jobs/eu/night\n" in written(desk)["acctops-job.service"]


def test_a_profile_of_the_environment_stays_there(desk: Desk) -> None:
    """For runs whose accounts name their own keys it counts for nothing, where the flag would end every one of them."""
    desk.env["ACCTOPS_PROFILE"] = "a, b"
    assert put(desk, job(desk)).code == 0
    plain = written(desk)
    assert " --profile a --profile b\n" in plain["acctops-job.service"]
    own = job(desk, "own.yaml", "accounts: [{name: prod, profile: prod}]")
    own.write_text(own.read_text().partition("targets:")[0] + "targets:\n" + (
        "  - {instance: postgres-aaaaaaaa, user: ann, account: prod}\n"))  # fmt: skip
    done = put(desk, own)
    assert done.code == 0 and "ACCTOPS_PROFILE is not used" in done.err
    assert of_tend(written(desk)) == of_tend(plain)
    assert "--profile" not in written(desk)["acctops-own.service"] + plain["acctops-tend.service"]
    assert 'Environment="ACCTOPS_PROFILE=a, b"\n' in plain["acctops-tend.service"]
    desk.env["ACCTOPS_PROFILE"] = "c d"
    refused = put(desk, own)
    assert refused.code == 2 and " && ACCTOPS_PROFILE='c d' acctops schedule --tend " in refused.err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ((), "schedule what? Name a job, or give --tend"),
        (("--tend", "--every", "soon"), "--every soon: expected a time"),
        (("--tend", "--user", "a b"), "--user a b: expected the name"),
        (("--tend", "--state-dir", "a*b"), "cannot stand in a unit: it holds *"),
        (("--tend", "--format", "k8s"), "--format k8s needs --image"),
        (("--tend", "job.yaml"), "give a job, whose units have those of --tend with them, or --tend"),
        (("--tend", "--rate", "3"), "--rate is for the runs of a job, and --tend has none"),
        (("--tend", "--no-tend"), "do not go together"),
    ],
)
def test_what_cannot_be_tended_is_refused(desk: Desk, argv: Sequence[str], words: str) -> None:
    """By day, in words, and nothing is printed that could be installed."""
    form = () if "--format" in argv else ("--format", "systemd")
    refused = desk.run("schedule", *argv, *form)
    assert (refused.code, refused.out) == (2, ""), refused.text
    assert words in refused.err


def test_what_a_tend_will_miss_at_night_is_said_by_day(desk: Desk) -> None:
    """Keys of this shell, and that nobody is told; a job's own notify is not that of all."""
    said = desk.run("schedule", "--tend", "--format", "cron").err
    assert "TENCENTCLOUD_SECRET_ID: set in this shell, and not at night" in said
    untold = (
        "no `notify` in a config: if `acctops tend` stops, nobody is told; only the scheduler's own log or mail has it"
    )
    assert said.count(untold) == 1
    told = job(desk, extra="notify: {command: [page]}")
    assert desk.run("schedule", told, "--format", "cron").err.count(untold) == 1
    assert untold not in desk.run("schedule", told, "--format", "cron", "--no-tend").err
    desk.write("config.yaml", "notify: {command: [page]}\n")
    assert untold not in desk.run("schedule", told, "--format", "cron").err


@needs_systemd
def test_systemd_takes_what_the_command_wrote_of_tend(desk: Desk) -> None:
    """As it is put in place, with its timers."""
    assert put(desk, "--tend", "--env-file", desk.write("keys.env", "A=b\n")).code == 0
    done = verified(desk.place, *sorted((desk.work / "units").iterdir()))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
