"""Rules, floor 1: which URLs may be called, and which one serves a region. No I/O.

Sources: facts.md §2.3 (D-REQ, CN-RATE, CN-FSI). The access point has nothing to do with the instance's region, except
for financial zones, which only their own access point serves.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

NEAREST: Mapping[str, str] = MappingProxyType(
    {
        "international": "https://postgres.intl.tencentcloudapi.com",
        "mainland": "https://postgres.tencentcloudapi.com",
    }
)
"""Site → the access point that resolves to the nearest API server."""
DEFAULT_SITE = "international"

_LOOPBACK = r"localhost|127(?:\.(?:25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])){3}|\[::1\]"
_PORT = "(?::[0-9]{1,5})?"
PATTERN = rf"https://(?:[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:.]+\]){_PORT}/?|http://(?:{_LOOPBACK}){_PORT}/?"
"""An endpoint as an operator may write it; the JSON Schema carries it too."""

_allowed = re.compile(PATTERN).fullmatch
_loopback = re.compile(rf"https?://(?:{_LOOPBACK}){_PORT}").fullmatch

WORDS = "an endpoint is https://host[:port] without path, or http to loopback (127.0.0.1, [::1], localhost)"


def normal_endpoint(url: str) -> str:
    """The endpoint in its one spelling (lower case, no slash, no default port); ValueError with words if refused.

    The words never repeat the URL: it may carry a password before an @.
    """
    if not _allowed(url):
        raise ValueError(WORDS)
    scheme, _, host = url.lower().rstrip("/").partition("://")
    name, colon, port = host.rpartition(":") if re.search(r":[0-9]+$", host) else (host, "", "")
    if colon and not 0 < int(port) < 65_536:
        raise ValueError(f"port {port} does not exist; {WORDS}")
    if colon and int(port) == {"https": 443, "http": 80}[scheme]:
        return f"{scheme}://{name}"
    return f"{scheme}://{name}:{int(port)}" if colon else f"{scheme}://{host}"


def is_loopback(endpoint: str) -> bool:
    """Whether this normal endpoint is on this machine: a simulator, never the API."""
    return _loopback(endpoint) is not None


def endpoint_for(site: str, region: str) -> str:
    """The access point for calls about instances in `region`, with keys of `site`."""
    if region.endswith("-fsi"):
        return f"https://postgres.{region}.tencentcloudapi.com"
    return NEAREST[site]
