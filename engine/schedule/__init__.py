"""Writes units for cron, systemd and Kubernetes that start a job in its window, and check whether it was done.

`units` has what all formats have in common; each format is a module with one function, `files`.
"""
