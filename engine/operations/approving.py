"""Use cases of a plan in a file: save it, sign it, and apply it once enough different keys have signed it.

A plan is saved with what was typed. It is applied by planning the same again, under the guards of that moment; of that
only the calls that were signed are sent.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from engine import __version__
from engine.cloud.clients import ask_whose, refuse_strangers
from engine.errors import ConfigError, CredentialsError, RefusedError, UsageError
from engine.inputs.files import STDIN_NAME, from_recorded, homes, load_job, read_list
from engine.journal.records import rfc3339
from engine.model import Omit, OmitReason, Outcome, Target
from engine.operations.events import Changed
from engine.operations.permits import permit_of, signers_of, used_words
from engine.operations.proposal import Planned
from engine.operations.stores import store_of
from engine.operations.terms import operator
from engine.outside.foreign import clean
from engine.outside.sshkeys import SshKeyError, check, check_by, sign
from engine.outside.trust import read_regular, replace_whole
from engine.planning.approvals import (
    FORMAT,
    MOST_PLAN,
    PlanError,
    PlanFile,
    PlannedCall,
    PlannedHold,
    SavedPlan,
    Signed,
    changed_setting,
    file_of,
    lacking_words,
    read_plan,
)
from engine.planning.plan import Plan, plan_digest

if TYPE_CHECKING:
    from engine.inputs.approvals import ApprovalRules
    from engine.journal.protocols import Runs
    from engine.model import Call
    from engine.operations.permits import Permit
    from engine.operations.proposal import Nothing, Proposal
    from engine.operations.terms import Terms

_BY_HAND = ("lock", "unlock", "cam-on")
"""Commands whose guards are those of the directory in which they were typed."""
WHOSE_S = 3.0
"""Seconds to learn whose the keys are: a signature is about one cloud account."""


class Request(Struct, frozen=True, kw_only=True):
    """What was typed to plan a run, so that it can be planned again."""

    verb: str
    """plan, rerun, undo, lock, unlock or cam-on."""
    said: dict[str, Any]
    """Its own arguments, by the names of the use case. Any: texts, switches and lists of texts."""


class _Said(Struct, frozen=True, forbid_unknown_fields=True):
    """The terms that say what a run does: a plan keeps them as typed."""

    endpoints: tuple[str, ...]
    profiles: tuple[str, ...]
    rate: str | None
    workers: str | None
    timeout: str | None
    deadline: str | None
    no_verify: bool
    skip_bad_rows: bool
    exclude: tuple[str, ...]
    expect: int | None
    reason: str | None
    ticket: str | None


def _said_of(terms: Terms) -> _Said:
    return _Said(*(getattr(terms, name) for name in _Said.__struct_fields__))


# ---- save ------------------------------------------------------------------------------------------------------------


async def to_save(planned: Planned, request: Request) -> PlanFile:
    """Return the file of what was planned, which nobody has signed yet.

    UsageError for what cannot be planned again; CredentialsError if nobody could say whose the keys are.
    """
    new = planned.proposal
    if new.terms.simulate:
        raise UsageError("a simulated run changes no account and needs no approval; leave --save away")
    if STDIN_NAME in new.job.path:
        raise UsageError("a plan that is saved is made again when it is applied, and standard input is gone then; "
                         "put the list into a file")  # fmt: skip
    await ask_whose(planned.reach, limit_s=WHOSE_S)
    plan = SavedPlan(
        v=FORMAT,
        version=__version__,
        state=planned.store.home().id,
        state_at=_real(planned.store),
        made_at=rfc3339(new.terms.clock()),
        by=operator(),
        host=os.uname().nodename,
        verb=request.verb,
        request={
            **request.said,
            "terms": {name: msgspec.to_builtins(getattr(new.terms, name)) for name in _Said.__struct_fields__},
        },
        asked=new.asked,
        job=new.job,
        action=new.plan.action,
        reason=new.reason,
        ticket=new.ticket,
        parent=new.parent.run_id if new.parent is not None else None,
        guarded_by=new.guarded_by,
        uins=_uins(planned),
        settings=new.frozen,
        hold=_hold(new),
        plan_digest=plan_digest(planned.calls),
        calls=tuple(PlannedCall(each.account, each.region, each.instance, each.user) for each in planned.calls),
        left_out=new.plan.left_out(),
    )
    return file_of(plan)


def _hold(new: Proposal) -> PlannedHold | None:
    hold = new.hold
    return PlannedHold(for_s=hold.for_s, until=hold.until, then=hold.then) if hold is not None else None


def _real(store: Runs) -> str:
    return str(store.state_dir.resolve()) if store.database is None else store.kept_in


def _uins(planned: Planned) -> dict[str, str]:
    """Return the cloud account of each account's keys; CredentialsError if that of one is not known."""
    found: dict[str, str] = {}
    for account, signers in planned.reach.keyring.items():
        uins = {signer.who.uin for signer in signers if signer.who is not None}
        if any(signer.has_keys and signer.who is None for signer in signers) or len(uins) > 1:
            raise CredentialsError(
                f"nobody could say to which cloud account the keys{f' of {account}' if account else ''} belong (STS, "
                "GetCallerIdentity), and an approval is for one; nothing was written; try again"
            )
        if uins:
            found[account] = uins.pop()
    return found


# ---- sign ------------------------------------------------------------------------------------------------------------


def load_plan(path: Path) -> PlanFile:
    """Return the plan in a file; UsageError if there is none."""
    try:
        data = read_regular(path, MOST_PLAN)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{path}: the plan cannot be read: {why}") from error
    try:
        return read_plan(data)
    except PlanError as error:
        raise UsageError(f"{path}: {error}") from error


def terms_beside(terms: Terms, path: Path, file: PlanFile) -> Terms:
    """Return the terms with the configs beside a plan, beside the job it names, and from the current directory."""
    home = Path(from_recorded(file.plan.guarded_by))
    try:
        beside = (home,) if home.is_dir() else homes(home)
        if not all(each.is_dir() for each in beside):
            raise FileNotFoundError(2, "its directory is not here, or cannot be read")
        for each in beside:
            os.listdir(each)  # noqa: PTH208 - whether it can be read
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"{clean(str(home), 1000)}: {why}; so nobody knows the guards beside the job that the plan names; nothing "
            f"was signed or sent; do it where the job is ({clean(file.plan.host, 100)})"
        ) from error
    places = (path.absolute().parent, *beside, Path.cwd())
    return replace(terms, beside=tuple(dict.fromkeys(Path(os.path.normpath(each.absolute())) for each in places)))


def signed_by(terms: Terms, file: PlanFile, key: Path) -> PlanFile:
    """Return the file with one statement more, signed with a key; RefusedError if that would not count.

    `terms` are those beside the plan: how long a signature counts, and which keys may sign, is said by its configs.
    """
    from engine.inputs.approvals import VALID_S

    rules = terms.settings(None).approvals
    now = terms.clock()
    statement = file.statement(now + (rules.valid_s if rules is not None else VALID_S))
    try:
        signature = sign(statement.text.encode(), key)
        fingerprint = check(statement.text.encode(), signature)
        for each in file.signed:
            if _fingerprint(each) == fingerprint:
                raise RefusedError(
                    f"refused: key {fingerprint} has signed this plan already, and one key counts once, whatever its "
                    "name; another person signs with another key"
                )
        if rules is not None:
            check_by(statement.text.encode(), signature, signers_of(rules), now)
    except SshKeyError as error:
        raise RefusedError(f"refused: {error}; nothing was written") from error
    return replace(file, signed=(*file.signed, Signed(statement.text, signature)))


def _fingerprint(signed: Signed) -> str | None:
    try:
        return check(signed.statement.encode(), signed.signature)
    except SshKeyError:
        return None  # it counts for nothing


def write_plan(path: Path, file: PlanFile, *, is_new: bool) -> None:
    """Write a plan to its file, whole or not at all; UsageError if that fails, or if a new one would replace a file."""
    try:
        if is_new and os.path.lexists(path):
            raise UsageError(f"{path}: is there already; name a new file, or remove that one")
        if not is_new:
            there = load_plan(path)
            if there.hash != file.hash:
                raise UsageError(f"{path}: was replaced by another plan meanwhile; look at it again")
            meanwhile = tuple(each for each in there.signed if each not in file.signed)
            file = replace(file, signed=(*file.signed, *meanwhile))
        replace_whole(path.resolve() if not is_new else path, file.data, 0o644)
    except OSError as error:
        copy = "" if is_new else "; copy it to where you may write, sign the copy, and give that back"
        raise UsageError(f"{path}: cannot be written: {error.strerror}{copy}") from error


def still_lacking(terms: Terms, file: PlanFile) -> str | None:
    """Return what is missing to an approval now, in words; None if nothing is. `terms` are those beside the plan."""
    from engine.operations.permits import prove

    rules = terms.settings(None).approvals
    if rules is None:
        return "no config found from here says who may sign (approvals.signers)"
    proven, others = prove(file, rules, terms.clock())
    return lacking_words(proven, rules, others)


def signed_words(terms: Terms, file: PlanFile) -> list[str]:
    """Return in words who has signed a plan, and until when; and why a signature does not count."""
    from engine.operations.permits import prove
    from engine.planning.approvals import read_statement

    rules = terms.settings(None).approvals
    if rules is None or not rules.signers:
        return [f"{len(file.signed)} so far; no config found from here says whose signatures count"]
    proven, others = prove(file, rules, terms.clock())
    ends = {each.fingerprint: read_statement(each.signed.statement).not_after for each in proven}
    return [*(f"{each.name} ({each.fingerprint}) until {ends[each.fingerprint][:19]}Z" for each in proven), *others]


# ---- apply -----------------------------------------------------------------------------------------------------------


async def to_apply(terms: Terms, path: Path) -> Planned:
    """Return what is open of an approved plan, ready to begin. RefusedError unless it may be applied, here and now."""
    file = load_plan(path)
    plan = file.plan
    if plan.version != __version__:
        raise RefusedError(
            f"refused: {path} was made by acctops {plan.version}, and this is {__version__}; nothing was sent; plan "
            "and approve anew"
        )
    terms = terms_beside(_as_asked(terms, plan), path, file)
    settings = terms.settings(None)
    permit = _permit(terms, file, settings.approvals)
    store = store_of(settings, simulated=False)
    home = store.home()
    if (home.id, _real(store)) != (plan.state, plan.state_at) or not home.is_here:
        there = f"{clean(plan.state_at, 1000)} on {clean(plan.host, 100)}"
        since = ", which was made anew or moved since" if plan.state_at == _real(store) else ""
        kind = "state directory" if store.database is None else "database"
        raise RefusedError(
            f"refused: {path} was made for another {kind} than {store.kept_in}, for {there}{since}, so "
            "nobody knows whether it was used; nothing was sent; apply it there (--state-dir DIR or --database URL), "
            "or plan and approve anew"
        )
    if (by := store.used_by(file.hash)) is not None:
        raise RefusedError(f"refused: {path}: {used_words(store, by, terms)}")
    planned = await _planned_again(terms, plan)
    if not isinstance(planned, Planned):
        raise RefusedError(f"refused: {planned.why}; nothing was sent")
    await _refuse_other_account(planned, plan)
    return _restricted(planned, permit)


def _permit(terms: Terms, file: PlanFile, rules: ApprovalRules | None) -> Permit:
    if rules is None:
        raise ConfigError(
            "no config found from here, beside the plan or beside its job says who may sign (approvals.signers), so "
            "nobody's signature counts; nothing was sent"
        )
    return permit_of(file, rules, terms.clock())


def _as_asked(terms: Terms, plan: SavedPlan) -> Terms:
    """Return the terms with those under which the plan was made; UsageError if the plan's are none."""
    try:
        said = msgspec.convert(plan.request.get("terms"), _Said)
    except msgspec.ValidationError as error:
        raise UsageError(f"the plan does not say how it was made: {error}") from error
    return replace(terms, **msgspec.structs.asdict(said), is_applying=True)


async def _planned_again(terms: Terms, plan: SavedPlan) -> Planned | Nothing:
    """Plan what was typed again, as things are now."""
    said = {name: value for name, value in plan.request.items() if name != "terms"}
    try:
        if plan.verb == "plan":
            from engine.operations.start import plan_new

            return await plan_new(terms, load_job(said["job"], skip_bad_rows=terms.skip_bad_rows))
        if plan.verb == "rerun":
            from engine.operations.rerun import plan_rerun

            return await plan_rerun(terms, said["run"], frozenset(map(Outcome, said["only"])), tuple(said["codes"]))
        if plan.verb == "undo":
            from engine.operations.undo import Selection, plan_undo

            return await plan_undo(terms, said["run"], msgspec.convert(said["chosen"], Selection))
        from engine.inputs.jobfile.adhoc import ad_hoc_job
        from engine.operations.start import plan_new

        job = ad_hoc_job(
            plan.action,
            tuple(said["targets"]),
            said["region"],
            read=read_list,
            skip_bad_rows=terms.skip_bad_rows,
            reason=terms.reason,
            ticket=terms.ticket,
            **{name: said[name] for name in ("for_", "until", "then", "watch")},
        )
        return await plan_new(terms, job)
    except (KeyError, TypeError, msgspec.ValidationError) as error:
        raise UsageError(f"the plan does not say what was typed: {error}") from error


async def _refuse_other_account(planned: Planned, plan: SavedPlan) -> None:
    """Raise AcctopsError unless the keys are of the cloud accounts that the plan is for."""
    await ask_whose(planned.reach, limit_s=WHOSE_S)
    refuse_strangers(planned.reach.keyring, plan.uins)
    if _uins(planned) != plan.uins:
        raise CredentialsError("the keys are not of the cloud accounts that the plan is for; nothing was sent")


def _restricted(planned: Planned, permit: Permit) -> Planned:
    """Return what was planned, of it only the calls that were signed, in their order, and as they were signed."""
    new, plan = planned.proposal, permit.file.plan
    _refuse_changed(new, plan)
    place = {call: at for at, call in enumerate(plan.ids)}
    calls = tuple(sorted((call for call in new.plan.calls if call.id in place), key=lambda call: place[call.id]))
    added = [call for call in new.plan.calls if call.id not in place]
    if added:
        count = len(added)
        words = f"{count:,} accounts that it means by now were not signed, and stay as they are"
        if count == 1:
            words = "1 account that it means by now was not signed, and stays as it is"
        new.terms.tell(Changed(f"{words}: {added[0].named}{' …' * (count > 1)}"))
    if (gone := len(plan.calls) - len(calls)) > 0:
        new.terms.tell(Changed(f"{gone:,} of the {len(plan.calls):,} that were signed are not open any more"))
    if not calls:
        raise RefusedError("refused: of what was signed nothing is open any more; nothing was sent")
    place_of_plan = f"plan {permit.file.hash[:12]}"
    omits = (
        *new.plan.omits,
        *(Omit(_target(call), OmitReason.EXCLUDED, "was not signed", place_of_plan) for call in added),
    )
    frozen = replace(new.frozen, keep_admins=max(new.frozen.keep_admins, plan.settings.keep_admins))
    new = replace(
        new,
        plan=Plan(action=plan.action, calls=calls, omits=omits, digest=plan_digest(calls)),
        frozen=frozen,
        guarded_by=plan.guarded_by,
        permit=permit,
        to_change=new.to_change if not added and not gone else None,
    )
    return replace(planned, proposal=new)


def _target(call: Call) -> Target:
    return Target(call.instance, call.user, call.region, call.account)


def _refuse_changed(new: Proposal, plan: SavedPlan) -> None:
    """Raise RefusedError if what would be done is not what was signed."""
    parent = new.parent.run_id if new.parent is not None else None
    what = None
    if (new.job.digest, new.job.name, new.job.path) != (plan.job.digest, plan.job.name, plan.job.path):
        what = f"{new.job.path} is no longer as it was"
    elif new.plan.action != plan.action or parent != plan.parent:
        what = "the action, or the run that it goes back to, is another one"
    elif (new.reason, new.ticket, new.asked) != (plan.reason, plan.ticket, plan.asked):
        what = "the reason, the ticket or a flag is another one"
    elif _hold(new) != plan.hold:
        what = "the end of its hold is another one"
    elif new.guarded_by != plan.guarded_by and plan.verb not in _BY_HAND:
        what = "the place of its guards is another one"
    elif (setting := changed_setting(plan, new.frozen)) is not None:
        what = f"{setting} is no longer as it was"
    if what is not None:
        raise RefusedError(f"refused: since it was signed, {what}; nothing was sent; plan and approve anew")


# ---- of a run that exists --------------------------------------------------------------------------------------------


def check_recorded(terms: Terms, run: str) -> tuple[str, ...]:
    """Return the fingerprints of the keys that signed the plan of a run, as its journal proves it by itself.

    JournalCorruptError for a signature that does not hold, or that is not about the plan of the journal. Whether a key
    may sign is said by files of signers, which may have changed since.
    """
    from engine.errors import JournalCorruptError
    from engine.operations.permits import recorded_problem
    from engine.operations.stores import find

    ref = find(terms, run)
    ledger = ref.replay().ledger
    if not ledger.approved:
        return ()
    problem = recorded_problem(ref, ledger)
    found: list[str] = []
    for each in ledger.approved:
        try:
            fingerprint = check(each.statement.encode(), each.signature)
        except SshKeyError as error:
            problem = problem or str(error)
            continue
        if fingerprint != each.fingerprint:
            problem = problem or f"key {fingerprint} signed what the journal says {each.fingerprint} did"
        found.append(fingerprint)
    if problem is not None:
        raise JournalCorruptError(f"{ref.place}: `approved`: {problem}")
    return tuple(dict.fromkeys(found))
