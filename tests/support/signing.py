"""People with SSH keys, a file of those who may sign, and a config that asks for them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import Desk, Done

needs_ssh_keygen = pytest.mark.skipif(
    shutil.which("ssh-keygen") is None, reason="ssh-keygen is not here; it signs and checks approvals"
)


class People:
    """Who signs at a desk. Ana asks, Bob and Eve approve; all three stand in the file of signers."""

    def __init__(self, desk: Desk, **approvals: Any) -> None:
        self.desk = desk
        self.place = desk.place / "keys"
        self.place.mkdir()
        self.signers = desk.place / "etc" / "allowed_signers"
        self.signers.parent.mkdir()
        for name in ("ana", "bob", "eve", "mallory"):
            make_key(self.place / name)
        self.allow("ana", "bob", "eve")
        self.ask(**approvals)

    def key(self, name: str) -> Path:
        """The file of somebody's private key."""
        return self.place / name

    def line(self, name: str, options: str = "", principal: str = "") -> str:
        """A line of the file of signers."""
        public = self.place.joinpath(f"{name}.pub").read_text().strip()
        return f"{principal or name} {options}{' ' if options else ''}{public}"

    def allow(self, *names: str, lines: tuple[str, ...] = ()) -> None:
        """From now on these may sign."""
        if self.signers.exists():
            self.signers.chmod(0o644)
        self.signers.write_text("\n".join([*map(self.line, names), *lines]) + "\n")
        self.signers.chmod(0o444)

    def ask(self, **approvals: Any) -> None:
        """From now on the config beside the jobs asks for this."""
        said = {"actions": "LockAccount", "above": 2, "signers": self.signers, **approvals}
        text = ", ".join(f"{name}: {value}" for name, value in said.items() if value is not None)
        self.desk.write("config.yaml", f"approvals: {{{text}}}\n")

    def save(self, job: Path, plan: str = "plan.json", who: str = "ana", **options: Any) -> Done:
        return self.desk.run("plan", job, "--save", plan, "--key", self.key(who), **options)

    def approve(self, plan: str = "plan.json", who: str = "bob", **options: Any) -> Done:
        return self.desk.run("approve", plan, "--key", self.key(who), "--yes", **options)

    def apply(self, plan: str = "plan.json", *more: str, **options: Any) -> Done:
        return self.desk.run("apply", plan, "--yes", *more, **options)


def make_key(path: Path) -> None:
    """Make an SSH key without a passphrase."""
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", str(path)]
    subprocess.run(argv, check=True, timeout=30)
