"""A hostile stand-in for the API, for trying, drills and tests.

It is written from the API's pages alone and shares no code with the engine that it tests. It has its own check of TC3
signatures and its own table of actions and codes, so that a misreading in one of the two shows as a difference. Only
`inprocess` imports the engine (the Transport protocol), and only `server` imports aiohttp.

`world` pure: one call in, one answer out · `tc3` `catalog` `quotas` `estate` `fleet` `faults` `wire` its parts, pure ·
`inprocess` a Transport in memory · `server` the same world on loopback ports.
"""

DEMO_SECRET_ID = "AKIDSIMULATOR0DEMO0KEY"  # noqa: S105 - documented demo pair, opens nothing
"""Secret id that every world accepts when no keys are given. It is public, and no key of any cloud."""
DEMO_SECRET_KEY = "simulator-demo-secret"  # noqa: S105 - documented demo pair, opens nothing
"""Secret key of `DEMO_SECRET_ID`."""


def demo_secret_id(account: str = "") -> str:
    """Return the secret id of a simulated cloud account; its secret key is `DEMO_SECRET_KEY`."""
    return DEMO_SECRET_ID + "".join(char for char in account.upper() if char.isalnum())
