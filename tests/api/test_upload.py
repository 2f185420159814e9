"""POST /v1/batches/upload."""

from __future__ import annotations

import asyncio
import time
import uuid
from urllib.parse import urlencode

import pytest

from app.api.reference import KEPT_S
from app.api.rows import CsvRows, NdjsonRows, Records
from tests.api.conftest import SENDER

CSV = "text/csv"
NDJSON = "application/x-ndjson"


def path(**terms: str | None) -> str:
    given = {"category": "transactional", "sender": SENDER, "body": "Hi {name}", **terms}
    return "/v1/batches/upload?" + urlencode({name: term for name, term in given.items() if term is not None})


async def upload(api, data: bytes, kind: str = CSV, key: str | None = None, **terms: str | None):
    return await api.call(
        "POST", path(**terms), data=data, headers={"content-type": kind}, idempotency_key=key
    )


def file_of(rows: int) -> bytes:
    return b"to,name\n" + b"".join(b"+1202555%04d,N%d\n" % (100 + n % 9_000, n) for n in range(rows))


async def test_a_csv_becomes_a_running_batch_and_its_bad_rows_are_listed(api):
    data = (
        b"\xef\xbb\xbfphone;name;client_reference;note\r\n"
        b"+12025550101;Ann;r-1;x\r\n"
        b'"+12025550102";"B;\nC ""q""";r-2;x\r\n'
        b"\r\n"
        b"+1;x;y;z\r\n"
        b"too;few\r\n"
        b"+12025550103;\xff;r-3;x\r\n"
        b"+12025550104;D;r-4;x"
    )
    reply = await upload(api, data)
    assert reply.status == 202
    answer = reply.json
    assert (answer["state"], answer["accepted"], answer["rejected_count"]) == ("running", 3, 3)
    assert [(one["index"], one["code"]) for one in answer["rejected"]] == [
        (2, "invalid_number"),
        (3, "malformed_row"),
        (4, "invalid_utf8"),
    ]
    assert [one["detail"].split(":")[0] for one in answer["rejected"]] == ["line 6", "line 7", "line 8"]
    messages = (await api.get(f"/v1/messages?batch={answer['id']}")).json["data"]
    by_reference = {one["client_reference"]: one for one in messages}
    assert by_reference.keys() == {"r-1", "r-2", "r-4"}
    quoted = (await api.get(f"/v1/messages/{by_reference['r-2']['id']}")).json
    assert quoted["body"] == 'Hi B;\nC "q"'
    assert len((await api.get(answer["rejections_url"])).json["data"]) == 3


async def test_ndjson_rows_are_recipients(api):
    rows = [
        b'{"to":"+12025550101","variables":{"name":"A"},"client_reference":"n-1"}',
        b'{"to":"+12025550101","variables":{"name":1}}',
        b'{"to":1}',
        b"{broken",
        b'{"to":"+12025550101","variables":{"name":"\\u0000"}}',
        b'{"to":"+12025550101","vars":{}}',
        b'{"to":"+12025550101","to":"+12025550102","variables":{"name":"A"}}',
        b"[" * 10_000,
        b'{"to":"+12025550101","client_reference":"' + b"x" * 70_000 + b'"}',
    ]
    reply = await upload(api, b"\n".join(rows), NDJSON)
    assert (reply.status, reply.json["accepted"]) == (202, 2)
    assert [(one["index"], one["code"]) for one in reply.json["rejected"]] == [
        (2, "wrong_type"),
        (3, "malformed_row"),
        (4, "nul_character"),
        (5, "unknown_field"),
        (6, "duplicate_key"),
        (7, "wrong_type"),
        (8, "too_long"),
    ]


REFUSED = [
    ({}, b"", CSV, 422, "no_valid_recipients"),
    ({}, b"to,name\n", CSV, 422, "no_valid_recipients"),
    ({}, b"to,name\n+1,x\n", CSV, 422, "no_valid_recipients"),
    ({}, b"number,name\n+12025550101,x\n", CSV, 422, "malformed_row"),
    ({}, b"to,name,name\n", CSV, 422, "malformed_row"),
    ({}, b"{}", "application/json", 415, "unsupported_media_type"),
    ({"category": "spam"}, b"", CSV, 422, "invalid_value"),
    ({"priority": "12"}, b"", CSV, 422, "out_of_range"),
    ({"categori": "otp"}, b"", CSV, 422, "unknown_field"),
    ({"body": "a\x00b"}, b"", CSV, 422, "nul_character"),
    ({"body": ""}, b"", CSV, 422, "empty_body"),
    ({"template": "x"}, b"", CSV, 422, "unknown_template"),
    ({"scheduled_at": "2020-01-01T00:00:00Z"}, b"", CSV, 422, "time_in_past"),
    ({"metadata": "{}"}, b"", CSV, 422, "unknown_field"),
]


@pytest.mark.parametrize(("terms", "data", "kind", "status", "code"), REFUSED, ids=lambda one: str(one)[:30])
async def test_an_upload_that_can_never_be_a_batch_is_refused(api, terms, data, kind, status, code):
    reply = await upload(api, data, kind, **terms)
    assert (reply.status, reply.code) == (status, code)
    loading = await api.fetch("SELECT 1 FROM batches WHERE state = 1")
    assert loading == []


async def test_query_terms_reach_the_batch(api):
    reply = await upload(api, file_of(1), name="spring", campaign="c-7", priority="2", retry_unknown="true")
    batch = (await api.get(reply.json["url"])).json
    assert (batch["name"], batch["campaign"], batch["priority"], batch["retry_unknown"]) == (
        "spring",
        "c-7",
        2,
        True,
    )
    assert (await api.get(reply.json["url"])).json["upload"] == {"rows": 1, "complete": True}


async def test_the_same_file_replays_and_another_is_refused(api):
    key = uuid.uuid4().hex
    first = await upload(api, file_of(6_000), key=key)
    assert (first.status, first.json["accepted"]) == (202, 6_000)
    again = await upload(api, file_of(6_000), key=key)
    assert (again.status, again.raw, again.headers["idempotency-replayed"]) == (202, first.raw, "true")
    for other in (file_of(5_999), file_of(6_001), file_of(6_000).replace(b"N77\n", b"N78\n")):
        assert (await upload(api, other, key=key)).code == "idempotency_key_reused"
    assert (await upload(api, file_of(6_000), key=key, replace="true")).code == "batch_not_loading"


async def broken(api, data: bytes, key: str | None, rows: int, **terms: str | None):
    """Send `data` without an end, wait until `rows` are committed, and hang up. The batch' row."""
    _, writer = await asyncio.open_connection("127.0.0.1", api.port)
    head = f"POST {path(**terms)} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.key}\r\nContent-Type: text/csv\r\n"
    if key:
        head += f"Idempotency-Key: {key}\r\n"
    writer.write(head.encode() + b"Content-Length: 99999999\r\n\r\n" + data)
    await writer.drain()
    query = (
        "SELECT id::text, total::int, state FROM batches "
        "WHERE state = 1 AND (upload->>'rows')::int >= $1 ORDER BY id DESC LIMIT 1"
    )
    row = await until(api, query, rows)
    return writer, row


async def until(api, query: str, *arguments):
    deadline = time.monotonic() + 10
    while True:
        found = await api.fetch(query, *arguments)
        if found:
            return found[0]
        assert time.monotonic() < deadline, query
        await asyncio.sleep(0.02)


async def test_a_broken_upload_stays_loading_and_goes_on_with_the_same_file(api):
    key, data = uuid.uuid4().hex, file_of(12_000)
    writer, row = await broken(api, data[: len(data) * 2 // 3], key, 4_000, name="resumed")
    view = (await api.get(f"/v1/batches/{row['id']}")).json
    assert (view["state"], view["counts"]["accepted"]) == ("loading", view["total"])
    busy = await upload(api, data, key=key, name="resumed")
    assert (busy.status, busy.code) == (409, "idempotency_in_progress")
    writer.close()
    await until(
        api, "SELECT 1 FROM idempotency WHERE key = $1 AND locked_until <= now()", await api.kept_as(key)
    )
    changed = await upload(api, data.replace(b"N5\n", b"N6\n"), key=key, name="resumed")
    assert (changed.status, changed.code) == (422, "upload_mismatch")
    short = await upload(api, data[:1_000], key=key, name="resumed")
    assert short.code == "upload_mismatch"
    other_terms = await upload(api, data, key=key, name="other")
    assert other_terms.code == "idempotency_key_reused"
    done = await upload(api, data, key=key, name="resumed")
    assert (done.status, done.json["id"], done.json["accepted"]) == (202, row["id"], 12_000)
    stored = await api.fetch("SELECT sum(n)::int AS n FROM packs WHERE batch_id = $1", row["id"])
    assert stored[0]["n"] == 12_000
    assert (await api.get(done.json["url"])).json["counts"]["queued"] == 12_000


async def test_an_upload_never_mixes_two_versions_of_its_template(api):
    name, key, data = f"t{uuid.uuid4().hex}", uuid.uuid4().hex, file_of(9_000)
    text = {"body": "Old {name}", "variables": ["name"]}
    assert (await api.post("/v1/templates", {"name": name, **text})).status == 201
    terms = {"body": None, "template": name}
    writer, row = await broken(api, data[: len(data) * 2 // 3], key, 4_000, **terms)
    writer.close()
    await until(
        api, "SELECT 1 FROM idempotency WHERE key = $1 AND locked_until <= now()", await api.kept_as(key)
    )

    changed = await api.call("PUT", f"/v1/templates/{name}", json={**text, "body": "New {name}"})
    assert changed.status == 200
    await asyncio.sleep(KEPT_S + 0.1)
    mixed = await upload(api, data, key=key, **terms)
    assert (mixed.status, mixed.code) == (422, "upload_mismatch")
    assert (await api.get(f"/v1/batches/{row['id']}")).json["state"] == "loading"
    done = await upload(api, data, key=key, replace="true", **terms)
    assert (done.status, done.json["accepted"]) == (202, 9_000)


async def test_a_broken_upload_may_be_replaced(api):
    key, data = uuid.uuid4().hex, file_of(9_000)
    writer, row = await broken(api, data[: len(data) * 2 // 3], key, 4_000)
    writer.close()
    await until(
        api, "SELECT 1 FROM idempotency WHERE key = $1 AND locked_until <= now()", await api.kept_as(key)
    )
    done = await upload(api, file_of(10), key=key, replace="true", body="New {name}")
    assert (done.status, done.json["accepted"]) == (202, 10)
    assert done.json["id"] != row["id"]
    assert (await api.get(f"/v1/batches/{row['id']}")).json["state"] == "cancelled"


async def test_without_a_key_a_broken_upload_is_cancelled(api):
    data = file_of(9_000)
    writer, row = await broken(api, data[: len(data) * 2 // 3], None, 4_000, name="keyless")
    writer.close()
    await until(api, "SELECT 1 FROM batches WHERE id = $1::text::uuid AND state = 4", row["id"])


async def test_a_batch_that_was_cancelled_takes_no_more_rows(api):
    data = file_of(12_000)
    writer, row = await broken(api, data[: len(data) // 2], uuid.uuid4().hex, 4_000)
    assert (await api.post(f"/v1/batches/{row['id']}/cancel")).json["state"] == "cancelled"
    total = (await api.get(f"/v1/batches/{row['id']}")).json["total"]
    writer.write(data[len(data) // 2 :])
    await writer.drain()
    writer.close()
    assert (await api.post("/v1/messages", api.message())).status == 202
    assert (await api.get(f"/v1/batches/{row['id']}")).json["total"] == total


# -- cutting bytes into rows


@pytest.mark.parametrize("cut", [1, 2, 3, 7, 64, 10_000])
def test_rows_are_the_same_however_the_bytes_are_cut(cut):
    data = b'to,name\r\n1,"a\r\nb ""c"", d"\n\n2,5" pipe\n3,"open\nto the end'
    records = Records(quoted=True)
    found = []
    for start in range(0, len(data), cut):
        found += records.feed(data[start : start + cut])
    found += records.finish()
    assert [(one.line, one.whole) for one in found] == [(1, True), (2, True), (5, True), (6, False)]
    assert found[1].raw == b'1,"a\r\nb ""c"", d"' or found[1].raw == b'1,"a\nb ""c"", d"'
    assert found[2].raw == b'2,5" pipe'


def test_a_row_without_end_takes_bounded_memory():
    records = Records(quoted=False)
    for _ in range(100):
        assert records.feed(b"x" * 65_536) == []
    found = records.feed(b"x\nshort\n")
    assert [(one.line, one.whole) for one in found] == [(1, False), (2, True)]
    assert len(found[0].raw) == 16


HEADERS = [
    (b"to,name", b"1,x", "1", {"name": "x"}),
    (b"TO;name", b"1;x", "1", {"name": "x"}),
    (b"name\tphone", b"x\t1", "1", {"name": "x"}),
    (b' "to" ,name', b"1,x", None, None),
    (b"to,other", b"1,x", "1", None),
]


@pytest.mark.parametrize(("header", "row", "to", "variables"), HEADERS)
def test_headers(header, row, to, variables):
    reader = CsvRows({"name"})
    if to is None:
        with pytest.raises(Exception, match="malformed_row"):
            reader.header(header)
        return
    reader.header(header)
    recipient = reader.recipient(row)
    assert (recipient.to, recipient.variables) == (to, variables)


def test_an_ndjson_fault_names_its_place():
    assert NdjsonRows().recipient(b'{"to":"+1","variables":{"a":[]}}').pointer == "/variables"
