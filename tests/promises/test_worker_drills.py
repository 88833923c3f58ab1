"""Disasters of a fleet of three workers: processes, PostgreSQL, sockets and signals are real, runs and sends too.

Each drill ends with the checker (`tests.support.fleet`): what the server saw is what the journals say; nothing is lost,
doubled, unrecorded or settled twice; no record and no send by an older epoch behind a newer; at most 20 in any second
of any lane; the chains hold; an undo from another host leaves every account as it was. How long lanes were silent is
printed and not asserted: a busy machine fails no test.

`ACCTOPS_LONG=1`: a server that is gone for 30 s, too. `ACCTOPS_SOAK=seconds[:seed]`: random disasters, one after the
other, for so many seconds.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from random import Random

import pytest

from tests.support.command import PATIENCE_S
from tests.support.fleet import FENCED, Facts, Fleet, Member, Work, fleet, report, silence, until
from tests.support.postgres import Postgres

CALLS = 240
BEGUN = 40
"""So many writes have arrived when the disaster comes."""
HANG_S = 10.0
"""Nothing takes so long but a hang."""
LONG = bool(os.environ.get("ACCTOPS_LONG"))
SOAK = os.environ.get("ACCTOPS_SOAK", "")


@pytest.fixture(scope="module")
def of_module(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[Fleet]:
    """Three workers, which stay for all drills of a test process; who ended is started anew."""
    with fleet(tmp_path_factory.mktemp("fleet"), postgres) as made:
        yield made


@pytest.fixture
def site(of_module: Fleet) -> Fleet:
    """Three workers that are there, and a server that has seen nothing yet."""
    of_module.fresh()
    return of_module


def begun(site: Fleet, calls: int = CALLS, *, extra: str = "") -> Work:
    """A run of which some writes have arrived."""
    work = site.submit(calls, extra=extra)
    site.wait_for(work, BEGUN)
    return work


def told(drill: str, facts: Facts, **figures: float) -> None:
    """Print what a drill found."""
    more = ", ".join(f"{what.replace('_', ' ')} {value:.2f} s" for what, value in figures.items())
    report(f"{drill}: {more + '; ' if more else ''}{facts}")


def test_a_worker_that_is_killed_is_replaced_within_seconds(site: Fleet) -> None:
    """kill -9: the others take its lanes and end the run."""
    work = begun(site)
    victim = site.busiest(work.run)
    lanes = site.lanes_of(work.run, victim)
    at = time.time()
    site.kill(victim)
    site.wait_end(work)
    silent_s = silence(site, work, lanes, at)
    facts = site.check(work)
    told("kill -9", facts, silent=silent_s)
    assert facts.takeovers and silent_s <= HANG_S


def test_a_worker_that_slept_sends_nothing_when_it_wakes(site: Fleet) -> None:
    """SIGSTOP for 8 s while the run goes on without it: not one byte after waking, and exit 75."""
    work = begun(site, extra="rate: 5")
    victim = site.busiest(work.run)
    pid = victim.pid
    at = time.time()
    victim.signal(signal.SIGSTOP)
    time.sleep(8)
    wakes = time.time()
    victim.signal(signal.SIGCONT)
    until(victim.has_ended)
    site.wait_end(work)
    sends = site.sends_of(work, pid)
    assert sends and not [moment for moment in sends if moment >= wakes], "it sent after it woke"
    assert victim.exits[-1] == FENCED, victim.said[-2000:]
    told("freeze of 8 s", site.check(work), last_send_after=max(sends) - at)


def test_a_worker_that_is_cut_off_falls_silent_and_leaves(site: Fleet) -> None:
    """Its bytes to the database vanish: it sends for a second at most; once healed it learns that it was replaced."""
    work = begun(site, extra="rate: 5")
    victim = site.busiest(work.run)
    pid = victim.pid
    at = time.time()
    victim.cable.cut()
    time.sleep(6)
    victim.cable.heal()
    until(victim.has_ended)
    site.wait_end(work)
    assert victim.exits[-1] == FENCED, victim.said[-2000:]
    last_s = max(site.sends_of(work, pid)) - at
    told("cut off for 6 s", site.check(work), last_send_after=last_s)
    assert last_s < 2.0, "leave to send ends after a second"


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_server_that_restarts_pauses_all(site: Fleet, postgres: Postgres, mode: str) -> None:
    """All workers wait for it, and go on by themselves with what they had."""
    work = begun(site)
    at = time.time()
    postgres.stop(mode=mode)
    postgres.start()
    site.wait_end(work)
    silent_s = longest_silence(site, work, at)
    told(f"server restarted, {mode}", site.check(work), silent=silent_s)


@pytest.mark.parametrize(
    "seconds", [5, pytest.param(30, marks=pytest.mark.skipif(not LONG, reason="ACCTOPS_LONG=1 lets it go on for 30 s"))]
)
def test_a_server_that_is_gone_stops_every_send(site: Fleet, postgres: Postgres, seconds: int) -> None:
    """No leave, no bytes; the workers stay, and go on once it is back."""
    work = begun(site)
    at = time.time()
    postgres.stop(mode="immediate")
    try:
        time.sleep(seconds)
    finally:
        back = time.time()
        postgres.start()
    site.wait_end(work)
    meanwhile = [each.at for each in site.writes(work) if at + 2.0 < each.at < back]
    assert not meanwhile, "sent without leave"
    silent_s = longest_silence(site, work, at)
    told(f"server gone for {seconds} s", site.check(work), silent_beyond_it=silent_s - (back - at))


def test_ended_sessions_cost_a_moment(site: Fleet, postgres: Postgres) -> None:
    """The server drops every connection; nobody loses a lane for good, and nothing is lost."""
    work = begun(site)
    at = time.time()
    end_sessions(site)
    site.wait_end(work)
    silent_s = longest_silence(site, work, at)
    told("all sessions ended", site.check(work), silent=silent_s)


def test_two_runs_share_the_quota_of_their_lanes(site: Fleet) -> None:
    """One pacer a lane, whoever serves it, for whichever run; with a worker killed in the middle."""
    first = site.submit(CALLS)
    second = site.submit(CALLS)
    site.wait_for(second, 20)
    victim = site.busiest(second.run)
    site.kill(victim)
    site.start(victim)
    site.wait_end(first, second)
    told("two runs on the same lanes, kill -9", site.check(first, second))


def test_clocks_an_hour_apart_change_nothing(site: Fleet) -> None:
    """One worker an hour ahead, one an hour behind; one of them is killed, and another clock goes on with its lanes."""
    ahead, behind, _ = site.members
    try:
        for member, ahead_s in ((ahead, 3600.0), (behind, -3600.0)):
            member.ahead_s = ahead_s
            site.kill(member)
        site.fresh()
        work = begun(site)
        site.kill(ahead if site.lanes_of(work.run, ahead) else behind)
        site.wait_end(work)
        told("clocks two hours apart, kill -9", site.check(work, one_clock=False))
    finally:
        for member in (ahead, behind):
            member.ahead_s = 0.0
            if not member.has_ended():
                site.kill(member)


def test_a_submitter_that_dies_before_it_submits_has_sent_nothing(site: Fleet, postgres: Postgres) -> None:
    """kill -9 between creating the run and submitting it: the run stays, and is gone on with from another host."""
    import psycopg

    work = site.job(CALLS // 2)
    with psycopg.connect(postgres.url(site.database)) as other:
        other.execute("lock table acctops.request in exclusive mode")  # what `submit` writes to, and nobody else
        process = work.desk.popen("run", "job.yaml", "--yes")
        asks = "select pid from pg_stat_activity where query like '%acctops.submit(%' and wait_event_type = 'Lock'"
        until(lambda: bool(site.sql(asks)))
        process.kill()
        work.desk.end(process)
        site.sql(f"select pg_terminate_backend(pid) from ({asks}) as x")
    run = site.sql("select id from acctops.run where not submitted order by created_at desc limit 1")
    work.run = str(run[0][0])
    time.sleep(1.5)  # three looks of each worker
    assert site.writes(work) == []
    resumed = site.host().run("resume", work.run, "--yes", "--detach")
    assert resumed.code == 0, resumed.text
    site.wait_end(work)
    told("submitter killed before it submits", site.check(work))


def test_a_submitter_that_dies_right_behind_it_is_not_missed(site: Fleet) -> None:
    """kill -9 as soon as the run is submitted: nobody follows it, nobody asked for sessions, and it ends."""
    work = site.job(CALLS // 2)
    process = work.desk.popen("run", "job.yaml", "--yes")
    rows: list[tuple[object, ...]] = []

    def is_submitted() -> bool:
        rows[:] = site.sql("select id from acctops.run where submitted")
        return bool(rows)

    until(is_submitted)
    process.kill()
    work.desk.end(process)
    work.run = str(rows[0][0])
    site.wait_end(work)
    told("submitter killed behind it", site.check(work))


def test_a_worker_that_is_told_to_leave_gives_its_lanes_back(site: Fleet) -> None:
    """SIGTERM: each attempt is recorded to its end, exit 0, and the others go on at once."""
    work = begun(site)
    victim = site.busiest(work.run)
    lanes = site.lanes_of(work.run, victim)
    at = time.time()
    victim.signal(signal.SIGTERM)
    until(victim.has_ended)
    left_s = time.time() - at
    assert victim.exits[-1] == 0, victim.said[-2000:]
    site.wait_end(work)
    silent_s = silence(site, work, lanes, at)
    facts = site.check(work)
    told("SIGTERM", facts, left_after=left_s, silent=silent_s)
    assert not facts.unanswered, "an attempt was lost"


def test_a_run_whose_leader_is_killed_is_led_on(site: Fleet) -> None:
    """kill -9 of the worker that leads the run: another takes its chain 0, and writes the one end."""
    work = begun(site, extra="rate: 4")
    victim = site.leader(work.run)
    killed = time.monotonic()
    site.kill(victim)
    until(lambda: site.leader(work.run) is not victim)
    led_s = time.monotonic() - killed
    assert len(site.writes(work)) < CALLS, "lanes of others go on meanwhile"
    site.wait_end(work)
    facts = site.check(work)
    told("leader killed", facts, led_again_after=led_s)
    assert ends_of(site, work) == 1


def test_a_soak_goes_on_though_its_leader_is_killed(site: Fleet) -> None:
    """kill -9 of the leader between two waves: nothing of the second leaves before the soak is over, then all of it."""
    work = site.submit(CALLS, extra="waves: [{take: 60, soak: 2s}, {take: rest}]")
    site.wait_for(work, 60)
    victim = site.leader(work.run)
    site.kill(victim)
    killed = time.time()
    site.start(victim)
    site.wait_end(work)
    moments = sorted(each.at for each in site.writes(work) if each.applied)
    soaked_s = moments[60] - moments[59]
    facts = site.check(work)
    told("leader killed during a soak of 2 s", facts, soaked=soaked_s, first_behind_it=moments[60] - killed)
    assert soaked_s >= 2.0 and ends_of(site, work) == 1


@pytest.mark.skipif(not SOAK, reason="ACCTOPS_SOAK=seconds[:seed] lets disasters come one after the other")
@pytest.mark.timeout(0)
def test_random_disasters(site: Fleet, postgres: Postgres) -> None:
    """Whatever comes, in whichever order, with two runs at a time: the same checker at the end."""
    seconds, _, seed = SOAK.partition(":")
    rng, ends = Random(int(seed or 7)), time.monotonic() + float(seconds)
    done: Counter[str] = Counter()
    works: list[Work] = []
    while time.monotonic() < ends:
        live = site.sql("select count(*) from acctops.run where submitted")
        if live and int(str(live[0][0])) < 2:
            works.append(site.submit(960))
        victim = rng.choice(site.members)
        what = rng.choice(["kill", "kill", "kill the leader", "freeze", "freeze", "cut", "sessions", "server", "leave"])
        if what == "kill the leader":
            victim = site.leader(works[-1].run)
        if not victim.has_ended():
            done[what] += 1
            _strike(site, postgres, what, victim, rng)
        for member in site.members:
            if member.has_ended():
                done[f"started anew behind {member.exits[-1]}"] += 1
                site.start(member)
        time.sleep(rng.uniform(1, 6))
    site.supervise()
    site.wait_end(*works, patience_s=10 * PATIENCE_S)
    facts = site.check(*works)
    told(f"soak of {SOAK}, {len(works)} runs, {dict(done)}", facts)


def _strike(site: Fleet, postgres: Postgres, what: str, victim: Member, rng: Random) -> None:
    match what:
        case "kill" | "kill the leader":
            site.kill(victim)
        case "freeze":
            victim.signal(signal.SIGSTOP)
            time.sleep(rng.choice([0.7, 2.5, 4.5, 7]))
            victim.signal(signal.SIGCONT)
        case "cut":
            victim.cable.cut()
            time.sleep(rng.choice([0.7, 2.5, 4.5, 7]))
            victim.cable.heal()
        case "sessions":
            end_sessions(site)
        case "server":
            postgres.stop(mode=rng.choice(["fast", "immediate"]))
            time.sleep(rng.choice([0, 3]))
            postgres.start()
        case _:
            victim.signal(signal.SIGTERM)


def end_sessions(site: Fleet) -> None:
    """Let the server end all sessions but the one that asks."""
    site.sql(
        "select pg_terminate_backend(pid) from pg_stat_activity "
        f"where pid <> pg_backend_pid() and datname = '{site.database}'"
    )


def ends_of(site: Fleet, work: Work) -> int:
    """How many ends the run itself has."""
    return len([line for line, _, _ in site.lines(work.run) if line["kind"] == "end" and not line.get("shard")])


def longest_silence(site: Fleet, work: Work, at: float) -> float:
    """The longest time from `at` on in which nothing of a run arrived."""
    sent = [each.at for each in site.writes(work) if each.at > at and each.action == work.action]
    return max((later - earlier for earlier, later in pairwise([at, *sent])), default=0.0)
