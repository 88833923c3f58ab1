"""What seals the end of a run: the `seal` mapping of a config. No I/O."""

from __future__ import annotations

import posixpath
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from msgspec import Struct

from engine.inputs.jobfile.fields import Fields, kinds
from engine.inputs.jobfile.filemodel import SealKeys

if TYPE_CHECKING:
    from engine.inputs.jobfile.nodes import Node
    from engine.model import Place

_FILES = ("key", "tsa_ca", "signers")


class SealSpec(Struct, frozen=True, kw_only=True):
    """What seals each line of `heads.jsonl`, and from when on a line must be sealed."""

    place: Place
    key: str | None = None
    """Whole path of the SSH key that signs."""
    tsa: tuple[str, ...] = ()
    """URLs of time-stamping authorities, in the order in which they are asked."""
    tsa_ca: str | None = None
    """Whole path of the certificates that vouch for stamps."""
    signers: str | None = None
    """Whole path of the file of all keys that count; None: only `key` does."""
    required_since: float | None = None
    """UNIX time from which on an end without a seal is a fault; None: never."""

    @property
    def words(self) -> str:
        """What is done, in words."""
        said = [f"signed by {self.key}"] if self.key is not None else []
        said += [f"stamped by {', '.join(self.tsa)}"] if self.tsa else []
        if self.required_since is not None:
            said.append(f"required since {datetime.fromtimestamp(self.required_since, UTC):%Y-%m-%dT%H:%MZ}")
        return "; ".join(said)


def read_seal(fields: Fields, node: Node) -> SealSpec | None:
    """Return the `seal` mapping of a config; None if something is wrong (noted)."""
    before = fields.problems.count
    known = kinds(SealKeys)
    table = fields.table(node, "seal", f"a mapping of {', '.join(known)}")
    if table is None:
        return None
    fields.keys(table, "seal", known)
    values, _ = fields.values(table, SealKeys, "seal")
    place = fields.place(node)
    for name in _FILES:
        if (text := values.get(name)) is None:
            continue
        if text.startswith("~"):
            fields.wrong(table.entries[name].value, f"seal.{name}", "write the whole path, without ~")
        values[name] = posixpath.join(posixpath.dirname(place.file), text)
    if "key" not in values and "tsa" not in values and fields.problems.count == before:
        fields.wrong(node, "seal", "says neither key nor tsa, so nothing would be sealed; add one or remove it")
    if "required_since" in values and "key" not in values and fields.problems.count == before:
        fields.wrong(node, "seal", "required_since asks for signatures, so it needs key: the SSH key that signs")
    return SealSpec(**values, place=place) if fields.problems.count == before else None
