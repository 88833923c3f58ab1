"""What holds for a run that goes on: guards of today, and how much of what its journal says is believed.

A journal names calls. Which program is run and where keys are sent must be said by today's command, job or config, too.
From the place where the run's job lies only guards are taken.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.api.endpoints import is_loopback, is_vendors, normal_endpoint
from engine.api.names import shown
from engine.errors import ConfigError, JobError, RefusedError, UsageError
from engine.inputs.config import mistrust
from engine.inputs.files import from_recorded, homes, homes_of, job_file, load_job
from engine.inputs.settings import with_guards
from engine.operations.events import Warned
from engine.operations.frozen import password_record, waves_record
from engine.operations.terms import refuse_strange
from engine.outside.foreign import pasted
from engine.outside.trust import Trust
from engine.planning.outlook import look_ahead
from engine.planning.plan import plan_again
from engine.planning.refusals import refusals

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from engine.cloud.clients import Reach
    from engine.inputs.config import Configs
    from engine.inputs.job import Glob, Job
    from engine.inputs.settings import Settings
    from engine.journal.ledger import Ledger
    from engine.journal.protocols import RunRef
    from engine.model import Call
    from engine.operations.events import Tell
    from engine.operations.terms import Terms

# ---- guards of today -----------------------------------------------------------------------------------------------


def guards_of(terms: Terms, ledger: Ledger, job: Job | None = None) -> Settings:
    """Return today's settings of this command, with the guards that lie where the run's job does.

    `job` is the job of this command, if it has one: its guards and limits hold, too. ConfigError if the file of the
    run's job is there and its guards cannot be known. If that file is gone, the user is told.
    """
    settings = terms.settings(job)
    home = guard_home(ledger)
    was_file = os.path.normpath(home) == os.path.normpath(from_recorded(ledger.run.job.path))
    own = _own_job(home, settings.trust, was_file=was_file, tell=terms.tell)
    configs = terms.configs(*(homes(home) if own is not None or not home.is_dir() else (home,)))
    for words in _not_taken(configs, terms.configs(*homes_of(job))):
        terms.tell(Warned(words))
    guarded = with_guards(settings, configs, own)
    for words in guarded.warnings:
        terms.tell(Warned(words))
    if own is None or job is not None:
        return guarded
    from msgspec.structs import replace

    return replace(guarded, notify=own.notify or guarded.notify)


def guard_home(ledger: Ledger) -> Path:
    """Return the job file, or the directory of a command without one, whose guards hold for what continues a run."""
    home = Path(from_recorded(ledger.run.guarded_by or ledger.run.job.path))
    return home if home.is_absolute() else Path.cwd()


def _own_job(home: Path, trust: Trust, *, was_file: bool, tell: Tell) -> Job | None:
    """Return the job of a run as its file says it today, without the lists; None without a file."""
    way_on = "mend it; or move it away, and the run is gone on with without the guards in it"
    try:
        mode = home.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as exc:
        if os.path.lexists(home):
            raise ConfigError(f"{home}: is a link that leads nowhere, so its guards cannot be known; {way_on}") from exc
        tell(Warned(f"guards of {home} are not asked: it is gone"))
        return None
    except OSError as exc:
        raise ConfigError(f"{home}: {exc.strerror}, so its guards cannot be known; {way_on}") from exc
    if stat.S_ISDIR(mode) and not was_file:
        return None
    if not stat.S_ISREG(mode):
        raise ConfigError(f"{home}: is no file any more, so its guards cannot be known; {way_on}")
    refuse_strange(str(home), home, trust)
    try:
        return load_job(home, skip_bad_rows=True, lists=False)
    except JobError as exc:
        raise ConfigError(f"{exc}\n{home}: its guards cannot be known; {way_on}") from exc


def _not_taken(found: Configs, known: Configs) -> Iterator[str]:
    """Yield what configs beside a run's job say besides guards: it is not taken from there."""
    taken = {config.path for config in known.files}
    for config in found.files:
        names = sorted({_DECIDING[name] for name in config.values if name in _DECIDING})
        if config.path not in taken and names:
            yield f"{config.path}: its guards hold; its {', '.join(names)} would hold with --config {config.path}"


_DECIDING: Mapping[str, str] = {
    **{name: name for name in ("site", "credentials", "notify", "metrics_file", "page_file")},
    **dict.fromkeys(("proxy", "no_proxy", "ca_bundle"), "network"),
}
"""Setting of a config, besides guards, that a run which goes on may need → its key in the file."""


async def refuse_beyond(
    terms: Terms,
    ledger: Ledger,
    guards: Settings,
    reach: Reach,
    exclude: Sequence[Glob],
    *,
    whole: bool,
) -> None:
    """Raise RefusedError if the guards on size refuse what a resume would do: the `whole` plan, or the open calls."""
    run = ledger.run
    entries = {call.id: entry for call, entry, _ in ledger.outcomes()}
    calls = [call for call in ledger.calls.values() if whole or not entries[call.id].settled]
    plan = plan_again(run.action, calls, protect=guards.protect, exclude=exclude)
    readings = {}
    max_share = None if run.simulated or not has_new_share(ledger, guards) else guards.max_share
    if max_share is not None and plan.calls:
        from engine.operations.survey import PLAN_S, survey  # here: most runs passed the share when they began

        timeout_s = ledger.settings.timeout_s
        read = await survey(plan.calls, reach=reach, timeout_s=timeout_s, world=None, limit_s=PLAN_S, purpose="plan")
        readings = read.readings
    why = refusals(look_ahead(plan, readings), max_targets=guards.max_targets, max_share=max_share, expect=terms.expect)
    if why:
        raise RefusedError(
            f"refused: {'; '.join(why)}; nothing was sent; this is run {run.run}, cut off or stopped before: a new run "
            "of its job is planned and asked anew (--on-unfinished new)"
        )


def has_new_share(ledger: Ledger, guards: Settings) -> bool:
    """Whether today's `max_share` is stricter than the one under which the run was planned."""
    before = ledger.settings.max_share
    return guards.max_share is not None and (before is None or guards.max_share < before)


# ---- what a journal says -------------------------------------------------------------------------------------------


def refuse_strange_run(ref: RunRef, trust: Trust) -> None:
    """Raise ConfigError for a run whose journal an untrusted user could have written."""
    doubt = ref.doubt(trust)
    if doubt is not None:
        raise ConfigError(mistrust(f"run {ref.run_id}", doubt, "begin anew with the job: acctops run JOB"))


def check_endpoint(terms: Terms, ledger: Ledger, job: Job | None = None) -> None:
    """Raise UsageError for an `--endpoint` that is not the run's, and for a foreign one of the run unnamed today.

    The names of the run's keys are checked as well.
    """
    used = ledger.settings.access
    settings = terms.settings(job)
    regions = {call.region for call in ledger.calls.values()}
    said = settings.access(regions) if terms.endpoints else used
    if (set(said.shared), said.own) != (set(used.shared), used.own):
        raise UsageError(
            f"--endpoint: the run used {', '.join(used.every)}, and what continues it must; leave the "
            "flag away, or make a new run of the job"
        )
    check_keys(ledger)
    if ledger.run.simulated:
        return
    named = set(settings.access(regions).every)
    for url in used.every:
        if is_vendors(url) or url in named:
            continue
        try:
            normal_endpoint(url)
        except ValueError as exc:
            what = f"its journal names an endpoint that may not be called: {exc}"
            raise UsageError(f"run {ledger.run.run}: {what}") from exc
        if not is_loopback(url) and url not in _endpoints_of_job(ledger, settings.trust):
            raise UsageError(
                f"run {ledger.run.run}: its journal names {url}, which is not the vendor's, and no flag, config or job "
                f"names it today: keys are not sent there. If it is meant: --endpoint {url}"
            )


def _endpoints_of_job(ledger: Ledger, trust: Trust) -> tuple[str, ...]:
    job = _job_today(ledger, trust)
    return job.endpoints or () if job is not None else ()


def _job_today(ledger: Ledger, trust: Trust) -> Job | None:
    """Return the run's own job as its file is today, without lists; None without a file, ConfigError if untrusted."""
    file = job_file(ledger.run.job.path)
    if file is None:
        return None
    refuse_strange(str(file), file, trust)
    return load_job(file, skip_bad_rows=True, lists=False)


def check_keys(ledger: Ledger) -> None:
    """Raise UsageError for a profile or a role that no flag or job could name, such as a path to somebody's file."""
    from engine.inputs.jobfile.fields import convert
    from engine.inputs.jobfile.filemodel import Profile, RoleArn

    for account in ledger.settings.every_account:
        said = [(profile, Profile) for profile in account.profiles]
        said += [(account.role_arn, RoleArn)] if account.role_arn is not None else []
        for text, kind in said:
            try:
                convert(text, kind)
            except ValueError as exc:
                what = f"its journal names whose keys to use, and not as it may: {exc}, got {shown(text)}"
                raise UsageError(f"run {ledger.run.run}: {what}") from exc


def check_passwords(ref: RunRef, ledger: Ledger, trust: Trust, job: Job | None = None) -> None:
    """Raise UsageError for a source of new passwords that the journal names and today's job (`job`) does not.

    An undo has no job, and got its source by flag: there the journal is enough, if it is the operator's own.
    """
    named = ledger.settings.passwords
    if named is None:
        return
    parent = ledger.run.parent
    if parent is not None and parent.verb == "undo" and ref.doubt(Trust()) is None:
        return
    job = job or _job_today(ledger, trust)
    if job is not None and (today := password_record(job)) is not None and _plain(today) == _plain(named):
        return
    if parent is not None and parent.verb == "undo":
        way_on = f"undo again, and name it: acctops undo {parent.run} --password-command … or --password-file …"
    elif job is None:
        way_on = f"put {ledger.run.job.path} back, or run its job again: acctops run JOB"
    else:
        way_on = f"the job names another today; run it again: acctops run {pasted((job.path,))}"
    raise UsageError(
        f"run {ledger.run.run}: where new passwords come from is said by its journal alone, which is not enough to run "
        f"a program or to believe a file; {way_on}"
    )


def check_gate_program(ref: RunRef, ledger: Ledger, trust: Trust, job: Job | None = None) -> None:
    """Raise UsageError for a gate that the journal names and today's job (`job`) does not; also one with lost waves."""
    record = ledger.settings.waves
    if record is None:
        return
    if not ledger.waves and ledger.calls:
        raise UsageError(
            f"run {ref.run_id}: its settings have waves, and its journal does not say which calls are in which; "
            "run its job again: acctops run JOB"
        )
    gate = record["gate"]
    if gate is None or (ledger.run.simulated and not gate.get("real")):
        return
    job = job or _job_today(ledger, trust)
    today = waves_record(job, real_gate=bool(gate.get("real"))) if job is not None else None
    named = today["gate"] if today is not None else None
    if named is not None and _plain({"command": named["command"]}) == _plain({"command": gate["command"]}):
        return
    if job is None:
        way_on = f"put {ledger.run.job.path} back, or run its job again: acctops run JOB"
    else:
        way_on = f"the job names {'none' if named is None else 'another'} today; run it again: "
        way_on += f"acctops run {pasted((job.path,))}"
    raise UsageError(
        f"run {ledger.run.run}: its gate is named by its journal alone, which is not enough to run a program; {way_on}"
    )


def _plain(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a source of passwords with its paths in one spelling. Any: its shape depends on the source."""
    plain = dict(record)
    if "file" in plain:
        plain["file"] = os.path.normpath(str(plain["file"]))
    if command := list(plain.get("command", ())):
        plain["command"] = [os.path.normpath(command[0]) if "/" in command[0] else command[0], *command[1:]]
    return plain


def stranger(ledger: Ledger, job: Job) -> Call | None:
    """Return a call of the run that is not of the job; None if the job means all, as far as shows without asking."""
    targets = {(each.account, each.region, each.instance, each.user) for each in job.targets}
    for call in ledger.calls.values():
        if (call.account, call.region, call.instance, call.user) in targets and call.action == job.action:
            continue
        if call.action != job.action or not any(match.may_mean(call) for match in job.matches):
            return call
    return None
