"""engine.api.signing against the published vectors and against the vendor's own code."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tencentcloud.common import abstract_client
from tencentcloud.common.credential import Credential
from tencentcloud.common.http.request import RequestInternal
from tencentcloud.common.profile.client_profile import ClientProfile
from tencentcloud.common.profile.http_profile import HttpProfile

from engine.api.signing import UNSIGNED_PAYLOAD, Signer, steps, utc_date
from engine.model import Keys

if TYPE_CHECKING:
    from collections.abc import Iterator

_FILE = json.loads((Path(__file__).parents[1] / "vectors" / "tc3_vectors.json").read_text(encoding="utf-8"))
VECTORS = [*_FILE["vectors"], *_FILE["extra_vectors"]]
WIRE_VECTORS = [
    vector for vector in VECTORS if vector["input"]["http_method"] == "POST" and not vector["input"]["unsigned_payload"]
]
KEYS = Keys(secret_id="AKIDEXAMPLE", secret_key="SKEXAMPLE-VERY-SECRET", token="TOKEN-VERY-SECRET")
HOST = "postgres.intl.tencentcloudapi.com"
BODY = b'{"DBInstanceId":"postgres-4sfuv15b","UserName":"app_user"}'


def _name(vector: dict[str, Any]) -> str:
    return str(vector["name"])


def _keys(given: dict[str, Any]) -> Keys:
    return Keys(secret_id=given["secret_id"], secret_key=given["secret_key"], token=given["token"])


@pytest.fixture
def utc_plus_8(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The process believes to be in China, where every UTC midnight is eight in the morning."""
    monkeypatch.setenv("TZ", "CST-8")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_all_eight_vectors_are_here() -> None:
    """The file was not cut: five vectors and three extras, six of them as the engine sends."""
    assert (len(VECTORS), len(WIRE_VECTORS)) == (8, 6)


@pytest.mark.parametrize("vector", VECTORS, ids=_name)
def test_every_step_of_a_vector(vector: dict[str, Any]) -> None:
    """Each string on the way equals the vendor's; the earliest that differs fails first."""
    given_, expected = vector["input"], vector["expected"]
    is_get = given_["http_method"] == "GET"
    body = b"" if is_get else given_["payload"].encode()
    made = steps(
        host=given_["host"],
        body=UNSIGNED_PAYLOAD.encode() if given_["unsigned_payload"] else body,
        timestamp=given_["timestamp"],
        scope=f"{given_['utc_date']}/{given_['service']}/tc3_request",
        content_type=given_["content_type"],
        method=given_["http_method"],
        query=given_["query_string"],
    )
    assert utc_date(given_["timestamp"]) == given_["utc_date"]
    assert made.payload_sha256 == expected["payload_sha256"]
    assert made.canonical_request == expected["canonical_request"]
    assert made.canonical_request_sha256 == expected["canonical_request_sha256"]
    assert made.string_to_sign == expected["string_to_sign"]
    authorization = Signer().authorization(_keys(given_), made, given_["timestamp"], given_["service"])
    assert authorization.rpartition("Signature=")[2] == expected["signature"]
    assert authorization == expected["authorization"]


@pytest.mark.parametrize("vector", WIRE_VECTORS, ids=_name)
def test_headers_of_a_vector(vector: dict[str, Any]) -> None:
    """The headers are those of the vendor's SDK, and a trace id of ours."""
    given_ = vector["input"]
    expected = vector["expected"]["headers"]
    made = Signer().headers(
        _keys(given_),
        given_["host"],
        given_["action"],
        given_["region"],
        given_["version"],
        given_["payload"].encode(),
        given_["timestamp"],
        trace="0e6a9d6c",
        language=given_["language"],
        request_client=expected["X-TC-RequestClient"],
    )
    assert made == expected | {"X-TC-TraceId": "0e6a9d6c"}


def _headers(keys: Keys = KEYS, *, region: str = "ap-tokyo", request_client: str | None = None) -> dict[str, str]:
    return Signer().headers(
        keys, HOST, "LockAccount", region, "2017-03-12", BODY, 1, trace="t", request_client=request_client
    )


def test_optional_headers_are_absent_not_empty() -> None:
    """No token, region or client name: no header, as an empty one could be refused."""
    bare = _headers(replace(KEYS, token=None), region="")
    assert {"X-TC-Token", "X-TC-Region", "X-TC-RequestClient"}.isdisjoint(bare)
    assert "X-TC-Token" not in _headers(replace(KEYS, token=""))
    whole = _headers(request_client="acctops")
    assert whole.keys() - bare.keys() == {"X-TC-Token", "X-TC-Region", "X-TC-RequestClient"}
    assert whole["X-TC-Language"] == "en-US"


def test_the_token_is_not_signed() -> None:
    """The token travels beside the signature, as in the vendor's SDK."""
    with_token, without = _headers(), _headers(replace(KEYS, token=None))
    assert with_token["Authorization"] == without["Authorization"]


@contextlib.contextmanager
def _vendor_clock(timestamp: int) -> Iterator[None]:
    """The vendor's module reads the clock by itself; here it reads ours."""
    real = abstract_client.time
    abstract_client.time = SimpleNamespace(time=lambda: float(timestamp))
    try:
        yield
    finally:
        abstract_client.time = real


def _vendor_request(keys: Keys, host: str, params: dict[str, Any], timestamp: int, service: str) -> RequestInternal:
    """A request built and signed by the vendor's SDK."""
    profile = ClientProfile(httpProfile=HttpProfile(endpoint=host), language="en-US")
    client = abstract_client.AbstractClient(
        Credential(keys.secret_id, keys.secret_key, keys.token), "ap-singapore", profile
    )
    client._service, client._endpoint, client._apiVersion = service, host, "2017-03-12"
    request = RequestInternal(host, "POST", "/")
    with _vendor_clock(timestamp):
        client._build_req_with_tc3_signature("LockAccount", params, request)
    return request


_ASCII = st.characters(min_codepoint=0x21, max_codepoint=0x7E)
_TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.mark.filterwarnings("ignore:datetime.datetime.utcfromtimestamp:DeprecationWarning")
@settings(deadline=None, max_examples=200)
@given(
    # The vendor's Credential refuses keys with spaces at the ends.
    secret_id=st.text(_ASCII, min_size=1, max_size=40),
    secret_key=st.text(_ASCII, min_size=1, max_size=200),
    token=st.none() | st.text(_ASCII, min_size=1, max_size=80),
    label=st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True),
    params=st.dictionaries(_TEXT, _TEXT | st.booleans() | st.integers(-(2**53), 2**53), max_size=4),
    timestamp=st.integers(0, 4_102_444_800),
    service=st.sampled_from(["postgres", "sts"]),
)
def test_agrees_with_the_vendor(
    secret_id: str,
    secret_key: str,
    token: str | None,
    label: str,
    params: dict[str, Any],
    timestamp: int,
    service: str,
) -> None:
    """Any keys, body, host and moment: the vendor's own code makes the same signature."""
    keys = Keys(secret_id=secret_id, secret_key=secret_key, token=token)
    host = f"{label}.tencentcloudapi.com"
    theirs = _vendor_request(keys, host, params, timestamp, service)
    body = json.dumps(params).encode()
    ours = Signer().sign(keys=keys, host=host, body=body, timestamp=timestamp, service=service)
    assert ours.authorization == theirs.header["Authorization"]
    if service == "postgres":
        made = Signer().headers(keys, host, "LockAccount", "ap-singapore", "2017-03-12", body, timestamp, trace="t")
        ignored = {"X-TC-RequestClient", "X-TC-TraceId"}
        assert {k: v for k, v in made.items() if k not in ignored} == {
            k: v for k, v in theirs.header.items() if k not in ignored
        }


@pytest.mark.usefixtures("utc_plus_8")
@pytest.mark.parametrize(
    ("timestamp", "date"),
    [
        (1_764_547_199, "2025-11-30"),
        (1_764_547_200, "2025-12-01"),
        (1_767_225_599, "2025-12-31"),
        (1_767_225_600, "2026-01-01"),
        (951_782_399, "2000-02-28"),
        (951_782_400, "2000-02-29"),
        (0, "1970-01-01"),
    ],
)
def test_the_date_is_utc(timestamp: int, date: str) -> None:
    """The scope's date is the UTC day of the timestamp, also where it is tomorrow already."""
    assert time.localtime(timestamp).tm_gmtoff == 8 * 3600
    signed = Signer().sign(keys=KEYS, host=HOST, body=BODY, timestamp=timestamp)
    assert signed.date == date
    assert f"/{date}/postgres/tc3_request," in signed.authorization


def test_one_signer_crosses_midnight() -> None:
    """A run over midnight UTC signs with the new day's key from the first second on, and back."""
    signer = Signer()
    for timestamp in (1_767_225_599, 1_767_225_600, 1_767_225_599):
        again = signer.sign(keys=KEYS, host=HOST, body=BODY, timestamp=timestamp)
        assert again == Signer().sign(keys=KEYS, host=HOST, body=BODY, timestamp=timestamp)


def test_rotated_keys_are_not_signed_with_the_old_one() -> None:
    """A new secret key under the same id gets a signing key of its own."""
    signer = Signer()
    old = signer.sign(keys=KEYS, host=HOST, body=BODY, timestamp=1)
    rotated = replace(KEYS, secret_key="SK-ROTATED")
    new = signer.sign(keys=rotated, host=HOST, body=BODY, timestamp=1)
    assert new.authorization != old.authorization
    assert new == Signer().sign(keys=rotated, host=HOST, body=BODY, timestamp=1)
    other_service = signer.sign(keys=KEYS, host=HOST, body=BODY, timestamp=1, service="sts")
    assert other_service == Signer().sign(keys=KEYS, host=HOST, body=BODY, timestamp=1, service="sts")


def test_the_cache_is_bounded_and_right_after_overflow() -> None:
    """Many keys, again and again: the cache stays small, the signatures stay right."""
    signer = Signer()
    many = [replace(KEYS, secret_key=f"SK{number}") for number in range(200)]
    for keys in (*many, *many[:3]):
        made = signer.sign(keys=keys, host=HOST, body=BODY, timestamp=1)
        assert made == Signer().sign(keys=keys, host=HOST, body=BODY, timestamp=1)
    assert repr(signer) == "Signer(day_keys=64)"


def test_no_secret_in_a_repr() -> None:
    """Neither secret key, signing key, token nor signature shows in anything printable."""
    signer = Signer()
    signed = signer.sign(keys=KEYS, host=HOST, body=BODY, timestamp=1)
    signature = signed.authorization.rpartition("=")[2]
    signing_key = next(iter(signer._day_keys.values()))
    shown = "".join(map(repr, (signer, signed, KEYS, signing_key))) + str(signing_key) + str(signed)
    for secret in (KEYS.secret_key, KEYS.token, signature, repr(signing_key.key), signing_key.key.hex()):
        assert secret is not None
        assert secret not in shown
