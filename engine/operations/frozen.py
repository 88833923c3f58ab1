"""The settings that a journal keeps for its run: for a new run, and for one that goes on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from engine.api.endpoints import is_loopback
from engine.errors import UsageError
from engine.inputs.settings import Settings, refuse_profiles
from engine.inputs.settingtable import SETTINGS
from engine.journal.records import RunSettings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.inputs.job import Job, StopAfter
    from engine.operations.terms import Terms


def run_settings(
    settings: Settings, job: Job, action: str, regions: Iterable[str], *, real_gate: bool = False
) -> RunSettings:
    """Return the settings that go into the journal of a new run. `real_gate`: a simulated one asks the job's gate."""
    stop_after = settings.stop_after_for(action)
    access = settings.access(regions)
    return RunSettings(
        **{name: getattr(settings, name) for name in _SAME},
        endpoint=access.shared,
        endpoint_of=dict(access.own),
        accounts=job.accounts,
        rate=settings.rate_for(action),
        quota=settings.quota_for(action),
        deadline_s=settings.written_deadline_s,
        session_deadline_s=settings.session_deadline_s,
        transient_s=settings.retry_transient_s,
        busy_s=settings.retry_busy_s,
        stop_after=str(stop_after) if stop_after else None,
        profile=settings.profiles[0] if len(settings.profiles) == 1 else settings.profiles or None,
        protect=tuple(f"{glob.pattern} ({glob.place})" for glob in settings.protect),
        passwords=password_record(job),
        resend_already=job.resend_already,
        window=job.window.as_record() if job.window is not None else None,
        hold_then=job.hold.then if job.hold is not None else None,  # and its end once the run is confirmed: `begin`
        watch=job.watch.as_record() if job.watch is not None else None,
        waves=waves_record(job, real_gate=real_gate),
    )


_OTHERWISE = {"rate", "deadline_s", "stop_after", "protect"}
_SAME = {*RunSettings.__struct_fields__} & {*Settings.__struct_fields__} - _OTHERWISE
"""Settings that the journal keeps as they are."""


def check_metrics(settings: Settings, *, simulated: bool = False) -> None:
    """Raise ConfigError if metrics or a page are asked for and cannot be made; a simulated run has no metrics."""
    if settings.page_file is not None and not (simulated and settings.origin["page_file"] != "--page"):
        from engine.report.page import check_installed as check_pages

        check_pages(f"{settings.origin['page_file']}: a page")
    if settings.metrics_file is not None and not simulated:
        from engine.report.metrics import check_installed

        check_installed(settings.metrics_file, settings.origin["metrics_file"])


def waves_record(job: Job, *, real_gate: bool = False) -> dict[str, Any] | None:
    """Return the waves as the journal keeps them: the gate by its absolute path, unless it is looked for on PATH.

    Any: text and numbers, nested.
    """
    if job.waves is None:
        return None
    waves = job.waves
    if (gate := waves.gate) is not None:
        from engine.outside.programs import program_path  # here: most jobs have no gate

        command = (program_path(gate.command[0], job.path), *gate.command[1:])
        waves = replace(waves, gate=replace(gate, command=command, is_real=real_gate))
    return waves.as_record()


def password_record(job: Job) -> dict[str, object] | None:
    """Return the source of new passwords as the journal keeps it: a file by its absolute path, never a value."""
    if job.passwords is None:
        return None
    record: dict[str, object] = dict(job.passwords.as_record())
    if job.passwords.command:
        from engine.outside.programs import program_path  # here: most jobs ask for no password

        program, *arguments = job.passwords.command
        record["command"] = [program_path(program, job.path), *arguments]
    if job.passwords.file:
        record["file"] = str((Path(job.path).parent / Path(job.passwords.file).expanduser()).absolute())
    return record


def overridden(terms: Terms, settings: RunSettings) -> RunSettings:
    """Return the journal's settings as `--rate --workers --timeout --deadline --profile --no-verify` change them.

    A deadline that a flag or a variable gave an earlier session ended with it. UsageError for a rate above the run's.
    """
    said = terms.settings(None)
    changes: dict[str, Any] = {"session_deadline_s": said.session_deadline_s}
    for each in SETTINGS:
        if each.overrides and getattr(terms, each.key):
            changes[each.name] = getattr(said, each.name)
    if terms.profiles:
        refuse_profiles(terms.profiles, settings.accounts)
        changes["profile"] = said.profiles
    if terms.no_verify:
        changes["verify"] = False
    changed = replace(settings, **changes)
    if changed.rate > settings.rate and not terms.simulate and not all(map(is_loopback, settings.access.every)):
        raise UsageError(
            f"--rate {changed.rate:g} is above the run's {settings.rate:g}; a quota raised since is for a new run"
        )
    return changed


def as_said(frozen: RunSettings, command: Settings) -> RunSettings:
    """Return the journal's settings with the command's pace and time, by flag, environment, job or config.

    Of two rates the lower holds.
    """
    names = (each.name for each in SETTINGS if each.overrides)
    said = {name: getattr(command, name) for name in names if command.origin.get(name, "default") != "default"}
    if "rate" in said:
        said["rate"] = min(frozen.rate, said["rate"])
    if command.written_deadline_s is not None:
        said["deadline_s"] = command.written_deadline_s
    return replace(frozen, **said)


def stricter(frozen: RunSettings, guards: Settings) -> RunSettings:
    """Return the settings of a journal with the stricter of its guards and today's."""
    return replace(frozen, keep_admins=max(frozen.keep_admins, guards.keep_admins))


def undo_settings(
    frozen: RunSettings, stop_after: StopAfter | None, passwords: dict[str, object] | None
) -> RunSettings:
    """Return the settings for the undo of a run with `frozen` ones: it always reads, and waits for no window.

    It holds nothing, and nothing is watched after it.
    """
    return replace(
        frozen,
        verify=True,
        stop_after=str(stop_after) if stop_after is not None else None,
        passwords=passwords,
        resend_already=False,
        window=None,  # an undo may be urgent
        waves=None,
        hold_until=None,
        hold_then=None,
        watch=None,
    )


def stop_after_of(settings: RunSettings) -> StopAfter | None:
    """Return how many failed calls end a run of these settings; None: no number does."""
    from engine.inputs.jobfile.values import stop_after  # here: most runs have no such limit

    return stop_after(settings.stop_after) if settings.stop_after is not None else None
