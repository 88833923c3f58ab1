"""No I/O, no clock (`now` is an argument, randomness is seeded). The world: one request in, one answer out.

A request passes the gate (key, signature, action, quota), then the fault script, then region and parameters, then the
instance and the account. A request that the gate refuses uses up no fault of the script but a wrong clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from random import Random
from typing import Any

from msgspec import Struct

from engine.simulator import DEMO_SECRET_ID, DEMO_SECRET_KEY, catalog, listings, sts
from engine.simulator.estate import AT_ONCE, NORMAL, ORIGIN, Account, Estate, Instance, Repeat, Timing
from engine.simulator.faults import Effect, FaultRule, FaultScript, Shot
from engine.simulator.fleet import Fleet, FleetInstance
from engine.simulator.gate import Gate, KeyRecord, Request
from engine.simulator.quotas import Window, WorstSecond
from engine.simulator.sts import Caller, Issuer, Role
from engine.simulator.wire import Refusal, WireAnswer, WireKind, error_body, read_parameters, success_body

_DEMO_KEYS = {DEMO_SECRET_ID: KeyRecord(secret_key=DEMO_SECRET_KEY, identity="demo")}


class Arrival(Struct, frozen=True, gc=False):
    """One request as the server saw it: tests compare a journal with it."""

    at: float
    access: str
    identity: str
    """Empty when the key was not accepted."""
    action: str
    region: str
    instance: str
    user: str
    trace: str
    """X-TC-TraceId."""
    request_id: str | None
    """RequestId of the answer; None if no answer carried one."""
    code: str | None
    """Error code of the API, or of the script in its place; None is success. It is kept even if no answer was sent."""
    applied: bool
    """Whether a write was carried out or will be after its delay, even if the account was so already."""
    fault: str | None
    """The effect of the script that struck; None if none did."""


class World:
    """Accounts, keys, quotas and faults. It is not thread-safe: one event loop, or one test, owns it."""

    def __init__(
        self,
        *,
        fleet: Fleet | None = None,
        faults: Sequence[FaultRule] = (),
        keys: Mapping[str, KeyRecord] | None = None,
        quota_window: Window | str = Window.CALENDAR,
        quotas: Mapping[str, int | None] | None = None,
        seed: int = 0,
        latency: float = 0.0,
        jitter: float = 0.0,
        repeat: Repeat | str = Repeat.SUCCESS,
        refuse_long_names: bool = False,
        audit: int | None = 100_000,
        roles: Sequence[Role] = (),
        metadata_role: Role | None = None,
    ) -> None:
        """Make a world of a fleet, or (None) an open world, in which every well-formed instance and account exists.

        keys: accepted keys by secret id; None is the documented demo pair.
        quotas: requests a second by action, or for `"*"`; None lifts the limit. Other actions have the documented ones.
        latency: seconds from arrival to answer. jitter: an arrival is late by up to so many seconds.
        repeat: the answer to locking a locked account. refuse_long_names: see `catalog.name_refusal`.
        audit: how many of the latest arrivals `audit` keeps; None keeps all, 0 none.
        roles: the roles that AssumeRole knows. metadata_role: the role of the instance of this metadata service.
        """
        self.audit: deque[Arrival] = deque(maxlen=audit)
        self._gate = Gate(keys=_DEMO_KEYS if keys is None else keys, window=Window(quota_window), quotas=quotas or {})
        self._estate = Estate(is_open=fleet is None, repeat=Repeat(repeat), refuse_long_names=refuse_long_names)
        for member in fleet or ():
            self._estate.add(_instance_of(member))
        self._rng = Random(f"{seed}/world")
        self._issuer = Issuer(self._gate.keys, tuple(roles), metadata_role, Random(f"{seed}/keys"))
        self._faults = FaultScript(faults, Random(f"{seed}/faults"))
        self._worst: dict[tuple[str, str], WorstSecond] = {}
        self._latency_s, self._jitter_s = latency, jitter

    @property
    def keys(self) -> dict[str, KeyRecord]:
        """Accepted keys by secret id; callers may change them between requests, to rotate or withdraw a key."""
        return self._gate.keys

    @property
    def roles(self) -> dict[str, Role]:
        """Roles by ARN; callers may change them between requests."""
        return self._issuer.roles

    def gate(self, wave: int) -> str:
        """Return what the gate of a wave says, by the fault script: green, red or silent."""
        return self._faults.gate(wave)

    def seed(
        self,
        instance: str,
        region: str,
        users: Iterable[str] = (),
        *,
        status: int = NORMAL,
        cam: bool | None = False,
        user_type: str = "normal",
        whole: bool = True,
        uin: str = "",
    ) -> None:
        """Let these accounts exist from the start, so that they are listed before a write names them.

        `whole`: whether they are all accounts of a new instance; otherwise its listing says that there are more. `uin`:
        the main account that owns a new instance. Instances and accounts that exist stay as they are.

        Accounts that are not seeded are listed in an open world only once a write has named them.
        """
        known = self._estate.instances.get(instance)
        if known is None:
            known = Instance(instance, region, sts.owner(uin), is_whole=whole)
            self._estate.add(known)
        if known.region != region:
            raise ValueError(f"{instance} is in {known.region}, not in {region}")
        for user in users:
            if user not in known.accounts:
                known.accounts[user] = Account(user, status=status, cam=cam, user_type=user_type)

    def instance(self, instance: str) -> Instance | None:
        """Return the instance itself, or None; callers may change it, to take it out of `running` for a while."""
        return self._estate.instances.get(instance)

    def account(self, instance: str, user: str, now: float | None = None) -> Account | None:
        """Return the account itself, or None; with `now`, apply the effects that are due by then first."""
        known = self._estate.instances.get(instance)
        account = known.accounts.get(user) if known is not None else None
        if account is not None and now is not None:
            account.settle(now)
        return account

    def worst_second(self, action: str, access: str) -> int:
        """Return the most arrivals of an action at an access region in any second so far, refused ones included."""
        worst = self._worst.get((action, access))
        return worst.most if worst is not None else 0

    def draw_travel_s(self) -> float:
        """Return the seconds that the next request travels; the transport waits for these, then calls `handle`."""
        return self._rng.uniform(0.0, self._jitter_s) if self._jitter_s > 0 else 0.0

    def handle(
        self, *, method: str, query: str, headers: Mapping[str, str], body: bytes, access: str, now: float
    ) -> WireAnswer:
        """Answer a request that arrives at `now` at the API server `access` (`host:port`)."""
        lowered = {name.lower(): value for name, value in headers.items()}
        parameters = read_parameters(method, query, lowered.get("content-type", ""), body)
        shot = _shot(lowered, parameters)
        clock = now + self._faults.clock_shift_s(shot, now)
        request = Request(method, query, lowered, body, access, clock)
        self._count(shot.action, access, now)
        caller: Caller | Refusal = (
            Refusal("AuthFailure.InvalidAuthorization", "A request header stands twice.")
            if len(lowered) != len(headers)
            else self._gate.authenticate(request, clock)
        )
        spec = caller if isinstance(caller, Refusal) else self._gate.admit(request, caller, now)
        rule: FaultRule | None = None
        result: dict[str, Any] | Refusal | None
        if isinstance(spec, Refusal):
            result, applied = spec, False
        else:
            assert not isinstance(caller, Refusal)
            rule = self._faults.pick(shot, now)
            result, applied = self._carry_out(spec, caller, request, parameters, rule, now)
        request_id = self._make_request_id()
        answer = self._answer(result, rule, request_id, int(clock))
        if self.audit.maxlen != 0:
            arrival = Arrival(
                at=now,
                access=access,
                identity="" if isinstance(caller, Refusal) else caller.identity,
                action=shot.action,
                region=shot.region,
                instance=shot.instance,
                user=shot.user,
                trace=lowered.get("x-tc-traceid", ""),
                request_id=request_id if _carries_id(rule) else None,
                code=result.code if isinstance(result, Refusal) else None,
                applied=applied,
                fault=_fault_name(rule),
            )
            self.audit.append(arrival)
        return answer

    def metadata(self, path: str, *, access: str, now: float) -> WireAnswer:
        """Answer a GET of the instance metadata service, which is plain HTTP and knows no keys."""
        shot = Shot(sts.METADATA_ACTION, "", "", "")
        rule = self._faults.pick(shot, now)
        said = self._issuer.metadata(path, now)
        if self.audit.maxlen != 0:
            arrival = Arrival(
                at=now,
                access=access,
                identity="",
                action=shot.action,
                region="",
                instance="",
                user="",
                trace="",
                request_id=None,
                code="404" if said is None else None,
                applied=False,
                fault=_fault_name(rule),
            )
            self.audit.append(arrival)
        answer = self._answer(None, rule, "", int(now))
        if answer.kind is not WireKind.ANSWER or (rule is not None and rule.effect is not Effect.NONE):
            return answer
        status, body = (404, b"404 - Not Found") if said is None else (200, said)
        return WireAnswer(status=status, content_type="text/plain", body=body, date=int(now), delay_s=answer.delay_s)

    def _count(self, action: str, access: str, now: float) -> None:
        worst = self._worst.get((action, access))
        if worst is None:
            worst = self._worst[action, access] = WorstSecond()
        worst.arrive(now)

    def _carry_out(
        self,
        spec: catalog.ActionSpec,
        caller: Caller,
        request: Request,
        parameters: dict[str, Any] | Refusal,
        rule: FaultRule | None,
        now: float,
    ) -> tuple[dict[str, Any] | Refusal | None, bool]:
        """Return what the API answers, and whether a write was applied. Any: JSON."""
        timing = AT_ONCE
        if rule is not None:
            timing = Timing(rule.apply, rule.effect_delay_s, rule.is_delay_shown)
        result: dict[str, Any] | Refusal | None = None
        applied = False
        if timing.apply or (rule is not None and rule.effect is Effect.ACCEPTED_NOT_APPLIED):
            result = self._backend(spec, caller, request, parameters, now, timing)
            applied = spec.is_write and timing.apply and not isinstance(result, Refusal)
        if rule is not None and rule.effect is Effect.CODE:
            result = catalog.refusal(rule.code, rule.message)
        return result, applied

    def _backend(
        self,
        spec: catalog.ActionSpec,
        caller: Caller,
        request: Request,
        parameters: dict[str, Any] | Refusal,
        now: float,
        timing: Timing,
    ) -> dict[str, Any] | Refusal | None:
        region = request.headers.get("x-tc-region", "")
        if spec.needs_region:
            refused = _region_refusal(region, request.access)
            if refused is not None:
                return refused
        if isinstance(parameters, Refusal):
            return parameters
        refused = catalog.check_parameters(spec, parameters, from_query=request.method == "GET")
        if refused is not None:
            return refused
        uin = sts.owner(caller.record.uin)
        if spec.is_write:
            return self._estate.write(spec, parameters, region, now, timing, uin)
        if spec.name in sts.ACTIONS:
            answer: dict[str, Any] | Refusal = self._issuer.answer(spec, parameters, caller, request.clock)
            return answer
        if spec.name == "DescribeAccounts":
            return listings.describe_accounts(self._estate, parameters, region, now, uin)
        if spec.name == "DescribeDBInstances":
            return listings.describe_instances(self._estate, parameters, region, uin)
        return listings.describe_regions()

    def _answer(
        self, result: dict[str, Any] | Refusal | None, rule: FaultRule | None, request_id: str, date: int
    ) -> WireAnswer:
        """Return the answer as it goes on the wire, after the script's effect on it."""
        shown_id = request_id if rule is None or rule.has_request_id else None
        body = error_body(result, shown_id) if isinstance(result, Refusal) else success_body(shown_id, result)
        delay_s = self._latency_s
        if rule is None:
            return WireAnswer(body=body, date=date, delay_s=delay_s)
        delay_s += rule.slow_s
        match rule.effect:
            case Effect.RESET_BEFORE | Effect.RESET_AFTER:
                return WireAnswer(kind=WireKind.RESET, delay_s=delay_s)
            case Effect.HANG:
                return WireAnswer(kind=WireKind.HANG)
            case Effect.TRUNCATED:
                kind = WireKind.TRUNCATED
                return WireAnswer(kind=kind, body=body, date=date, delay_s=delay_s, cut=len(body) // 2)
            case Effect.STATUS | Effect.HTML:
                media, page = _gateway_page(rule)
                return WireAnswer(status=rule.status, content_type=media, body=page, date=date, delay_s=delay_s)
            case Effect.GARBAGE:
                return WireAnswer(body=b'{"Response":' + self._rng.randbytes(64), date=date, delay_s=delay_s)
            case Effect.EMPTY:
                return WireAnswer(date=date, delay_s=delay_s)
            case Effect.NONE | Effect.CODE | Effect.ACCEPTED_NOT_APPLIED | Effect.WRONG_CLOCK | Effect.GATE:
                return WireAnswer(body=body, date=date, delay_s=delay_s)

    def _make_request_id(self) -> str:
        digits = f"{self._rng.getrandbits(128):032x}"
        return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


def _shot(headers: Mapping[str, str], parameters: dict[str, Any] | Refusal) -> Shot:
    """Return what the fault script and the audit see of a request, even of a malformed one."""
    instance: object = None
    user: object = None
    if not isinstance(parameters, Refusal):
        instance, user = parameters.get("DBInstanceId"), parameters.get("UserName")
    return Shot(
        headers.get("x-tc-action", ""),
        instance if isinstance(instance, str) else "",
        user if isinstance(user, str) else "",
        headers.get("x-tc-region", ""),
    )


def _region_refusal(region: str, access: str) -> Refusal | None:
    """Refuse a region that the product does not have; only their own domains serve the financial ones (CN-FSI)."""
    if not region:
        return Refusal("MissingParameter", "The request header `X-TC-Region` is missing.")
    host = access.rpartition(":")[0] or access
    is_isolated = region.endswith("-fsi") and host.endswith(".tencentcloudapi.com") and region not in host
    if region not in catalog.REGIONS or is_isolated:
        return Refusal("UnsupportedRegion", f"The region `{region}` is not supported.")
    return None


def _carries_id(rule: FaultRule | None) -> bool:
    return rule is None or (
        rule.has_request_id and rule.effect in (Effect.NONE, Effect.CODE, Effect.ACCEPTED_NOT_APPLIED)
    )


def _fault_name(rule: FaultRule | None) -> str | None:
    """Return the name of the rule's effect, or of its modifier if it has no effect."""
    if rule is None:
        return None
    if rule.effect is not Effect.NONE:
        return rule.effect.value
    if rule.effect_delay_s:
        return "effect_delay" if rule.is_delay_shown else "apply_after"
    return "slow" if rule.slow_s else "no_request_id"


def _gateway_page(rule: FaultRule) -> tuple[str, bytes]:
    """Return content type and body of an answer that is a gateway's, not the API's."""
    if rule.html or rule.effect is Effect.HTML:
        page = f"<html><head><title>{rule.status}</title></head><body><h1>{rule.status} gateway</h1></body></html>"
        return "text/html", page.encode()
    return "text/plain", f"{rule.status} from the gateway\n".encode()


def _instance_of(member: FleetInstance) -> Instance:
    """Return a fleet's instance as an instance of the world, which requests can change."""
    return Instance(
        member.id,
        member.region,
        sts.owner(member.uin),
        name=member.name,
        status=member.status,
        type=member.type,
        project=member.project,
        pay_mode=member.pay_mode,
        version=member.version,
        master=member.master,
        tags=member.tags,
        accounts={
            each.name: Account(
                each.name,
                status=each.status,
                cam=each.cam,
                user_type=each.user_type,
                create_time=None if each.by_sql else ORIGIN,
            )
            for each in member.accounts
        },
    )
