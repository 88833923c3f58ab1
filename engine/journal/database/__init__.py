"""Runs in PostgreSQL, behind the protocols that files have. The database is the journal then.

`link` is the only importer of psycopg: a connection, and its errors in our words. `schema` has the tables and functions
as SQL files, and migrates. `journal` appends, fenced by (epoch, seq, head), and says whether writes may leave. `runs`
is the store; `stored` its journals as readers take them; `claims` what live runs work on.

A row of `batch` is the lines of one commit, as a journal file has them, so all readers are those of files.
"""
