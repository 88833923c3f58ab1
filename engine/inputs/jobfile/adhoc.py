"""Targets of a command line → Job: what `acctops lock TARGET… --region R` acts on. No I/O: the caller reads lists."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from engine.api import names
from engine.api.actions import ACTIONS
from engine.errors import JobError
from engine.inputs.job import Job
from engine.inputs.jobfile.parse import COMMAND_LINE, guessed, judge_rows, list_reader, read_globs
from engine.inputs.jobfile.problems import Problems
from engine.inputs.jobfile.targets import Defaults, Targets
from engine.inputs.jobfile.values import action_name
from engine.model import Place
from engine.outside.foreign import pasted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def ad_hoc_job(
    action: str,
    targets: Sequence[str],
    region: str | None,
    *,
    read: Callable[[str], bytes] | None = None,
    skip_bad_rows: bool = False,
    name: str | None = None,
    reason: str | None = None,
    ticket: str | None = None,
    exclude: Sequence[str] = (),
    for_: str | None = None,
    until: str | None = None,
    then: str | None = None,
    watch: str | None = None,
) -> Job:
    """Return the job of `acctops lock TARGET… --region R`, with the checks of a job file; raise JobError.

    A target's "line" is its number among the arguments. `@FILE` is a list: `read` returns its bytes, or raises
    JobError; its rows are read as a job's are, also with `skip_bad_rows`. `for_`, `until`, `then` and `watch` are the
    flags that say what comes after the run, as typed.
    """
    problems = Problems()
    try:
        action_name(action)
    except ValueError as exc:
        problems.add(Place(COMMAND_LINE), "action", str(exc))
    collected = Targets(problems, region or "", skip_bad_rows=skip_bad_rows, has_job=False)
    lists: dict[str, bytes] = {}
    warnings: list[str] = []
    if region and (what := names.region_problem(region)) is not None:
        problems.add(Place(COMMAND_LINE, 1), "--region", what)
    elif region and region not in names.REGIONS:
        collected.note_region(region, Place(COMMAND_LINE))
    if not targets:
        problems.add(Place(COMMAND_LINE), "targets", "none given; name accounts as instance/user")
    for number, text in enumerate(targets, start=1):
        instance, slash, user = text.strip().partition("/")
        if text.startswith("@") and read is not None:
            try:
                data = lists[text[1:]] = read(text[1:])
            except JobError as exc:
                for problem in exc.problems:
                    problems.add(Place(COMMAND_LINE, number), "", problem)
                continue
            is_csv = not data.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{")
            warnings += list_reader(is_csv=is_csv)(data, text[1:], Defaults(), collected, problems)
        elif not slash or _is_file_name(text):
            what = f"{names.shown(text)} is not instance/user{_meant_by(text, targets[number - 2 : number - 1])}"
            problems.add(Place(COMMAND_LINE, number), "", what)
        else:
            collected.add(instance, user, "", COMMAND_LINE, number, 0)
    collected.settle_regions()
    bad_rows = judge_rows(collected, problems, asks=False)
    if not lists:
        problems.hint = ""
    globs = read_globs(exclude, "--exclude", problems)
    held, watched = None, None
    afterwards = {"--for": for_, "--until": until, "--then": then, "--watch": watch}
    said = [word for flag, text in afterwards.items() if text is not None for word in (flag, text)]
    if said and action in ACTIONS:
        from engine.inputs.jobfile.afterwards import hold_of_flags, watch_of_flag  # here: most commands say none

        place = Place(COMMAND_LINE)
        held = hold_of_flags(action, for_=for_, until=until, then=then, problems=problems, place=place)
        watched = watch_of_flag(action, watch, problems, place)
    problems.stop_if_any()
    guesses, more, remarks = guessed(collected)
    warnings += more
    digest = sha256("\n".join([action, region or "", *targets, *exclude, *said]).encode(errors="surrogateescape"))
    for data in lists.values():
        digest.update(data)
    return Job(
        name=name or f"{action}-by-hand",
        action=action,
        region=region or "",
        targets=collected.found,
        digest=digest.hexdigest(),
        path=COMMAND_LINE,
        sources=tuple(lists),
        omits=tuple(bad_rows),
        exclude=globs,
        hold=held,
        watch=watched,
        reason=reason,
        ticket=ticket,
        warnings=(*warnings, *collected.warnings()),
        remarks=(*remarks, *collected.remarks()),
        guesses=guesses,
    )


def _is_file_name(text: str) -> bool:
    return text.startswith(("/", "./", "../", "~/")) or text.lower().endswith(
        (".csv", ".jsonl", ".txt", ".yaml", ".yml")
    )


def _meant_by(text: str, before: Sequence[str]) -> str:
    """Return what to type instead of a word that is no account; `before` is the word before it, if there is one."""
    if before and names.instance_problem(before[0]) is None and names.user_problem(text) is None:
        return f"; did you mean {pasted((f'{before[0]}/{text}',))}?"
    if text.lower().endswith((".yaml", ".yml")):
        return f"; a job is carried out by acctops run {pasted((text,))}"
    if _is_file_name(text):
        return f"; a list is named with @: {pasted((f'@{text}',))}"
    return "; such as postgres-4sfuv15b/app_user"
