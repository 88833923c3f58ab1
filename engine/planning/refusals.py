"""Which guards on the size of a plan refuse it, by what was read. No I/O, no clock.

A new guard that is a number: `inputs.guards.STRICTER`, its field in `jobfile.filemodel`, `job.Job` and
`settings.Settings`, its check here, and what hands it over (`operations`: `preparing`, `today`, `undo`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.inputs.guards import guard_words

if TYPE_CHECKING:
    from engine.planning.outlook import Outlook


def refusals(
    outlook: Outlook, *, max_targets: int | None = None, max_share: float | None = None, expect: int | None = None
) -> list[str]:
    """Return why guards refuse the plan, in words, one text for each; a plan beyond a guard can still be shown."""
    size = len(outlook.plan.calls)
    why = []
    if expect is not None and size != expect:
        why.append(f"--expect {expect:,}: the plan has {size:,} calls")
    if max_targets is not None and size > max_targets:
        why.append(f"{guard_words('max_targets', max_targets)}: the plan has {size:,} calls")
    if max_share is not None:
        guard = guard_words("max_share", max_share)
        if not outlook.accounts_read:
            why.append(f"{guard}: no account could be read to compare with")
        elif size > round(max_share * outlook.accounts_read, 6):  # 29 % of 100 is 28.999999999999996 in floats
            share = size / outlook.accounts_read
            why.append(f"{guard}: {size:,} of the {outlook.accounts_read:,} accounts read are {share:.1%}")
    return why
