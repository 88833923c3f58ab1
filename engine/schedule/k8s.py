"""Writes CronJobs of Kubernetes (batch/v1, `timeZone` since 1.27): one runs the job or `tend`, one checks.

For workers it writes a Deployment.

Paths are those of this machine: one ConfigMap holds the job, its lists and every config that guards it, or what `tend`
needs. A pod mounts each file at its path here, so that the same guards hold there.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from engine.schedule.units import (
    IS_ALIVE,
    IS_READY,
    REPLICAS,
    TEND_MINUTES,
    Schedule,
    Started,
    Tending,
    Times,
    UnitFile,
    Working,
    check_minutes,
    check_times,
    minutes_open,
    run_times,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

STATE = "acctops-state"
"""The volume claim with the state directory. Its name stands for the host, as pods come and go."""
_LATE = 600
"""Seconds by which the check may start late, and its time limit."""
_MARGIN_S = 7200
"""Seconds that a pod may run beyond the window's usual length: an hour that comes twice, a drain, a report."""


class Pod(Struct, frozen=True, kw_only=True):
    """The settings of a container beside its command."""

    image: str
    user_id: int
    """Number of the user that the container runs as; not 0."""
    state_dir: str
    """Path at which the volume with the journals is mounted, or with a database what belongs to one host alone."""
    mounted: tuple[str, ...]
    """Absolute paths of the mounted files: the job, its lists, configs. May be empty."""
    has_database: bool = False
    """Whether a database has the journals; then no volume has to outlive a pod."""


def files(schedule: Schedule, pod: Pod) -> list[UnitFile]:
    """Return one file with the CronJobs that run the job and the one that checks it."""
    unit, window = schedule.unit, schedule.window
    late_s = minutes_open(window) * 60
    starts = [(unit, run_times(window))]
    # A CronJob has one time. If summer time skips it on some day, another CronJob starts when the window opens then.
    starts += [(f"{unit}-late{number or ''}", times) for number, times in enumerate(schedule.late_openings)]
    run = schedule.run_once if schedule.late_openings else schedule.run
    zone = window.timezone
    documents = [
        _cron_job(schedule, pod, name, run, (_fields(times), zone), late_s, late_s + _MARGIN_S)
        for name, times in starts
    ]
    when = _fields(check_times(window)), zone
    documents.append(_cron_job(schedule, pod, f"{unit}-overdue", schedule.overdue, when, _LATE, _LATE))
    head = _head(
        schedule,
        pod,
        f"job {schedule.name}, {window.label}",
        "# A run that still goes is not started twice (Forbid, and acctops itself: exit 6). One that could not start",
        "# in time is made up for while its window is open. A failed pod is not tried again: `acctops resume` is.",
    )
    return [UnitFile(f"{unit}.yaml", head + "---\n".join(map(yaml_text, documents)))]


def tend_files(tending: Tending, pod: Pod) -> list[UnitFile]:
    """Return one file with the CronJob of `tend` and the one that checks it."""
    unit, late_s = tending.unit, TEND_MINUTES * 60
    tend, check = f"*/{TEND_MINUTES} * * * *", f"{','.join(map(str, check_minutes()))} * * * *"
    documents = [
        _cron_job(tending, pod, unit, tending.tend, (tend, "Etc/UTC"), late_s, _MARGIN_S),
        _cron_job(tending, pod, f"{unit}-overdue", tending.overdue, (check, "Etc/UTC"), _LATE, _LATE),
    ]
    head = _head(
        tending,
        pod,
        "does what is due after runs, such as opening accounts whose time is up",
        "# Pods come and go, and accounts are opened only on the host that the state directory belongs to:",
        "# ACCTOPS_HOST_ID is that host's name, the same in all pods of the volume. A failed pod is not tried again:",
        "# the next one goes on.",
    )
    return [UnitFile(f"{unit}.yaml", head + "---\n".join(map(yaml_text, documents)))]


def worker_files(working: Working, pod: Pod) -> list[UnitFile]:
    """Return one file with the Deployment of the workers."""
    labels = {"app.kubernetes.io/name": "acctops", "app.kubernetes.io/component": "worker"}
    template = _pod(working, pod, working.work, restarts="Always")
    spread = {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
    template["topologySpreadConstraints"] = [spread | {"labelSelector": {"matchLabels": labels}}]
    (container,) = template["containers"]
    container["securityContext"] = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    for probe, test, more in (("readinessProbe", IS_READY, {"periodSeconds": 5}), ("livenessProbe", IS_ALIVE, {})):
        container[probe] = {"exec": {"command": ["sh", "-c", _literal(test)]}, "timeoutSeconds": 5, **more}
    container["resources"] = {"requests": {"cpu": "250m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}}
    container["volumeMounts"].append({"name": "tmp", "mountPath": "/tmp"})  # noqa: S108  # the container's own
    template["volumes"].append({"name": "tmp", "emptyDir": {}})
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": working.unit, "labels": labels},
        "spec": {
            "replicas": REPLICAS,
            "selector": {"matchLabels": labels},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {"metadata": {"labels": labels}, "spec": template},
        },
    }
    head = _head(
        working,
        pod,
        "carries out the runs of a database",
        "# A pod that is asked to end (SIGTERM) gives its lanes back in order. One that is lost is replaced within",
        "# seconds by the others, and then by Kubernetes. Exit 75 is no defect: another worker has taken its lanes, as",
        "# it was silent for too long, and it is started anew.",
    )
    return [UnitFile(f"{working.unit}.yaml", head + yaml_text(deployment))]


def _head(started: Started, pod: Pod, what: str, *notes: str) -> str:
    config_map = (
        f"#   kubectl create configmap {started.unit} \\",
        *(f"#     --from-file={_key(index, path)}={_sh(path)} \\" for index, path in enumerate(pod.mounted)),
        "#     --dry-run=client -o yaml | kubectl apply -f -",
    )
    lines = [
        *started.head(what).split("\n"),
        "#",
        "# Once, before it (a ConfigMap holds at most 1 MiB; make it anew when a file changes):",
        *(config_map if pod.mounted else ()),
        f"#   kubectl create secret generic acctops-env --from-env-file={_sh(started.env_file)}",
        *(
            (
                "#   A password of the database: a line PGPASSWORD=… in that file. (The files of a Secret are readable",
                "#   for their group, so libpq would pass over a PGPASSFILE among them.)",
            )
            if pod.has_database
            else (
                f"#   and a PersistentVolumeClaim {STATE}, ReadWriteOnce: journals live there, and must outlive a pod.",
            )
        ),
        "#",
        *notes,
    ]
    return "\n".join(lines) + "\n"


def _fields(times: Times) -> str:
    """Return times as cron's five fields."""
    hour, minute = divmod(times.minute, 60)
    days = "*" if times.every_day else ",".join(str((day + 1) % 7) for day in times.days)  # cron: 0 is Sunday
    return f"{minute} {hour} * * {days}"


def _cron_job(
    started: Started, pod: Pod, name: str, command: Sequence[str], when: tuple[str, str], late_s: int, longest_s: int
) -> dict[str, Any]:
    """Return the manifest of one CronJob; `when` is cron's fields and the time zone. Any: JSON values."""
    fields, zone = when
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/name": "acctops"}},
        "spec": {
            "schedule": fields,
            "timeZone": zone,
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": late_s,
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 10,
            "jobTemplate": {
                "spec": {
                    "backoffLimit": 0,
                    "activeDeadlineSeconds": longest_s,
                    "template": {"spec": _pod(started, pod, command)},
                }
            },
        },
    }


def _pod(started: Started, pod: Pod, command: Sequence[str], *, restarts: str = "Never") -> dict[str, Any]:
    user = pod.user_id
    container: dict[str, Any] = {
        "name": "acctops",
        "image": pod.image,
        "command": list(map(_literal, command)),
        "workingDir": started.directory,
        "envFrom": [{"secretRef": {"name": "acctops-env", "optional": started.env_file_may_miss}}],
        "volumeMounts": [
            {"name": "state", "mountPath": pod.state_dir},
            *(
                {"name": "files", "mountPath": path, "subPath": _key(index, path), "readOnly": True}
                for index, path in enumerate(pod.mounted)
            ),
        ],
    }
    if started.environment:
        container["env"] = [{"name": name, "value": _literal(value)} for name, value in started.environment.items()]
    kept: dict[str, Any] = {"emptyDir": {}} if pod.has_database else {"persistentVolumeClaim": {"claimName": STATE}}
    volumes: list[dict[str, Any]] = [{"name": "state", **kept}]
    if pod.mounted:
        volumes.append({"name": "files", "configMap": {"name": started.unit}})
    return {
        "restartPolicy": restarts,
        "terminationGracePeriodSeconds": started.stop_s,
        "securityContext": {"runAsNonRoot": True, "runAsUser": user, "runAsGroup": user, "fsGroup": user},
        "containers": [container],
        "volumes": volumes,
    }


def _key(index: int, path: str) -> str:
    """Return the key of a file in the ConfigMap: letters, digits and -_. only."""
    name = path.rpartition("/")[2]
    return f"{index}-{''.join(sign if sign.isascii() and (sign.isalnum() or sign in '-_.') else '_' for sign in name)}"


def _literal(word: str) -> str:
    """Return a word in which Kubernetes fills in no variable, as it would for $(NAME)."""
    return word.replace("$(", "$$(")


def _sh(word: str) -> str:
    import shlex

    return shlex.quote(word)


def yaml_text(value: Mapping[str, Any]) -> str:
    """Return a mapping as YAML. Any: JSON values."""
    return "\n".join(_lines(value, "")) + "\n"


def _lines(value: Mapping[str, Any], indent: str) -> list[str]:
    """Return the lines of a mapping in YAML's block style; other values are JSON, which is YAML, too."""
    lines = []
    for key, each in value.items():
        if isinstance(each, dict) and each:
            lines += [f"{indent}{key}:", *_lines(each, indent + "  ")]
        elif isinstance(each, list) and each and isinstance(each[0], dict):
            lines.append(f"{indent}{key}:")
            for item in each:
                first, *rest = _lines(item, indent + "    ")
                lines += [f"{indent}  - {first.strip()}", *rest]
        else:
            lines.append(f"{indent}{key}: {json.dumps(each, ensure_ascii=False)}")
    return lines
