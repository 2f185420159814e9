"""POST /v1/batches/upload: a file of recipients, streamed into a batch.

Guarantees: memory is bounded by one chunk of rows, and the client is slowed to the pace of the commits;
nothing is handed over before the whole file is in (the batch is `loading`, then sealed and `running` in the
transaction that stores the answer). With an idempotency key, an upload that broke is resumed by sending
the file again: the rows that are committed are skipped, once their content has proved to be the same;
the text must be the same, too. `replace=true` cancels the broken one and starts afresh.
Without a key, a broken upload's batch is cancelled at once; where the process was killed, after a week, like one
that nobody resumes.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import os
from urllib.parse import parse_qsl

import asyncpg
import msgspec

from app.api import decoding, drafting, limits, posting, wire
from app.api.auth import Caller
from app.api.context import Context
from app.api.entrance import Answer, Disconnected, Request
from app.api.ground import Warned
from app.api.idempotency import REPLAYED, checked_key, judged, request_hash
from app.api.problems import FieldError, Problem
from app.api.rows import CSV, NDJSON, CsvRows, NdjsonRows, Record, Records
from app.domain import ids
from app.store import batches, idempotency
from app.store.batches import Batch, BatchState, NewBatch
from app.store.idempotency import Slot, StoredAnswer, encode_answer, slot_of

UPLOAD = "/v1/batches/upload"
RESUMABLE_S = 7 * 86_400  # how far back a broken upload is looked for
MAX_PARAMETERS = 32

log = logging.getLogger(__name__)


class UploadTerms(wire.BatchTerms, forbid_unknown_fields=True, kw_only=True):
    """The query: a batch's terms, and whether a broken upload of this key is replaced."""

    replace: bool = False


class Progress(msgspec.Struct):
    """What `batches.upload` holds: rows committed, the hash of their bytes, whose connection may go on."""

    key: str | None
    owner: str
    rows: int
    hash: str


async def post_upload(request: Request, context: Context) -> Answer:
    """A file of recipients."""
    caller = request.caller
    caller.demand("send")
    key = checked_key(posting.header_text(request.headers.idempotency_key))
    media = (request.headers.content_type or b"").partition(b";")[0].strip().lower()
    if media not in CSV and media not in NDJSON:
        raise Problem(415, "unsupported_media_type", "send text/csv or application/x-ndjson")
    asked, query = _terms(request.query)
    if context.metrics.uploads >= limits.MAX_UPLOADS:
        raise Problem(503, "overloaded", "too many uploads are under way")
    wanted = request_hash(query.encode(), b"csv" if media in CSV else b"ndjson")
    slot = None if key is None else slot_of(caller.tenant_id, caller.hash_key, f"POST {UPLOAD}", key)
    now_s = context.clock()
    context.metrics.uploads += 1
    try:
        try:
            terms = await _checked(asked, caller, context, now_s)
            extra = drafting.extra_of(asked, caller)
        except Problem:
            if slot is None or asked.replace:
                raise
            kept = await posting.accepted_before(slot, wanted, context)
            if kept is None:
                raise
            return await _replayed(request, kept, context, quoted=media in CSV)
        batch = posting.new_batch(asked, terms, ids.new_id(now_s), now_s, extra)
        reader = CsvRows(terms.parsed.names) if media in CSV else NdjsonRows()
        upload = Upload(context, caller, terms, reader, slot)
        kept = await upload.open(batch, wanted, replace=asked.replace)
        if kept is not None:
            return await _replayed(request, kept, context, quoted=reader.quoted)
        return await upload.run(request)
    finally:
        context.metrics.uploads -= 1


async def _checked(asked: UploadTerms, caller: Caller, context: Context, now_s: float) -> drafting.Terms:
    """The terms, checked. Raises Problem."""
    template = await posting.template_of(asked.template, caller, context)
    return await posting.with_pool(drafting.terms_of(asked, caller, template, now_s), context)


async def _replayed(request: Request, kept: idempotency.Kept, context: Context, *, quoted: bool) -> Answer:
    """The stored answer of a whole upload, if the file is the same to its last byte."""
    digest = hashlib.blake2b(digest_size=16)
    records = Records(quoted=quoted)
    async for data in request.chunks(limits.MAX_UPLOAD_BYTES):
        _digest(digest, records.feed(data))
    _digest(digest, records.finish())
    assert kept.response is not None
    stored = idempotency.decode_answer(kept.response)
    if digest.hexdigest() != stored.headers.pop("x-content-hash", ""):
        judged(msgspec.structs.replace(kept, request_hash=b""), b"another")
    context.metrics.replayed += 1
    return Answer(kept.status or 202, stored.body, {REPLAYED: "true"})


def _digest(digest: hashlib.blake2b, records: list[Record]) -> None:
    for record in records:
        digest.update(record.raw)
        digest.update(b"\n")


def _terms(raw: bytes) -> tuple[UploadTerms, str]:
    """The query's terms, and the query in one canonical form without `replace`. Raises Problem (400, 422)."""
    try:
        pairs = parse_qsl(
            raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS
        )
    except UnicodeDecodeError:
        raise Problem(400, "invalid_utf8", "the query is not UTF-8") from None
    except ValueError:
        raise Problem(422, "invalid_request", "the query has too many parameters") from None
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Problem(422, "duplicate_key", "a query parameter is given twice")
    if "\x00" in "".join(found.values()):
        raise Problem(422, "nul_character", "NUL can't be stored")
    if "metadata" in found:
        fault = FieldError("query/metadata", "unknown_field", "there is no such parameter")
        raise Problem(422, fault.code, fault.detail, [fault])
    if found.get("sender", "").startswith(" "):
        found["sender"] = "+" + found["sender"][1:]  # a plus sign that was not escaped
    try:
        asked = msgspec.convert(found, UploadTerms, strict=False)
    except msgspec.ValidationError as error:
        fault = decoding.field_error(str(error), base="query")
        raise Problem(422, fault.code, fault.detail, [fault]) from None
    found.pop("replace", None)
    return asked, repr(sorted(found.items()))


class Upload:
    """One connection's work on one batch."""

    def __init__(
        self,
        context: Context,
        caller: Caller,
        terms: drafting.Terms,
        reader: CsvRows | NdjsonRows,
        slot: Slot | None,
    ) -> None:
        self._context = context
        self._caller = caller
        self._terms = terms
        self._reader = reader
        self._slot = slot
        self._hash = hashlib.blake2b(digest_size=16)
        self._header_read = not reader.has_header
        self._row = 0  # rows seen
        self._batch_id = b""
        self._committed = Progress(None, os.urandom(8).hex(), 0, "")
        self._accepted = 0
        self._rejected = 0
        self._warned: dict[tuple[str, str], Warned] = {}

    async def open(self, batch: NewBatch, wanted: bytes, *, replace: bool) -> idempotency.Kept | None:
        """Make the batch, or go on with the one of this key; what is kept, if that upload is whole.

        Raises Problem: another request's key (422), under way (409).
        """
        async with self._context.database.driver() as driver:
            found = None
            if self._slot is not None:
                kept = await idempotency.kept(driver, self._slot)
                if kept is not None and kept.status is not None and not replace:
                    return kept
                self._judge(kept, wanted, replace=replace)
                if not await idempotency.claim(driver, self._slot, wanted, limits.UPLOAD_LEASE_S):
                    raise _under_way(1)
                if kept is not None:
                    found = await self._broken(driver)
            if found is not None and not replace:
                assert self._slot is not None
                if (found.sender, found.body, found.template) != (batch.sender, batch.body, batch.template):
                    await idempotency.extend(driver, self._slot, 0)
                    raise _another_text()
                await self._resume(driver, found)
                return None
            if found is not None:
                await self._discard(driver, found.id.bytes, "replaced")
            self._batch_id = batch.id
            self._committed.key = self._slot.key if self._slot else None
            progress = msgspec.to_builtins(self._committed)
            await batches.insert(
                driver, msgspec.structs.replace(batch, state=BatchState.loading, upload=progress)
            )
            return None

    def _judge(self, kept: idempotency.Kept | None, wanted: bytes, *, replace: bool) -> None:
        if kept is None:
            return
        if kept.status is not None:
            raise Problem(409, "batch_not_loading", "that upload is whole: its batch can't be replaced")
        if kept.locked_for_s > 0:
            raise _under_way(math.ceil(kept.locked_for_s))
        if kept.request_hash != wanted and not replace:
            judged(kept, wanted)

    async def _broken(self, driver: asyncpg.Connection) -> Batch | None:
        assert self._slot is not None
        found = await batches.uploaded(
            driver,
            self._caller.tenant_id,
            self._slot.key,
            since=ids.first_id_at(self._context.clock() - RESUMABLE_S),
        )
        return found if found is not None and found.state is BatchState.loading else None

    async def _resume(self, driver: asyncpg.Connection, found: Batch) -> None:
        """Take the batch over: its former connection can commit nothing more."""
        self._batch_id = found.id.bytes
        owner = self._committed.owner
        self._committed = msgspec.convert(found.upload, Progress)
        self._committed.owner = owner
        self._accepted, self._rejected = found.total, found.rejected
        if not await batches.take_over(driver, self._batch_id, msgspec.to_builtins(self._committed)):
            raise _not_loading()

    async def run(self, request: Request) -> Answer:
        """Read, commit chunk by chunk, seal, answer."""
        try:
            return await self._read(request)
        except (Disconnected, asyncio.CancelledError):
            await self._broke(whole=False)
            raise
        except Problem as problem:
            await self._broke(whole=problem.code in ("request_too_large", "no_valid_recipients"))
            raise
        except Exception:
            await self._broke(whole=False)
            raise

    async def _read(self, request: Request) -> Answer:
        records = Records(quoted=self._reader.quoted)
        pending: list[Record] = []
        async for data in request.chunks(limits.MAX_UPLOAD_BYTES):
            pending += records.feed(data)
            while len(pending) >= limits.UPLOAD_CHUNK_ROWS:
                await self._chunk(pending[: limits.UPLOAD_CHUNK_ROWS], last=False)
                del pending[: limits.UPLOAD_CHUNK_ROWS]
        pending += records.finish()
        while len(pending) > limits.UPLOAD_CHUNK_ROWS:
            await self._chunk(pending[: limits.UPLOAD_CHUNK_ROWS], last=False)
            del pending[: limits.UPLOAD_CHUNK_ROWS]
        answer = await self._chunk(pending, last=True)
        assert answer is not None
        self._context.intake.offer_batch(self._batch_id)
        return answer

    async def _chunk(self, records: list[Record], *, last: bool) -> Answer | None:
        """Commit these rows; with the last ones, seal the batch and give the answer."""
        references = self._context.references
        work = drafting.Drafting(
            self._terms,
            self._caller.hash_key,
            await references.regions(),
            await references.ground(self._caller),
            self._batch_id,
        )
        step = limits.ROWS_A_STRETCH
        for start in range(0, len(records), step):
            self._draft(records[start : start + step], work)
            await asyncio.sleep(0)
        if last and self._row < self._committed.rows:
            raise _mismatch()
        if self._row <= self._committed.rows and not last:
            return None  # committed before
        if last and self._row == 0:
            raise Problem(422, "no_valid_recipients", "the file has no rows")
        accepted, rejected = work.accepted, len(work.rejected)
        self._note(work.warnings)
        if last and self._accepted + accepted == 0:
            errors = [FieldError(r.pointer, r.code, r.detail, r.index, r.reason) for r in work.rejected]
            raise Problem(422, "no_valid_recipients", "no recipient can be accepted", errors)
        return await self._commit(work, accepted, rejected, last=last)

    def _note(self, warnings: list[Warned]) -> None:
        """A chunk's warnings, with those of the chunks before."""
        for one in warnings:
            known = self._warned.setdefault((one.code, one.rule), one)
            if known is not one:
                known.count += one.count

    def _draft(self, records: list[Record], work: drafting.Drafting) -> None:
        """Hash and read a stretch of rows; those that are committed are only hashed."""
        first = self._row
        lines: list[int] = []
        recipients: list[wire.Recipient] = []
        faults: dict[int, FieldError] = {}
        known = len(work.rejected)
        for record in records:
            self._hash.update(record.raw)
            self._hash.update(b"\n")
            if not self._header_read:
                self._read_header(record)
                continue
            index = self._row
            self._row += 1
            if index < self._committed.rows:
                first = self._row
                if self._row == self._committed.rows and self._hash.hexdigest() != self._committed.hash:
                    raise _mismatch()
                continue
            read = self._reader.recipient(record.raw) if record.whole else _TOO_LONG
            lines.append(record.line)
            if isinstance(read, FieldError):
                faults[index] = read
                read = _NOBODY
            recipients.append(read)
        posting.add(work, recipients, first, faults, "")
        for rejected in work.rejected[known:]:
            rejected.detail = f"line {lines[rejected.index - first]}: {rejected.detail}"

    def _read_header(self, record: Record) -> None:
        assert isinstance(self._reader, CsvRows)
        if not record.whole:
            raise Problem(422, "malformed_row", "the header can't be read")
        self._reader.header(record.raw)
        self._header_read = True

    async def _commit(
        self, work: drafting.Drafting, accepted: int, rejected: int, *, last: bool
    ) -> Answer | None:
        context, now_s = self._context, self._context.clock()
        self._committed.rows, self._committed.hash = self._row, self._hash.hexdigest()
        progress = msgspec.to_builtins(self._committed)
        kept_rejections = work.rejected[: max(0, limits.MAX_KEPT_REJECTIONS - self._rejected)]
        drafts = list(work.drafts(now_s))
        answer = None
        async with context.database.driver() as driver, driver.transaction():
            if not await batches.progressed(
                driver,
                self._batch_id,
                owner=self._committed.owner,
                total=accepted,
                rejected=rejected,
                upload=progress,
            ):
                raise _not_loading()
            await context.intake.write(driver, drafts, now_s)
            if kept_rejections:
                await batches.reject(
                    driver, self._batch_id, [posting.rejection_row(one) for one in kept_rejections]
                )
            if last:
                answer = await self._seal(driver, accepted, rejected, now_s)
            elif self._slot is not None:
                await idempotency.extend(driver, self._slot, limits.UPLOAD_LEASE_S)
        self._accepted += accepted
        self._rejected += rejected
        posting.count_accepted(context, drafts)
        posting.count_rejected(context, work.rejected)
        return answer

    async def _seal(self, driver: asyncpg.Connection, accepted: int, rejected: int, now_s: float) -> Answer:
        await batches.seal(driver, self._batch_id, now_s=now_s)
        shown = await batches.rejections(driver, self._batch_id, after=-1, limit=limits.MAX_SHOWN_REJECTIONS)
        body = posting.batch_answer(
            self._batch_id,
            self._accepted + accepted,
            self._rejected + rejected,
            [wire.Rejection(one.index, one.pointer, one.code, one.detail) for one in shown],
            list(self._warned.values()),
            self._terms,
        )
        if self._slot is not None:
            stored = StoredAnswer(body, {"x-content-hash": self._hash.hexdigest()})
            await idempotency.answer(driver, self._slot, 202, encode_answer(stored))
        return Answer(202, body)

    async def _broke(self, *, whole: bool) -> None:
        """The connection ended early: let the next one go on, or end what nobody can go on with."""
        try:
            async with self._context.database.driver() as driver:
                if self._slot is None or whole:
                    await self._discard(driver, self._batch_id, "upload failed")
                if self._slot is not None:
                    if whole:
                        await idempotency.release(driver, self._slot)
                    else:
                        await idempotency.extend(driver, self._slot, 0)
        except Exception as error:
            log.warning("a broken upload waits for its lease", extra={"error": type(error).__name__})

    async def _discard(self, driver: asyncpg.Connection, batch_id: bytes, reason: str) -> None:
        async with driver.transaction():
            if await batches.move(
                driver, self._caller.tenant_id, batch_id, (BatchState.loading,), BatchState.cancelled
            ):
                await batches.audit(
                    driver,
                    tenant_id=self._caller.tenant_id,
                    actor=self._caller.actor,
                    reason=reason,
                    action="batch.cancelled",
                    subject=ids.text(batch_id),
                    before={"state": "loading"},
                    after={"state": "cancelled"},
                )


_NOBODY = wire.Recipient("")
_TOO_LONG = FieldError("", "too_long", f"the row has no end within {limits.MAX_RECORD_BYTES} bytes")


def _under_way(wait_s: int) -> Problem:
    return Problem(
        409,
        "idempotency_in_progress",
        "an upload with this idempotency key is under way",
        headers={"retry-after": str(max(1, min(wait_s, 5)))},
    )


def _mismatch() -> Problem:
    return Problem(
        422,
        "upload_mismatch",
        "the file differs from what an earlier upload with this key has stored; "
        "send the same file, or replace=true",
    )


def _another_text() -> Problem:
    return Problem(
        422,
        "upload_mismatch",
        "the template or the default sender has changed since the upload began; name the version that it "
        "began with, or send replace=true",
    )


def _not_loading() -> Problem:
    return Problem(409, "batch_not_loading", "the batch was cancelled, or another connection goes on with it")
