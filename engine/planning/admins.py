"""Which superusers an instance has, and which must stay able to log in. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from engine.api.actions import LOCKED, NORMAL, takes_admins
from engine.model import Omit, OmitReason, Target

if TYPE_CHECKING:
    from engine.model import AccountState, Call, Rival, Where

SUPERUSER = "tencentDBSuper"
"""AccountInfo.UserType of an admin (D-ACCTS)."""


def usable_admins(accounts: Mapping[str, AccountState]) -> list[str]:
    """Return the superusers that can log in."""
    return [user for user, state in accounts.items() if state.user_type == SUPERUSER and state.status == NORMAL]


def admins_to_keep(action: str, accounts: Mapping[str, AccountState], users: Sequence[str], keep: int) -> set[str]:
    """Return which of `users` must not be locked, so that the instance keeps `keep` usable superusers.

    If only some superusers may be locked, those named first in `users` are locked.
    """
    if not takes_admins(action) or keep <= 0:
        return set()
    usable = usable_admins(accounts)
    doomed = [user for user in dict.fromkeys(users) if user in usable]
    spare = max(0, len(usable) - keep)
    return set(doomed[spare:])


def admin_omit(call: Call, keep_admins: int, where: str = "the last usable superusers") -> Omit:
    """Return the omit of an admin that is left out so that its instance keeps `keep_admins` superusers."""
    target = Target(call.instance, call.user, call.region, call.account)
    return Omit(target, OmitReason.PROTECTED, f"keep_admins: {keep_admins}", where)


class AdminGuard:
    """A session's guard that lets only those locks through that leave each instance its superusers.

    An account whose lock was sent, by this session or an earlier one, counts as lost whatever a reading says: the
    reading may have come too early. An account that a rival run locks counts as lost, too. Of two runs the later one
    gives way, as only the later one knows of both.
    """

    def __init__(self, keep: int, lost: Iterable[tuple[Where, str]] = (), *, rivals: Sequence[Rival] = ()) -> None:
        """Keep `keep` superusers an instance; `lost` are accounts whose lock may have been applied before."""
        self.keep = keep
        self._rivals = rivals
        self._lost: dict[Where, set[str]] = {}
        self._granted: dict[Where, set[str]] = {}
        """Instance → users that were let through; whether their lock was sent is not known here."""
        for key, user in lost:
            self._lost.setdefault(key, set()).add(user)

    def lets(self, key: Where, accounts: Mapping[str, AccountState], user: str) -> bool:
        """Return whether `user` may be locked, by a reading of its instance; if so, `user` counts as lost from now."""
        return self.why_not(key, accounts, user) is None

    def why_not(self, key: Where, accounts: Mapping[str, AccountState], user: str) -> tuple[int, str] | None:
        """Return None if `user` may be locked (as in `lets`); else how many superusers must stay, and why in words."""
        granted = self._granted.setdefault(key, set())
        granted.discard(user)
        state = accounts.get(user)
        if state is not None and state.user_type == SUPERUSER and state.status != LOCKED:
            usable = set(usable_admins(accounts))
            staying = usable - self._lost.get(key, set()) - granted - {user}
            keep, why = self.keep, "the last usable superusers"
            for rival in self._rivals:
                theirs = {each for each in usable - {user} if rival.takes(key, each)}
                if not theirs:
                    continue
                keep = max(keep, rival.keep_admins)
                if theirs & staying:
                    why = f"the last usable superusers: run {rival.run} is locking {min(theirs)}"
                staying -= theirs
            if len(staying) < keep:
                return keep, why
        granted.add(user)
        return None
