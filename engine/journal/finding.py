"""Finds a run among those of any kind of store, and lists heads of runs in order."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import AcctopsError, UsageError
from engine.journal.protocols import RunHead, RunRef, Runs
from engine.model import RunId
from engine.outside.foreign import pasted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from engine.journal.records import End, Run


def head_of(
    run_id: str, place: str, read: Callable[[], tuple[Run, End | None]], *, simulated: bool, live: bool
) -> RunHead:
    """Return the head of a run, by its first line and last `end`, which `read` returns; its error is a problem."""
    try:
        first, end = read()
    except AcctopsError as error:
        return RunHead(run_id=RunId(run_id), place=place, simulated=simulated, live=live, problem=str(error))
    return RunHead(
        run_id=RunId(run_id),
        place=place,
        simulated=simulated,
        live=live,
        job=first.job.name,
        action=first.action,
        started_at=first.at,
        calls=first.counts.get("calls", 0),
        end=end,
        run=first,
    )


def newest_first(names: Iterable[str], head: Callable[[str], RunHead], *, watches: bool) -> Iterator[RunHead]:
    """Yield the head of every run, newest first; each is read when it is asked for. Without `watches`, no watch."""
    for _, found in groupby(names, key=_stamp):
        # The time in the name has whole seconds; within one second the time of the first record decides.
        heads = sorted(map(head, found), key=lambda head: (head.started_at, head.run_id), reverse=True)
        yield from (each for each in heads if watches or each.watched is None)


def find_among(
    stores: Sequence[Runs], text: str, now: float | None, at_path: Callable[[Sequence[Runs], Path], RunRef]
) -> RunRef:
    """Return the run that `text` names, see `store.find_run`; `at_path` returns the one at a path."""
    if text == "latest" or text.startswith("latest:"):
        return _latest(stores, text, now)
    if "/" in text or text.endswith(".jsonl"):
        return at_path(stores, Path(text))
    for store in stores:
        matching = [name for name in store.names() if text and name.startswith(text)]
        if text in matching:
            matching = [text]
        if len(matching) > 1:
            raise UsageError(f"{text!r} is the beginning of {len(matching)} runs in {store.place}: {_few(matching)}")
        if matching:
            return store.ref(matching[0])
    if text and Path(text).is_dir():
        return at_path(stores, Path(text))
    names = [name for store in stores for name in store.names()]
    looked = " and ".join(store.place for store in stores)
    known = f"; there are {_few(names)}" if names else "; there are none"
    raise UsageError(f"no run {text!r} in {looked}{_meant(stores, text, names) or known}")


def _meant(stores: Sequence[Runs], text: str, names: Sequence[str]) -> str:
    """Return the words for the run that was probably meant: that of a job's name or file, or of a misspelt id."""
    from engine.api.names import did_you_mean, nearest  # here: only a slip pays for the import

    if not text:
        return ""
    jobs: dict[str, str] = {}
    for store in stores:
        for head in store.heads():
            if head.run is None:
                continue
            newest = head.run_id if store.simulated else f"latest:{head.job}"
            for word in (head.job, Path(head.run.job.path).name, Path(head.run.job.path).stem):
                jobs.setdefault(word, newest)
    if nearest(text, ("latest",), cutoff=_ALIKE) is not None and text not in jobs:
        return "; did you mean latest?"
    job = text if text in jobs else nearest(text, jobs, cutoff=_ALIKE)
    if job is not None:
        return f"; did you mean {pasted((jobs[job],))}?"
    return did_you_mean(text, [name for name in names if text[:1].isdigit() and len(text) >= _WHOLE_DATE])


_ALIKE = 0.75
"""How alike (0-1) what was typed must be to a job's name, to call that meant."""
_WHOLE_DATE = len("20261122T03")
"""As much of an id is needed, to look for one that is near: all of them begin with a date."""


def _latest(stores: Sequence[Runs], text: str, now: float | None) -> RunRef:
    job = text.partition(":")[2]
    jobs: dict[str, None] = {}
    early: list[RunId] = []
    real = [store for store in stores if not store.simulated]
    for store in real:
        for head in store.heads():
            if job and head.job != job:
                jobs[head.job] = None
            elif now is not None and not head.live and head.is_to_come(now):
                early.append(head.run_id)
            else:
                return store.ref(head.run_id, passed_over=tuple(early))
    looked = " and ".join(store.place for store in real) or "a simulated store"
    if early:
        raise UsageError(f"{to_come_words(early)}; there is no other in {looked}; name the one you mean")
    if jobs:
        from engine.api.names import nearest  # here: only a slip pays for the import

        near = nearest(job, jobs, cutoff=_ALIKE)
        hint = (
            f"did you mean {pasted((f'latest:{near}',))}?" if near is not None else f"there are runs of {_few([*jobs])}"
        )
        raise UsageError(f"no run of job {job!r} in {looked}; {hint}")
    raise UsageError(f"no runs in {looked} (simulated ones are never `latest`)")


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown


def to_come_words(runs: Sequence[str]) -> str:
    """Return the message that runs say they began later than now, and are passed over."""
    verb = "says it" if len(runs) == 1 else "say they"
    return f"{_few(runs)} {verb} began later than now: the clock of this machine was wrong then, or is now; passed over"


def _stamp(name: str) -> str:
    return name.partition("-")[0]
