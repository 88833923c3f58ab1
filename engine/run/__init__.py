"""One session of a run: from its first reading to its last.

`runner` the session · `bounds` what it may do · `work` a call of it · `recorder` `stopping` `queues` what its parts
share · `opening` `before` `resting` readings before a call is sent · `callqueue` which call is next · `lanes` the lanes
· `opencalls` `dispatch` `passwords` feed them · `attempts` `resumed` carry a call · `decide` what an answer or a
reading leads to · `judge` `settling` carry that out · `looks` `readback` `proofs` readings after it · `endings` how
long an orderly end takes · `overview` how it stands.
"""
