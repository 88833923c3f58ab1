"""TC3-HMAC-SHA256 for tests: shares no line with the engine's signer or the simulator's check (SIG-DOC)."""

from __future__ import annotations

import hashlib
import hmac
import time


def signed_headers(
    action: str,
    body: bytes,
    *,
    host: str,
    at: float,
    secret_id: str = "AKIDSIMULATOR0DEMO0KEY",
    secret_key: str = "simulator-demo-secret",
    region: str = "ap-singapore",
    token: str | None = None,
    version: str = "2017-03-12",
    service: str = "postgres",
    content_type: str = "application/json",
    method: str = "POST",
    query: str = "",
    also_signed: tuple[str, ...] = (),
    extra: dict[str, str] | None = None,
) -> dict[str, str]:
    """Headers of one request, Host and Authorization among them."""
    stamp = int(at)
    date = time.strftime("%Y-%m-%d", time.gmtime(stamp))
    headers = {
        "Content-Type": content_type,
        "Host": host,
        "X-TC-Action": action,
        "X-TC-Version": version,
        "X-TC-Timestamp": str(stamp),
        "X-TC-Region": region,
        **({"X-TC-Token": token} if token is not None else {}),
        **(extra or {}),
    }
    values = {name.lower(): value for name, value in headers.items()}
    names = sorted({"content-type", "host", *also_signed})
    block = "".join(f"{n}:{values[n] if n in ('host', 'content-type') else values[n].lower()}\n" for n in names)
    payload = b"UNSIGNED-PAYLOAD" if values.get("x-tc-content-sha256") == "UNSIGNED-PAYLOAD" else body
    canonical = f"{method}\n/\n{query}\n{block}\n{';'.join(names)}\n{hashlib.sha256(payload).hexdigest()}"
    scope = f"{date}/{service}/tc3_request"
    text = f"TC3-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"TC3{secret_key}".encode()
    for part in (date, service, "tc3_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    credential = f"Credential={secret_id}/{scope}, SignedHeaders={';'.join(names)}, Signature={signature}"
    return {**headers, "Authorization": f"TC3-HMAC-SHA256 {credential}"}
