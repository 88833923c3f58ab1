"""What instance ids, user names and regions look like, and the nearest name to a mistyped one.

Sources: SEED-LOCK and D-CREATE. Their rules for account names disagree: rule A is the narrower one, with 16 characters.
A name that keeps neither is unusual: only plain SQL makes such an account, and only a reading shows that it exists.
This module refuses what can hardly be the name of an account at all. The server decides about the rest.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from engine.outside.foreign import without_userinfo

if TYPE_CHECKING:
    from collections.abc import Iterable

INSTANCE_PATTERN = "[A-Za-z][A-Za-z0-9]*(?:-[A-Za-z0-9]+)+"
"""A prefix, a hyphen, an id: `postgres-4sfuv15b`. No page documents a rule; every sample has this form."""
USER_PATTERN = "[A-Za-z_][A-Za-z0-9_]{0,62}"
"""The wider of the two rules for account names (D-CREATE). A name that breaks it breaks rule A as well."""
_SIGNS = ".$+#-"
MOST_USER_BYTES = 63
"""Bytes of a name in PostgreSQL (NAMEDATALEN)."""
ANY_USER_PATTERN = r"[A-Za-z0-9_\u00aa-\uffff][A-Za-z0-9_.$+#\u00aa-\uffff-]{0,62}"
"""What unusual names look like, for an editor: a little more than `user_problem` lets pass."""
REGION_PATTERN = "[a-z]{2,}(?:-[a-z0-9]+)+"
ROLE_PATTERN = "qcs::cam::uin/([0-9]{1,20}):(?:role|roleName)/((?:[A-Za-z0-9_+=,.@-]+/)?[A-Za-z0-9_+=,.@-]+)"
"""ARN of a CAM role, by name or by id; service roles too (STS). Groups: the main account's uin, the role's name."""
MOST_INSTANCE = 64
MOST_URL = 4096
LONG_USER = 16
"""Characters that rule A allows. A name of 17–63 characters keeps one documented rule and breaks the other."""

REGIONS = (
    "ap-bangkok",
    "ap-beijing",
    "ap-chengdu",
    "ap-chongqing",
    "ap-guangzhou",
    "ap-hongkong",
    "ap-jakarta",
    "ap-nanjing",
    "ap-seoul",
    "ap-shanghai",
    "ap-shanghai-fsi",
    "ap-shenzhen-fsi",
    "ap-singapore",
    "ap-tokyo",
    "eu-frankfurt",
    "na-ashburn",
    "na-siliconvalley",
    "sa-saopaulo",
)
"""SEED-LOCK's list, which five more pages repeat. It serves for advice only: DescribeRegions knows the regions."""

INSTANCE_STATUSES = (
    *("running", "applying", "init", "initing", "limited run", "isolating", "isolated", "disisolating", "recycling"),
    *("recycled", "job running", "offline", "migrating", "expanding", "waitSwitch", "switching", "readonly"),
    *("restarting", "network changing", "upgrading", "audit-switching", "primary-switching", "offlining"),
    *("deployment changing", "cloning", "parameter modifying", "log-switching", "restoring"),
)
"""DBInstanceStatus (D-ACCTS)."""
INSTANCE_TYPES = ("primary", "readonly", "guard", "temp")
"""DBInstanceType (D-ACCTS)."""
USER_TYPES = ("normal", "tencentDBSuper")
"""AccountInfo.UserType (D-ACCTS)."""

is_instance = re.compile(INSTANCE_PATTERN).fullmatch
_IN_URL = re.compile(r"(?<![A-Za-z0-9_-])(?:postgres|pgro)-[A-Za-z0-9_-]*", re.IGNORECASE).findall
"""What may be the id of an instance or of a read-only one: in a URL, another word with a hyphen may be anything."""
_VENDORS_ID = re.compile(r"(?:postgres|pgro)-[A-Za-z0-9]+").fullmatch
is_user = re.compile(USER_PATTERN).fullmatch
is_region = re.compile(REGION_PATTERN).fullmatch


def instance_problem(name: str) -> str | None:
    """Say why `name` cannot be an instance id; None if it can."""
    if is_instance(name) and len(name) <= MOST_INSTANCE:
        return None
    if len(found := _instances_in_url(name)) > 1:
        return f"{shown(name)} names {len(found)} instances ({', '.join(found[:3])}); write the one that is meant"
    how = "write it as the console shows it, such as postgres-4sfuv15b"
    return f"{shown(name)} is not an instance id{_foreign(name)}; {how}"


is_url = re.compile(r"[a-z][a-z0-9+.-]*://|(?:[a-z0-9-]+\.)+[a-z]{2,}/", re.IGNORECASE).match
"""Whether a text begins as a URL does, also one without its scheme: `instance/user` is none."""


def instance_in_url(text: str) -> str | None:
    """Return the one instance id that a URL names; None if it names none or several, or if the text is no URL."""
    found = _instances_in_url(text)
    return found[0] if len(found) == 1 and _VENDORS_ID(found[0]) and len(found[0]) <= MOST_INSTANCE else None


def regions_in_url(text: str) -> list[str]:
    """Return the documented regions that a URL names, each once."""
    words = dict.fromkeys(re.findall(r"[a-z0-9-]+", _decoded_url(text)))
    return [word for word in words if word in REGIONS]


def _instances_in_url(text: str) -> list[str]:
    """Return what may be an instance id in a URL, each once."""
    return list(dict.fromkeys(_IN_URL(_decoded_url(text))))


def _decoded_url(text: str) -> str:
    """Return a URL without percent-encoding, which a console's link may have twice; empty if the text is no URL."""
    if not is_url(text) or len(text) > MOST_URL or not text.isascii():
        return ""
    from urllib.parse import unquote  # here: hardly a list has URLs

    return unquote(unquote(text))


def user_problem(name: str) -> str | None:
    """Say why `name` cannot be an account name, by the documented rules or made by plain SQL; None if it can.

    Where `is_user` does not hold, the name is unusual (`is_unusual`).
    """
    if is_user(name) or _is_unusual(name):
        return None
    if _VENDORS_ID(name) or name in REGIONS:
        what = "a region" if name in REGIONS else "an instance id"
        return f"{shown(name)} is {what}, not an account name; are columns swapped?"
    rule = "it has 1–63 letters, digits and _, and no digit first"
    by_sql = f"if SQL made it, also a digit first, and {' '.join(_SIGNS)} inside"
    return f"{shown(name)} is not an account name{_foreign(name)}; {rule} ({by_sql})"


def is_unusual(name: str) -> bool:
    """Return whether a name keeps no documented rule: it is sent only where a reading shows exactly this name."""
    return is_user(name) is None


_LETTER = r"[^\W\u115f\u1160\u3164\uffa0\U00010000-\U0010ffff]"
"""A letter, a digit or `_`: none of four letters that nobody sees, and none that `ANY_USER_PATTERN` cannot name."""
_MAY_BE_UNUSUAL = re.compile(rf"{_LETTER}(?:[{re.escape(_SIGNS)}]*{_LETTER})*").fullmatch


def _is_unusual(name: str) -> bool:
    """Return whether a name that no documented rule allows is hardly a slip.

    It has letters, digits, `_`, and a few signs inside: so it reads as no option, formula or path.
    It has a letter, as `16384` and `10.0.0.1` name no account, and letters of one script, as a Cyrillic о among Latin
    letters is a slip or a trick. Blanks, `@` and other signs are more often slips than accounts.
    """
    return (
        _MAY_BE_UNUSUAL(name) is not None
        and any(map(str.isalpha, name))
        and len(name.encode()) <= MOST_USER_BYTES
        and not (_VENDORS_ID(name) or name in REGIONS)
        and (name.isascii() or _is_of_one_script(name))
    )


def _is_of_one_script(name: str) -> bool:
    from unicodedata import name as called  # here: hardly a list has such a name

    scripts = {called(char, "?").partition(" ")[0] for char in name if char.isalpha()}
    return len(scripts) == 1 or "LATIN" not in scripts


def _foreign(name: str) -> str:
    """Name the first letter that is not ASCII: a Cyrillic о looks like an o. Return an empty text if there is none."""
    odd = next((char for char in name if not char.isascii() and char.isprintable()), None)
    return f" ({odd} in it is U+{ord(odd):04X}, none of a–z)" if odd is not None else ""


def region_problem(name: str) -> str | None:
    """Say why `name` cannot be a region; None if it can be one, also one that `REGIONS` does not list."""
    if is_region(name):
        return None
    return f"{shown(name)} is not a region{did_you_mean(name, REGIONS) or '; such as ap-singapore'}"


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Return the known name that was probably meant, or None; `cutoff` (0 to 1) is how alike the two must be.

    A name that says the opposite (`cam-off`, `cam-on`) was not meant, however alike it is.
    """
    from difflib import get_close_matches  # here: only a mistake pays for the import

    by_folded = {candidate.lower(): candidate for candidate in known}
    folded = name.lower()[:100]
    close = get_close_matches(folded, by_folded, n=_MOST_NEAR, cutoff=cutoff)
    return next((by_folded[each] for each in close if not opposite(folded, each)), None)


_MOST_NEAR = 5
_NO = re.compile("un(?!til)|dis|de|non|not|no")
"""How a word begins that says the contrary of the rest of it."""
_CONTRARY_ENDS = (("no", "ffo"),)
"""Backwards: on, off."""
_CONTRARY_BEGINS = (
    *(("in", "ex"), ("en", "dis"), ("min", "max"), ("least", "most"), ("open", "clos"), ("start", "stop")),
    *(("before", "after"), ("first", "last"), ("on", "off"), ("with", "without"), ("allow", "deny"), ("add", "remove")),
)


def opposite(typed: str, known: str) -> bool:
    """Return whether `known` says the opposite of what was typed, which is spelt nearly the same."""
    one, other = (re.sub("[^a-z]", "", each.lower()) for each in (typed, known))
    return (
        any({_side(one, pair), _side(other, pair)} == {1, -1} for pair in _CONTRARY_BEGINS)
        or any({_side(one[::-1], pair), _side(other[::-1], pair)} == {1, -1} for pair in _CONTRARY_ENDS)
        or _denies(one, other)
        or _denies(other, one)
    )


def _side(word: str, pair: tuple[str, str]) -> int:
    """Return which of two beginnings a word has, 1 or -1; 0 for none. The longer one of both counts."""
    said = max((each for each in pair if word.startswith(each)), key=len, default="")
    return 0 if not said else 1 if said == pair[0] else -1


def _denies(one: str, other: str) -> bool:
    """Return whether `one` is `other` with a `no` before it, and no mere slip of it (`nlock`, for `unlock`)."""
    from difflib import SequenceMatcher

    def alike(word: str) -> float:
        return SequenceMatcher(None, word, other).ratio()

    no = _NO.match(one)
    return no is not None and _NO.match(other) is None and alike(one[no.end() :]) >= max(_DENIED, alike(one))


_DENIED = 0.8
"""How alike (0-1) two names must be, but for the `no`, to count as contraries."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean …?` for a message; empty if no known name is near."""
    meant = nearest(name, known)
    return f"; did you mean {meant}?" if meant is not None else ""


def shown(value: str) -> str:
    """Return a value as a message shows it: quoted, on one line, at most 60 characters, without the login of a URL."""
    value = without_userinfo(value)
    return repr(value if len(value) <= 60 else value[:59] + "…")


ODD_SIGNS = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff"
"""Control characters, marks of direction and invisible characters: a terminal obeys them, or nobody sees them. This is
the inside of a character class, which the JSON Schema uses too. Line ends and tabs are not in it."""


def text_problem(text: str) -> str | None:
    """Say why a name, a reason or a ticket cannot be shown to people as it is; None if it can."""
    odd = re.search(f"[{ODD_SIGNS}]", text)
    return f"holds U+{ord(odd[0]):04X} (character {odd.start() + 1}), which nobody sees; remove it" if odd else None
