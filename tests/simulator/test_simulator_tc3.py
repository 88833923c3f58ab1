"""The simulator's own signature check: right ones pass, everything else is refused with the documented code."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from engine.simulator import tc3
from engine.simulator.gate import KeyRecord
from engine.simulator.world import World
from tests.support.simulated import ACCESS, INSTANCE, NOW, USER, Caller
from tests.support.tc3 import signed_headers

DOCUMENT = json.loads((Path(__file__).parents[1] / "vectors" / "tc3_vectors.json").read_text(encoding="utf-8"))
VECTORS = DOCUMENT["vectors"] + DOCUMENT["extra_vectors"]
TARGET = {"DBInstanceId": INSTANCE, "UserName": USER}
BODY = json.dumps(TARGET).encode()


def code_of(
    headers: dict[str, str], *, body: bytes = BODY, method: str = "POST", query: str = "", **world: Any
) -> str | None:
    answer = World(**world).handle(method=method, query=query, headers=headers, body=body, access=ACCESS, now=NOW)
    error = json.loads(answer.body)["Response"].get("Error")
    return error["Code"] if error else None


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_every_published_vector_is_accepted(vector: dict[str, Any]) -> None:
    """A request signed by the vendor's own code passes the gate, and a tampered one does not."""
    given, headers = vector["input"], vector["expected"]["headers"]
    keys = {given["secret_id"]: KeyRecord(secret_key=given["secret_key"], token=given["token"])}
    sent = {
        "method": given["http_method"],
        "query": given["query_string"],
        "access": given["host"],
        "now": float(given["timestamp"]),
    }
    body = given["payload"].encode()
    response = json.loads(World(keys=keys).handle(headers=headers, body=body, **sent).body)["Response"]
    code = response.get("Error", {}).get("Code")
    # what the backend then says of the vector's made-up target
    expected = {
        "ModifyAccountRemark": "InvalidAction",
        "CloseAccountCAM": "FailedOperation.CheckAccountCAMOpenError",
    }
    assert code == expected.get(given["action"])
    stranger = {given["secret_id"]: KeyRecord(secret_key="other", token=given["token"])}
    refused = json.loads(World(keys=stranger).handle(headers=headers, body=body, **sent).body)["Response"]
    assert refused["Error"]["Code"] == "AuthFailure.SignatureFailure"


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_the_canonical_request_is_the_vectors(vector: dict[str, Any]) -> None:
    given, expected = vector["input"], vector["expected"]
    headers = {name.lower(): value for name, value in expected["headers"].items()}
    canonical = tc3.canonical_request(
        given["http_method"],
        given["query_string"],
        headers,
        ("content-type", "host"),
        given["payload"].encode(),
    )
    assert canonical == expected["canonical_request"]


def test_the_documents_own_example_hashes_as_printed() -> None:
    """The signature page's example, which signs x-tc-action too, with its value lower-cased (SIG-DOC)."""
    body = b'{"Limit": 1, "Filters": [{"Values": ["\\u672a\\u547d\\u540d"], "Name": "instance-name"}]}'
    headers = {
        "content-type": "application/json; charset=utf-8",
        "host": "cvm.tencentcloudapi.com",
        "x-tc-action": "DescribeInstances",
    }
    canonical = tc3.canonical_request("POST", "", headers, ("content-type", "host", "x-tc-action"), body)
    assert hashlib.sha256(body).hexdigest() == "35e9c5b0e3ae67532d3c9f17ead6c90222632e5b1ff7f6e89887f1398934f064"
    assert (
        hashlib.sha256(canonical.encode()).hexdigest()
        == "7019a55be8395899b900fb5564e4200d984910f34794a27cb3fb7d10ff6a1e84"
    )


def lock_headers(**changed: Any) -> dict[str, str]:
    return signed_headers("LockAccount", BODY, **{"host": ACCESS, "at": NOW, **changed})


def test_a_right_signature_passes() -> None:
    assert code_of(lock_headers()) is None
    assert code_of(lock_headers(also_signed=("x-tc-action",))) is None
    assert code_of(lock_headers(extra={"X-TC-Content-SHA256": "UNSIGNED-PAYLOAD"}), body=BODY + b" \n") is None


@pytest.mark.parametrize(
    ("skew", "code"),
    [
        (0, None),
        (300, None),
        (-300, None),
        (301, "AuthFailure.SignatureExpire"),
        (-301, "AuthFailure.SignatureExpire"),
    ],
)
def test_a_signature_lives_five_minutes_either_way(skew: int, code: str | None) -> None:
    assert code_of(lock_headers(at=NOW + skew)) == code


def edited(**edits: str | None) -> dict[str, str]:
    """Signed headers, changed after signing; None takes one out."""
    headers = {**lock_headers(), **{name.replace("_", "-"): value for name, value in edits.items()}}  # type: ignore[dict-item]
    return {name: value for name, value in headers.items() if value is not None}


def authorization(old: str, new: str) -> dict[str, str]:
    headers = lock_headers()
    assert old in headers["Authorization"]
    return {**headers, "Authorization": headers["Authorization"].replace(old, new)}


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        (edited(Authorization=None), "AuthFailure.InvalidAuthorization"),
        (edited(Authorization="SKIP"), "AuthFailure.InvalidAuthorization"),
        (edited(Authorization="TC3-HMAC-SHA256 Credential=a"), "AuthFailure.InvalidAuthorization"),
        (authorization("TC3-HMAC-SHA256 C", "TC3-HMAC-SHA1 C"), "AuthFailure.InvalidAuthorization"),
        (authorization("tc3_request", "aws4_request"), "AuthFailure.InvalidAuthorization"),
        (authorization("=content-type;host", "=host;content-type"), "AuthFailure.InvalidAuthorization"),
        (authorization("=content-type;host", "=content-type"), "AuthFailure.InvalidAuthorization"),
        (authorization("=content-type;host", "=host"), "AuthFailure.InvalidAuthorization"),
        (
            authorization("=content-type;host", "=content-type;host;x-tc-nothing"),
            "AuthFailure.InvalidAuthorization",
        ),
        (authorization("Signature=", "Signature=00"), "AuthFailure.InvalidAuthorization"),
        (lock_headers(service="cvm"), "AuthFailure.InvalidAuthorization"),
        (lock_headers(secret_id="AKIDNOBODY"), "AuthFailure.SecretIdNotFound"),
        (lock_headers(secret_key="wrong"), "AuthFailure.SignatureFailure"),
        (edited(Host="postgres.tencentcloudapi.com"), "AuthFailure.SignatureFailure"),
        (edited(Content_Type="application/json; charset=utf-8"), "AuthFailure.SignatureFailure"),
        (edited(Content_Type="Application/json"), "AuthFailure.SignatureFailure"),
        (edited(Host=None), "AuthFailure.InvalidAuthorization"),
        (edited(Content_Type=None), "AuthFailure.InvalidAuthorization"),
        (edited(X_TC_Timestamp=None), "MissingParameter"),
        (edited(X_TC_Timestamp=f"{NOW:.1f}"), "InvalidParameter"),
        (edited(X_TC_Timestamp="now"), "InvalidParameter"),
        (edited(X_TC_Timestamp=str(int(NOW) + 1)), "AuthFailure.SignatureFailure"),
        (edited(X_TC_Token="something"), "AuthFailure.TokenFailure"),
        ({**lock_headers(), "host": ACCESS}, "AuthFailure.InvalidAuthorization"),
        (edited(X_TC_Action=None), "MissingParameter"),
        (edited(X_TC_Version=None), "MissingParameter"),
        (lock_headers(version="2018-03-12"), "NoSuchVersion"),
    ],
)
def test_a_wrong_header_is_refused(headers: dict[str, str], code: str) -> None:
    assert code_of(headers) == code


def test_the_scope_date_is_the_utc_date_of_the_timestamp() -> None:
    """A date taken in another zone breaks the signature, even when key and text agree with it."""
    headers = lock_headers()
    elsewhere = signed_headers("LockAccount", BODY, host=ACCESS, at=NOW + 86_400)
    assert code_of({**elsewhere, "X-TC-Timestamp": headers["X-TC-Timestamp"]}) == "AuthFailure.SignatureFailure"


def test_a_changed_body_or_query_breaks_the_signature() -> None:
    assert code_of(lock_headers(), body=BODY + b" ") == "AuthFailure.SignatureFailure"
    assert code_of(lock_headers(), query="a=b") == "AuthFailure.SignatureFailure"


def test_a_temporary_key_needs_its_own_token() -> None:
    """The token is not signed, so nothing but this check holds it to its key."""
    keys = {"AKIDTMP": KeyRecord(secret_key="tmp", token="right")}
    caller = Caller(World(keys=keys), secret_id="AKIDTMP", secret_key="tmp")
    assert caller.code("LockAccount", TARGET, token="right") is None
    assert caller.code("LockAccount", TARGET, token="wrong") == "AuthFailure.TokenFailure"
    assert caller.code("LockAccount", TARGET) == "AuthFailure.TokenFailure"
    caller.world.keys.clear()
    assert caller.code("LockAccount", TARGET, token="right") == "AuthFailure.SecretIdNotFound"


def test_other_methods_and_oversized_bodies_are_refused_before_anything_else() -> None:
    assert code_of({}, method="PUT") == "UnsupportedProtocol"
    assert code_of(lock_headers(), body=b" " * (10 * 1024 * 1024 + 1)) == "RequestSizeLimitExceeded"


def test_get_takes_its_parameters_from_the_query() -> None:
    """GET is one of the two supported protocols; numbers come as text there."""
    world = World()
    world.seed(INSTANCE, "ap-singapore", ["a", "b", "c"])

    def get(action: str, query: str) -> dict[str, Any]:
        headers = signed_headers(
            action,
            b"",
            host=ACCESS,
            at=NOW,
            method="GET",
            query=query,
            content_type="application/x-www-form-urlencoded",
        )
        answer = world.handle(method="GET", query=query, headers=headers, body=b"", access=ACCESS, now=NOW)
        response: dict[str, Any] = json.loads(answer.body)["Response"]
        return response

    page = get("DescribeAccounts", f"DBInstanceId={INSTANCE}&Limit=2&OrderBy=name&OrderByType=asc")
    assert [row["UserName"] for row in page["Details"]] == ["a", "b"]
    wrong = get("DescribeAccounts", f"DBInstanceId={INSTANCE}&Limit=two")
    assert wrong["Error"]["Code"] == "InvalidParameter"
    found = get("DescribeDBInstances", f"Filters.0.Name=db-instance-id&Filters.0.Values.0={INSTANCE}")
    assert found["TotalCount"] == 1
    clash = get("DescribeDBInstances", "Filters=1&Filters.x.Name=db-instance-id")
    assert clash["Error"]["Code"] == "InvalidParameter"
    encrypted = get("CloseAccountCAM", f"DBInstanceId={INSTANCE}&UserName=a&Password=Abcdef1%21&PasswordEncrypt=true")
    assert encrypted["Error"]["Code"] == "InvalidParameter.ParameterCheckError"


def test_no_secret_stands_in_a_repr() -> None:
    record = KeyRecord(secret_key="hush-key", token="hush-token", identity="ops")
    assert "hush" not in repr(record)
    assert "ops" in repr(record)
