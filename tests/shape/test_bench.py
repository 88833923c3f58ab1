"""The benchmarks still run: what they measure is for a person to read, that they can be run is held here."""

from __future__ import annotations

import pytest

from engine.simulator.world import World
from tests.bench.contenders import CONTENDERS, main
from tests.support.command import Backend


@pytest.mark.parametrize("name", sorted(CONTENDERS))
def test_each_contender_makes_its_calls(name: str) -> None:
    """All of them, once each, the warming one apart."""
    with Backend(World(quotas={"*": None}, audit=None)) as backend:
        seen = main(name, backend.endpoint, "30")
        applied = [arrival for arrival in backend.writes() if arrival.applied]
    assert len(applied) == 31
    assert len({(arrival.instance, arrival.user) for arrival in applied}) == 30
    assert seen["cpu_s"] > 0
