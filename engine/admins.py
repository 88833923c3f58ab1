"""Rules, floor 1: which superusers an instance has, and which must stay able to log in. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from engine.actions import LOCKED, NORMAL
from engine.guards import takes_admins
from engine.model import Omit, OmitReason, Target

if TYPE_CHECKING:
    from engine.model import AccountState, Call, Where

SUPERUSER = "tencentDBSuper"
"""AccountInfo.UserType of an admin (D-ACCTS)."""


def usable_admins(accounts: Mapping[str, AccountState]) -> list[str]:
    """Superusers that can log in."""
    return [user for user, state in accounts.items() if state.user_type == SUPERUSER and state.status == NORMAL]


def admins_to_keep(action: str, accounts: Mapping[str, AccountState], users: Sequence[str], keep: int) -> set[str]:
    """Which of `users` must not be locked, so that the instance keeps `keep` usable superusers.

    Of those that could go, the ones named first go first.
    """
    if not takes_admins(action) or keep <= 0:
        return set()
    usable = usable_admins(accounts)
    doomed = [user for user in dict.fromkeys(users) if user in usable]
    spare = max(0, len(usable) - keep)
    return set(doomed[spare:])


def admin_omit(call: Call, keep_admins: int) -> Omit:
    """An admin left out so that its instance keeps one."""
    target = Target(call.instance, call.user, call.region, call.account)
    return Omit(target, OmitReason.PROTECTED, f"keep_admins: {keep_admins}", "the last usable superusers")


class AdminGuard:
    """Which locks of a session leave every instance as many usable superusers as it must keep.

    An account whose lock was sent, now or by an earlier session, counts as lost whatever a reading says: the reading
    may have come too early. So what is let through here needs no second look before it is sent again.
    """

    def __init__(self, keep: int, lost: Iterable[tuple[Where, str]] = ()) -> None:
        """Keep `keep` superusers an instance; `lost` are accounts whose lock may have been applied before."""
        self.keep = keep
        self._lost: dict[Where, set[str]] = {}
        for key, user in lost:
            self._lost.setdefault(key, set()).add(user)

    def lets(self, key: Where, accounts: Mapping[str, AccountState], user: str) -> bool:
        """Whether `user` may be locked, by a reading of its instance; if so, it counts as lost from here on."""
        lost = self._lost.setdefault(key, set())
        state = accounts.get(user)
        if state is not None and state.user_type == SUPERUSER and state.status != LOCKED:
            staying = set(usable_admins(accounts)) - lost - {user}
            if len(staying) < self.keep:
                return False
        lost.add(user)
        return True
