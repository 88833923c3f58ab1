"""How this host reaches the network: its proxy, and the certificates it trusts.

Environment and config set both. HTTPS_PROXY and NO_PROXY are read as other tools read them (small letters too;
ALL_PROXY if there is no HTTPS_PROXY); they win over `network.proxy` and `.no_proxy`. ACCTOPS_CA_BUNDLE wins over
`network.ca_bundle`, which wins over SSL_CERT_FILE, else REQUESTS_CA_BUNDLE. A bundle is a file of certificates, such as
those of a private endpoint, or of a company's proxy that opens TLS. This machine is never reached through a proxy.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from msgspec import Struct

from engine.api.endpoints import is_loopback
from engine.errors import ConfigError
from engine.outside.foreign import clean

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
EXCEPTIONS = ("NO_PROXY", "no_proxy")
BUNDLES = ("ACCTOPS_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
"""The first variable is ours and wins over a config. The others are for every program, and a config wins over them."""


class WayOut(Struct, frozen=True, kw_only=True):
    """The way to the network on this host. Its values are checked when they are used, or by `check`."""

    proxy: str = ""
    """The proxy as it was written, perhaps with a password, so only `proxy_shown` is shown. Empty: no proxy."""
    no_proxy: tuple[str, ...] = ()
    """Hosts, domains and networks that are reached without the proxy."""
    ca_bundle: str = ""
    """File of certificates to trust instead of the system's. Empty: the system's."""
    origin: Mapping[str, str] = {}
    """Name of each of the three that was set → the variable, or the place in a config, that set it."""

    def __repr__(self) -> str:
        return f"WayOut(proxy={self.proxy_shown!r}, no_proxy={self.no_proxy!r}, ca_bundle={self.ca_bundle!r})"

    @property
    def proxy_shown(self) -> str:
        """The proxy's URL without name and password; empty if there is no proxy."""
        try:
            parts = urlsplit(_proxy_url(self.proxy, "")) if self.proxy else None
        except ConfigError:
            return "(cannot be used)"
        if parts is None:
            return ""
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port else "")

    def check(self) -> None:
        """Raise ConfigError if proxy or certificates cannot be used. Reads the file, and uses no network."""
        self.proxy_for("https://any.invalid")
        self.trusted()

    def proxy_for(self, endpoint: str) -> str | None:
        """Return the URL of the proxy for an https endpoint; None: no proxy. ConfigError if it cannot be used.

        The words never repeat the URL, which may hold a password before an @.
        """
        if not self.proxy or is_loopback(endpoint) or not endpoint.startswith("https://"):
            return None
        if _is_excepted(endpoint, self.no_proxy):
            return None
        return _proxy_url(self.proxy, self.origin["proxy"])

    def trusted(self) -> ssl.SSLContext | None:
        """Return TLS settings that trust the bundle; None without a bundle. ConfigError if it cannot be used."""
        if not self.ca_bundle:
            return None
        import ssl  # here: every command asks for its settings, few open a connection

        said = f"{self.origin['ca_bundle']}: {self.ca_bundle}"
        try:
            return ssl.create_default_context(cafile=self.ca_bundle)
        except ssl.SSLError:
            raise ConfigError(f"{said} holds no certificates (PEM)") from None
        except OSError as exc:
            raise ConfigError(f"{said} cannot be read: {exc.strerror}") from None


NO_DETOUR = WayOut()
"""No proxy, and the system's certificates."""


def way_out(environ: Mapping[str, str], configured: Mapping[str, tuple[Any, str]] | None = None) -> WayOut:
    """Return the way out by environment, else by what config files say of `proxy`, `no_proxy` and `ca_bundle`.

    `configured` has each value with its place. Any: a text; for no_proxy several.
    """
    said = dict(configured or {})
    for name, variables in (
        ("proxy", PROXIES),
        ("no_proxy", EXCEPTIONS),
        ("ca_bundle", BUNDLES[:1] if "ca_bundle" in said else BUNDLES),
    ):
        variable = next((variable for variable in variables if environ.get(variable, "").strip()), None)
        if variable is not None:
            said[name] = (environ[variable].strip(), variable)
    if "no_proxy" in said and isinstance(said["no_proxy"][0], str):
        exceptions, variable = said["no_proxy"]
        said["no_proxy"] = (
            tuple(
                each.rpartition("@")[2]  # a login is useless there, and must not be shown
                for each in filter(None, re.split(r"[,\s]+", exceptions))
            ),
            variable,
        )
    return WayOut(
        **{name: value for name, (value, _) in said.items()}, origin={name: where for name, (_, where) in said.items()}
    )


def _proxy_url(said: str, origin: str) -> str:
    """Return a proxy's URL with its scheme; ConfigError, which does not repeat the URL, if it cannot be used.

    The URL is parsed by aiohttp's parser, as aiohttp will use it: another parser may see another host in it.
    """
    from yarl import URL  # here: few hosts have a proxy

    text = said if "://" in said else f"http://{said}"
    scheme = text.partition("://")[0]
    expected = f"{origin}: expected http://host:port or https://host:port"
    if scheme.lower() not in ("http", "https"):
        raise ConfigError(expected + (f"; {clean(scheme, 20)} is not supported" if scheme.isalnum() else ""))
    try:
        url = URL(text)
        usable = bool(url.host) and url.host == clean(url.host or "") and url.port not in (None, 0)
        f"{url.user or ''}:{url.password or ''}".encode("latin-1")  # as it goes out
    except ValueError:
        usable = False
    else:
        usable = usable and " " not in str(url.host) and ":" not in (url.user or "")
    if not usable:
        odd = "; in a name and a password percent-encode what is no letter or digit: \\ is %5C, / is %2F, # is %23"
        raise ConfigError(expected + (odd if "@" in text else ""))
    return text


def _is_excepted(endpoint: str, exceptions: tuple[str, ...]) -> bool:
    """Return whether one names the host: itself or a domain above it, with its port or without, `*`, or a network."""
    parts = urlsplit(endpoint)
    host = (parts.hostname or "").lower()
    for exception in map(str.lower, exceptions):
        name, _, port = exception.rpartition(":") if re.search(r":[0-9]+$", exception) else (exception, "", "")
        name = name.removeprefix("*.").lstrip(".")
        if port and int(port) != (parts.port or 443):
            continue
        if exception == "*" or (name and (host == name or host.endswith(f".{name}"))) or _is_within(host, name):
            return True
    return False


def _is_within(host: str, network: str) -> bool:
    import ipaddress  # here: few hosts are excepted

    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
