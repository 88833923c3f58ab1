"""A worker as a process of its own: sessions that say that they began, and end when they are told to."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

from engine.journal.database.dispatch import Dispatcher

ROOT = Path(__file__).parents[2]


class Worker:
    """One that was started; `began` says which lanes' sessions began in it, in their order."""

    def __init__(self, url: str, name: str, place: Path) -> None:
        self.name = name
        self.log = place / f"{name}.log"
        self.log.touch()
        self.errors = place / f"{name}.err"
        with self.errors.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.dispatching", url, name, str(self.log)],
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stdout=err,
                stderr=err,
            )

    @property
    def said(self) -> list[str]:
        return self.log.read_text().splitlines()

    @property
    def began(self) -> list[str]:
        return [line.removeprefix("began ") for line in self.said if line.startswith("began ")]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)

    def end(self) -> int:
        """SIGTERM: its sessions are told, it drains and stops; its exit code."""
        self.process.terminate()
        return self.process.wait(60)


async def _main(url: str, name: str, log: str) -> None:
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)

    def say(words: str) -> None:
        with Path(log).open("a") as file:
            file.write(words + "\n")

    async def session(key: str) -> None:
        say(f"began {key}")
        await told.wait()

    worker = Dispatcher(url, name, lanes=session, runs=session, queues=["q"], most_lanes=1000, say=say)
    await worker.start()
    say("ready")
    await told.wait()
    await worker.drain()
    await worker.stop()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
