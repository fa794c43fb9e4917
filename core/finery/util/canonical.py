"""Canonical bytes of plain data, for keys and digests."""

from typing import Any

import msgspec


def encode(value: Any) -> bytes:
    """Canonical bytes of plain data, as MessagePack: type-tagged, length-prefixed, in order.

    Distinct values give distinct bytes: 1, 1.0, True and "1" differ, and so do [["a"], "b"] and
    [["a", "b"]]. Mappings keep their order, which matters for some settings.
    """
    return msgspec.msgpack.encode(value)
