"""A job's window → units for cron, systemd and Kubernetes that start it, and look whether it was done.

`units` is what all have in common; each format is a module with one function, `files`.
"""
