"""The `evidence` command: what proves a run, or all of a ticket, in one file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import asdict

from engine.cli.options import options_of
from engine.cli.talk import out, out_json, printed, say, warn
from engine.operations.evidence import write_evidence

if TYPE_CHECKING:
    from engine.operations.evidence import Bundle

_SHOWN = 20
"""Lines of one kind that are printed."""


def show_evidence(run: str | None, ticket: str | None, file: str, **flags: Any) -> int:
    """Write the bundle and say what is in it. Any: the flags, by name."""
    options = options_of(flags)
    bundle = write_evidence(options, run, ticket, Path(file))
    if options.as_json:
        out_json(_document(bundle))
        return printed() or bundle.reason
    for text in _notes(bundle):
        warn(text)
    runs, members = len(bundle.runs), bundle.members
    out(f"{bundle.path}: {runs:,} run{'s' * (runs != 1)}, {members:,} members, as of {bundle.as_of}")
    out(f"{bundle.sha256}  {bundle.path.name}")
    out(f"{bundle.verify_sha256}  verify.py")
    say.lines("keep these two SHA-256 elsewhere; to check it: unpack it, then in its folder: python3 -I -S verify.py")
    return printed() or bundle.reason


def _notes(bundle: Bundle) -> list[str]:
    """Return in words what whoever made the bundle must know of it."""
    damaged = [f"damaged: {name}: {why}; it is in the bundle as it is" for name, why in sorted(bundle.damaged.items())]
    missing = [f"missing: {each.what}: {each.why}; next: {each.next}" for each in bundle.missing]
    redacted = [
        f"taken out of {name}: what may be a secret, in line{'s' * (len(lines) > 1)} {', '.join(map(str, lines[:9]))}"
        + (" …" if len(lines) > 9 else "")
        for name, lines in sorted(bundle.redacted.items())
    ]
    kept = [
        f"the journal of run {run} keeps arguments of commands: look that none is a secret" for run in bundle.arguments
    ]
    live = [f"run {run} is live: it is taken up to its last whole line" for run in bundle.live]
    cut_off = [f"run {run} has no end: go on with it, or stay with what it has" for run in bundle.cut_off]
    found = []
    for lines in (damaged, missing, redacted, kept, live, cut_off):
        found += lines[:_SHOWN]
        if len(lines) > _SHOWN:
            found.append(f"… and {len(lines) - _SHOWN:,} more of these (--json lists all)")
    return found


def _document(bundle: Bundle) -> dict[str, Any]:
    """Return the JSON document. Any: JSON values."""
    return {
        "file": str(bundle.path),
        "sha256": bundle.sha256,
        "verify_sha256": bundle.verify_sha256,
        "run": bundle.about.get("run"),
        "ticket": bundle.about.get("ticket"),
        "as_of": bundle.as_of,
        "runs": list(bundle.runs),
        "members": bundle.members,
        "missing": [asdict(each) for each in bundle.missing],
        "damaged": [{"what": name, "why": why} for name, why in sorted(bundle.damaged.items())],
        "live": list(bundle.live),
        "cut_off": list(bundle.cut_off),
        "redacted": [{"member": name, "lines": list(lines)} for name, lines in sorted(bundle.redacted.items())],
        "arguments": list(bundle.arguments),
        "exit": int(bundle.reason),
    }
