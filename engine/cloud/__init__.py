"""Talking to the API over the network.

`transport` one HTTP request, the only importer of aiohttp's client · `proxy` the way out · `client` one signed call ·
`clients` a client an endpoint and key · `identity` whose keys they are · `inventory` the accounts of instances.
"""
