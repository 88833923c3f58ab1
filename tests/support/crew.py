"""Workers as processes of their own, beside a server and a database, and the desk of who gives them runs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.journal.database.dispatch import migrate_dispatch
from engine.journal.database.link import close_links
from engine.journal.database.slots import close_askers
from engine.simulator.world import World
from tests.support.command import Backend, Desk, Done, wait_until
from tests.support.postgres import Postgres


class Worker:
    """A worker that was started."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log

    @property
    def said(self) -> str:
        return self.log.read_text()

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(30)

    def end(self) -> int:
        """SIGTERM; its exit code."""
        self.process.terminate()
        return self.process.wait(60)


class Crew:
    """A desk whose runs workers carry out."""

    def __init__(self, desk: Desk, backend: Backend, postgres: Postgres) -> None:
        self.desk = desk
        self.backend = backend
        self.postgres = postgres
        self.url = postgres.fresh()
        self.database = self.url.rsplit("/", 1)[-1]
        migrate_dispatch(postgres.url(self.database))
        self.workers: list[Worker] = []
        desk.env["ACCTOPS_DATABASE"] = self.url
        desk.env["ACCTOPS_ENDPOINT"] = backend.endpoint

    # ---- workers -----------------------------------------------------------------------------------------------------

    def worker(self, *flags: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None) -> Worker:
        """Start a worker, and wait until it is ready."""
        log = self.desk.place / f"worker{len(self.workers)}.log"
        with log.open("wb") as file:
            process = self.desk.popen(
                "worker", "--lanes", "8", *flags, stdout=file, stderr=file, env=self.desk.env | (env or {}),
                cwd=cwd or self.desk.work,
            )  # fmt: skip
        found = Worker(process, log)
        self.workers.append(found)
        wait_until(lambda: "ready: worker" in found.said or process.poll() is not None)
        assert process.poll() is None, found.said
        wait_until(lambda: self.sql("select count(*) from acctops.worker")[0][0] >= 1)
        return found

    def leader(self, run: str) -> Worker:
        """Return the worker that leads a run."""

        def found() -> list[Worker]:
            return [
                worker
                for worker in self.workers
                if worker.process.poll() is None
                and worker.said.count(f"run {run}: led here") > worker.said.count(f"run {run}: no more led here")
            ]

        wait_until(lambda: bool(found()))
        return found()[0]

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()
        close_askers()
        close_links()

    # ---- what is in the database -------------------------------------------------------------------------------------

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """Any: what the columns are."""
        return self.postgres.sql(self.database, statement)

    def runs(self) -> list[str]:
        return [str(run) for (run,) in self.sql("select id from acctops.run order by created_at, id")]

    def records(self, run: str, kind: str | None = None, *, no: int | None = None) -> list[dict[str, Any]]:
        """The lines of a run's chains in the order of their commits. Any: JSON."""
        lines = b"".join(
            bytes(block)
            for (block,) in self.sql(
                f"select lines from acctops.batch where run = '{run}' and no >= 0 "
                f"{f'and no = {no}' if no is not None else ''} order by place"
            )
        )
        found = [json.loads(line) for line in lines.splitlines()]
        return [record for record in found if kind is None or record["kind"] == kind]

    def notes(self, run: str, *whats: str) -> list[dict[str, Any]]:
        """Notes of the run's own chain. Any: JSON."""
        return [note for note in self.records(run, "note", no=0) if not whats or note["what"] in whats]

    def wait_for(self, run: str, kind: str, count: int = 1, **facts: object) -> None:
        """Wait until the chains of a run have so many records of a kind."""

        def there() -> bool:
            found = [r for r in self.records(run, kind) if all(r.get(key) == fact for key, fact in facts.items())]
            return len(found) >= count

        wait_until(there)

    def ends(self, run: str) -> list[dict[str, Any]]:
        """The ends of the run itself. Any: JSON."""
        return self.records(run, "end", no=0)

    def wait_for_end(self, run: str, count: int = 1) -> dict[str, Any]:
        """Wait until a run has ended so many times and is given up by its workers; the last end. Any: JSON."""

        def over() -> bool:
            return len(self.ends(run)) >= count and not self.is_submitted(run)

        wait_until(over)
        return self.ends(run)[-1]

    def is_submitted(self, run: str) -> bool:
        return bool(self.sql(f"select submitted from acctops.run where id = '{run}'")[0][0])

    # ---- commands ----------------------------------------------------------------------------------------------------

    def run(self, *words: object, code: int | None = None, **more: Any) -> Done:
        """A command in this process. Any: as `Desk.run`."""
        done = self.desk.run(*map(str, words), **more)
        assert code is None or done.code == code, done.text
        return done

    def job(self, instances: int = 3, users: int = 4, *, action: str = "LockAccount", extra: str = "") -> Path:
        """A job of so many accounts."""
        names = [f"postgres-{at:08}/user{each}" for at in range(instances) for each in range(users)]
        return self.desk.job(*names, action=action, extra=extra)

    def begin(self, *words: str) -> str:
        """Leave the run of job.yaml to the workers; its name."""
        before = set(self.runs())
        self.run("run", "job.yaml", "--yes", "--detach", *words, code=0)
        (run,) = set(self.runs()) - before
        return run

    def verify(self, run: str) -> None:
        """The journal holds, and covers what the server saw."""
        self.run("journal", "verify", run, code=0)


@contextmanager
def crew_of(desk: Desk, postgres: Postgres, world: World | None = None, *, ports: int = 1) -> Iterator[Crew]:
    """A crew without workers yet, beside a server of its own."""
    with Backend(world or World(latency=0), ports=ports) as backend:
        crew = Crew(desk, backend, postgres)
        try:
            yield crew
        finally:
            crew.close()
