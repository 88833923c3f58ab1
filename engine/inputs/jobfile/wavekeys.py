"""Reads `waves`, `gate` and `on_red` of a job file. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from engine.api.actions import ACTIONS
from engine.inputs.job import GateSpec, Wave, WavesSpec
from engine.inputs.jobfile.fields import kinds
from engine.inputs.jobfile.filemodel import GateKeys, JobFile, WaveKeys
from engine.inputs.jobfile.nodes import Table

if TYPE_CHECKING:
    from engine.inputs.jobfile.fields import Fields
    from engine.inputs.jobfile.nodes import Node

_WAVES = "[{take: 3, soak: 15m}, {take: 10%, soak: 30m}, {take: rest}]"
_GATE = "{command: [./check-logins.sh], every: 5m, timeout: 2m}"
_MOST = 100


def read_waves(fields: Fields, table: Table, action: str | None, *, verify: bool) -> WavesSpec | None:
    """Return the waves of a job of this action (None: not known); None if something is wrong (noted).

    `verify`: whether the job reads its accounts.
    """
    before = fields.problems.count
    nodes = {key: table.entries[key].value for key in ("waves", "gate", "on_red") if key in table.entries}
    waves = _waves(fields, nodes["waves"]) if "waves" in nodes else ()
    gate = _gate(fields, nodes["gate"]) if "gate" in nodes else None
    on_red = fields.value(nodes["on_red"], kinds(JobFile)["on_red"], "on_red") if "on_red" in nodes else "stop"
    if "waves" not in nodes and gate is not None:
        what = "judges waves, and there are none; for one wave write waves: [{take: rest}]"
        fields.wrong(nodes["gate"], "gate", what)
    if "on_red" in nodes and "gate" not in nodes:
        fields.wrong(nodes["on_red"], "on_red", f"without gate nothing is ever red; add gate: {_GATE}")
    if on_red == "undo" and (why := _why_no_undo(action, verify=verify)) is not None:
        fields.wrong(nodes["on_red"], "on_red", f"{why}; write on_red: stop")
    if fields.problems.count > before or not waves:
        return None
    return WavesSpec(waves=waves, gate=gate, on_red=on_red or "stop", place=fields.place(nodes["waves"]))


def _why_no_undo(action: str | None, *, verify: bool) -> str | None:
    if action is not None and ACTIONS[action].inverse is None:
        return f"{action} cannot be undone: no action takes it back"
    if not verify or (action is not None and ACTIONS[action].is_desired is None):
        return "undo brings back what a reading showed before the change, and this job reads no accounts"
    return None


def _waves(fields: Fields, node: Node) -> tuple[Wave, ...]:
    """Return the waves; empty if something is wrong (noted)."""
    items = fields.series(node, "waves", f"a list such as {_WAVES}")
    if items is None:
        return ()
    if len(items.items) > _MOST:
        fields.wrong(node, "waves", f"expected at most {_MOST} waves, got {len(items.items):,}")
        return ()
    before = fields.problems.count
    found = [_wave(fields, item, f"waves[{index}]") for index, item in enumerate(items.items)]
    waves = [wave for wave in found if wave is not None]
    if fields.problems.count > before or len(waves) < len(found):
        return ()
    for index, wave in enumerate(waves[:-1]):
        if wave.is_rest:
            fields.wrong(
                items.items[index], f"waves[{index}]", "take: rest leaves nothing to the waves after it; put it last"
            )
    share = sum(wave.share for wave in waves if wave.share is not None)
    if round(share, 6) > 1:
        fields.wrong(
            node, "waves", f"the shares add up to {share * 100:g}%, more than there is; end with {{take: rest}}"
        )
    elif not waves[-1].is_rest and all(wave.share is not None for wave in waves) and round(share, 6) < 1:
        what = f"the shares add up to {share * 100:g}%, so other accounts are in no wave; end with {{take: rest}}"
        fields.wrong(node, "waves", what)
    return tuple(waves) if fields.problems.count == before else ()


def _wave(fields: Fields, node: Node, here: str) -> Wave | None:
    table = fields.table(node, here, "a mapping such as {take: 10%, soak: 30m}")
    if table is None:
        return None
    known = kinds(WaveKeys)
    fields.keys(table, here, known)
    if "take" not in table.entries:
        fields.wrong(node, f"{here}.take", "is missing; it says how many accounts: 3, 10% or rest")
    found: dict[str, Any] = {
        key: fields.value(table.entries[key].value, kind, f"{here}.{key}")
        for key, kind in known.items()
        if key in table.entries
    }
    take = found.get("take")
    return replace(take, soak_s=found.get("soak") or 0.0) if take is not None else None


def _gate(fields: Fields, node: Node) -> GateSpec | None:
    """Return the gate; None if something is wrong (noted)."""
    table = fields.table(node, "gate", f"a mapping such as {_GATE}")
    if table is None:
        return None
    known = kinds(GateKeys)
    fields.keys(table, "gate", known)
    if "command" not in table.entries:
        fields.wrong(node, "gate.command", "is missing; a gate is " + _GATE)
        return None
    command = fields.command(table.entries["command"].value, "gate.command")
    found: dict[str, Any] = {
        key: fields.value(table.entries[key].value, known[key], f"gate.{key}")
        for key in ("every", "timeout")
        if key in table.entries
    }
    if not command or None in found.values():
        return None
    return GateSpec(command=command, **{f"{key}_s": value for key, value in found.items()})


__all__ = ["read_waves"]
