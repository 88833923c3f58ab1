"""What is said of runs: text, JSON, CSV, notices, metrics.

`text` a ledger as a report or a document · `nextstep` the exact command that goes on · `history` several runs
together · `notices` what is told to those who are not there · `notify` telling them · `metrics` figures · `spans`
times in words.
"""
