"""The run files. The journal of a run is the only truth after a crash; nothing else writes below `runs/`.

`protocols` is what the rest of the engine knows of runs that are kept; files are one way to keep them. `lines` is one
record as one line, and the chain (pure). `reader` replays and verifies; it needs neither asyncio nor a
lock nor write permission. `writer` appends with group commit. `store` is the directory of runs, their locks and ids.

The invariants, each with tests of that name:

J1  A record is whole or absent. A torn tail (bytes after the last newline) is ignored by readers and cut only by the
    lock holder; any other bad line stops the program and is named. A run exists from the rename of its first file on,
    and that file holds the whole plan.
J2  A record is durable before anything that relies on it: `sent` before its bytes leave, an outcome before it is shown.
    `Journal.durable` and the `then` callbacks of `Journal.append` are the only ways to learn that.
J3  `settled` at most once a call. The runner keeps it; `reader.verify` names the calls that break it.
J4  Nothing up to the last newline ever changes. A session reads the whole file once more at its end, and compares.
J5  One writer: a lock on the run; a second waits one second, then gives up with exit 6. Readers take no lock, need
    only read permission, and write nothing.
J6  No secret, signature or password, ever: records have no field for one, and messages are redacted before.
J7  The journal alone suffices to resume, rerun, undo, verify and report.

After a failed write or fsync nothing is written or fsynced again: the kernel may have dropped the pages and reported
it once, so a second fsync that succeeds would prove nothing.

The chain shows edits inside the file. It does not show a rewritten whole or a cut end: for that, compare with a head
kept elsewhere (it is printed, in the JSON, and in the `parent` of a child run).
"""
