"""What acctops' own words mean, where they stand in a plan, a report, a journal or an undo's preview. No I/O."""

from __future__ import annotations

from typing import Final, NamedTuple

from engine.model import OmitReason, Outcome, Proof, Verdict
from engine.planning.outlook import Standing
from engine.planning.undo import Keep


class Sense(NamedTuple):
    """One meaning of a word."""

    kind: str
    """What is called so."""
    means: str
    do: str


_RERUN = "acctops rerun RUN repeats it; acctops report RUN --stuck groups what is open by cause."
_UNDO = "acctops undo RUN shows it again, with what lets it be undone."
_NOTHING = "Nothing."

_OUTCOMES: Final = {
    Outcome.CHANGED: ("The account is as asked, and the run made it so.", "Nothing; acctops undo RUN takes it back."),
    Outcome.ALREADY: ("The account was as asked before the run, which changed nothing.", "Nothing; undo leaves it."),
    Outcome.FAILED: ("The account is not as asked: it was refused, or all tries failed. Its code says why.", _RERUN),
    Outcome.UNKNOWN: ("A request may have been applied, and no reading of the account could tell.", _RERUN),
    Outcome.UNATTEMPTED: ("The run ended before it was sent, or before it was accepted.", "acctops resume RUN."),
}
_VERDICTS: Final = {
    Verdict.DONE: ("The API accepted the request. The account is read back to prove it.", _NOTHING),
    Verdict.ALREADY: ("The API says that the account was as asked before.", _NOTHING),
    Verdict.REJECTED: ("This account cannot be done as asked; the others go on.", "acctops explain CODE, by its code."),
    Verdict.THROTTLED: ("Over the API's quota: sending slows down, and the call is tried again.", _NOTHING),
    Verdict.TRANSIENT: ("Not applied, and tried again for some time.", _NOTHING),
    Verdict.IN_DOUBT: (
        "It may or may not have been applied: the account is read before anything is decided.",
        _NOTHING,
    ),
    Verdict.FATAL: (
        "It would be refused for every account: nothing more is sent.",
        "acctops explain CODE, by its code.",
    ),
}
_PROOFS: Final = {
    Proof.READ: ("A reading of the account shows it.", _NOTHING),
    Proof.BEFORE: ("A reading before the first request shows it.", _NOTHING),
    Proof.CODE: ("Only the API's code says it.", "acctops verify RUN reads the accounts."),
    Proof.ACCEPTED: ("The API accepted the request; nothing was read back.", "acctops verify RUN reads the accounts."),
}
_STANDINGS: Final = {
    Standing.OPEN: ("The account is not as asked: there is something to do.", _NOTHING),
    Standing.ALREADY: ("The account is as asked: nothing is sent for it.", _NOTHING),
    Standing.CHANGING: ("The account is being changed by somebody else; waiting a short time may be enough.", _NOTHING),
    Standing.NO_ACCOUNT: ("The instance has no account of that name.", "Correct the name in the job or the list."),
    Standing.NO_INSTANCE: ("There is no such instance in that region.", "Correct its id, or its region."),
    Standing.CAM_ON: (
        "CAM verification is on, and the API refuses the action then: nothing is sent for it.",
        "acctops explain Local.CamOn.",
    ),
    Standing.UNREAD: (
        "The instance could not be read, so it is not known how the account stands.",
        "acctops doctor JOB.",
    ),
}
_LIST = "Correct the row, then run the job again: what is done stays done."
_OMITS: Final = {
    OmitReason.PROTECTED: ("A protect rule or keep_admins keeps it out.", "acctops plan JOB --all names the rule."),
    OmitReason.EXCLUDED: ("exclude in the job or --exclude keeps it out.", _NOTHING),
    OmitReason.DUPLICATE: ("The job names it more than once; it is done once.", _NOTHING),
    OmitReason.RESERVED: ("The name is one of the system's own, which the API does not let anybody change.", _NOTHING),
    OmitReason.LATER: ("limits.take lets one run change only so many; it waits for a later run.", _NOTHING),
    OmitReason.SKIPPED: ("A match found it; its instance is a replica or not running, or it shows no state.", _NOTHING),
    OmitReason.UNSEEN: (
        "A match asks for it, and it could not be looked at: accounts may be missing.",
        "acctops doctor.",
    ),
    OmitReason.BAD_ROW: ("A row of a list is no target. It counts as failed.", _LIST),
    OmitReason.RERUN: ("A later rerun has it, and does it.", "acctops status RUN names that rerun."),
    OmitReason.DROPPED: (
        "Somebody took it out of the live run (change --drop). It counts as failed.",
        "If it is wanted after all: run the job again, what is done stays done.",
    ),
    OmitReason.BEFORE_UNKNOWN: ("It is not known how the account was before the run, so undo leaves it.", _UNDO),
    OmitReason.EDITED: ("Somebody has edited the account since, so undo leaves it.", _UNDO),
    OmitReason.GONE: ("The account or its instance does not exist any more, so undo leaves it.", _UNDO),
    OmitReason.HELD: (
        "Another run holds the account: the hold of the undone run ends, and the account stays as it is.",
        "acctops holds names that run; its undo opens the account.",
    ),
    OmitReason.UNPROVEN: ("It is not known whether the run changed the account, so undo leaves it.", _UNDO),
}
_KEPT: Final = {
    Keep.NOT_CHANGED: ("The run did not change the account: there is nothing to undo.", _NOTHING),
    Keep.CHANGED_SINCE: ("Its lock or CAM state is not as the run left it any more.", _NOTHING),
    Keep.NOT_ROTATED: ("--rotated: its password has not been changed since the run.", "Change it, then repeat undo."),
    Keep.NOT_ASKED: ("--target or --exclude leaves it out.", _NOTHING),
    Keep.UNREAD: ("Its instance cannot be read now, or not to the end of its list.", "Repeat undo; acctops doctor."),
}
_WORKERS: Final = {
    "worker": (
        "A process that carries out runs which were handed over to a database, together with others on other hosts.",
        "acctops worker --database URL; acctops schedule --worker keeps it going.",
    ),
    "shard": (
        "A part of a run for workers: whole instances, at most 10,000 calls, with a hash chain of its own.",
        _NOTHING,
    ),
    "session": (
        "One process at work on a run; a worker has one for each lane, and one for each run that it leads.",
        "acctops status RUN shows how the run stands, whoever has it.",
    ),
    "epoch": (
        "Number of who has a run of a database, raised by whoever takes it; who has an older one sends nothing more.",
        _NOTHING,
    ),
    "permit": (
        "Leave to send for a second, counted from the request; without an answer of the database nothing is sent.",
        "acctops doctor looks at the database.",
    ),
}
_HOLDS: Final = {
    "hold": (
        "A run holds what it locked, and what it found locked: no undo of another run opens these accounts.",
        "acctops undo RUN gives them back; acctops release RUN only ends the hold.",
    ),
    "owed": (
        "The account stays as the run left it, and nobody holds it any more: a person should open it.",
        "acctops holds --owed prints the undo that opens it.",
    ),
    "due": (
        "The limit of a hold has passed.",
        "acctops holds --due names the accounts; acctops tend does what `then` says.",
    ),
    "released": (
        "The hold was ended and nothing was sent: the account stays as it was.",
        "acctops holds --owed lists those that nobody holds any more.",
    ),
    "limit": (
        "The time at which a hold ends: --for, --until, or `hold` in a job.",
        "acctops hold RUN --for 4h sets another, --none takes it away.",
    ),
    "tell": ("When the limit has passed, a person is told, and nothing is changed.", "acctops undo RUN, or hold RUN."),
    "unlock_rotated": (
        "When the limit has passed, only accounts whose password was changed after the lock are opened.",
        "Change the passwords; acctops undo RUN opens the others.",
    ),
    "tend": (
        "The command that a timer starts every few minutes: it ends holds, reads watched accounts again, and tells.",
        "acctops schedule --tend --format systemd prints its timer; acctops overdue --tend checks it.",
    ),
    "watch": (
        "The accounts of a run are read again later, and those that came back are told.",
        "acctops status RUN shows how its watch stands.",
    ),
    "back": (
        "A watched account is no longer as the run left it, and no run here did that.",
        "Find out who did it; acctops rerun RUN does it again.",
    ),
    "opened": ("A run here has opened the account again: its limit has passed, or somebody asked.", _NOTHING),
    "told": ("`tend` has told those whom `notify` names, once.", "Read what stands behind it."),
    "waits": ("The limit has passed, and the account is not opened yet.", "It says what it waits for."),
    "stays": (
        "An undo, or `tend`, leaves the account as it is; the reason stands behind it.",
        "acctops explain, with that reason, such as held or edited.",
    ),
}
"""Words about holds, and what is done after a run: in `holds`, `status`, `tend` and the preview of an undo."""
_GATE = "acctops status RUN says why; acctops resume RUN asks the gate again."
_WAVES: Final = {
    "wave": ("A part of a run, which must prove itself before the next part begins.", "acctops plan JOB shows them."),
    "gate": (
        "The program that says whether a wave may be followed by the next: green or red.",
        "It is named in the job.",
    ),
    "soak": ("The time that a wave gets to prove itself, once all of it is changed and read.", _NOTHING),
    "soaking": (
        "A wave is changed and read, and its time to prove itself is not over.",
        "acctops status RUN says until.",
    ),
    "green": ("The gate says that all is well: the next wave may begin.", _NOTHING),
    "red": (
        "The gate says that all is not well: nothing more is sent. Earlier waves stay.",
        "Find out why; acctops undo RUN --wave N takes the wave back, acctops resume RUN asks the gate again.",
    ),
    "silent": ("The gate said no word that counts: it failed, or took too long. Nothing more is sent.", _GATE),
    "passed": ("All of the wave is as asked, its soak is over, and the gate is green.", _NOTHING),
    "planned": ("The wave has not begun.", _NOTHING),
    "begun": ("Calls of the wave may be sent.", _NOTHING),
}
"""Words about waves: in a plan, `status` and a report."""
_EXITS: Final = {
    "0": ("Every selected account is as asked.", _NOTHING),
    "1": ("It went to its end; some accounts failed, or are unknown.", "Take the command behind `go on:`."),
    "2": ("The command line, a config, a job or a list is wrong; nothing was sent.", "Correct what the message names."),
    "3": ("A guard refused, or nobody confirmed; nothing was sent.", "Read which guard; run it again."),
    "4": ("It stopped early: failures, deadline, a fatal code, the disk.", "acctops resume RUN."),
    "5": ("Keys or permission were refused before anything was accepted.", "acctops doctor JOB."),
    "6": ("Another process holds this run, or runs the same job.", "Wait for it, or acctops stop RUN."),
    "7": ("The journal is corrupt or was tampered with.", "acctops journal verify RUN names the line."),
    "130": ("Ctrl-C ended it in order.", "acctops resume RUN."),
    "143": ("SIGTERM ended it in order.", "acctops resume RUN."),
}
_SHOWN: Final = {"holds": "hold", "release": "released", "limits": "limit", "watched": "watch", "waves": "wave"} | {
    "no_such_instance": "no_instance",
    "no_such_account": "no_account",
    "not_read_yet": "unread",
}
"""Words as a plan shows them → the word."""
_TABLES: Final = (
    ("an outcome of a call", _OUTCOMES),
    ("how an account stands before the run", _STANDINGS),
    ("why an account is left out", _OMITS),
    ("why an undo leaves an account", _KEPT),
    ("what the answer to one request means", _VERDICTS),
    ("what an outcome rests on", _PROOFS),
)


def senses(word: str) -> tuple[Sense, ...]:
    """Return what a word of ours means; empty if it is none. Case, blanks and hyphens do not matter."""
    folded = "_".join(word.lower().replace("-", " ").replace("_", " ").split())
    folded = _SHOWN.get(folded, folded)
    folded = folded.removeprefix("stays,_") or folded
    found = tuple(Sense(kind, *row) for kind, table in _TABLES for each, row in table.items() if each.value == folded)
    more = (("holds, and what comes after a run", _HOLDS), ("waves of a run", _WAVES), ("runs of a database", _WORKERS))
    return (*found, *(Sense(kind, *row) for kind, table in more for row in _some(table.get(folded))))


def _some(row: tuple[str, str] | None) -> tuple[tuple[str, str], ...]:
    return (row,) if row is not None else ()


def words() -> tuple[str, ...]:
    """Return all of them."""
    return tuple(dict.fromkeys([*(each.value for _, table in _TABLES for each in table), *_HOLDS, *_WAVES, *_WORKERS]))


def explained(word: str) -> str | None:
    """Return what a word of ours means, as text for a person; None if it is none."""
    found = senses(word)
    if (code := word.lower().removeprefix("exit").strip()) in _EXITS:
        found = (Sense("an exit code of acctops", *_EXITS[code]),)
    if not found:
        return None
    lines = [word, "acctops' own word, no code of the API:"]
    for sense in found:
        lines += ["", sense.kind, f"  means    {sense.means}", f"  do       {sense.do}"]
    return "\n".join(lines)
