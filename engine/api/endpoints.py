"""Which URLs may be called, and which access point serves a region. No I/O.

Sources: D-REQ, CN-RATE, CN-FSI. Any access point serves instances of any region. The exception are financial zones:
only a financial zone's own access point serves its instances.
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
"""Site → the access point whose name resolves to the nearest API server."""
DEFAULT_SITE = "international"

_LOOPBACK = r"localhost|127(?:\.(?:25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])){3}|\[::1\]"
_PORT = "(?::[0-9]{1,5})?"
PATTERN = rf"https://(?:[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:.]+\]){_PORT}/?|http://(?:{_LOOPBACK}){_PORT}/?"
"""Pattern of an endpoint as an operator may write it; the JSON Schema has it too."""

# Only this pattern is compiled here, as that costs time at every start. `re` compiles the others at their first use.
_loopback = re.compile(rf"https?://(?:{_LOOPBACK}){_PORT}").fullmatch

WORDS = "an endpoint is https://host[:port] without path, or http to loopback (127.0.0.1, [::1], localhost)"


def normal_endpoint(url: str) -> str:
    """Return the endpoint in its normal form: lower case, no slash at the end, no default port.

    ValueError says why an endpoint is refused. Its words never repeat the URL, which may hold a password before an @.
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
    """Return whether a notice may be posted to this URL: https, or http to this machine; a path is allowed."""
    return url.isprintable() and re.fullmatch(_WEBHOOK, url) is not None


def is_loopback(endpoint: str) -> bool:
    """Return whether this normal endpoint is on this machine. Then it is a simulator, never the API."""
    return _loopback(endpoint) is not None


def is_vendors(endpoint: str) -> bool:
    """Return whether this normal endpoint is a host of the vendor: keys may go there even if no setting names it."""
    return re.fullmatch(r"https://(?:[a-z0-9-]+\.)+tencentcloudapi\.com", endpoint) is not None


NEAREST_WORD = "nearest"
REGIONAL_WORD = "regional"
ACCESS_REGIONS = tuple(region for region in REGIONS if not region.endswith("-fsi"))
"""Access regions that have a host of their own (CN-FSI). Each of them counts the quota separately (CN-RATE)."""
WORD_PATTERN = rf"{NEAREST_WORD}|{REGIONAL_WORD}|(?:{'|'.join(REGIONS)})|{PATTERN}"
"""Pattern of an access point as an operator may write it; the JSON Schema has it too."""


def endpoint_word(text: str) -> str:
    """Return an access point as written: `nearest`, `regional`, an access region, or a URL in its normal form.

    ValueError says what is wrong with anything else.
    """
    if text in (NEAREST_WORD, REGIONAL_WORD) or text in REGIONS:
        return text
    if "/" not in text and ":" not in text:
        near = did_you_mean(text, (NEAREST_WORD, REGIONAL_WORD, *REGIONS))
        raise ValueError(f"an endpoint is nearest, regional, an access region such as ap-guangzhou, or a URL{near}")
    return normal_endpoint(text)


def endpoint_words(words: Sequence[str]) -> tuple[str, ...]:
    """Return several access points, each once; ValueError says why they contradict each other."""
    if REGIONAL_WORD in words and len(set(words)) > 1:
        raise ValueError("regional stands alone: each target is called through its own region's access point")
    return tuple(dict.fromkeys(words))


def regional(region: str) -> str:
    """Return the URL of the access point in `region`; on both sites it is without "intl" (D-REQ)."""
    return f"https://postgres.{region}.tencentcloudapi.com"


class Access(Struct, frozen=True):
    """The access points through which a run calls. Each has a quota of its own."""

    shared: tuple[str, ...]
    """URLs. Each of them serves every region that is not in `own`."""
    own: Mapping[str, str]
    """Region → the only URL that serves it."""

    def to(self, region: str) -> tuple[str, ...]:
        """Return the access points for calls about instances in `region`."""
        return (self.own[region],) if region in self.own else self.shared

    @property
    def every(self) -> tuple[str, ...]:
        """All access points, each once."""
        return tuple(dict.fromkeys((*self.shared, *self.own.values())))


def access(site: str, words: Sequence[str], regions: Iterable[str]) -> Access:
    """Return the access points that `words` name for a job about instances in `regions`; no words: the nearest one.

    Financial zones are isolated. Each is called at its own access point, unless all `words` are URLs.
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
