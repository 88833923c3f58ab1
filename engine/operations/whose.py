"""Note in the journal whose the keys of a session are, and again when a source replaces them. This goes on beside the
sending, which never waits for it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from engine.cloud.clients import Signer, ask_whose, strangers

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.cloud.clients import Reach
    from engine.journal.ledger import Ledger
    from engine.model import Keys
    from engine.run.runner import Runner

LIMIT_S = 5.0
"""Longest wait for the answer to one question, in seconds."""
LOOK_S = 2.0
"""Seconds between two looks at keys that a source may have replaced."""
AGAIN_S = 60.0
"""Seconds until it is asked again whose the keys are, if that could not be found out."""


async def tell_whose(runner: Runner, reach: Reach, ledger: Ledger, *, known: Callable[[Signer], None]) -> None:
    """Note the identity of every signer, until cancelled; keys that turn out to be another account's send no more.

    `known` is called with each signer once it becomes known, or known anew, whose keys it has.
    """
    if reach.network is None:
        return
    loop = asyncio.get_running_loop()
    signers = [(account, each) for account, found in reach.keyring.items() for each in found if each.has_keys]
    seen: list[Keys | None] = [None] * len(signers)
    told: dict[int, dict[str, object]] = {}
    as_before = [signer.who for _, signer in signers]
    uins = dict(ledger.uins)  # a copy: the ledger learns only when a note is durable
    ask_at = 0.0
    while True:
        now = [signer.keys.get() for _, signer in signers]
        for number, (_, signer) in enumerate(signers):
            if seen[number] not in (None, now[number]):
                signer.who, ask_at = None, 0.0
        seen = list(now)
        if loop.time() >= ask_at:
            await ask_whose(reach, limit_s=LIMIT_S)
            is_known = all(signer.who is not None for _, signer in signers)
            ask_at = float("inf") if is_known else loop.time() + AGAIN_S
            for number, (account, signer) in enumerate(signers):
                facts = _facts(account, signer)
                if told.get(number) != facts:
                    told[number] = facts
                    runner.note("identity", facts)
                if signer.who is not None and as_before[number] != signer.who:
                    as_before[number] = signer.who
                    known(signer)
                if signer.who is not None:
                    uins.setdefault(account, signer.who.uin)
            _one_lane_each(runner, reach)
            for signer, words in strangers(reach.keyring, uins):
                runner.close_lanes_of(
                    signer.keys, f"{words}: not the account whose accounts these are; put its keys back"
                )
        await asyncio.sleep(LOOK_S)


def _one_lane_each(runner: Runner, reach: Reach) -> None:
    """Close lanes of a second profile of one sub-account: both are one quota (CN-RATE), so these would be throttled."""
    for signers in reach.keyring.values():
        first: dict[str, Signer] = {}
        for signer in signers:
            if signer.who is None or not runner.lanes_of(signer.keys):
                continue  # one that sends no more takes nothing from the quota
            known = first.setdefault(signer.identity, signer)
            if known is not signer:
                who = f"sub-account {signer.identity}"
                runner.close_lanes_of(signer.keys, f"{signer.keys.label} is {who}, as {known.keys.label} is: one quota")


def _facts(account: str, signer: Signer) -> dict[str, object]:
    facts: dict[str, object] = {"account": account, "source": signer.keys.label, "key": signer.keys.get().fingerprint}
    if signer.who is None:
        return facts | {"uin": None}
    who = signer.who
    return facts | {"uin": who.uin, "sub_account": who.sub_account, "arn": who.arn}
