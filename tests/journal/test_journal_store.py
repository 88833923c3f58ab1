"""The directory of runs: which there are, which is meant, and who works on it."""

from __future__ import annotations

import os
import pwd
import re
import shutil
from pathlib import Path
from random import Random

import pytest

from engine.errors import BusyError, ConfigError, Reason, UsageError
from engine.inputs.config import find_configs
from engine.journal.records import End
from engine.journal.store import FileRef, RunStore, find_run
from engine.journal.writer import FileJournal
from engine.model import RunId
from engine.outside.trust import Trust
from engine.pacing.slots import SharedSlots
from tests.support.journals import NOW, end, plan, story, ticking, write_run


def make(store: RunStore, run_id: str, *, job: str = "leak", at: float = NOW, ended: bool = True) -> RunId:
    journal = FileJournal.create(store, RunId(run_id), plan(1, job=job, simulated=store.simulated), clock=ticking(at))
    if ended:
        journal.append(end())
    journal.close()
    return RunId(run_id)


@pytest.fixture
def real(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "state")


@pytest.fixture
def simulated(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "state", simulated=True)


def test_a_run_id_starts_with_its_time_and_is_nobody_elses(real: RunStore, simulated: RunStore) -> None:
    """Sorted by name is sorted by age; real and simulated runs never share an id."""
    first = real.new_run_id(NOW, Random(7))
    assert re.fullmatch(r"20260921T141320Z-[a-z2-9]{4}", first)
    simulated.make_run_dir(first)
    assert real.new_run_id(NOW, Random(7)) not in (first, "")
    assert real.path(first) == real.state_dir / "runs" / first / "journal.jsonl"
    assert simulated.path(first) == real.state_dir / "simulated" / "runs" / first / "journal.jsonl"


def test_a_listing_tells_the_first_and_last_line_newest_first(real: RunStore) -> None:
    """Within one second the time of the first record decides, not the name."""
    make(real, "20261122T031321Z-zzzz", at=NOW)
    make(real, "20261122T031321Z-aaaa", at=NOW + 0.5, ended=False)
    make(real, "20261121T031321Z-mmmm", at=NOW - 1, job="cam")
    heads = real.list()
    assert [head.run_id[-4:] for head in heads] == ["aaaa", "zzzz", "mmmm"]
    assert [head.job for head in heads] == ["leak", "leak", "cam"]
    assert [isinstance(head.end, End) for head in heads] == [False, True, True]
    assert heads[0].action == "LockAccount"
    assert heads[0].calls == 1
    assert heads[0].started_at == "2026-09-21T14:13:20.500Z"
    assert heads[0].place == str(real.path(heads[0].run_id))
    assert not any(head.live or head.simulated or head.problem for head in heads)


def test_a_journal_that_cannot_be_read_does_not_hide_the_others(real: RunStore) -> None:
    """It is listed with what is wrong."""
    make(real, "20261122T031321Z-aaaa")
    make(real, "20261122T031322Z-bbbb")
    real.path("20261122T031322Z-bbbb").write_text("nonsense\n")
    bad, good = real.list()
    assert bad.problem is not None
    assert ":1: not JSON" in bad.problem
    assert (bad.job, bad.started_at, good.problem) == ("", "", None)
    assert find_run(real.state_dir, "latest").run_id == bad.run_id


def test_no_directory_no_runs_and_nothing_is_created(real: RunStore) -> None:
    """Reading never makes a directory."""
    assert real.list() == ()
    assert not real.is_live("x")
    assert not real.stop_requested("x")
    with pytest.raises(UsageError, match="there are none"):
        find_run(real.state_dir, "2026")
    with pytest.raises(UsageError, match=r"no runs in .*state/runs"):
        find_run(real.state_dir, "latest")
    assert not real.state_dir.exists()


def test_a_runs_directory_that_is_none(tmp_path: Path) -> None:
    """Named, with the flag that names another."""
    (tmp_path / "runs").write_text("")
    with pytest.raises(UsageError, match=f"{tmp_path}/runs: cannot be read: Not a directory; see --state-dir"):
        RunStore(tmp_path).list()


class TestFind:
    """RUN is an id, a unique prefix, `latest`, `latest:JOBNAME`, or a path."""

    @pytest.fixture
    def state(self, real: RunStore, simulated: RunStore) -> Path:
        make(real, "20261122T031321Z-aaaa")
        make(real, "20261122T031321Z-aaab", job="cam")
        make(real, "20261123T000000Z-cccc")
        make(simulated, "20261122T031321Z-sssa")
        make(simulated, "20261124T000000Z-dddd")
        return real.state_dir

    @pytest.mark.parametrize(
        ("text", "run_id"),
        [
            ("20261122T031321Z-aaaa", "20261122T031321Z-aaaa"),
            ("20261123", "20261123T000000Z-cccc"),
            ("latest", "20261123T000000Z-cccc"),
            ("latest:", "20261123T000000Z-cccc"),
            ("latest:cam", "20261122T031321Z-aaab"),
            ("20261124", "20261124T000000Z-dddd"),
            ("20261122T031321Z-s", "20261122T031321Z-sssa"),
        ],
    )
    def test_what_is_found(self, state: Path, text: str, run_id: str) -> None:
        """Simulated runs by id and prefix only."""
        found = find_run(state, text)
        simulated = run_id[-4:] in ("sssa", "dddd")
        assert found == FileRef(
            run_id=RunId(run_id),
            path=RunStore(state, simulated=simulated).path(run_id),
            simulated=simulated,
            store=found.store,
        )
        assert found.store is not None
        assert found.store.path(run_id) == found.path

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("20261122T031321Z", "is the beginning of 2 runs in .*/runs: 20261122T031321Z-aaab, 20261122T031321Z-aaaa"),
            ("2025", "no run '2025' in .*/state/runs and .*/simulated/runs; there are 20261123T000000Z-cccc"),
            ("", "no run '' in"),
            ("latest:none", "no run of job 'none' in .*; there are runs of leak, cam"),
            ("no/such/run", "no/such/run: no such journal"),
        ],
    )
    def test_what_is_not_found_names_candidates_and_directory(self, state: Path, text: str, why: str) -> None:
        """Nobody should have to guess what there is."""
        with pytest.raises(UsageError, match=why) as error:
            find_run(state, text)
        assert error.value.reason is Reason.USAGE

    def test_at_most_five_candidates(self, real: RunStore) -> None:
        """The rest is counted."""
        for number in range(7):
            make(real, f"20261122T03132{number}Z-aaaa")
        with pytest.raises(UsageError, match=r"beginning of 7 runs .*Z-aaaa and 2 more$"):
            find_run(real.state_dir, "2026")

    def test_a_real_run_comes_before_a_simulated_one(self, state: Path, real: RunStore) -> None:
        """A prefix of one of each means the real one."""
        make(real, "20261124T000000Z-real")
        assert find_run(state, "20261124").run_id == "20261124T000000Z-real"

    def test_latest_of_a_simulated_store_is_none(self, state: Path) -> None:
        """`latest` is what a hurried person types."""
        with pytest.raises(UsageError, match="never `latest`"):
            RunStore(state, simulated=True).find("latest")
        assert RunStore(state, simulated=True).find("20261124").simulated
        assert RunStore(state).find("latest").run_id == "20261123T000000Z-cccc"

    def test_by_path(self, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A journal, or its directory; its store is found too, and keeps its group."""
        monkeypatch.chdir(state / "runs")
        run_id = "20261123T000000Z-cccc"
        for text in (f"{run_id}/", f"./{run_id}/journal.jsonl", str(state / "runs" / run_id)):
            found = find_run(state, text, group="staff")
            assert found.run_id == "20261123T000000Z-cccc"
            assert found.store is not None
            assert found.store.group == "staff"
            other = find_run(tmp_path / "other", text)
            assert other.store is not None
            assert other.store.runs_dir == state / "runs"
        assert find_run(tmp_path / "other", "20261123T000000Z-cccc").store is not None
        simulated = find_run(tmp_path / "other", str(state / "simulated/runs/20261124T000000Z-dddd"))
        assert simulated.simulated
        assert simulated.store is not None
        assert simulated.store.simulated
        assert simulated.store.state_dir == state

    def test_a_journal_that_was_copied_elsewhere_can_only_be_read(self, state: Path, tmp_path: Path) -> None:
        """There is no lock and no directory of runs to work in."""
        text = find_run(state, "latest").path.read_bytes()
        copy = tmp_path / "evidence.jsonl"
        copy.write_bytes(text)
        found = find_run(state, str(copy))
        assert (found.run_id, found.path, found.store) == ("20261123T000000Z-cccc", copy, None)
        moved = tmp_path / "runs" / "renamed" / "journal.jsonl"
        moved.parent.mkdir(parents=True)
        moved.write_bytes(text)
        assert find_run(state, str(moved)).store is None

    def test_a_simulated_journal_among_real_runs_is_not_worked_on(self, state: Path, real: RunStore) -> None:
        """Somebody moved it there."""
        path = find_run(state, "20261124").path
        path.parent.rename(real.run_dir("20261124T000000Z-dddd"))
        found = find_run(state, str(real.path("20261124T000000Z-dddd")))
        assert found.simulated
        assert found.store is None


class TestLocks:
    """J5 within the store; across processes: test_journal_writer."""

    def test_j5_a_run_is_live_while_its_journal_is_open(self, real: RunStore) -> None:
        """Asking creates nothing and does not disturb."""
        run_id, _ = write_run(real, story())
        (real.run_dir(run_id) / "lock").unlink()
        assert not real.is_live(run_id)
        assert not (real.run_dir(run_id) / "lock").exists()
        with real.lock(run_id):
            assert real.is_live(run_id)
            assert real.head(run_id).live
        assert not real.is_live(run_id)

    def test_j5_busy_names_the_holder_of_a_first_session(self, real: RunStore) -> None:
        """From the run's own line; and if there is none yet, says so."""
        run_id = make(real, "20261122T031321Z-aaaa")
        lock = real.lock(run_id)
        with pytest.raises(BusyError, match=r"by process 4711 on ops1 \(ann, run, since 2026-09-21T"):
            real.lock(run_id)
        real.path(run_id).unlink()
        with pytest.raises(BusyError, match="by another process"):
            real.lock(run_id)
        lock.release()
        lock.release()
        real.lock(run_id).release()

    def test_a_request_to_stop_is_seen_and_forgotten(self, real: RunStore) -> None:
        """Made from another shell, polled by the run."""
        run_id, _ = write_run(real, story())
        assert not real.stop_requested(run_id)
        real.request_stop(run_id)
        real.request_stop(run_id)
        assert real.stop_requested(run_id)
        real.clear_requests(run_id)
        real.clear_requests(run_id)
        assert not real.stop_requested(run_id)
        with pytest.raises(UsageError, match="cannot be written"):
            real.request_stop("no-such-run")

    def test_discarding_never_touches_a_run_that_exists(self, real: RunStore) -> None:
        """Nor a directory with something else in it."""
        run_id, text = write_run(real, story())
        real.discard_unborn(run_id)
        assert real.path(run_id).read_bytes() == text
        real.make_run_dir("other")
        (real.run_dir("other") / "mine").touch()
        real.discard_unborn("other")
        assert (real.run_dir("other") / "mine").exists()

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root may write in the home of another")
    def test_root_writes_no_journals_into_another_home(self, tmp_path: Path) -> None:
        """They would be closed to whose home it is; root's own places, and those of whom it trusts, are fine."""
        home = tmp_path / "alice"
        home.mkdir()
        os.chown(home, 12345, -1)

        def owner_of(uid: int) -> pwd.struct_passwd:
            assert uid == 12345
            return pwd.struct_passwd(("alice", "x", uid, uid, "", str(home), "/bin/sh"))

        def nobody(uid: int) -> pwd.struct_passwd:
            raise KeyError(uid)

        store = RunStore(home / ".local" / "state" / "acctops")
        with pytest.raises(ConfigError, match="lies in the home of alice, and this runs as root") as error:
            store.check_place(owner_of)
        assert "ACCTOPS_STATE_DIR" in str(error.value)
        with pytest.raises(ConfigError, match=r"alice belongs to user 12345: .* `trust_owners"):
            store.check_place(nobody)
        trusting = RunStore(store.state_dir, trust=Trust(uids=frozenset({12345})))
        trusting.check_place(nobody)
        RunStore(tmp_path / "state").check_place(owner_of)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
    def test_a_group_without_a_name_is_known_by_its_number(self, tmp_path: Path) -> None:
        """A volume of a pod belongs to its fsGroup, which has no name there: what a refusal says to write does work."""
        volume = tmp_path / "volume"
        volume.mkdir()
        os.chown(volume, 0, 54321)
        volume.chmod(0o2775)
        with pytest.raises(ConfigError, match="trust the group: `state_group: 54321`"):
            RunStore(volume).check_place()
        own = tmp_path / "config.yaml"
        own.write_text("state_group: 54321\n")
        trust = find_configs(tmp_path / "job", environ={}, system=own).trust
        store = RunStore(volume, group="54321", trust=trust)
        store.check_place()
        store.make_run_dir("x")
        assert {path.stat().st_gid for path in volume.rglob("*")} == {54321}
        SharedSlots(volume / "lanes", "lane", group="54321", trust=trust).close()

    def test_a_group_that_is_not_there_leaves_nothing_open_or_made(self, tmp_path: Path) -> None:
        """Named as the setting it comes from."""
        store = RunStore(tmp_path, group="nosuch")
        with pytest.raises(ConfigError, match="state_group: there is no group 'nosuch' here"):
            store.make_run_dir("x")
        assert list(tmp_path.iterdir()) == []
        with pytest.raises(ConfigError, match="state_group"):
            store.create_file(tmp_path / "x")


class TestCopies:
    """A run has one journal, in the directory of its name."""

    @pytest.mark.parametrize("how", ["copy", "link"])
    def test_a_copy_of_a_run_is_named_and_only_read(self, real: RunStore, how: str) -> None:
        """Somebody saved one beside it: it counts as no second run, and is not gone on with."""
        run_id = make(real, "20261122T031321Z-aaaa", ended=False)
        copy = real.run_dir(f"{run_id}.bak")
        if how == "copy":
            shutil.copytree(real.run_dir(run_id), copy)
        else:
            copy.symlink_to(real.run_dir(run_id))
        assert f"is run {run_id} by its first line" in str(real.head(copy.name).problem)
        assert real.head(run_id).problem is None
        found = find_run(real.state_dir, copy.name)
        assert (found.run_id, found.path, found.store) == (run_id, copy / "journal.jsonl", None)
        assert find_run(real.state_dir, run_id).store is not None


class TestStrangers:
    """What is sent must not hang on what others can change."""

    def test_a_run_that_others_can_change_is_read_and_not_gone_on_with(self, real: RunStore) -> None:
        """The journal, its directory, or the whole state directory: each is named, with who could change it."""
        run_id = make(real, "20261122T031321Z-aaaa", ended=False)
        for path in (real.path(run_id), real.run_dir(run_id), real.runs_dir, real.state_dir):
            mode = path.stat().st_mode
            path.chmod(mode | 0o002)
            with pytest.raises(ConfigError, match=f"everybody can (write|replace .*) {path}: .* chmod o-w {path}"):
                FileJournal.open(real, run_id, clock=ticking())
            assert real.head(run_id).problem is None
            path.chmod(mode)
        FileJournal.open(real, run_id, clock=ticking())[0].close()

    def test_nothing_is_begun_where_others_can_write(self, real: RunStore) -> None:
        """Neither a run nor a claim."""
        real.state_dir.mkdir(mode=0o777)
        real.state_dir.chmod(0o777)
        with pytest.raises(ConfigError, match="everybody can write"):
            real.check_place()
        with pytest.raises(ConfigError, match="everybody can"):
            real.make_run_dir("x")
        assert list(real.state_dir.iterdir()) == []

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
    def test_a_journal_planted_by_another_is_not_gone_on_with(self, real: RunStore) -> None:
        """Unless the operator's own config trusts him."""
        run_id = make(real, "20261122T031321Z-aaaa", ended=False)
        os.chown(real.path(run_id), 12345, -1)
        with pytest.raises(ConfigError, match=r"journal.jsonl belongs to user 12345"):
            FileJournal.open(real, run_id, clock=ticking())
        trusting = RunStore(real.state_dir, trust=Trust(uids=frozenset({12345})))
        FileJournal.open(trusting, run_id, clock=ticking())[0].close()

    def test_a_planted_link_is_not_written_through(self, real: RunStore, tmp_path: Path) -> None:
        """The lock and the request to stop are files of ours."""
        run_id = make(real, "20261122T031321Z-aaaa")
        victim = tmp_path / "victim"
        for name in ("lock", "stop"):
            (real.run_dir(run_id) / name).unlink(missing_ok=True)
            (real.run_dir(run_id) / name).symlink_to(victim)
        with pytest.raises(ConfigError, match="lock cannot be written"):
            real.lock(run_id)
        with pytest.raises(UsageError, match="stop: cannot be written"):
            real.request_stop(run_id)
        assert not victim.exists()


class TestAClockThatWasAhead:
    """Runs that say they began later than now."""

    def test_latest_passes_over_them_and_names_them(self, real: RunStore) -> None:
        """One of an hour ahead would be `latest` for an hour."""
        early = make(real, "20260921T151320Z-bbbb", at=NOW + 3600)
        true = make(real, "20260921T141320Z-aaaa", at=NOW)
        for text in ("latest", "latest:leak"):
            found = find_run(real.state_dir, text, now=NOW + 60)
            assert (found.run_id, found.passed_over) == (true, (early,))
        assert find_run(real.state_dir, "latest", now=NOW + 4000).run_id == early
        assert find_run(real.state_dir, early, now=NOW).run_id == early
        assert [head.run_id for head in real.list()] == [early, true]

    def test_clocks_of_two_hosts_may_differ_by_minutes(self, real: RunStore) -> None:
        """That is no reason to pass over a run."""
        run_id = make(real, "20260921T141320Z-aaaa", at=NOW)
        assert find_run(real.state_dir, "latest", now=NOW - 240).run_id == run_id

    def test_if_there_are_no_others_they_are_named(self, real: RunStore) -> None:
        """Nobody is told that there are none."""
        make(real, "20260921T151320Z-bbbb", at=NOW + 3600)
        with pytest.raises(UsageError, match="20260921T151320Z-bbbb says it began later than now"):
            find_run(real.state_dir, "latest", now=NOW)


def test_a_disk_without_room_is_told_in_figures(real: RunStore) -> None:
    """Before a run exists: a disk that fills up in mid-run leaves calls nobody knows of."""
    with pytest.raises(ConfigError, match=r"[\d,.]+ MiB free, and the journal of 10,000,000,000 calls takes about"):
        real.check_room(10_000_000_000)
    assert real.check_room(1) is None
    assert not real.state_dir.exists()
