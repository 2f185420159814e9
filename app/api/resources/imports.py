"""Files of numbers, streamed: CSV and NDJSON, in chunks, each committed before the next is read.

Guarantee: memory is bounded by one chunk; a row that can't be taken is counted and (the first MAX_LISTED of
them) listed with its line, and stops no other. A file that broke off may be sent again from its beginning:
taking a row twice does no harm.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from typing import Any, Generic, TypeVar

import msgspec
from fastapi import APIRouter, Request
from pydantic import BaseModel

from app.api import openapi
from app.api.decoding import decode
from app.api.idempotency import StreamedRoute
from app.api.problems import FieldError, Problem
from app.api.resources.base import PROBLEMS
from app.api.rows import CSV, NDJSON, CsvRows, Record, Records

CHUNK_ROWS = 2_000
MAX_LISTED = 100
FILE: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {kind: {"schema": {"type": "string"}} for kind in ("text/csv", "application/x-ndjson")},
    }
}
"""How an import's body is described: `openapi_extra` of its route."""

Row = TypeVar("Row")
Item = TypeVar("Item")


class Rejection(BaseModel):
    """A row that was not taken: its index in the list, or its line in the file, from 1."""

    index: int
    pointer: str
    code: str
    detail: str


class Taken(BaseModel):
    """What became of a list. `new` are those that changed something; `rejected` lists the first 100."""

    accepted: int
    new: int
    rejected: list[Rejection]
    rejected_count: int


class Intake(Generic[Row, Item]):
    """Reads rows of one type and hands on what they mean, in chunks.

    `mean` gives the item of a row or raises Problem; `take` commits items and gives how many changed something.
    """

    def __init__(self, mean: Callable[[Row], Item], take: Callable[[list[Item]], Awaitable[int]]) -> None:
        self._mean = mean
        self._take = take
        self._items: list[Item] = []
        self.taken = Taken(accepted=0, new=0, rejected=[], rejected_count=0)

    async def row(self, index: int, row: Row | FieldError, base: str = "") -> None:
        """One row, or what is wrong with it."""
        if isinstance(row, FieldError):
            self._reject(index, base + row.pointer, row.code, row.detail)
            return
        try:
            self._items.append(self._mean(row))
        except Problem as problem:
            first = problem.errors[0] if problem.errors else None
            pointer = first.pointer if isinstance(first, FieldError) else ""
            self._reject(index, base + pointer, problem.code, problem.detail)
        if len(self._items) >= CHUNK_ROWS:
            await self.flush()

    async def flush(self) -> None:
        """Commit what is waiting."""
        items, self._items = self._items, []
        if items:
            self.taken.new += await self._take(items)
            self.taken.accepted += len(items)

    def _reject(self, index: int, pointer: str, code: str, detail: str) -> None:
        self.taken.rejected_count += 1
        if len(self.taken.rejected) < MAX_LISTED:
            self.taken.rejected.append(Rejection(index=index, pointer=pointer, code=code, detail=detail))


def router_of_files(tag: str) -> APIRouter:
    """For the imports of a resource."""
    return APIRouter(tags=[tag], route_class=StreamedRoute, responses={**PROBLEMS, 415: openapi.problem(415)})


async def take_file(
    request: Request, kind: type[Row], columns: Collection[str], intake: Intake[Row, Any]
) -> Taken:
    """Take in the request's body, a file of rows of that kind. Raises Problem (415, 422, 413)."""
    async for line, row in rows_of(request, kind, columns):
        await intake.row(line, row)
    await intake.flush()
    return intake.taken


async def rows_of(
    request: Request, kind: type[Row], columns: Collection[str]
) -> AsyncIterator[tuple[int, Row | FieldError]]:
    """(line, row or what is wrong with it) of the request's body. Raises Problem (415, 422, 413).

    A CSV needs a header with `to` or `phone`; of the other columns those named in `columns` are read.
    """
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower().encode("latin-1")
    if media not in CSV and media not in NDJSON:
        raise Problem(415, "unsupported_media_type", "send text/csv or application/x-ndjson")
    csv = CsvRows(columns) if media in CSV else None
    records = Records(quoted=csv is not None)
    decoder = msgspec.json.Decoder(kind)
    header = csv is not None
    async for chunk in _stream(request, records):
        for record in chunk:
            if header and csv is not None:
                if not record.whole:
                    raise Problem(422, "malformed_row", "the header can't be read")
                csv.header(record.raw)
                header = False
            elif not record.whole:
                yield (
                    record.line,
                    FieldError("", "malformed_row", "the row is too long, or a quote has no end"),
                )
            else:
                yield record.line, _row(record.raw, csv, kind, decoder)
    if header:
        raise Problem(422, "malformed_row", "the file has no header")


async def _stream(request: Request, records: Records) -> AsyncIterator[list[Record]]:
    async for data in request.stream():
        yield records.feed(data)
    yield records.finish()


def _row(raw: bytes, csv: CsvRows | None, kind: type[Row], decoder: Any) -> Row | FieldError:
    try:
        if csv is None:
            return decode(raw, decoder.decode)
        found = csv.recipient(raw)
        if isinstance(found, FieldError):
            return found
        given: Mapping[str, object] = {k: v for k, v in (found.variables or {}).items() if v != ""}
        return msgspec.convert({"to": found.to, **given}, kind, strict=False)
    except Problem as problem:
        first = problem.errors[0] if problem.errors else None
        if isinstance(first, FieldError):
            return first
        return FieldError("", "malformed_row", "the row is not a JSON object")
    except msgspec.ValidationError:
        return FieldError("", "invalid_value", "a column has a value that is not allowed")
