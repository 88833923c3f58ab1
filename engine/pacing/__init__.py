"""A lane's quota: filled, and never broken.

`pacer` when the next call may leave · `slots` the same quota shared by all runs of a host · `backoff` how long a call
that failed waits.
"""
