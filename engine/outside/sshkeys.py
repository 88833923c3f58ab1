"""Signs and checks with `ssh-keygen -Y`, and reads files of allowed signers. No secret stands in an argument.

A key is the file of a private key, or of a public one whose private half an agent or a token has. Whose word counts is
said by files of allowed signers; each is read once, looked at, and handed to ssh-keygen as a private copy.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from engine.outside.foreign import clean
from engine.outside.trust import open_regular, owner_words

if TYPE_CHECKING:
    from collections.abc import Sequence

NAMESPACE = "acctops-approve@1"
"""What signatures of approvals are for: one of another namespace never counts as one."""
SEALS = "acctops-seal@1"
"""What signatures of the ends of runs are for."""
PROGRAM = "ssh-keygen"
MOST_SIGNERS = 1 << 20
"""Bytes of a file of allowed signers, at most."""
MOST_SIGNATURE = 1 << 15
"""Bytes of a signature, at most."""
_CHECK_S = 10.0
_SIGN_S = 120.0
"""Seconds for a signature: a person may have to type a passphrase, or to touch a token."""
_MOST_WORDS = 300
_GOOD = re.compile(
    r'Good "([^"]{1,100})" signature (?:for .{1,400}? )?with ([A-Z0-9-]{1,40}) key (SHA256:[A-Za-z0-9+/]{43})'
)
_KEY = re.compile(
    r"(?:ssh-(?:ed25519|rsa)|ecdsa-sha2-nistp[0-9]{3}|sk-(?:ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com) "
    r"AAAA[A-Za-z0-9+/=]+"
)
_TIME = re.compile(r'valid-(?:after|before)="?([0-9]+)(Z?)"?', re.IGNORECASE)


class SshKeyError(Exception):
    """What ssh-keygen could not do, or what is wrong with a file of signers, in words."""


class Signers(Struct, frozen=True, kw_only=True):
    """A file of allowed signers, as it was read."""

    path: Path
    data: bytes
    doubts: tuple[str, ...] = ()
    """Why who runs the command could change it all the same: he owns it, or may write its directory."""


def read_signers(path: Path, *, of_others: bool = True) -> Signers:
    """Return a file of allowed signers; SshKeyError if it cannot be read.

    With `of_others` also if who runs this may write it by its mode: then he could decide whose word counts.
    A time in it that does not end in Z is refused: ssh-keygen would take it for local time.
    """
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            found = os.fstat(file.fileno())
            data = file.read(MOST_SIGNERS + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise SshKeyError(f"{path}: the signers cannot be read: {why}") from error
    if len(data) > MOST_SIGNERS:
        raise SshKeyError(f"{path}: larger than {MOST_SIGNERS >> 20} MiB; this is no file of allowed signers")
    if of_others and (who := _writer(found)) is not None:
        raise SshKeyError(
            f"{path}: {who} may write it, and so could decide who approves; have it written by somebody else: "
            f"chown root {path}; chmod 644 {path}"
        )
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        for time_text, zone in _TIME.findall(line) if not line.lstrip().startswith("#") else ():
            if not zone:
                raise SshKeyError(f"{path}:{number}: {time_text} is local time; end it with Z: {time_text}Z")
    return Signers(path=path, data=data, doubts=tuple(_doubts(path, found)))


def _writer(found: os.stat_result) -> str | None:
    """Return who may write a file by its mode bits, of those who count: who runs this, or everybody."""
    mode, me = found.st_mode, os.geteuid()
    if mode & stat.S_IWOTH:
        return "everybody"
    if me == 0:
        return "its group" if mode & stat.S_IWGRP else None
    if found.st_uid == me:
        return "who runs this" if mode & stat.S_IWUSR else None
    in_group = found.st_gid in {os.getegid(), *os.getgroups()}
    return "the group of who runs this" if in_group and mode & stat.S_IWGRP else None


def _doubts(path: Path, found: os.stat_result) -> list[str]:
    """Return why the mode alone keeps nobody out: who runs this owns the file, or may write a directory above it."""
    me = os.geteuid()
    if me == 0:  # root may write everything: only what its owner may counts
        owner = owner_words(found.st_uid)
        is_own = found.st_uid == 0 or not found.st_mode & stat.S_IWUSR
        return [] if is_own else [f"{path} belongs to {owner}, who may write it and may be the one who sends as root"]
    who, doubts = owner_words(me), []
    if found.st_uid == me:
        doubts.append(f"{path} belongs to {who}, who runs this and can make it writable")
    places = [each for each in dict.fromkeys((path.parent, path.resolve().parent)) if os.access(each, os.W_OK)]
    doubts += [f"{each} may be written by {who}, who runs this and can replace the file" for each in places]
    return doubts


def keys_in(signers: Signers, at: float, namespace: str = NAMESPACE) -> tuple[str, ...]:
    """Return the fingerprints of the keys in a file of signers that can sign at UNIX time `at`, each once.

    A certificate authority is none of them.
    """
    lines = []
    now = time.strftime("%Y%m%d%H%M%S", time.gmtime(at))
    for line in signers.data.decode("utf-8", "replace").splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        spaces = re.search(r'namespaces="?([^"\s]+)', line, re.IGNORECASE)
        if "cert-authority" in line or (spaces is not None and namespace not in spaces.group(1).split(",")):
            continue
        found = dict(re.findall(r'valid-(after|before)="?([0-9]+)z', line.lower()))
        if found.get("before", "9").ljust(14, "0") <= now or found.get("after", "0").ljust(14, "0") > now:
            continue
        if key := _KEY.search(line):
            lines.append(key.group())
    found_keys: dict[str, None] = {}
    with tempfile.TemporaryDirectory(prefix="acctops-") as place:
        for line in lines[:_MOST_KEYS]:
            file = Path(place, "key.pub")
            file.write_text(line + "\n", encoding="ascii")
            said = _run([PROGRAM, "-l", "-E", "sha256", "-f", str(file)], _CHECK_S)
            if said.returncode == 0 and (hit := re.search(rb"SHA256:[A-Za-z0-9+/]{43}", said.stdout)):
                found_keys[hit.group().decode()] = None
    return tuple(found_keys)


_MOST_KEYS = 200


def fingerprint_of(key: Path) -> str:
    """Return the fingerprint of the key in a file, private or public; SshKeyError in words."""
    if not key.is_file():
        raise SshKeyError(f"{key}: no such file of a key")
    said = _run([PROGRAM, "-l", "-E", "sha256", "-f", str(key.absolute())], _CHECK_S, alone=True)
    hit = re.search(rb"SHA256:[A-Za-z0-9+/]{43}", said.stdout)
    if said.returncode != 0 or hit is None:
        raise SshKeyError(f"{key}: is no SSH key: {_complaint(said)}")
    return hit.group().decode()


def public_line(key: Path) -> str:
    """Return the public half of the key in a file, as one line of text; SshKeyError in words. It never asks."""
    said = _run([PROGRAM, "-y", "-P", "", "-f", str(key.absolute())], _CHECK_S, alone=True)
    text = said.stdout.decode("ascii", "replace")
    if said.returncode != 0 or (hit := _KEY.search(text)) is None:
        with suppress(OSError, UnicodeDecodeError):  # its public half lies beside it, or it is one
            beside = key if key.suffix == ".pub" else key.with_name(f"{key.name}.pub")
            if (hit := _KEY.search(beside.read_text(encoding="ascii"))) is not None:
                return hit.group()
        raise SshKeyError(f"{key}: its public half cannot be read: {_complaint(said)}")
    return hit.group()


def sign_alone(message: bytes, key: Path, namespace: str) -> str:
    """Return the signature of a message by a key that needs nobody: no passphrase, no touch. SshKeyError in words.

    Nobody is asked, and it takes 10 s at most. A private key that others may read is refused.
    """
    try:
        mode = key.stat().st_mode
    except OSError as error:
        raise SshKeyError(f"{key}: the key cannot be read: {error.strerror}") from error
    if key.suffix != ".pub" and mode & 0o077:
        raise SshKeyError(f"{key}: others may read this key, so it proves nothing; chmod 600 {key}")
    return sign(message, key, namespace, alone=True)


def sign(message: bytes, key: Path, namespace: str = NAMESPACE, *, alone: bool = False) -> str:
    """Return the signature of a message by a key; SshKeyError in words. ssh-keygen may ask on the terminal.

    With `alone` it cannot: a key that needs a passphrase is an error then.
    """
    if not key.is_file():
        raise SshKeyError(f"{key}: no such file of a key")
    with tempfile.TemporaryDirectory(prefix="acctops-") as place:
        file = Path(place, "statement")
        file.write_bytes(message)
        argv = [PROGRAM, "-Y", "sign", "-f", str(key.absolute()), "-n", namespace, str(file)]
        said = _run(argv, _CHECK_S if alone else _SIGN_S, alone=alone)
        try:
            signature = Path(place, "statement.sig").read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError):
            signature = ""
    if said.returncode != 0 or not signature:
        way = (
            "; plug in its token, add it to your agent (ssh-add), or name the private half"
            if key.suffix == ".pub"
            else ""
        )
        raise SshKeyError(f"{key}: nothing was signed: {_complaint(said)}{way}")
    return signature


def check(message: bytes, signature: str, namespace: str = NAMESPACE) -> str:
    """Return the fingerprint of the key that signed a message, whosever it is; SshKeyError if the signature is none."""
    with tempfile.TemporaryDirectory(prefix="acctops-") as place:
        file = _signature_file(place, signature)
        argv = [PROGRAM, "-Y", "check-novalidate", "-n", namespace, "-s", str(file)]
        return _good(_run(argv, _CHECK_S, message), namespace)


def check_by(
    message: bytes, signature: str, signers: Sequence[Signers], at: float, namespace: str = NAMESPACE
) -> tuple[str, str]:
    """Return the fingerprint of the key that signed a message, and its name in the first file of signers.

    SshKeyError unless the signature is good, and the key stands in every one of these files and counts at `at`, in
    UNIX time.
    """
    if not signers:
        raise SshKeyError("no config names a file of signers (approvals.signers), so nobody's word counts")
    fingerprint = check(message, signature, namespace)
    names = []
    when = time.strftime("%Y%m%d%H%M%SZ", time.gmtime(at))
    with tempfile.TemporaryDirectory(prefix="acctops-") as place:
        file = _signature_file(place, signature)
        for each in signers:
            allowed = Path(place, "signers")
            allowed.write_bytes(each.data)
            common = ["-s", str(file), f"-Overify-time={when}"]
            said = _run([PROGRAM, "-Y", "find-principals", "-f", str(allowed), *common], _CHECK_S, message)
            found = said.stdout.decode("utf-8", "replace").split("\n")[0].split(",")[0].strip()
            if said.returncode != 0 or not found:
                why = _complaint(said).replace(f"{allowed}:", "line ")
                raise SshKeyError(f"key {fingerprint} is not one of {each.path}, or does not count now ({why})")
            argv = [PROGRAM, "-Y", "verify", "-f", str(allowed), "-I", found, "-n", namespace, *common]
            if _good(_run(argv, _CHECK_S, message), namespace) != fingerprint:
                raise SshKeyError("ssh-keygen names two keys for one signature")
            names.append(clean(found, 100))
    return fingerprint, names[0]


def _signature_file(place: str, signature: str) -> Path:
    if len(signature) > MOST_SIGNATURE or not signature.isascii():
        raise SshKeyError("the signature is none")
    file = Path(place, "signature")
    file.write_text(signature, encoding="ascii")
    return file


def _good(said: subprocess.CompletedProcess[bytes], namespace: str) -> str:
    """Return the fingerprint that ssh-keygen names in its word of a good signature; SshKeyError without one."""
    found = _GOOD.search(said.stdout.decode("utf-8", "replace"))
    if said.returncode != 0 or found is None or found.group(1) != namespace:
        raise SshKeyError(f"the signature does not hold: {_complaint(said)}")
    if "CERT" in found.group(2):
        raise SshKeyError(
            "it was signed with a certificate: two certificates can be of one key; sign with the key itself"
        )
    return found.group(3)


def _run(
    argv: Sequence[str], limit_s: float, given: bytes = b"", *, alone: bool = False
) -> subprocess.CompletedProcess[bytes]:
    """Run ssh-keygen to its end. With `alone` it has no terminal and no program to ask for a passphrase."""
    env = {**os.environ, "LC_ALL": "C"} | ({"SSH_ASKPASS_REQUIRE": "never"} if alone else {})
    if alone:
        env.pop("DISPLAY", None)
    try:
        return subprocess.run(  # noqa: S603 - no shell; our own arguments, and files that we made
            argv, input=given, capture_output=True, timeout=limit_s, check=False, env=env, start_new_session=alone
        )
    except FileNotFoundError as error:
        raise SshKeyError(
            f"{PROGRAM} is not here: it signs and checks approvals and seals; install openssh-client (8.9 or newer)"
        ) from error
    except OSError as error:
        raise SshKeyError(f"{PROGRAM} cannot be started: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise SshKeyError(f"{PROGRAM} did not end within {limit_s:.0f} s") from error


def _complaint(said: subprocess.CompletedProcess[bytes]) -> str:
    text = (said.stderr or said.stdout).decode("utf-8", "replace").strip().replace("\r", "").split("\n")[0]
    return clean(text, _MOST_WORDS) or f"exit status {said.returncode}"
