"""A journal whose hashes are right and whose words are nonsense: refused by name, and in nobody else's way."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import AcctopsError, JournalCorruptError
from engine.journal import reader
from engine.journal.store import RunStore
from engine.operations.success import first_of
from engine.simulator.world import World
from tests.support.command import Backend, Desk
from tests.support.journals import NOW, story, write_run

DEEP: Any = []
for _ in range(60):
    DEEP = [DEEP]
VERY_DEEP = "[" * 100_000 + "]" * 100_000
NONSENSE: list[Any] = [
    -1,
    0,
    1.5,
    -2.5,
    1e308,
    5e-324,
    10**30,
    2**63,
    True,
    None,
    "",
    "x" * 5000,
    "NaN",
    "2026-02-30T00:00:00.000Z",
    "0001-01-01T00:00:00.000+23:59",
    "9999-12-31T23:59:59.999Z",
    "2026-09-21T14:13:20.250+08:00",
    "../../../etc",
    "a\0b",
    "\u202e\x1b[2J",
    [],
    {},
    ["x", 1],
    {"run": 1, "guard": "x", "lane": [], "endpoints": 7, "account": {}, "uin": []},
    DEEP,
]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where values stand in a line, the line itself left out."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def sealed(lines: list[dict[str, Any]]) -> bytes:
    """The lines with hashes made to fit, as whoever knows the rule can."""
    head, out = "0" * 64, []
    for line in lines:
        content = json.dumps({key: value for key, value in line.items() if key != "hash"}, separators=(",", ":"))
        head = hashlib.sha256(f"{head}{content}".encode()).hexdigest()
        out.append(f'{content[:-1]},"hash":"{head}"}}\n')
    return "".join(out).encode()


def changed(lines: list[dict[str, Any]], rng: Random) -> bytes:
    """A journal with one to three values, or whole lines, that are not as they were."""
    lines = json.loads(json.dumps(lines))
    for _ in range(rng.randint(1, 3)):
        line = rng.choice(lines)
        how = rng.choice(["value"] * 6 + ["gone", "twice", "drop", "kind"])
        *path, last = rng.choice(list(places(line)))
        at: Any = line
        for key in path:
            at = at[key]
        if how == "value":
            at[last] = rng.choice(NONSENSE)
        elif how == "gone":
            del at[last]
        elif how == "kind":
            line["kind"] = rng.choice(["run", "call", "settled", "note", "end", "session", "wave"])
        elif how == "twice":
            lines.insert(rng.randint(0, len(lines)), dict(line))
        elif len(lines) > 1:
            lines.remove(line)
        if how in ("twice", "drop"):
            for number, each in enumerate(lines, 1):
                each["seq"] = number
    return sealed(lines)


COMMANDS = (
    ("status",),
    ("status", "--json"),
    ("status", "--since", "366d"),
    ("report", "--since", "366d"),
    ("report", "--since", "366d", "--format", "csv"),
    ("overdue", "leak", "--every", "366d"),
    ("status", "BAD"),
    ("status", "BAD", "--json"),
    ("report", "BAD", "--format", "json"),
    ("report", "BAD", "--format", "csv"),
    ("report", "BAD", "--format", "csv", "--attempts"),
    ("report", "BAD", "--pace"),
    ("report", "BAD", "--stuck"),
    ("report", "BAD", "--family"),
    ("journal", "verify", "BAD"),
)


@dataclass
class Shelf:
    """A state directory with a good run, and one that is to go bad."""

    desk: Desk
    good: str
    bad: str
    lines: list[dict[str, Any]]

    @property
    def path(self) -> Path:
        return RunStore(self.desk.state).path(self.bad)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    desk = Desk(tmp_path_factory.mktemp("desk"))
    store = RunStore(desk.state)
    good, _ = write_run(store, story(3))
    bad, text = write_run(store, story(3), now=NOW + 5)
    return Shelf(desk, good, bad, [json.loads(line) for line in text.splitlines()])


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_no_command_that_looks_falls_over_well_sealed_nonsense(shelf: Shelf, seed: int) -> None:
    """Whatever a journal says: each command ends in a sentence, and the other run is told of all the same."""
    rng = Random(seed)
    shelf.path.write_bytes(changed(shelf.lines, rng))
    others = (("status", "--json"), ("status", "--since", "366d"))
    for command in (rng.choice(COMMANDS), *others):
        done = shelf.desk.run(*(shelf.bad if word == "BAD" else word for word in command))
        assert "defect" not in done.text, (command, done.text)
        assert command not in others or shelf.good in done.text, (command, done.text)
    for read in (reader.replay, reader.verify):
        try:
            read(shelf.path)
        except AcctopsError as error:
            assert re.search(r":\d+: ", str(error)), error


ACTING = (
    ("resume", "BAD", "--yes"),
    ("rerun", "BAD", "--yes"),
    ("rerun", "BAD", "--only", "failed,unknown,unattempted", "--yes"),
    ("undo", "BAD", "--yes"),
    ("undo", "BAD", "--family", "--yes"),
    ("verify", "BAD"),
    ("stop", "BAD"),
)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_no_command_that_acts_falls_over_well_sealed_nonsense(seed: int) -> None:
    """Whatever a journal says: it is refused by name, or gone on with as far as it makes sense."""
    rng = Random(seed)
    with tempfile.TemporaryDirectory() as place, Backend(World(quotas={"*": None})) as backend:
        desk = Desk(Path(place))
        desk.env |= {"ACCTOPS_ENDPOINT": backend.endpoint, "ACCTOPS_DEADLINE": "2s"}
        bad, text = write_run(RunStore(desk.state), story(3))
        path = RunStore(desk.state).path(bad)
        path.write_bytes(changed([json.loads(line) for line in text.splitlines()], rng))
        command = tuple(bad if word == "BAD" else word for word in rng.choice(ACTING))
        done = desk.run(*command)
        assert "defect" not in done.text, (command, done.text)


@pytest.mark.parametrize("verb", ["undo", "rerun"])
def test_parents_that_lead_in_a_circle_hold_nobody_up(tmp_path: Path, verb: str) -> None:
    """Two journals that each say they go on with the other: a command that looked for their first run never ended."""
    desk = Desk(tmp_path)
    store = RunStore(desk.state)
    names = [write_run(store, story(3), now=NOW + 5 * number)[0] for number in range(2)]
    for name, other in zip(names, reversed(names), strict=True):
        lines = [json.loads(line) for line in store.path(name).read_bytes().splitlines()]
        lines[0]["parent"] = {"run": other, "verb": verb, "head": "ab" * 32}
        store.path(name).write_bytes(sealed(lines))
    for command in (("overdue", "leak", "--every", "366d"), ("status", "--since", "366d"), ("status", names[0])):
        assert "defect" not in desk.run(*command).text
    for command in (("undo", names[0], "--yes"), ("rerun", names[0], "--yes"), ("verify", names[0])):
        done = desk.run(*command)
        assert "defect" not in done.text and done.code != 0, (command, done.text)


@pytest.mark.parametrize("start", ["a", "b", "c", "d"])
def test_what_leads_into_a_circle_of_parents_is_one_family(start: str) -> None:
    """From wherever one starts it is the same family: else a job's last success would depend on the order of runs."""
    parents = {"a": "b", "b": "c", "c": "d", "d": "c"}  # `a` and `b` lead into the circle of `c` and `d`
    assert first_of(start, parents) == "c"


def test_a_run_that_is_its_own_parent_is_refused(tmp_path: Path) -> None:
    """No run goes on with itself."""
    desk = Desk(tmp_path)
    store = RunStore(desk.state)
    name, text = write_run(store, story(3))
    lines = [json.loads(line) for line in text.splitlines()]
    lines[0]["parent"] = {"run": name, "verb": "rerun", "head": "ab" * 32}
    store.path(name).write_bytes(sealed(lines))
    done = desk.run("status", name)
    assert done.code == 7 and "its parent is the run itself" in done.err


WATCHES: list[tuple[Any, bool]] = [
    ({"after": [300.0, 1800.0], "every": 86400.0, "for": 2592000.0}, True),
    ({"after": [300], "every": None, "for": None}, True),
    ({"after": [], "every": 60, "for": 60, "of a newer version": [1]}, True),
    ({}, False),
    ({"after": [], "every": None, "for": None}, False),
    ({"after": None, "every": 60, "for": 60}, False),
    ({"after": ["5m"]}, False),
    ({"after": [True]}, False),
    ({"after": [0]}, False),
    ({"after": [-300.0]}, False),
    ({"after": [1e300]}, False),
    ({"after": [1800, 300]}, False),
    ({"after": [300, 300]}, False),
    ({"after": list(range(1, 102))}, False),
    ({"after": [300], "for": 86400}, False),
    ({"after": [300], "every": 86400}, False),
    ({"after": [300], "every": 1, "for": 86400}, False),
    ({"after": [300], "every": 86400, "for": 60}, False),
    ({"after": [300], "every": "1d", "for": "30d"}, False),
    ({"after": {"300": 1}}, False),
]


@pytest.mark.parametrize(("watch", "is_right"), WATCHES)
def test_a_watch_that_no_job_can_ask_for_is_no_journal(tmp_path: Path, watch: Any, is_right: bool) -> None:
    """Whoever tends runs goes by it: a reading every microsecond, or in the year 10^290, is never begun."""
    store = RunStore(tmp_path)
    run, text = write_run(store, story(3))
    path = store.path(run)
    lines = [json.loads(line) for line in text.splitlines()]
    lines[0]["settings"]["watch"] = watch
    path.write_bytes(sealed(lines))
    if is_right:
        assert next(iter(reader.read(path))).settings.watch == watch  # type: ignore[union-attr]
    else:
        with pytest.raises(AcctopsError, match="the watch is none"):
            list(reader.read(path))


FORGED_WAVES: dict[str, dict[str, Any]] = {
    "another number of calls": {"calls": 1},
    "a wave that was not planned": {"n": 2},
    "the question of a gate that the run has not": {"n": 0, "calls": 0, "state": "passed", "until": None},
    "a red word without a gate": {"state": "red", "until": None},
    "a second plan": {"state": "planned", "until": None},
    "a state that is none": {"state": "skipped", "until": None},
    "a soak without its end": {"until": None},
    "an end without a soak": {"state": "passed"},
    "an end that is no time": {"until": "soon"},
}


@pytest.mark.parametrize("name", FORGED_WAVES)
def test_a_wave_that_no_run_writes_is_no_journal(tmp_path: Path, name: str) -> None:
    """What decides which calls may begin is believed only as far as a run can have written it."""
    store = RunStore(tmp_path)
    run, text = write_run(store, story(3))
    lines = [json.loads(line) for line in text.splitlines()]
    soak = next(line for line in lines if line.get("state") == "soaking")
    soak |= FORGED_WAVES[name]
    store.path(run).write_bytes(sealed([{key: v for key, v in line.items() if v is not None} for line in lines]))
    with pytest.raises(JournalCorruptError, match="makes no sense"):
        reader.replay(store.path(run))


def test_a_wave_passes_only_once_it_has_begun_and_a_session_keeps_the_waves(tmp_path: Path) -> None:
    """A line that skips a wave, or settings without waves, would let the rest go at once."""
    store = RunStore(tmp_path)
    run, text = write_run(store, story(3))
    lines = [json.loads(line) for line in text.splitlines()]
    for number, change in enumerate(({"state": "passed"}, {"waves": None})):
        forged = json.loads(json.dumps(lines))
        begun = next(line for line in forged if line.get("state") == "begun")
        session = next(line for line in forged if line["kind"] == "session" and line.get("settings"))
        (begun, session["settings"])[number].update(change)
        store.path(run).write_bytes(sealed(forged))
        with pytest.raises(JournalCorruptError, match=r"makes no sense: (wave 1 cannot be passed yet|its waves)"):
            reader.replay(store.path(run))
