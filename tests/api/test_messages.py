"""POST and GET /v1/messages."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from app.domain import ids


def after(**delta: float) -> str:
    return (datetime.now(UTC) + timedelta(**delta)).isoformat()


async def test_a_message_is_found_right_after_its_202(api):
    posted = await api.post(
        "/v1/messages",
        api.message(
            body="Hi {name}, {n}",
            variables={"name": "Ann", "n": 1.5},
            client_reference="r-1",
            metadata={"order": 7, "vip": True},
            callback_url="https://example.com/hook",
        ),
    )
    assert posted.status == 202
    assert posted.json["state"] == "queued"
    assert posted.json["segments"] == 1
    found = await api.get(posted.json["url"])
    assert found.status == 200
    message = found.json
    assert message["id"] == posted.json["id"]
    assert message["to"] == "+12025550101"
    assert message["body"] == "Hi Ann, 1.5"
    assert message["state"] == "queued"
    assert (message["region"], message["country"]) == ("US", "US")
    assert message["client_reference"] == "r-1"
    assert message["metadata"] == {"order": 7, "vip": True}
    assert message["callback_url"] == "https://example.com/hook"
    assert (message["trace"], message["attempts"], message["gateway"]) == ([], [], None)


async def test_a_scheduled_message_is_deferred_until_its_time(api):
    when = after(hours=2)
    posted = await api.post("/v1/messages", api.message(scheduled_at=when))
    assert posted.json["state"] == "deferred"
    message = (await api.get(posted.json["url"])).json
    assert (message["state"], message["reason"]) == ("deferred", "scheduled")
    assert datetime.fromisoformat(message["until"]) == datetime.fromisoformat(when)


async def test_an_otp_expires_ten_minutes_after_it_is_due_unless_it_says_otherwise(api):
    otp = (await api.get((await api.post("/v1/messages", api.message(category="otp"))).json["url"])).json
    lasting = datetime.fromisoformat(otp["expires_at"]) - datetime.fromisoformat(otp["created_at"])
    assert timedelta(seconds=595) < lasting <= timedelta(seconds=601)
    other = (await api.get((await api.post("/v1/messages", api.message())).json["url"])).json
    assert other["expires_at"] is None


async def test_what_arrives_together_is_committed_together_and_each_has_its_own_text(api):
    before = await api.count("packs")
    replies = await asyncio.gather(
        *(api.post("/v1/messages", api.message(body=f"text {n}", to=f"+120255501{n:02}")) for n in range(60))
    )
    assert {reply.status for reply in replies} == {202}
    assert len({reply.json["id"] for reply in replies}) == 60
    assert await api.count("packs") - before < 60
    for n in (0, 17, 59):
        message = (await api.get(replies[n].json["url"])).json
        assert (message["body"], message["to"]) == (f"text {n}", f"+120255501{n:02}")


BAD = [
    # changes, code, pointer
    ({"to": "+1202555"}, "invalid_number", "/to"),
    ({"to": "12 monkeys"}, "invalid_number", "/to"),
    ({"to": None}, "required", "/to"),
    ({"to": 12025550101}, "wrong_type", "/to"),
    ({"category": None}, "required", "/category"),
    ({"category": "spam"}, "invalid_value", "/category"),
    ({"body": ""}, "empty_body", "/body"),
    ({"body": " \n "}, "empty_body", "/body"),
    ({"body": "{a}", "variables": {"a": " "}}, "empty_body", "/variables"),
    ({"body": None}, "body_or_template", "/body"),
    ({"template": "x"}, "unknown_template", "/template"),
    ({"body": None, "template": "x\x00"}, "nul_character", "/template"),
    ({"body": "é" * 1_600}, "body_too_long", "/body"),
    ({"body": "x" * 1_601}, "body_too_long", "/body"),
    ({"body": "Hi {name}"}, "missing_variable", "/variables/name"),
    ({"body": "Hi {name"}, "template_syntax", "/body"),
    ({"body": "Hi {a.b}", "variables": {"a": "x"}}, "template_syntax", "/body"),
    ({"body": "Hi {a}", "variables": {"a": "x" * 1_601}}, "too_long", "/variables/a"),
    ({"body": "Hi {a}", "variables": {"a": ["x"]}}, "wrong_type", "/variables"),
    ({"body": "Hi {a}", "variables": {"a": 10**2_000}}, "too_long", "/variables/a"),
    ({"body": "Hi {a}", "variables": {"a": True}}, "wrong_type", "/variables"),
    ({"body": "Hi {a}", "variables": {"a": None}}, "wrong_type", "/variables"),
    ({"variables": {str(n): "x" for n in range(65)}}, "too_long", "/variables"),
    ({"sender": "much too long a name"}, "invalid_sender", "/sender"),
    ({"sender": "Vœlley"}, "invalid_sender", "/sender"),
    ({"scheduled_at": "2020-01-01T00:00:00Z"}, "time_in_past", "/scheduled_at"),
    ({"scheduled_at": "2035-01-01T00:00:00"}, "invalid_time", "/scheduled_at"),
    ({"scheduled_at": "tomorrow"}, "invalid_time", "/scheduled_at"),
    ({"scheduled_at": "9999-12-31T23:59:59Z"}, "time_too_far", "/scheduled_at"),
    ({"scheduled_at": "0001-01-01T00:00:00+14:00"}, "time_in_past", "/scheduled_at"),
    ({"expires_at": "2020-01-01T00:00:00Z"}, "time_in_past", "/expires_at"),
    pytest.param(
        {"scheduled_at": after(days=2), "expires_at": after(days=1)},
        "invalid_time",
        "/expires_at",
        id="expires_before_it_is_due",
    ),
    ({"priority": 10}, "out_of_range", "/priority"),
    ({"priority": "1"}, "wrong_type", "/priority"),
    ({"client_reference": "x" * 256}, "too_long", "/client_reference"),
    ({"client_reference": "a\x00b"}, "nul_character", "/client_reference"),
    ({"metadata": {"a": {"b": 1}}}, "wrong_type", "/metadata"),
    ({"metadata": {"a": "x" * 501}}, "invalid_metadata", "/metadata"),
    ({"callback_url": "http://example.com/"}, "invalid_callback_url", "/callback_url"),
    ({"callback_url": "https://user:word@example.com/"}, "invalid_callback_url", "/callback_url"),
    ({"callback_url": "file:///etc/passwd"}, "invalid_callback_url", "/callback_url"),
    ({"callback_url": "https://[::1/"}, "invalid_callback_url", "/callback_url"),
    ({"callback_url": "https://v.example/\r\nX-Evil: 1"}, "invalid_callback_url", "/callback_url"),
    ({"callback_url": "https://v.example\\@127.0.0.1/"}, "invalid_callback_url", "/callback_url"),
    ({"bodi": "typo"}, "unknown_field", "/bodi"),
]


@pytest.mark.parametrize(("changes", "code", "pointer"), BAD, ids=lambda one: str(one)[:40])
async def test_a_bad_field_is_named_and_nothing_is_accepted(api, changes, code, pointer):
    before = await api.count("packs")
    made = api.message(**changes)
    if changes.get("template") == "x":
        made.pop("body")
    reply = await api.post("/v1/messages", made)
    assert (reply.status, reply.code) == (422, code)
    assert reply.json["errors"][0]["pointer"] == pointer
    assert await api.count("packs") == before


def nested(depth: int) -> bytes:
    return b'{"to":"+12025550101","metadata":' + b"[" * depth + b"]" * depth + b"}"


MALFORMED = [
    (b"", 400, "malformed_json"),
    (b"{", 400, "malformed_json"),
    (b"nothing", 400, "malformed_json"),
    (b'{"to": NaN}', 400, "malformed_json"),
    (b'{"to":"\xff"}', 400, "invalid_utf8"),
    (b'{"to":"+12025550101","category":"otp","body":"\\ud83d"}', 422, "lone_surrogate"),
    (b'{"to":"+12025550101","category":"otp","body":"\\ud83d x"}', 422, "lone_surrogate"),
    (b'{"to":"+12025550101","category":"otp","body":"a\\u0000b"}', 422, "nul_character"),
    (nested(10_000), 422, "wrong_type"),
    (b"[" * 20_000, 422, "wrong_type"),
    (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, 422, "unknown_field"),
    (
        b'{"to":"+12025550101","category":"otp","body":"{a}","variables":{"a":1' + b"0" * 6_000 + b"}}",
        422,
        "out_of_range",
    ),
    (b"[]", 422, "wrong_type"),
    (b"null", 422, "wrong_type"),
    (b'{"to":"+12025550101","to":"+12025550102","category":"otp","body":"x"}', 422, "duplicate_key"),
    (b'{"to":"+12025550101","category":"otp","body":"x"} {}', 400, "malformed_json"),
]


@pytest.mark.parametrize(("body", "status", "code"), MALFORMED, ids=lambda one: str(one)[:30])
async def test_a_malformed_body_is_told_what_is_wrong(api, body, status, code):
    reply = await api.raw("/v1/messages", body)
    assert (reply.status, reply.code) == (status, code)


async def test_a_literal_backslash_before_u0000_is_no_nul(api):
    reply = await api.raw(
        "/v1/messages",
        rb'{"to":"+12025550101","category":"otp","sender":"12025550199","body":"path C:\\u0000"}',
    )
    assert reply.status == 202


async def test_errors_never_repeat_numbers_or_texts(api):
    for made in (
        api.message(to="+1202555987654321000"),
        api.message(category="+12025559876"),
        api.message(body="secret {12025559876}"),
        api.message(**{"+12025559876": "x"}),
    ):
        reply = await api.post("/v1/messages", made)
        assert reply.status == 422
        assert b"5559876" not in reply.raw
        assert b"secret" not in reply.raw


async def test_a_body_over_the_limit_is_refused_while_it_comes(api):
    declared = await api.raw("/v1/messages", b'{"to":"' + b"1" * 70_000 + b'"}')
    assert (declared.status, declared.code) == (413, "request_too_large")

    async def endless():
        while True:
            yield b"1" * 65_536

    # without a length: the answer comes while we are still sending
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    head = f"POST /v1/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.key}\r\n"
    writer.write(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n")
    async for chunk in endless():
        writer.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        await writer.drain()
        try:
            line = await asyncio.wait_for(reader.readline(), 0.05)
            break
        except TimeoutError:
            continue
    assert b" 413 " in line
    writer.close()


async def test_a_half_sent_body_leaves_nothing(api):
    before = await api.count("packs")
    body = b'{"to":"+12025550101","category":"otp","sender":"12025550199","body":"x"}'
    _, writer = await asyncio.open_connection("127.0.0.1", api.port)
    head = f"POST /v1/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.key}\r\n"
    writer.write(head.encode() + b"Content-Length: %d\r\n\r\n" % (len(body) + 1) + body)
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert (await api.post("/v1/messages", api.message())).status == 202  # a whole one behind it
    assert await api.count("packs") == before + 1


async def test_a_content_type_that_is_not_json_is_refused(api):
    reply = await api.raw("/v1/messages", b"to=1", content_type="application/x-www-form-urlencoded")
    assert (reply.status, reply.code) == (415, "unsupported_media_type")


async def test_a_template_is_taken_by_name_and_version(api):
    for version, body in ((1, "One {name}"), (2, "Two {name}")):
        await api.fetch(
            "INSERT INTO templates (id, tenant_id, name, version, body, variables, created_by) "
            "VALUES (gen_random_uuid(), $1, 'hello', $2, $3, '{name}', 'test')",
            api.tenant_id,
            version,
            body,
        )
    for label, text, stored in (("hello", "Two A", "hello@2"), ("hello@1", "One A", "hello@1")):
        made = api.message(body=None, template=label, variables={"name": "A"})
        posted = await api.post("/v1/messages", made)
        assert posted.status == 202
        message = (await api.get(posted.json["url"])).json
        assert (message["body"], message["template"]) == (text, stored)
    missing = await api.post("/v1/messages", api.message(body=None, template="hello@3"))
    assert missing.code == "unknown_template"


async def test_a_finer_region_wins_by_its_longest_prefix(api):
    await api.fetch(
        "INSERT INTO regions (code, prefixes) VALUES ('US-DC', '{+1202}'), ('US-XX', '{1202555019}')"
    )
    region = "US"
    for _ in range(50):  # the table is read anew within a second
        posted = await api.post("/v1/messages", api.message())
        region = (await api.get(posted.json["url"])).json["region"]
        if region != "US":
            break
        await asyncio.sleep(0.05)
    assert region == "US-DC"
    posted = await api.post("/v1/messages", api.message(to="+12025550190"))
    assert (await api.get(posted.json["url"])).json["region"] == "US-XX"
    await api.fetch("DELETE FROM regions")


async def test_a_test_key_marks_its_messages(api):
    key = await api.tenant("testing", test=True)
    posted = await api.post("/v1/messages", api.message(), key=key)
    assert (await api.get(posted.json["url"], key=key)).json["test"] is True


async def test_the_tenants_default_sender_fills_in(api):
    posted = await api.post("/v1/messages", api.message(sender=None, to="+447911123456"))
    assert (await api.get(posted.json["url"])).json["sender"] == "Volley"
    plus = await api.post("/v1/messages", api.message(sender="+12025550199"))
    assert (await api.get(plus.json["url"])).json["sender"] == "12025550199"


# -- cancelling


async def test_a_waiting_message_is_cancelled_once_and_for_all(api):
    url = (await api.post("/v1/messages", api.message(scheduled_at=after(hours=1)))).json["url"]
    done = await api.post(f"{url}/cancel", {"reason": "typo"})
    assert (done.status, done.json["state"], done.json["reason"]) == (200, "cancelled", "requested")
    again = await api.post(f"{url}/cancel")
    assert (again.status, again.json["state"]) == (200, "cancelled")
    audited = await api.fetch(
        "SELECT reason FROM audit_log WHERE action = 'message.cancel' AND subject = $1", url[13:]
    )
    assert [row["reason"] for row in audited] == ["typo"]
    assert await api.fetch("SELECT 1 FROM parcels WHERE pack_id = $1", pack_of(url)) == []


async def test_a_cancelled_message_is_told_of(api):
    key = await api.tenant("tells")
    asked = {"url": "https://e.example/", "events": ["message.cancelled"]}
    endpoint = await api.post("/v1/webhooks", asked, key=key)
    assert endpoint.status == 201, endpoint.raw
    message = api.message(scheduled_at=after(hours=1), sender="12025550199")
    url = (await api.post("/v1/messages", message, key=key)).json["url"]
    for _ in range(2):
        assert (await api.post(f"{url}/cancel", key=key)).status == 200
    told = await api.fetch("SELECT event FROM webhook_deliveries WHERE message_id = $1", url[13:])
    assert [row["event"] for row in told] == ["message.cancelled"]


async def test_cancelling_one_of_a_pack_leaves_the_others(api):
    batch = await api.post(
        "/v1/batches",
        api.batch([{"to": f"+120255501{n:02}"} for n in range(10)], body="x", scheduled_at=after(hours=1)),
    )
    page = (await api.get(f"/v1/messages?batch={batch.json['id']}")).json["data"]
    url = f"/v1/messages/{page[3]['id']}"
    assert (await api.post(f"{url}/cancel")).json["state"] == "cancelled"
    states = {
        m["id"]: m["state"] for m in (await api.get(f"/v1/messages?batch={batch.json['id']}")).json["data"]
    }
    assert states.pop(page[3]["id"]) == "cancelled"
    assert set(states.values()) == {"deferred"}
    assert len(states) == 9
    view = (await api.get(batch.json["url"])).json
    assert (view["counts"]["cancelled"], view["counts"]["deferred"]) == (1, 9)
    assert view["accounting"] == {"accepted": 10, "final": 1, "open": 9, "difference": 0}


async def test_it_is_too_late_to_cancel_what_is_being_handed_over(api):
    url = (await api.post("/v1/messages", api.message())).json["url"]
    await api.fetch("UPDATE parcels SET lease_id = 1 WHERE pack_id = $1", pack_of(url))
    late = await api.post(f"{url}/cancel")
    assert (late.status, late.code) == (409, "too_late")
    assert (await api.get(url)).json["state"] == "queued"


async def test_a_carrier_that_takes_texts_back_is_asked_for_what_it_has(api):
    await api.fetch(
        "INSERT INTO gateways (name, url) VALUES ('takes_back', 'smpp://u:p@smsc.example?cancel_sm=true'),"
        " ('keeps', 'smpp://u:p@smsc.example') ON CONFLICT DO NOTHING"
    )
    gateways = {row["name"]: row["id"] for row in await api.fetch("SELECT id, name FROM gateways")}

    async def submitted(gateway: str, *kinds: int) -> str:
        url = (await api.post("/v1/messages", api.message())).json["url"]
        message_id = url.rpartition("/")[2]
        await api.fetch("DELETE FROM parcels WHERE pack_id = $1", pack_of(url))
        for attempt, kind in enumerate(kinds, 1):
            row = (message_id, attempt, gateways[gateway])
            await api.fetch("INSERT INTO attempts VALUES ($1, $2, 4, $3, 1, 1, now())", *row)
            outcome = "INSERT INTO outcomes VALUES ($1, $2, 0, 1, $3, $4, 0, 'c', NULL, NULL, now())"
            await api.fetch(outcome, *row, kind)
        return url

    url = await submitted("takes_back", 1)
    for _ in range(2):
        asked = await api.post(f"{url}/cancel", {"reason": "typo"})
        assert (asked.status, asked.json["state"], asked.json["recall"]) == (202, "submitted", "asked")
    audited = await api.fetch("SELECT action FROM audit_log WHERE subject = $1", url[13:])
    assert [row["action"] for row in audited] == ["message.recall"]
    await api.fetch("UPDATE recalls SET answer = 'refused'")
    refused = await api.post(f"{url}/cancel")
    assert (refused.status, refused.code) == (409, "too_late")
    assert (await api.get(url)).json["recall"] == "refused"
    # an attempt that was never answered may have reached the phone, whatever becomes of the other one
    for kept in (await submitted("keeps", 1), await submitted("takes_back", 4, 1)):
        late = await api.post(f"{kept}/cancel")
        assert (late.status, late.code) == (409, "too_late")
        assert (await api.get(kept)).json["recall"] is None


def pack_of(url: str):
    return UUID(bytes=ids.pack_of(ids.parse(url.rpartition("/")[2])))


# -- what became of it


async def test_attempts_outcomes_and_the_trace_are_shown(api):
    url = (await api.post("/v1/messages", api.message(body="x" * 200))).json["url"]
    message_id = url.rpartition("/")[2]
    await api.fetch("INSERT INTO gateways (name, url) VALUES ('sandbox', 'smpp://x') ON CONFLICT DO NOTHING")
    gateway = (await api.fetch("SELECT id FROM gateways WHERE name = 'sandbox'"))[0]["id"]
    await api.fetch("""INSERT INTO traces VALUES (7, '[["quiet_hours", "US.marketing", "3", "pass"]]') """)
    await api.fetch(
        "INSERT INTO decisions VALUES ($1, $2, 1, 7, now(), NULL)",
        pack_of(url),
        bytes([1 << ids.index_of(ids.parse(message_id))]),
    )
    await api.fetch("INSERT INTO attempts VALUES ($1, 1, 4, $2, 3, 1, now())", message_id, gateway)

    async def state() -> str:
        return (await api.get(url)).json["state"]

    assert await state() == "submitting"
    outcome = "INSERT INTO outcomes VALUES ($1, 1, $2, 2, $3, $4, 0, $5, NULL, NULL, now())"
    await api.fetch(outcome, message_id, 0, gateway, 1, "abc")
    assert await state() == "submitting"  # one segment is unanswered
    await api.fetch(outcome, message_id, 1, gateway, 1, "abd")
    await api.fetch("DELETE FROM parcels WHERE pack_id = $1", pack_of(url))
    message = (await api.get(url)).json
    assert (message["state"], message["gateway"], message["gateway_message_id"]) == (
        "submitted",
        "sandbox",
        "abc",
    )
    assert message["attempts"][0]["kind"] == "submitted"
    assert [one["segment"] for one in message["attempts"][0]["outcomes"]] == [1, 2]
    line = message["trace"][0]
    assert (line["check"], line["rule"], line["version"], line["verdict"]) == (
        "quiet_hours",
        "US.marketing",
        "3",
        "pass",
    )
    await api.fetch("INSERT INTO finals VALUES ($1, 10, NULL, 'DELIVRD', now())", message_id)
    final = (await api.get(url)).json
    assert (final["state"], final["carrier_status"]) == ("delivered", "DELIVRD")


async def test_an_unanswered_hand_over_is_unknown_and_a_refused_one_waits_for_its_retry(api):
    await api.fetch("INSERT INTO gateways (name, url) VALUES ('sandbox', 'smpp://x') ON CONFLICT DO NOTHING")
    url = (await api.post("/v1/messages", api.message())).json["url"]
    message_id, pack_id = url.rpartition("/")[2], pack_of(url)
    await api.fetch("INSERT INTO attempts VALUES ($1, 1, 4, 1, 1, 1, now())", message_id)
    await api.fetch(
        "INSERT INTO outcomes VALUES ($1, 1, 0, 1, 1, 3, 0, NULL, 'throttled', NULL, now())", message_id
    )
    await api.fetch(
        "UPDATE parcels SET attempt = 2, due_at = now() + interval '1 hour', reason = 'retry' WHERE pack_id = $1",
        pack_id,
    )
    waiting = (await api.get(url)).json
    assert (waiting["state"], waiting["reason"]) == ("deferred", "retry")
    await api.fetch("INSERT INTO attempts VALUES ($1, 2, 4, 1, 1, 1, now())", message_id)
    await api.fetch("DELETE FROM parcels WHERE pack_id = $1", pack_id)
    await api.fetch(
        "INSERT INTO outcomes VALUES ($1, 2, 0, 3, 1, 4, 0, NULL, 'timeout', NULL, now())", message_id
    )
    unknown = (await api.get(url)).json
    assert (unknown["state"], unknown["reason"]) == ("unknown", "timeout")
    assert unknown["segments"] == 3, "as the last gateway cut it"


# -- lists


async def test_lists_filter_and_page_without_gap_or_double(api):
    key = await api.tenant("lists")
    recipients = [
        {"to": f"+4479111234{n % 100:02}", "client_reference": f"ref-{n}", "variables": {"name": "x"}}
        for n in range(250)
    ]
    batch = (await api.post("/v1/batches", api.batch(recipients), key=key)).json
    other = (await api.post("/v1/messages", api.message(to="+447911123401"), key=key)).json
    seen: list[str] = []
    path = f"/v1/messages?batch={batch['id']}&limit=60"
    cursor = ""
    while True:
        page = (await api.get(path + cursor, key=key)).json
        assert len(page["data"]) <= 60
        seen += [one["id"] for one in page["data"]]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert len(seen) == len(set(seen)) == 250
    assert seen == sorted(seen, reverse=True)

    by_number = (await api.get("/v1/messages?to=%2B447911123401", key=key)).json["data"]
    assert len(by_number) == 4
    assert other["id"] in {one["id"] for one in by_number}
    unescaped = (await api.get("/v1/messages?to=+447911123401&limit=2", key=key)).json
    assert len(unescaped["data"]) == 2
    rest = (await api.get(f"/v1/messages?to=+447911123401&limit=2&cursor={unescaped['next']}", key=key)).json
    assert {one["id"] for one in unescaped["data"] + rest["data"]} == {one["id"] for one in by_number}

    by_reference = (await api.get("/v1/messages?reference=ref-77", key=key)).json["data"]
    assert [one["client_reference"] for one in by_reference] == ["ref-77"]
    in_batch = (await api.get(f"/v1/messages?to=+447911123401&batch={batch['id']}", key=key)).json["data"]
    assert len(in_batch) == 3
    everything = (await api.get("/v1/messages?limit=500", key=key)).json["data"]
    assert len(everything) == 251


async def test_a_list_by_state_and_time(api):
    key = await api.tenant("states")
    start = after(seconds=-1).replace("+", "%2B")
    waiting = (await api.post("/v1/messages", api.message(scheduled_at=after(hours=1)), key=key)).json
    queued = (await api.post("/v1/messages", api.message(), key=key)).json
    found = (await api.get(f"/v1/messages?state=deferred&created_from={start}", key=key)).json["data"]
    assert [one["id"] for one in found] == [waiting["id"]]
    found = (await api.get(f"/v1/messages?state=queued&created_from={start}", key=key)).json["data"]
    assert [one["id"] for one in found] == [queued["id"]]
    assert (await api.get(f"/v1/messages?created_until={start}", key=key)).json["data"] == []
    bare = await api.get("/v1/messages?state=queued", key=key)
    assert (bare.status, bare.json["errors"][0]["pointer"]) == (422, "query/state")


BAD_QUERIES = [
    ("limit=0", 422, "out_of_range"),
    ("limit=501", 422, "out_of_range"),
    ("limit=x", 422, "invalid_request"),
    ("recipent=x", 422, "invalid_request"),
    ("batch=x", 422, "invalid_value"),
    ("to=12", 422, "invalid_number"),
    ("reference=%00", 422, "nul_character"),
    ("created_from=2026-01-01T00:00:00", 422, "invalid_request"),
    ("created_from=0.5", 422, "invalid_value"),
    ("cursor=AAAA", 400, "invalid_cursor"),
    ("cursor=%F0%9F%98%80", 400, "invalid_cursor"),
]


@pytest.mark.parametrize(("query", "status", "code"), BAD_QUERIES)
async def test_a_bad_query_is_refused(api, query, status, code):
    reply = await api.get(f"/v1/messages?{query}")
    assert reply.status == status
    assert reply.code in (code, "invalid_request")


async def test_a_cursor_is_good_for_its_own_list_alone(api):
    await asyncio.gather(*(api.post("/v1/messages", api.message()) for _ in range(3)))
    cursor = (await api.get("/v1/messages?limit=1")).json["next"]
    assert (await api.get(f"/v1/messages?limit=2&cursor={cursor}")).status == 200
    assert (await api.get(f"/v1/messages?to=+12025550101&cursor={cursor}")).code == "invalid_cursor"
    key = await api.tenant("cursors")
    assert (await api.get(f"/v1/messages?cursor={cursor}", key=key)).code == "invalid_cursor"
    assert (await api.get(f"/v1/batches?cursor={cursor}")).code == "invalid_cursor"
