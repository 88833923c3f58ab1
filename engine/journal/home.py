"""Which host a state directory belongs to. A copy of it on another host must not open accounts by itself.

`<state_dir>/home.json` names the directory, by a random id, and its host. It is written when the first run is created
or tended there.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from engine.errors import ConfigError
from engine.outside.foreign import clean
from engine.outside.trust import read_regular, replace_whole

if TYPE_CHECKING:
    from engine.journal.directory import RunDirectory

_FILE = "home.json"
_MOST_BYTES = 1000
_VARIABLE = "ACCTOPS_HOST_ID"
"""Names the host where nothing lasting does, such as in a container. The operator's word counts."""


class Home(Struct, frozen=True, kw_only=True):
    """A state directory and its host."""

    id: str
    host: str
    is_here: bool
    """Whether this host is the one."""
    why: str = ""
    """Why it is not, as what a state directory or a database does: "belongs to another host (…)"."""


def host_id(environ: Mapping[str, str]) -> str:
    """Return what names this host: the variable, else a digest of /etc/machine-id, else its name."""
    if environ.get(_VARIABLE):
        return f"id {clean(environ[_VARIABLE], 100)}"
    try:
        machine = Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        machine = ""
    if machine:  # its documentation asks not to show it: a digest of our own is as good
        return "machine " + hashlib.sha256(f"acctops {machine}".encode()).hexdigest()[:16]
    return f"host {os.uname().nodename}"


def home_of(store: RunDirectory, *, adopt: bool = False) -> Home:
    """Return where a state directory belongs; write it if nothing says so yet, or if this host shall `adopt` it.

    ConfigError for a file that untrusted users could have written, or that says no such thing.
    """
    path = store.state_dir / _FILE
    store.refuse_strangers(path)
    here = host_id(os.environ)
    found = _read(path)
    if found is None or (adopt and found["host"] != here):
        found = {"id": found["id"] if found is not None else secrets.token_hex(8), "host": here}
        with store.writable():
            store.make_dir(store.state_dir)
            replace_whole(path, (json.dumps(found) + "\n").encode(), 0o640 if store.group else 0o600)
    is_here = found["host"] == here
    why = "" if is_here else f"belongs to another host ({found['host']})"
    return Home(id=found["id"], host=found["host"], is_here=is_here, why=why)


def _read(path: Path) -> dict[str, str] | None:
    try:
        found = json.loads(read_regular(path, _MOST_BYTES, follow=False))
        return {name: clean(str(found[name]), 200) for name in ("id", "host")}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: does not say which host this state directory belongs to: {error}; once you know that it is this "
            "one, remove the file"
        ) from error
