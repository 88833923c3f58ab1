"""Turns what operators write (YAML jobs, lists and configs) into checked values. No I/O.

`parse` bytes of a job → `job.Job` · `adhoc` a command line → the same · `yamltext` events with places → a tree ·
`filemodel` **the** table of keys · `fields` checks the tree against the table · `targets`, `targetentries`, `lists` the
accounts · `values` durations · `problems` what is wrong, all at once · `schema` the same table for editors.
"""
