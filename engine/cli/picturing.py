"""report --format html: a file to look at, to print, and to attach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.cli.lookback import begin_of
from engine.cli.options import options_of
from engine.cli.talk import out, printed, say, write_out
from engine.errors import Reason, UsageError
from engine.report.page import check_installed, html


def show_page(
    runs: tuple[str, ...], *, family: bool, ticket: str | None, since: str | None, output: str | None, **flags: Any
) -> int:
    """The `report --format html` command. Any: the flags, by name."""
    check_installed("--format html")
    if output is None and out.isatty():
        raise UsageError("--format html is for a browser, not for a terminal: name a file, such as -o report.html")
    from engine.operations.pages import csv_beside, page_of  # after the look for its library

    options = options_of({key: value for key, value in flags.items() if key != "ticket"})
    begin = begin_of(options, since) if since is not None else None
    made = page_of(options, runs, family=family, ticket=ticket, since=begin, output=output)
    if output is None:
        for text in html(made.page):
            out(text)
        return printed()
    write_out(output, html(made.page))
    say(f"{output}: {len(made.page.parts):,} run{'s' * (len(made.page.parts) != 1)}; open it in a browser")
    if made.csv is not None:
        beside = str(csv_beside(Path(output)))
        write_out(beside, made.csv())
        say(f"{beside}: all targets, too many for one page")
    unread = any(remark.startswith("NOT IN") for remark in made.page.remarks)
    return printed() or (Reason.CORRUPT if unread else Reason.OK)
