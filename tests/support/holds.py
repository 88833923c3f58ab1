"""Who holds what, by ledgers made by hand or by a drill."""

from __future__ import annotations

from collections.abc import Sequence

from engine.journal.ledger import Ledger
from engine.planning.holds import Holds, part_of
from engine.planning.undo import Owing


def owing(ledger: Ledger, others: Sequence[Ledger] = (), ignored: Sequence[str] = ()) -> Owing:
    """What an undo of the run takes back, and who else holds its accounts."""
    return Owing(ledger, Holds(ledger.run.action, map(part_of, (ledger, *others))), ignored)
