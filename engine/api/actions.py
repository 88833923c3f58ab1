"""**The** table of actions: all that the engine knows of one. A new action is a row here.

It also needs a row in `simulator.catalog`, which says what the server does, and, if it has a command of its own, a line
in `cli.app` and in `cli.commands.running`.

Sources: SEED-LOCK, D-UNLOCK, SEED-CAM, D-CLOSE, D-REFRESH, D-RESET (parameters and limits).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

from msgspec import Struct
from msgspec.structs import replace

from engine.model import AccountState

VERSION = "2017-03-12"
"""API version of every action here."""
LANGUAGE = "en-US"
"""Language of the server's messages, unless another is asked for (CN-PARAM)."""
SERVICE = "postgres"
"""Service name in the signature scope, on both sites (D-REQ)."""

LOCKED = 5
"""AccountInfo.Status of a locked account (D-ACCTS)."""
NORMAL = 2
"""AccountInfo.Status of an account in use."""
TRANSITIONAL = frozenset({1, 3, 4, -1})
"""AccountInfo.Status while the server changes the account: creating, modifying, password resetting, deleting."""
_DOCUMENTED = TRANSITIONAL | {LOCKED, NORMAL}
_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", re.ASCII)
"""A time in DescribeAccounts, the zero date too; as texts they stand in the order of time (D-ACCTS)."""


def _has_newer_password(before: AccountState, after: AccountState) -> bool | None:
    """Return whether the password was changed between two readings; None if one of them does not tell.

    It shows a change, not the value, and not whose it is. The times are the server's, of whole seconds: two changes in
    one second look like one.
    """
    was, now = before.password_update_time, after.password_update_time
    return now > was if _TIME.fullmatch(was) and _TIME.fullmatch(now) else None


class Action(Struct, frozen=True, kw_only=True):
    """One account action of the API."""

    name: str
    verb: str
    """Imperative, as a person reads it: "lock"."""
    done_word: str
    """Participle, as a person reads it: "locked"."""
    quota: int
    """Requests a second, as documented."""
    inverse: str | None
    """Name of the action that undoes this one, if any."""
    is_desired: Callable[[AccountState], bool] | None
    """Tells of an account whether it is as this action leaves it; None: no state shows it."""
    proof: Callable[[AccountState, AccountState], bool | None] | None = None
    """For an action that leaves no state of its own: tells by the account (before, after) whether it was changed since;
    None if they do not tell. Such an account is never "already" as asked."""
    is_told: Callable[[AccountState], bool] = lambda account: account.status in _DOCUMENTED
    """Tells whether the reading of an account can be judged: an undocumented status or a missing field cannot."""
    resendable: bool
    """Whether the call may be repeated after an attempt in doubt, because it only sets a state."""
    stop_after: int | None = None
    """Failed calls that end a run, unless the operator sets another number; None: the run goes on to its end."""
    already_note: str | None = None
    """What the operator must know of a target that was in the desired state before."""
    secret_parameter: str | None = None
    """Name of a parameter that must never be recorded."""
    bars_cam: bool = False
    """Whether the API refuses this for an account with CAM verification on."""
    takes_admins: bool = False
    """Whether this action can leave an instance without a superuser that can log in."""
    effect: str = ""
    """What else the call does to the owners of the accounts, as the end of a sentence such as "lock 3 accounts"."""
    is_incident: bool = False
    """Whether the action answers an incident: the report then says how many accounts were contained by when."""
    keeps_out: bool = False
    """Whether somebody may be unable to log in after this action. Break-glass accounts should be protected from it."""
    command: str = ""
    """Name of the acctops command that does this to a few accounts, without a job file."""
    command_help: str = ""
    """First words of that command's help, before "a few accounts"."""
    has_region: bool = True
    """Whether the resource in a CAM policy for this action can name the instance's region (CN-RATE)."""

    @property
    def needs_password(self) -> bool:
        """Whether each call needs a new password."""
        return self.secret_parameter is not None

    @property
    def is_readable(self) -> bool:
        """Whether readings show that this was done."""
        return self.is_desired is not None or self.proof is not None

    @property
    def is_sent_once(self) -> bool:
        """Whether a call that may have been applied must not be sent again, even if a reading denies that."""
        return self.proof is not None and not self.resendable

    def shows(self, account: AccountState, before: AccountState | None = None) -> bool | None:
        """Return whether `account` is as this action leaves it; None if the reading does not tell.

        `before` is the account as it was read before the call: without it, nothing shows a change.
        """
        if self.proof is not None:
            return None if before is None or account.status in TRANSITIONAL else self.proof(before, account)
        if self.is_desired is None:
            return None
        if self.is_desired(account):
            return True
        return False if self.is_told(account) else None

    def parameters(self, instance: str, user: str, secret: str | None = None) -> dict[str, str]:
        """Return the request parameters of one call, in documented order."""
        parameters = {"DBInstanceId": instance, "UserName": user}
        if self.secret_parameter is not None:
            assert secret is not None, f"{self.name} needs its {self.secret_parameter}"
            parameters[self.secret_parameter] = secret
        return parameters


ACTIONS: Mapping[str, Action] = MappingProxyType(
    {
        action.name: action
        for action in (
            Action(
                name="LockAccount",
                verb="lock",
                done_word="locked",
                quota=20,  # SEED-LOCK: "A maximum of 20 requests can be initiated per second"
                inverse="UnlockAccount",
                is_desired=lambda account: account.status == LOCKED,
                resendable=True,
                takes_admins=True,
                effect=" and drop their sessions",
                is_incident=True,
                keeps_out=True,
                command="lock",
                command_help="Lock",
            ),
            Action(
                name="UnlockAccount",
                verb="unlock",
                done_word="unlocked",
                quota=20,  # D-UNLOCK
                inverse="LockAccount",
                is_desired=lambda account: account.status == NORMAL,
                resendable=True,
                command="unlock",
                command_help="Unlock",
            ),
            Action(
                name="OpenAccountCAM",
                verb="turn CAM verification on for",
                done_word="with CAM verification on",
                quota=20,  # SEED-CAM
                inverse="CloseAccountCAM",
                is_desired=lambda account: account.cam is True,
                is_told=lambda account: account.cam is not None,
                resendable=True,
                stop_after=20,
                keeps_out=True,
                command="cam-on",
                command_help="Turn CAM verification on for",
            ),
            Action(
                name="CloseAccountCAM",
                verb="turn CAM verification off for",
                done_word="with CAM verification off",
                quota=20,  # D-CLOSE
                inverse="OpenAccountCAM",
                is_desired=lambda account: account.cam is False,
                is_told=lambda account: account.cam is not None,
                # A repeat could set the password a second time, to another value.
                resendable=False,
                stop_after=20,
                already_note="CAM verification was off already; the password was NOT set",
                secret_parameter="Password",  # noqa: S106 - the parameter's name
                has_region=False,
            ),
            Action(
                name="RefreshAccountPassword",
                verb="refresh the CAM password of",
                done_word="refreshed",
                quota=20,  # D-REFRESH
                inverse=None,
                is_desired=None,
                resendable=False,
                stop_after=20,
            ),
            Action(
                name="ResetAccountPassword",
                verb="set a new password for",
                done_word="with a new password",
                quota=100,  # D-RESET
                inverse=None,
                is_desired=None,
                proof=_has_newer_password,
                # A repeat with another value could lose the one that was set; `stored_by` lifts this.
                resendable=False,
                stop_after=20,
                secret_parameter="Password",  # noqa: S106 - the parameter's name
                bars_cam=True,
                effect=" (the old ones stop working, open sessions stay)",
                keeps_out=True,
            ),
        )
    }
)


def stored_by(action: Action, passwords: Mapping[str, object] | None) -> Action:
    """Return the action as a run may send it whose source of `passwords` has each value before it gives it.

    Then a repeat sets the value that the store has: a lost answer loses no password.
    """
    return replace(action, resendable=True) if action.needs_password and is_stored(passwords) else action


def is_stored(passwords: Mapping[str, object] | None) -> bool:
    """Return whether a source of passwords, as a journal names it, is a store: a file, a variable, or said so."""
    return passwords is not None and ("command" not in passwords or passwords.get("stored") is True)


def takes_admins(action: str) -> bool:
    """Return whether `action` can leave an instance without a superuser that can log in; False if it is unknown."""
    return action in ACTIONS and ACTIONS[action].takes_admins
