"""Steer a live run from another shell: pause it, lift the pause, change it. Nothing counts before its journal says it.

A request is handed to the process that works on the run. The command returns when the run's journal shows the effect.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from engine.errors import BusyError, UsageError
from engine.inputs.jobfile.values import seconds
from engine.inputs.settings import check_rate
from engine.journal.ledger import Ledger
from engine.journal.protocols import RunRef, Runs
from engine.journal.records import Note
from engine.model import Call, CallId, OmitReason
from engine.operations.choosing import chosen
from engine.operations.events import News, Warned
from engine.operations.stores import find, flags_of, refuse_watch
from engine.operations.terms import Terms
from engine.operations.today import refuse_strange_run
from engine.run.endings import orderly_end_s

FEW = 3
"""Accounts that are named."""
POLL_S = 0.1
AGAIN_S = 1.6
"""Seconds after which a process that has just died is not heard of any more in a database."""
_SHARE = 3
"""The journal of a large run is read as long as a third of the time at most."""


class Steered(Struct, frozen=True, kw_only=True):
    """What became of a request."""

    ref: RunRef
    ledger: Ledger
    """The run as it stood when the effect was seen, or when it was given up."""
    sent: tuple[Call, ...] = ()
    """Calls that were to be dropped, and had been sent meanwhile."""
    effect: Note | None
    """The note that acknowledges it; None: it is not in effect yet."""
    is_live: bool


async def pause(terms: Terms, run: str, for_: str | None = None) -> Steered:
    """Have a live run begin no new call, and wait until its journal says that none is under way."""
    for_s = _span(for_) if for_ is not None else None
    ref, store, _ = _live(terms, run, "pause")
    return await _ask(terms, ref, store, what="pause", for_s=for_s)


async def change(terms: Terms, run: str, *, drop: Sequence[str] = (), first: Sequence[str] = ()) -> Steered:
    """Change a live run, also while it is paused: its rate (`terms.rate`), what is left out, and what goes first.

    UsageError, and nothing is changed, if nothing is asked for, a target is unknown, or all of `drop` were sent.
    """
    if terms.rate is None and not drop and not first:
        raise UsageError("say what to change: --rate N, --drop GLOB or --first GLOB")
    ref, store, ledger = _live(terms, run, "change")
    settings = terms.settings(None)
    if terms.rate is not None:
        check_rate(replace(settings, endpoints=ledger.settings.access.every), ledger.run.action)
    out, ahead = _open_of(ledger, drop, "--drop"), _open_of(ledger, first, "--first")
    if both := out & ahead:
        call = ledger.calls[min(both)]
        raise UsageError(f"{call.label} is named by --drop and by --first: leave it out of one of them")
    done = await _ask(
        terms,
        ref,
        store,
        what="change",
        rate=settings.rate if terms.rate is not None else None,
        drop=tuple(sorted(out)),
        first=tuple(sorted(ahead)),
    )
    return replace(done, sent=tuple(call for call in done.ledger.calls.values() if call.id in out))


def _open_of(ledger: Ledger, texts: Sequence[str], flag: str) -> frozenset[CallId]:
    """Return the calls that are named; UsageError if nothing of them is open any more."""
    if not texts:
        return frozenset()
    dropped = _dropped(ledger)
    wanted = chosen(texts, [*ledger.calls.values(), *dropped], flag=flag)
    named = [call for call in ledger.calls.values() if wanted.has(call)]
    if not named:
        who = ", ".join(sorted({by for call, by in dropped.items() if wanted.has(call)}))
        raise UsageError(f"{flag} {texts[0]}: dropped already, by {who}; this run sends nothing for it any more")
    if all(not ledger.entry(call.id).is_unsent for call in named):
        targets = "".join(f" --target {call.label}" for call in named[:FEW])
        more = f", and so on for the other {len(named) - FEW:,}" if len(named) > FEW else ""
        undo = f"; undo it, once the run has ended: acctops undo {ledger.run.run}{targets}{more}"
        raise UsageError(
            f"{flag} {texts[0]}: sent or settled already, and a call that was sent cannot be "
            f"{'dropped' + undo if flag == '--drop' else 'moved ahead'}"
        )
    return frozenset(call.id for call in named if flag == "--drop" or ledger.entry(call.id).is_unsent)


def _dropped(ledger: Ledger) -> dict[Call, str]:
    """Return the calls that were dropped already, and by whom."""
    action = ledger.run.action
    return {
        Call(omit.call, action, omit.account, omit.region, omit.instance, omit.user): omit.where
        for omit in ledger.omits
        if omit.reason == OmitReason.DROPPED and omit.call is not None
    }


async def lift(terms: Terms, run: str) -> Steered | None:
    """Lift the pause of a live run, also one that is only asked for yet; None for a run that is not live.

    BusyError for a live run that nobody has paused, UsageError for a flag that a live run does not take here.
    """
    ref = find(terms, run)
    if ref.store is None or not await _lives(ref.store, ref.run_id):
        return None
    ledger, asked, flags = ref.replay().ledger, ref.store.asked(ref.run_id), flags_of(terms, ref)
    if ledger.pause is None and not any(each.what == "pause" for each in asked):
        raise BusyError(
            f"run {ref.run_id} is being run already, and nobody has paused it: it goes on by itself; how it stands: "
            f"acctops status {ref.run_id}{flags}; to stop it: acctops stop {ref.run_id}{flags}"
        )
    _refuse_others(terms, ref, ledger, "resume")
    lost = [flag for flag, said in (("--rate", terms.rate), ("--exclude", terms.exclude or None)) if said is not None]
    if lost:
        raise UsageError(
            f"{lost[0]}: run {ref.run_id} is live and paused, and goes on as it was begun; leave the flag away, or "
            f"stop it first: acctops stop {ref.run_id}{flags_of(terms, ref)}"
        )
    return await _ask(terms, ref, ref.store, what="resume")


async def _lives(store: Runs, run_id: str) -> bool:
    """Return whether a run is live. In a database its process may have died just now: then nothing is written any more,
    and it is looked at again.
    """
    if not store.is_live(run_id) or store.database is None:
        return store.is_live(run_id)
    version, until = store.version(run_id), time.monotonic() + AGAIN_S
    while time.monotonic() < until:
        await asyncio.sleep(POLL_S)
        if store.version(run_id) != version:
            return True
    return store.is_live(run_id)


def _span(text: str) -> float:
    try:
        found = seconds(text)
    except ValueError as error:
        raise UsageError(f"--for {text}: {error}") from error
    if found <= 0:
        raise UsageError(f"--for {text}: a pause takes a while, such as 30m")
    return found


def _live(terms: Terms, run: str, verb: str) -> tuple[RunRef, Runs, Ledger]:
    """Return a run that can be steered; UsageError for any other, with the command that is right."""
    ref = find(terms, run)
    if ref.store is None:
        raise UsageError(f"{ref.place}: lies outside a state directory; no run can be live there")
    ledger, flags = ref.replay().ledger, flags_of(terms, ref)
    _refuse_others(terms, ref, ledger, verb)
    if not ref.store.is_live(ref.run_id):
        raise UsageError(f"run {ref.run_id} {_not_live(ledger, verb, flags, of_one_host=ref.store.database is None)}")
    return ref, ref.store, ledger


def _not_live(ledger: Ledger, verb: str, flags: str, *, of_one_host: bool) -> str:
    run, here = ledger.run.run, os.uname().nodename
    last = ledger.sessions[-1] if ledger.sessions else ledger.run
    is_open = any(not entry.settled for _, entry, _ in ledger.outcomes())
    if ledger.end is None and last.host != here and of_one_host:
        return f"is not live on this host; it was begun on {last.host}: type it there: acctops {verb} {run}"
    if ledger.end is None or is_open:
        return f"is not live, so there is nothing to {verb}; to go on with it: acctops resume {run}{flags}"
    return f"has ended, so there is nothing to {verb}; what it did: acctops report {run}{flags}"


def _refuse_others(terms: Terms, ref: RunRef, ledger: Ledger, verb: str) -> None:
    refuse_watch(terms, ref, ledger.run, verb)
    if ref.simulated:
        raise UsageError(
            f"run {ref.run_id} is simulated, and takes no {verb}: stop it with acctops stop {ref.run_id}"
            f"{flags_of(terms, ref)}; to try {verb}, run the job against acctops simulate"
        )
    refuse_strange_run(ref, terms.settings(None).trust)


async def _ask(terms: Terms, ref: RunRef, store: Runs, **wish: Any) -> Steered:
    """Ask, and wait as long as an orderly end may take. Any: the fields of `journal.control.Asked`."""
    request = store.ask(ref.run_id, **wish)
    longest_s = orderly_end_s(ref.replay().ledger.settings.timeout_s)
    terms.tell(News(f"run {ref.run_id}: asked to {wish['what']}"))
    until = time.monotonic() + longest_s
    while True:
        began, is_live = time.monotonic(), store.is_live(ref.run_id)
        ledger = ref.replay().ledger
        effect = _effect(ledger, request)
        if effect is not None or not is_live or time.monotonic() >= until:
            break
        await asyncio.sleep(max(POLL_S, _SHARE * (time.monotonic() - began)))
    flags = flags_of(terms, ref)
    if effect is not None and effect.what == "control_refused":
        raise UsageError(f"run {ref.run_id} refuses to {wish['what']}: {effect.data.get('why')}")
    if effect is None:
        # In a database, silence alone does not show that a process has ended.
        is_silent = not is_live and store.database is not None and ledger.end is None
        words = _not_yet(ref.run_id, wish["what"], flags, is_live=is_live, is_silent=is_silent)
        terms.tell(Warned(words, always=True))
    return Steered(ref=ref, ledger=ledger, effect=effect, is_live=is_live)


def _not_yet(run: str, what: str, flags: str, *, is_live: bool, is_silent: bool) -> str:
    words = f"run {run}: asked to {what}, not yet in effect"
    if is_silent:
        return (
            f"{words}: nothing is heard of its process. It has died, or is held up and does this soon after it goes "
            f"on. See acctops status {run}{flags}; to go on with a run that has died: acctops resume {run}{flags}"
        )
    if not is_live:
        return f"{words}, and it has ended meanwhile: nothing comes of it; what it did: acctops report {run}{flags}"
    back = f"; to take the pause back: acctops resume {run}{flags}" if what == "pause" else ""
    return (
        f"{words}: its process has not answered, and calls may still leave. It stays asked for, and counts as soon as "
        f"the process answers. See acctops status {run}{flags}{back}"
    )


def _effect(ledger: Ledger, request: str) -> Note | None:
    """Return the note that says that a request is in effect, or was refused."""
    of_it = (note for note in reversed(ledger.notes) if note.data.get("id") == request and note.what != "control")
    return next(of_it, None)
