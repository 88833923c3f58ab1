"""What tests of several packages need."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command import Desk


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """An operator's desk, with nothing on it."""
    return Desk(tmp_path)
