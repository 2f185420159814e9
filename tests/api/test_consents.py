"""Consents, do-not-call lists, keywords, surveys, shared budgets and erasures over the API."""

from __future__ import annotations

import resource
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import msgspec
import pytest

from app import rules
from app.domain.pack import decode_pack
from app.domain.recipient import hash_of
from app.queue import rules as fast
from app.queue.connection import Queue
from app.store import epochs

KR, US, VN = "+821023456789", "+12025550101", "+84912345678"


def ago(**span: float) -> str:
    return (datetime.now(UTC) - timedelta(**span)).isoformat()


@pytest.fixture
async def queue(api: Any, redis_url: str) -> Any:
    """Redis' copy as a dispatcher builds it."""
    queue = Queue(redis_url)
    async with api.database.driver() as driver:
        queue.attach(await epochs.start(driver, await queue.run_id()))
        await queue.load()
        await rules.load_copy(driver, queue)
        await epochs.finish(driver, queue.epoch)
    yield queue
    await queue.close()


async def letter(api: Any, queue: Queue, e164: str, **of: Any) -> str:
    [(key,)] = await api.fetch("SELECT hash_key FROM tenants WHERE id = $1", api.tenant_id)
    asked = fast.Question(tenant_id=api.tenant_id, sender="S", recipients=[hash_of(bytes(key), e164)], **of)
    return (await fast.check(queue, [asked]))[0].letters


async def test_did_we_hold_consent_then_and_by_which_event(api: Any) -> None:
    path = "/v1/consents/at?to=%2B12025550101&at="

    async def at(moment: str) -> dict[str, Any]:
        reply = await api.get(path + moment.replace("+", "%2B"))
        assert reply.status == 200, reply.raw
        return reply.json

    given, taken = ago(days=30), ago(days=10)
    body = {"to": US, "at": given, "source": "web", "evidence": {"text_shown": "I agree", "ip": "192.0.2.1"}}
    assert (await api.post("/v1/consents", body)).status == 201
    await api.post("/v1/consents", {"to": US, "status": "withdrawn", "at": taken})
    before, between, after = await at(ago(days=31)), await at(ago(days=20)), await at(ago(days=1))
    assert (before["held"], before["reason"], before["event"]) == (False, "none", None)
    assert (between["held"], between["event"]["evidence"]["text_shown"]) == (True, "I agree")
    assert between["recorded_by_then"] is False, "it was told to us only now"
    assert (after["held"], after["reason"], after["event"]["kind"]) == (False, "withdrawn", "withdrawn")
    await api.post("/v1/suppressions", {"to": US})
    assert [one["kind"] for one in (await at(datetime.now(UTC).isoformat()))["suppressed"]] == ["suppressed"]
    assert (await at(ago(days=1)))["suppressed"] == []
    assert (await api.get("/v1/consents/at?to=%2B12025550101&at=2026-05-03T10:00:00")).status == 422, (
        "no zone"
    )


async def test_what_the_ledger_keeps_beside_the_evidence_is_not_taken_from_it(api: Any) -> None:
    for evidence in ({"kind": "nonsense"}, {"expires_at": "soon"}):
        reply = await api.post("/v1/consents", {"to": US, "evidence": evidence})
        assert (reply.status, reply.json["errors"][0]["pointer"]) == (422, "/evidence")


async def test_a_grant_by_a_clock_ahead_of_ours_does_not_outweigh_a_withdrawal(
    api: Any, queue: Queue
) -> None:
    to = "+12025550153"
    assert (await api.post("/v1/consents", {"to": to, "at": ago(seconds=-50)})).status == 201
    assert (await api.call("DELETE", "/v1/consents/%2B12025550153")).json["status"] == "withdrawn"
    assert await letter(api, queue, to, need_consent=True) == "n"


@pytest.mark.parametrize("at", ["9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00%2B14:00"])
async def test_a_moment_that_no_calendar_has_is_refused(api: Any, at: str) -> None:
    assert (await api.get(f"/v1/consents/at?to=%2B12025550101&at={at}")).status == 422
    assert (await api.get(f"/v1/countries/FR?at={at}")).status == 422
    for field in ("at", "expires_at"):
        body = {"to": US, field: at.replace("%2B", "+")}
        assert (await api.post("/v1/consents", body)).status == 422


async def test_a_consent_that_ends_before_it_is_given_is_refused(api: Any) -> None:
    for given in ({}, {"at": ago(days=2)}):
        reply = await api.post("/v1/consents", {"to": US, "expires_at": ago(days=3), **given})
        assert (reply.status, reply.code) == (422, "invalid_time")
    over = {"to": US, "at": ago(days=3), "expires_at": ago(days=2), "brand": "over"}  # history
    assert (await api.post("/v1/consents", over)).status == 201


async def test_a_brands_word_and_the_tenants(api: Any) -> None:
    to = "+12025550102"
    await api.post("/v1/consents", {"to": to, "at": ago(days=9)})
    await api.post("/v1/consents", {"to": to, "brand": "hats", "status": "withdrawn", "at": ago(days=5)})
    query = f"/v1/consents/at?to=%2B12025550102&at={ago(days=1).replace('+', '%2B')}"
    assert (await api.get(query)).json["held"] is True
    assert (await api.get(query + "&brand=hats")).json["held"] is False
    assert (await api.get(query + "&brand=shoes")).json["held"] is True


async def test_a_korean_consent_lapses_after_two_years_and_is_listed_ahead(api: Any, queue: Queue) -> None:
    ages = {"need_consent": True, "ages": (730 * 86_400, 180 * 86_400, -1)}
    old, soon, fresh = (f"+82102345678{n}" for n in range(3))
    for to, days in ((old, 731), (soon, 720), (fresh, 5)):
        await api.post("/v1/consents", {"to": to, "at": ago(days=days)})
    assert [await letter(api, queue, to, **ages) for to in (old, soon, fresh)] == ["x", ".", "."]
    [one] = (await api.get("/v1/consents/expiring?within_days=30")).json["data"]
    assert one["to"] == soon
    assert (
        timedelta(days=9) < datetime.fromisoformat(one["expires_at"]) - datetime.now(UTC) < timedelta(days=11)
    )
    query = f"/v1/consents/at?to=%2B{old[1:]}&at={ago(days=0).replace('+', '%2B')}"
    assert (await api.get(query)).json["reason"] == "expired"
    await api.post("/v1/consents", {"to": US, "expires_at": ago(days=-3), "brand": "own-end"})
    listed = (await api.get("/v1/consents/expiring?within_days=4")).json["data"]
    assert [(one["to"], one["brand"]) for one in listed] == [(US, "own-end")]


async def test_an_earlier_sale_does_only_where_the_country_says_so(api: Any) -> None:
    for to in ("+14165550123", VN):  # Canada takes it for two years, Viet Nam does not
        await api.post("/v1/consents", {"to": to, "kind": "soft", "at": ago(days=100)})
    now = ago(days=0).replace("+", "%2B")
    canada = (await api.get(f"/v1/consents/at?to=%2B14165550123&at={now}")).json
    vietnam = (await api.get(f"/v1/consents/at?to=%2B84912345678&at={now}")).json
    assert (canada["held"], canada["rule"]) == (True, "CA.consent")
    assert (vietnam["held"], vietnam["reason"]) == (False, "not_accepted")


async def test_consents_go_out_and_come_in_with_their_evidence(api: Any) -> None:
    key = await api.tenant("exporting")
    other = await api.tenant("importing")
    rows = [
        {"to": US, "at": "2026-01-01T00:00:00+00:00", "evidence": {"form": 'a,b\n"c"'}, "source": "web"},
        {"to": VN, "at": "2026-01-02T00:00:00+00:00", "status": "withdrawn", "brand": "hats"},
        {
            "to": KR,
            "at": "2026-01-03T00:00:00+00:00",
            "kind": "soft",
            "expires_at": "2027-01-01T00:00:00+00:00",
        },
    ]
    await api.post("/v1/consents/bulk", {"consents": rows}, key=key)
    for file, media in (("ndjson", "application/x-ndjson"), ("csv", "text/csv")):
        out = await api.get(f"/v1/consents/export?file={file}", key=key)
        assert out.headers["content-type"].startswith(media)
        taken = await api.call(
            "POST", "/v1/consents/import", data=out.raw, key=other, headers={"content-type": media}
        )
        assert (taken.json["accepted"], taken.json["rejected"]) == (3, []), (file, out.raw)
    again = await api.get("/v1/consents/export", key=other)
    lines = [msgspec.json.decode(line) for line in again.raw.splitlines()][:3]
    assert {one["to"]: one.get("evidence") for one in lines}[US] == {"form": 'a,b\n"c"'}
    assert {one["to"]: (one["status"], one.get("brand")) for one in lines}[VN] == ("withdrawn", "hats")
    assert {one["to"]: (one.get("kind"), one.get("expires_at")) for one in lines}[KR] == (
        "soft",
        rows[2]["expires_at"],
    )


async def test_a_field_that_a_spreadsheet_would_run_is_quoted(api: Any) -> None:
    key = await api.tenant("formulas")
    await api.post("/v1/consents", {"to": US, "source": "=cmd|' /C calc'!A0"}, key=key)
    out = await api.get("/v1/consents/export?file=csv", key=key)
    assert b"'=cmd" in out.raw
    assert b",=cmd" not in out.raw


async def test_a_pending_consent_asks_by_a_text_and_holds_nothing(api: Any) -> None:
    to = "+12025550133"
    reply = await api.post(
        "/v1/consents",
        {"to": to, "status": "pending", "confirm": {"sender": "12025550199"}, "evidence": {"form": "f"}},
    )
    assert (reply.status, reply.json["status"]) == (201, "pending")
    [(payload,)] = await api.fetch(
        "SELECT p.payload FROM consent_requests c JOIN packs p ON p.id <= c.message_id"
        " ORDER BY c.asked_at DESC, p.id DESC LIMIT 1"
    )
    pack = decode_pack(payload)
    assert (pack.entries[0].to, pack.category, pack.sender) == (to, 2, "12025550199")
    assert "YES" in pack.body
    found = (await api.get("/v1/consents/%2B12025550133")).json["data"]
    assert [one["status"] for one in found] == ["pending"]
    again = {"to": to, "status": "pending", "confirm": {"sender": "12025550199"}}
    refused = await api.post("/v1/consents", again)
    assert (refused.status, refused.code) == (409, "asked_already"), "asked once a day"
    assert (await api.post("/v1/consents", {**again, "brand": "hats"})).status == 201
    assert (await api.post("/v1/consents", {"to": to, "status": "pending"})).status == 422
    body = {"to": to, "confirm": {"sender": "1"}}
    assert (await api.post("/v1/consents", body)).status == 422, "only a pending one is confirmed"


async def test_the_question_is_ours_in_a_language_of_choice(api: Any) -> None:
    async def ask(to: str, **confirm: str) -> Any:
        body = {"to": to, "status": "pending", "confirm": {"sender": "12025550199", **confirm}}
        return await api.post("/v1/consents", body)

    advertisement = await ask("+12025550134", text="Big sale at https://example.com")
    assert (advertisement.status, advertisement.json["errors"][0]["pointer"]) == (422, "/confirm/text")
    assert (await ask("+12025550134", language="es")).status == 201
    [(evidence,)] = await api.fetch("SELECT evidence FROM consent_requests ORDER BY id DESC LIMIT 1")
    assert "Responda SI" in evidence["confirmation_text"]
    unknown = await ask("+12025550135", language="tlh")
    assert (unknown.status, unknown.json["errors"][0]["pointer"]) == (422, "/confirm/language")


# -- do-not-call lists


async def import_list(api: Any, path: str, file: str) -> Any:
    return await api.call("POST", path, data=file.encode(), headers={"content-type": "text/csv"})


async def test_a_list_is_imported_replaced_and_removed(api: Any, queue: Queue) -> None:
    path = "/v1/registries/US/import?format=us_national"
    first = await import_list(api, path, "202,5550111\n202,5550112\nnot,anumber\n")
    assert (first.json["accepted"], first.json["new"], first.json["rejected_count"]) == (2, 2, 1)
    assert b"5550111" not in first.raw
    one, two = "+12025550111", "+12025550112"
    assert [await letter(api, queue, to, registry="US") for to in (one, two, "+12025550113")] == [
        "d",
        "d",
        ".",
    ]
    assert await letter(api, queue, one) == ".", "it is about marketing only"
    [stored] = (await api.get("/v1/registries")).json["data"]
    assert (stored["country"], stored["entries"], stored["stale"]) == ("US", 2, False)
    until = datetime.fromisoformat(stored["valid_until"]) - datetime.fromisoformat(stored["as_of"])
    assert until == timedelta(days=31), "as the country's rules say"
    assert (await import_list(api, path, "202,5550112\n")).json["new"] == 0
    assert [await letter(api, queue, to, registry="US") for to in (one, two)] == [".", "d"]
    assert (await api.call("DELETE", "/v1/registries/US?reason=r")).status == 204
    assert await letter(api, queue, two, registry="US") == "."
    assert (await api.call("DELETE", "/v1/registries/US?reason=r")).status == 404


async def test_numbers_in_national_form_and_columns_of_choice(api: Any, queue: Queue) -> None:
    viet = await import_list(
        api, "/v1/registries/VN/import", "0912345678\n84912345679\n+84912345670\n+12025550101\n"
    )
    assert (viet.json["accepted"], viet.json["rejected"][0]["code"]) == (3, "invalid_number")
    numbers = ("+84912345678", "+84912345679", "+84912345670")
    assert [await letter(api, queue, to, registry="VN") for to in numbers] == ["d", "d", "d"]
    file = "Number,No Voice,No Text\n81234567,Y,N\n81234568,N,Y\n"
    path = "/v1/registries/SG/import?column=Number&only=No%20Text%3DY"
    assert (await import_list(api, path, file)).json["accepted"] == 2
    assert [await letter(api, queue, to, registry="SG") for to in ("+6581234567", "+6581234568")] == [
        ".",
        "d",
    ]
    bad = await import_list(api, path, "Telephone\n81234567\n")
    assert (bad.status, bad.code) == (422, "malformed_row")
    assert (await import_list(api, "/v1/registries/ZZ/import", "1\n")).status == 422


async def test_registers_own_forms_are_read_by_the_import(api: Any, queue: Queue) -> None:
    canada = await import_list(
        api, "/v1/registries/CA/import?format=ca_national", "416,5550111\n4165550112\n"
    )
    assert canada.json["accepted"] == 2
    assert [await letter(api, queue, f"+1416555011{n}", registry="CA") for n in (1, 2, 3)] == ["d", "d", "."]
    tps = "02073787244 \r\n0207 3787245\r\n07860 338653\r\n"
    britain = await import_list(api, "/v1/registries/GB/import?format=uk_tps", tps)
    assert (britain.json["accepted"], britain.json["rejected_count"]) == (3, 0)
    assert await letter(api, queue, "+447860338653", registry="GB") == "d"
    other = await import_list(api, "/v1/registries/GB/import?format=us_national", "202,5550111\n")
    assert (other.status, other.json["errors"][0]["pointer"]) == (422, "query/format")
    assert await letter(api, queue, "+447860338653", registry="GB") == "d"
    for country in ("CA", "GB"):
        await api.call("DELETE", f"/v1/registries/{country}?reason=r")


async def test_a_stale_list_says_so_and_holds(api: Any, queue: Queue) -> None:
    await import_list(api, f"/v1/registries/HK/import?as_of={ago(days=40).replace('+', '%2B')}", "91234567\n")
    [stored] = [one for one in (await api.get("/v1/registries")).json["data"] if one["country"] == "HK"]
    assert stored["stale"] is True
    assert await letter(api, queue, "+85291234567", registry="HK") == "d"


# -- keywords


@pytest.mark.parametrize(
    "word", ["STOP", "stopp", "arrêt", "TD", "Ｓｔｏｐ", "help", "start", "退订", "TC", "yes"]
)
async def test_no_keyword_shadows_a_stop_a_start_or_a_help(api: Any, word: str) -> None:
    reply = await api.post("/v1/keywords", {"keyword": word, "reply": "x"})
    assert (reply.status, reply.json["errors"][0]["code"]) == (422, "reserved_keyword")


async def test_keywords_are_made_once_a_sender_and_removed(api: Any) -> None:
    made = await api.post("/v1/keywords", {"keyword": "GIFT", "reply": "Your code is 1"})
    assert made.status == 201
    assert (await api.post("/v1/keywords", {"keyword": "gift!", "reply": "x"})).status == 409
    assert (
        await api.post("/v1/keywords", {"keyword": "gift", "sender": "36180", "reply": "x"})
    ).status == 201
    assert (await api.post("/v1/keywords", {"reply": "Call us"})).json["keyword"] is None
    assert len((await api.get("/v1/keywords")).json["data"]) == 3
    assert (await api.call("DELETE", f"/v1/keywords/{made.json['id']}")).status == 204
    assert (await api.call("DELETE", f"/v1/keywords/{made.json['id']}")).status == 404


async def test_a_survey_has_words_for_its_options_and_counts(api: Any) -> None:
    body = {
        "name": "pizza", "question": "Pizza?", "sender": "12025550199",
        "options": {"Yes": ["yes", "1"], "No": ["2"]}, "reply": "Thanks",
    }  # fmt: skip
    made = await api.post("/v1/surveys", body)
    assert (made.status, made.json["counts"]) == (201, {"Yes": 0, "No": 0})
    assert made.json["options"] == body["options"]
    assert (await api.post("/v1/surveys", body)).status == 409
    taken = {**body, "name": "other", "options": {"A": ["2"]}}
    assert (await api.post("/v1/surveys", taken)).status == 409, (
        "another open survey of that sender has the word"
    )
    stop = {**body, "name": "third", "options": {"A": ["stop"]}}
    assert (await api.post("/v1/surveys", stop)).status == 422
    path = f"/v1/surveys/{made.json['id']}"
    assert (await api.get(f"{path}/answers")).json["data"] == []
    assert (await api.post(f"{path}/end", {})).json["ends_at"] is not None
    assert (await api.post("/v1/surveys", taken)).status == 201
    assert (await api.get(path)).json["options"] == body["options"], "what was asked stays readable"


# -- tenants' limits and organisations


async def test_a_tenants_limits_and_its_organisation(api: Any, queue: Queue) -> None:
    made = await api.post(
        "/v1/organisations", {"name": "group", "budget": {"max": 3, "per_s": 86400, "reserved": 1}}
    )
    assert made.status == 201, made.raw
    settings = {
        "frequency_cap": {"max": 2, "per_s": 3600}, "campaign_cap": {"max": 1, "per_s": 86400},
        "duplicate_window_s": 600, "stop_scope": "brand", "organisation": made.json["id"],
    }  # fmt: skip
    tenant = await api.post("/v1/tenants", {"name": "dept", "settings": settings})
    assert tenant.status == 201, tenant.raw
    shown = {k: v for k, v in tenant.json["settings"].items() if v is not None}
    assert shown == settings
    path = f"/v1/organisations/{made.json['id']}"
    assert (await api.get(path)).json["tenants"] == [tenant.json["id"]]
    bad = {"settings": {"organisation": 999}, "reason": "r"}
    assert (await api.call("PATCH", f"/v1/tenants/{tenant.json['id']}", json=bad)).status == 422
    budget = {"max": 1, "per_s": 60, "reserved": 1}
    assert (await api.call("PATCH", path, json={"budget": budget, "reason": "r"})).status == 422
    assert (await api.call("PATCH", path, json={"budget": None, "reason": "r"})).json["budget"] is None
    budget = fast.Budget(made.json["id"], [b"x" * 8], 1, 60_000)
    assert (
        await letter(api, queue, "+12025550113", keep_ms=60_000, tokens=[b"12345678"], budget=budget) == "."
    )


# -- the ledger


async def test_the_ledger_can_only_grow(api: Any) -> None:
    import asyncpg  # noqa: PLC0415

    await api.post("/v1/consents", {"to": US})
    for statement in ("UPDATE rule_events SET actor = 'x'", "DELETE FROM rule_events"):
        with pytest.raises(asyncpg.RaiseError):
            await api.fetch(statement)


async def test_a_suppression_is_in_the_ledger_once_however_often_its_file_is_sent(api: Any) -> None:
    file, headers = b"to\n+12025550166\n", {"content-type": "text/csv"}
    for _ in range(3):
        await api.call("POST", "/v1/suppressions/import", data=file, headers=headers)
    events = (await api.get("/v1/suppressions/%2B12025550166")).json["events"]
    assert [one["kind"] for one in events] == ["suppressed"]


async def test_suppressions_go_out_and_come_in(api: Any, queue: Queue) -> None:
    key, other = await api.tenant("leaving"), await api.tenant("arriving")
    stops: list[dict[str, Any]] = [
        {"to": US, "reason": '=cmd, "x"'}, {"to": VN, "sender": "12025550199"}, {"to": KR, "brand": "hats"},
    ]  # fmt: skip
    await api.post("/v1/suppressions/bulk", {"suppressions": stops}, key=key)
    both = await api.post("/v1/suppressions", {"to": US, "sender": "1", "brand": "hats"}, key=key)
    assert (both.status, both.json["errors"][0]["pointer"]) == (422, "/brand")
    for file, media in (("ndjson", "application/x-ndjson"), ("csv", "text/csv")):
        out = await api.get(f"/v1/suppressions/export?file={file}", key=key)
        assert out.headers["content-type"].startswith(media)
        headers = {"content-type": media}
        taken = await api.call("POST", "/v1/suppressions/import", data=out.raw, key=other, headers=headers)
        assert (taken.json["accepted"], taken.json["rejected"]) == (3, []), (file, out.raw)
    listed = (await api.get("/v1/suppressions", key=other)).json["data"]
    assert {(one["to"], one["sender"], one["brand"]) for one in listed} == {
        (US, None, None), (VN, "12025550199", None), (KR, None, "hats"),
    }  # fmt: skip
    assert (await api.call("DELETE", "/v1/suppressions/%2B821023456789", key=other)).status == 404
    assert (await api.call("DELETE", "/v1/suppressions/%2B821023456789?brand=hats", key=other)).status == 200


@pytest.mark.soak
async def test_a_million_suppressions_in_bounded_memory(api: Any, queue: Queue) -> None:
    await import_suppressions(api, 1_000_000)


async def test_a_file_of_suppressions_is_taken_in_pieces(api: Any, queue: Queue) -> None:
    await import_suppressions(api, 10_000)


async def import_suppressions(api: Any, n: int) -> None:
    """The file is made as it is sent, and the server, in this process, keeps no more of it than a chunk."""
    piece = 5_000

    async def file() -> AsyncIterator[bytes]:
        yield b"to\n"
        for start in range(0, n, piece):
            yield b"".join(b"+8491%07d\n" % number for number in range(start, start + piece))

    key = await api.tenant(f"large {n}")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    taken = await api.session.post(
        f"{api.url}/v1/suppressions/import",
        data=file(),
        headers={"authorization": f"Bearer {key}", "content-type": "text/csv"},
        timeout=aiohttp.ClientTimeout(total=None),
    )
    answer = await taken.json()
    assert (answer["accepted"], answer["new"]) == (n, n)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 64 * 1024


@pytest.mark.parametrize("path", ["/v1/keywords", "/v1/surveys", "/v1/erasures"])
async def test_a_list_read_one_by_one_is_the_list(api: Any, path: str) -> None:
    for n in range(3):
        word = f"page{n}"
        await api.post("/v1/keywords", {"keyword": word, "reply": "x"})
        survey = {"name": word, "question": "?", "sender": "12025550198", "options": {"A": [f"a{n}"]}}
        await api.post("/v1/surveys", {**survey, "reply": "x"})
        await api.post("/v1/erasures", {"to": f"+1202555017{n}"})
    whole = [one["id"] for one in (await api.get(path)).json["data"]]
    assert len(whole) >= 3
    found, cursor = [], ""
    while cursor is not None:
        page = (await api.get(f"{path}?limit=1" + (f"&cursor={cursor}" if cursor else ""))).json
        found += [one["id"] for one in page["data"]]
        cursor = page["next"]
    assert found == whole
