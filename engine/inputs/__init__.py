"""Reads and checks what operators write: jobs, lists, configs, settings, passwords.

`jobfile` a job's YAML and lists as checked values · `job` `match` `window` `globs` `guards` what they mean · `config`
`settings` `settingwords` what flags, environment and files say · `files` finds and reads files · `passwords` new ones.
"""
