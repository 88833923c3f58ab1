"""Which URLs may be called, and which one serves a region. No I/O.

Sources: D-REQ, CN-RATE, CN-FSI. The access point has nothing to do with the instance's region, except
for financial zones, which only their own access point serves.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING

from msgspec import Struct

from engine.api.names import REGIONS, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

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

# Those that most commands never ask for are compiled when they are (`re` keeps them): it is part of every start.
_loopback = re.compile(rf"https?://(?:{_LOOPBACK}){_PORT}").fullmatch

WORDS = "an endpoint is https://host[:port] without path, or http to loopback (127.0.0.1, [::1], localhost)"


def normal_endpoint(url: str) -> str:
    """The endpoint in its one spelling (lower case, no slash, no default port); ValueError with words if refused.

    The words never repeat the URL: it may carry a password before an @.
    """
    if not re.fullmatch(PATTERN, url):
        raise ValueError(WORDS)
    scheme, _, host = url.lower().rstrip("/").partition("://")
    name, colon, port = host.rpartition(":") if re.search(r":[0-9]+$", host) else (host, "", "")
    if colon and not 0 < int(port) < 65_536:
        raise ValueError(f"port {port} does not exist; {WORDS}")
    if colon and int(port) == {"https": 443, "http": 80}[scheme]:
        return f"{scheme}://{name}"
    return f"{scheme}://{name}:{int(port)}" if colon else f"{scheme}://{host}"


_WEBHOOK = rf"https://[^\s/?#\\]+(?:[/?#][^\s]*)?|http://(?:{_LOOPBACK}){_PORT}(?:[/?#][^\s]*)?"


def is_webhook(url: str) -> bool:
    """Whether a notice may be posted to this URL: https, or http to this machine. Unlike an endpoint it has a path."""
    return url.isprintable() and re.fullmatch(_WEBHOOK, url) is not None


def is_loopback(endpoint: str) -> bool:
    """Whether this normal endpoint is on this machine: a simulator, never the API."""
    return _loopback(endpoint) is not None


def is_vendors(endpoint: str) -> bool:
    """Whether this normal endpoint is one of the vendor's own hosts, to which keys may be sent unasked."""
    return re.fullmatch(r"https://(?:[a-z0-9-]+\.)+tencentcloudapi\.com", endpoint) is not None


NEAREST_WORD = "nearest"
REGIONAL_WORD = "regional"
ACCESS_REGIONS = tuple(region for region in REGIONS if not region.endswith("-fsi"))
"""Access regions with a host of their own (CN-FSI): each counts the quota by itself (CN-RATE)."""
WORD_PATTERN = rf"{NEAREST_WORD}|{REGIONAL_WORD}|(?:{'|'.join(REGIONS)})|{PATTERN}"
"""What an operator may write for an access point; the JSON Schema carries it too."""


def endpoint_word(text: str) -> str:
    """An access point as written: `nearest`, `regional`, an access region, or a URL in its one spelling.

    ValueError with words for anything else.
    """
    if text in (NEAREST_WORD, REGIONAL_WORD) or text in REGIONS:
        return text
    if "/" not in text and ":" not in text:
        near = did_you_mean(text, (NEAREST_WORD, REGIONAL_WORD, *REGIONS))
        raise ValueError(f"an endpoint is nearest, regional, an access region such as ap-guangzhou, or a URL{near}")
    return normal_endpoint(text)


def endpoint_words(words: Sequence[str]) -> tuple[str, ...]:
    """Several access points, each once; ValueError with words if they contradict each other."""
    if REGIONAL_WORD in words and len(set(words)) > 1:
        raise ValueError("regional stands alone: each target is called through its own region's access point")
    return tuple(dict.fromkeys(words))


def regional(region: str) -> str:
    """The access point in `region`; without "intl" on either site (D-REQ)."""
    return f"https://postgres.{region}.tencentcloudapi.com"


class Access(Struct, frozen=True):
    """Through which access points a run calls. Each is a quota of its own."""

    shared: tuple[str, ...]
    """URLs, any of which serves every region that has none of its own."""
    own: Mapping[str, str]
    """Region → the one URL that serves it."""

    def to(self, region: str) -> tuple[str, ...]:
        """The access points for calls about instances in `region`."""
        return (self.own[region],) if region in self.own else self.shared

    @property
    def every(self) -> tuple[str, ...]:
        """All access points."""
        return tuple(dict.fromkeys((*self.shared, *self.own.values())))


def access(site: str, words: Sequence[str], regions: Iterable[str]) -> Access:
    """The access points of a job about instances in `regions`, as `words` ask; none: the nearest.

    Financial zones are isolated: unless the operator gave nothing but URLs, each is called at its own.
    """
    wanted = tuple(words) or (NEAREST_WORD,)
    by_name = any("/" not in word for word in wanted)
    everywhere = REGIONAL_WORD in wanted
    own = {region: regional(region) for region in regions if everywhere or (by_name and region.endswith("-fsi"))}
    named = {NEAREST_WORD: NEAREST[site]}
    shared = dict.fromkeys(
        named.get(word) or (word if "/" in word else regional(word)) for word in wanted if word != REGIONAL_WORD
    )
    return Access(tuple(shared), own)
