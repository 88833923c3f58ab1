"""The vendor's API as rules: its actions, codes, names, endpoints and signatures. No I/O, no clock.

`actions` **the** table of actions · `codes` **the** table of error codes · `verdicts` what an answer means · `names`
what the API takes as a name · `endpoints` the URL of each access region · `signing` TC3 signatures.
"""
