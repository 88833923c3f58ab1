"""Rules: no I/O, no clock. What stands before the backend: key, signature, token, action, version, quota.

Which check comes first is not documented. A limited request never reaches the backend (CN-RATE); one whose signature
is wrong belongs to no identity and so counts against no quota (inferred).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from engine.simulator import catalog, tc3
from engine.simulator.quotas import Lane, Window
from engine.simulator.wire import MAX_BODY, Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """An API key the world accepts."""

    secret_key: str
    token: str | None = None
    """Session token of a temporary key; must come with every request."""
    identity: str = ""
    """The sub-account that owns the key: keys of one identity share its quotas. Empty: the key is its own."""

    def __repr__(self) -> str:
        return f"KeyRecord(identity={self.identity!r}, …)"


class Request(NamedTuple):
    """One request as it came off the wire."""

    method: str
    query: str
    headers: Mapping[str, str]
    """Names lower-cased."""
    body: bytes
    access: str
    """`host:port` of the API server it reached: the access region (facts.md §4)."""


class Gate:
    """Who may pass, and how often."""

    def __init__(self, *, keys: Mapping[str, KeyRecord], window: Window, quotas: Mapping[str, int | None]) -> None:
        self.keys = dict(keys)
        self._window = window
        self._quotas = dict(quotas)
        self._lanes: dict[tuple[str, str, str], Lane] = {}
        unknown = set(quotas) - set(catalog.ACTIONS) - {"*"}
        if unknown:
            raise ValueError(f"quotas: unknown action {', '.join(sorted(unknown))}")

    def authenticate(self, request: Request, clock: float) -> str | Refusal:
        """The identity whose key signed the request, at the server's (maybe wrong) clock."""
        if request.method not in ("GET", "POST"):
            return catalog.refusal("UnsupportedProtocol")
        if len(request.body) > MAX_BODY:
            return catalog.refusal("RequestSizeLimitExceeded")
        headers = request.headers
        for name in ("host", "content-type"):
            if name not in headers:
                return Refusal("AuthFailure.InvalidAuthorization", f"The request header `{name}` is missing.")
        claim = tc3.read_claim(headers)
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
        if headers.get("x-tc-token") != record.token:
            return catalog.refusal("AuthFailure.TokenFailure")
        return record.identity or claim.secret_id

    def admit(self, request: Request, identity: str, now: float) -> catalog.ActionSpec | Refusal:
        """The action asked for, if it exists and the identity's quota at this access region has room for it."""
        headers = request.headers
        for name in ("X-TC-Action", "X-TC-Version"):
            if not headers.get(name.lower()):
                return Refusal("MissingParameter", f"The request header `{name}` is missing.")
        spec = catalog.ACTIONS.get(headers["x-tc-action"])
        if spec is None:
            text = f"The action `{headers['x-tc-action']}` does not exist, or not in the simulator."
            return Refusal("InvalidAction", text)
        if headers["x-tc-version"] != catalog.VERSION:
            return catalog.refusal("NoSuchVersion")
        limit = self._quotas.get(spec.name, self._quotas.get("*", spec.quota))
        if limit is None:
            return spec
        scope = (identity, spec.name, request.access)
        lane = self._lanes.get(scope)
        if lane is None:
            lane = self._lanes[scope] = Lane(self._window)
        count = lane.admit(now, limit)
        return spec if count is None else _throttled(count, limit, headers.get("x-tc-language", ""))


def _throttled(count: int, limit: int, language: str) -> Refusal:
    """The two wordings users have quoted (facts.md §4): the count includes the refused request itself."""
    if language == "zh-CN":
        text = f"您当前每秒请求 `{count}` 次，超过了每秒频率上限 `{limit}`，请稍后重试。"
    else:
        text = (
            f"Your current request times equals to `{count}` in a second, which exceeds the frequency limit "
            f"`{limit}` for a second. Please reduce the frequency of calls."
        )
    return Refusal("RequestLimitExceeded", text)
