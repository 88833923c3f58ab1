"""`names`, `endpoints`, `values`: what may be written, and what it becomes."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.api import names
from engine.api.actions import ACTIONS
from engine.api.endpoints import NEAREST, access, endpoint_word, is_loopback, normal_endpoint, regional
from engine.inputs.job import StopAfter
from engine.inputs.jobfile.values import (
    action_name,
    is_listed_order,
    region_name,
    seconds,
    share,
    some_seconds,
    stop_after,
    true_or_false,
)


@pytest.mark.parametrize("user", ["root", "_svc_2", "a" * 63, "Postgres", "pg_x", "tencentdb_y", "App_1", "no"])
def test_users_both_or_one_documented_rule_allows_are_taken(user):
    """Reserved names too: the plan leaves them out by name."""
    assert names.user_problem(user) is None


@pytest.mark.parametrize(
    "user",
    [
        "",
        "1",
        "-a",
        "a-",
        "10.0.0.1",
        "a" * 64,
        "a b",
        "a\n",
        "a@b",
        "a/b",
        "*",
        "a\u200bb",
        "\u3164",
        "a,b",
        "a'b",
        "=a",
    ],
)
def test_users_no_rule_allows_are_refused(user):
    """With the rule in words and the value shown on one line."""
    problem = names.user_problem(user)
    assert problem is not None
    assert "63 letters" in problem
    assert "\n" not in problem


@pytest.mark.parametrize("user", ["svc-app", "1a", "app.batch-2", "a$1", "é", "müller", "админ", "a" * 60 + "-bc"])
def test_a_name_that_only_sql_makes_is_unusual(user):
    """DescribeAccounts shows it, so it can be meant; no rule of the API allows it, so nobody sends it unseen."""
    assert names.user_problem(user) is None and names.is_unusual(user)
    assert re.fullmatch(names.ANY_USER_PATTERN, user)


@pytest.mark.parametrize("user", ["postgres-4sfuv15b", "ap-tokyo", "pgro-1a"])
def test_a_cell_of_another_column_is_no_user(user):
    """Two columns that are swapped must not make accounts of ids."""
    assert "are columns swapped?" in str(names.user_problem(user))
    assert "is not an account name" in str(names.user_problem("é" * 32))  # 64 bytes: PostgreSQL would cut it


def test_a_letter_that_only_looks_like_one_is_named():
    """A name copied from a chat reads right and is refused: nobody sees a Cyrillic о."""
    assert "(\u043e in it is U+043E, none of a–z)" in str(names.user_problem("app_sh\u043ep"))
    assert "(\u0430 in it is U+0430, none of a–z)" in str(names.instance_problem("postgres-\u04301"))
    assert "U+" not in str(names.user_problem("1"))


@pytest.mark.parametrize("name", ["postgres-4sfuv15b", "pgro-8dskaa2q", "postgres-a1", "tdpg-1-2"])
def test_instance_ids_are_a_prefix_and_an_id(name):
    """As every documented sample."""
    assert names.instance_problem(name) is None


@pytest.mark.parametrize(
    "name", ["", "postgres", "instance", "postgres-", "-a", "a_b-c", "é-a", "a" * 60 + "-abcdef", "a-b\n"]
)
def test_other_instance_ids_are_refused(name):
    """With an example."""
    assert "postgres-4sfuv15b" in (names.instance_problem(name) or "")


def test_regions_by_form_and_hint():
    """The list is advice, so only the form is a rule; a slip gets the nearest name."""
    assert all(names.region_problem(region) is None for region in names.REGIONS)
    assert len(names.REGIONS) == 18
    assert names.region_problem("ap-mumbai") is None
    assert names.region_problem("singapore") == "'singapore' is not a region; did you mean ap-singapore?"
    assert names.region_problem("?") == "'?' is not a region; such as ap-singapore"


def test_nearest_ignores_case_and_gives_up_on_strangers():
    """A hint that is far off would send people the wrong way."""
    assert names.nearest("REGON", ["region", "rate"]) == "region"
    assert names.nearest("zzz", ["region", "rate"]) is None
    assert names.did_you_mean("lockaccount", ACTIONS) == "; did you mean LockAccount?"
    assert names.did_you_mean("zzz", ACTIONS) == ""


@given(st.text())
def test_shown_values_are_short_and_on_one_line(text):
    """Whatever was written."""
    shown = names.shown(text)
    assert "\n" not in shown
    assert len(names.shown("x" * 10_000)) < 70


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("https://postgres.tencentcloudapi.com", "https://postgres.tencentcloudapi.com"),
        ("https://Postgres.Example.com:443/", "https://postgres.example.com"),
        ("https://x.example:8443", "https://x.example:8443"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://127.255.0.3:080", "http://127.255.0.3"),
        ("http://localhost", "http://localhost"),
        ("http://[::1]:9", "http://[::1]:9"),
        ("https://[2001:db8::1]", "https://[2001:db8::1]"),
    ],
)
def test_endpoints_have_one_spelling(url, normal):
    """A lane is known by host and port."""
    assert normal_endpoint(url) == normal


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com", "http://128.0.0.1", "http://127.0.0.256", "http://127.0.0.1.evil.com", "https://",
        "https://a/b", "https://a?b", "https://a#b", "ftp://a", "https://user:secret@a", "https://a:", "a.com", "",
        "https://a:0", "https://a:65536", "https://a\n", "http://localhost.evil", "https:// a", "HTTPS://a",
    ],
)  # fmt: skip
def test_other_endpoints_are_refused_without_being_repeated(url):
    """Plain http leaves the machine only to itself; a URL may carry a password."""
    with pytest.raises(ValueError, match="endpoint is https") as caught:
        normal_endpoint(url)
    assert "secret" not in str(caught.value)


def test_loopback_and_default_endpoints():
    """A simulator is on this machine; without a word the site decides."""
    assert is_loopback("http://127.0.0.1:1")
    assert is_loopback("https://localhost")
    assert not is_loopback("https://127.0.0.1.nip.io")
    assert access("international", (), ["ap-tokyo"]).to("ap-tokyo") == (NEAREST["international"],)
    assert access("mainland", (), ["ap-tokyo"]).to("ap-tokyo") == ("https://postgres.tencentcloudapi.com",)


FSI, TOKYO = "ap-shanghai-fsi", "ap-tokyo"
URL = "https://private.example"


@pytest.mark.parametrize(
    ("words", "tokyo", "fsi"),
    [
        (["nearest"], [NEAREST["mainland"]], [regional(FSI)]),
        (["nearest", "ap-guangzhou"], [NEAREST["mainland"], regional("ap-guangzhou")], [regional(FSI)]),
        (["regional"], [regional(TOKYO)], [regional(FSI)]),
        ([URL], [URL], [URL]),
        ([URL, "nearest"], [URL, NEAREST["mainland"]], [regional(FSI)]),
        (["nearest", "nearest", FSI], [NEAREST["mainland"], regional(FSI)], [regional(FSI)]),
    ],
)
def test_access_points_of_a_job(words, tokyo, fsi):
    """Several serve every region alike; a financial zone is isolated, and served by its own alone (D-REQ)."""
    found = access("mainland", words, [TOKYO, FSI])
    assert list(found.to(TOKYO)) == tokyo
    assert list(found.to(FSI)) == fsi
    assert set(found.every) == {*found.shared, *found.own.values()}


def test_words_for_access_points():
    """nearest, regional, an access region, a URL; what is none of them is named with the nearest that is."""
    assert [endpoint_word(word) for word in ("nearest", "regional", TOKYO)] == ["nearest", "regional", TOKYO]
    assert endpoint_word("HTTPS://X.example:443/".replace("HTTPS", "https")) == "https://x.example"
    for wrong, said in (("neerest", "nearest"), ("ap-guangzou", "ap-guangzhou"), ("mars", "a URL")):
        with pytest.raises(ValueError, match=said):
            endpoint_word(wrong)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("90s", 90),
        ("15m", 900),
        ("12h", 43_200),
        ("500ms", 0.5),
        ("1h30m", 5400),
        ("8d", 691_200),
        ("1d12h", 129_600),
        ("1m30s500ms", 90.5),
        ("1.5h", 5400),
        ("0s", 0),
    ],
)
def test_durations(text, wanted):
    """Days, hours, minutes, seconds, milliseconds, in this order."""
    assert seconds(text) == wanted


@pytest.mark.parametrize(
    "text", ["", "90", "s", "1y", "30m1h", "12h1d", "1 h", "-1s", "1.2.3s", "8785h", "9" * 400 + "h", "1s\n", "٣s"]
)
def test_what_is_no_duration(text):
    """A number without a unit is no duration."""
    with pytest.raises(ValueError, match="expected a duration"):
        seconds(text)


def test_some_durations_must_last():
    """A deadline of nothing stops before the first call."""
    assert some_seconds("1ms") == 0.001
    with pytest.raises(ValueError, match="longer than 0s"):
        some_seconds("0s")


@pytest.mark.parametrize(
    ("text", "wanted"), [("20", StopAfter(count=20)), ("5%", StopAfter(share=0.05)), ("0.5%", StopAfter(share=0.005))]
)
def test_stop_after(text, wanted):
    """A count or a share."""
    assert stop_after(text) == wanted
    assert str(wanted) == text


@pytest.mark.parametrize("text", ["0", "0%", "101%", "1.5", "x", "", "-1", "5 %", "1e3"])
def test_what_is_no_stop_after(text):
    """Half a failed call is none."""
    with pytest.raises(ValueError, match="expected"):
        stop_after(text)


def test_stop_after_as_a_number_of_calls():
    """Rounded up, at least one; 7 % of 100 is 7, whatever floats say."""
    assert StopAfter(count=3).limit(1000) == 3
    assert StopAfter(share=0.07).limit(100) == 7
    assert StopAfter(share=0.05).limit(101) == 6
    assert StopAfter(share=0.01).limit(1) == 1


@pytest.mark.parametrize(("text", "wanted"), [("5%", 0.05), ("0.5%", 0.005), ("100%", 1), ("7.125%", 0.07125)])
def test_shares(text, wanted):
    """Percent, up to the whole."""
    assert share(text) == wanted


@pytest.mark.parametrize("text", ["0%", "0.000%", "100.1%", "101%", "5", "0.05", "-5%", "5 %", "%", "5%%", "x", ""])
def test_what_is_no_share(text):
    """A share without its sign could be meant as 0.05 or as 5."""
    with pytest.raises(ValueError, match="expected a percentage"):
        share(text)


def test_words_for_yes_and_no_and_orders():
    """Two of each; what else YAML may call a truth value is asked back."""
    assert [true_or_false(text) for text in ("true", "True", "false", "FALSE")] == [True, True, False, False]
    assert [is_listed_order(text) for text in ("contain", "listed")] == [False, True]
    for text in ("yes", "no", "1", ""):
        with pytest.raises(ValueError, match="expected true or false"):
            true_or_false(text)
    with pytest.raises(ValueError, match=r"expected contain .* or listed"):
        is_listed_order("random")


def test_actions_and_regions_as_values():
    """The nearest action is named."""
    assert action_name("LockAccount") == "LockAccount"
    assert region_name("ap-tokyo") == "ap-tokyo"
    with pytest.raises(ValueError, match=r"'lock' is not an action; there are LockAccount"):
        action_name("lock")
    with pytest.raises(ValueError, match=r"did you mean UnlockAccount\? there are"):
        action_name("unlockaccount")
    with pytest.raises(ValueError, match="did you mean ap-tokyo"):
        region_name("ap_tokyo")
