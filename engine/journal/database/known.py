"""What this host has seen of a database, kept in its state directory.

A database that lacks it was restored from an older backup, or is a standby that had not received everything. The server
itself cannot tell: both have the identity of the original.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from engine.outside.foreign import clean
from engine.outside.trust import read_regular, replace_whole

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from engine.journal.database.link import Rows

_MOST_BYTES = 1000
_NEWEST = (
    "select id, coalesce((select max(b.place) from acctops.batch b where b.run = r.id), 0) "
    "from acctops.run r order by id desc limit 1"
)
_PLACE = "select max(place) from acctops.batch where run = %s"


class Known:
    """The last commit of the newest run that this host has seen in one database."""

    def __init__(self, state_dir: Path, home_id: str, adopted_at: float, rows: Callable[..., Rows]) -> None:
        """`adopted_at`: when somebody said that this database counts, as it stands; UNIX seconds of its own clock."""
        name = hashlib.sha256(home_id.encode()).hexdigest()[:32] + ".json"
        self._path = state_dir / "databases" / name
        self._adopted_at = adopted_at
        self._rows = rows

    def lacks(self) -> str | None:
        """Return the run of which the database lacks what was seen here; None if there is none, or it was adopted."""
        seen = self._read()
        if seen is None or seen["adopted_at"] < self._adopted_at:
            return None
        found = self._rows(_PLACE, seen["run"])[0][0]
        return None if found is not None and found >= seen["place"] else clean(str(seen["run"]), 60)

    def remember(self) -> None:
        """Keep what is there now. A state directory that cannot be written keeps nothing: this only adds a check."""
        newest = self._rows(_NEWEST)
        if not newest:
            return
        run, place = newest[0]
        seen = {"run": run, "place": place, "adopted_at": self._adopted_at}
        if self._read() == seen:
            return
        with suppress(OSError):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_whole(self._path, (json.dumps(seen) + "\n").encode(), 0o600)

    def _read(self) -> dict[str, Any] | None:
        """Return what was kept; None if it is nothing of ours. Any: JSON."""
        with suppress(OSError, ValueError, RecursionError, KeyError, TypeError):
            found = json.loads(read_regular(self._path, _MOST_BYTES, follow=False))
            return {"run": str(found["run"]), "place": int(found["place"]), "adopted_at": float(found["adopted_at"])}
        return None
