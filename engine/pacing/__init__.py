"""Pacing of a lane: it uses its whole quota and stays within it.

`pacer` when the next call may leave · `slots` the same quota shared by all runs of a host · `backoff` how long a failed
call waits.
"""
