"""The table of actions against the vendor's own description of its API, and the states its rows stand for."""

from __future__ import annotations

import importlib

import pytest
from msgspec.structs import replace

from engine.api.actions import ACTIONS, SERVICE, TRANSITIONAL, VERSION, Action, stored_by
from engine.model import AccountState

STATUSES = {1: "creating", 2: "normal", 3: "modifying", 4: "password resetting", 5: "locked", -1: "deleting"}


def account(status: int = 2, cam: bool | None = False) -> AccountState:
    return AccountState(user="app_user", status=status, cam=cam)


def test_the_actions_are_the_six_that_take_one_account() -> None:
    """As many a second as its page says."""
    assert {name: action.quota for name, action in ACTIONS.items()} == {
        **dict.fromkeys(
            ("LockAccount", "UnlockAccount", "OpenAccountCAM", "CloseAccountCAM", "RefreshAccountPassword"), 20
        ),
        "ResetAccountPassword": 100,
    }
    assert all(action.name == name for name, action in ACTIONS.items())


@pytest.mark.parametrize("action", ACTIONS.values(), ids=ACTIONS.keys())
def test_parameters_are_those_of_the_vendors_sdk(action: Action) -> None:
    """The names on the wire are the ones the vendor's SDK serialises; what it has more is optional."""
    models = importlib.import_module(f"tencentcloud.{SERVICE}.v{VERSION.replace('-', '')}.models")
    request = getattr(models, f"{action.name}Request")()
    documented = {name.removeprefix("_") for name in vars(request)}
    secret = "Abcdef1!" if action.needs_password else None
    assert set(action.parameters("postgres-4sfuv15b", "app_user", secret)) == documented - {"PasswordEncrypt"}


@pytest.mark.parametrize("action", ACTIONS.values(), ids=ACTIONS.keys())
def test_parameters_carry_what_they_were_given(action: Action) -> None:
    """Instance, user, and the secret only where the action takes one."""
    secret = "Abcdef1!" if action.needs_password else None
    expected = {"DBInstanceId": "postgres-4sfuv15b", "UserName": "app_user"}
    if secret is not None:
        expected["Password"] = secret
    assert action.parameters("postgres-4sfuv15b", "app_user", secret) == expected


def test_an_action_that_needs_a_password_is_not_sent_without_one() -> None:
    """CloseAccountCAM without its new password never becomes a request."""
    with pytest.raises(AssertionError, match="Password"):
        ACTIONS["CloseAccountCAM"].parameters("postgres-4sfuv15b", "app_user")


def test_a_secret_handed_to_an_action_that_takes_none_is_not_sent() -> None:
    """A password cannot leave by the wrong action."""
    assert "Abcdef1!" not in ACTIONS["LockAccount"].parameters("i", "u", "Abcdef1!").values()


@pytest.mark.parametrize(
    ("action", "desired"),
    [
        ("LockAccount", {(5, False), (5, True), (5, None)}),
        ("UnlockAccount", {(2, False), (2, True), (2, None)}),
        ("OpenAccountCAM", {(status, True) for status in STATUSES}),
        ("CloseAccountCAM", {(status, False) for status in STATUSES}),
    ],
)
def test_desired_states(action: str, desired: set[tuple[int, bool | None]]) -> None:
    """Which of all readable states count as done: a status on its way does not, nor does a missing CAM field."""
    is_desired = ACTIONS[action].is_desired
    assert is_desired is not None
    found = {(status, cam) for status in STATUSES for cam in (True, False, None) if is_desired(account(status, cam))}
    assert found == desired


def test_no_reading_tells_whether_a_password_was_refreshed() -> None:
    """So it is never claimed."""
    assert ACTIONS["RefreshAccountPassword"].is_desired is None


def test_transitional_statuses_are_those_between_normal_and_locked() -> None:
    """Every documented status but the two an account rests in."""
    assert frozenset(STATUSES) - {2, 5} == TRANSITIONAL


def test_inverses_come_in_pairs() -> None:
    """Undo of undo is the action itself; a password that is gone has no way back."""
    pairs = {name: action.inverse for name, action in ACTIONS.items()}
    assert pairs.pop("RefreshAccountPassword") is None
    assert pairs.pop("ResetAccountPassword") is None
    for name, inverse in pairs.items():
        assert inverse is not None
        assert pairs[inverse] == name


def test_no_state_is_what_an_action_and_its_inverse_both_leave() -> None:
    """Undo can tell by reading whether the account still stands as the run left it."""
    for action in ACTIONS.values():
        if action.inverse is None or action.is_desired is None:
            continue
        inverse = ACTIONS[action.inverse].is_desired
        assert inverse is not None
        for status in STATUSES:
            for cam in (True, False, None):
                state = account(status, cam)
                assert not (action.is_desired(state) and inverse(state)), (action.name, state)


def test_only_actions_that_set_a_state_are_sent_again_unseen() -> None:
    """A second CloseAccountCAM sets a password a second time, a second refresh makes another one."""
    assert {name for name, action in ACTIONS.items() if action.resendable} == {
        "LockAccount",
        "UnlockAccount",
        "OpenAccountCAM",
    }
    needy = {"CloseAccountCAM", "ResetAccountPassword"}
    assert {name for name, action in ACTIONS.items() if action.needs_password} == needy


@pytest.mark.parametrize(
    ("passwords", "stored"),
    [
        (None, False),
        ({"command": ["give"]}, False),
        ({"command": ["give"], "stored": False}, False),
        ({"command": ["give"], "stored": "yes"}, False),
        ({"command": ["give"], "stored": True}, True),
        ({"file": "/new.csv"}, True),
        ({"env": "NEW"}, True),
    ],
)
def test_only_a_store_of_passwords_lets_a_doubt_be_sent_again(
    passwords: dict[str, object] | None, stored: bool
) -> None:
    """Its second answer is the first one: a repeat loses no password. Actions without passwords are as they were."""
    reset = stored_by(ACTIONS["ResetAccountPassword"], passwords)
    assert (reset.resendable, reset.is_sent_once) == (stored, not stored)
    assert stored_by(ACTIONS["RefreshAccountPassword"], passwords) is ACTIONS["RefreshAccountPassword"]


NEVER, EARLIER, LATER = "0000-00-00 00:00:00", "2026-11-28 09:00:00", "2026-11-28 09:00:01"


@pytest.mark.parametrize(
    ("before", "after", "shows"),
    [
        (NEVER, NEVER, False),
        (NEVER, EARLIER, True),
        (EARLIER, LATER, True),
        (EARLIER, EARLIER, False),  # perhaps a second change within one second: the times are of whole seconds
        (LATER, EARLIER, False),  # a copy that is behind, or a clock set back
        (EARLIER, NEVER, False),
        ("", EARLIER, None),
        (EARLIER, "", None),
        (EARLIER, "yesterday", None),
        ("2026-11-28T09:00:00Z", LATER, None),
    ],
)
def test_a_newer_password_time_proves_a_change(before: str, after: str, shows: bool | None) -> None:
    """By the server's words alone; what is no such time proves nothing, nor does an account that still changes."""
    reset = ACTIONS["ResetAccountPassword"]
    was, now = (AccountState(user="", status=5, cam=False, password_update_time=time) for time in (before, after))
    assert reset.shows(now, was) is shows
    assert reset.shows(now) is None
    assert reset.shows(replace(now, status=4), was) is None


def test_every_row_reads_as_a_sentence() -> None:
    """ "to lock 3 accounts" and "3 of 3 locked": both words are there, and no two actions share them."""
    for field in ("verb", "done_word"):
        words = [getattr(action, field) for action in ACTIONS.values()]
        assert all(words)
        assert len(set(words)) == len(words)


def test_the_table_cannot_be_changed() -> None:
    """A row is what the page says, for the whole life of the process."""
    with pytest.raises(TypeError):
        ACTIONS["DropAccount"] = ACTIONS["LockAccount"]  # type: ignore[index]
    with pytest.raises(AttributeError):
        ACTIONS["LockAccount"].quota = 200  # type: ignore[misc]
