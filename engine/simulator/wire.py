"""No I/O. What crosses the wire: answers, refusals, request parameters, bodies (CN-RESP)."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl

import msgspec

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

MAX_BODY = 10 * 1024 * 1024
"""Largest POST body of signature v3, in bytes (request structure page); above it RequestSizeLimitExceeded."""


class Refusal(NamedTuple):
    """An error answer: the API's code, and its message (which clients must not parse)."""

    code: str
    message: str


class WireKind(StrEnum):
    """How an answer leaves the server."""

    ANSWER = "answer"
    """The whole answer is sent."""
    TRUNCATED = "truncated"
    """Fewer bytes are sent than Content-Length says; then the connection closes."""
    RESET = "reset"
    """No answer: the connection is reset."""
    HANG = "hang"
    """No answer, ever; the connection stays open."""


class WireAnswer(msgspec.Struct, frozen=True, gc=False):
    """What the server sends back, and when; the transport does the waiting."""

    kind: WireKind = WireKind.ANSWER
    status: int = 200
    """HTTP status: 200 also for errors, once the API has processed a request (CN-RESP)."""
    content_type: str = "application/json"
    """Without a charset: with one, the vendor's SDK takes errors for results (CN-RESP)."""
    body: bytes = b""
    date: int = 0
    """UNIX seconds of the `Date` header, by the server's (maybe wrong) clock."""
    delay_s: float = 0.0
    """Seconds between the arrival of the request and this answer."""
    cut: int = 0
    """For TRUNCATED: how many bytes of the body are sent."""


def success_body(request_id: str | None, data: Mapping[str, Any] | None = None) -> bytes:
    """Return `{"Response": {…, "RequestId"}}`; without the id for a server that leaves it out. Any: JSON."""
    if not data:
        return b'{"Response":{}}' if request_id is None else f'{{"Response":{{"RequestId":"{request_id}"}}}}'.encode()
    response = dict(data) if request_id is None else {**data, "RequestId": request_id}
    return msgspec.json.encode({"Response": response})


def error_body(refusal: Refusal, request_id: str | None) -> bytes:
    """Return `{"Response": {"Error": {"Code", "Message"}, "RequestId"}}`."""
    message = refusal.message.encode("utf-8", "replace").decode()  # it may quote surrogates that a client sent
    response: dict[str, object] = {"Error": {"Code": refusal.code, "Message": message}}
    if request_id is not None:
        response["RequestId"] = request_id
    return msgspec.json.encode({"Response": response})


def read_parameters(method: str, query: str, content_type: str, body: bytes) -> dict[str, Any] | Refusal:
    """Return the business parameters of a request: from the JSON body of a POST, the query string of a GET.

    Any: JSON values of any kind; `catalog.check_parameters` judges them.
    """
    media = content_type.partition(";")[0].strip().lower()
    if method == "GET":
        return _unflatten(parse_qsl(query, keep_blank_values=True))
    if media != "application/json":
        return Refusal("InvalidRequest", f"Content-Type `{media}` is not supported; use `application/json`.")
    try:
        parameters = msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return Refusal("InvalidParameter", "The request body is not valid JSON.")
    if not isinstance(parameters, dict):
        return Refusal("InvalidParameter", "The request body is not a JSON object.")
    return parameters


def misdirected(headers: Mapping[str, str], hosts: Collection[str], now: float) -> WireAnswer | None:
    """Return HTTP 421 for a request whose Host header names another server than the one that it reached; else None.

    It shows a sender that signs for one access region and posts to another.
    """
    host = next((value for name, value in headers.items() if name.lower() == "host"), "")
    if host.lower() in hosts:
        return None
    body = f"421 Misdirected Request: Host is {host!r}, this is {min(hosts)!r}\n".encode()
    return WireAnswer(status=421, content_type="text/plain", body=body, date=int(now))


_INDEX = re.compile(r"\d{1,3}", re.ASCII)


def _unflatten(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Return parameters from the notation of GET requests: `Filters.0.Name=x` → `{"Filters": [{"Name": "x"}]}`."""
    tree: dict[str, Any] = {}
    for key, value in pairs:
        *path, last = key.split(".")
        node = tree
        for part in path[:8]:
            child = node.setdefault(part, {})
            if not isinstance(child, dict):
                child = node[part] = {}
            node = child
        node[last] = value
    return {key: _listed(value) for key, value in tree.items()}


def _listed(value: Any) -> Any:
    """Return a value in which each mapping whose keys are all indexes has become a list."""
    if not isinstance(value, dict):
        return value
    if value and all(_INDEX.fullmatch(key) for key in value):
        return [_listed(value[key]) for key in sorted(value, key=int)]
    return {key: _listed(child) for key, child in value.items()}
