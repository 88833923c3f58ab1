"""A drill: a simulated run at the real pace, and whether it contained enough accounts in time."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from msgspec import Struct

from engine.errors import UsageError
from engine.inputs.jobfile.values import some_seconds
from engine.report.contained import Containment

if TYPE_CHECKING:
    from engine.journal.ledger import Ledger


class Limit(Struct, frozen=True):
    """By when a share of the accounts must be contained."""

    share: int
    """In percent."""
    seconds: float


class Measured(Struct, frozen=True):
    """How a drill did, beside its limit."""

    limit: Limit
    after_s: float | None
    """After how many seconds that share was contained; None: it never was."""
    contained: int
    total: int

    @property
    def is_within(self) -> bool:
        """Whether the limit was kept."""
        return self.after_s is not None and self.after_s <= self.limit.seconds

    @property
    def words(self) -> str:
        """What was measured and what was asked for, in one sentence."""
        asked = f"{self.limit.share} % within {_exact(self.limit.seconds)}"
        if self.after_s is None:
            got = f"only {self.contained:,} of {self.total:,} accounts were contained at all"
        else:
            up = math.ceil(self.after_s * 10) / 10  # else 15.04 s would be told as 15 s, beyond a limit of 15 s
            got = f"{self.limit.share} % were contained after {_exact(up)}"
        return f"drill: {'' if self.is_within else 'BEYOND THE LIMIT: '}{got}; {asked} was asked for"


def _exact(seconds: float) -> str:
    return f"{round(seconds, 3):,.10g} s"


def limit_of(text: str) -> Limit:
    """Return the limit that `--contain 95%:60s` says; UsageError in words for anything else."""
    found = re.fullmatch(r"([1-9][0-9]?|100)\s?%\s*:\s*(\S+)", text.strip(), re.ASCII)
    try:
        if found is not None:
            return Limit(int(found[1]), some_seconds(found[2]))
        problem = "give a share from 1% to 100%, a colon, and a time"
    except ValueError as error:
        problem = str(error)
    raise UsageError(f"--contain {text}: {problem}, such as 95%:60s: 95 % of all accounts contained within 60 s")


def measured(ledger: Ledger, limit: Limit) -> Measured:
    """Return how a drill did."""
    found = Containment(ledger)
    return Measured(limit, found.after(limit.share), len(found.seconds), found.total)
