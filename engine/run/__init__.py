"""One session of a run: from its first reading to its last.

`runner` the session · `opening` readings before a call is sent · `callqueue` which call is next · `dispatch` feeds
lanes · `lanes` a lane · `judge` what an answer leads to · `readback` the proof · `closing` lanes that end early ·
`endings` how long an orderly end takes · `overview` how it stands.
"""
