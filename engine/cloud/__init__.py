"""Talking to the API over the network.

`transport` one HTTP request, the only importer of aiohttp's client · `wire` one transport for a command · `proxy` proxy
and certificates · `client` one signed request · `clients` a client for each endpoint and identity · `identity` whose
keys they are · `inventory` the accounts of instances.
"""
