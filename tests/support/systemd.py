"""What systemd itself says of units and calendars, where it is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from datetime import datetime
from pathlib import Path

import pytest

ANALYZE = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed (apt: systemd)")


def verified(home: Path, *files: Path) -> subprocess.CompletedProcess[str]:
    """What systemd says of units."""
    return subprocess.run(
        [str(ANALYZE), "verify", "--man=no", *map(str, files)],
        env={"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8"},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def elapses(calendar: str, base: datetime, count: int) -> list[float]:
    """When a calendar elapses next, by systemd's own reckoning, as UNIX times."""
    said = subprocess.run(
        [str(ANALYZE), "calendar", f"--base-time={base:%Y-%m-%d %H:%M:%S} UTC", f"--iterations={count}", calendar],
        env={"PATH": os.environ["PATH"], "TZ": "UTC", "LANG": "C.UTF-8"},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    found = re.findall(r"(?:Next elapse|Iteration #\d+|Iter\. #\d+): \w+ (\S+ \S+) UTC", said.stdout)
    return [datetime.fromisoformat(f"{each}+00:00").timestamp() for each in found]
