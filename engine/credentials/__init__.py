"""API keys, wherever the vendor's tools and operators keep them. Reads keys, never writes them.

Sources and the names of keys are as in the vendor's SDK (PY-COMMON). `chain` puts the sources in order and opens the
one that a spec asks for; each other module is one kind of source. No text made here holds a secret: no repr, no message
and no traceback.
"""

from engine.credentials.chain import KeySpec, Ways, find_keys, open_keys
from engine.credentials.source import FixedKeys, KeySource, NoKeys

__all__ = ["FixedKeys", "KeySource", "KeySpec", "NoKeys", "Ways", "find_keys", "open_keys"]
