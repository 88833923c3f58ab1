"""A live run is paused and goes on from another shell: real processes, a real server, real signals."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from engine.journal.ledger import Ledger
from engine.journal.records import unix_seconds
from engine.model import RunId
from engine.planning.plan import make_plan
from engine.simulator.world import World
from tests.support.command import Backend, Desk, on_terminal, records, wait_until
from tests.support.drill import first_lines, fleet, run_line, run_settings

pytestmark = pytest.mark.both_stores


@pytest.fixture
def backend() -> Iterator[Backend]:
    with Backend(World(quotas={"*": None})) as server:
        yield server


def begin(desk: Desk, backend: Backend, count: int = 60) -> Any:
    """Start a run of so many calls; return its process once some calls are settled."""
    desk.job(*(f"postgres-{number:08}/user{number}" for number in range(count)))
    process = desk.popen("run", "job.yaml", "--yes", "--json", "--rate", "20", "--endpoint", backend.endpoint)
    desk.wait_for("settled", 3)
    return process


def run_id(desk: Desk) -> str:
    return desk.journals()[-1].parent.name


def notes(desk: Desk, *whats: str) -> list[dict[str, Any]]:
    return [note for note in records(desk.journal(), "note") if note["what"] in whats]


def sent_after(desk: Desk, at: str) -> list[str]:
    replies = records(desk.journal(), "reply")
    return [line["sent_at"] for line in replies if line["sent_at"] and unix_seconds(line["sent_at"]) > unix_seconds(at)]


def test_a_run_is_paused_looked_at_and_goes_on(desk: Desk, backend: Backend) -> None:
    """Pause returns when nothing leaves any more, status says who and since when, resume says that it lifted it."""
    process = begin(desk, backend)
    paused = desk.run("pause", "latest", "--json")
    assert paused.code == 0 and paused.json["effect"] == "paused" and paused.json["facts"]["in_flight"] == 0
    there = len(backend.writes())
    live = desk.run("status", "latest")
    assert "LIVE  run " in live.out and "PAUSED by " in live.out and " since " in live.out
    assert desk.run("status", "latest", "--json").json["paused"]["in_effect"] is True
    time.sleep(1.0)
    assert len(backend.writes()) == there
    refused = desk.run("resume", "latest", "--rate", "5")
    assert refused.code == 2 and "live and paused" in refused.err
    lifted = desk.run("resume", "latest")
    assert lifted.code == 0 and "its pause is lifted by" in lifted.out
    done = desk.end(process)
    assert done.code == 0 and done.json["counts"]["changed"] == 60
    assert [note["what"] for note in notes(desk, "control", "paused", "unpaused")] == [
        *("control", "paused", "control", "unpaused")
    ]
    report = desk.run("report", "latest", "--format", "json").json
    assert report["paused"] is None


@pytest.mark.files_only("a lock shows that a process which is stopped lives; a database takes it for gone in 1.5 s")
def test_a_stopped_process_acknowledges_nothing_and_then_holds_to_it(desk: Desk, backend: Backend) -> None:
    """SIGSTOP between request and acknowledgement: the command waits, and after its word not one call leaves."""
    process = begin(desk, backend)
    os.kill(process.pid, signal.SIGSTOP)
    asking = desk.popen("pause", "latest", "--json")
    wait_until(lambda: len(desk.runs().asked(run_id(desk))) == 1)
    time.sleep(1.0)
    assert asking.poll() is None and not notes(desk, "control", "paused")
    os.kill(process.pid, signal.SIGCONT)
    paused = desk.end(asking)
    assert paused.code == 0 and paused.json["effect"] == "paused"
    there = len(backend.writes())
    time.sleep(1.0)
    assert len(backend.writes()) == there < 60
    assert not sent_after(desk, paused.json["at"])
    assert desk.run("resume", "latest").code == 0
    assert desk.end(process).code == 0


@pytest.mark.files_only("a lock shows that a process which is stopped lives; a database takes it for gone in 1.5 s")
def test_a_pause_that_is_asked_for_is_shown_and_can_be_taken_back(desk: Desk, backend: Backend) -> None:
    """The process hangs: status says what is asked, resume takes it back, and later the run goes on by itself."""
    process = begin(desk, backend)
    never = desk.run("resume", "latest")
    assert never.code == 6 and "nobody has paused it" in never.err and "acctops status " in never.err
    os.kill(process.pid, signal.SIGSTOP)
    asking = desk.popen("pause", "latest")
    wait_until(lambda: len(desk.runs().asked(run_id(desk))) == 1)
    assert "PAUSING, as asked by " in desk.run("status", "latest").out
    lifting = desk.popen("resume", "latest")
    wait_until(lambda: len(desk.runs().asked(run_id(desk))) == 2)
    os.kill(process.pid, signal.SIGCONT)
    assert (desk.end(asking).code, desk.end(lifting).code) == (0, 0)
    assert desk.end(process).code == 0
    assert [note["what"] for note in notes(desk, "paused", "unpaused")] == ["paused", "unpaused"]


def test_nothing_arrives_after_an_acknowledged_pause(desk: Desk) -> None:
    """Two lanes, twenty pauses, SIGSTOP at a random moment before each word: the server's own record stands still."""
    rng, rounds = random.Random(15), 20 if desk.database is None else 6
    with Backend(World(quotas={"*": None}, latency=0.15), ports=2) as backend:
        desk.job(*(f"postgres-{number:08}/user{number}" for number in range(600)))
        endpoints = [word for endpoint in backend.endpoints for word in ("--endpoint", endpoint)]
        process = desk.popen("run", "job.yaml", "--yes", "--rate", "20", *endpoints)
        desk.wait_for("settled", 3)
        run, store = run_id(desk), desk.runs()

        def said(request: str) -> bool:
            return any(note.data.get("id") == request and note.what != "control" for note in replayed().notes)

        def replayed() -> Ledger:
            return store.replay(run).ledger

        for number in range(rounds):
            time.sleep(rng.uniform(0.0, 0.2))
            request = store.ask(run, what="pause")
            time.sleep(rng.uniform(0.0, 0.3))
            os.kill(process.pid, signal.SIGSTOP)
            was_acknowledged = said(request)
            time.sleep(rng.uniform(0.0, 0.3))
            os.kill(process.pid, signal.SIGCONT)
            wait_until(lambda request=request: said(request))  # type: ignore[misc]
            there = len(backend.writes())
            time.sleep(0.3)
            assert len(backend.writes()) == there, (number, was_acknowledged)
            lift = store.ask(run, what="resume")
            wait_until(lambda lift=lift: said(lift))  # type: ignore[misc]
        assert len(backend.writes()) > 5 * rounds
        assert desk.run("stop", "latest").code == 0
        desk.end(process)


def test_a_run_whose_process_ended_in_a_pause_is_gone_on_with_by_resume_only(desk: Desk, backend: Backend) -> None:
    """Somebody paused it for a reason: neither a schedule nor `--on-unfinished` overrides that, a person may."""
    process = begin(desk, backend)
    assert desk.run("pause", "latest").code == 0
    os.kill(process.pid, signal.SIGKILL)
    desk.end(process)
    there, run = len(backend.writes()), run_id(desk)
    wait_until(lambda: not desk.runs().is_live(run))  # a database hears of a death when nothing is heard any more
    for how in ("resume", "new", "refuse"):
        again = desk.run("run", "job.yaml", "--yes", "--on-unfinished", how, "--endpoint", backend.endpoint)
        assert again.code == 3 and f"acctops resume {run}" in again.err and "paused by" in again.err
    alone = desk.run("resume", "latest")
    assert alone.code == 3 and "it was paused by" in alone.err
    assert f"only this goes on with it: acctops resume {run}" in desk.run("status", "latest").out
    assert len(backend.writes()) == there
    with on_terminal(desk, "resume", "latest") as terminal:
        terminal.wait_for("it was paused by")
        terminal.type(str(sum(1 for _ in records(desk.journal(), "call")) - len(records(desk.journal(), "settled"))))
        assert terminal.end() == 0, terminal.screen
    assert desk.run("run", "job.yaml", "--yes", "--endpoint", backend.endpoint).code == 0


def test_a_signal_ends_a_paused_run_at_once(desk: Desk, backend: Backend) -> None:
    """Ctrl-C means now, paused or not; what was paused stays paused for whoever comes next."""
    process = begin(desk, backend)
    assert desk.run("pause", "latest", "--for", "1h").code == 0
    assert " · then it stops" in desk.run("status", "latest").out
    process.send_signal(signal.SIGTERM)
    done = desk.end(process)
    assert done.code == 143
    assert desk.run("run", "job.yaml", "--yes", "--endpoint", backend.endpoint).code == 3


def test_what_cannot_be_paused_is_refused_with_the_right_command(desk: Desk, backend: Backend) -> None:
    """A run that has ended, was cut off, is simulated, lies elsewhere, or was begun on another host."""
    desk.job(*(f"postgres-{number:08}/app" for number in range(3)))
    assert desk.run("run", "job.yaml", "--yes", "--quiet", "--endpoint", backend.endpoint).code == 0
    run = run_id(desk)
    ended = desk.run("pause", run)
    assert ended.code == 2 and "has ended" in ended.err and f"acctops report {run}" in ended.err
    copy = desk.write("copy.jsonl", desk.journal().read_bytes())
    assert "outside a state directory" in desk.run("pause", copy).err
    wrong = desk.run("pause", run, "--for", "soon")
    assert wrong.code == 2 and "--for soon" in wrong.err
    assert desk.run("run", "job.yaml", "--simulate", "--yes", "--quiet").code == 0
    simulated = desk.journals(simulated=True)[-1].parent.name
    refused = desk.run("pause", simulated)
    assert refused.code == 2 and "is simulated" in refused.err
    missing = desk.run("pause", "nothing")
    assert missing.code == 2


def test_a_run_of_the_real_api_is_held_to_the_quota_and_named_by_its_host(desk: Desk) -> None:
    """Above it only with `quotas`, as at the start; who types it on another host learns where the run is.

    A run of a database is nobody's host's: any host goes on with it.
    """
    store, run = desk.runs(), RunId("20260921T000000Z-test")
    calls = make_plan("LockAccount", fleet(2, 2))
    settings = run_settings(endpoint=("https://postgres.tencentcloudapi.com",))
    ledger = Ledger(replace(run_line(calls, settings), run=run, simulated=False))
    journal = store.create(run, first_lines(calls, ledger), clock=time.time)
    above = desk.run("change", run, "--rate", "21")
    assert above.code == 2 and "above the quota" in above.err and "quotas:" in above.err
    assert store.asked(run) == ()
    journal.close()
    elsewhere = desk.run("pause", run)
    words = "is not live on this host; it was begun on here" if desk.database is None else f"acctops resume {run}"
    assert elsewhere.code == 2 and words in elsewhere.err


def test_a_live_run_is_changed_from_another_shell(desk: Desk, backend: Backend) -> None:
    """Rate, what is left out and what goes first: acknowledged, reported by whom, and counted against exit 0."""
    process = begin(desk, backend)
    assert desk.run("pause", "latest").code == 0
    changed = desk.run("change", "latest", "--rate", "50", "--drop", "*/user59", "--first", "*/user58")
    assert changed.code == 0, changed.text
    assert " · dropped 1 · " in desk.run("status", "latest").out
    again = desk.run("change", "latest", "--drop", "postgres-00000059/user59")
    assert again.code == 2 and "dropped already, by " in again.err and "did you mean" not in again.err
    both = desk.run("change", "latest", "--drop", "*/user59", "--drop", "*/user57", "--drop", "*/user0")
    assert both.code == 1 and "1 dropped; 1 sent before, which cannot be dropped" in both.out
    assert "--target postgres-00000000/user0" in both.out
    listed = desk.run("status").out
    assert "LIVE" in listed and "PAUSED by " in listed
    waits = desk.run("run", "job.yaml", "--yes", "--endpoint", backend.endpoint)
    assert waits.code == 6 and " paused at " in waits.err and "acctops resume " in waits.err
    assert "rate 50 a second" in changed.out and "1 dropped" in changed.out and "1 go first" in changed.out
    assert desk.run("resume", "latest").code == 0
    done = desk.end(process)
    assert done.code == 1 and done.json["left_out"]["dropped"] == 2 and done.json["counts"]["failed"] == 2
    assert done.json["failures"][0]["code"] == "Local.Dropped"
    assert "2 of these dropped by " in desk.run("report", "latest").out
    assert not [write for write in backend.writes() if "user59" in str(write)]


def test_a_change_that_says_nothing_or_cannot_be_changes_nothing(desk: Desk, backend: Backend) -> None:
    """No argument, an unknown account, a call that was sent, both ways at once, a rate that is none: exit 2."""
    process = begin(desk, backend)
    assert desk.run("pause", "latest").code == 0
    for argv, words in (
        ((), "say what to change"),
        (("--drop", "*/nobody"), "--drop */nobody: matches none"),
        (("--first", "postgres-99999999/app"), "--first postgres-99999999/app: matches none"),
        (("--drop", "@none.txt"), "cannot be read"),
        (("--drop", "*/user0"), "undo it"),
        (("--drop", "*/user59", "--first", "*/user5?"), "--drop and by --first"),
        (("--rate", "0"), "--rate"),
    ):
        refused = desk.run("change", "latest", *argv)
        assert refused.code == 2 and words in refused.err, (argv, refused.text)
    assert not notes(desk, "changed")
    assert desk.run("stop", "latest").code == 0
    desk.end(process)
