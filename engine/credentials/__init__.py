"""API keys, wherever the vendor's tools and operators keep them. Reads, never writes.

Sources and key names as the vendor's SDK has them (PY-COMMON). `chain` puts the sources in order and opens one by a
spec; each other module is one family of them. No secret stands in any text made here: not in a repr, a message or a
traceback.
"""

from engine.credentials.chain import KeySpec, Ways, find_keys, open_keys
from engine.credentials.source import FixedKeys, KeySource, NoKeys

__all__ = ["FixedKeys", "KeySource", "KeySpec", "NoKeys", "Ways", "find_keys", "open_keys"]
