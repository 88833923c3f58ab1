"""`python -m tests.bench`: measures, prints tables, with `--json` one JSON document. tests/bench/README.md explains."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable

from tests.bench import cost, pace, pages, sharing, stores, workers
from tests.bench.machine import Row, machine

SECTIONS: dict[str, tuple[str, Callable[..., list[Row]]]] = {
    "pace": ("Quota used and calls throttled, 20/s", pace.measure),
    "lanes": ("Fifty lanes in one process", pace.lanes),
    "cost": ("A call with the limit lifted, journal durable", cost.calls),
    "stores": ("Journals in files and in a database", stores.measure),
    "sharing": ("Many journals, and many lanes, of one process in a database", sharing.measure),
    "workers": ("A run of a command alone, and of workers", workers.measure),
    "million": ("A million", cost.million),
    "start": ("Starting", cost.start),
    "page": ("A page while the run goes", pages.measure),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="a smaller run of each: about a minute and a half in all")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout, tables on stderr")
    options = parser.parse_args()
    unknown = set(options.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"unknown section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    out = sys.stderr if options.json else sys.stdout

    def say(line: str) -> None:
        sys.stderr.write(f"… {line}\n")

    found: dict[str, object] = {"machine": machine(), "quick": options.quick}
    out.write("  ".join(f"{name}: {value}" for name, value in machine().items()) + "\n")
    for name, (title, measure) in SECTIONS.items():
        if options.sections and name not in options.sections:
            continue
        rows = found[name] = measure(say, quick=options.quick)
        out.write(f"\n{title}\n{table(rows)}\n")
        out.flush()
    if options.json:
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
    return 0


def table(rows: list[Row]) -> str:
    """Rows as text, a column for each key."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_cell(row.get(key)) for key in keys] for row in rows]
    widths = [max(len(key), *(len(line[number]) for line in cells)) for number, key in enumerate(keys)]
    lines = ["  ".join(key.ljust(width) for key, width in zip(keys, widths, strict=True))]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    return "\n".join(line.rstrip() for line in lines)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return "" if value is None else str(value)


if __name__ == "__main__":
    sys.exit(main())
