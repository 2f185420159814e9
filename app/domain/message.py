"""The words of a message that every part of Volley shares."""

from __future__ import annotations

from enum import IntEnum


class Category(IntEnum):
    """Why a text is sent; the rules depend on it, so it has no default."""

    otp = 1
    transactional = 2
    marketing = 3
