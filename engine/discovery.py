"""Engine, floor 3: which instances and regions there are: DescribeDBInstances to its end, DescribeRegions (facts §1.2).

What the rows mean to a job is `match`; their accounts are read by `inventory`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct, field

from engine.foreign import field_of
from engine.inventory import PAGE, Inventory
from engine.match import InstanceRow, instance_row
from engine.model import Answer, Where

_PASSES = 3
"""Times a list is read that changes while it is read."""
_MOST_PAGES = 1000


class Listing(Struct, kw_only=True):
    """The instances of one region, by id."""

    rows: dict[str, InstanceRow] = field(default_factory=dict)
    why: str | None = None
    """Why more may be there than these; None: these are all."""
    refused: Answer | None = None
    """The answer that ended it, if one did."""


async def list_instances(
    inventory: Inventory, region: str, filters: Sequence[Mapping[str, Any]], *, account: str = ""
) -> Listing:
    """Every instance of a region that passes `filters`, as DescribeDBInstances takes them. Any: JSON.

    TotalCount is the number found, unlike that of DescribeAccounts. While it changes from page to page an instance may
    slip from one page to the one before: then all is read again, and what any pass saw counts.
    """
    listing = Listing()
    for _ in range(_PASSES):
        seen, odd, totals = 0, 0, set()
        for page in range(_MOST_PAGES):
            window = {"Limit": PAGE, "Offset": page * PAGE, "OrderBy": "DBInstanceId", "OrderByType": "asc"}
            parameters = {**window, **({"Filters": list(filters)} if filters else {})}
            answer = await inventory.ask("DescribeDBInstances", Where(account, region, ""), parameters)
            rows = answer.data.get("DBInstanceSet") if answer.data is not None else None
            if not isinstance(rows, list):
                listing.why = answer.code or "the answer has no list of instances"
                listing.refused = answer
                return listing
            known = [row for row in (instance_row(data, region, account) for data in rows) if row is not None]
            listing.rows |= {row.id: row for row in known}
            seen += len(rows)
            odd += len(rows) - len(known)
            totals.add(answer.data.get("TotalCount") if answer.data is not None else None)
            if len(rows) < PAGE:
                break
        if totals == {seen} or totals == {None}:
            listing.why = f"{odd:,} rows are no instances as documented" if odd else None
            return listing
        listing.why = f"{len(listing.rows):,} shown, and the list kept changing while it was read"
    return listing


async def list_regions(inventory: Inventory, *, account: str = "") -> tuple[str, ...] | Answer:
    """Regions the product is available in, as DescribeRegions names them; the answer if that is no list."""
    answer = await inventory.ask("DescribeRegions", Where(account, "", ""), {})
    rows = answer.data.get("RegionSet") if answer.data is not None else None
    if not isinstance(rows, list):
        return answer
    return tuple(
        region
        for row in rows
        if isinstance(row, dict) and (region := field_of(row.get("Region"))) and row.get("RegionState") != "UNAVAILABLE"
    )
