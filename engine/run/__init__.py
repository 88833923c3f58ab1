"""One session of a run: from its first reading to its last.

`runner` the session · `bounds` what it may do · `work` one of its calls · `recorder` `stopping` `queues` what its parts
share · `opening` `before` `resting` readings before a call is sent · `callqueue` which call is next · `lanes` the lanes
· `opencalls` `dispatch` `passwords` feed the lanes · `attempts` `resumed` bring a call to its end · `decide` what an
answer or a reading leads to · `judge` `settling` carry out the decision · `looks` `readback` `proofs` readings after a
send · `endings` how long an orderly end takes · `overview` how the session stands.
"""
