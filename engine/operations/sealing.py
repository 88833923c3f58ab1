"""List the end of a run in `heads.jsonl`, sign that line, and have it stamped.

Nothing here fails a run, or keeps it from ending: what cannot be done is told, and `tend` does it later, marked late.
"""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from engine.errors import AcctopsError
from engine.journal.heads import HeadLine, Seal
from engine.outside.sshkeys import SEALS, SshKeyError, fingerprint_of, sign_alone

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.cloud.proxy import WayOut
    from engine.inputs.sealing import SealSpec
    from engine.journal.protocols import Runs

LATER = "acctops tend does it later, marked late"
STAMP_S = 10.0
"""Seconds that an authority has for its answer."""


class Sealed(Struct, frozen=True, kw_only=True):
    """A line of the list, and what became of its signature."""

    line: HeadLine
    signature: str | None = None
    why: str | None = None
    """Why it was not signed, though the config asks for it; None if it was, or nothing asks."""


def list_end(
    store: Runs,
    run_id: str,
    *,
    head: str,
    lines: int,
    exit_code: int | None,
    spec: SealSpec | None,
    clock: Callable[[], float],
    late: bool = False,
) -> Sealed:
    """List how a run's journal stands, and sign that line if `spec` names a key. Blocks.

    It takes milliseconds, and half a minute at most where the key hangs.

    Raises JournalWriteError or JournalCorruptError if it cannot be listed. A signature that cannot be made is `why`.
    """
    key, fingerprint, why = Path(spec.key) if spec is not None and spec.key is not None else None, None, None
    if key is not None:
        try:
            fingerprint = fingerprint_of(key)
        except SshKeyError as error:
            why = str(error)
    line = store.list_end(run_id, head=head, lines=lines, exit_code=exit_code, late=late, seal=fingerprint, clock=clock)
    if key is None or why is not None:
        return Sealed(line=line, why=why)
    try:
        signature = sign_alone(line.raw, key, SEALS)
        store.add_seal(Seal(seq=line.seq, run=run_id, hash=line.hash, signature=signature))
    except (SshKeyError, AcctopsError) as error:
        return Sealed(line=line, why=str(error))
    return Sealed(line=line, signature=signature)


def seal_words(store: Runs | None, run_id: str) -> tuple[str, ...]:
    """Return how the end of a run is listed and sealed, in words; empty if it is not listed. Checks no signature."""
    line = store.last_listed(run_id) if store is not None else None
    if store is None or line is None:
        return ()
    late = ", late" if line.late else ""
    found = [f"line {line.seq} of heads.jsonl ({line.at}{late}): {line.lines:,} lines, head {line.head}"]
    try:
        seals = [seal for seal in store.seals() if seal.hash == line.hash]
    except AcctopsError as error:
        return (*found, f"its seals cannot be read: {error}")
    if any(seal.signature is not None for seal in seals):
        found.append(f"signed by {line.seal}")
    elif line.seal is not None:
        found.append(f"was to be signed by {line.seal}, and is NOT")
    found += [f"time stamp of {seal.tsa}" for seal in seals if seal.stamp is not None]
    return (*found, "whether all of it holds: acctops journal verify --all")


async def stamp(store: Runs, line: HeadLine, spec: SealSpec, way: WayOut) -> str | None:
    """Have a line stamped by the first authority that does so; return why none did, or None. Raises no AcctopsError."""
    from engine.outside import stamps  # here: few configs name an authority

    try:
        asked = await asyncio.to_thread(stamps.question, line.raw)
    except stamps.StampError as error:
        return str(error)
    ca = Path(spec.tsa_ca) if spec.tsa_ca is not None else None
    refused = []
    for url in spec.tsa:
        try:
            answer = await _ask(url, asked, way)
            await asyncio.to_thread(stamps.granted, line.raw, asked, answer, ca)
            text = base64.b64encode(answer).decode()
            seal = Seal(seq=line.seq, run=line.run, hash=line.hash, stamp=text, tsa=url)
            await asyncio.to_thread(store.add_seal, seal)
        except (stamps.StampError, AcctopsError) as error:
            refused.append(f"{url}: {error}")
        else:
            return None
    return "; ".join(refused)


async def _ask(url: str, asked: bytes, way: WayOut) -> bytes:
    """Return what an authority answers; StampError in words."""
    from engine.cloud.transport import post_once
    from engine.model import Fault
    from engine.outside.stamps import MOST_STAMP, StampError

    kind = "application/timestamp-query"
    try:
        async with asyncio.timeout(STAMP_S):
            answer = await post_once(url, asked, STAMP_S, way, kind=kind, most=MOST_STAMP)
    except TimeoutError:
        raise StampError(f"no answer within {STAMP_S:.0f} s") from None
    if isinstance(answer, Fault):
        raise StampError(f"cannot be reached, or gave no whole answer [{answer.code}]")
    if answer.status != 200:
        raise StampError(f"answered HTTP {answer.status}")
    if len(answer.body) > MOST_STAMP:
        raise StampError(f"answered with more than {MOST_STAMP:,} bytes")
    return answer.body
