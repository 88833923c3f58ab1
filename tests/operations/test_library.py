"""The engine as a library: what a service of one's own gets without a terminal."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import engine
from engine import Approval, BusyError, Ended, Engine, Event, Finished, Nothing, Planned, Reason, RefusedError, Run
from engine.operations.resume import Resumption, go_on, resumption
from engine.simulator.world import World
from tests.support.command import Backend, Desk

pytestmark = pytest.mark.both_stores

ROOT = Path(__file__).parents[2]
YES = Approval(how="reviewed in #incident", by="ana")


def job(count: int, *, name: str = "leak", first: int = 0) -> str:
    """A job's text: so many accounts of one instance."""
    users = ", ".join(f"user_{number}" for number in range(first, first + count))
    instance = f"postgres-{name[0] * 8}"
    target = f"{{instance: {instance}, region: ap-singapore, user: [{users}]}}"
    return f"name: {name}\naction: LockAccount\ntargets:\n  - {target}\n"


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """A process in which nothing of the tester's own is seen."""
    desk = Desk(tmp_path)
    for name in ("TENCENTCLOUD_TOKEN", "TCCLI_PROFILE", "ACCTOPS_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in desk.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(desk.work)
    return desk


async def planned(acctops: Engine, *args: str) -> Planned:
    """A plan that there is."""
    found = await acctops.plan(*args)
    assert isinstance(found, Planned), found
    return found


async def begun(acctops: Engine, text: str) -> Run:
    """A run of the job, at work."""
    return await acctops.begin(await planned(acctops, text), YES)


def example() -> str:
    """The program on the library's page."""
    page = (ROOT / "engine/README.md").read_text(encoding="utf-8")
    section = page[page.index("\n## Library\n") :]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found[1]


def in_thread(work: str) -> str:
    """What the program prints in a thread that is not the main one."""
    printed = io.StringIO()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            exec(compile(work, "engine/README.md", "exec"), {"__name__": "__main__"})
        except BaseException as error:  # noqa: BLE001 - told in the test's own thread
            failed.append(error)

    with contextlib.redirect_stdout(printed):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert not failed, failed
    return printed.getvalue()


@pytest.mark.parametrize("where", ["a program of its own", "a second thread"])
def test_the_example_of_the_page_locks_fifty_accounts(desk: Desk, where: str) -> None:
    """Whoever copies it has a run with progress, its report and its undo, wherever his event loop is."""
    text = example()
    if where == "a second thread":
        out = in_thread(text)
    else:
        done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=True)
        assert done.stderr == ""
        out = done.stdout
    assert "About to lock 50 accounts on 1 instance" in out
    assert "50 of 50 settled" in out and "OK: 50 changed" in out and "50 back" in out


async def test_a_running_loop_is_not_blocked_nor_printed_at(desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    """A web service goes on answering while accounts are locked; its output and its signals stay its own."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    heard: list[Event] = []
    beats = 0
    async with Engine(**desk.where, simulate=True, on_event=heard.append) as acctops:
        run = await begun(acctops, job(50))
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
        async for progress in run.progress(every=0.05):
            beats += 1
            assert progress.total == 50
        ended = await run.result()
    assert ended.reason is Reason.OK and ended.counts["changed"] == 50 and ended.failures == () and ended.why is None
    assert beats > 3
    assert [type(event).__name__ for event in heard] == ["Drafted", "Looked", "Began"]
    assert run.id == acctops.ledger(run.id).run.run  # type: ignore[union-attr] # a run has its first line
    assert capfd.readouterr() == ("", "")


async def test_two_engines_share_claims_quota_and_journals(desk: Desk) -> None:
    """Two services on one state directory are as two commands: no account twice, never more than the quota."""
    with Backend(World(quota_window="sliding")) as backend:
        how = {**desk.where, "endpoint": backend.endpoint}
        async with Engine(**how) as one, Engine(**how) as two:
            plans = [await planned(one, job(60)), await planned(two, job(60, name="dump"))]
            again = await planned(two, job(60))
            runs = [await one.begin(plans[0], YES), await two.begin(plans[1], YES)]
            with pytest.raises(BusyError):
                await two.begin(again, YES)
            ended = [await run.result() for run in runs]
            assert [each.reason for each in ended] == [Reason.OK, Reason.OK]
            at = [arrival.at for arrival in backend.writes() if arrival.code is None]
            assert len(at) == 120 and max(at) - min(at) > 119 / 20 * 0.95, "one quota of 20 a second for both"
            assert {head.run_id for head in one.runs()} == {run.id for run in runs}
    for run in runs:
        assert desk.run("journal", "verify", run.id).code == 0


async def test_what_goes_on_when_the_engine_is_closed_is_drained_and_resumed(desk: Desk) -> None:
    """A service that is redeployed leaves nothing unrecorded: the command, or the next engine, goes on."""
    with Backend(World()) as backend:
        async with Engine(**desk.where, endpoint=backend.endpoint) as acctops:
            run = await begun(acctops, job(100))
            await asyncio.sleep(0.5)
        ended = await run.result()
        assert ended.reason is Reason.STOPPED and ended.why is not None and "closed" in ended.why
        assert 0 < ended.counts["changed"] < 100
        async with Engine(**desk.where, endpoint=backend.endpoint) as acctops:
            again = await acctops.resume(run.id)
            assert isinstance(again, Run)
            assert (await again.result()).counts["changed"] == 100
            finished = await acctops.resume(run.id)
            assert isinstance(finished, Finished) and finished.reason is Reason.OK


async def test_a_run_that_is_not_wanted_any_more_is_left_as_it_is(desk: Desk) -> None:
    """Who takes a run on looks again once it is his alone: nothing is written, and the next one can take it."""

    def is_wanted() -> None:
        raise LookupError

    with Backend(World()) as backend:
        async with Engine(**desk.where, endpoint=backend.endpoint) as acctops:
            run = await begun(acctops, job(100))
            run.stop()
            await run.result()
            before = desk.runs().replay(run.id)
            found = await resumption(acctops._with({}), run.id)
            assert isinstance(found, Resumption)
            with pytest.raises(LookupError):
                await go_on(found, YES, is_wanted=is_wanted)
            after = desk.runs().replay(run.id)
            assert (after.seq, after.head) == (before.seq, before.head)
            again = await acctops.resume(run.id)
            assert isinstance(again, Run)
            assert (await again.result()).reason is Reason.OK


async def test_stop_and_looking_back(desk: Desk) -> None:
    """A run is stopped by its id from wherever, and what is said of it afterwards is what its journal says."""
    with Backend(World()) as backend:
        async with Engine(**desk.where, endpoint=backend.endpoint) as acctops:
            run = await begun(acctops, job(100))
            drained = await acctops.stop(run.id)
            assert drained.is_over
            ended: Ended = await run.result()
            assert ended.reason is Reason.STOPPED
            assert acctops.overdue("leak", within=60).reason is Reason.INCOMPLETE
            (left,) = acctops.pending().runs
            assert left.head.run_id == run.id and len(left.targets) == ended.counts["unattempted"]
            rest = await acctops.rerun(run.id, only={"unattempted"})
            assert isinstance(rest, Planned) and len(rest.calls) == ended.counts["unattempted"]
            assert (await (await acctops.begin(rest, YES)).result()).reason is Reason.OK
            assert (await acctops.verify(run.id, family=True)).reason is Reason.OK
            assert isinstance(await acctops.rerun(run.id), Nothing)


async def test_a_resume_in_other_circumstances_needs_an_approval(desk: Desk) -> None:
    """As the command asks where the job's file has changed, the library refuses unless somebody has said yes."""
    path = desk.work / "leak.yaml"
    path.write_text(job(100))
    with Backend(World()) as backend:
        async with Engine(**desk.where, endpoint=backend.endpoint) as acctops:
            run = await begun(acctops, str(path))
            run.stop()
            await run.result()
            path.write_text(job(101))
            with pytest.raises(RefusedError, match="has changed since"):
                await acctops.resume(run.id)
            again = await acctops.resume(run.id, YES)
            assert isinstance(again, Run)
            assert (await again.result()).reason is Reason.OK


async def test_holds_are_seen_limited_released_and_ended(desk: Desk) -> None:
    """A program that locks can give back, too: each use case of the commands about holds is a method."""
    world = World()
    world.seed("postgres-aaaaaaaa", "ap-singapore", ["u0", "u1"])
    with Backend(world) as backend:
        flags = ("--region", "ap-singapore", "--endpoint", backend.endpoint, "--yes", "--json")
        run = (await asyncio.to_thread(desk.run, "lock", "postgres-aaaaaaaa/u0", *flags)).json["run"]
        async with Engine(**desk.where, endpoint=backend.endpoint) as acctops:
            (held,) = acctops.holds().held
            assert (held.family.run, len(held.accounts)) == (run, 1)
            assert acctops.hold(run, for_="20m", then="unlock").until is not None
            assert [deed.what for deed in (await acctops.tend()).deeds] == ["told"]
            assert acctops.release(run).count == 1
            assert acctops.holds().held == () and acctops.holds().owed[0].run == run


async def test_what_refuses_a_run_leaves_none(desk: Desk) -> None:
    """An error is raised where it is awaited, and nothing stands in the state directory."""
    (desk.work / "config.yaml").write_text("limits: {max_targets: 10}\n")
    async with Engine(**desk.where, simulate=True) as acctops:
        with pytest.raises(RefusedError, match="max_targets"):
            await acctops.plan(job(11))
        assert acctops.runs() == []


def test_every_name_is_there() -> None:
    """What the door promises can be imported; nothing is imported before it is asked for."""
    assert sorted(engine.__all__) == sorted([*engine._HOME, "__version__"])
    for name, home in engine._HOME.items():
        assert getattr(engine, name) is getattr(import_module(f"engine.{home}"), name)
    with pytest.raises(AttributeError, match="no attribute 'engines'"):
        engine.engines  # noqa: B018 - asked for
    code = "import sys, engine; print([name for name in sys.modules if name.startswith(('engine.', 'asyncio'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "[]\n"


async def test_evidence_is_a_value(desk: Desk) -> None:
    """A service of one's own makes the bundle, and learns what is in it."""
    async with Engine(simulate=True) as acctops:
        planned = await acctops.plan(job(2))
        assert isinstance(planned, Planned)
        run = await acctops.begin(planned, YES)
        await run.result()
        bundle = acctops.evidence(desk.work / "b.zip", run=run.id)
        assert bundle.reason is Reason.OK and bundle.runs == (run.id,) and (desk.work / "b.zip").is_file()


async def test_the_proof_and_the_page_are_values_too(desk: Desk) -> None:
    """A service of one's own checks all runs, and makes the page that is attached to a ticket."""
    async with Engine(simulate=True) as acctops:
        planned = await acctops.plan(job(2))
        assert isinstance(planned, Planned)
        run = await acctops.begin(planned, YES)
        await run.result()
        real, practice = acctops.prove()
        assert (real.runs, practice.runs, practice.reason) == (0, 1, Reason.OK)
        assert practice.last is not None and practice.last.run == run.id
        acctops.page(desk.work / "run.html", run.id)
        assert run.id in (desk.work / "run.html").read_text()
