"""/v1/countries: reading the packs, asking them about a time, and putting one's own in place."""

from __future__ import annotations

import asyncio
import re
import time
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

import pytest

FR = files("app.countries").joinpath("rules", "FR.toml").read_text("utf-8")


NOON = "Wednesday 2027-02-17 12:00, marketing: send until Wednesday 2027-02-17 13:00"


def with_tests(content: str, *cases: str) -> str:
    listed = "\n".join(f'    "{case}",' for case in cases)
    return re.sub(r"(?ms)^tests = \[.*?^\]", f"tests = [\n{listed}\n]", content)


async def test_all_packs_are_listed_with_what_they_are(api):
    page = (await api.get("/v1/countries")).json
    assert "not law" in page["notice"]
    found = {one["code"]: one for one in page["data"]}
    assert len(found) == 61
    assert found["VN"]["sourced"] is True
    assert found["PL"]["sourced"] is False
    assert found["VN"]["confidence"] == "high"


async def test_one_pack_has_its_sources(api):
    one = (await api.get("/v1/countries/VN")).json
    assert one["rules"]["label"]["start"]["add"] == "[QC] "
    assert one["rules"]["sources"]
    assert "not law" in one["notice"]
    assert (await api.get("/v1/countries/EE")).json["pack"] == "default"


@pytest.mark.parametrize(
    ("query", "is_open", "until", "rule"),
    [
        ("at=2027-02-17T11:00:00Z", True, "2027-02-17T18:59:00Z", "FR.marketing"),
        ("at=2027-02-21T11:00:00Z", False, "2027-02-22T07:30:00Z", "FR.marketing"),
        ("at=2027-02-21T11:00:00Z&category=otp", True, None, "FR.otp"),
        ("at=2027-02-17T11:00:00Z&to=%2B33612345678", True, "2027-02-17T18:59:00Z", "FR.marketing"),
        ("at=2027-02-17T11:00:00Z&to=+33612345678", True, "2027-02-17T18:59:00Z", "FR.marketing"),
        ("at=2027-02-17T22:00:00Z&timezone=America/Cayenne", True, "2027-02-17T22:59:00Z", "FR.marketing"),
    ],
)
async def test_what_it_would_do_at_a_time(api, query, is_open, until, rule):
    verdict = (await api.get(f"/v1/countries/FR?{query}")).json["verdict"]
    assert (verdict["open"], verdict["until"], verdict["rule"]) == (is_open, until, rule)
    assert verdict["version"]


async def test_a_state_holds_beside_its_country(api):
    verdict = (await api.get("/v1/countries/US?to=%2B13055550123&at=2027-02-17T17:00:00Z")).json["verdict"]
    assert verdict["subdivisions"] == ["US-FL"]
    assert verdict["rule"] == "US-FL.marketing"
    assert verdict["caps"] == [{"max": 3, "per_s": 86_400, "rule": "US-FL.cap"}]


async def test_questions_that_make_no_sense(api):
    assert (await api.get("/v1/countries/FR?to=%2B84912345678")).code == "invalid_number"
    assert (await api.get("/v1/countries/FR?timezone=Mars/Base")).code == "invalid_timezone"
    assert (await api.get("/v1/countries/France")).status == 422
    reply = await api.call("GET", "/v1/countries", key=await api.tenant("no reader", ("send",)))
    assert reply.code == "forbidden"


async def test_a_pack_of_ones_own_holds_at_once_is_audited_and_goes_again(api):
    shipped = (await api.get("/v1/countries/FR")).json["version"]
    content = with_tests(FR.replace('["08:30", "20:00"]', '["12:00", "13:00"]'), NOON)
    reply = await api.call("PUT", "/v1/countries/FR", json={"toml": content, "reason": "our counsel"})
    assert reply.status == 200, reply.json

    async def version() -> str:
        return (await api.get("/v1/countries/FR")).json["version"]

    deadline = time.monotonic() + 20
    while (ours := await version()) == shipped:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    bad = await api.call("PUT", "/v1/countries/FR", json={"toml": content + "\nx = 1", "reason": "slip"})
    assert (bad.status, bad.json["errors"][0]["pointer"]) == (422, "/toml")
    assert "FR.toml" in bad.json["detail"]
    assert "\n" not in bad.json["detail"]
    assert await version() == ours
    (entry,) = await api.fetch("SELECT actor, reason, after FROM audit_log WHERE subject = 'country_pack/FR'")
    assert entry["reason"] == "our counsel"
    assert "12:00" in str(entry["after"])
    assert (await api.call("DELETE", "/v1/countries/FR?reason=back")).status == 204
    while await version() != shipped:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    tenant = await api.tenant("not the operator")
    reply = await api.call("PUT", "/v1/countries/FR", json={"toml": FR, "reason": "x"}, key=tenant)
    assert reply.code == "forbidden"


async def test_a_pack_whose_own_tests_fail_is_refused_and_the_line_is_named(api):
    slip = "to +33612345678, Wednesday 2027-02-17 12:00, marketing: hold until Monday 2027-02-22 08:30"
    content = with_tests(FR, "Wednesday 2027-02-17 03:00, otp: send", slip, "send, please")
    reply = await api.call("PUT", "/v1/countries/FR", json={"toml": content, "reason": "slip"})
    assert (reply.status, reply.code) == (422, "pack_test_failed")
    first, second = reply.json["errors"]
    assert (first["pointer"], first["index"], second["index"]) == ("/toml", 1, 2)
    assert "Wednesday 2027-02-17 12:00, marketing: hold until Monday" in first["detail"]
    assert "send until Wednesday 2027-02-17 20:00 by FR.marketing" in first["detail"]
    assert "33612345678" not in str(reply.json)
    assert "not in the grammar" in second["detail"]
    assert "tests[1]" in reply.json["detail"]
    unchanged = await api.call("PUT", "/v1/countries/FR", json={"toml": FR, "reason": "as shipped"})
    assert unchanged.status == 200
    assert (await api.call("DELETE", "/v1/countries/FR?reason=done")).status == 204


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(a+)+(?=b)$", "(?="),  # look-around is what RE2 leaves out to stay linear
        (r"(a)\1", "escape"),
        ("((a{900}){900}){9}", "repetition"),
        ("(", "missing )"),
        ("x" * 201, "200 characters"),
    ],
)
async def test_patterns_that_could_stall_the_service_are_refused(api, pattern, said):
    mark = f"[label.end]\nadd = ' x'\naccepts = ['{pattern}']\n"
    content = re.sub(r"(?ms)^\[label\.end\].*?(?=^\[)", lambda _: mark, FR)
    reply = await api.call("PUT", "/v1/countries/FR", json={"toml": content, "reason": "slip"})
    assert (reply.status, reply.json["errors"][0]["pointer"]) == (422, "/toml")
    assert said in reply.json["detail"]
    assert "$.label.end" in reply.json["detail"]


async def test_a_pack_of_ones_own_holds_for_consents_and_keywords_too(api):
    own = FR.replace("[consent]", '[consent]\nexpires = "1d"', 1).replace(
        "[opt_out]\nkeywords = [", '[opt_out]\nkeywords = ["FINI", ', 1
    )
    assert '"FINI"' in own
    path, to = "/v1/countries/FR", "+33612345678"
    await api.post("/v1/consents", {"to": to, "at": "2026-01-01T00:00:00Z"})
    unknown = own.replace('languages = ["fr"', 'languages = ["xx", "fr"', 1)
    bad = await api.call("PUT", path, json={"toml": unknown, "reason": "slip"})
    assert (bad.status, "language" in bad.json["detail"]) == (422, True)
    assert (await api.call("PUT", path, json={"toml": own, "reason": "our counsel"})).status == 200
    await asyncio.sleep(1.1)  # remembered for a second
    held = await api.get("/v1/consents/at?to=%2B33612345678&at=2026-02-01T00:00:00Z")
    assert (held.json["held"], held.json["reason"]) == (False, "expired")
    word = await api.post("/v1/keywords", {"keyword": "fini", "reply": "x"})
    assert word.code == "reserved_keyword"
    assert (await api.call("DELETE", path + "?reason=done")).status == 204


async def test_a_contacts_zone_is_kept_and_a_wrong_one_refused(api):
    reply = await api.post("/v1/messages", api.message(timezone="Mars/Base"))
    assert (reply.code, reply.json["errors"][0]["pointer"]) == ("invalid_timezone", "/timezone")
    reply = await api.post(
        "/v1/batches",
        api.batch([{"to": "+12025550101", "timezone": "America/Nowhere"}, {"to": "+12025550101"}], body="Hi"),
    )
    assert reply.json["rejected"][0]["pointer"] == "/recipients/0/timezone"
    csv = b"to,timezone\n+12025550101,America/Denver\n+12025550102,\n+12025550103,Nowhere\n"
    reply = await api.raw(
        "/v1/batches/upload?category=otp&body=Hi&sender=12025550100", csv, content_type="text/csv"
    )
    assert (reply.json["accepted"], reply.json["rejected"][0]["code"]) == (2, "invalid_timezone")


async def test_a_forecast_counts_segments_and_the_slowest_of_region_gateways_and_sender(api):
    """Transactional texts: no hours. Long texts of three segments, of a sender with a rate of its own."""
    sender, long = "4740999999", "A" * 400
    people = [{"to": f"+4740{700000 + i}"} for i in range(30)]

    async def finish_s() -> float:
        shown = (await api.get(batch["url"])).json["forecast"]
        assert (shown["queued"], shown["after_these_hours"]) == (30, 0)
        return (datetime.fromisoformat(shown["finish"]) - datetime.now(UTC)).total_seconds()

    async def rate(path: str, value: int | None) -> None:
        reply = await api.call("PATCH", path, json={"rate": value, "reason": "the carrier's"})
        assert reply.status == 200, reply.raw

    assert (await api.post("/v1/senders", {"address": sender, "rate": 2, "reason": "r"})).status == 201
    await rate("/v1/regions/NO", 10)
    body = api.batch(people, body=long, sender=sender, category="transactional")
    batch = (await api.post("/v1/batches", body)).json
    assert abs(await finish_s() - 90 / 2) < 8, "the sender's"
    await rate(f"/v1/senders/{sender}", None)
    assert abs(await finish_s() - 90 / 10) < 8, "the region's"
    await api.fetch("DELETE FROM routes")
    for name, gateway_rate in (("slow", 1), ("slower", 1)):
        await api.fetch(
            "INSERT INTO gateways (name, url, rate) VALUES ($1, 'smpp://h', $2)", name, gateway_rate
        )
    await api.fetch("""INSERT INTO routes (position, "to", gateways) VALUES (1, '*', '{slow,slower}')""")
    try:
        assert abs(await finish_s() - 90 / 2) < 8, "of both gateways together"
        await api.fetch("UPDATE gateways SET enabled = false WHERE name LIKE 'slow%'")
        assert (await api.get(batch["url"])).json["forecast"]["finish"] is None, "there is no gateway"
        await api.fetch("UPDATE parcels SET n = 0 WHERE lane LIKE 'NO:%'")
        assert (await api.get(batch["url"])).json["forecast"] is None, "all of it is being handed over"
    finally:
        await api.fetch("DELETE FROM routes")
        await api.fetch("DELETE FROM gateways WHERE name LIKE 'slow%'")
    await api.post(f"{batch['url']}/cancel")


async def test_a_batch_has_a_forecast_from_backlog_rate_and_hours(api):
    """Nobody dispatches here: what is accepted stays queued."""
    batch: dict[str, Any] = {}
    for n, rate in enumerate((1, 2, 2)):
        if n == 2:  # one that doesn't run is ahead of nobody
            assert (await api.post(f"{batch['url']}/pause")).status == 200
        change = {"rate": rate, "reason": "the carrier's"}
        assert (await api.call("PATCH", "/v1/regions/NO", json=change)).status == 200
        people = [{"to": f"+4740{600000 + i}"} for i in range(40)]
        body = api.batch(people, body="Sale", category="marketing")
        batch = (await api.post("/v1/batches", body)).json
        assert batch["accepted"] == 40
        shown = (await api.get(batch["url"])).json["forecast"]
        verdict = (await api.get("/v1/countries/NO")).json["verdict"]
        ahead = 40 if n == 0 else 80  # the batch before is still there
        start = datetime.now(UTC) if verdict["open"] else datetime.fromisoformat(verdict["until"])
        takes_s = (datetime.fromisoformat(shown["finish"]) - start).total_seconds()
        assert shown["queued"] == 40
        if verdict["open"] and shown["after_these_hours"]:
            continue  # started within seconds of the closing
        assert abs(takes_s - ahead / rate) < 15
        assert shown["after_these_hours"] == (0 if verdict["open"] else 40)
    await api.call("PATCH", "/v1/regions/NO", json={"paused": True, "reason": "a fault"})
    assert (await api.get(batch["url"])).json["forecast"]["finish"] is None
    assert (await api.post(f"{batch['url']}/cancel")).json["forecast"] is None
