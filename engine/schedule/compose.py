"""Writes a compose file: workers on one machine, with a PostgreSQL of their own that has its tables and its roles.

Sources: the Compose specification ("env_file" with `format: raw`, "configs" with `content`, "secrets" from files, which
are mounted with the owner and mode that they have); the documentation of the image `postgres`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.schedule.k8s import yaml_text
from engine.schedule.units import IS_READY, REPLICAS, UnitFile

if TYPE_CHECKING:
    from engine.schedule.k8s import Pod
    from engine.schedule.units import Working

WORKER_URL, OWNER_URL = "postgresql://ops@db/acctops", "postgresql://owner@db/acctops"
"""The database for workers, and for whoever makes its tables."""
STATE_DIR = "/tmp/acctops"  # noqa: S108  # in a container, whose /tmp is its own
_POSTGRES = "postgres:17"
_PASSFILE = "/run/secrets/pgpass"
_ROLES = r"""\set password `sed -n 's/^[*]:5432:acctops:ops://p' "$PGPASSFILE"`
select 'create role ops login in role acctops_worker'
 where not exists (select from pg_roles where rolname = 'ops') \gexec
select format('alter role ops password %L', :'password') \gexec
"""
"""For psql: the role of workers, with the password that stands in the file of passwords."""


def worker_files(working: Working, pod: Pod) -> list[UnitFile]:
    """Return the one file."""
    name = f"{working.unit}.compose.yaml"
    return [UnitFile(name, _head(working, name) + yaml_text(_document(working, pod)))]


def _head(working: Working, name: str) -> str:
    lines = [
        *working.head("a PostgreSQL, and workers that carry out its runs").split("\n"),
        "#",
        "# Once, beside it, as the user that the containers run as:",
        "#   umask 077 && openssl rand -hex 24 > owner.password",
        '#   echo "*:5432:acctops:owner:$(cat owner.password)" > pgpass',
        '#   echo "*:5432:acctops:ops:$(openssl rand -hex 24)" >> pgpass',
        f"# Then: docker compose -f {name} up -d",
        "# From this machine:",
        f"#   PGPASSFILE=pgpass acctops run JOB --database {WORKER_URL.replace('@db', '@127.0.0.1')}",
        "#",
        "# The database listens on loopback alone, without TLS, and one machine has all of it: no place for what must",
        "# not be lost.",
    ]
    return "\n".join(lines) + "\n"


def _document(working: Working, pod: Pod) -> dict[str, Any]:
    """Return the whole file. Any: JSON values."""
    ours: dict[str, Any] = {"image": _literal(pod.image), "user": str(pod.user_id), "secrets": ["pgpass"]}
    environment = {"PGPASSFILE": _PASSFILE}
    role = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", "/roles.sql", OWNER_URL]
    worker = {
        **ours,
        "entrypoint": list(map(_literal, working.work)),
        "working_dir": _literal(working.directory),
        "env_file": [{"path": _literal(working.env_file), "required": not working.env_file_may_miss, "format": "raw"}],
        "environment": environment | {name: _literal(value) for name, value in working.environment.items()},
        "volumes": [
            {"type": "bind", "source": _literal(path), "target": _literal(path), "read_only": True}
            for path in pod.mounted
        ],
        "depends_on": _after("role", "service_completed_successfully"),
        "deploy": {"replicas": REPLICAS},
        "healthcheck": {"test": ["CMD-SHELL", _literal(IS_READY)], "interval": "5s", "start_period": "30s"},
        "restart": "unless-stopped",
        "stop_grace_period": f"{working.stop_s}s",
        "read_only": True,
        "tmpfs": ["/tmp"],  # noqa: S108
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
    }
    return {
        "name": "acctops",
        "services": {
            "db": {
                "image": _POSTGRES,
                "environment": {
                    "POSTGRES_USER": "owner",
                    "POSTGRES_DB": "acctops",
                    "POSTGRES_PASSWORD_FILE": "/run/secrets/owner",
                },
                "secrets": ["owner"],
                "volumes": ["db:/var/lib/postgresql/data"],
                "ports": ["127.0.0.1:5432:5432"],
                "healthcheck": {
                    "test": ["CMD", "pg_isready", "-h", "127.0.0.1", "-U", "owner", "-d", "acctops"],
                    "interval": "2s",
                    "retries": 30,
                },
                "restart": "unless-stopped",
                "stop_grace_period": "60s",
            },
            "migrate": {
                **ours,
                "entrypoint": [*map(_literal, working.migrate), "--database", OWNER_URL],
                "environment": environment,
                "depends_on": _after("db", "service_healthy"),
            },
            "role": {
                "image": _POSTGRES,
                "user": str(pod.user_id),
                "secrets": ["pgpass"],
                "configs": [{"source": "roles", "target": "/roles.sql"}],
                "entrypoint": role,
                "environment": environment,
                "depends_on": _after("migrate", "service_completed_successfully"),
            },
            "worker": worker,
        },
        "configs": {"roles": {"content": _literal(_ROLES)}},
        "secrets": {"owner": {"file": "./owner.password"}, "pgpass": {"file": "./pgpass"}},
        "volumes": {"db": {}},
    }


def _after(service: str, condition: str) -> dict[str, Any]:
    return {service: {"condition": condition}}


def _literal(word: str) -> str:
    """Return a word in which compose fills in no variable."""
    return word.replace("$", "$$")
