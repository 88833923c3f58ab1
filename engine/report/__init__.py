"""Reports on runs: text, JSON, CSV, notices, metrics.

`text` turns a ledger into a report for people, and `screen` fits it into a terminal · `going` tells of a live run in
one line · `documents` makes JSON and CSV · `nextstep` finds the exact command that goes on · `history` looks at
several runs together · `notices` writes notices · `notify` sends them · `metrics` writes figures for Prometheus ·
`spans` writes durations in words.
"""
