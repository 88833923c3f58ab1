"""No I/O, no clock. The checks before the backend: key, signature, token, action, version, quota.

Which check comes first is not documented. A limited request never reaches the backend (CN-RATE). A request with a wrong
signature belongs to no identity, and so counts against no quota (inferred).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from engine.simulator import catalog, sts, tc3
from engine.simulator.quotas import Lane, Window
from engine.simulator.sts import Caller, KeyRecord
from engine.simulator.wire import MAX_BODY, Refusal

__all__ = ["Gate", "KeyRecord", "Request"]


class Request(NamedTuple):
    """One request as it came off the wire."""

    method: str
    query: str
    headers: Mapping[str, str]
    """By lower-case name."""
    body: bytes
    access: str
    """`host:port` of the API server that it reached: the access region (CN-RATE)."""
    clock: float = 0.0
    """The server's (maybe wrong) clock when the request arrived, in UNIX seconds."""


class Gate:
    """The checks that a request passes before the backend: who sends it, and how often."""

    def __init__(self, *, keys: Mapping[str, KeyRecord], window: Window, quotas: Mapping[str, int | None]) -> None:
        self.keys = dict(keys)
        self._window = window
        self._quotas = dict(quotas)
        self._lanes: dict[tuple[str, str, str], Lane] = {}
        unknown = set(quotas) - set(catalog.ACTIONS) - set(sts.ACTIONS) - {"*"}
        if unknown:
            raise ValueError(f"quotas: unknown action {', '.join(sorted(unknown))}")

    def authenticate(self, request: Request, clock: float) -> Caller | Refusal:
        """Return whose key signed the request, or a refusal; `clock` is the server's (maybe wrong) clock."""
        if request.method not in ("GET", "POST"):
            return catalog.refusal("UnsupportedProtocol")
        if len(request.body) > MAX_BODY:
            return catalog.refusal("RequestSizeLimitExceeded")
        headers = request.headers
        for name in ("host", "content-type"):
            if name not in headers:
                return Refusal("AuthFailure.InvalidAuthorization", f"The request header `{name}` is missing.")
        is_sts = headers.get("x-tc-version") == sts.VERSION
        if is_sts and headers.get("x-tc-action") == sts.UNSIGNED and headers.get("authorization") == "SKIP":
            return sts.NOBODY
        claim = tc3.read_claim(headers, sts.SERVICE if is_sts else tc3.SERVICE)
        if isinstance(claim, Refusal):
            return claim
        record = self.keys.get(claim.secret_id)
        if record is None:
            return catalog.refusal("AuthFailure.SecretIdNotFound")
        refused = tc3.check_claim(
            claim,
            secret_key=record.secret_key,
            method=request.method,
            query=request.query,
            headers=headers,
            body=request.body,
            clock=clock,
        )
        if refused is not None:
            return refused
        is_over = record.expires_at is not None and clock >= record.expires_at
        if is_over or headers.get("x-tc-token") != record.token:
            return catalog.refusal("AuthFailure.TokenFailure")
        return Caller(claim.secret_id, record)

    def admit(self, request: Request, caller: Caller, now: float) -> catalog.ActionSpec | Refusal:
        """Return the requested action if it exists, the quota at this access region has room and CAM allows it."""
        headers = request.headers
        for name in ("X-TC-Action", "X-TC-Version"):
            if not headers.get(name.lower()):
                return Refusal("MissingParameter", f"The request header `{name}` is missing.")
        action, version = headers["x-tc-action"], headers["x-tc-version"]
        name = request.access.partition(".")[0] if request.access.endswith(".tencentcloudapi.com") else ""
        spec = None if name == sts.SERVICE else catalog.ACTIONS.get(action)
        if spec is None and name != tc3.SERVICE and version == sts.VERSION:
            spec = sts.ACTIONS.get(action)
        if spec is None:
            text = f"The action `{action}` does not exist, or not in the simulator."
            return Refusal("InvalidAction", text)
        if version != (sts.VERSION if action in sts.ACTIONS else catalog.VERSION):
            return catalog.refusal("NoSuchVersion")
        limit = self._quotas.get(spec.name, self._quotas.get("*", spec.quota))
        if limit is not None:
            throttled = self._throttle(limit, (caller.identity, spec.name, request.access), request, now)
            if throttled is not None:
                return throttled
        if spec.name in caller.record.denied:
            return catalog.refusal("AuthFailure.UnauthorizedOperation")
        return spec

    def _throttle(self, limit: int, scope: tuple[str, str, str], request: Request, now: float) -> Refusal | None:
        lane = self._lanes.get(scope)
        if lane is None:
            lane = self._lanes[scope] = Lane(self._window)
        count = lane.admit(now, limit)
        return None if count is None else _throttled(count, limit, request.headers.get("x-tc-language", ""))


def _throttled(count: int, limit: int, language: str) -> Refusal:
    """Return the refusal in a wording that users have quoted (CN-RATE): the count includes the refused request."""
    if language == "zh-CN":
        text = f"您当前每秒请求 `{count}` 次，超过了每秒频率上限 `{limit}`，请稍后重试。"
    else:
        text = (
            f"Your current request times equals to `{count}` in a second, which exceeds the frequency limit "
            f"`{limit}` for a second. Please reduce the frequency of calls."
        )
    return Refusal("RequestLimitExceeded", text)
