"""The waves of a run in words: in its plan, while it goes, and in its report."""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING, Any

from engine.journal import records
from engine.planning.waves import sizes, soaks_s
from engine.report.afterwards import span

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.inputs.job import WavesSpec
    from engine.journal.ledger import Ledger


def plan_lines(spec: WavesSpec, calls: int, *, simulated: bool = False) -> Iterator[str]:
    """Yield the lines of a plan of so many calls."""
    for n, (wave, count) in enumerate(zip(spec.waves, sizes(spec.waves, calls), strict=True), start=1):
        said = f" ({wave})" if wave.is_rest or wave.share is not None else ""
        soak = f", then soak {span(wave.soak_s)}" if wave.soak_s and count else ""
        yield f"wave {n}  {accounts(count) if count else 'none is left for it'}{said}{soak}"
    if (gate := spec.gate) is not None:
        often = f", every {span(gate.every_s)} while a wave soaks" if soaks_s(spec, calls) else ""
        red = "the wave is undone, and the run ends" if spec.on_red == "undo" else "the run ends"
        yield f"gate  {gate.label}: before wave 1{often}, and after each wave; {span(gate.timeout_s)} at most"
        yield f"if the gate says red, {red}"
    if whole := soaks_s(spec, calls):
        yield f"soaks  {span(whole)} in all, beside the time of sending"
    if simulated:
        is_real = spec.gate is not None and spec.gate.is_real
        whose = "" if spec.gate is None or is_real else ", and the simulator says the word of the gate (--real-gate)"
        yield f"simulated: a soak lasts a second at most{whose}"


def accounts(count: int) -> str:
    """Return a number of accounts in words."""
    return f"{count:,} account{'s' * (count != 1)}"


def waves_of(spec: WavesSpec | None, calls: int) -> Iterator[int | None]:
    """Yield the number of the wave of each call of a plan; None for a plan without waves."""
    if spec is None:
        yield from repeat(None, calls)
        return
    for n, count in enumerate(sizes(spec.waves, calls), start=1):
        yield from repeat(n, count)


def plan_keys(spec: WavesSpec | None, calls: int) -> list[dict[str, Any]]:
    """Return `waves` of the `plan --json` document (engine/json.md). Any: JSON values."""
    if spec is None:
        return []
    counted = zip(spec.waves, sizes(spec.waves, calls), strict=True)
    return [
        {"n": n, "take": str(wave), "calls": count, "soak_s": wave.soak_s}
        for n, (wave, count) in enumerate(counted, start=1)
    ]


_WORDS = {
    records.PLANNED: "not begun",
    records.BEGUN: "begun",
    records.PASSED: "passed",
    records.RED: "RED",
    records.SILENT: "the gate was silent",
    records.FAILED: "failed",
}


def lines(ledger: Ledger, *, is_live: bool) -> Iterator[str]:
    """Yield how the waves of a run stand."""
    for n, line in sorted(ledger.waves.items()):
        why = f": {line.why}" if line.why is not None and line.state not in (records.RED,) else ""
        name = f"wave {n}  {accounts(line.calls)}" if n else "before wave 1"
        yield f"{name}  {state_words(line, is_live=is_live)}{why}"


def state_words(line: records.WaveLine, *, is_live: bool) -> str:
    """Return how a wave stands."""
    if line.state != records.SOAKING:
        return _WORDS[line.state]
    return f"soaks until {(line.until or '')[11:19]}Z" if is_live else "was soaking; a resume soaks it anew"
