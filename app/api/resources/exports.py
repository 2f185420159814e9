"""What a tenant takes away: streamed files, a page in memory at a time; and the cursors of consents."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal

import msgspec
from fastapi.responses import StreamingResponse

from app.store.rules import Consent

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run a field that begins so


def answer(
    pages: AsyncIterator[list[dict[str, Any]]], file: Literal["ndjson", "csv"], columns: Sequence[str]
) -> StreamingResponse:
    """The rows as NDJSON, or as CSV with those columns (rows without a number are left out of it)."""
    lines = _ndjson(pages) if file == "ndjson" else _csv(pages, columns)
    media = "application/x-ndjson" if file == "ndjson" else "text/csv; charset=utf-8"
    return StreamingResponse(lines, media_type=media, headers={"cache-control": "no-store"})


async def _ndjson(pages: AsyncIterator[list[dict[str, Any]]]) -> AsyncIterator[bytes]:
    encode = msgspec.json.Encoder().encode_lines
    async for page in pages:
        yield encode(page)


async def _csv(pages: AsyncIterator[list[dict[str, Any]]], columns: Sequence[str]) -> AsyncIterator[bytes]:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(columns)
    async for page in pages:
        for row in page:
            if row["to"] is not None:
                writer.writerow([_field(name, row.get(name)) for name in columns])
        yield out.getvalue().encode()
        out.seek(0)
        out.truncate()
    yield out.getvalue().encode()


def _field(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return msgspec.json.encode(value).decode()
    text = str(value)
    return text if name == "to" or not text.startswith(FORMULA) else f"'{text}"


def split(key: bytes | None) -> tuple[bytes, str, str] | None:
    """(recipient, purpose, brand) of a cursor."""
    if key is None:
        return None
    purpose, _, brand = key[8:].decode().partition(" ")
    return key[:8], purpose, brand


def joined(one: Consent) -> bytes:
    """The inverse: neither a purpose nor a brand has a space."""
    return one.recipient + f"{one.purpose} {one.brand}".encode()
