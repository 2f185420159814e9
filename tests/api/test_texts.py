"""How texts are written: smart encoding, the limit of segments, and what they would cost."""

from __future__ import annotations

CURLY = "“Hi” – {name}’s…"


async def post(api, **fields):
    reply = await api.post("/v1/messages", api.message(**fields))
    assert reply.status == 202, reply.raw
    return reply.json, (await api.get(reply.json["url"])).json


async def test_smart_encoding_shows_the_text_that_goes_and_what_was_replaced(api):
    posted, message = await post(api, body="“Hi” – you" + "x" * 80, smart_encoding=True)
    assert posted["segments"] == message["segments"] == 1
    goes = '"Hi" - you' + "x" * 80
    replaced = [
        {"character": "“", "replacement": '"', "times": 1},
        {"character": "”", "replacement": '"', "times": 1},
        {"character": "–", "replacement": "-", "times": 1},
    ]
    assert posted["smart_encoding"] == {"body": goes, "replaced": replaced}
    assert (message["body"], message["replaced"]) == (goes, replaced)


async def test_without_asking_nothing_is_replaced(api):
    for fields in ({}, {"smart_encoding": False}):
        posted, message = await post(api, body="“Hi”", **fields)
        assert "smart_encoding" not in posted
        assert (message["body"], message["replaced"]) == ("“Hi”", [])


async def test_what_would_stay_ucs2_goes_as_it_came_and_says_so(api):
    posted, message = await post(api, body="“Chào bạn”", smart_encoding=True)
    assert posted["smart_encoding"] == {"body": "“Chào bạn”", "replaced": []}
    assert (message["body"], message["replaced"]) == ("“Chào bạn”", [])


async def test_values_are_part_of_the_text(api):
    posted, message = await post(api, body=CURLY, variables={"name": "“Bo”"}, smart_encoding=True)
    assert message["body"] == '"Hi" - "Bo"\'s...'
    assert posted["smart_encoding"]["replaced"][0] == {"character": "“", "replacement": '"', "times": 2}
    _, message = await post(api, body=CURLY, variables={"name": "Bảo"}, smart_encoding=True)
    assert (message["body"], message["replaced"]) == ("“Hi” – Bảo’s…", [])
    _, message = await post(api, body="{a}{b}", variables={"a": "e", "b": "\u0301"}, smart_encoding=True)
    assert message["body"] == "é"
    _, message = await post(api, body="{{{a}}} ｛x｝", variables={"a": "｛"}, smart_encoding=True)
    assert message["body"] == "{{} {x}"


async def test_a_replay_shows_the_same(api):
    body = api.message(body="“Hi”", smart_encoding=True)
    first = await api.post("/v1/messages", body, idempotency_key="smart-1")
    again = await api.post("/v1/messages", body, idempotency_key="smart-1")
    assert first.json == again.json
    assert again.json["smart_encoding"]["body"] == '"Hi"'


async def test_a_batch_shows_its_body_and_each_message_its_own(api):
    people = [
        {"to": "+12025550101", "variables": {"name": "Ann"}},
        {"to": "+12025550102", "variables": {"name": "Bảo"}},
        {"to": "+12025550103", "variables": {"name": "“Cy”"}},
    ]
    reply = await api.post("/v1/batches", api.batch(people, body=CURLY, smart_encoding=True))
    assert reply.status == 202, reply.raw
    shown = reply.json["smart_encoding"]
    assert shown["body"] == '"Hi" - {name}\'s...'
    assert [one["character"] for one in shown["replaced"]] == ["“", "”", "–", "’", "…"]
    batch = (await api.get(reply.json["url"])).json
    assert (batch["body"], batch["smart_encoding"]) == (shown["body"], shown)
    listed = (await api.get(f"/v1/messages?batch={reply.json['id']}")).json["data"]
    messages = {m["to"]: (await api.get(f"/v1/messages/{m['id']}")).json for m in listed}
    assert {to: m["body"] for to, m in messages.items()} == {
        "+12025550101": '"Hi" - Ann\'s...',
        "+12025550102": "“Hi” – Bảo’s…",
        "+12025550103": '"Hi" - "Cy"\'s...',
    }
    assert [bool(messages[p["to"]]["replaced"]) for p in people] == [True, False, True]
    plain = await api.post("/v1/batches", api.batch(people))
    assert (await api.get(plain.json["url"])).json["smart_encoding"] is None


async def test_a_template_can_ask_for_it_and_a_message_decide_otherwise(api):
    made = await api.post("/v1/templates", {"name": "curly", "body": "“Hi”", "smart_encoding": True})
    assert (made.status, made.json["smart_encoding"]) == (201, True)
    _, message = await post(api, body=None, template="curly")
    assert message["body"] == '"Hi"'
    _, message = await post(api, body=None, template="curly", smart_encoding=False)
    assert message["body"] == "“Hi”"
    same = await api.call("PUT", "/v1/templates/curly", json={"body": "“Hi”", "smart_encoding": True})
    assert same.json["version"] == 1
    other = await api.call("PUT", "/v1/templates/curly", json={"body": "“Hi”"})
    assert (other.json["version"], other.json["smart_encoding"]) == (2, False)


async def test_a_text_over_the_limit_of_segments_is_rejected_and_never_cut(api):
    for body, most, status in (
        ("x" * 161, 1, 422),
        ("x" * 160, 1, 202),
        ("ạ" * 71, 1, 422),
        ("x" * 161, 2, 202),
    ):
        reply = await api.post("/v1/messages", api.message(body=body, max_segments=most))
        assert reply.status == status, (len(body), most)
        if status == 422:
            assert reply.code == "invalid_request" or reply.json["errors"][0]["code"] == "body_too_long"
            assert reply.json["errors"][0]["detail"] == f"2 segments; at most {most} are allowed"
    assert (await api.post("/v1/messages", api.message(max_segments=11))).status == 422
    assert (await api.post("/v1/messages", api.message(body="x" * 1_531))).status == 422
    people = [{"to": "+12025550101", "variables": {"name": n}} for n in ("Ann", "x" * 160)]
    reply = await api.post("/v1/batches", api.batch(people, max_segments=1))
    assert (reply.status, reply.json["accepted"]) == (202, 1)
    assert [(r["index"], r["code"]) for r in reply.json["rejected"]] == [(1, "body_too_long")]


async def test_a_tenant_may_have_a_lower_limit(api):
    key = await api.tenant("short texts")
    await api.fetch(
        "UPDATE tenants SET settings = settings || '{\"max_segments\": 1}' WHERE name = 'short texts'"
    )
    long = api.message(body="x" * 161)
    for body in (long, {**long, "max_segments": 5}):
        reply = await api.post("/v1/messages", body, key=key)
        assert (reply.status, reply.json["errors"][0]["code"]) == (422, "body_too_long")


async def test_shift_tables_are_kept_with_the_pack(api):
    await post(api, body="ş", shift_tables=True)
    await post(api, body="ş")
    reply = await api.post("/v1/batches", api.batch([{"to": "+12025550101"}], body="ş", shift_tables=True))
    batch = (await api.get(reply.json["url"])).json
    assert (batch["shift_tables"], batch["max_segments"]) == (True, None)


async def estimated(api, **fields):
    reply = await api.post("/v1/texts/estimate", fields)
    assert reply.status == 200, reply.raw
    return reply.json


VIETNAMESE = "Xin chào {name}, đơn hàng của bạn đã được giao thành công lúc 10 giờ sáng nay. Cảm ơn!"


async def test_an_estimate_shows_what_accents_cost_for_all_recipients(api):
    found = await estimated(api, body=VIETNAMESE, variables={"name": "Ngọc"}, recipient_count=1000)
    assert found["text"] == VIETNAMESE.replace("{name}", "Ngọc")
    assert (found["size"]["encoding"], found["size"]["segments"], found["size"]["unit"]) == (
        "ucs2",
        2,
        "utf16_units",
    )
    assert (found["recipients"], found["total_segments"], found["by_segments"]) == (1000, 2000, {"2": 1000})
    (bare,) = [one for one in found["alternatives"] if one["kind"] == "without_accents"]
    assert bare["text"].startswith("Xin chao Ngoc, don hang cua ban da duoc")
    assert (bare["size"]["segments"], bare["saved"], bare["total_segments"]) == (1, 1, 1000)
    assert found["forcing"][0]["character"] == "ọ"
    assert "without accents: 1 instead of 2 segments" in found["advice"]
    over = found["size"]["units_over"]
    assert found["advice"][-1] == f"{over} UTF-16 units less: 1 instead of 2 segments"


async def test_an_estimate_counts_each_recipient_with_its_values(api):
    people = [{"variables": {"name": name}} for name in ("An", "Nguyễn " * 10, "Bo")]
    found = await estimated(api, body="Chào {name}, " + "x" * 50, recipients=people)
    assert (found["recipients"], found["by_segments"], found["total_segments"]) == (3, {"1": 2, "2": 1}, 4)
    assert found["too_long"] == 0
    assert (await estimated(api, body="{name}", recipients=[{"variables": {"name": "ạ" * 700}}]))[
        "too_long"
    ] == 1


async def test_an_estimate_of_a_template_with_smart_encoding(api):
    await api.post("/v1/templates", {"name": "sale", "body": "“Sale” – {n} %"})
    found = await estimated(api, template="sale", variables={"n": 20}, smart_encoding=True)
    assert (found["text"], found["size"]["encoding"]) == ('"Sale" - 20 %', "gsm7")
    assert [one["character"] for one in found["replaced"]] == ["“", "”", "–"]
    found = await estimated(api, template="sale", variables={"n": 20})
    assert [one["kind"] for one in found["alternatives"]] == ["smart_encoding"]
    assert found["alternatives"][0]["saved"] == 0


async def test_an_estimate_by_a_gateway_and_by_a_country(api):
    async with api.database.driver() as driver:
        await driver.execute(
            "INSERT INTO gateways (name, url, settings) VALUES"
            " ('turk', 'smpp://u:p@127.0.0.1:2775?shift_tables=asked&concat=udh16', '{}')"
            " ON CONFLICT DO NOTHING"
        )
        await driver.execute("INSERT INTO routes (position, \"to\", gateways) VALUES (9000, 'TR', '{turk}')")
    text = "ş" * 100
    assert (await estimated(api, body=text, gateway="turk"))["size"]["segments"] == 2
    for where in ({"gateway": "turk"}, {"country": "TR"}):
        found = await estimated(api, body=text, shift_tables=True, **where)
        assert found["gateway"] == "turk"
        assert (found["size"]["segments"], found["size"]["languages"]) == (1, ["turkish"])
    assert b"127.0.0.1" not in (await api.post("/v1/texts/estimate", {"body": "x", "gateway": "turk"})).raw


async def test_an_estimate_that_makes_no_sense_is_refused(api):
    for fields, pointer, code in (
        ({"body": "x", "template": "y"}, "", "invalid_value"),
        ({}, "", "invalid_value"),
        ({"body": "{name}"}, "/variables/name", "missing_variable"),
        ({"body": "{name}", "recipients": [{}]}, "/recipients/0/variables/name", "missing_variable"),
        ({"body": "{"}, "/body", "template_syntax"),
        ({"body": " "}, "/body", "empty_body"),
        ({"body": "x", "gateway": "nowhere"}, "/gateway", "invalid_value"),
        ({"template": "nothing"}, "/template", "unknown_template"),
        ({"body": "x", "recipients": [{}] * 501}, "/recipients", "too_long"),
    ):
        reply = await api.post("/v1/texts/estimate", fields)
        assert reply.status == 422, fields
        error = reply.json["errors"][0]
        assert (error["pointer"], error["code"]) == (pointer, code), error
    reader = await api.tenant("only reads", ("read",))
    assert (await api.post("/v1/texts/estimate", {"body": "x"}, key=reader)).status == 403
