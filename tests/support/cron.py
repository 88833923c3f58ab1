"""A cron as small as can be: reads a file of /etc/cron.d, and starts its lines as cron does, in a bare environment."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class CronFile:
    """What crontab(5) makes of a text: variables, and lines of five fields, a user and a command."""

    text: str
    variables: dict[str, str] = field(default_factory=dict)
    lines: list[tuple[str, str, str]] = field(default_factory=list)
    """Minutes, user, what the shell gets."""

    def __post_init__(self) -> None:
        for line in self.text.splitlines():
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            if found := re.fullmatch(r"([A-Z_]+)\s*=\s*(.*)", line):
                self.variables[found[1]] = found[2]
                continue
            minutes, hours, days, months, weekdays, user, command = line.split(maxsplit=6)
            assert (hours, days, months, weekdays) == ("*", "*", "*", "*")
            assert len(line) < 998, "Debian's cron would cut it off"
            # An escaped percent sign is one; the first bare one would end the command.
            shell, *rest = re.split(r"(?<!\\)%", command)
            assert not rest, "the rest would be standard input"
            self.lines.append((minutes, user, shell.replace("\\%", "%")))

    def start(self, number: int, **more: str) -> subprocess.CompletedProcess[str]:
        """Start a line: no HOME, no LANG, PATH as the file says, the current directory is the root."""
        return subprocess.run(
            [self.variables["SHELL"], "-c", self.lines[number][2]],
            env=self.variables | more,
            cwd=Path("/"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
