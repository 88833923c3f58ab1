"""What others wrote: bounded, cleaned, and without secrets in any spelling."""

from __future__ import annotations

import base64
import html
import json
import math
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from engine.outside.foreign import REDACTED, Secrets, clean, clean_lines, number, without_userinfo

SECRETS = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=8, max_size=40)
SPELLINGS = {
    "as it is": str,
    "capitals": str.upper,
    "json": lambda text: json.dumps(text)[1:-1],
    "json, readable": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "json of Go": lambda text: json.dumps(text)[1:-1].replace("<", "\\u003c").replace("&", "\\u0026"),
    "json of PHP": lambda text: json.dumps(text)[1:-1].replace("/", "\\/"),
    "url": lambda text: quote(text, safe=""),
    "url, small letters": lambda text: quote(text, safe="").lower(),
    "html": html.escape,
    "html by number": lambda text: "".join(f"&#{ord(char)};" for char in text),
    "html by hex number": lambda text: "".join(f"&#x{ord(char):X};" for char in text),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 within": lambda text: base64.b64encode(f"a:{text}!".encode()).decode(),
    "base64 for urls": lambda text: base64.urlsafe_b64encode(f"u{text}".encode()).decode(),
}


@pytest.mark.parametrize("how", SPELLINGS)
@given(secret=SECRETS)
def test_no_spelling_of_a_secret_is_left(how: str, secret: str) -> None:
    """Whatever way a server or a program says a secret back, none of it is kept."""
    said = SPELLINGS[how](secret)
    text = f"before {said} after"
    secrets = Secrets([secret])
    assume(said not in f"before {REDACTED} after")
    if how == "capitals" and secret.upper().lower() != secret.lower():
        return  # ß and its like have no way back
    assert secrets.are_in(text.encode())
    assert said not in secrets.scrub(text)
    assert REDACTED in secrets.scrub(text)


@given(text=st.text(max_size=80))
def test_without_a_secret_text_stays(text: str) -> None:
    """Blotting out touches nothing else."""
    secrets = Secrets(["Gu5t-Aw4y-Sek73t"])
    assert secrets.scrub(text) == text
    assert Secrets([None, "", "abc"]).scrub(text) == text


def test_a_secret_is_in_no_repr() -> None:
    """A traceback or a log that shows the object shows no secret."""
    assert "Hunter2Secret" not in repr(Secrets(["Hunter2Secret"]))


@given(text=st.text(max_size=300), most=st.integers(min_value=1, max_value=50))
def test_clean_text_is_one_bounded_line_that_no_terminal_obeys(text: str, most: int) -> None:
    """Escapes, bells, line ends, bidirectional and invisible marks never reach a screen or a journal."""
    cleaned = clean(text, most)
    assert cleaned.isprintable()
    assert len(cleaned) <= most
    lines = clean_lines(text)
    assert lines.replace("\n", "").isprintable()
    assert lines.count("\n") == text.count("\n")


def test_the_user_and_password_of_a_url_go() -> None:
    """A proxy's password stands in no message, however the URL is written."""
    assert without_userinfo(r"cannot use http://CORP\dba:Hunter2@127.0.0.1:9: refused") == (
        "cannot use http://[redacted]@127.0.0.1:9: refused"
    )
    assert without_userinfo("http://a:b@c@host/x@y") == "http://[redacted]@host/x@y"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((5, 5.0), ("5", 5.0), (True, None), ("nan", None), (math.inf, None), (10**400, None)),
        *(("９", None), ("1" * 200, None), (11, None), (None, None), ([], None)),
    ],
)
def test_a_foreign_number_is_one_within_bounds(value: object, expected: float | None) -> None:
    """No NaN, no infinity and no number beyond what it can mean decides anything."""
    assert number(value, 0, 10) == expected
