"""Find what would stop a run, before the run: keys, permission, clock, places, guards."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from engine import __version__
from engine.api.codes import NO_SUCH_KEY, row_of
from engine.api.verdicts import Cure, rule
from engine.cloud.identity import Unidentified, identify
from engine.cloud.wire import Wire
from engine.credentials import KeySource, KeySpec, open_keys
from engine.credentials.source import FetchedKeys
from engine.errors import AcctopsError, Reason
from engine.inputs.files import load_job
from engine.model import AccountSpec, Stage, Verdict
from engine.operations.frozen import check_metrics
from engine.operations.reach import key_specs, network_of, ways_of
from engine.operations.stores import store_of
from engine.planning.policy import places_of, smallest_policy
from engine.report.spans import duration

if TYPE_CHECKING:
    from engine.api.verdicts import Ruling
    from engine.cloud.client import Client
    from engine.credentials.network import Network
    from engine.inputs.job import Job
    from engine.inputs.settings import Settings
    from engine.model import Answer
    from engine.operations.terms import Terms

CLOCK_WARN_S = 60.0
CLOCK_FAIL_S = 300.0
"""A signature is refused beyond five minutes (SIG-DOC)."""
_REGION = "ap-guangzhou"


class Check(Struct, frozen=True):
    """One thing that was checked."""

    name: str
    result: str
    """ok, warn or fail."""
    words: str


class Examined(Struct, frozen=True, kw_only=True):
    """The result of all checks."""

    checks: tuple[Check, ...]
    policies: dict[str, Any]
    """Account → the least that CAM must allow, as JSON (Any); only where that is needed or was asked for."""
    reason: Reason
    job: Job | None

    @property
    def policy(self) -> Any:
        """The policies by account if the job names accounts, else the one policy; None without any. Any: JSON."""
        several = self.job is not None and self.job.accounts
        return (self.policies if several else self.policies.get("")) or None


async def examine(terms: Terms, job_path: str | None, *, policy: bool = False) -> Examined:
    """Check what a run of the job, or of any job here, needs; with `policy` always return what CAM must allow."""
    checks: list[Check] = []
    job: Job | None = None
    if job_path is not None:
        job = load_job(job_path)
        matches = f" and {len(job.matches)} to be found by match" if job.matches else ""
        checks.append(Check("job", "ok", f"{job_path}: {job.action}, {len(job.targets):,} targets{matches}"))
        checks += _hold(job, terms.clock())
        checks += [*_waves(job), *_passwords(job)]
    settings = terms.settings(job)
    checks += [Check("config", "warn", warning) for warning in (*settings.warnings, *(job.warnings if job else ()))]
    checks.append(_guards(settings))
    checks += _logins(settings, job) if job is not None else ()
    checks += _database(settings)
    checks.append(_state_dir(settings))
    checks += _approvals(settings, terms.clock())
    checks += _seal(settings)
    checks += _notify(settings)
    checks += _metrics(settings)
    checks += (network := _network(settings))
    seen = {}
    if all(check.result == "ok" for check in network):
        seen = await _ask_around(settings, job, checks)
    failed = any(check.result == "fail" for check in checks)
    lets_in = not any(each.refused or each.denied for each in seen.values())
    reason = Reason.OK if not failed else Reason.INCOMPLETE if lets_in else Reason.DENIED
    needed = _policies(job, seen, asked=policy) if job is not None else {}
    return Examined(checks=tuple(checks), policies=needed, reason=reason, job=job)


def _policies(job: Job, seen: dict[str, _Seen], *, asked: bool) -> dict[str, Any]:
    """Return by account what CAM must allow: if it denies something or may deny the write; for each one if `asked`.

    Any: JSON.
    """
    return {
        account: smallest_policy(job.action, places, uin=of.uin)
        for account, of in seen.items()
        if (asked or of.denied or of.untried) and (places := places_of(job, account))
    }


class _Seen(Struct):
    """What the checks have shown of an account."""

    account: str
    refused: bool = False
    """Whether there are no keys, or the API does not accept them."""
    denied: bool = False
    """Whether the keys are accepted, but CAM does not let them do what a run does."""
    untried: bool = False
    """Whether the keys may read, and only sending would tell whether they may do what the job does."""
    uin: str = ""

    def joined(self, other: _Seen | None) -> _Seen:
        """Return this together with what other keys of the account have shown."""
        if other is None:
            return self
        refused, denied = self.refused or other.refused, self.denied or other.denied
        return _Seen(self.account, refused, denied, self.untried or other.untried, self.uin or other.uin)


async def _ask_around(settings: Settings, job: Job | None, checks: list[Check]) -> dict[str, _Seen]:
    """Check the keys of each profile of each account: whose they are, and what they may do; return that by account."""
    regions = list((job.regions if job is not None else ()) or (_REGION,))
    network = network_of(settings, settings.access(regions), Wire())
    accounts = job.accounts if job is not None else ()
    every = accounts or (AccountSpec(name="", profiles=settings.profiles),)
    found: dict[str, _Seen] = {}
    for account, spec in ((of, each) for of in every for each in key_specs(of)):
        seen, of_these = _Seen(account.name), list[Check]()
        keys = await _credentials(settings, spec, network, of_these, seen)
        if keys is not None:
            of_these.append(await _identity(network, keys, seen))
            await _endpoints(settings, keys, job, regions, of_these, seen)
        whose = f"{account.name}: " if account.name else ""
        checks += [Check(check.name, check.result, f"{whose}{check.words}") for check in of_these]
        found[account.name] = seen.joined(found.get(account.name))
    return found


async def _credentials(
    settings: Settings, spec: KeySpec, network: Network, checks: list[Check], seen: _Seen
) -> KeySource | None:
    try:
        keys, warnings = await open_keys(spec, os.environ, ways=ways_of(settings), network=network, purpose="doctor")
    except AcctopsError as error:
        seen.refused = True
        checks.append(Check("credentials", "fail", str(error)))
        return None
    words = f"{keys.label}, key {keys.get().fingerprint}, {_until(keys, time.time())}"
    checks.append(Check("credentials", "ok", words))
    checks += [Check("credentials", "warn", warning) for warning in warnings]
    return keys


def _until(keys: KeySource, now: float) -> str:
    """Return until when the keys are valid, and what happens then."""
    if keys.expires_at is None:
        temporary = "temporary, their end is not known" if keys.get().token else "no end"
        return temporary if keys.refreshable else f"{temporary}; cannot be renewed in a run that goes on"
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(keys.expires_at))
    then = "renewed before" if isinstance(keys, FetchedKeys) else "as its file has it, which is read again"
    return f"until {at} (in {duration(keys.expires_at - now)}), {then}"


async def _identity(network: Network, keys: KeySource, seen: _Seen) -> Check:
    found = await identify(network, keys.get())
    if isinstance(found, Unidentified):
        return Check("identity", "warn", f"not known: {found.why}")
    seen.uin = found.uin
    return Check("identity", "ok", found.words)


def _guards(settings: Settings) -> Check:
    if settings.protect:
        return Check("guards", "ok", "; ".join(settings.guards))
    return Check("guards", "warn", "; ".join(settings.guards) or "no protect rules (waived by the job)")


def _hold(job: Job, now: float) -> list[Check]:
    """Check whether a run that begins now could have the end of its hold that the job asks for."""
    if job.hold is None:
        return []
    from engine.report.afterwards import end_problem, hold_words

    problem = end_problem(job.hold, now)
    return [Check("hold", "ok" if problem is None else "fail", problem or hold_words(job.hold, now))]


def _passwords(job: Job) -> list[Check]:
    """Check whether the program that gives new passwords can be started; it is not asked for any."""
    if job.passwords is None or not job.passwords.command:
        return []
    from engine.operations.gates import gate_problem
    from engine.outside.programs import program_path

    program = program_path(job.passwords.command[0], job.path)
    bad = gate_problem(program, "passwords.command")
    return [Check("passwords", "fail", bad) if bad else Check("passwords", "ok", f"{program} can be started")]


def _waves(job: Job) -> list[Check]:
    """Check whether the job's targets fit into its waves, and whether its gate can be started."""
    if job.waves is None:
        return []
    from engine.operations.gates import gate_problem
    from engine.outside.programs import program_path
    from engine.planning.waves import problem
    from engine.report.waves import plan_lines

    count = len({(each.account, each.region, each.instance, each.user) for each in job.targets})
    why = problem(job.waves, min(count, job.take or count)) if not job.matches else None
    first = next(iter(plan_lines(job.waves, count)), "")
    words = f"{len(job.waves.waves):,}, {first} …" if not job.matches else f"{len(job.waves.waves):,}"
    checks = [Check("waves", "ok" if why is None else "fail", why or words)]
    if (gate := job.waves.gate) is not None:
        program = program_path(gate.command[0], job.path)
        bad = gate_problem(program)
        checks.append(Check("gate", "fail", bad) if bad else Check("gate", "ok", f"{program} can be started"))
    return checks


def _logins(settings: Settings, job: Job) -> list[Check]:
    """Check whether the login of the operator, or of the gate, is an account that the job may act on."""
    from engine.operations.gates import logins_of

    found = []
    for name, whose in logins_of(job, os.environ).items():
        named = [target for target in job.targets if target.user.lower() == name.lower()]
        bare = [each for each in named if not any(glob.matches(each.instance, each.user) for glob in settings.protect)]
        may_be = bool(job.matches) and not any(glob.matches("postgres-00000000", name) for glob in settings.protect)
        if bare or may_be:
            which = f"{bare[0].label} is among the targets" if bare else "a match may find it"
            what = f'{name} is {whose}, {which}, and no rule protects it: protect: ["*/{name}"]'
            found.append(Check("logins", "warn", what))
    return found


def _notify(settings: Settings) -> list[Check]:
    """Check whether a notice could be delivered, as far as that shows without sending one."""
    if settings.notify is None:
        return []
    from engine.report.notify import problems

    found = problems(settings.notify, os.environ)
    ways = " and ".join(settings.notify.ways)
    ready = Check("notify", "ok", f"{ways}, on {', '.join(settings.notify.on)} ({settings.origin['notify']})")
    return [Check("notify", "fail", f"{words} ({settings.origin['notify']})") for words in found] or [ready]


def _approvals(settings: Settings, now: float) -> list[Check]:
    """Check whether anybody could approve a plan, and whether who runs this could decide who may."""
    rules = settings.approvals
    if rules is None:
        return []
    from engine.operations.permits import signers_of
    from engine.outside.sshkeys import SshKeyError, keys_in

    try:
        signers = signers_of(rules)
        every = [set(keys_in(each, now)) for each in signers]
    except (AcctopsError, SshKeyError) as error:
        return [Check("approvals", "fail", str(error))]
    warned = [Check("approvals", "warn", doubt) for each in signers for doubt in each.doubts]
    count = len(set.intersection(*every))
    files = " and ".join(rules.signers)
    if count < rules.keys:
        words = f"{rules.words}, and {files} {'have' if len(signers) > 1 else 'has'} {count} that count today: nobody"
        return [*warned, Check("approvals", "fail", f"{words} can pass this gate; add the keys of further people")]
    return [*warned, Check("approvals", "ok", f"{rules.words}; {count} of {files} count today")]


def _seal(settings: Settings) -> list[Check]:
    """Check whether the end of a run could be sealed now: the key signs, and its file of signers names it."""
    spec = settings.seal
    if spec is None:
        return []
    from engine.outside.sshkeys import SEALS, SshKeyError, fingerprint_of, keys_in, read_signers, sign_alone

    found = []
    if spec.key is not None:
        try:
            sign_alone(b"a trial", Path(spec.key), SEALS)
            fingerprint = fingerprint_of(Path(spec.key))
            found.append(Check("seal", "ok", f"{spec.key} signs ({fingerprint})"))
            if spec.signers is not None:
                signers = read_signers(Path(spec.signers), of_others=False)
                if fingerprint not in keys_in(signers, time.time(), SEALS):
                    words = f"{spec.signers} does not name that key, so what it signs counts for nothing"
                    found.append(Check("seal", "fail", words))
        except SshKeyError as error:
            found.append(Check("seal", "fail", str(error)))
    if spec.tsa and shutil.which("openssl") is None:
        found.append(Check("seal", "fail", "openssl is not here: it asks for time stamps; install openssl"))
    elif spec.tsa and spec.tsa_ca is None:
        words = "seal.tsa_ca names no certificates, so nobody here vouches for a time stamp"
        found.append(Check("seal", "warn", words))
    elif spec.tsa_ca is not None and not Path(spec.tsa_ca).is_file():
        found.append(Check("seal", "fail", f"{spec.tsa_ca}: no such file of certificates"))
    return found


def _metrics(settings: Settings) -> list[Check]:
    path = settings.metrics_file
    if path is None:
        return []
    try:
        check_metrics(settings)
    except AcctopsError as error:
        return [Check("metrics", "fail", str(error))]
    if not os.access(path.parent, os.W_OK | os.X_OK):
        return [
            Check(
                "metrics",
                "warn",
                f"{path.parent} is no directory that can be written ({settings.origin['metrics_file']})",
            )
        ]
    return [Check("metrics", "ok", f"{path}, every 10 s and at the end of a run")]


def _network(settings: Settings) -> list[Check]:
    """Check whether the proxy and the certificates can be used, if any are set."""
    way, origin = settings.way_out, settings.origin
    if not way.origin:
        return []
    try:
        way.check()
    except AcctopsError as error:
        return [Check("network", "fail", f"{error}; nothing was asked")]
    words = []
    if way.proxy:
        past = f", past it to {', '.join(way.no_proxy)} ({origin['no_proxy']})" if way.no_proxy else ""
        words.append(f"through the proxy {way.proxy_shown} ({origin['proxy']}){past}")
    if way.ca_bundle:
        words.append(f"trusting {way.ca_bundle} ({origin['ca_bundle']})")
    return [Check("network", "ok", "; ".join(words) or "no proxy")]


def _database(settings: Settings) -> list[Check]:
    """Check the database that has the runs, if one has them, and try to write there."""
    if settings.database is None:
        return []
    from engine.operations.databases import findings  # here: most have none

    checks = [Check("database", result, words) for result, words in findings(settings.database, settings.state_dir)]
    if any(check.result == "fail" for check in checks):
        return checks
    try:
        store_of(settings, simulated=False).try_out()
    except AcctopsError as error:
        checks.append(Check("database", "fail", str(error)))
    return checks


def _state_dir(settings: Settings) -> Check:
    try:
        store_of(replace(settings, database=None), simulated=False).try_out()
    except OSError as error:
        return Check("state dir", "fail", f"{settings.state_dir}: {error.strerror}; free space, or pass --state-dir")
    except AcctopsError as error:
        return Check("state dir", "fail", str(error))
    return Check("state dir", "ok", f"{settings.state_dir} can be written")


async def _endpoints(
    settings: Settings, keys: KeySource, job: Job | None, regions: list[str], checks: list[Check], seen: _Seen
) -> None:
    """Send harmless reads: DescribeDBInstances, one row, by every endpoint; of a job one instance of each region."""
    from engine.cloud.client import Client

    wire = Wire()
    transport = wire.transport(settings.way_out, 4)
    try:
        for endpoint in settings.access(regions).every:
            client = Client(
                transport,
                keys,
                endpoint,
                timeout_s=settings.timeout_s,
                request_client=f"acctops_{__version__};doctor",
                language=settings.language,
            )
            answer, ruling, ms = await _read(client, "DescribeDBInstances", regions[0], {"Limit": 1}, checks)
            seen.refused = seen.refused or row_of(answer.code).is_refusal
            seen.denied = seen.denied or row_of(answer.code).is_denial
            if ruling.verdict is not Verdict.DONE:
                checks.append(Check("endpoint", "fail", _why(endpoint, answer, ruling, settings.site)))
                continue
            checks.append(Check("endpoint", "ok", f"{endpoint} answers and takes the keys ({ms} ms)"))
        if job is not None and not seen.refused:
            await _permission(client, job, checks, seen)
    finally:
        await wire.aclose()


async def _permission(client: Client, job: Job, checks: list[Check], seen: _Seen) -> None:
    """Check whether the job's instances may be read; a write cannot be tried without doing it."""
    targets = [target for target in job.targets if target.account == seen.account]
    for region, target in {target.region: target for target in reversed(targets)}.items():
        parameters = {"DBInstanceId": target.instance, "Limit": 1}
        answer, ruling, _ = await _read(client, "DescribeAccounts", region, parameters, [])
        where = f"accounts of {target.instance} in {region}"
        if ruling.verdict is Verdict.DONE:
            checks.append(Check("permission", "ok", f"{where} may be read"))
            continue
        seen.denied = seen.denied or row_of(answer.code).is_denial
        result = "fail" if row_of(answer.code).is_denial else "warn"
        checks.append(Check("permission", result, f"{where}: {_words(answer, ruling)}"))
    if seen.denied:
        return  # the policy shows what is missing
    seen.untried = True
    words = f"whether CAM allows {job.action} cannot be tried without sending it: compare the policy below"
    checks.append(Check("permission", "warn", words))


async def _read(
    client: Client, action: str, region: str, parameters: dict[str, object], checks: list[Check]
) -> tuple[Answer, Ruling, int]:
    """Send one read, and again once the clock is learnt, as a run does; return its answer, ruling and time in ms."""
    keys = client.keys.get()
    attempt = await client.attempt(action, region, parameters, keys=keys, trace=str(uuid.uuid4()))
    ruling = rule(action, attempt.answer)
    checks += _clock(attempt.date, attempt.sent_at)
    if ruling.cure is Cure.CLOCK and attempt.date is not None:
        client.learn_clock(attempt.date)
        attempt = await client.attempt(action, region, parameters, keys=keys, trace=str(uuid.uuid4()))
        ruling = rule(action, attempt.answer)
    return attempt.answer, ruling, attempt.ms


def _why(endpoint: str, answer: Answer, ruling: Ruling, site: str) -> str:
    if answer.stage is Stage.BEFORE_SEND:
        cure = "look at the address, DNS, firewall and proxy of this host"
        return f"cannot be reached: {answer.message} [{answer.code}]; {cure}"
    hint = ""
    if answer.code == NO_SUCH_KEY:
        other = "mainland" if site == "international" else "international"
        hint = f"; this is the {site} site: if the keys are of the other, say `site: {other}` in config.yaml"
    return f"{endpoint}: {_words(answer, ruling)}{hint}"


def _words(answer: Answer, ruling: Ruling) -> str:
    request = f" (RequestId {answer.request_id})" if answer.request_id else ""
    advice = ruling.advice.partition(", then: ")[0]  # there is no run to go on with
    return f"{ruling.words} [{answer.code}]{request}; {advice}"


def _clock(date: float | None, here: float) -> list[Check]:
    if date is None:
        return []
    gap = here - date
    words = f"{abs(gap):.0f} s {'ahead of' if gap > 0 else 'behind'} the server's"
    if abs(gap) < CLOCK_WARN_S:
        return [Check("clock", "ok", f"within {CLOCK_WARN_S:.0f} s of the server's")]
    if abs(gap) < CLOCK_FAIL_S:
        return [Check("clock", "warn", f"{words}; signatures fail from 300 s on: set it by NTP")]
    return [Check("clock", "warn", f"{words}: a run learns the difference from the server, yet set it by NTP")]
