"""What operators write: jobs, lists, configs, settings, passwords, read and checked.

`jobfile` a job's YAML and lists as checked values · `job` `match` `window` `globs` `guards` what they mean · `config`
`settings` `settingwords` from flags, environment and files · `files` finding and reading them · `passwords` new ones.
"""
