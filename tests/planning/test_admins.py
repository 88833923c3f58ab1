"""Which superusers must stay: readings that come too early take no admin away (promise P2)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.api.actions import LOCKED, NORMAL
from engine.model import AccountState
from engine.planning.admins import SUPERUSER, AdminGuard, usable_admins

KEY = ("ap-singapore", "postgres-00000001")


def accounts(**statuses: int) -> dict[str, AccountState]:
    """Superusers with these statuses."""
    return {
        user: AccountState(user=user, status=status, cam=False, user_type=SUPERUSER)
        for user, status in statuses.items()
    }


def test_of_two_admins_one_may_go() -> None:
    """The one asked for first; what may not go is asked for in vain again."""
    guard, both = AdminGuard(1), accounts(root=NORMAL, dba=NORMAL)
    assert [guard.lets(KEY, both, user) for user in ("root", "dba", "dba", "root")] == [True, False, False, True]


def test_a_lock_that_was_sent_counts_whatever_a_reading_says() -> None:
    """It may take effect after the reading: then the other one is the last."""
    both = accounts(root=NORMAL, dba=NORMAL)
    assert not AdminGuard(1, [(KEY, "root")]).lets(KEY, both, "dba")
    assert AdminGuard(1, [(KEY, "root")]).lets(KEY, both, "root"), "the other one stays"
    assert not AdminGuard(1, [(KEY, "root")]).lets(KEY, accounts(root=NORMAL), "root"), "nobody else stays"


def test_another_instance_and_plain_accounts_are_their_own_business() -> None:
    """The guard counts superusers of one instance."""
    guard = AdminGuard(1, [(("ap-singapore", "postgres-00000002"), "root")])
    plain = {"app": AccountState(user="app", status=NORMAL, cam=False, user_type="normal")}
    assert guard.lets(KEY, accounts(root=NORMAL, dba=NORMAL) | plain, "dba")
    assert guard.lets(KEY, accounts(root=NORMAL) | plain, "app")
    assert guard.lets(KEY, accounts(root=NORMAL, dba=LOCKED), "dba"), "locked already: nobody is lost by it"


@given(
    keep=st.integers(1, 3),
    statuses=st.dictionaries(st.sampled_from("abcde"), st.sampled_from((1, NORMAL, 3, 4, LOCKED)), min_size=1),
    asked=st.lists(st.sampled_from("abcde"), max_size=12),
    sent=st.sets(st.sampled_from("abcde")),
)
def test_as_many_stay_as_must(keep: int, statuses: dict[str, int], asked: list[str], sent: set[str]) -> None:
    """Whatever is asked in whatever order: those let through are not the last."""
    there = accounts(**statuses)
    guard = AdminGuard(keep, [(KEY, user) for user in sent])
    gone = {user for user in asked if guard.lets(KEY, there, user) and user in there and statuses[user] == NORMAL}
    if gone:
        assert len(set(usable_admins(there)) - gone - sent) >= keep
