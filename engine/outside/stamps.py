"""Time stamps (RFC 3161) by `openssl ts`: what is asked of an authority, and what its answer proves. Blocks.

An authority may lie: it may stamp other data, repeat an old answer, or refuse. So an answer is kept only if it is
granted and has the hash of our data. Who signed it is checked against certificates that the operator names.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from engine.outside.foreign import clean

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAM = "openssl"
MOST_STAMP = 1 << 16
"""Bytes of an answer, at most."""
_LIMIT_S = 10.0
_MOST_WORDS = 300


class StampError(Exception):
    """What could not be stamped, or why a stamp proves nothing, in words."""


def question(data: bytes) -> bytes:
    """Return what is posted to an authority so that it stamps the SHA-256 of `data`; StampError in words."""
    with tempfile.TemporaryDirectory(prefix="acctops-") as place:
        file, asked = Path(place, "data"), Path(place, "query")
        file.write_bytes(data)
        said = _run(["ts", "-query", "-data", str(file), "-sha256", "-cert", "-out", str(asked)])
        try:
            return asked.read_bytes()
        except OSError:
            raise StampError(f"{PROGRAM} made no question: {_complaint(said)}") from None


def granted(data: bytes, asked: bytes, answer: bytes, ca: Path | None) -> str:
    """Return the time (UTC, as openssl writes it) in an authority's answer to `asked`; StampError if it is no stamp.

    It must be granted and be of the SHA-256 of `data`. With `ca` its signature must lead to a certificate in that
    file, and the answer must repeat the number that was asked with.
    """
    with tempfile.TemporaryDirectory(prefix="acctops-") as place:
        file, query = Path(place, "answer"), Path(place, "query")
        file.write_bytes(answer)
        query.write_bytes(asked)
        at = _time(file, data)
        if ca is not None:
            _verify(["-queryfile", str(query), "-in", str(file)], ca)
        return at


def stamped_at(data: bytes, stamp: bytes, ca: Path | None) -> str:
    """Return the time (UTC, as openssl writes it) in a stamp of `data`; StampError if it is none.

    Without `ca` only the data is compared: who made the stamp is not known.
    """
    with tempfile.TemporaryDirectory(prefix="acctops-") as place:
        file, message = Path(place, "answer"), Path(place, "data")
        file.write_bytes(stamp)
        message.write_bytes(data)
        at = _time(file, data)
        if ca is not None:
            _verify(["-data", str(message), "-in", str(file)], ca)
        return at


def _time(file: Path, data: bytes) -> str:
    """Return the time in an answer; StampError if it is not granted, or not of the SHA-256 of `data`."""
    said = _run(["ts", "-reply", "-in", str(file), "-text"])
    text = said.stdout.decode("utf-8", "replace")
    if said.returncode != 0:
        raise StampError(f"the answer is no time stamp: {_complaint(said)}")
    status = re.search(r"^Status: (.{1,100})", text, re.MULTILINE)
    if status is None or not status.group(1).startswith("Granted"):
        raise StampError(f"the authority does not stamp it: {clean(status.group(1) if status else 'no status', 100)}")
    dump = re.search(r"^Message data:\n((?: {4}[0-9a-f]{4} - .*\n)+)", text, re.MULTILINE)
    digits = "".join(map(_digits, dump.group(1).splitlines())) if dump is not None else ""
    if digits != sha256(data).hexdigest():
        raise StampError("the stamp is of other data")
    at = re.search(r"^Time stamp: ([A-Za-z0-9: .]{10,60})$", text, re.MULTILINE)
    if at is None:
        raise StampError("the stamp has no time")
    return at.group(1)


def _digits(line: str) -> str:
    """Return the hex digits of one line of openssl's dump: without the offset before, and the text behind."""
    return re.sub("[^0-9a-f]", "", line.strip().partition(" - ")[2][:47])


def _verify(what: Sequence[str], ca: Path) -> None:
    if not ca.is_file():
        raise StampError(f"{ca}: no such file of certificates")
    said = _run(["ts", "-verify", *what, "-CAfile", str(ca), "-untrusted", str(ca)])
    if said.returncode != 0 or b"Verification: OK" not in said.stdout + said.stderr:
        raise StampError(f"nobody in {ca} vouches for the stamp: {_complaint(said)}")


def _run(argv: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(  # noqa: S603 - no shell; our own arguments, and files that we made
            [PROGRAM, *argv],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_LIMIT_S,
            check=False,
            env={**os.environ, "LC_ALL": "C", "OPENSSL_CONF": os.devnull},
        )
    except FileNotFoundError as error:
        raise StampError(f"{PROGRAM} is not here: it asks for time stamps and checks them; install openssl") from error
    except OSError as error:
        raise StampError(f"{PROGRAM} cannot be started: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise StampError(f"{PROGRAM} did not end within {_LIMIT_S:.0f} s") from error


def _complaint(said: subprocess.CompletedProcess[bytes]) -> str:
    lines = [line for line in (said.stderr or said.stdout).decode("utf-8", "replace").splitlines() if line.strip()]
    chosen = next((line for line in lines if ":error:" in line), lines[0] if lines else "")
    # thread:error:code:library:function:reason:file:line:more
    if (found := re.fullmatch(r"[^:]*:error:[^:]*:[^:]*:[^:]*:([^:]*):[^:]*:[0-9]*:(.*)", chosen)) is not None:
        chosen = ", ".join(filter(None, found.groups()))
    return clean(chosen.strip(), _MOST_WORDS) or f"exit status {said.returncode}"
