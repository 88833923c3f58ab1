"""The units of `acctops worker`: what keeps workers going under systemd, in Kubernetes, and with compose."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from engine.schedule import compose, k8s, systemd
from engine.schedule.units import IS_ALIVE, IS_READY, READY_FILE, Working
from tests.support.command import Desk, commands
from tests.support.postgres import Postgres
from tests.support.systemd import needs_systemd, verified

URL = "postgresql://ops@db/acctops?sslmode=verify-full"
POD = ("--image", "registry/acctops:1", "--user", "7")
ODD = "a b%d$c"
"""A directory that has to be quoted in every way."""
WINDOW = 'window: {days: [sat], from: "01:00", until: "05:00", timezone: Asia/Shanghai}\n'


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    found = Desk(tmp_path)
    found.env["ACCTOPS_PROFILE"] = ""
    return found


def working(directory: str = "/srv/dba", program: str = "/opt/acctops", **more: Any) -> Working:
    plain: dict[str, Any] = {
        "work": (program, "worker", "--database", URL),
        "migrate": (program, "database", "migrate"),
        "state_dir": "postgresql://db/acctops",
        "user": "dba",
        "directory": directory,
        "env_file": f"{directory}/env",
        "env_file_may_miss": False,
    }
    return Working(**plain | more)


def parsed(words: list[str]) -> None:
    """Let our own parser take a command."""
    known = dict(commands())
    path = next(tuple(words[1:size]) for size in (3, 2) if tuple(words[1:size]) in known)
    known[path].make_context(" ".join(path), words[1 + len(path) :])


def deployment(desk: Desk, *more: str) -> dict[str, Any]:
    made = desk.run("schedule", "--worker", "--database", URL, "--format", "k8s", *POD, *more)
    assert made.code == 0, made.text
    (document,) = yaml.safe_load_all(made.out)
    assert isinstance(document, dict)
    return document


# ---- systemd ---------------------------------------------------------------------------------------------------------


@needs_systemd
def test_systemd_takes_the_unit_of_a_worker(desk: Desk) -> None:
    """From a directory and with a program whose names need quoting, with a URL that has parameters: not a word."""
    program = desk.write(f"{ODD}/bin/acctops", "#!/bin/sh\n")
    program.chmod(0o755)
    held = working(str(desk.work / ODD), str(program), user="root", environment={"PGUSER": "a b%$"})
    (file,) = systemd.worker_files(held)
    done = verified(desk.place, desk.write(f"units/{file.name}", file.text))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_worker_is_started_again_and_again(desk: Desk) -> None:
    """Also after exit 75, and however often; it gets as long to end in order as a run, and may open enough files."""
    desk.write("config.yaml", f"state: {URL}\ntimeout: 2m\n")
    desk.env |= {"PGPASSFILE": "pgpass", "PGUSER": "ops"}
    made = desk.run("schedule", "--worker", "--format", "systemd", "--program", "./gate.sh", "--lanes", "9")
    assert made.code == 0, made.text
    lines = made.out.splitlines()
    for line in ("Type=exec", "Restart=on-failure", "RestartForceExitStatus=75", "StartLimitIntervalSec=0",
                 "KillMode=mixed", "TimeoutStopSec=150", "LimitNOFILE=65536", "NoNewPrivileges=yes",
                 'Environment="PGUSER=ops"', f'Environment="PGPASSFILE={desk.work}/pgpass"',
                 f"WorkingDirectory={desk.work}", "WantedBy=multi-user.target"):  # fmt: skip
        assert line in lines, line
    (start,) = re.findall("^ExecStart=(.*)$", made.out, re.MULTILINE)
    words = shlex.split(start)
    assert words[1:4] == ["worker", "--database", URL] and "--ready-file" not in words
    assert words[4:] == ["--lanes", "9", "--program", "./gate.sh"]
    parsed(words)


def test_the_units_of_another_database_are_not_replaced(desk: Desk) -> None:
    """One set serves a database; the same again is no matter, and what comes next is said."""
    units = desk.work / "units"
    units.mkdir()
    words = ("schedule", "--worker", "--format", "systemd", "--into", units, "--database")
    done = desk.run(*words, URL)
    assert done.code == 0 and "systemctl enable --now acctops-worker.service" in done.text, done.text
    assert desk.run(*words, URL, "--lanes", "3").code == 0
    other = desk.run(*words, "postgresql://ops@elsewhere/acctops")
    assert other.code == 2 and "is for the state directory postgresql://db/acctops" in other.err


def test_a_job_that_is_called_worker_has_a_name_of_its_own(desk: Desk) -> None:
    """Or its units would replace those of the workers."""
    made = desk.run("schedule", desk.job(extra=f"name: worker\n{WINDOW}"), "--format", "systemd", "--no-tend")
    assert made.code == 0 and re.search("acctops-worker-[0-9a-f]{8}.service", made.out), made.text


# ---- Kubernetes ------------------------------------------------------------------------------------------------------


def test_kubernetes_keeps_three_workers(desk: Desk) -> None:
    """As another user than root, with nothing that has to outlive a pod, and time to end in order."""
    desk.write("config.yaml", 'protect: ["*/root"]\n')
    desk.env |= {"PGUSER": "ops", "PGPASSFILE": "pgpass"}
    found = deployment(desk)
    assert found["kind"] == "Deployment" and found["spec"]["replicas"] == 3
    assert found["spec"]["selector"]["matchLabels"] == found["spec"]["template"]["metadata"]["labels"]
    spec = found["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] and spec["terminationGracePeriodSeconds"] == 60
    assert spec["restartPolicy"] == "Always"
    (container,) = spec["containers"]
    assert container["command"][:4] == ["acctops", "worker", "--database", URL]
    parsed(container["command"])
    env = {each["name"]: each["value"] for each in container["env"]}
    assert env == {"PGUSER": "ops", "ACCTOPS_STATE_DIR": str(desk.state)}, "no path of this machine's passwords"
    assert [each for each in spec["volumes"] if "persistentVolumeClaim" in each] == []
    mounts = [each["mountPath"] for each in container["volumeMounts"]]
    assert mounts == [str(desk.state), str(desk.work / "config.yaml"), "/tmp"]
    assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in spec["volumes"]}


def test_a_pod_is_told_how_to_get_the_password(desk: Desk) -> None:
    """A file of passwords cannot be mounted as libpq wants it, and a password is in no unit."""
    desk.env |= {"PGPASSFILE": "pgpass", "PGPASSWORD": "hunter2"}
    made = desk.run("schedule", "--worker", "--database", URL, "--format", "k8s", *POD)
    assert "PGPASSFILE: is not in the pod; say the password as PGPASSWORD in acctops-env" in made.err
    assert "PGPASSWORD: set in this shell, and not at night" in made.err
    assert "hunter2" not in made.text and "a line PGPASSWORD=… in that file" in made.out


@pytest.mark.parametrize("age", [None, 0, 30, 120])
def test_the_probes_tell_a_worker_that_waits_from_one_that_hangs(tmp_path: Path, age: int | None) -> None:
    """No file: it waits for its database, is not ready, and is not to be ended. An old one: it hangs."""
    file = tmp_path / "ready"
    if age is not None:
        file.touch()
        os.utime(file, (time.time() - age, time.time() - age))

    def says(test: str) -> bool:
        words = ["sh", "-c", test.replace(READY_FILE, str(file))]
        return subprocess.run(words, stderr=subprocess.DEVNULL, timeout=10).returncode == 0

    assert (says(IS_READY), says(IS_ALIVE)) == (age == 0, age != 120)


def test_the_probes_stand_in_the_pod_as_they_are(desk: Desk) -> None:
    """Kubernetes fills in $(NAME), and so a dollar sign in front of a bracket is doubled."""
    (container,) = deployment(desk)["spec"]["template"]["spec"]["containers"]
    for probe, test in (("readinessProbe", IS_READY), ("livenessProbe", IS_ALIVE)):
        assert container[probe]["exec"]["command"] == ["sh", "-c", test.replace("$(", "$$(")]
    assert container["command"][-2:] == ["--ready-file", READY_FILE]


def test_kubernetes_schema_takes_the_workers() -> None:
    """Strictly: no key that it does not know."""
    validator = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed (108 MB)")
    pod = k8s.Pod(image="registry/acctops:1", user_id=1000, state_dir="/state", mounted=("/c.yaml",), has_database=True)
    (file,) = k8s.worker_files(working(), pod)
    for document in yaml.safe_load_all(file.text):
        validator.validate(document, "1.31", strict=True)


# ---- compose ---------------------------------------------------------------------------------------------------------


def composed(desk: Desk, *more: str | Path) -> dict[str, Any]:
    made = desk.run("schedule", "--worker", "--format", "compose", *POD, *more)
    assert made.code == 0, made.text
    document = yaml.safe_load(made.out)
    assert isinstance(document, dict)
    return document


def test_compose_starts_one_after_the_other(desk: Desk) -> None:
    """The database, its tables, the role, three workers; all that is named is there, and our parser takes commands."""
    desk.write("config.yaml", f'state: {URL}\nprotect: ["*/root"]\n')
    found = composed(desk, "--env-file", desk.write("keys.env", "TENCENTCLOUD_SECRET_ID=x\n"))
    services = found["services"]
    after = {name: list(each.get("depends_on", {})) for name, each in services.items()}
    assert after == {"db": [], "migrate": ["db"], "role": ["migrate"], "worker": ["role"]}
    for each in services.values():
        assert set(each.get("secrets", ())) <= set(found["secrets"])
        assert {one["source"] for one in each.get("configs", ())} <= set(found["configs"])
    worker, migrate = services["worker"], services["migrate"]
    assert worker["deploy"]["replicas"] == 3 and worker["user"] == "7" and worker["read_only"]
    assert worker["env_file"] == [{"path": str(desk.work / "keys.env"), "required": True, "format": "raw"}]
    assert [each["source"] for each in worker["volumes"]] == [str(desk.work / "config.yaml")]
    assert services["db"]["ports"] == ["127.0.0.1:5432:5432"], "not to the network"
    parsed(worker["entrypoint"])
    parsed(migrate["entrypoint"])
    assert worker["entrypoint"][3] == compose.WORKER_URL, "its own, whatever the config says"


def test_compose_fills_in_nothing(desk: Desk) -> None:
    """Each dollar sign that is to stay is doubled."""
    config = desk.write(f"{ODD}/config.yaml", "protect: ['*/root']\n")
    made = desk.run("schedule", "--worker", "--format", "compose", *POD, "--program", "$x", cwd=config.parent)
    assert made.code == 0, made.text
    body = "".join(line for line in made.out.splitlines(keepends=True) if not line.startswith("#"))
    assert "a b%d$$c" in body and not re.search(r"(?<!\$)(\$\$)*\$(?!\$)", body)


@pytest.mark.skipif(shutil.which("psql") is None, reason="psql is not here")
def test_the_role_of_compose_is_made_as_its_file_of_passwords_says(tmp_path: Path, postgres: Postgres) -> None:
    """By psql itself; a second time, too, with a new password."""
    name = postgres.empty()
    postgres.sql(name, "do $$ begin create role acctops_worker; exception when duplicate_object then end $$")
    script = tmp_path / "roles.sql"
    pod = k8s.Pod(image="registry/acctops:1", user_id=1000, state_dir="/state", mounted=(), has_database=True)
    text = yaml.safe_load(compose.worker_files(working(), pod)[0].text)["configs"]["roles"]["content"]
    script.write_text(text.replace("$$", "$"))
    stored = []
    for password in ("it's one", "two"):
        passfile = tmp_path / "pgpass"
        passfile.write_text(f"*:5432:acctops:owner:x\n*:5432:acctops:ops:{password}\n")
        passfile.chmod(0o600)
        done = subprocess.run(
            ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(script), postgres.url(name)],
            env={**os.environ, "PGPASSFILE": str(passfile)}, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert (done.returncode, done.stdout + done.stderr) == (0, "")
        ((found, member),) = postgres.sql(
            name,
            "select rolpassword, pg_has_role('ops', 'acctops_worker', 'member') from pg_authid where rolname='ops'",
        )
        assert member and str(found).startswith("SCRAM-SHA-256$")
        stored.append(found)
    assert stored[0] != stored[1]


# ---- jobs of a database ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["cron", "systemd", "k8s"])
def test_a_job_of_a_database_is_started_with_what_leads_to_it(desk: Desk, form: str) -> None:
    """The URL with its parameters, the role, and where the password is; in pods no volume that outlives them."""
    desk.write("config.yaml", f"state: {URL}\n")
    desk.env |= {"PGUSER": "ops", "PGPASSFILE": "pgpass"}
    made = desk.run("schedule", desk.job(extra=WINDOW), "--format", form, *(POD if form == "k8s" else ()))
    assert made.code == 0, made.text
    assert URL in made.out and "PGUSER" in made.out
    assert (f"{desk.work}/pgpass" in made.out) == (form != "k8s")
    if form != "k8s":
        return
    for document in yaml.safe_load_all(made.out):
        spec = document["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        parsed(container["command"])
        names = {each["name"]: each["value"] for each in container["env"]}
        assert names == {"PGUSER": "ops", "ACCTOPS_STATE_DIR": str(desk.state)}, json.dumps(names)
        assert {"name": "state", "emptyDir": {}} in spec["volumes"]
    assert "PersistentVolumeClaim" not in made.out


def test_what_does_not_go_together_is_said(desk: Desk) -> None:
    """A worker has no time at which it starts; compose has a database of its own; no database, no worker."""
    for words, said in (
        (("--worker", "--format", "cron", "--database", URL), "cron does not"),
        (("--worker", "--format", "compose", "--database", URL, *POD), "a database of its own"),
        (("--worker", "--format", "compose"), "needs --image"),
        (("--worker", "--format", "systemd"), "add --database URL"),
        (("--worker", "--format", "systemd", "--rate", "3"), "--worker has none"),
        (("--tend", "--format", "compose", *POD), "is for --worker"),
    ):
        done = desk.run("schedule", *words)
        assert done.code == 2 and said in done.err and done.out == "", done.text


def test_our_parser_is_asked() -> None:
    """Or the commands in units would not be looked at."""
    with pytest.raises(click.UsageError):
        parsed(["acctops", "worker", "--no-such-flag"])
