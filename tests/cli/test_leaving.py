"""What is said of a command that a signal ends outside of any session."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine.cli.leaving import interrupted_words, note_run, stay


def test_nothing_was_sent_is_said_only_where_it_is_so() -> None:
    """Who presses Ctrl-C while the report is printed must not read that nothing was done."""
    assert interrupted_words("interrupted") == "interrupted before anything was sent"
    note_run("20261128T000000Z-abcd")
    assert interrupted_words("terminated") == (
        "terminated; what run 20261128T000000Z-abcd did is recorded: acctops status 20261128T000000Z-abcd"
    )
    stay()
    assert interrupted_words("interrupted") == "interrupted before anything was sent"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("verb", ["plan", "run", "doctor"])
def test_a_name_server_that_never_answers_keeps_no_command(tmp_path: Path, verb: str, number: int) -> None:
    """The look-up of a name holds a thread that nothing can wake; one signal ends the command all the same."""
    job = tmp_path / "job.yaml"
    job.write_text("action: LockAccount\nregion: ap-singapore\ntargets:\n  - postgres-00000000/a\n")
    hangs = (
        "import socket, sys, threading\n"
        "def hang(*_args, **_more):\n"
        "    print('ASKED', flush=True)\n"
        "    threading.Event().wait()\n"
        "socket.getaddrinfo = hang\n"
        "from engine.cli import entry\n"
        "entry()\n"
    )
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "ACCTOPS_STATE_DIR": str(tmp_path / "state"),
        "TENCENTCLOUD_SECRET_ID": "AKIDEXAMPLE",
        "TENCENTCLOUD_SECRET_KEY": "no-key-of-any-cloud",
    }
    with subprocess.Popen(
        [sys.executable, "-c", hangs, verb, str(job), "--endpoint", "https://api.invalid"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env=environment,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert any("ASKED" in line for line in process.stdout), process.stderr.read()
        process.send_signal(number)
        try:
            _, words = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 128 + number
    assert "before anything was sent" in words
