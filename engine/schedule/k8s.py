"""Writes a schedule as Kubernetes CronJobs (batch/v1, `timeZone` since 1.27): one runs the job, one checks it.

Paths are those of this machine: one ConfigMap holds the job, its lists and every config that guards it. A pod mounts
each file at its path here, so that the same guards hold there.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from engine.schedule.units import Schedule, Times, UnitFile, check_times, minutes_open, run_times

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
    """Path at which the volume with the journals is mounted."""
    mounted: tuple[str, ...]
    """Absolute paths of the mounted files: the job, its lists, configs."""


def files(schedule: Schedule, pod: Pod) -> list[UnitFile]:
    """Return one file with the CronJobs that run the job and the one that checks it."""
    unit, window = schedule.unit, schedule.window
    late_s = minutes_open(window) * 60
    starts = [(unit, run_times(window))]
    # A CronJob has one time. If summer time skips it on some day, another CronJob starts when the window opens then.
    starts += [(f"{unit}-late{number or ''}", times) for number, times in enumerate(schedule.late_openings)]
    run = schedule.run_once if schedule.late_openings else schedule.run
    documents = [_cron_job(schedule, pod, name, run, times, late_s, late_s + _MARGIN_S) for name, times in starts]
    documents.append(_cron_job(schedule, pod, f"{unit}-overdue", schedule.overdue, check_times(window), _LATE, _LATE))
    return [UnitFile(f"{unit}.yaml", _head(schedule, pod) + "---\n".join(map(_yaml, documents)))]


def _head(schedule: Schedule, pod: Pod) -> str:
    unit = schedule.unit
    lines = [
        *schedule.head(f"job {schedule.name}, {schedule.window.label}").split("\n"),
        "#",
        "# Once, before it (a ConfigMap holds at most 1 MiB; make it anew when a file changes):",
        f"#   kubectl create configmap {unit} \\",
        *(f"#     --from-file={_key(index, path)}={_sh(path)} \\" for index, path in enumerate(pod.mounted)),
        "#     --dry-run=client -o yaml | kubectl apply -f -",
        f"#   kubectl create secret generic acctops-env --from-env-file={_sh(schedule.env_file)}",
        "#   and a PersistentVolumeClaim acctops-state, ReadWriteOnce: journals live there, and must outlive a pod.",
        "#",
        "# A run that still goes is not started twice (Forbid, and acctops itself: exit 6). One that could not start",
        "# in time is made up for while its window is open. A failed pod is not tried again: `acctops resume` is.",
    ]
    return "\n".join(lines) + "\n"


def _cron_job(
    schedule: Schedule, pod: Pod, name: str, command: Sequence[str], times: Times, late_s: int, longest_s: int
) -> dict[str, Any]:
    """Return the manifest of one CronJob. Any: JSON values."""
    hour, minute = divmod(times.minute, 60)
    days = "*" if times.every_day else ",".join(str((day + 1) % 7) for day in times.days)  # cron: 0 is Sunday
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/name": "acctops"}},
        "spec": {
            "schedule": f"{minute} {hour} * * {days}",
            "timeZone": schedule.window.timezone,
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": late_s,
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 10,
            "jobTemplate": {
                "spec": {
                    "backoffLimit": 0,
                    "activeDeadlineSeconds": longest_s,
                    "template": {"spec": _pod(schedule, pod, command)},
                }
            },
        },
    }


def _pod(schedule: Schedule, pod: Pod, command: Sequence[str]) -> dict[str, Any]:
    user = pod.user_id
    container: dict[str, Any] = {
        "name": "acctops",
        "image": pod.image,
        "command": list(map(_literal, command)),
        "workingDir": schedule.directory,
        "envFrom": [{"secretRef": {"name": "acctops-env", "optional": schedule.env_file_may_miss}}],
        "volumeMounts": [
            {"name": "state", "mountPath": pod.state_dir},
            *(
                {"name": "files", "mountPath": path, "subPath": _key(index, path), "readOnly": True}
                for index, path in enumerate(pod.mounted)
            ),
        ],
    }
    if schedule.environment:
        container["env"] = [{"name": name, "value": _literal(value)} for name, value in schedule.environment.items()]
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": schedule.stop_s,
        "securityContext": {"runAsNonRoot": True, "runAsUser": user, "runAsGroup": user, "fsGroup": user},
        "containers": [container],
        "volumes": [
            {"name": "state", "persistentVolumeClaim": {"claimName": "acctops-state"}},
            {"name": "files", "configMap": {"name": schedule.unit}},
        ],
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


def _yaml(value: Mapping[str, Any]) -> str:
    return "\n".join(_lines(value, "")) + "\n"


def _lines(value: Mapping[str, Any], indent: str) -> list[str]:
    """Return the lines of a mapping in YAML's block style; other values are JSON, which is YAML, too."""
    lines = []
    for key, each in value.items():
        if isinstance(each, dict):
            lines += [f"{indent}{key}:", *_lines(each, indent + "  ")]
        elif isinstance(each, list) and each and isinstance(each[0], dict):
            lines.append(f"{indent}{key}:")
            for item in each:
                first, *rest = _lines(item, indent + "    ")
                lines += [f"{indent}  - {first.strip()}", *rest]
        else:
            lines.append(f"{indent}{key}: {json.dumps(each, ensure_ascii=False)}")
    return lines
