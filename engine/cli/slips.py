"""What to type instead of a command or a flag that acctops does not have: words of other tools, and near names."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from engine.api.actions import ACTIONS
from engine.api.names import did_you_mean, nearest
from engine.inputs.jobfile.layout import is_list, list_words
from engine.outside.foreign import pasted

_JOBS = (".yaml", ".yml")
_COMMANDS = {
    "status": "ls list ps show runs history",
    "plan": "preview dry-run dryrun check validate diff lint",
    "run": "apply start exec execute go begin",
    "resume": "continue",
    "rerun": "retry repeat redo",
    "undo": "rollback roll-back revert restore back",
    "pause": "hold-on wait suspend-run",
    "stop": "kill cancel abort halt",
    "explain": "error code",
    "lock": "freeze block suspend",
    "unlock": "unfreeze unblock",
    "cam-on": "cam-enable enable-cam open-cam cam-open",
    "--help": "help",
    "--version": "version",
}
"""Command → words of other tools for the same."""
_CAM_OFF = re.compile("cam.*(off|clos|disabl)|(clos|disabl|no|un).*cam").search
_AGREE = (
    "--yes --force -f -y --assume-yes --assumeyes --no-confirm --noconfirm --non-interactive --auto-approve --confirm"
)
_LOOK = "--dry-run --dryrun --dry -n --check --what-if --whatif --noop --no-op --preview --plan --just-print --diff"
_OUTPUT = "--output -o --out --format -j"
_FLAGS = {each: wanted for wanted, words in (("yes", _AGREE), ("look", _LOOK), ("output", _OUTPUT)) for each in
          words.split()}  # fmt: skip
_LOOKS_FIRST = {
    "run": "`acctops plan JOB` shows what it would do, and sends nothing",
    "lock unlock cam-on resume rerun undo": "without --yes it shows what it would do and asks before it sends anything",
}
_NEVER_SEND = ("plan", "discover", "doctor", "status", "report", "verify", "explain", "overdue")
_SIMULATION = ("--simulate", "--simulated", "--faults", "--fleet")
_AFTERWARDS = {
    **dict.fromkeys(("--for", "--until", "--then"), "hold: {for: 4h, then: tell}"),
    "--watch": "watch: {after: [5m, 30m], every: 1d, for: 30d}",
}
_ENDS = ("--hold", "--ttl", "--expires", "--expire", "--expiry", "--duration")
_GOES_ON = ("resume", "rerun", "undo")


def instead_of_command(word: str, known: Collection[str]) -> str:
    """Return what to type instead of a command that does not exist, as the end of a message; empty if nobody knows."""
    folded = word.lower().replace("_", "-")
    if _CAM_OFF(folded) and not is_list(word) and not folded.endswith(_JOBS):
        return "; CAM is turned off by a job with `action: CloseAccountCAM`, as it sets a new password for each account"
    for action, row in ACTIONS.items():
        if folded == action.lower():
            return f"; type acctops {row.command}" if row.command else f"; write a job with `action: {action}`"
    if (meant := next((ours for ours, words in _COMMANDS.items() if folded in words.split()), None)) is not None:
        return f"; type acctops {meant}"
    if is_list(word):
        return f"; it is {list_words(word.removeprefix('@'))}"
    if word.lower().endswith(_JOBS) or ("/" in word and Path(word).is_file()):
        job = pasted((word,))
        return f"; type acctops plan {job} to look, acctops run {job} to send"
    if re.fullmatch(r"[^/\s]+/[^/\s]+", word):
        return f"; type acctops lock {pasted((word,))} --region R"
    if re.fullmatch(r"latest(:.*)?|\d{8}T\d{4,6}Z?(-\w*)?", word):
        return f"; type acctops status {pasted((word,))}"
    return did_you_mean(word, known)


def instead_of_flag(command: str, flag: str, known: Collection[str]) -> str:
    """Return what to type instead of a flag that a command does not have; empty if nobody knows."""
    wanted = _FLAGS.get(flag)
    if wanted == "yes" and "--yes" in known:
        return "; type --yes: it answers the question before anything is sent"
    if flag in _SIMULATION and command in ("plan", "discover", "doctor"):
        return f"; {command} never sends; type acctops run JOB --simulate"
    if flag in _SIMULATION and command in _GOES_ON:
        return f"; a run of --simulate stays simulated: {command} of it sends nothing"
    if wanted in ("yes", "look"):
        if command in _NEVER_SEND:
            return f"; {command} sends nothing in any case"
        return next((f"; {words}" for names, words in _LOOKS_FIRST.items() if command in names.split()), "")
    if wanted == "output" and "--json" in known:
        return "; type --json" + (" or --format" if "--format" in known else "")
    if flag in ("--job", "--file", "--run", "--instance", "--user", "--targets"):
        return "; it is named without a flag"
    if flag == "--region" and command in ("run", "plan"):
        return "; the job says it: region: ap-singapore"
    if flag in _AFTERWARDS and command in ("run", "plan"):
        return f"; the job says it: {_AFTERWARDS[flag]}"
    if flag in _ENDS and "--for" in known:
        return "; type --for or --until"
    meant = nearest(flag.lstrip("-"), [each[2:] for each in known if each.startswith("--")])
    return f"; did you mean --{meant}?" if meant else ""
