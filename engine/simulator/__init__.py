"""A hostile stand-in for the API, for trying, drills and tests.

Written from the API's pages alone. It shares no code with the engine it judges: it has its own lines for
TC3 signatures, its own table of actions and codes, so that an error cannot agree with itself. Nothing here but
`inprocess` imports the engine (the Transport protocol), nothing but `server` imports aiohttp.

`world` pure: one call in, one answer out · `tc3` `catalog` `quotas` `estate` `fleet` `faults` `wire` its parts, pure ·
`inprocess` a Transport in memory · `server` the same world on loopback ports.
"""

DEMO_SECRET_ID = "AKIDSIMULATOR0DEMO0KEY"  # noqa: S105 - documented demo pair, opens nothing
"""Secret id every world accepts when no keys are given. Public, worthless, and no key of any cloud."""
DEMO_SECRET_KEY = "simulator-demo-secret"  # noqa: S105 - documented demo pair, opens nothing
"""The secret key that goes with it."""


def demo_secret_id(account: str = "") -> str:
    """The demo key of a simulated cloud account, which goes with the same secret key."""
    return DEMO_SECRET_ID + "".join(char for char in account.upper() if char.isalnum())
