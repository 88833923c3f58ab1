"""The command, with a log of what it imports: each line says who asked for it, `loop` while a run goes on, and what.

Run as a program: `python -m tests.support.imports run job.yaml`; the log's path is in IMPORT_LOG.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from pathlib import Path
from types import ModuleType

from engine.cli import entry


class Watch:
    """A finder that finds nothing, and writes down what was looked for."""

    def __init__(self, path: Path) -> None:
        self._log = path.open("a", buffering=1)

    def find_spec(self, name: str, _path: object = None, _target: ModuleType | None = None) -> None:
        is_main = threading.current_thread() is threading.main_thread()
        who = "thread" if not is_main else "loop" if asyncio._get_running_loop() is not None else "main"
        self._log.write(f"{who} {name}\n")


if __name__ == "__main__":
    sys.meta_path.insert(0, Watch(Path(os.environ["IMPORT_LOG"])))  # type: ignore[arg-type]
    entry()
