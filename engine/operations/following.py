"""Follow a run that workers carry out: its ledger is kept up with what they write, until its `end` is there.

Who follows changes nothing. Ended by force, it leaves the run to its workers. It asks them to drain when its user wants
the run to stop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from engine.errors import AcctopsError, JournalCorruptError, Reason, UnreachableError
from engine.journal import records
from engine.journal.lines import decode_block
from engine.journal.shards import apply_to_run
from engine.journal.standing import Progress, Waits, standing
from engine.operations.carrying import Ended, way_now
from engine.operations.events import News, Warned
from engine.operations.session import LeftAtOnceError, SessionEnd, Unwatched
from engine.operations.unled import end_words, is_unled
from engine.planning.shards import owner_of, owner_words

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.inputs.settings import Settings
    from engine.journal.ledger import Ledger
    from engine.journal.protocols import Board, Tail
    from engine.operations.session import Watch
    from engine.operations.terms import Terms
    from engine.run.waves import Waves

LOOK_S = 0.3
"""Seconds between two looks at what workers have written."""
_AGAIN_S = 0.5
"""Seconds between two looks at whether any worker is there to drain the run."""
_NOBODY_S = 5.0
"""Seconds for which no worker has the run, after which this is said."""


class Followed:
    """The ledger of a run, kept up with the lines that others append to its chains."""

    def __init__(self, tail: Tail, ledger: Ledger, ends: Mapping[int, tuple[int, str]]) -> None:
        """`ends`: number of each chain → its lines that the ledger has, and the hash of the last of them."""
        self.ledger = ledger
        self._tail = tail
        self._ends = dict(ends)

    def seq(self, no: int) -> int:
        """Return how many lines of a chain the ledger has."""
        return self._ends.get(no, (0, ""))[0]

    def head(self, no: int) -> str:
        """Return the hash of the last of them."""
        return self._ends[no][1]

    async def look(self) -> list[records.AnyRecord]:
        """Fold in what is new, and return all of it, also what does not count for the run as a whole.

        UnreachableError if the database does not answer; JournalCorruptError for a chain that does not hold.
        """
        known = {no: seq for no, (seq, _) in self._ends.items()}
        found: list[records.AnyRecord] = []
        for no, lines in await asyncio.to_thread(self._tail.read, known):
            seq, head = self._ends[no]
            new = decode_block(lines, seq + 1, head, self.ledger.run.run, shard=no, v=2)
            if new is None:
                raise JournalCorruptError(
                    f"run {self.ledger.run.run}: {f'shard {no}' if no else 'its chain'} does not hold behind line "
                    f"{seq}: acctops journal verify {self.ledger.run.run}"
                )
            for record in new:
                apply_to_run(self.ledger, record)
            self._ends[no] = (new[-1].seq, new[-1].hash)
            found += new
        return found


class Follower:
    """A `Conductor` of a run that workers carry out: it waits for its `end`."""

    waves: Waves | None = None
    stopped: records.Stopped | None = None
    back_elsewhere = 0
    first_send_at: float | None = None

    def __init__(self, followed: Followed, board: Board, *, since: int, clock: Callable[[], float]) -> None:
        """`since`: number of the last line of chain 0 before the run was handed over."""
        self._followed = followed
        self._board = board
        self._since = since
        self._clock = clock
        self._run = followed.ledger.run.run
        self._began = time.monotonic()
        self._asked: Reason | None = None
        self._why = ""
        self._waits: tuple[str, ...] = ()
        self._tell: Callable[[str], None] = lambda _text: None
        self._asking: asyncio.Future[None] | None = None

    @property
    def tell(self) -> Callable[[str], None]:
        """Called with each piece of news for the user."""
        return self._tell

    @tell.setter
    def tell(self, tell: Callable[[str], None]) -> None:
        self._tell = tell

    @property
    def leaving(self) -> str:
        """What it means to leave it now, in words."""
        return f"it drains on its workers; how it stands: acctops status {self._run}"

    async def run(self) -> Reason:
        """Wait for the run's end; return its reason, or the one it was stopped for here."""
        idle_since: float | None = None
        told: set[str] = set()
        lacking, looked_at = "", time.monotonic()
        while True:
            try:
                news = await self._followed.look()
                lead = await asyncio.to_thread(self._board.lead_of, self._run)
            except UnreachableError as error:
                self._waits = (str(error),)
                await asyncio.sleep(1.0)
                continue
            self._waits = ()
            for record in news:
                self._heed(record)
            if (end := self._end) is not None and not lead.is_submitted:
                return self._reason(Reason(end.exit))
            if not lead.is_submitted and not lead.is_live:
                raise AcctopsError(f"run {self._run}: was withdrawn by somebody; see: acctops status {self._run}")
            now = time.monotonic()
            idle_since = None if lead.is_live else idle_since or now
            if now - looked_at > _NOBODY_S:
                looked_at = now
                with suppress(UnreachableError):
                    lacking = await asyncio.to_thread(self._lacking)
            is_idle = idle_since is not None and now - idle_since > _NOBODY_S
            if lacking or is_idle:
                what = lacking or "no worker has it: start one with acctops worker --database URL"
                self._waits = (what,)
                if what not in told:
                    told.add(what)
                    self._tell(
                        f"run {self._run}: {what}; until then {'nothing' if is_idle else 'none of that'} is sent"
                    )
            await asyncio.sleep(LOOK_S)

    def _lacking(self) -> str:
        """Return in words whose keys no worker has, though open shards wait for them; "" if there are none.

        Blocks. A shard that another owner's lane may take, too, waits for nobody.
        """
        workers = self._board.workers()
        there = {owner for worker in workers for owner in worker.queues}
        if not workers:
            return ""
        needed: dict[str, int] = {}
        for row in self._board.rows(self._run):
            owners = {owner_of(lane) for lane in row.lanes}
            if row.is_open and owners and not owners & there:
                words = " or ".join(owner_words(owner) for owner in sorted(owners))
                needed[words] = needed.get(words, 0) + row.calls
        if not needed:
            return ""
        whose = ", ".join(owner_words(owner) for owner in sorted(there)) or "nobody"
        calls = "; ".join(f"{count:,} calls wait for {words}" for words, count in needed.items())
        return f"{calls}, and no worker has such keys (theirs are of {whose}); start one with them: acctops worker"

    @property
    def _end(self) -> records.End | None:
        end = self._followed.ledger.end
        return end if end is not None and end.seq > self._since else None

    def _reason(self, ended: Reason) -> Reason:
        return self._asked if self._asked is not None and ended is Reason.STOPPED else ended

    def _heed(self, record: records.AnyRecord) -> None:
        """Tell what a person wants to know at once."""
        if isinstance(record, records.WaveLine) and not record.shard and record.state != records.PLANNED:
            waves = max(self._followed.ledger.waves, default=0)
            about = f"wave {record.n} of {waves}" if record.n else "the gate, before wave 1"
            why = f": {record.why}" if record.why else ""
            self._tell(f"{about}: {record.state}{why}")
        elif isinstance(record, records.Note) and record.what in ("lane_closed", "route_closed"):
            whose = record.data.get("lane") or record.data.get("account") or record.data.get("endpoints")
            self._tell(f"{whose}: {record.data.get('why')}")

    def progress(self) -> Progress:
        """Return how the run stands, from what is durable."""
        ledger = self._followed.ledger
        lanes = {lane for line in ledger.shards.values() for lane in line.lanes}
        how = standing(ledger, self._clock(), quota=ledger.settings.rate * len(lanes))
        waits = Waits((*self._waits, *how.waits), how.held)
        stopping = self._why or how.stopping
        return replace(how, seconds=time.monotonic() - self._began, waits=waits.words, stopping=stopping)

    def note(self, _what: str, _data: dict[str, object]) -> None:
        """Do nothing: the journal is its workers'."""

    def stop(self, why: str, reason: Reason) -> None:
        """Ask the workers to drain the run. The first reason counts."""
        if self._asked is None:
            self._asked, self._why = reason, why
            self._asking = asyncio.ensure_future(self._ask())

    def close(self) -> None:
        """Ask nothing any more."""
        if self._asking is not None:
            self._asking.cancel()

    async def _ask(self) -> None:
        """Ask the workers to drain the run; without any, end it here."""
        is_asked = False
        while self._end is None:
            try:
                if not is_asked:
                    await asyncio.to_thread(self._board.request_stop, self._run)
                    is_asked = True
                if await asyncio.to_thread(is_unled, self._board, self._run):
                    why = f"{self._why}, and no worker was there to lead it"
                    end = partial(end_words, self._board, self._run, why, Reason.STOPPED, clock=self._clock)
                    await asyncio.to_thread(end)
            except UnreachableError:
                pass
            await asyncio.sleep(_AGAIN_S)


async def follow(
    board: Board, run_id: str, followed: Followed, terms: Terms, settings: Settings, watch: Watch | None, *, since: int
) -> Ended:
    """Follow a run that was handed over, until its end or until its user leaves it; return how it stands then."""
    watch = watch or Unwatched()
    follower = Follower(followed, board, since=since, clock=terms.clock)
    follower.tell = lambda text: terms.tell(News(text))
    async with watch.beside(follower), _page_of(board, followed, terms, settings):
        try:
            reason = await watch.working(follower.run())
        except LeftAtOnceError as left:
            terms.tell(Warned(str(left), always=True))
            return ended_of(board, followed, terms, settings, SessionEnd(left.reason), is_left=True)
        finally:
            follower.close()
    return ended_of(board, followed, terms, settings, SessionEnd(reason))


@asynccontextmanager
async def _page_of(board: Board, followed: Followed, terms: Terms, settings: Settings) -> AsyncIterator[None]:
    """Keep the page of a run that is followed, if its user wants one; the workers keep their own."""
    if settings.page_file is None:
        yield
        return
    from engine.operations.livepage import LivePage  # here: few runs have a page

    page = LivePage(
        settings,
        followed.ledger,
        lambda: followed.head(0),
        board.store,
        lambda why: terms.tell(Warned(f"page: {why}")),
        flags=terms.repeat(board.store),
        clock=terms.clock,
    )
    keeping = asyncio.create_task(page.keep())
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        if followed.ledger.end is not None:
            await page.last()


def ended_of(
    board: Board, followed: Followed, terms: Terms, settings: Settings, end: SessionEnd, *, is_left: bool = False
) -> Ended:
    """Return how a run stands that workers have; `is_left`: whether they go on with it."""
    ledger = followed.ledger
    return Ended(
        reason=end.reason,
        ledger=ledger,
        journal=board.store.place_of(ledger.run.run),
        head=followed.head(0),
        way=way_now(board.store, ledger, settings, terms),
        unrecorded=end.unrecorded,
        is_left=is_left,
    )
