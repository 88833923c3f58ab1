"""List instances and regions: DescribeDBInstances to its end, DescribeRegions (D-INST, D-REGIONS).

`match` decides which rows a job means; `inventory` reads the accounts of their instances.
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
    """Why there may be more instances than these; None: these are all."""
    refused: Answer | None = None
    """The answer without data that ended the listing; None if there was none."""


async def list_instances(
    inventory: Inventory, region: str, filters: Sequence[Mapping[str, Any]], *, account: str = ""
) -> Listing:
    """Return every instance of a region that passes `filters`, in the form DescribeDBInstances takes. Any: JSON.

    If the list changes while it is read, an instance may move to the page before and be missed. Then the whole list is
    read again, and what any of these looks saw counts.
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
    """Return the regions the product is available in, as DescribeRegions names them; its answer if that has no data."""
    answer = await inventory.ask("DescribeRegions", Where(account, "", ""), {})
    if answer.data is None:
        return answer
    rows = [row for row in answer.data["RegionSet"] if isinstance(row, dict)]
    there = [row["Region"] for row in rows if isinstance(row.get("Region"), str) and is_region(row["Region"])]
    closed = {row.get("Region") for row in rows if row.get("RegionState") == "UNAVAILABLE"}
    return tuple(region for region in dict.fromkeys(there) if region not in closed)
