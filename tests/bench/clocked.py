"""The command, as a process that measures itself: `python -m tests.bench.clocked FILE WORD…`.

It does what `acctops WORD…` does, and writes into FILE, as JSON, how late each `sent` of its journals was durable (ms,
sorted), its CPU seconds, its peak memory, and its most threads and open files.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

_LOOK_S = 0.5


def main(file: str, words: list[str]) -> None:
    """Carry out the command, then write what was seen of it."""
    from engine.cli import entry
    from engine.journal.grouped import GroupedJournal
    from engine.journal.records import AnyRecord, Sent

    late_ms: list[float] = []
    most = {"threads": 0, "files": 0}
    append = GroupedJournal.append

    def noted(self: GroupedJournal, record: AnyRecord, then: Callable[[Any], None] | None = None) -> int:
        if not isinstance(record, Sent):
            return append(self, record, then)
        began = time.perf_counter()

        def landed(done: Any) -> None:  # Any: the record, of whatever kind
            late_ms.append((time.perf_counter() - began) * 1000)
            if then is not None:
                then(done)

        return append(self, record, landed)

    def look() -> None:
        while True:
            most["threads"] = max(most["threads"], threading.active_count() - 1)
            most["files"] = max(most["files"], len(list(Path("/proc/self/fd").iterdir())))
            time.sleep(_LOOK_S)

    def write() -> None:
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        found = {"late_ms": sorted(late_ms), "peak_mb": peak_mb, "cpu_s": time.process_time(), **most}
        Path(file).write_text(json.dumps(found), encoding="utf-8")

    def end(code: int) -> NoReturn:
        write()
        leave(code)

    leave, os._exit = os._exit, end  # a worker ends so
    GroupedJournal.append = noted  # type: ignore[method-assign]
    threading.Thread(target=look, daemon=True).start()
    sys.argv[1:] = words
    try:
        entry()
    finally:
        write()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
