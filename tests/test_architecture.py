"""Who may import whom: the floors of design §3 as a table with one row a module, and who alone may use what."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from enum import IntEnum
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ENGINE = Path(__file__).parent.parent / "engine"


class Floor(IntEnum):
    """A module imports from floors below its own, and beside it only what its row lists."""

    WORDS = 0
    RULES = 1
    DEVICES = 2
    ENGINE = 3
    DOOR = 4
    SIMULATOR = 9
    """Beside the house: it imports itself and, in one place, the words; only the door imports it."""


W, R, D, E, DOOR, SIM = Floor

TABLE: dict[str, tuple[Floor, str]] = {
    # module: its floor, and what it imports of its own floor
    "errors": (W, ""),
    "model": (W, ""),
    "actions": (R, ""),
    "admins": (R, "actions"),
    "backoff": (R, "verdicts"),
    "callqueue": (R, ""),
    "codes": (R, ""),
    "endings": (R, ""),
    "endpoints": (R, "names"),
    "envfile": (R, "foreign"),
    "foreign": (R, ""),
    "globs": (R, ""),
    "guards": (R, "actions job"),
    "job": (R, "match window"),
    "jobfile": (R, ""),
    "jobfile.accounts": (R, "jobfile.fields jobfile.filemodel jobfile.nodes names"),
    "jobfile.fields": (R, "globs job jobfile.filemodel jobfile.nodes jobfile.problems names"),
    "jobfile.filemodel": (R, "actions endpoints jobfile.values names window"),
    "jobfile.columns": (R, "names"),
    "jobfile.layout": (R, "jobfile.columns names"),
    "jobfile.lists": (R, "jobfile.columns jobfile.layout jobfile.problems jobfile.targets names"),
    "jobfile.notifying": (R, "job jobfile.fields jobfile.filemodel jobfile.nodes names"),
    "jobfile.matchentries": (R, "globs jobfile.fields jobfile.filemodel jobfile.nodes jobfile.targets match names"),
    "jobfile.parse": (
        R,
        "actions foreign guards job jobfile.accounts jobfile.fields jobfile.filemodel jobfile.lists jobfile.nodes "
        "jobfile.notifying jobfile.problems jobfile.targetentries jobfile.targets jobfile.values jobfile.windows "
        "jobfile.yamltext match names window",
    ),
    "jobfile.nodes": (R, ""),
    "jobfile.problems": (R, ""),
    "jobfile.schema": (R, "actions jobfile.fields jobfile.filemodel names"),
    "jobfile.targetentries": (
        R,
        "jobfile.fields jobfile.filemodel jobfile.matchentries jobfile.nodes jobfile.targets match names",
    ),
    "jobfile.targets": (R, "jobfile.problems names"),
    "jobfile.values": (R, "actions job names"),
    "jobfile.windows": (R, "jobfile.fields jobfile.filemodel jobfile.nodes window"),
    "jobfile.yamltext": (R, "jobfile.nodes jobfile.problems"),
    "history": (R, "ledger names undo"),
    "ledger": (R, "actions codes records"),
    "match": (R, "actions foreign names"),
    "names": (R, "foreign"),
    "nextstep": (R, "codes foreign ledger records"),
    "notices": (R, "ledger nextstep records report"),
    "outlook": (R, "actions admins codes guards plan records"),
    "plan": (R, ""),
    "policy": (R, "actions job"),
    "records": (R, "endpoints"),
    "report": (R, "actions codes ledger nextstep records spans verdicts"),
    "routes": (R, "endpoints"),
    "schedule": (R, ""),
    "schedule.cron": (R, "schedule.units window"),
    "schedule.envlines": (R, ""),
    "schedule.k8s": (R, "schedule.units"),
    "schedule.systemd": (R, "schedule.units window"),
    "schedule.units": (R, "window"),
    "signing": (R, "actions"),
    "spans": (R, ""),
    "turns": (R, "actions ledger outlook plan"),
    "undo": (R, "actions ledger outlook plan"),
    "verdicts": (R, "actions codes foreign"),
    "window": (R, "names"),
    "config": (D, "programs trust"),
    "credentials": (D, "credentials.chain credentials.source"),
    "credentials.chain": (
        D,
        "credentials.command credentials.environment credentials.files credentials.metadata credentials.network "
        "credentials.roles credentials.source trust",
    ),
    "credentials.command": (D, "credentials.source programs"),
    "credentials.environment": (D, "credentials.files credentials.source"),
    "credentials.files": (D, "credentials.source trust"),
    "credentials.keeper": (D, "credentials.source"),
    "credentials.metadata": (D, "credentials.network credentials.source"),
    "credentials.network": (D, ""),
    "credentials.roles": (D, "credentials.files credentials.network credentials.source credentials.sts"),
    "credentials.source": (D, ""),
    "credentials.sts": (D, "credentials.network credentials.source"),
    "files": (D, "trust"),
    "journal": (D, ""),
    "journal.lines": (D, ""),
    "journal.live": (D, "journal.locks journal.reader journal.store trust"),
    "journal.locks": (D, ""),
    "journal.reader": (D, "journal.lines journal.sense trust"),
    "journal.sense": (R, "actions records"),
    "journal.store": (D, "journal.locks journal.reader trust"),
    "journal.writer": (D, "journal.lines journal.locks journal.reader journal.store trust"),
    "limits": (D, ""),
    "metrics": (D, "trust"),
    "notify": (D, "programs transport wayout"),
    "pacing": (D, "slots"),
    "passwords": (D, "programs trust"),
    "programs": (D, ""),
    "settings": (D, "config trust wayout"),
    "trust": (D, ""),
    "settingwords": (D, "settings"),
    "slots": (D, "trust"),
    "transport": (D, "limits wayout"),
    "wayout": (D, ""),
    "client": (E, ""),
    "clients": (E, "client identity"),
    "closing": (E, "lanes"),
    "discovery": (E, "inventory"),
    "identity": (E, ""),
    "dispatch": (E, "judge lanes opening"),
    "inventory": (E, "client"),
    "judge": (E, "client inventory lanes"),
    "lanes": (E, "client clients"),
    "opening": (E, "inventory"),
    "overview": (E, "lanes readback"),
    "readback": (E, "inventory"),
    "runner": (E, "closing dispatch inventory judge lanes opening overview readback"),
    "__main__": (DOOR, "cli"),
    "cli": (DOOR, "cli.app cli.leaving cli.talk"),
    "cli.app": (
        DOOR,
        "cli.commands.equipping cli.commands.looking cli.commands.nightly cli.commands.planning cli.commands.running",
    ),
    "cli.anew": (DOOR, "cli.preparing cli.survey cli.talk"),
    "cli.ask": (DOOR, "cli.talk"),
    "cli.attending": (DOOR, "cli.earlier cli.kin cli.loops cli.measuring cli.options cli.talk"),
    "cli.checks": (DOOR, "cli.loops cli.options cli.sources cli.survey cli.talk"),
    "cli.commands": (DOOR, ""),
    "cli.commands.equipping": (DOOR, "cli.checks cli.configuring cli.flags cli.simulating cli.talk"),
    "cli.commands.looking": (DOOR, "cli.flags cli.lookback cli.talk cli.verifying cli.views"),
    "cli.commands.nightly": (DOOR, "cli.flags cli.lookback cli.scheduling"),
    "cli.commands.planning": (DOOR, "cli.flags cli.found cli.plans"),
    "cli.commands.running": (DOOR, "cli.continuing cli.flags cli.sending cli.starting cli.undoing cli.views"),
    "cli.configuring": (DOOR, "cli.options cli.talk"),
    "cli.continuing": (
        DOOR,
        "cli.ask cli.guarding cli.hours cli.kin cli.loops cli.options cli.preparing cli.sending cli.sources cli.talk",
    ),
    "cli.discovering": (DOOR, "cli.loops cli.survey cli.talk"),
    "cli.earlier": (DOOR, "cli.talk"),
    "cli.flags": (DOOR, ""),
    "cli.found": (DOOR, "cli.discovering cli.options cli.plans cli.preparing cli.sources cli.talk"),
    "cli.guarding": (DOOR, "cli.options cli.survey cli.talk"),
    "cli.hours": (DOOR, "cli.ask cli.options cli.talk"),
    "cli.kin": (DOOR, ""),
    "cli.leaving": (DOOR, ""),
    "cli.lookback": (DOOR, "cli.attending cli.earlier cli.kin cli.options cli.success cli.talk cli.views"),
    "cli.loops": (DOOR, "cli.leaving cli.talk"),
    "cli.measuring": (DOOR, "cli.success"),
    "cli.openings": (DOOR, "cli.earlier cli.hours cli.options cli.talk"),
    "cli.options": (DOOR, ""),
    "cli.plans": (DOOR, "cli.discovering cli.earlier cli.options cli.preparing cli.sources cli.survey cli.talk"),
    "cli.preparing": (DOOR, "cli.earlier cli.survey"),
    "cli.progress": (DOOR, "cli.talk"),
    "cli.scheduling": (DOOR, "cli.earlier cli.options cli.talk"),
    "cli.sending": (
        DOOR,
        "cli.anew cli.ask cli.attending cli.discovering cli.earlier cli.hours cli.kin cli.leaving cli.options "
        "cli.plans cli.preparing cli.session cli.simulating cli.sources cli.survey cli.talk",
    ),
    "cli.session": (
        DOOR,
        "cli.attending cli.leaving cli.loops cli.progress cli.sources cli.survey cli.talk cli.twins cli.whose",
    ),
    "cli.simulating": (DOOR, "cli.loops cli.talk"),
    "cli.sources": (DOOR, "cli.loops cli.survey cli.talk"),
    "cli.starting": (
        DOOR,
        "cli.ask cli.attending cli.continuing cli.earlier cli.guarding cli.hours cli.openings cli.options cli.sending "
        "cli.talk",
    ),
    "cli.success": (DOOR, ""),
    "cli.survey": (DOOR, "cli.loops"),
    "cli.talk": (DOOR, ""),
    "cli.twins": (DOOR, ""),
    "cli.undoing": (
        DOOR,
        "cli.continuing cli.guarding cli.kin cli.options cli.sending cli.session cli.sources cli.survey cli.talk",
    ),
    "cli.verifying": (
        DOOR,
        "cli.continuing cli.guarding cli.kin cli.options cli.session cli.sources cli.survey cli.talk",
    ),
    "cli.whose": (DOOR, ""),
    "cli.views": (DOOR, "cli.kin cli.options cli.talk"),
    "simulator": (SIM, ""),
    "simulator.catalog": (SIM, "simulator.wire"),
    "simulator.delivery": (SIM, "simulator.wire"),
    "simulator.documents": (SIM, ""),
    "simulator.estate": (SIM, "simulator.catalog simulator.wire"),
    "simulator.faults": (SIM, "simulator.documents"),
    "simulator.fleet": (SIM, "simulator.catalog simulator.documents simulator.estate"),
    "simulator.gate": (SIM, "simulator.catalog simulator.quotas simulator.sts simulator.tc3 simulator.wire"),
    "simulator.inprocess": (SIM, "simulator.delivery simulator.wire simulator.world"),
    "simulator.listings": (SIM, "simulator.catalog simulator.estate simulator.wire"),
    "simulator.quotas": (SIM, ""),
    "simulator.randomfleet": (SIM, "simulator.catalog simulator.estate simulator.fleet"),
    "simulator.server": (SIM, "simulator.catalog simulator.delivery simulator.sts simulator.wire simulator.world"),
    "simulator.sts": (SIM, "simulator.catalog simulator.wire"),
    "simulator.tc3": (SIM, "simulator.wire"),
    "simulator.tenants": (SIM, "simulator.documents simulator.sts"),
    "simulator.wire": (SIM, ""),
    "simulator.world": (
        SIM,
        "simulator simulator.catalog simulator.estate simulator.faults simulator.fleet simulator.gate "
        "simulator.listings simulator.quotas simulator.sts simulator.wire",
    ),
}
SIMULATOR_MAY = {"simulator.inprocess": {"model"}}
"""What of the house the simulator may know: so that an error of ours cannot agree with itself."""
SIMULATOR_DEVICES = ("simulator.delivery", "simulator.inprocess", "simulator.server")
"""Its parts with a loop or sockets; the rest is rules."""

COMMANDS = ("equipping", "looking", "nightly", "planning", "running")

ONLY = {
    # library: the modules that alone may import it
    "aiohttp": {"transport", "simulator.server"},
    "aiolimiter": {"pacing"},
    "tenacity": {"runner"},
    "yaml": {"jobfile.yamltext", "simulator.documents"},
    "click": {"cli", "cli.app", "cli.flags", *(f"cli.commands.{family}" for family in COMMANDS)},
    "prometheus_client": {"metrics"},
    "rich": {"cli.progress"},
    "zoneinfo": {"window"},
}
OUTSIDE = {
    "asyncio",
    "concurrent",
    "fcntl",
    "http",
    "locale",
    "logging",
    "mmap",
    "multiprocessing",
    "os",
    "pathlib",
    "platform",
    "pwd",
    "secrets",
    "select",
    "selectors",
    "shutil",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "urllib.request",
    "uuid",
}
"""What reaches out of a rule: files, network, clock, threads, environment, the loop."""
RULES_MAY = {"records": {"time"}}
ATTRIBUTES = {
    # a rule may use of this module only
    "time": {"strftime", "gmtime"},
    "random": {"Random"},
}
CLOCKS = {"now", "utcnow", "today"}
BUILTINS = {"open", "print", "input", "breakpoint", "exec", "eval", "__import__"}


class Use(NamedTuple):
    """One import: of ours (without the `engine.`) or of others, and the line."""

    name: str
    line: int
    is_ours: bool


def modules() -> dict[str, str]:
    """Source by module name, `engine.` left out; the root is the empty name."""
    found = {}
    for path in sorted(ENGINE.rglob("*.py")):
        parts = path.relative_to(ENGINE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = path.read_text(encoding="utf-8")
    return found


MODULES = modules()


def uses(source: str) -> Iterator[Use]:
    """Every import of a module, wherever it stands: in functions and under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield _use(alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            for alias in node.names:
                is_module = f"{module}.{alias.name}".removeprefix("engine.") in TABLE
                if module == "engine" and not is_module:
                    yield Use(f":{alias.name}", node.lineno, is_ours=True)
                else:
                    yield _use(f"{module}.{alias.name}" if is_module else module, node.lineno)


def _use(name: str, line: int) -> Use:
    is_ours = name.split(".")[0] in ("engine", "")
    return Use(name.removeprefix("engine.") if is_ours else name, line, is_ours)


# ---- the rules, each a list of what is wrong -------------------------------------------------------------------------


def wrong_floors(name: str, source: str) -> list[str]:
    """Imports that go up, sideways without a row, into the simulator or into the package root."""
    floor, beside = TABLE[name]
    problems = []
    for use in uses(source):
        if not use.is_ours or use.name == ":__version__":
            continue
        what = f"engine.{name} ({floor.name}), line {use.line}, imports engine.{use.name}"
        if use.name in ("engine", "") or use.name[0] in ".:":
            problems.append(f"{what}: name the module, from the top; of the package itself only __version__")
            continue
        if use.name not in TABLE:
            problems.append(f"{what}: no module of the table")
            continue
        other = TABLE[use.name][0]
        if other is floor:
            if use.name not in beside.split():
                problems.append(f"{what} of its own floor, which its row does not list")
        elif floor is SIM:
            if use.name not in SIMULATOR_MAY.get(name, ()):
                problems.append(f"{what}: the simulator knows nothing of the engine")
        elif other is SIM:
            if floor is not DOOR:
                problems.append(f"{what}: only the command line knows the simulator")
        elif other > floor:
            problems.append(f"{what} ({other.name}): imports go downwards only")
    return problems


def unused_rows(name: str, source: str) -> list[str]:
    """What a row lists and the module does not import: the table stays true."""
    imported = {use.name for use in uses(source)}
    return [
        f"engine.{name} no longer imports {other}: take it out of its row"
        for other in TABLE[name][1].split()
        if other not in imported
    ]


def wrong_libraries(name: str, source: str) -> list[str]:
    """Libraries that another module alone may import."""
    problems = []
    for use in uses(source):
        library = use.name.split(".")[0]
        if not use.is_ours and name not in ONLY.get(library, {name}):
            owners = " and ".join(sorted(f"engine.{owner}" for owner in ONLY[library]))
            problems.append(f"engine.{name}, line {use.line}, imports {use.name}: only {owners} may")
    return problems


def is_rule(name: str) -> bool:
    floor = TABLE[name][0]
    return floor in (W, R) or (floor is SIM and name not in SIMULATOR_DEVICES)


def reaching_out(name: str, source: str) -> list[str]:
    """What a rule does that is no rule's: files, network, clock, the loop, randomness of its own."""
    problems = [
        f"engine.{name}, line {use.line}, imports {use.name}: a rule has no I/O, no clock, no loop"
        for use in uses(source)
        if not use.is_ours
        and (use.name in OUTSIDE or use.name.split(".")[0] in OUTSIDE)
        and use.name not in RULES_MAY.get(name, ())
    ]
    for node in ast.walk(ast.parse(source)):
        at = f"engine.{name}, line {getattr(node, 'lineno', 0)},"
        match node:
            case ast.Attribute(value=ast.Name(id=module), attr=attribute) if module in ATTRIBUTES:
                if attribute not in ATTRIBUTES[module]:
                    problems.append(f"{at} uses {module}.{attribute}: clock and randomness are arguments")
            case ast.ImportFrom(module=str(module), names=names) if module in ATTRIBUTES:
                bad = [alias.name for alias in names if alias.name not in ATTRIBUTES[module]]
                problems += [f"{at} imports {module}.{each}: clock and randomness are arguments" for each in bad]
            case ast.Call(func=ast.Attribute(attr=attribute)) if attribute in CLOCKS:
                problems.append(f"{at} calls .{attribute}(): the time is an argument")
            case ast.Call(func=ast.Name(id=called)) if called in BUILTINS:
                problems.append(f"{at} calls {called}(): a rule has no I/O")
            case _:
                pass
    return problems


# ---- the engine as it is -------------------------------------------------------------------------------------------


def test_every_module_has_its_row() -> None:
    """A new module says where it belongs; a row of a module that is gone goes too."""
    missing = set(MODULES) - set(TABLE) - {""}
    gone = set(TABLE) - set(MODULES)
    assert not missing, f"no row in TABLE: {', '.join(sorted(missing))}"
    assert not gone, f"rows without a module: {', '.join(sorted(gone))}"


def test_the_root_imports_nothing() -> None:
    """`import engine` costs nothing and pulls in nothing."""
    assert list(uses(MODULES[""])) == []


@pytest.mark.parametrize("name", TABLE)
def test_imports_go_downwards(name: str) -> None:
    """Down, or beside as listed: from a module's floor one knows what it can break."""
    if name in MODULES:
        problems = wrong_floors(name, MODULES[name]) + unused_rows(name, MODULES[name])
        assert not problems, "\n" + "\n".join(problems)


@pytest.mark.parametrize("name", TABLE)
def test_each_library_has_one_importer(name: str) -> None:
    """A foreign library can be replaced, and its errors translated, in one place."""
    if name in MODULES:
        problems = wrong_libraries(name, MODULES[name])
        assert not problems, "\n" + "\n".join(problems)


@pytest.mark.parametrize("name", [name for name in TABLE if is_rule(name)])
def test_rules_do_not_reach_out(name: str) -> None:
    """Words and rules can be called from a REPL, replayed and fuzzed: what they need is handed to them."""
    if name in MODULES:
        problems = reaching_out(name, MODULES[name])
        assert not problems, "\n" + "\n".join(problems)


def test_there_is_no_cycle() -> None:
    """Not even one that hides in functions or under TYPE_CHECKING."""
    graph = {name: {use.name for use in uses(source) if use.is_ours} & set(TABLE) for name, source in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("a cycle: " + " imports ".join(f"engine.{name}" for name in reversed(error.args[1])))


# ---- the rules find what they are for --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "source", "words"),
    [
        ("plan", "from engine.runner import Runner", "engine.plan (RULES), line 1, imports engine.runner (ENGINE): "),
        ("plan", "from engine import runner", "downwards only"),
        ("plan", "import engine.runner", "downwards only"),
        ("plan", "def f():\n    from engine.transport import HttpTransport", "line 2, imports engine.transport (DEV"),
        ("plan", "if TYPE_CHECKING:\n    from engine.cli.app import app", "downwards only"),
        ("plan", "from engine.ledger import Ledger", "of its own floor, which its row does not list"),
        ("plan", "from engine import Thing", "only __version__"),
        ("plan", "import engine", "only __version__"),
        ("plan", "from . import model", "from the top"),
        ("plan", "from engine.nowhere import x", "no module of the table"),
        ("runner", "from engine.simulator.world import World", "only the command line knows the simulator"),
        ("simulator.gate", "from engine.signing import Signer", "the simulator knows nothing of the engine"),
        ("simulator.world", "from engine.model import Reply", "the simulator knows nothing of the engine"),
        ("simulator.world", "from engine.simulator.server import serve", "its row does not list"),
    ],
)
def test_a_wrong_import_is_found(name: str, source: str, words: str) -> None:
    """In every spelling, and the message says which, where and why."""
    (problem,) = wrong_floors(name, source)
    assert words in problem


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("plan", "from engine.model import Call"),
        ("plan", "from engine import model, __version__"),
        ("runner", "from engine.records import Sent\nfrom engine.judge import Judge"),
        ("cli.session", "from engine.simulator.world import World"),
        ("simulator.inprocess", "from engine.model import Fault"),
    ],
)
def test_a_right_import_is_not(name: str, source: str) -> None:
    """Down, beside as listed, from the door into the simulator."""
    assert wrong_floors(name, source) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("client", "import aiohttp"),
        ("simulator.world", "from aiohttp import web"),
        ("runner", "from aiolimiter import AsyncLimiter"),
        ("judge", "def f():\n    import tenacity.asyncio"),
        ("config", "import yaml"),
    ],
)
def test_a_library_in_the_wrong_hands_is_found(name: str, source: str) -> None:
    """Submodules and late imports too."""
    assert len(wrong_libraries(name, source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import asyncio",
        "import os.path",
        "from pathlib import Path",
        "import time",
        "from time import monotonic",
        "def f():\n    import socket",
        "import random\nrandom.choice([1])",
        "from random import shuffle",
        "from datetime import datetime\ndatetime.now()",
        "from datetime import date\ndate.today()",
        "open('x')",
        "print('x')",
    ],
)
def test_a_rule_that_reaches_out_is_found(source: str) -> None:
    """Each way out of a rule."""
    assert reaching_out("plan", source)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("records", "import time\ntime.strftime('%Y', time.gmtime(0))"),
        ("backoff", "import random\ndef f(rng: random.Random): rng.uniform(0, 1)"),
        ("jobfile.lists", "import io, csv"),
        ("signing", "from datetime import datetime, UTC\ndatetime.fromtimestamp(0, UTC)"),
    ],
)
def test_what_a_rule_may_use_is_not(name: str, source: str) -> None:
    """Formatting a given time, a given random source, text in memory."""
    assert reaching_out(name, source) == []


def test_a_clock_in_records_is_found() -> None:
    """It may format a time, not ask for one."""
    assert reaching_out("records", "import time\ntime.time()")


def test_a_row_that_promises_too_much_is_found() -> None:
    """An edge nobody uses any more."""
    assert unused_rows("backoff", "import random") == [
        "engine.backoff no longer imports verdicts: take it out of its row"
    ]
