"""Opaque cursors: a place in a list, bound to its tenant and its filters.

Guarantee: a cursor that we didn't make for this tenant and these filters is a 400, never another list.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

from app.api.problems import Problem

_TAG_BYTES = 8
_MAX_CHARS = 128


def encode(place: bytes, *, key: bytes, filters: str) -> str:
    """The cursor of a place; `key` is the tenant's, `filters` says which list it belongs to."""
    return base64.urlsafe_b64encode(_tag(place, key, filters) + place).decode().rstrip("=")


def decode(cursor: str, *, key: bytes, filters: str) -> bytes:
    """The place. Raises Problem (400)."""
    try:
        if len(cursor) > _MAX_CHARS or not cursor.isascii():
            raise ValueError
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise _invalid() from None
    tag, place = raw[:_TAG_BYTES], raw[_TAG_BYTES:]
    if not hmac.compare_digest(tag, _tag(place, key, filters)):
        raise _invalid()
    return place


def _tag(place: bytes, key: bytes, filters: str) -> bytes:
    digest = hashlib.blake2b(filters.encode("utf-8", "surrogatepass"), key=key, digest_size=_TAG_BYTES)
    digest.update(b"\0" + place)
    return digest.digest()


def _invalid() -> Problem:
    return Problem(400, "invalid_cursor", "the cursor is not one of this list with these filters")
