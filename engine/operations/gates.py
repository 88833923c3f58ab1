"""The gate of a wave: a program that says green or red, or the simulator's word. And what else a session's waves go by.

A program gets one JSON object on its standard input and must say its word: a check that could not start must not count
as one that is green. Of what it prints only that word is kept.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from engine.api.actions import ACTIONS
from engine.errors import ConfigError, CredentialsError, UsageError
from engine.inputs.files import STDIN_NAME, job_file
from engine.inputs.job import WavesSpec
from engine.model import Place
from engine.operations.reach import password_source
from engine.operations.terms import operator
from engine.operations.today import guard_home
from engine.outside.foreign import pasted
from engine.outside.programs import run_program
from engine.run.bounds import GREEN, RED, SILENT, WaveTerms, Word

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from engine.inputs.job import GateSpec, Job
    from engine.journal.ledger import Ledger
    from engine.journal.records import RunSettings
    from engine.model import Call
    from engine.outside.trust import Trust
    from engine.simulator.world import World

MOST_OUTPUT = 64 << 10
"""Bytes of a gate's output in which its word is looked for."""
ASKED_AT_ONCE = 8
"""Passwords that are asked for at a time, before a wave begins."""
SIMULATED_SOAK_S = 1.0
"""The longest soak of a simulated run, in seconds."""


def waves_of(settings: RunSettings) -> WavesSpec | None:
    """Return the waves that a journal keeps for its run."""
    return WavesSpec.from_record(settings.waves, Place("the journal")) if settings.waves is not None else None


def check_waves(settings: RunSettings, *, simulated: bool, job_path: str | None = None) -> None:
    """Raise an error for waves that cannot be undone, and for a gate that is no program, before anything is sent.

    `job_path`: where the job of a new run is. A gate needs a file: a resume starts it only if today's job names it.
    """
    spec = waves_of(settings)
    if spec is not None and spec.on_red == "undo" and not settings.verify:
        raise UsageError("on_red: undo brings back what a reading showed before the change; leave --no-verify away")
    if spec is None or spec.gate is None or (simulated and not spec.gate.is_real):
        return
    if job_path == STDIN_NAME:
        raise UsageError(
            "gate: a job on standard input can have none, as a run that its gate has stopped is gone on with only if a "
            "job file names the same gate; save the job to a file, and run that; nothing was sent"
        )
    if (why := gate_problem(spec.gate.command[0])) is not None:
        raise ConfigError(f"{why}; nothing was sent")


def gate_problem(program: str, key: str = "gate.command") -> str | None:
    """Return why the program of a `key` cannot be started, in words; None if it looks as if it could."""
    import shutil  # here: most runs have no gate

    if shutil.which(program) is not None:
        return None
    if "/" not in program:
        why = "is not found on PATH; name it with its path, such as ./check-logins.sh"
    elif not Path(program).exists():
        why = "is not there"
    elif Path(program).is_dir():
        why = "is a directory"
    else:
        why = f"may not be executed: chmod +x {pasted((program,))}"
    return f"{key}: {program}: {why}"


_NAMED_LOGIN = re.compile(
    r"(?:^|[\s;])(?:-U\s*|--username[=\s]|user=|PGUSER=)([A-Za-z0-9_.$-]{1,64})|://([A-Za-z0-9_.$-]{1,64})[:@]"
)
"""A login in the arguments of a gate: `psql -U name`, `user=name`, `postgresql://name@host`."""


def logins_of(job: Job, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the logins that a run of the job may need while it goes → whose they are, as far as that shows."""
    found: dict[str, str] = {}
    gate = job.waves.gate if job.waves is not None else None
    if gate is not None:
        said = " ".join(gate.command)
        for hit in _NAMED_LOGIN.finditer(said):
            found[hit[1] or hit[2]] = "a login of the gate"
    if environ.get("PGUSER"):
        found.setdefault(environ["PGUSER"], "a login of the gate" if gate is not None else "your login (PGUSER)")
    for name in (environ.get("SUDO_USER"), operator().partition(" ")[0]):
        if name and name != "root":
            found.setdefault(name, "your login")
    return found


def wave_terms(ledger: Ledger, world: World | None, trust: Trust) -> WaveTerms | None:
    """Return what the waves of a session go by; None if its run has none.

    A simulated run soaks for a second at most, and its gate is the simulator's unless the user wants the real one.
    """
    spec = waves_of(ledger.settings)
    if spec is None:
        return None
    is_simulated = ledger.run.simulated
    soaks = [min(wave.soak_s, SIMULATED_SOAK_S) if is_simulated else wave.soak_s for wave in spec.waves]
    ask: Callable[[int, Sequence[Call]], Awaitable[Word]] | None = None
    every_s = 300.0
    if spec.gate is not None:
        every_s = spec.gate.every_s
        ask = ProgramGate(ledger.run.run, spec.gate, _folder(ledger)).ask
        if is_simulated and not spec.gate.is_real:
            ask = SimulatedGate(world).ask
    return WaveTerms(
        soaks_s=soaks,
        every_s=every_s,
        ask=ask,
        may_undo=_may_undo(ledger, trust) if spec.on_red == "undo" else None,
    )


def _folder(ledger: Ledger) -> Path | None:
    """Return the folder of the job of a run, or the one whose guards hold for it; None if it is gone."""
    file = job_file(ledger.run.job.path) or guard_home(ledger)
    folder = file if file.is_dir() else file.parent
    return folder if folder.is_dir() else None


def _may_undo(ledger: Ledger, trust: Trust) -> Callable[[Sequence[Call]], Awaitable[str | None]] | None:
    """Return what finds out why an undo of calls would lack a password; None if an undo sets none."""
    inverse = ACTIONS[ledger.run.action].inverse
    if inverse is None or not ACTIONS[inverse].needs_password:
        return None

    async def problem(calls: Sequence[Call]) -> str | None:
        try:
            source = password_source(ledger.settings, trust)
            if source is None:
                return "no source of new passwords is named"
            for at in range(0, len(calls), ASKED_AT_ONCE):
                await asyncio.gather(*map(source.ask, calls[at : at + ASKED_AT_ONCE]))
        except (CredentialsError, UsageError) as error:
            return str(error)
        return None

    return problem


class ProgramGate:
    """A gate that is a program. It starts in the folder of the job, whoever goes on with the run from wherever."""

    def __init__(self, run: str, spec: GateSpec, folder: Path | None) -> None:
        self._run = run
        self._spec = spec
        self._folder = folder

    async def ask(self, wave: int, calls: Sequence[Call]) -> Word:
        """Return the word of the program about a wave; it is silent unless it says a word that counts."""
        nonce = secrets.token_hex(16)
        question = {
            "run": self._run,
            "wave": wave,
            "targets": [
                {"account": call.account, "region": call.region, "instance": call.instance, "user": call.user}
                for call in calls
            ],
            "nonce": nonce,
        }
        try:
            printed = await run_program(
                self._spec.command,
                limit_s=self._spec.timeout_s,
                most=MOST_OUTPUT,
                given=msgspec.json.encode(question),
                ends_alone=True,
                folder=self._folder,
            )
        except TimeoutError:  # an OSError too, so first
            return Word(SILENT, f"no word within {self._spec.timeout_s:g} s, and it was killed")
        except (OSError, ValueError) as error:
            return Word(SILENT, f"cannot be started: {getattr(error, 'strerror', None) or 'its arguments are none'}")
        return word_of(printed.output, printed.status, nonce)


def word_of(output: bytes, status: int, nonce: str) -> Word:
    """Return the word in a program's output: one line with this question's nonce, and the exit status that fits it."""
    if len(output) > MOST_OUTPUT:
        return Word(SILENT, f"it printed more than {MOST_OUTPUT >> 10} KiB, in which no word is looked for")
    lines = {line.strip() for line in output.splitlines()}
    said = [word for word in (GREEN, RED) if f"{word} {nonce}".encode() in lines]
    ended = f"exit status {status}" if status >= 0 else f"killed by signal {-status}"
    if len(said) > 1:
        return Word(SILENT, "it said green and red")
    if not said:
        older = any(line.startswith((b"green ", b"red ")) for line in lines)
        what = "the nonce of its word is not that of the question" if older else "it said neither green nor red"
        return Word(SILENT, f"{what} ({ended})")
    (word,) = said
    if status != (0 if word == GREEN else 1):
        return Word(SILENT, f"it said {word}, with {ended}")
    return Word(word)


class SimulatedGate:
    """The gate of the simulator: green, unless its faults say otherwise."""

    def __init__(self, world: World | None) -> None:
        self._world = world

    async def ask(self, wave: int, _calls: Sequence[Call]) -> Word:
        """Return the simulated word about a wave."""
        said = self._world.gate(wave) if self._world is not None else GREEN
        return Word(said, "as the fault script says" if said == SILENT else "")
