"""Sends a notice to a command's standard input and to a webhook.

A notice must never stop a run: each way has `NOTICE_S`, a command that hangs is killed with all it started, and
failures are returned as words, never raised. The caller decides what to do with them. The words never repeat what a
command printed, a webhook answered or a library said: each of these could hold the URL, or worse.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from engine.api.codes import NO_ANSWER, SAID_OF_ANY_HOST
from engine.api.endpoints import is_webhook
from engine.errors import ConfigError
from engine.model import Fault
from engine.outside.programs import program_path
from engine.run.endings import NOTICE_S

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Coroutine, Mapping

    from engine.cloud.proxy import WayOut
    from engine.inputs.job import NotifySpec

MOST_URL = 4096
"""Bytes that are read of a file with a URL."""
PASSED_ON = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "PWD", "TMPDIR", "TZ", "LANG", "LANGUAGE"),
    *("NO_PROXY", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
)
"""Variables of the environment that a notice's command gets, beside `LC_…`, the proxy (unless it has a password) and
what `notify.env` names. It gets nothing else: no API keys, no new passwords, nothing meant for other programs."""
_PROXIES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")


class Undelivered(Struct, frozen=True):
    """A way by which the notice was not delivered."""

    to: str
    """`command` or `webhook`."""
    why: str
    """Why it was not, in words; never has the URL, nor what the command, the webhook or a library said."""


async def deliver(
    spec: NotifySpec,
    document: Mapping[str, Any],
    environ: Mapping[str, str],
    timeout_s: float = NOTICE_S,
    *,
    way: WayOut,
) -> list[Undelivered]:
    """Send the notice by every way that `spec` names, at the same time; return those that failed.

    `way` is the way out to a webhook (proxy). Raises nothing but cancellation. Any: JSON values.
    """
    body = json.dumps(document, ensure_ascii=False).encode() + b"\n"
    ways = []
    if "command" in spec.ways:
        ways.append(_told("command", _run(spec, body, environ), timeout_s))
    if "webhook" in spec.ways:
        ways.append(_told("webhook", _post(spec, body, environ, timeout_s, way), timeout_s))
    return [undelivered for undelivered in await asyncio.gather(*ways) if undelivered is not None]


def problems(spec: NotifySpec, environ: Mapping[str, str]) -> list[str]:
    """Return what would keep a notice from being delivered, as far as this shows without sending one."""
    found = []
    if spec.command and shutil.which(program_path(spec.command[0], spec.place.file), path=environ.get("PATH")) is None:
        found.append(f"command {spec.command[0]}: no such program, or not executable")
    if "webhook" in spec.ways:
        try:
            _url(spec, environ)
        except _CannotTellError as error:
            found.append(f"webhook: {error}")
    return found


class _CannotTellError(Exception):
    """A notice cannot be delivered; the text may be shown."""


async def _told(to: str, way: Coroutine[Any, Any, None], timeout_s: float) -> Undelivered | None:
    try:
        async with asyncio.timeout(timeout_s):
            await way
    except _CannotTellError as error:
        return Undelivered(to, str(error))
    except ConfigError as error:  # a proxy or certificates that cannot be used; the words name only the variable
        return Undelivered(to, str(error))
    except TimeoutError:
        return Undelivered(to, f"not done within {timeout_s:g} s, ended")
    except Exception as error:  # noqa: BLE001 - a notice must never stop a run; the error's text could hold the URL
        return Undelivered(to, type(error).__name__)
    return None


# ---- a command -----------------------------------------------------------------------------------------------------


async def _run(spec: NotifySpec, body: bytes, environ: Mapping[str, str]) -> None:
    nothing = asyncio.subprocess.DEVNULL
    try:
        process = await asyncio.create_subprocess_exec(
            program_path(spec.command[0], spec.place.file),
            *spec.command[1:],
            stdin=asyncio.subprocess.PIPE,
            stdout=nothing,
            stderr=nothing,
            env=_passed_on(spec, environ),
            cwd=_folder(spec),
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "its arguments cannot be passed"
        raise _CannotTellError(f"{spec.command[0]} cannot be started: {why}") from None
    try:
        await process.communicate(body)
    finally:
        await _end(process)
    if process.returncode:
        raise _CannotTellError(f"{spec.command[0]}: {_status(process.returncode)}")


def _passed_on(spec: NotifySpec, environ: Mapping[str, str]) -> dict[str, str]:
    named = {*PASSED_ON, *spec.env}
    return {
        name: value
        for name, value in environ.items()
        if name in named or name.startswith("LC_") or (name in _PROXIES and "@" not in value)
    }


def _folder(spec: NotifySpec) -> Path | None:
    """Return the directory of the file that names the command; None, the current one, if it cannot be entered."""
    folder = Path(spec.place.file).absolute().parent
    return folder if os.access(folder, os.X_OK) else None


async def _end(process: Process) -> None:
    """Kill a command that still runs, with all it started: it leads a session of its own."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def _status(code: int) -> str:
    if code > 0:
        return f"exit status {code}"
    with contextlib.suppress(ValueError):
        return f"ended by {signal.Signals(-code).name}"
    return f"ended by signal {-code}"


# ---- a webhook -----------------------------------------------------------------------------------------------------


async def _post(spec: NotifySpec, body: bytes, environ: Mapping[str, str], timeout_s: float, way: WayOut) -> None:
    from engine.cloud.transport import post_once  # imported here, as only a webhook needs it

    answer = await post_once(_url(spec, environ), body, timeout_s, way)
    if isinstance(answer, Fault):
        if answer.code == NO_ANSWER:
            raise TimeoutError
        raise _CannotTellError(SAID_OF_ANY_HOST.get(answer.code, answer.code))
    if not 200 <= answer.status < 300:
        raise _CannotTellError(f"answered HTTP {answer.status}")


def _url(spec: NotifySpec, environ: Mapping[str, str]) -> str:
    where = f"url_env {spec.url_env}" if spec.url_env else f"url_file {spec.url_file}"
    if spec.url_env:
        text = environ.get(spec.url_env, "")
        if not text:
            raise _CannotTellError(f"{where}: the variable is not set or empty")
    else:
        text = _file(Path(spec.url_file).expanduser(), where)
    url = text.strip()
    if not is_webhook(url):
        raise _CannotTellError(f"{where}: holds no URL that may be called: one line, https://… or http to this machine")
    return url


def _file(path: Path, where: str) -> str:
    try:
        # Not blocking: opening a pipe without a writer would block, and this runs on the loop of the run.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise _CannotTellError(f"{where}: is not a regular file")
            return os.read(fd, MOST_URL).decode("utf-8", "replace")
        finally:
            os.close(fd)
    except (OSError, ValueError) as error:
        raise _CannotTellError(f"{where}: cannot be read: {getattr(error, 'strerror', None) or 'no path'}") from None
