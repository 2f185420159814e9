"""The keyed hash by which a recipient is known outside of the content: rules, look-ups, caps.

Guarantee: without a tenant's hash key nobody can tell whose hash it is, or that
two tenants text the same person.
"""

from __future__ import annotations

import zlib
from hashlib import blake2b

HASH_BYTES = 8


def hash_of(hash_key: bytes, e164: str) -> bytes:
    """8 bytes for a number in E.164 with its plus sign."""
    return blake2b(e164.encode(), key=hash_key, digest_size=HASH_BYTES).digest()


def to_check(number: str) -> int:
    """15 bits by which a receipt's recipient can be held against ours without keeping the number."""
    return zlib.crc32(number.lstrip("+").encode()) & 0x7FFF
