"""The pool, the attempt loop, drain and stop: over the simulator, in memory and virtual time."""

from __future__ import annotations

from pathlib import Path

from engine.errors import Exit
from engine.simulator.world import World
from tests.support.drill import Drill, fleet


def test_every_target_is_locked_at_the_quota(tmp_path: Path) -> None:
    world = World(latency=0.15)
    drill = Drill(tmp_path, world, fleet(50, 8)).go()
    assert drill.exit is Exit.OK
    assert set(drill.outcomes().values()) == {"changed"}
    assert drill.ledger.throttled == 0
    assert 20.0 <= drill.seconds <= 21.5
    assert max(drill.ledger.worst_second().values()) <= 20
