"""A server that says our secrets back wherever it can, in every spelling: nothing we print or keep holds one."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from msgspec.structs import replace

from engine.simulator import DEMO_SECRET_ID, DEMO_SECRET_KEY
from engine.simulator.sts import KeyRecord
from engine.simulator.wire import WireAnswer
from engine.simulator.world import World
from tests.support.command import Backend, Desk

TOKEN = "t0ken/of+the=session&with<all>its%signs"
PASSWORD = "Aa1~q&b<c>d/e:f"
INSTANCE, USERS = "postgres-aaaaaaaa", ("ann", "bob")
SECRETS = (DEMO_SECRET_KEY, TOKEN, DEMO_SECRET_ID, PASSWORD)
SPELLINGS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "capitals": str.upper,
    "small": str.lower,
    "url": lambda text: quote(text, safe=""),
    "url twice": lambda text: quote(quote(text, safe=""), safe=""),
    "html": html.escape,
    "html by number": lambda text: "".join(f"&#{ord(char)};" for char in text),
    "json": lambda text: json.dumps(text)[1:-1].replace("<", "\\u003c").replace("/", "\\/"),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 within": lambda text: base64.b64encode(f"u:{text};".encode()).decode(),
    "base64 in a url": lambda text: quote(base64.b64encode(text.encode()).decode(), safe=""),
}
EVERYTHING = " | ".join(f"{name}: {spell(secret)}" for name, spell in SPELLINGS.items() for secret in SECRETS)

Lie = Callable[[str, dict[str, Any]], dict[str, Any] | bytes]
"""Action and true `Response` → what is said instead."""


class Liar(World):
    """A world whose answers pass through a lie."""

    lie: Lie = staticmethod(lambda _action, response: response)

    def handle(self, *, headers: Mapping[str, str], **request: Any) -> WireAnswer:  # type: ignore[override]
        answer = super().handle(headers=headers, **request)
        action = next(value for name, value in headers.items() if name.lower() == "x-tc-action")
        if not answer.body.startswith(b"{"):
            return answer
        said = self.lie(action, json.loads(answer.body)["Response"])
        return replace(answer, body=said if isinstance(said, bytes) else json.dumps({"Response": said}).encode())


def in_rows(_action: str, response: dict[str, Any]) -> dict[str, Any]:
    """All fields of rows that decide nothing, and fields nobody knows."""
    for row in response.get("Details", ()):
        row |= {
            "UserType": EVERYTHING,
            "UpdateTime": EVERYTHING,
            "PasswordUpdateTime": EVERYTHING,
            "Remark": EVERYTHING,
        }
    return response | {"More": {"Deep": [EVERYTHING]}}


def in_errors(code: str, words: str = EVERYTHING) -> Lie:
    def lie(action: str, response: dict[str, Any]) -> dict[str, Any]:
        if action.startswith(("Describe", "GetCaller")):
            return response
        return {"Error": {"Code": code, "Message": words}, "RequestId": response["RequestId"]}

    return lie


def in_request_ids(secret: str, *, of_errors: bool) -> Lie:
    def lie(action: str, response: dict[str, Any]) -> dict[str, Any]:
        if of_errors:
            if action.startswith(("Describe", "GetCaller")):
                return response
            response = {"Error": {"Code": "FailedOperation.FailedOperationError", "Message": "no"}}
        return response | {"RequestId": f"r-{secret}"}

    return lie


def in_identity(action: str, response: dict[str, Any]) -> dict[str, Any]:
    if action == "GetCallerIdentity":
        return response | {"Arn": DEMO_SECRET_KEY, "UserId": TOKEN, "Type": DEMO_SECRET_ID}
    return response


def as_page(action: str, response: dict[str, Any]) -> dict[str, Any] | bytes:
    if action.startswith(("Describe", "GetCaller")):
        return response
    return f"<html><title>{DEMO_SECRET_KEY} {html.escape(PASSWORD)}</title>{EVERYTHING}</html>".encode()


def in_names(action: str, response: dict[str, Any]) -> dict[str, Any]:
    if action == "DescribeAccounts":
        response["Details"].append(response["Details"][0] | {"UserName": DEMO_SECRET_KEY})
    return response


LIES: dict[str, Lie] = {
    "rows": in_rows,
    "a message": in_errors("FailedOperation.FailedOperationError"),
    "a code": in_errors(f"FailedOperation.{DEMO_SECRET_KEY}"),
    "a code of the keys": in_errors(f"AuthFailure.{DEMO_SECRET_ID}"),
    "a code in base64": in_errors(base64.urlsafe_b64encode(f"x{TOKEN}".encode()).decode().rstrip("=")),
    "a request id": in_request_ids(DEMO_SECRET_KEY, of_errors=False),
    "a request id of an error": in_request_ids(DEMO_SECRET_KEY.upper(), of_errors=True),
    "who the keys are": in_identity,
    "a web page": as_page,
    "names": in_names,
}


def unfolded(text: str) -> str:
    """A text, and the same with the escapes of JSON undone: as `jq` would show it."""
    plain = re.sub(r'\\(?:u([0-9a-fA-F]{4})|(["\\/]))', lambda at: chr(int(at[1], 16)) if at[1] else at[2], text)
    return f"{text}\n{plain}".lower()


def found_in(text: str) -> list[str]:
    """Spellings of secrets in a text."""
    text = unfolded(text)
    return [
        f"{name} of {secret[:6]}"
        for secret in SECRETS
        for name, spell in SPELLINGS.items()
        if spell(secret).lower() in text and not (secret == DEMO_SECRET_ID and name == "x")
    ]


def kept_by(desk: Desk) -> str:
    """All that is in the state directory: journals, locks, slots."""
    return "".join(path.read_text(errors="replace") for path in sorted(desk.state.rglob("*")) if path.is_file())


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_server_gets_no_secret_into_anything(tmp_path: Path, lie: str) -> None:
    """Screen, JSON, journal, report, status, verification, and all of it with tracebacks asked for."""
    desk = Desk(tmp_path)
    world = Liar(keys={DEMO_SECRET_ID: KeyRecord(secret_key=DEMO_SECRET_KEY, token=TOKEN, identity="100000000007")})
    world.lie = LIES[lie]
    world.seed(INSTANCE, "ap-singapore", USERS, cam=True)
    rows = "".join(f"{INSTANCE},{user},{PASSWORD}\n" for user in USERS)
    desk.write("passwords.csv", f"instance,user,password\n{rows}").chmod(0o600)
    targets = [f"{INSTANCE}/{user}" for user in USERS]
    extra = "passwords: {file: passwords.csv}\nretry: {transient: 1s, busy: 1s}"
    job = desk.job(*targets, action="CloseAccountCAM", extra=extra)
    desk.env |= {"TENCENTCLOUD_TOKEN": TOKEN, "ACCTOPS_DEBUG": "1"}
    with Backend(world) as backend:
        desk.env["ACCTOPS_ENDPOINT"] = backend.endpoint
        desk.run("plan", job)
        done = desk.run("run", job, "--json", "--yes", "--timeout", "2s", "--deadline", "6s")
        desk.run("verify", "latest")
        desk.run("doctor", job)
        assert backend.writes() or lie in ("names", "a request id")
    assert done.code != 2, done.text
    desk.run("report", "latest")
    desk.run("report", "latest", "--json", "--attempts")
    desk.run("report", "latest", "--format", "csv")
    desk.run("status", "latest")
    desk.run("status")
    desk.run("undo", "latest", "--yes")
    kept = kept_by(desk)
    assert kept
    assert not found_in("".join(desk.said))
    assert not found_in(kept)
    assert "Traceback" not in "".join(desk.said)


# ---- URLs with a login -----------------------------------------------------------------------------------------------

LOGIN = "Hunter2Secret"
DEAD = {"HTTPS_PROXY": "http://127.0.0.1:9"}


@pytest.mark.parametrize(
    ("variables", "flags", "config", "code"),
    [
        ({"HTTPS_PROXY": f"http://CORP\\dba:{LOGIN}@127.0.0.1:9"}, [], "", 2),
        ({"HTTPS_PROXY": f"http://dba:{LOGIN}/x@127.0.0.1:9"}, [], "", 2),
        ({"HTTPS_PROXY": f"http://dba:{LOGIN}@127.0.0.1:9"}, [], "", None),
        ({"HTTPS_PROXY": f"http://dba:a%40{LOGIN}@proxy.invalid:9"}, [], "", None),
        ({"HTTPS_PROXY": f"http://dba:a@{LOGIN}@127.0.0.1:9"}, [], "", None),
        (DEAD | {"NO_PROXY": f"http://dba:{LOGIN}@x"}, [], "", None),
        ({}, ["--endpoint", f"https://dba:{LOGIN}@postgres.example"], "", 2),
        ({"ACCTOPS_ENDPOINT": f"https://dba:{LOGIN}@postgres.example"}, [], "", 2),
        ({}, [], f"endpoint: https://dba:{LOGIN}@postgres.example\n", 2),
        ({}, [], f"credentials: {{sts: 'https://dba:{LOGIN}@sts.example'}}\n", 2),
        ({}, [], f"network: {{proxy: 'http://dba:{LOGIN}@proxy:1'}}\n", 2),
        ({}, [], f"network: {{no_proxy: ['http://dba:{LOGIN}@x']}}\n", 2),
        ({}, [], f"notify: {{webhook: 'https://dba:{LOGIN}@hooks.example'}}\n", 2),
        (
            {"HOOK": f"https://dba:{LOGIN}@h.invalid/"} | DEAD,
            [],
            "notify: {webhook: {url_env: HOOK}, on: finish}\n",
            None,
        ),
    ],
)
def test_a_login_in_a_url_is_shown_nowhere(
    tmp_path: Path, variables: dict[str, str], flags: list[str], config: str, code: int | None
) -> None:
    """Of a proxy, an endpoint, a webhook: not on the screen, not in a journal; what cannot be used is refused (2)."""
    desk = Desk(tmp_path)
    desk.write("config.yaml", config)
    desk.env |= {"ACCTOPS_ENDPOINT": "https://postgres.invalid", "ACCTOPS_DEBUG": "1"} | variables
    job = desk.job()
    done = desk.run("run", job, "--yes", "--timeout", "1s", "--deadline", "3s", *flags)
    assert code is None or done.code == code, done.text
    for command in (("doctor", job), ("status", "latest"), ("report", "latest", "--json")):
        desk.run(*command, *(flags if command[0] == "doctor" else ()))
    desk.run("config", "show", "--origin")
    desk.run("config", "show", "--json")
    kept = kept_by(desk)
    for text in (unfolded("".join(desk.said)), unfolded(kept)):
        assert LOGIN.lower() not in text
    assert "Traceback" not in "".join(desk.said)


# ---- characters ------------------------------------------------------------------------------------------------------

SIGNS = "\x1b[31m\x07\u202e\u200b\x9b"


@pytest.mark.parametrize("where", ["name", "reason", "ticket"])
def test_a_job_that_could_move_the_cursor_is_refused_with_its_place(tmp_path: Path, where: str) -> None:
    """Whoever reads a plan must see what stands in the job."""
    desk = Desk(tmp_path)
    done = desk.run("plan", desk.job(extra=f"{where}: {json.dumps('a' + SIGNS)}"), "--offline")
    assert done.code == 2
    assert f"job.yaml:3:{len(where) + 3}: {where}: " in done.err
    assert not set(SIGNS[:1] + SIGNS[5:]) & set(done.text)


@pytest.mark.parametrize("flag", ["--reason", "--ticket"])
def test_a_flag_that_could_is_refused(tmp_path: Path, flag: str) -> None:
    """It would stand in the journal, and in every report of it."""
    desk = Desk(tmp_path)
    done = desk.run("run", desk.job(), "--simulate", "--yes", flag, "a\u202eb")
    assert done.code == 2
    assert "holds U+202E (character 2)" in done.err


def test_rows_cannot_move_the_cursor_nor_fill_the_disk(tmp_path: Path) -> None:
    """Type, times, version, status and name of whatever a server shows: one line, of at most 128 characters each."""
    desk = Desk(tmp_path)
    world = Liar()

    def lie(action: str, response: dict[str, Any]) -> dict[str, Any]:
        for row in response.get("Details", ()):
            row.update({"UserType": "x" * 1_000_000 + SIGNS, "UpdateTime": SIGNS + "y" * 1_000_000})
        names = ("DBInstanceName", "DBInstanceStatus", "DBInstanceType", "DBMajorVersion")
        for row in response.get("DBInstanceSet", ()):
            row.update(dict.fromkeys(names, SIGNS * 9999))
        return response

    world.lie = lie
    world.seed(INSTANCE, "ap-singapore", USERS)
    job = desk.job(*(f"{INSTANCE}/{user}" for user in USERS))
    with Backend(world) as backend:
        desk.env["ACCTOPS_ENDPOINT"] = backend.endpoint
        assert desk.run("run", job, "--yes").code == 0
        desk.run("undo", "latest", typed="n\n")
        desk.run("discover", "--region", "ap-singapore")
        desk.run("discover", "--region", "ap-singapore", "--json")
    assert not set(SIGNS[:1] + SIGNS[5:]) & set("".join(desk.said))
    assert desk.journal().stat().st_size < 50_000
