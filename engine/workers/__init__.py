"""Many machines: who asks for sessions, who carries them out, and who mends what a lost machine has left.

`dispatch` is the only importer of dbos (the extra `workers`). What keeps the promises is not here: it is the epoch of
each chain in the database (`journal.database`). A session that two processes carry out at once does no harm.
"""
