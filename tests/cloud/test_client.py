"""One attempt: what goes out, what comes back, and what must never be kept of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from engine.api.actions import ACTIONS
from engine.api.verdicts import RequestIds
from engine.cloud.client import Attempt, Client
from engine.credentials import FixedKeys
from engine.model import Answer, Fault, Keys, Reply, Stage
from engine.outside.foreign import MOST_WORDS, REDACTED
from engine.simulator.gate import KeyRecord
from engine.simulator.inprocess import InProcessTransport
from engine.simulator.world import World
from tests.support.tc3 import signed_headers

NOW = 1_790_000_000.75
ENDPOINT = "https://postgres.intl.tencentcloudapi.com"
KEYS = Keys(secret_id="AKIDz8krbsJ5yKBZQpn7", secret_key="Gu5t9xGARNpq86cd98jo", token="tok-0123456789")
PARAMETERS = {"DBInstanceId": "postgres-4sfuv15b", "UserName": "app_user"}
PASSWORD = 'aB3"\\/<>&é𝄞'
"""Every character that some JSON writer escapes."""


@dataclass
class Script:
    """A server that says what it is told to, and remembers what it was sent."""

    says: Reply | Fault
    takes_s: float = 0.0
    now: float = NOW
    endpoint: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    timeout_s: float = 0.0

    async def send(self, endpoint: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Reply | Fault:
        self.endpoint, self.headers, self.body, self.timeout_s = endpoint, headers, body, timeout_s
        self.now += self.takes_s
        return self.says

    async def aclose(self) -> None:
        """Nothing to close."""


def says(message: str, code: str = "InvalidParameter.ParameterCheckError", request_id: str = "r-1") -> Reply:
    document = {"Response": {"Error": {"Code": code, "Message": message}, "RequestId": request_id}}
    return Reply(status=200, body=json.dumps(document).encode())


DONE = Reply(status=200, body=b'{"Response":{"RequestId":"r-1"}}', date=NOW + 90)


def client_of(script: Script, keys: Keys = KEYS, endpoint: str = ENDPOINT, **options: Any) -> Client:
    return Client(script, FixedKeys(keys), endpoint, timeout_s=10.0, clock=lambda: script.now, **options)


def attempt(client: Client, *, keys: Keys = KEYS, region: str = "ap-singapore", secret: str | None = None) -> Attempt:
    parameters = PARAMETERS | ({"Password": secret} if secret is not None else {})
    action = "LockAccount" if secret is None else "CloseAccountCAM"
    return asyncio.run(client.attempt(action, region, parameters, keys=keys, trace="trace-1", secret=secret))


# ---- what goes out -------------------------------------------------------------------------------------------------


def test_a_request_is_signed_as_the_document_says() -> None:
    """The same headers as a second implementation makes, over exactly the bytes that are sent."""
    script = Script(DONE)
    attempt(client_of(script))
    expected = signed_headers(
        "LockAccount",
        script.body,
        host="postgres.intl.tencentcloudapi.com",
        at=NOW,
        secret_id=KEYS.secret_id,
        secret_key=KEYS.secret_key,
        token=KEYS.token,
    )
    assert dict(script.headers) == expected | {"X-TC-Language": "en-US", "X-TC-TraceId": "trace-1"}
    assert json.loads(script.body) == PARAMETERS
    assert (script.endpoint, script.timeout_s) == (ENDPOINT, 10.0)


def test_an_unusual_port_is_part_of_the_signed_host() -> None:
    """Else a server on another port would refuse every signature."""
    script = Script(DONE)
    attempt(client_of(script, endpoint="http://127.0.0.1:9900"))
    assert script.headers["Host"] == "127.0.0.1:9900"


def test_the_vendor_can_tell_our_runs_apart() -> None:
    """X-TC-RequestClient is sent where one is given, and left out where not."""
    script = Script(DONE)
    attempt(client_of(script, request_client="acctops_0.1.0;run"))
    assert script.headers["X-TC-RequestClient"] == "acctops_0.1.0;run"
    attempt(client_of(script))
    assert "X-TC-RequestClient" not in script.headers


def test_each_attempt_is_signed_with_the_keys_it_is_given() -> None:
    """Keys rotate under a long run: the journal's fingerprint and the signature are of the same ones."""
    other = Keys(secret_id="AKIDother", secret_key="other-secret")
    script = Script(DONE)
    attempt(client_of(script), keys=other)
    assert "Credential=AKIDother/" in script.headers["Authorization"]
    assert "X-TC-Token" not in script.headers


@pytest.mark.parametrize("ahead_s", [0.0, 600.0, -86_400.0, 0.5])
def test_the_learnt_clock_is_applied_to_the_timestamp_and_to_nothing_else(ahead_s: float) -> None:
    """The signature uses the server's clock; what is journalled stays on ours."""
    script = Script(DONE)
    client = client_of(script)
    assert client.learn_clock(NOW + ahead_s) == ahead_s
    found = attempt(client)
    assert script.headers["X-TC-Timestamp"] == str(int(NOW + ahead_s))
    assert found.sent_at == NOW


def test_a_wrong_clock_is_cured_by_the_servers_date() -> None:
    """Ten minutes off: refused; after learning from the refusal's own Date header: accepted."""
    world = World(keys={KEYS.secret_id: KeyRecord(secret_key=KEYS.secret_key, token=KEYS.token)})
    transport = InProcessTransport(world, now=lambda: NOW + 600)
    client = Client(transport, FixedKeys(KEYS), "http://127.0.0.1:9900", timeout_s=10.0, clock=lambda: NOW)
    refused = attempt(client)
    assert refused.answer.code == "AuthFailure.SignatureExpire"
    assert refused.date is not None
    client.learn_clock(refused.date)
    assert attempt(client).answer.code is None


# ---- what comes back -----------------------------------------------------------------------------------------------


def test_an_attempt_says_when_it_was_sent_and_how_long_it_took() -> None:
    """`sent_at` is the moment it was handed over, not when the answer came."""
    found = attempt(client_of(Script(DONE, takes_s=0.0874)))
    assert (found.sent_at, found.ms, found.date) == (NOW, 87, NOW + 90)
    assert (found.answer.code, found.answer.request_id) == (None, "r-1")


def test_a_clock_set_back_gives_no_negative_time() -> None:
    """NTP may step the wall clock while an attempt is under way."""
    assert attempt(client_of(Script(DONE, takes_s=-3.0))).ms == 0


def test_a_fault_is_an_answer_too() -> None:
    """Nothing is raised for what the network does."""
    fault = Fault(stage=Stage.BEFORE_SEND, code="Local.Connect", message="Connection refused")
    found = attempt(client_of(Script(fault)))
    assert (found.answer.code, found.answer.stage, found.date) == ("Local.Connect", Stage.BEFORE_SEND, None)


@pytest.mark.parametrize("length", [0, 1, 999, 1000, 1001, 5_000_000])
def test_messages_are_cut(length: int) -> None:
    """A server that echoes a megabyte does not fill the journal."""
    found = attempt(client_of(Script(says("x" * length)))).answer.message
    assert found == ("x" * length if length <= MOST_WORDS else "x" * (MOST_WORDS - 1) + "…")


@dataclass
class InTurn:
    """Answers in turn, and which of them had their connection closed."""

    says: list[bytes]
    closed: list[int] = field(default_factory=list)
    number: int = 0

    async def send(self, endpoint: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Reply | Fault:
        number, self.number = self.number, self.number + 1
        return Reply(status=200, body=self.says[number], distrust=lambda: self.closed.append(number))

    async def aclose(self) -> None:
        """Nothing to close."""


def codes_of(*says: bytes, action: str = "LockAccount") -> tuple[list[str | None], list[int]]:
    """What a client makes of answers that come one after the other, and after which it closed the connection."""
    server = InTurn(list(says))
    client = Client(server, FixedKeys(KEYS), ENDPOINT, timeout_s=1.0)

    async def story() -> list[str | None]:
        attempts = [
            await client.attempt(action, "ap-singapore", PARAMETERS, keys=KEYS, trace="t") for _ in range(len(says))
        ]
        return [each.answer.code for each in attempts]

    return asyncio.run(story()), server.closed


DONE_2 = b'{"Response":{"RequestId":"r-2"}}'
REFUSED = b'{"Response":{"Error":{"Code":"FailedOperation.PreCheckError","Message":"m"},"RequestId":"r-1"}}'
READ = (
    b'{"Response":{"TotalCount":1,"Details":[{"DBInstanceId":"postgres-4sfuv15b","UserName":"u","Status":5}],'
    b'"RequestId":"r-3"}}'
)


def test_an_answer_that_comes_twice_proves_nothing_the_second_time() -> None:
    """The copy is taken for the answer to the next request; the connection it came on brings the true one to nobody."""
    assert codes_of(DONE.body, DONE.body, DONE_2) == ([None, "Local.RepeatedRequestId", None], [1])


def test_a_refusal_that_comes_twice_refuses_one_request() -> None:
    """The second may have been applied."""
    repeated = ["FailedOperation.PreCheckError", "Local.RepeatedRequestId"]
    assert codes_of(REFUSED, REFUSED) == (repeated, [1])


def test_a_writes_success_is_a_request_id_and_nothing_else() -> None:
    """As documented of all of them: a reading that arrives in its place locks nobody."""
    for action in ACTIONS:
        assert codes_of(READ, DONE_2, action=action) == (["Local.Misplaced", None], [0])


def test_a_reading_is_a_list_with_its_count() -> None:
    """A write's success that arrives in its place is no empty instance."""
    assert codes_of(DONE_2, READ, action="DescribeAccounts") == (["Local.Misplaced", None], [0])
    for action in ("DescribeDBInstances", "DescribeRegions"):
        assert codes_of(READ, action=action) == (["Local.Misplaced"], [0])


def test_whatever_is_no_answer_of_the_api_closes_its_connection() -> None:
    """A gateway's page, or an error without a request id, could come twice and nobody would know."""
    nameless = b'{"Response":{"Error":{"Code":"InternalError","Message":"m"}}}'
    assert codes_of(b"<html>", nameless, DONE_2) == (["Local.Html", "InternalError", None], [0, 1])


def test_clients_of_one_command_know_each_others_answers() -> None:
    """Reads and writes, lanes and accounts: a cache between us and the API gives the same to all of them."""
    known = RequestIds()
    clients = [client_of(Script(DONE), known=known) for _ in range(2)]
    assert [attempt(each).answer.code for each in clients] == [None, "Local.RepeatedRequestId"]


def test_request_ids_are_remembered_within_bounds() -> None:
    """A million calls must not fill the memory; a copy comes soon after its original, if it comes."""
    known = RequestIds()
    assert all(known.is_new(f"r-{number}") for number in range(RequestIds.MOST + 10))
    assert not known.is_new(f"r-{RequestIds.MOST + 9}")
    assert not known.is_new("r-10")
    assert known.is_new("r-0")


def test_a_stale_connection_is_still_told_when_the_words_are_cleaned() -> None:
    """Whoever judges needs to know that it was not the instance."""
    fault = Fault(stage=Stage.AFTER_SEND, code="Local.ConnectionReset", message="m", stale_connection=True)
    assert attempt(client_of(Script(fault))).answer.stale_connection


# ---- what must never be kept ---------------------------------------------------------------------------------------


def go_json(text: str) -> str:
    """As Go's encoding/json and Java's Gson write it, which escape for HTML."""
    return json.dumps(text, ensure_ascii=False).replace("<", "\\u003c").replace(">", "\\u003E").replace("&", "\\u0026")


WRITERS = {
    "plain": lambda text: text,
    "python": json.dumps,
    "msgspec": lambda text: msgspec.json.encode(text).decode(),
    "go": go_json,
    "php": lambda text: json.dumps(text).replace("/", "\\/"),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_password_is_blotted_out_however_the_server_quotes_it(writer: str) -> None:
    """J6: plain, or escaped by any usual JSON writer, anywhere, any number of times."""
    quoted = WRITERS[writer](PASSWORD).strip('"') if writer != "plain" else PASSWORD
    message = f'bad parameters {{"Password":"{quoted}"}}, again: {quoted}'
    found = attempt(client_of(Script(says(message))), secret=PASSWORD).answer.message
    assert found == f'bad parameters {{"Password":"{REDACTED}"}}, again: {REDACTED}'


def test_the_key_and_the_token_are_blotted_out() -> None:
    """A signature error may echo what it was made from."""
    found = attempt(client_of(Script(says(f"key={KEYS.secret_key} token={KEYS.token}")))).answer.message
    assert found == f"key={REDACTED} token={REDACTED}"


def test_a_secret_that_stands_across_the_cut_leaves_no_half() -> None:
    """Blotted out first, cut afterwards."""
    message = "x" * (MOST_WORDS - 5) + PASSWORD
    found = attempt(client_of(Script(says(message))), secret=PASSWORD).answer.message
    assert found == "x" * (MOST_WORDS - 5) + REDACTED[:4] + "…"


def test_a_fault_may_quote_a_secret_too() -> None:
    """Whatever text is kept goes the same way."""
    fault = Fault(stage=Stage.AFTER_SEND, code="Local.ConnectionReset", message=f"lost {PASSWORD}")
    assert attempt(client_of(Script(fault)), secret=PASSWORD).answer.message == f"lost {REDACTED}"


ECHOES = ("{}", "a {} b", "FailedOperation.{}", "rid-{}")


@pytest.mark.parametrize("secret", [PASSWORD, KEYS.secret_key, KEYS.token, KEYS.secret_id])
@pytest.mark.parametrize("echo", ECHOES)
def test_no_field_of_an_answer_keeps_a_secret(secret: str, echo: str) -> None:
    """Code, request id, message, and all that a success holds: each may be a place to say a secret back."""
    said = echo.format(secret)
    error = {"Error": {"Code": said, "Message": said}, "RequestId": said}
    success = {"RequestId": "r-1", "Details": [{"UserType": said, "UpdateTime": [said]}], "More": {"Deep": said}}
    for response in (error, success, success | {"RequestId": said}):
        reply = Reply(status=200, body=json.dumps({"Response": response}).encode(), date=NOW)
        assert secret not in repr(attempt(client_of(Script(reply)), secret=PASSWORD).answer)
    for field_name in ("UserType", "UpdateTime", "Remark", "Later"):
        found = read(client_of(Script(rows(**{field_name: said}))), secret=PASSWORD)
        assert found.code is None
        assert secret not in repr(found)


def test_a_code_of_the_table_and_a_name_stay_as_they_are() -> None:
    """A password that is part of an account's name, or of a code, must not change what the answer means."""
    client = client_of(Script(says("x", code="FailedOperation.PreCheckError")))
    assert attempt(client, secret="PreCheckError").answer.code == "FailedOperation.PreCheckError"
    found = read(client_of(Script(rows(UserName="App_user1", UserType="App_user1"))), secret="App_user1")
    assert found.data is not None
    (row,) = found.data["Details"]
    assert (row["UserName"], row["UserType"]) == ("App_user1", REDACTED)


def test_a_reading_whose_names_hold_a_key_is_none() -> None:
    """Who answers a question about accounts with our own secret key is not believed, and nothing seems to be gone."""
    assert read(client_of(Script(rows(UserName=KEYS.secret_key)))).code == "Local.Garbage"


def rows(**row: str) -> Reply:
    """A reading of one row."""
    found = {"DBInstanceId": PARAMETERS["DBInstanceId"], "UserName": "u", "Status": 2} | row
    response = {"RequestId": "r-1", "TotalCount": 1, "Details": [found]}
    return Reply(status=200, body=json.dumps({"Response": response}).encode(), date=NOW)


def read(client: Client, secret: str | None = None) -> Answer:
    work = client.attempt("DescribeAccounts", "ap-singapore", PARAMETERS, keys=KEYS, trace="t", secret=secret)
    return asyncio.run(work).answer


def test_a_password_is_blotted_out_of_later_answers_too() -> None:
    """The reading after it may say it back as well."""
    script = Script(DONE)
    client = client_of(script)
    attempt(client, secret=PASSWORD)
    script.says = says(f"once more: {PASSWORD}", request_id="r-2")
    assert attempt(client).answer.message == f"once more: {REDACTED}"


def test_a_message_cannot_move_the_cursor() -> None:
    """Controls, marks that turn the direction of text, and line ends are blanks by the time it is kept."""
    assert attempt(client_of(Script(says("a\x1b[2Jb\u202ec\nd")))).answer.message == "a [2Jb c d"


def test_nothing_made_of_an_attempt_shows_keys_or_password() -> None:
    """Reprs end up in tracebacks and logs."""
    script = Script(says(f"{PASSWORD} {KEYS.secret_key} {KEYS.token}"))
    client = client_of(script)
    found = attempt(client, secret=PASSWORD)
    for value in (found, client, FixedKeys(KEYS), client.keys, KEYS):
        for secret in (PASSWORD, KEYS.secret_key, KEYS.token, KEYS.secret_id):
            assert secret is not None
            assert secret not in repr(value)
