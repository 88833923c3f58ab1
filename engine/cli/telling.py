"""What a use case tells, as a person at a terminal hears it."""

from __future__ import annotations

from collections.abc import Iterable

from engine.cli.leaving import note_run
from engine.cli.talk import remark, say
from engine.operations.events import Began, Changed, Event, Looking, News, Remarked, Tell, Warned


def teller(*, quiet: bool) -> Tell:
    """What says what an operation tells; a quiet command keeps news to itself, and warnings until something is bad."""

    def tell(event: Event) -> None:
        match event:
            case Warned(text=text, always=always):
                remark(f"warning: {text}", quiet=quiet and not always)
            case Remarked(text=text):
                remark(f"remark: {text}", quiet=quiet)
            case Changed(text=text):
                remark(text, quiet=quiet)
            case Began(run=run):
                note_run(run)
        if not quiet:
            for line in _lines(event):
                say.lines(line)

    return tell


def _lines(event: Event) -> Iterable[str]:
    """What an event is to a person who looks on, beside warnings."""
    match event:
        case News(text=text) | Looking(text=text):
            return [text]
        case Began(run=run, journal=journal, flags=flags):
            lines = [f"run {run}  {journal}"]
            if say.isatty():
                lines.append(
                    f"  Ctrl-C is safe, and so is closing this terminal; from any other: acctops status {run}{flags}"
                )
            return lines
        case Warned() | Remarked() | Changed():
            return ()
        case _:
            return _of_a_plan(event)


def _of_a_plan(event: Event) -> Iterable[str]:
    from engine.cli.summary import summary  # here: most commands plan nothing
    from engine.operations.drafts import Drafted
    from engine.operations.preparing import Looked

    match event:
        case Drafted(draft=draft, simulated=simulated):
            return [summary(draft, simulated=simulated)]
        case Looked(prepared=prepared):
            return prepared.lines()
        case _:
            return ()
