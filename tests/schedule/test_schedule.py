"""Schedules: units that start a job when its window opens, and only then, whatever starts them."""

from __future__ import annotations

import json
import os
import re
import subprocess
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from engine.inputs.window import DAYS, Span, Window, is_open, minutes, skipped, spans
from engine.schedule import cron, k8s, systemd
from engine.schedule.envlines import READERS, read_as
from engine.schedule.units import Schedule, Times, check_times, every_days, lasting_problem, minutes_open
from engine.simulator.world import World
from tests.support.command import ROOT, Backend, Desk
from tests.support.cron import CronFile
from tests.support.systemd import elapses, needs_systemd, verified

ODD = "a b%d$c'x"
"""A directory that has to be quoted in every way."""
QUOTE = "'"
WINDOW = '{days: [sat], from: "01:00", until: "05:00", timezone: Asia/Shanghai}'
ALWAYS = '{days: [mon, tue, wed, thu, fri, sat, sun], from: "00:00", until: "24:00", timezone: Asia/Shanghai}'


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    found = Desk(tmp_path)
    found.env["ACCTOPS_PROFILE"] = ""
    return found


def window(days: str = "sat", start: str = "01:00", until: str = "05:00", timezone: str = "Asia/Shanghai") -> Window:
    return Window(
        days=tuple(DAYS.index(day) for day in days.split()),
        start=minutes(start),
        until=minutes(until),
        timezone=timezone,
    )


def schedule(held: Window, directory: str = "/srv/dba", program: str = "/opt/acctops", **more: Any) -> Schedule:
    plain: dict[str, Any] = {
        "name": "CAM, wave 1",
        "action": "OpenAccountCAM",
        "run": (program, "run", f"{directory}/job.yaml", "--yes", "--quiet"),
        "overdue": (program, "overdue", f"{directory}/job.yaml", "--every", "8d"),
        "window": held,
        "user": "dba",
        "directory": directory,
        "job_file": f"{directory}/job.yaml",
        "env_file": f"{directory}/env",
        "env_file_may_miss": False,
    }
    return Schedule(**plain | more)


# ---- when ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("days", "every"), [("sat", 8), ("mon thu", 5), ("sat sun", 7), ("mon tue wed thu fri sat sun", 2), ("sun", 8)]
)
def test_overdue_is_the_longest_pause_and_a_day(days: str, every: int) -> None:
    """Sooner would be a false alarm, later a night more that nobody knows of."""
    assert every_days(window(days)) == every


def test_the_check_is_an_hour_after_the_end() -> None:
    """Every day, over midnight too; a window's length wraps likewise."""
    assert check_times(window()).clock == "06:00" and check_times(window()).every_day
    assert check_times(window(start="22:00", until="23:30")).clock == "00:30"
    assert check_times(window(start="00:00", until="24:00")).clock == "01:00"
    lengths = [("01:00", "05:00"), ("23:00", "02:00"), ("00:00", "24:00"), ("05:00", "05:00")]
    assert [minutes_open(window(start=start, until=until)) for start, until in lengths] == [240, 180, 1440, 1440]


@pytest.mark.parametrize("name", ["CAM, wave 1", "überall", "…", "x" * 100, "a/b%c"])
def test_a_unit_has_a_name_that_every_scheduler_takes(name: str) -> None:
    """A file of cron.d with a dot is passed over in silence; a CronJob's name has at most 52 characters."""
    unit = schedule(window(), name=name).unit
    assert re.fullmatch("acctops-[a-z0-9]([a-z0-9-]*[a-z0-9])?", unit)
    assert len(f"{unit}-overdue") <= 52


def test_paths_that_no_unit_takes_are_known() -> None:
    """Refused where the schedule is made, not at night."""
    assert lasting_problem(f"/srv/{ODD}/job.yaml") is None
    assert all(lasting_problem(path) for path in ("/a\nb", "/a\\b", '/a"b', "/a*", "/a[1]", "/a ", "/a\x1b"))


# ---- cron ------------------------------------------------------------------------------------------------------------


def fired(held: Window, begin: datetime, days: float, late_s: int = 0) -> list[float]:
    """At which moments from `begin` on the first line of a cron.d file starts its command, if cron wakes so late."""
    (file,) = cron.files(schedule(held, directory="/", program="/bin/echo", env_file="/dev/null"))
    found = CronFile(file.text)
    minutes_said, _, command = found.lines[0]
    at_minutes = {int(part) for part in minutes_said.split(",")}
    moments = [begin + timedelta(minutes=minute) for minute in range(int(days * 24 * 60))]
    # `date`, but of a moment that is given: the zone's clock is the machine's own library's.
    script = (
        'date() { command date -d "@$now" "$@"; }\nfor now in $moments; do\n'
        + command.replace("/bin/echo run", "echo $now")
        + "\ndone\n"
    )
    woken = [int(moment.timestamp()) + late_s for moment in moments if moment.minute in at_minutes]
    env = {"moments": " ".join(map(str, woken)), "PATH": os.environ["PATH"]}
    done = subprocess.run(["/bin/sh", "-c", script], env=env, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert all(line.endswith(" --once") for line in done.stdout.splitlines())
    return [float(line.split()[0]) for line in done.stdout.splitlines()]


EVERY_DAY = " ".join(DAYS)


def openings(held: Window, begin: datetime, days: float) -> list[Span]:
    """The openings that begin and end in a span of days."""
    end = (begin + timedelta(days=days)).timestamp()
    found = takewhile(lambda span: span.closes <= end, spans(held, begin.timestamp()))
    return [span for span in found if span.opens >= begin.timestamp()]


@pytest.mark.parametrize("late_s", [0, 90])
@pytest.mark.parametrize(
    ("held", "begin"),
    [
        (window(), datetime(2026, 11, 25, tzinfo=UTC)),
        (
            window("mon wed sun", start="00:05", until="03:00", timezone="Asia/Kathmandu"),
            datetime(2026, 11, 25, tzinfo=UTC),
        ),
        (window("sat sun", timezone="Europe/Berlin"), datetime(2026, 3, 25, tzinfo=UTC)),  # summer time begins
        (window("sat sun", start="03:30", timezone="America/New_York"), datetime(2026, 10, 29, tzinfo=UTC)),  # and ends
        (window(EVERY_DAY, start="23:50", timezone="Australia/Lord_Howe"), datetime(2026, 4, 2, tzinfo=UTC)),
        (window("sun mon", start="22:00", until="02:00", timezone="UTC"), datetime(2026, 4, 2, tzinfo=UTC)),
        (window("sat", start="18:00", until="24:00"), datetime(2026, 4, 2, tzinfo=UTC)),
    ],
    ids=lambda value: value.label if isinstance(value, Window) else None,
)
def test_cron_starts_when_the_window_opens(held: Window, begin: datetime, late_s: int) -> None:
    """In a week, with a change of summer time in it: at each opening, be cron late or not, and never when shut."""
    found = fired(held, begin, 7, late_s)
    opened = openings(held, begin, 7)
    firsts = [next(each for each in found if span.opens <= each < span.closes) for span in opened]
    assert firsts == [span.opens + late_s for span in opened] and opened
    assert all(is_open(held, each) for each in found)


@pytest.mark.parametrize(
    ("zone", "day"),
    [
        ("Europe/Berlin", "2027-03-28"),
        ("America/New_York", "2027-03-14"),
        ("Australia/Lord_Howe", "2027-10-03"),
        ("America/Santiago", "2027-09-05"),
        ("Africa/Cairo", "2027-04-30"),
        ("America/Nuuk", "2027-03-27"),
        ("Europe/Berlin", "2027-10-31"),
        ("America/New_York", "2027-11-07"),
        ("Australia/Lord_Howe", "2027-04-04"),
        ("Africa/Cairo", "2027-10-29"),
    ],
)
@pytest.mark.parametrize(
    ("start", "until"),
    [("02:30", "05:00"), ("00:30", "03:00"), ("23:30", "01:30"), ("02:50", "03:10"), ("01:00", "02:30")],
)
def test_no_night_is_lost_where_summer_time_begins_or_ends(zone: str, day: str, start: str, until: str) -> None:
    """The clock skips the hour of the opening: the window opens late, and cron, 90 s late, still meets it; or it is
    told by day that there is none that night."""
    held = window(EVERY_DAY, start=start, until=until, timezone=zone)
    begin = datetime.fromisoformat(f"{day}T00:00+00:00") - timedelta(days=1)
    found = fired(held, begin, 3.5, late_s=90)
    opened = openings(held, begin, 3.5)
    for span in opened:
        first = next(each for each in found if span.opens <= each < span.closes)
        assert first - span.opens <= 15 * 60 + 90, "late by a quarter of an hour at most"
    nights = [each for each in skipped(held, begin.timestamp(), 4) if each.opens is None]
    assert len(opened) + len(nights) in (3, 4)


def test_cron_gets_no_line_that_it_would_cut(desk: Desk) -> None:
    """Debian's cron ends a command at 998 characters, without a word."""
    deep = "/".join(["d" * 100] * 5)
    desk.write(f"{deep}/job.yaml", desk.job(extra=f"window: {WINDOW}").read_text())
    refused = desk.run("schedule", f"{deep}/job.yaml", "--format", "cron")
    assert (refused.code, refused.out) == (2, "")
    assert "a line would have more than 990 bytes" in refused.err


# ---- systemd ---------------------------------------------------------------------------------------------------------


@needs_systemd
def test_systemd_takes_the_units(desk: Desk) -> None:
    """As written by the command, from a directory and with a program whose names need every kind of quoting."""
    program = desk.write(f"{ODD.replace(QUOTE, '')}/bin/acctops", "#!/bin/sh\n")  # which systemd refuses in a program
    program.chmod(0o755)
    held = schedule(
        window(), directory=str(desk.work / ODD), program=str(program), user=os.environ.get("USER", "root"),
        environment={"XDG_CONFIG_HOME": str(desk.work / ODD)},
    )  # fmt: skip
    units = [desk.write(f"units/{file.name}", file.text) for file in systemd.files(held)]
    done = verified(desk.place, *units)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    # And it is this program that they start: without it they are refused.
    program.chmod(0o644)
    done = verified(desk.place, *units)
    assert done.returncode != 0
    assert f"Command {program} is not executable" in done.stderr


@needs_systemd
@pytest.mark.parametrize(
    "held",
    [
        window(),
        window("mon wed", start="23:30", until="01:00", timezone="Europe/Berlin"),
        window("sun", timezone="UTC"),
    ],
    ids=lambda held: held.label,
)
def test_systemd_starts_when_the_window_opens(held: Window) -> None:
    """By systemd's own reckoning, the next eight times, over a change of summer time."""
    timer = next(file.text for file in systemd.files(schedule(held)) if file.name == f"{schedule(held).unit}.timer")
    (calendar,) = re.findall("^OnCalendar=(.*)$", timer, re.MULTILINE)
    base = datetime(2026, 3, 10, 12, tzinfo=UTC)
    opens = [span.opens for span, _ in zip(spans(held, base.timestamp()), range(8), strict=False)]
    assert elapses(calendar, base, 8) == opens


def test_systemd_words_are_quoted() -> None:
    """By systemd.syntax(7) and systemd.service(5): specifiers and variables are doubled, spaces stand in quotes."""
    held = schedule(window(), directory=f"/srv/{ODD}", environment={"XDG_CONFIG_HOME": f"/srv/{ODD}"})
    service = systemd.files(held)[0].text
    assert f"\nWorkingDirectory=/srv/{ODD.replace('%', '%%')}\n" in service
    assert f"\nEnvironmentFile=/srv/{ODD.replace('%', '%%')}/env\n" in service
    assert f'\nEnvironment="XDG_CONFIG_HOME=/srv/{ODD.replace("%", "%%")}"\n' in service
    quoted = ODD.replace("%", "%%").replace("$", "$$")
    assert f'\nExecStart=/opt/acctops run "/srv/{quoted}/job.yaml" --yes --quiet\n' in service


# ---- Kubernetes ------------------------------------------------------------------------------------------------------


def manifests(held: Window | None = None, **more: Any) -> list[dict[str, Any]]:
    pod = k8s.Pod(
        image="registry/acctops:1",
        user_id=1000,
        state_dir="/var/lib/acctops",
        mounted=(f"/srv/{ODD}/job.yaml", f"/srv/{ODD}/list.csv", "/etc/acctops/config.yaml"),
    )
    (file,) = k8s.files(schedule(held or window(), directory=f"/srv/{ODD}", **more), pod)
    return list(yaml.safe_load_all(file.text))


def test_the_cron_jobs_are_what_kubernetes_asks_for() -> None:
    """By the API reference of batch/v1: what is required is there, names are well-formed, volumes exist."""
    run, check = manifests(environment={"XDG_CONFIG_HOME": "/srv/$(HOME)"})
    assert check["metadata"]["name"] == f"{run['metadata']['name']}-overdue"
    for document in (run, check):
        spec = document["spec"]
        assert (document["apiVersion"], document["kind"]) == ("batch/v1", "CronJob")
        assert re.fullmatch("[a-z0-9]([-a-z0-9]*[a-z0-9])?", document["metadata"]["name"])
        assert (spec["timeZone"], spec["concurrencyPolicy"]) == ("Asia/Shanghai", "Forbid")
        assert re.fullmatch(r"\d+ \d+ \* \* [\d,*]+", spec["schedule"])
        job = spec["jobTemplate"]["spec"]
        assert job["backoffLimit"] == 0, "a second pod would not know what the first one had sent"
        pod = job["template"]["spec"]
        assert pod["restartPolicy"] == "Never" and pod["securityContext"]["runAsNonRoot"]
        (container,) = pod["containers"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        keys = [mount["subPath"] for mount in container["volumeMounts"] if "subPath" in mount]
        assert keys == ["0-job.yaml", "1-list.csv", "2-config.yaml"]
        assert [mount["mountPath"] for mount in container["volumeMounts"]][1] == f"/srv/{ODD}/job.yaml"
        assert container["command"][2] == f"/srv/{ODD}/job.yaml"
        assert container["env"] == [{"name": "XDG_CONFIG_HOME", "value": "/srv/$$(HOME)"}]
    assert run["spec"]["schedule"] == "0 1 * * 6"
    assert run["spec"]["startingDeadlineSeconds"] == 4 * 3600, "made up for while the window is open"
    assert check["spec"]["schedule"] == "0 6 * * *"
    assert manifests(window("sun wed", start="23:05"))[0]["spec"]["schedule"] == "5 23 * * 0,3"


def test_the_cron_jobs_pass_the_schema() -> None:
    """Kubernetes' own JSON schemas, strictly: no key that it does not know."""
    validator = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed (108 MB)")
    for document in manifests():
        validator.validate(document, "1.31", strict=True)


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_units_say_what_was_said_here(desk: Desk) -> None:
    """Flags and environment alike, by absolute paths: at night there is neither this directory nor this shell."""
    desk.env |= {"ACCTOPS_RATE": "5", "ACCTOPS_CONFIG": "night.yaml"}
    desk.write("night.yaml", 'protect: ["*/root"]\nnotify: {command: [page]}\n')
    for name in ("TENCENTCLOUD_SECRET_ID", "TENCENTCLOUD_SECRET_KEY"):
        del desk.env[name]
    job = desk.job(extra=f"window: {WINDOW}", name="jobs/night.job.yaml")
    made = desk.run("schedule", "jobs/night.job.yaml", "--format", "systemd", "--deadline", "2h", "--user", "dba")
    assert (made.code, made.err) == (0, "")
    runs = re.findall("^ExecStart=(.*)$", made.out, re.MULTILINE)
    program = Path(runs[0].split()[0])
    assert program.is_absolute() and os.access(program, os.X_OK)
    where = f"--state-dir {desk.state} --config {desk.work}/night.yaml"
    endpoint = desk.env["ACCTOPS_ENDPOINT"]
    assert runs[0].endswith(f" run {job} --yes --quiet {where} --endpoint {endpoint} --rate 5 --deadline 2h")
    assert runs[1].endswith(f" overdue {job} --every 8d --quiet --notify {where}")
    assert runs[2].endswith(f" tend --quiet {where}")
    assert runs[3].endswith(f" overdue --tend --every 15m --quiet --notify {where}")
    assert made.out.count(f"\nWorkingDirectory={job.parent}\n") == 2 and made.out.count("\nUser=dba\n") == 4
    assert "# ---- acctops-night-job.timer" in made.out


def test_the_user_s_own_config_is_found_at_night_too(desk: Desk) -> None:
    """Its guards hold, though XDG_CONFIG_HOME is set in this shell only."""
    path = Path(desk.env["XDG_CONFIG_HOME"]) / "acctops/config.yaml"
    path.parent.mkdir(parents=True)
    path.write_text('protect: ["*/root"]\nnotify: {command: [page]}\n')
    job = desk.job(extra=f"window: {WINDOW}")
    said = f"XDG_CONFIG_HOME={path.parents[1]}"
    assert f'\nEnvironment="{said}"\n' in desk.run("schedule", job, "--format", "systemd").out
    assert f" && {said} /" in desk.run("schedule", job, "--format", "cron").out
    other = desk.run("schedule", job, "--format", "cron", "--user", "nobody")
    assert f"{path}: is your own config; nobody will not see its guards" in other.err


@pytest.mark.parametrize(
    ("extra", "flags", "words"),
    [
        ("", [], "job.yaml: has no window, so nothing says when it is to run; add: window: {days: [sat]"),
        (f"window: {WINDOW}", ["--user", "a b"], "--user a b: expected the name or the number of a user"),
        (f"window: {WINDOW}", ["--every", "weekly"], "--every weekly: expected a time such as 8d or 36h"),
        (f"window: {WINDOW}", ["--env-file", "a*b"], "cannot stand in a unit: it holds *, which units read otherwise"),
        (f"window: {WINDOW}", ["--format", "k8s"], "--format k8s needs --image"),
        (
            f"window: {WINDOW}",
            ["--format", "k8s", "--image", "i", "--user", "0"],
            "should not run as root: give --user",
        ),
        (f"window: {WINDOW}", ["--format", "k8s", "--image", "i", "--user", "xyz"], "--user xyz: no such user here"),
        (f"window: {WINDOW}", ["--format", "at"], "'at' is not one of 'cron', 'systemd', 'k8s'"),
        (f"window: {WINDOW}", ["--into", "nowhere"], "No such file or directory; make the directory first: mkdir -p "),
    ],
)
def test_what_cannot_be_scheduled_is_refused(desk: Desk, extra: str, flags: list[str], words: str) -> None:
    """By day, in words, and nothing is printed that could be installed."""
    given = flags if "--format" in flags else ["--format", "systemd", *flags]
    refused = desk.run("schedule", desk.job(extra=extra), *given)
    assert (refused.code, refused.out) == (2, ""), refused.text
    assert words in refused.err


def test_a_job_that_reads_standard_input_is_refused(desk: Desk) -> None:
    """Nobody pipes at night."""
    job = desk.write(
        "job.yaml", f'action: LockAccount\nregion: ap-singapore\nwindow: {WINDOW}\ntargets: [{{csv: "-"}}]\n'
    )
    refused = desk.run("schedule", job, "--format", "cron", stdin=b"instance,user\npostgres-aaaaaaaa,ann\n")
    assert refused.code == 2 and "nobody is there to give it" in refused.err


def test_what_will_be_missing_at_night_is_said_by_day(desk: Desk) -> None:
    """Warnings: no one is told, no one is protected, keys that anybody reads, and what a pod does not have."""
    env_file = desk.write("env", "TENCENTCLOUD_SECRET_ID=x\n")
    env_file.chmod(0o644)
    job = desk.job(extra=f"window: {WINDOW}")
    desk.env["HTTPS_PROXY"] = "http://user:secret@proxy.example:3128"
    said = desk.run("schedule", job, "--format", "cron", "--env-file", env_file).err
    del desk.env["HTTPS_PROXY"]
    assert "HTTPS_PROXY: set in this shell, and not at night" in said and "secret" not in said
    for words in ("no `notify` in job or config", "no protect rule holds", "others can read these keys; chmod 600"):
        assert words in said
    said = desk.run("schedule", job, "--format", "systemd", "--env-file", "gone").err
    assert f"{desk.work}/gone: does not exist yet" in said
    desk.write(
        "config.yaml",
        "notify: {command: [/bin/page], webhook: {url_file: url}}\nprofile: prod\nmetrics_file: m\n"
        "network: {ca_bundle: ca.pem}\n",
    )
    said = desk.run("schedule", job, "--format", "k8s", "--image", "i", "--user", "7").err
    for words in (
        "url_file is not in the pod",
        "/bin/page must be in the image",
        "profile prod",
        f"network.ca_bundle {desk.work}/ca.pem must be in the image",
        "metrics_file in a pod",
    ):
        assert words in said


def test_files_are_put_in_place_and_foreign_ones_stay(desk: Desk) -> None:
    """Made anew when the window changes; what somebody else wrote under that name is not touched."""
    job = desk.job(extra=f"window: {WINDOW}")
    units = desk.work / "units"
    units.mkdir()
    for until in ("05:00", "06:00"):
        job.write_text(job.read_text().replace("05:00", until))
        done = desk.run("schedule", job, "--format", "systemd", "--into", units)
        assert (done.code, done.out) == (0, "")
        assert "systemctl enable --now acctops-job.timer acctops-job-overdue.timer" in done.err
    found = sorted(path.name for path in units.iterdir() if not path.name.startswith("acctops-tend"))
    assert found == [f"acctops-job{end}" for end in ("-overdue.service", "-overdue.timer", ".service", ".timer")]
    assert "01:00–06:00" in (units / "acctops-job.timer").read_text()
    (units / "acctops-job.timer").write_text("[Timer]\nOnCalendar=daily\n")
    (units / "acctops-job.service").unlink()
    refused = desk.run("schedule", job, "--format", "systemd", "--into", units)
    assert refused.code == 3 and "not made by acctops schedule; nothing was written" in refused.err
    assert not (units / "acctops-job.service").exists()


@pytest.mark.parametrize("form", ["cron", "systemd"])
def test_jobs_whose_names_no_unit_takes_get_units_of_their_own(desk: Desk, form: str) -> None:
    """Two names in Chinese differ in what a unit's name cannot hold: the second must not replace the first."""
    for name in ("开启CAM第一批", "关闭CAM第二批"):
        job = desk.job(extra=f"window: {WINDOW}\nname: {name}", name=f"{name}.yaml")
        assert desk.run("schedule", job, "--format", form, "--into", desk.work).code == 0
    units = [path for path in desk.work.iterdir() if path.name.startswith("acctops-cam-")]
    assert len(units) == {"cron": 2, "systemd": 8}[form] and all(path.name.isascii() for path in units)
    assert schedule(window(), name="CAM, wave 1").unit == "acctops-cam-wave-1", "what is known keeps its name"


def test_a_unit_of_another_job_is_not_replaced(desk: Desk) -> None:
    """Two folders, one name: exit 2, both named, and the first unit still starts the first job."""
    first, second = (desk.job(extra=f"window: {WINDOW}\nname: nightly", name=f"{each}/job.yaml") for each in "ab")
    assert desk.run("schedule", first, "--format", "cron", "--into", desk.work).code == 0
    refused = desk.run("schedule", second, "--format", "cron", "--into", desk.work)
    assert refused.code == 2 and str(first) in refused.err and str(second) in refused.err
    unit = desk.work / "acctops-nightly"
    assert f" run {first} " in unit.read_text()
    # One of an older version, which did not say whose it is by itself: by the command in it.
    unit.write_text(unit.read_text().replace(f"# Of the job file {first}\n", ""))
    assert desk.run("schedule", second, "--format", "cron", "--into", desk.work).code == 2
    assert desk.run("schedule", first, "--format", "cron", "--into", desk.work).code == 0


def test_a_unit_under_a_name_that_is_given_no_more_is_told_of(desk: Desk) -> None:
    """It would start the job a second time."""
    job = desk.job(extra=f"window: {WINDOW}\nname: 开启CAM")
    assert desk.run("schedule", job, "--format", "cron", "--into", desk.work).code == 0
    (made,) = desk.work.glob("acctops-cam-*")
    old = made.rename(desk.work / "acctops-cam")
    said = desk.run("schedule", job, "--format", "cron", "--into", desk.work).err
    assert f"{old}: starts this job, too, under the name of an older version; remove it" in said


def test_nothing_is_written_through_a_link(desk: Desk) -> None:
    """Planted under the name of a unit, or of one that is being written: what it leads to stays as it is."""
    job = desk.job(extra=f"window: {WINDOW}")
    mine = desk.write("mine", "# Made by `acctops schedule`: not")
    units = desk.work / "units"
    units.mkdir()
    (units / ".acctops-job.new").symlink_to(mine)
    assert desk.run("schedule", job, "--format", "cron", "--into", units).code == 0
    for kind in ("link", "pipe"):
        unit = units / "acctops-job"
        unit.unlink()
        unit.symlink_to(mine) if kind == "link" else os.mkfifo(unit)
        refused = desk.run("schedule", job, "--format", "cron", "--into", units)
        assert refused.code in (2, 3) and str(unit.name) in refused.err, "a pipe nobody writes to is not waited for"
    assert mine.read_text() == "# Made by `acctops schedule`: not"
    units.chmod(0o777)
    (units / "acctops-job").unlink()
    said = desk.run("schedule", job, "--format", "cron", "--into", units).err
    assert f"everybody can write {units}" in said


@pytest.mark.parametrize("form", ["cron", "systemd", "k8s"])
def test_paths_in_units_are_canonical(desk: Desk, form: str) -> None:
    """Typed with `..` from a folder below: systemd refuses such a path; a link's own name stays."""
    sub = desk.work / "sub"
    sub.mkdir()
    real = desk.job(extra=f"window: {WINDOW}", name="v1/cam.yaml")
    (desk.work / "current").symlink_to(real.parent)
    desk.write("keys.env", "A=b\n")
    desk.write("night.yaml", 'protect: ["*/root"]\n')
    (desk.work / "units").mkdir()
    typed = ("../current/cam.yaml", "--env-file", "../keys.env", "--config", "../night.yaml", "--state-dir", "../state")
    flags = ["--format", form, "--into", "../units", *(["--image", "i", "--user", "7"] if form == "k8s" else [])]
    done = desk.run("schedule", *typed, *flags, cwd=sub)
    assert done.code == 0, done.text
    text = "".join(path.read_text() for path in (desk.work / "units").iterdir())
    assert ".." not in text and ".." not in done.err
    assert f"{desk.work}/current/cam.yaml" in text and f"{desk.work}/keys.env" in text


@needs_systemd
def test_systemd_takes_units_that_were_typed_from_below(desk: Desk) -> None:
    """`systemd-analyze verify` on what the command wrote."""
    (desk.work / "sub").mkdir()
    desk.job(extra=f"window: {WINDOW}", name="cam.yaml")
    desk.write("keys.env", "A=b\n")
    (desk.work / "units").mkdir()
    typed = ("../cam.yaml", "--env-file", "../keys.env", "--into", "../units", "--format", "systemd")
    assert desk.run("schedule", *typed, cwd=desk.work / "sub").code == 0
    done = verified(desk.place, *sorted((desk.work / "units").iterdir()))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_who_acts_in_this_shell_and_not_at_night_is_said(desk: Desk) -> None:
    """One warning for each variable that says who acts or how the network is reached; none for what the file says."""
    job = desk.job(extra=f"window: {WINDOW}")
    shell = {"TCCLI_PROFILE": "prod", "TENCENTCLOUD_SECURITY_TOKEN": "t", "HTTPS_PROXY": "http://u:secret@p:1"}
    desk.env |= shell
    said = desk.run("schedule", job, "--format", "systemd").err
    for name in (*shell, "TENCENTCLOUD_SECRET_ID", "TENCENTCLOUD_SECRET_KEY"):
        assert f"{name}: set in this shell, and not at night; say what is needed in /etc/acctops/env" in said
    assert "secret" not in said and desk.env["TENCENTCLOUD_SECRET_KEY"] not in said
    keys = desk.write("keys.env", "".join(f"{name}=x\n" for name in (*shell, "TENCENTCLOUD_SECRET_ID")))
    keys.chmod(0o600)
    said = desk.run("schedule", job, "--format", "systemd", "--env-file", keys).err
    assert said.count("set in this shell") == 1 and "TENCENTCLOUD_SECRET_KEY: set in this shell" in said


ENV_LINES = {
    "export X=v": {"systemd", "k8s"},
    'X="v"': {"k8s"},
    "X=v # note": {"systemd", "k8s"},
    "\ufeffX=v": {"cron", "systemd"},
    "X = v": {"cron", "k8s"},
    "X=v w": {"cron"},
    "X=v$w": {"cron"},
    "X='v$w # x'": {"k8s"},
    "X=v ": {"k8s"},
    "X=v\r": {"cron"},
    "X='v": {"cron", "systemd", "k8s"},
    "X": {"cron", "systemd", "k8s"},
    "X=v": set(),
    "# X=v": set(),
    "": set(),
    "X=": set(),
    "X=a==": set(),
}


@pytest.mark.parametrize("form", READERS)
def test_a_line_that_the_one_who_starts_the_job_reads_otherwise_is_said(form: str) -> None:
    """Each reader has its grammar (that of compose, raw, is kubectl's): a file that one takes leaves another without
    keys. No value is ever repeated."""
    for line, odd_for in ENV_LINES.items():
        found = read_as(form, f"A=1\n{line}\n".encode())
        assert bool(found.problems) == (("k8s" if form == "compose" else form) in odd_for), line
        assert all(number == 2 and "v$w" not in words for number, words in found.problems)
        assert "A" in found.names


def test_systemd_reads_the_file_of_keys_as_we_say(desk: Desk) -> None:
    """The warning names file and line, and who reads it so."""
    keys = desk.write("keys.env", "export TENCENTCLOUD_SECRET_ID=x\n")
    keys.chmod(0o600)
    job = desk.job(extra=f"window: {WINDOW}")
    said = desk.run("schedule", job, "--format", "systemd", "--env-file", keys).err
    assert f"{keys}:1: `export` is not taken, so TENCENTCLOUD_SECRET_ID is not set" in said
    assert "(systemd reads it)" in said and "TENCENTCLOUD_SECRET_ID: set in this shell, and not at night" in said
    assert "`export`" not in desk.run("schedule", job, "--format", "cron", "--env-file", keys).err


def test_cron_starts_nothing_by_a_clock_that_does_not_know_the_zone(desk: Desk) -> None:
    """A zone that `date` does not know is UTC to it: at night it is told, and nothing is started hours away."""
    gone = f"{desk.work}/zoneinfo/Asia/Shanghai"
    held = schedule(window(EVERY_DAY, start="00:00", until="24:00"), directory="/", program="/bin/echo",
                    env_file="/dev/null", zone_file=gone)  # fmt: skip
    night = CronFile(cron.files(held)[0].text)
    clock = desk.write("bin/date", "#!/bin/sh\necho 1 0100\n")
    clock.chmod(0o755)
    path = f"{clock.parent}:{night.variables['PATH']}"
    assert night.start(0, PATH=path).stdout == ""
    told = night.start(1, PATH=path)
    assert "the clock of Asia/Shanghai is not known here, nothing is started: install tzdata" in told.stderr
    desk.write(gone, "")
    assert " run " in f" {night.start(0, PATH=path).stdout}" and night.start(1, PATH=path).stderr == ""


def test_a_zone_that_only_python_knows_is_said_by_day(desk: Desk) -> None:
    """A slim container has the zones of a package, which `date` and systemd do not read."""
    job = desk.job(extra=f"window: {WINDOW}")
    desk.env["PYTHONTZPATH"] = str(desk.work / "nowhere")
    done = desk.end(desk.popen("schedule", job, "--format", "cron"))
    assert done.code == 0
    if not Path("/usr/share/zoneinfo/Asia/Shanghai").exists():
        assert "not known to this system's clock" in done.err


def test_a_skipped_opening_and_a_skipped_window_are_said_by_day(desk: Desk) -> None:
    """Which nights are not as usual; units meet the late opening, nobody meets a window that is not there."""
    held = '{days: [sun], from: "02:30", until: "05:00", timezone: Europe/Berlin}'
    job = desk.job(extra=f"window: {held}")
    at = datetime(2027, 1, 1, tzinfo=UTC).timestamp()
    for form in ("cron", "systemd"):
        made = desk.run("schedule", job, "--format", form, at=at)
        assert "skips the window's opening on 2027-03-28 at 03:00" in made.err
        assert " --once" in made.out
    assert "OnCalendar=Sun *-*-* 02:30:00 Europe/Berlin\nOnCalendar=Sun *-*-* 03:00:00 Europe/Berlin\n" in made.out
    job.write_text(job.read_text().replace("05:00", "03:00"))
    made = desk.run("schedule", job, "--format", "systemd", at=at)
    assert "skips the whole window on 2027-03-28" in made.err and "acctops overdue" in made.err


@needs_systemd
def test_systemd_meets_the_opening_that_summer_time_skips() -> None:
    """By its own reckoning, of both calendars."""
    held = window("sun", start="02:30", timezone="Europe/Berlin")
    base = datetime(2027, 3, 22, 12, tzinfo=UTC)
    late = Times((6,), 180)
    timer = systemd.files(schedule(held, late_openings=(late,)))[1].text
    calendars = re.findall("^OnCalendar=(.*)$", timer, re.MULTILINE)
    opens = {at for calendar in calendars for at in elapses(calendar, base, 2)}
    assert {span.opens for span in openings(held, base, 14)} <= opens
    assert "--once" in systemd.files(schedule(held, late_openings=(late,)))[0].text


def test_kubernetes_gets_a_second_start_for_a_late_opening() -> None:
    """A CronJob has one time; both starts name the same job, and run it once."""
    run, late, check = manifests(window("sun", start="02:30", timezone="Europe/Berlin"),
                                 late_openings=(Times((6,), 180),))  # fmt: skip
    assert [each["spec"]["schedule"] for each in (run, late, check)] == ["30 2 * * 0", "0 3 * * 0", "0 6 * * *"]
    for each in (run, late):
        (container,) = each["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
        assert container["command"][-1] == "--once"
    assert len(late["metadata"]["name"]) <= 52


@pytest.mark.parametrize(("timeout", "least"), [("10s", 60), ("2m", 150), ("10m", 630)])
def test_a_unit_waits_for_the_drain_as_long_as_it_takes(desk: Desk, timeout: str, least: int) -> None:
    """An attempt may take its whole timeout, what it accepts is read, people are told: then it may be killed."""
    job = desk.job(extra=f"window: {WINDOW}")
    made = desk.run("schedule", job, "--format", "systemd", "--timeout", timeout).out
    waits = int(re.findall("^TimeoutStopSec=(.*)$", made, re.MULTILINE)[0])
    assert least <= waits <= least + 30
    made = desk.run("schedule", job, "--format", "k8s", "--image", "i", "--user", "7", "--timeout", timeout).out
    assert f"terminationGracePeriodSeconds: {waits}\n" in made


@pytest.mark.parametrize("form", ["cron", "systemd"])
def test_a_current_directory_that_is_gone_is_a_sentence(desk: Desk, form: str) -> None:
    """By whole paths it works; what is typed from nowhere is named."""
    job = desk.job(extra=f"window: {WINDOW}")
    for flags, code in (([], 0), (["--into", desk.work], 0), (["--env-file", "keys.env"], 2), (["--into", "."], 2)):
        gone = desk.place / "gone"
        gone.mkdir()
        under = ["/bin/sh", "-c", 'cd "$0" && rmdir "$0" && exec "$@"', str(gone)]
        done = desk.end(desk.popen("schedule", job, "--format", form, *flags, under=under))
        assert done.code == code and "internal error" not in done.text
        assert code == 0 or "the current directory is gone" in done.err


@pytest.mark.parametrize("kind", ["pipe", "stdin"])
def test_a_job_that_can_be_read_but_once_is_not_scheduled(desk: Desk, kind: str) -> None:
    """By night there is nobody to write it again."""
    pipe = desk.work / "pipe"
    os.mkfifo(pipe)
    refused = desk.run("schedule", pipe if kind == "pipe" else "-", "--format", "cron")
    assert refused.code == 2 and "is a stream, and nobody is there to give it at night" in refused.err


# ---- a start in a bare environment -----------------------------------------------------------------------------------


def cron_file(desk: Desk, job: Path, endpoint: str) -> CronFile:
    """The job's cron.d file, made in this shell; keys are in a file, and nowhere else."""
    env_file = desk.write(f"{ODD}/keys.env", "\n".join(
        f"{name}={desk.env[name]}" for name in ("TENCENTCLOUD_SECRET_ID", "TENCENTCLOUD_SECRET_KEY")
    ))  # fmt: skip
    env_file.chmod(0o600)
    made = desk.run("schedule", job, "--format", "cron", "--env-file", env_file, "--endpoint", endpoint)
    assert made.code == 0, made.text
    return CronFile(made.out)


def test_cron_s_bare_environment_is_enough(desk: Desk) -> None:
    """No HOME, no LANG, PATH short, cwd /: the run is done, and says nothing; what goes wrong is the mail."""
    clock = desk.write("bin/date", '#!/bin/sh\n[ "$TZ" = Asia/Shanghai ] && echo "6 0000"\n')
    clock.chmod(0o755)
    job = desk.job(extra=f"window: {ALWAYS}\nname: nightly", name=f"{ODD}/job.yaml")
    world = World(latency=0)
    for instance, users in (("postgres-aaaaaaaa", ["ann", "bob"]), ("postgres-bbbbbbbb", ["eve"])):
        world.seed(instance, "ap-singapore", users)
    with Backend(world) as backend:
        night = cron_file(desk, job, backend.endpoint)
        path = f"{clock.parent}:{night.variables['PATH']}"
        done = night.start(0, PATH=path, PYTHONPATH=str(ROOT))
        assert (done.returncode, done.stdout + done.stderr) == (0, "")
        assert sorted(str(write.user) for write in backend.writes()) == ["ann", "bob", "eve"]
        assert desk.records("end")[-1]["exit"] == 0
        again = night.start(0, PATH=path, PYTHONPATH=str(ROOT))
        assert (again.returncode, again.stdout + again.stderr) == (0, "")
        assert len(backend.writes()) == 3, "once in an opening, however often cron asks"
        clock.write_text('#!/bin/sh\necho "6 0103"\n')
        check = night.start(1, PATH=path, PYTHONPATH=str(ROOT))
        assert (check.returncode, check.stdout + check.stderr) == (0, ""), "a mail every morning is no alarm"
        (desk.state / "runs").rename(desk.state / "lost")
        check = night.start(1, PATH=path, PYTHONPATH=str(ROOT))
        assert check.returncode == 1 and check.stdout.startswith("OVERDUE  ")
        (desk.state / "lost").rename(desk.state / "runs")
        clock.write_text('#!/bin/sh\necho "7 0000"\n')
        other = desk.job("postgres-aaaaaaaa/nobody", extra=f"window: {ALWAYS}", name=f"{ODD}/other.yaml")
        failed = cron_file(desk, other, backend.endpoint).start(0, PATH=path, PYTHONPATH=str(ROOT))
        assert failed.returncode == 1
        assert "0 of 1 verified locked" in failed.stdout and "acctops rerun" in failed.stdout
        assert failed.stderr == ""


def test_cron_s_start_outside_the_window_is_refused(desk: Desk) -> None:
    """A crontab that was not made anew when the window moved: exit 3, nothing sent, and the mail says so."""
    now = datetime.now(UTC)
    yesterday = DAYS[(now.weekday() - 2) % 7]
    held = f'{{days: [{yesterday}], from: "00:00", until: "01:00", timezone: UTC}}'
    job = desk.job(extra=f"window: {held}", name=f"{ODD}/job.yaml")
    clock = desk.write("bin/date", f'#!/bin/sh\necho "{(now.weekday() - 2) % 7 + 1} 0030"\n')
    clock.chmod(0o755)
    with Backend(World(latency=0)) as backend:
        night = cron_file(desk, job, backend.endpoint)
        done = night.start(0, PATH=f"{clock.parent}:{night.variables['PATH']}", PYTHONPATH=str(ROOT))
        assert not backend.writes()
    assert done.returncode == 3
    assert "outside the window" in done.stderr and not desk.journals()


def test_a_missing_file_of_keys_is_the_mail(desk: Desk) -> None:
    """Named by its path; nothing runs with half an environment."""
    night = CronFile(cron.files(schedule(window(EVERY_DAY, start="00:00"), directory=str(desk.work)))[0].text)
    clock = desk.write("bin/date", "#!/bin/sh\necho 1 0001\n")
    clock.chmod(0o755)
    done = night.start(0, PATH=f"{clock.parent}:{os.environ['PATH']}")
    assert done.returncode != 0
    assert f"{desk.work}/env" in done.stderr


def test_the_manifest_is_one_that_msgspec_and_yaml_read_alike() -> None:
    """Texts stand as JSON writes them: no YAML reader makes a number or a truth of one."""
    (run, _) = manifests(name="no", environment={"A": "1e3", "B": "yes"})
    assert run["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["env"] == [
        {"name": "A", "value": "1e3"},
        {"name": "B", "value": "yes"},
    ]
    assert msgspec.json.decode(json.dumps(run)) == run
