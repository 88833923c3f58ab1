"""Plans, signatures, expiries, edits, replays in any order: what is sent, two different keys have signed byte for byte.

`Book` knows only who signed which bytes and when: it reads the files itself, and asks nothing of the engine. After each
command the server's own record of it must be what the book allows.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest

from engine.model import call_id
from engine.simulator.world import World
from tests.support.command import Backend, Desk, Done
from tests.support.signing import People, needs_ssh_keygen

pytestmark = needs_ssh_keygen

EVERY = [("postgres-aaaaaaaa", "ann"), ("postgres-aaaaaaaa", "bob"), ("postgres-bbbbbbbb", "eve")]
SIGNERS = ["ana", "bob", "eve"]
STORIES = int(os.environ.get("ACCTOPS_APPROVAL_STORIES", "6"))
STEPS = 50
DEEDS = [
    *("save", "approve", "approve", "approve", "apply", "apply", "apply", "whole", "whole", "whole"),
    *("edit", "copy", "mix", "run", "resume", "rerun", "undo", "wait", "wait", "who_may", "opened"),
    *("hold", "tend", "tend", "undo_due", "elsewhere"),
]
HOLDS = ["", "hold: {for: 1h, then: tell}", "hold: {for: 1h, then: unlock}"]
LATER = "UnlockAccount when its hold ends"
HOUR = 3600.0
OPEN = 2
"""Status of an account that is not locked."""
Sent = set[tuple[str, str, str]]
"""Action, instance and user."""


def named(plan: object) -> str:
    """The hash of a plan, by the page's words alone."""
    return hashlib.sha256(json.dumps(plan, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass
class Book:
    """Who signed which bytes."""

    allowed: set[str] = field(default_factory=lambda: set(SIGNERS))
    signed: dict[tuple[str, str], str] = field(default_factory=dict)
    """Statement and signature → who made it."""
    used: set[str] = field(default_factory=set)
    later: list[tuple[Sent, set[str], float]] = field(default_factory=list)
    """What machines may send later, who has signed that, and from when on."""

    def note(self, path: Path, who: str) -> None:
        """Somebody has just signed what stands in a file."""
        for each in json.loads(path.read_text())["statements"]:
            self.signed.setdefault((each["statement"], each["signature"]), who)

    def signers(self, file: Any, name: str, now: float, *words: str) -> set[str]:
        """Whose signatures of a plan count now, of statements with these words."""
        who = set()
        for each in file["statements"]:
            person = self.signed.get((each["statement"], each["signature"]))
            if person is None or person not in self.allowed:
                continue
            said = json.loads(each["statement"])
            is_now = datetime.fromisoformat(said["not_after"]).timestamp() > now
            if said["plan"] == name and is_now and set(words) <= set(said["then"]):
                who.add(person)
        return who

    def may_apply(self, path: Path, now: float) -> Sent:
        """What may be sent by this file; empty if nothing may."""
        try:
            file = json.loads(path.read_text())
            name = named(file["plan"])
        except (ValueError, KeyError):
            return set()
        if len(self.signers(file, name, now)) < 2 or name in self.used:
            return set()
        return {(file["plan"]["action"], each["instance"], each["user"]) for each in file["plan"]["calls"]}

    def note_applied(self, path: Path, now: float) -> None:
        """A plan was applied: it is used up, and its signatures may let machines do something later."""
        file = json.loads(path.read_text())
        name = named(file["plan"])
        self.used.add(name)
        opens = {("UnlockAccount", each["instance"], each["user"]) for each in file["plan"]["calls"]}
        self.later.append((opens, self.signers(file, name, now, LATER), now + HOUR))

    def may_later(self, now: float) -> Sent:
        """What machines may send now."""
        counts = (opens for opens, who, at in self.later if at <= now and len(who & self.allowed) >= 2)
        return set().union(*counts)


class Story:
    """One desk, and people who do this and that."""

    def __init__(self, place: Path, seed: int) -> None:
        self.rng = Random(seed)
        self.desk = Desk(place)
        self.people = People(self.desk, above=0, actions="[LockAccount, UnlockAccount]")
        self.book = Book()
        self.ahead_s = 0.0
        self.world = World(quotas={"*": None})
        for instance in dict.fromkeys(instance for instance, _ in EVERY):
            self.world.seed(instance, "ap-singapore", [user for where, user in EVERY if where == instance])
        self.plans: list[Path] = []
        self.jobs = [
            self.desk.job(
                *(f"{instance}/{user}" for instance, user in EVERY[: 1 + at]), name=f"job{at}.yaml", extra=extra
            )
            for at, extra in enumerate(HOLDS)
        ]

    def now(self) -> float:
        return time.time() + self.ahead_s

    def some(self) -> Path | None:
        return self.rng.choice(self.plans[-3:]) if self.plans else None

    def who(self) -> str:
        return self.rng.choice([*SIGNERS * 4, "mallory"])

    def new(self) -> Path:
        self.plans.append(self.desk.work / f"plan{len(self.plans)}.json")
        return self.plans[-1]

    def step(self, backend: Backend) -> None:
        before = len(backend.writes())
        name = self.rng.choice(DEEDS)
        may_send: Sent = getattr(self, name)() or set()
        sent = {(each.action, each.instance, each.user) for each in backend.writes()[before:]}
        assert sent <= may_send, f"{name} sent {sent - may_send}"

    # ---- what people do: each returns what may be sent meanwhile -------------------------------------------------

    def save(self) -> None:
        path = self.desk.work / f"plan{len(self.plans)}.json"
        who = self.who()
        done = self.people.save(self.rng.choice(self.jobs), str(path), who, at=self.now())
        assert (done.code == 0) == (who in self.book.allowed) == path.exists(), done.text
        if path.exists():
            self.plans.append(path)
            self.book.note(path, who)

    def approve(self, path: Path | None = None) -> None:
        if (path := path or self.some()) is not None:
            who = self.who()
            if self.people.approve(str(path), who, at=self.now()).code == 0:
                self.book.note(path, who)

    def whole(self) -> Sent:
        """A plan goes its way, and somebody applies it once more, also from a copy of its file."""
        self.save()
        if not self.plans:
            return set()
        path = self.plans[-1]
        self.approve(path)
        self.approve(path)
        if self.rng.randrange(3) == 0:
            self.rng.choice([self.wait, self.who_may])()
        copy = self.new()
        copy.write_bytes(path.read_bytes())
        return self.apply(path) | self.apply(self.rng.choice([path, copy]))

    def apply(self, path: Path | None = None) -> Sent:
        if (path := path or self.some()) is None:
            return set()
        now = self.now()
        may = self.book.may_apply(path, now)
        done = self.people.apply(str(path), at=now)
        assert (done.code == 0) == bool(may), (may, done.text)
        if done.code == 0:
            self.book.note_applied(path, now)
        return may

    def edit(self) -> None:
        """Somebody changes a copy of a file as he likes, and well enough that it agrees with itself."""
        if (path := self.some()) is None:
            return
        file: dict[str, Any] = json.loads(path.read_text())
        path = self.new()
        kind = self.rng.randrange(7)
        if kind == 5:  # one account less, and the digest of what is left
            file["plan"]["calls"] = file["plan"]["calls"][:1]
            self.seal(file["plan"])
        elif kind == 6:  # another account
            file["plan"]["calls"][0]["user"] = "eve"
            self.seal(file["plan"])
        elif kind == 0:
            file["plan"]["reason"] = self.rng.choice(["why not", None, "x"])
        elif kind == 1 and file["statements"]:
            each = self.rng.choice(file["statements"])
            said = json.loads(each["statement"])
            said["not_after"] = "2099-01-01T00:00:00.000Z"
            each["statement"] = json.dumps(said, sort_keys=True, separators=(",", ":"))
        elif kind == 2 and file["statements"]:
            file["statements"].append(dict(file["statements"][0]))
        elif kind == 3 and file["statements"]:
            file["statements"].pop()
        else:
            file["plan"]["made_at"] = "2026-01-01T00:00:00.000Z"
        path.write_text(json.dumps(file, indent=self.rng.choice([None, 4])))

    def seal(self, plan: dict[str, Any]) -> None:
        ids = (call_id(each["account"], each["region"], each["instance"], each["user"], plan["action"])
               for each in plan["calls"])  # fmt: skip
        plan["plan_digest"] = hashlib.sha256("\n".join(ids).encode()).hexdigest()

    def copy(self) -> None:
        if (path := self.some()) is not None:
            self.new().write_bytes(path.read_bytes())

    def mix(self) -> None:
        """Signatures of one plan are put to another."""
        one, other = self.some(), self.some()
        if one is not None and other is not None:
            file, from_there = json.loads(one.read_text()), json.loads(other.read_text())
            file["statements"] += from_there["statements"][:2]
            self.new().write_text(json.dumps(file))

    def run(self) -> None:
        self._refused(self.desk.run("run", self.rng.choice(self.jobs), "--yes", at=self.now()))

    def resume(self) -> None:
        if self.desk.journals():
            self.desk.run("resume", self._latest(), "--yes", at=self.now())

    def rerun(self) -> None:
        if self.desk.journals():
            self.desk.run("rerun", self._latest(), "--yes", at=self.now())

    def undo(self) -> None:
        if self.desk.journals():
            self.desk.run("undo", self._latest(), "--yes", at=self.now())

    def hold(self) -> None:
        """Somebody alone changes the end of a hold."""
        if self.desk.journals():
            ends = [
                ("--for", "1m"),
                ("--for", "1m", "--then", "unlock"),
                ("--for", "2h", "--then", "unlock"),
                ("--none",),
            ]
            self.desk.run("hold", self._any(), *self.rng.choice(ends), "--reason", "alone", at=self.now())

    def tend(self) -> Sent:
        may = self.book.may_later(self.now())
        done = self.desk.run("tend", at=self.now())
        assert done.code == 0, done.text
        return may

    def undo_due(self) -> Sent:
        """A person does by hand what `tend` does, or more."""
        may = self.book.may_later(self.now())
        if self.desk.journals():
            more = self.rng.choice([(), ("--family",), ("--include-edited",), ("--rotated",)])
            self.desk.run("undo", self._any(), "--due", *more, "--yes", at=self.now())
        return may

    def elsewhere(self) -> None:
        """Somebody copies the state directory, and sends from the copy, or from a new one."""
        other = self.desk.place / f"copy{self.rng.randrange(10**9)}"
        if self.desk.state.exists() and self.rng.randrange(2):
            shutil.copytree(self.desk.state, other)
        there = ("--state-dir", str(other))
        if (path := self.some()) is not None:
            assert self.people.apply(str(path), *there, at=self.now()).code != 0
        if self.desk.journals() and other.exists():
            self.desk.run("resume", self._latest(), *there, "--yes", at=self.now())

    def opened(self) -> None:
        """Somebody opens all accounts in the console."""
        for where, user in EVERY:
            instance = self.world.instance(where)
            assert instance is not None
            instance.accounts[user].status = OPEN

    def wait(self) -> None:
        self.ahead_s += self.rng.choice([60.0, 600.0, 2000.0, HOUR])

    def who_may(self) -> None:
        """Somebody leaves, or comes back."""
        self.book.allowed = {*SIGNERS} - {self.rng.choice([*SIGNERS, "nobody"])}
        self.people.allow(*sorted(self.book.allowed))

    def _refused(self, done: Done) -> None:
        assert done.code == 3, done.text

    def _any(self) -> str:
        return self.rng.choice(self.desk.journals()).parent.name

    def _latest(self) -> str:
        return self.desk.journals()[-1].parent.name


@pytest.mark.parametrize("seed", range(STORIES))
def test_nothing_is_sent_that_two_keys_have_not_signed(tmp_path: Path, seed: int) -> None:
    """And what two have signed, and still may, is sent once."""
    story = Story(tmp_path, seed)
    with Backend(story.world) as backend:
        story.desk.env["ACCTOPS_ENDPOINT"] = backend.endpoint
        for _ in range(STEPS):
            story.step(backend)
        assert story.book.used, "a story in which nothing is sent shows nothing"
        story.book.allowed = set(SIGNERS)
        story.people.allow(*SIGNERS)
        fresh = story.desk.work / "fresh.json"
        assert story.people.save(story.jobs[-1], str(fresh), at=story.now()).code == 0
        assert story.people.approve(str(fresh), at=story.now()).code == 0
        assert story.people.apply(str(fresh), at=story.now()).code == 0, (
            "no story ends with a gate that nobody can pass"
        )
