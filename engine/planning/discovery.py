"""Which instances and regions there are: DescribeDBInstances to its end, DescribeRegions (D-INST, D-REGIONS).

What the rows mean to a job is `match`; their accounts are read by `inventory`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct, field

from engine.api.names import is_region
from engine.cloud.inventory import Inventory
from engine.inputs.match import InstanceRow, instance_row
from engine.model import Answer, Where


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

    While it changes from page to page an instance may slip from one page to the one before: then all is read again,
    and what any look saw counts.
    """
    parameters = {"OrderBy": "DBInstanceId", "OrderByType": "asc", **({"Filters": list(filters)} if filters else {})}
    listed = await inventory.listed(
        "DescribeDBInstances",
        Where(account, region, ""),
        parameters,
        key="DBInstanceId",
        read=lambda row: instance_row(row, region, account),
    )
    rows = {row.id: row for row in listed.rows.values() if row is not None}
    listing = Listing(rows=rows, why=f"{len(rows):,} shown, and {listed.why}" if listed.why is not None else None)
    if listed.answer.data is None:
        listing.why = listed.answer.code or "the answer has no list of instances"
        listing.refused = listed.answer
    return listing


async def list_regions(inventory: Inventory, *, account: str = "") -> tuple[str, ...] | Answer:
    """Regions the product is available in, as DescribeRegions names them; the answer if that is no list."""
    answer = await inventory.ask("DescribeRegions", Where(account, "", ""), {})
    if answer.data is None:
        return answer
    rows = [row for row in answer.data["RegionSet"] if isinstance(row, dict)]
    there = [row["Region"] for row in rows if isinstance(row.get("Region"), str) and is_region(row["Region"])]
    closed = {row.get("Region") for row in rows if row.get("RegionState") == "UNAVAILABLE"}
    return tuple(region for region in dict.fromkeys(there) if region not in closed)
