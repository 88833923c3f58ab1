"""Devices, floor 2: how this host reaches the network: its proxy, and the certificates it trusts. By environment.

HTTPS_PROXY and NO_PROXY as other tools read them (small letters too; ALL_PROXY where there is no HTTPS_PROXY).
ACCTOPS_CA_BUNDLE, else SSL_CERT_FILE, else REQUESTS_CA_BUNDLE name a file of certificates: of a company's proxy that
opens TLS, or of a private endpoint. This machine itself is never reached through a proxy.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from engine.endpoints import is_loopback
from engine.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
EXCEPTIONS = ("NO_PROXY", "no_proxy")
BUNDLES = ("ACCTOPS_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")


def proxy_for(endpoint: str, environ: Mapping[str, str]) -> str | None:
    """The proxy for an https endpoint, as a URL; None for none. ConfigError for one that cannot be used.

    The words never repeat the URL: it may carry a password before an @.
    """
    name = next((name for name in PROXIES if environ.get(name, "").strip()), None)
    if name is None or is_loopback(endpoint) or not endpoint.startswith("https://"):
        return None
    exceptions = next((environ[name] for name in EXCEPTIONS if environ.get(name, "").strip()), "")
    if _is_excepted(endpoint, exceptions):
        return None
    said = environ[name].strip()
    url = said if "://" in said else f"http://{said}"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        scheme = url.partition("://")[0]
        other = f"; {scheme} is not supported" if scheme.isalnum() and scheme not in ("http", "https") else ""
        raise ConfigError(f"{name}: expected http://host:port or https://host:port{other}")
    return url


def _is_excepted(endpoint: str, exceptions: str) -> bool:
    """Whether NO_PROXY names the host: itself or a domain above it, with its port or without, `*`, or a network."""
    parts = urlsplit(endpoint)
    host = (parts.hostname or "").lower()
    for exception in re.split(r"[,\s]+", exceptions.strip().lower()):
        name, _, port = exception.rpartition(":") if re.search(r":[0-9]+$", exception) else (exception, "", "")
        name = name.removeprefix("*.").lstrip(".")
        if port and int(port) != (parts.port or 443):
            continue
        if exception == "*" or (name and (host == name or host.endswith(f".{name}"))) or _is_within(host, name):
            return True
    return False


def _is_within(host: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def trusted(environ: Mapping[str, str]) -> ssl.SSLContext | None:
    """TLS that trusts a bundle named by the environment; None for the system's. ConfigError if it cannot be used."""
    name = next((name for name in BUNDLES if environ.get(name, "").strip()), None)
    if name is None:
        return None
    path = environ[name].strip()
    try:
        return ssl.create_default_context(cafile=path)
    except ssl.SSLError:
        raise ConfigError(f"{name}: {path} holds no certificates (PEM)") from None
    except OSError as exc:
        raise ConfigError(f"{name}: {path} cannot be read: {exc.strerror}") from None
