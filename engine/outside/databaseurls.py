"""The URL of a PostgreSQL database: what may stand in it, and how it is shown. A password may not."""

from __future__ import annotations

from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

_SCHEMES = ("postgresql", "postgres")
_SECRETS = ("password", "sslpassword")
_NOT_OURS = ("options", "application_name", "fallback_application_name", "connect_timeout", "replication")
"""What we say ourselves: with other options a commit might not be one."""
_WAYS = "PGPASSFILE (~/.pgpass), a service file or a client certificate"


def url_problem(url: str) -> str | None:
    """Return why a text is no URL of a database that may be used; None if it is one. Never repeats a secret."""
    if not url.isprintable() or url != url.strip() or " " in url:
        return "has a character that nobody sees, or a space"
    try:
        parts = urlsplit(url)
        asked = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        return "is no URL such as postgresql://host/database"
    if parts.scheme not in _SCHEMES or "//" not in url:
        return "is no URL such as postgresql://host/database"
    names = [name.lower() for name, _ in asked]
    if ":" in parts.netloc.rpartition("@")[0] or any(name in _SECRETS for name in names):
        return f"has a password in it, which process lists and histories show; give it by {_WAYS}"
    for name in names:
        if name in _NOT_OURS:
            return f"sets {name}, which acctops sets itself"
    return None


def url_words(url: str) -> str:
    """Return a URL without the user's name and its parameters, for a person."""
    parts = urlsplit(url)
    asked = dict(parse_qsl(parts.query))
    place = parts.netloc.rpartition("@")[2] or asked.get("host", "")
    service = f"?service={asked['service']}" if "service" in asked else ""
    return f"postgresql://{place}{parts.path}{service}"


def without_user(url: str) -> str:
    """Return a URL without the user's name, to be typed again: PGUSER or a service file says it there."""
    parts = urlsplit(url)
    asked = "&".join(word for word in parts.query.split("&") if word and not word.lower().startswith("user="))
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=asked))


def user_of(url: str) -> str:
    """Return the user's name in a URL; empty if it has none."""
    parts = urlsplit(url)
    return unquote(parts.netloc.rpartition("@")[0]) or dict(parse_qsl(parts.query)).get("user", "")
