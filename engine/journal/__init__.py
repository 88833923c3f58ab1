"""The runs that are stored. After a crash, the journal of a run is the only truth; no other package writes it.

`protocols` says what the rest of the engine knows of stored runs; files are one way to store them, `database`
another. `lines` turns one record into one line and chains the lines (pure). `reader` replays and verifies; it needs
no asyncio, no lock and no write permission. `writer` appends with group commit. `store` is the directory of runs,
their locks and ids.

The invariants, each with tests of that name:

J1  A record is whole or absent. Readers ignore a torn tail (bytes after the last newline); only the lock holder cuts
    it. Any other bad line stops the program, which names the line. A run exists from the rename of its first file on,
    and that file holds the whole plan.
J2  A record is durable before anything relies on it: `sent` before its bytes leave, an outcome before it is shown.
    `Journal.durable` and the `then` callback of `Journal.append` tell when it is.
J3  A call has at most one `settled`. The runner keeps this rule; `reader.verify` names the calls that break it.
J4  Nothing up to the last newline ever changes. A session reads the whole file once more at its end, and compares.
J5  One writer: it holds a lock on the run. A second writer waits one second, then gives up with exit 6. Readers take
    no lock, need only read permission, and write nothing.
J6  No secret, signature or password, ever: records have no field for one, and messages are redacted before.
J7  The journal alone suffices to resume, rerun, undo, verify and report.

After a failed write or fsync, the writer neither writes nor fsyncs again. The kernel may have dropped the pages and
reports the error only once, so a later fsync that succeeds would prove nothing.

The chain shows edits inside the file. It does not show that the whole file was rewritten or that its end was cut. For
that, compare with a head kept elsewhere: it is printed, in the JSON, and in the `parent` of a child run.
"""
