"""The `doctor` command: what would stop a run, found before the run."""

from __future__ import annotations

import json
from typing import Any

from engine.cli.loops import run_loop
from engine.cli.options import options_of
from engine.cli.talk import out, out_json
from engine.operations.examine import examine


def show_checks(job_path: str | None, *, policy: bool = False, **flags: Any) -> int:
    """The `doctor` command; `policy`: print what CAM must allow, asked for or not. Any: the flags, by name."""
    options = options_of(flags)
    found = run_loop(examine(options, job_path, policy=policy))
    if options.as_json:
        rows = [{"check": check.name, "result": check.result, "words": check.words} for check in found.checks]
        out_json({"checks": rows, "policy": found.policy, "exit": int(found.reason)})
        return found.reason
    for check in found.checks:
        out(f"{check.result:4}  {check.name}: {check.words}")
    for account, document in found.policies.items():
        whose = f" in {account}" if account else ""
        out(f"\nWhat CAM must allow for this job{whose}, at least; paste it as a custom policy of the user or role:\n")
        out(json.dumps(document, indent=2))
    return found.reason
