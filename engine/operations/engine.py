"""The library: one `Engine` on a state directory, whose methods are the use cases.

It never prints, asks or handles signals, so it works in any event loop of any thread. It changes one thing of the
process: it raises the soft limit on open files if a run needs more. Two engines on one state directory, or an engine
and a command, share claims, quotas and journals as two commands do.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from engine.errors import Reason, RefusedError, UsageError
from engine.inputs.files import STDIN, load_job
from engine.inputs.job import Job
from engine.operations.begin import begin
from engine.operations.events import Began, Event, Tell, nobody
from engine.operations.proposal import Approval, Nothing, Planned
from engine.operations.start import CutOff, plan_run
from engine.operations.stores import find, runs_in
from engine.operations.terms import Terms

if TYPE_CHECKING:
    from engine.journal.ledger import Ledger
    from engine.journal.protocols import RunHead
    from engine.journal.standing import Progress
    from engine.model import Outcome
    from engine.operations.carrying import Ended
    from engine.operations.control import Steered
    from engine.operations.drafts import Draft
    from engine.operations.evidence import Bundle
    from engine.operations.examine import Examined
    from engine.operations.holds import Holding, Limited, Released
    from engine.operations.overdue import Lateness, TendLateness
    from engine.operations.pending import Pending
    from engine.operations.proving import Proven
    from engine.operations.resume import Finished
    from engine.operations.session import Conductor
    from engine.operations.stop import Drained
    from engine.operations.tend import Tended
    from engine.operations.verify import Verified

__all__ = ["Engine", "Run"]

_STOPPED = "stopped by the program that began it"


class Engine:
    """An object that plans runs, begins them, and looks back at them.

    Use it in an `async with` block. Runs that still go on at its end are drained, so that nothing is left unrecorded.
    """

    def __init__(
        self,
        *,
        state_dir: str | Path | None = None,
        config: str | Path | None = None,
        endpoint: str | Sequence[str] = (),
        profile: str | Sequence[str] = (),
        simulate: bool = False,
        on_event: Tell = nobody,
        clock: Callable[[], float] = time.time,
        **more: Any,
    ) -> None:
        """What is left out comes from the environment, the job, config files or the default, as for a command.

        With `simulate`, runs use the built-in simulator and touch no account. `on_event` is told what happens (see
        `engine.operations.events`), in the loop's thread. `clock` returns UNIX time. `more` are further fields of
        `Terms` (rate, workers, timeout, deadline: texts, as flags have them). Any: their types.
        """
        self._terms = Terms(
            state_dir=str(state_dir) if state_dir is not None else None,
            config=str(config) if config is not None else None,
            endpoints=_several(endpoint),
            profiles=_several(profile),
            simulate=simulate,
            tell=on_event,
            clock=clock,
            **more,
        )
        self._begun_here: list[_Handle] = []

    async def __aenter__(self) -> Engine:
        return self

    async def __aexit__(self, *_error: object) -> None:
        going_on = [each for each in self._begun_here if not each.task.done()]
        for each in going_on:
            each.stop("the engine that began it was closed")
        await asyncio.gather(*(each.task for each in going_on), return_exceptions=True)
        await self._terms.wire.aclose()

    # ---- two phases: a plan, then an approval ------------------------------------------------------------------------

    async def plan(self, job: Job | str | Path, **terms: Any) -> Planned | Nothing:
        """Plan a new run of a job: its file, its text (YAML, more than one line), or a `Job`.

        `terms` are fields of `Terms`: reason, ticket, exclude, expect, on_unfinished (Any). AcctopsError if anything
        forbids the run. RefusedError, too, if the last run of the job was cut off: then `resume` goes on with it, or
        `on_unfinished="new"` begins anew.
        """
        asked = self._with(terms)
        planned = await plan_run(asked, job if isinstance(job, Job) else _loaded(job))
        if isinstance(planned, CutOff):
            raise RefusedError(
                f"the last run of this job, {planned.left.run_id}, was cut off with {planned.left.open_calls:,} calls "
                'open; nothing was sent; resume it, or plan with on_unfinished="new"'
            )
        return planned

    async def rerun(
        self, run: str, *, only: Iterable[Outcome | str] = (), codes: Iterable[str] = (), **terms: Any
    ) -> Planned | Nothing:
        """Plan a new run of what did not work out in an older one; `only` those outcomes, all by default."""
        from engine.operations.rerun import kinds_of, plan_rerun

        return await plan_rerun(self._with(terms), run, kinds_of(only), tuple(codes))

    async def undo(self, run: str, *, targets: Iterable[str] = (), **terms: Any) -> Planned | Nothing:
        """Plan a run that brings back what a run changed, or only `targets` (`instance/user`, globs) of it.

        `terms` are fields of `Terms` and of `Selection`: family, include_edited, rotated, released. Any: their types.
        """
        from engine.operations.undo import Selection, plan_undo

        chosen = {name: terms.pop(name) for name in Selection.__struct_fields__ if name in terms}
        return await plan_undo(self._with(terms), run, Selection(targets=tuple(targets), **chosen))

    async def begin(self, planned: Planned, approval: Approval) -> Run:
        """Begin what was planned and approved. Return once the run exists and works; it goes on in this loop.

        RefusedError, and no run is created, if a change since planning forbids it.
        """
        new = planned.proposal

        def work(handle: _Handle) -> Coroutine[Any, Any, Ended]:
            terms = replace(new.terms, tell=handle.hearing(new.terms.tell))
            return _to_its_end(begin(replace(planned, proposal=replace(new, terms=terms)), approval, handle), terms)

        return await self._begun(work)

    async def resume(self, run: str, approval: Approval | None = None, **terms: Any) -> Run | Finished:
        """Go on with a run, or return how it stands if nothing is left to do.

        RefusedError without an `approval` if the job file, the operator or the owner of the keys has changed.
        """
        from engine.operations.resume import Finished, go_on, resumption

        found = await resumption(self._with(terms), run)
        if isinstance(found, Finished):
            return found

        def work(handle: _Handle) -> Coroutine[Any, Any, Ended]:
            heard = replace(found.terms, tell=handle.hearing(found.terms.tell))
            return _to_its_end(go_on(replace(found, terms=heard), approval, handle), heard)

        return await self._begun(work)

    # ---- what sends nothing ------------------------------------------------------------------------------------------

    async def verify(self, run: str, *, family: bool = False, **terms: Any) -> Verified:
        """Read the accounts of a run again, and compare them with what it left."""
        from engine.operations.verify import verifying

        return await (await verifying(self._with(terms), run, family=family)).compared()

    async def discover(self, job: Job | str | Path, **terms: Any) -> Draft:
        """Return what the matches and lists of a job mean now, and what guards leave out."""
        from engine.operations.drafts import draft, settings_of

        asked = self._with(terms)
        job = job if isinstance(job, Job) else _loaded(job)
        return await draft(asked, job, settings_of(asked, job), purpose="discover")

    async def examine(self, job: str | Path | None = None, **terms: Any) -> Examined:
        """Look at what a run of a job needs: keys, permission, clock, places, guards."""
        from engine.operations.examine import examine

        return await examine(self._with(terms), str(job) if job is not None else None)

    def runs(self, *, since: float | None = None) -> list[RunHead]:
        """Return the head of each run that went on since `since` (UNIX time), newest first, simulated runs last."""
        return [head for simulated in (False, True) for head in runs_in(self._terms, simulated=simulated, since=since)]

    def ledger(self, run: str, *, family: bool = False) -> Ledger:
        """Return what is known of a run from its journal; with `family`, from the journals of its reruns, too."""
        ref = find(self._terms, run)
        found = ref.replay()
        if not family:
            return found.ledger
        from engine.operations.family import with_family

        return with_family(ref, found, self._terms.settings(None).trust)

    def overdue(self, job: str | Path, within: float) -> Lateness:
        """Return whether a job (its file or its name) was done as asked in the last `within` seconds."""
        from engine.operations.overdue import overdue

        return overdue(self._terms, str(job), within)

    def overdue_tend(self, within: float = 900) -> TendLateness:
        """Return whether `acctops tend` ended with exit 0 in the last `within` seconds."""
        from engine.operations.overdue import tend_overdue

        return tend_overdue(self._terms, within)

    def pending(self, *, since: float | None = None, ticket: str | None = None) -> Pending:
        """Return the accounts that are not as asked, over all runs; `since` is UNIX time."""
        from engine.operations.pending import pending

        return pending(self._terms, since=since, ticket=ticket)

    def holds(self, *targets: str) -> Holding:
        """Return who holds which accounts, and what is owed; `targets` are globs of `instance/user`."""
        from engine.operations.holds import who_holds

        return who_holds(self._terms, targets)

    def evidence(self, out: str | Path, *, run: str | None = None, ticket: str | None = None) -> Bundle:
        """Write all that proves a run, or a ticket, into a new zip file; name one of the two."""
        from engine.operations.evidence import write_evidence

        if (run is None) == (ticket is None):
            raise UsageError("name a run or a ticket, and not both")
        return write_evidence(self._terms, run, ticket, Path(out))

    def prove(self, line: str | None = None) -> tuple[Proven, ...]:
        """Check all runs against the list of their ends, and that list against its seals.

        `line` is the hash of a line of the list that was kept elsewhere.
        """
        from engine.operations.proving import prove_all

        return prove_all(self._terms, line)

    def page(
        self,
        out: str | Path,
        *runs: str,
        family: bool = False,
        ticket: str | None = None,
        since: float | None = None,
    ) -> None:
        """Write the HTML report of runs, of a ticket, or of all since a UNIX time, to a file that only its owner reads.

        ConfigError without the extra `report`. A page with too many targets has a CSV of all beside it.
        """
        from engine.operations.pages import csv_beside, page_of
        from engine.outside.trust import write_whole
        from engine.report.page import check_installed, html

        check_installed("a page")
        made = page_of(self._terms, runs, family=family, ticket=ticket, since=since, output=str(out))
        write_whole(Path(out), html(made.page))
        if made.csv is not None:
            write_whole(csv_beside(Path(out)), made.csv())

    def release(self, run: str, *, targets: Iterable[str] = (), reason: str | None = None) -> Released:
        """End the holds of a run and its reruns on `targets` (none: all), without a call to the API."""
        from engine.operations.holds import release_holds

        return release_holds(self._with({"reason": reason}), run, tuple(targets))

    def hold(
        self,
        run: str,
        *,
        for_: str | None = None,
        until: str | None = None,
        then: str | None = None,
        reason: str | None = None,
    ) -> Limited:
        """Give the holds of a run a new end, as `hold:` of a job does; none without `for_` and `until`."""
        from engine.operations.holds import limit_holds

        return limit_holds(self._with({"reason": reason}), run, for_=for_, until=until, then=then)

    async def tend(self, *, adopt: bool = False) -> Tended:
        """Do what is due after runs: holds whose limit has passed, watches."""
        from engine.operations.tend import tend

        return await tend(self._terms, adopt=adopt)

    async def pause(self, run: str, *, for_: str | None = None) -> Steered:
        """Have a live run of any process begin no new call, and wait until its journal says that none leaves."""
        from engine.operations.control import pause

        return await pause(self._terms, run, for_)

    async def lift(self, run: str) -> Steered | None:
        """Lift the pause of a live run; None if there is none: then `resume` goes on with a run."""
        from engine.operations.control import lift

        return await lift(self._terms, run)

    async def change(
        self, run: str, *, rate: float | None = None, drop: Sequence[str] = (), first: Sequence[str] = ()
    ) -> Steered:
        """Change a live run: its rate, what is left out, what goes first; each as `acctops change` does."""
        from engine.operations.control import change

        return await change(self._with({"rate": repr(rate)} if rate is not None else {}), run, drop=drop, first=first)

    async def stop(self, run: str) -> Drained:
        """Have a live run of any process drain, and wait as long as an orderly end may take."""
        from engine.operations.stop import stop

        return await stop(self._terms, run)

    # ---- inside ------------------------------------------------------------------------------------------------------

    def _with(self, said: Mapping[str, Any]) -> Terms:
        """The engine's terms, and what was said for this use case. Any: their types."""
        return replace(self._terms, **said) if said else self._terms

    async def _begun(self, work: Callable[[_Handle], Coroutine[Any, Any, Ended]]) -> Run:
        handle = _Handle()
        handle.task = asyncio.ensure_future(work(handle))
        self._begun_here.append(handle)
        await handle.begun()
        self._begun_here = [each for each in self._begun_here if not each.task.done()]
        return Run(handle)


class Run:
    """A run that goes on in this event loop."""

    def __init__(self, handle: _Handle) -> None:
        self._handle = handle

    @property
    def id(self) -> str:
        """Its id, by which every command finds it."""
        return self._handle.run

    @property
    def journal(self) -> str:
        """Where its journal is."""
        return self._handle.journal

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._handle.task.done()

    async def progress(self, every: float = 0.5) -> AsyncIterator[Progress]:
        """Yield the run's progress every `every` seconds, and once more at its end."""
        runner = self._handle.runner
        if runner is None:  # it failed before its first call
            return
        while not self.is_over:
            yield runner.progress()
            await asyncio.wait([self._handle.task], timeout=every)
        yield runner.progress()

    async def result(self) -> Ended:
        """Wait for the run's end and return how it ended. If this is cancelled, the run goes on."""
        return await asyncio.shield(self._handle.task)

    def stop(self, why: str = _STOPPED) -> None:
        """Have the run take no new call; calls under way end and are recorded."""
        self._handle.stop(why)


class _Handle:
    """What an engine holds of a run that it began: a `Watch` of its session."""

    def __init__(self) -> None:
        self.run = self.journal = ""
        self.task: asyncio.Future[Ended]
        self.runner: Conductor | None = None
        self._works = asyncio.Event()
        self._stopped: str | None = None

    def hearing(self, tell: Tell) -> Tell:
        """Return a `tell` that also learns the run's id and its journal's place."""

        def hear(event: Event) -> None:
            if isinstance(event, Began):
                self.run, self.journal = event.run, event.journal
            tell(event)

        return hear

    async def begun(self) -> None:
        """Wait until the session works or has ended; raise the error that kept it from working."""
        waiting = asyncio.ensure_future(self._works.wait())
        waits: list[asyncio.Future[Any]] = [self.task, waiting]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if self.task.done():
                self.task.result()
        except asyncio.CancelledError:
            if not self._works.is_set():
                self.task.cancel()
            raise
        finally:
            waiting.cancel()

    def stop(self, why: str) -> None:
        """Drain the run; if its session does not work yet, as soon as it does."""
        self._stopped = why
        if self.runner is not None:
            self.runner.stop(why, Reason.STOPPED)

    @asynccontextmanager
    async def beside(self, runner: Conductor) -> AsyncIterator[None]:
        self.runner = runner
        self._works.set()
        if self._stopped is not None:
            runner.stop(self._stopped, Reason.STOPPED)
        yield

    async def working(self, run: Coroutine[None, None, Reason]) -> Reason:
        return await run

    async def last(self, notices: Coroutine[None, None, None]) -> None:
        await notices


def _loaded(job: str | Path) -> Job:
    """Return a job by its path or its text. A text counts as standard input, as no file can be read again."""
    if isinstance(job, str) and "\n" in job:
        return load_job(STDIN, stdin=io.BytesIO(job.encode()))
    return load_job(job)


def _several(said: str | Sequence[str]) -> tuple[str, ...]:
    return (said,) if isinstance(said, str) else tuple(said)


async def _to_its_end(run: Coroutine[None, None, Ended], terms: Terms) -> Ended:
    """Wait for the end of a run, and undo its red wave if its job asks for that."""
    from engine.operations.reds import undo_if_red

    return await undo_if_red(await run, terms)
