"""The callback routes as an attacker meets them: no key, a provider's signature, and nothing stored without it."""

from __future__ import annotations

import asyncio
import json
import time
import zlib
from urllib.parse import urlencode

import msgspec
import pytest

from app.api import callbacks
from app.store.receipts import Slip
from gateways import plivo, twilio

ACCOUNT = "AC" + "0" * 32
PUBLIC = "https://volley.example.org"
SECRET = "s3cret-t0ken"
TOPIC = "arn:aws:sns:eu-west-1:123456789012:texts"
INBOUND = {"MessageSid": "SM1", "From": "+12025550101", "To": "+12025550199", "Body": "START"}


@pytest.fixture(scope="module", autouse=True)
async def gateways(api):
    """Gateways whose callbacks are signed, one whose URL holds a token, one that takes none."""
    configured = [
        ("tw", f"twilio://{ACCOUNT}:{SECRET}@api.twilio.com", {"callback_url": PUBLIC}),
        # its public address stands in the URL, and has a path that a proxy takes away
        ("plivo", f"plivo://ID:{SECRET}@api.plivo.com?callback_url={PUBLIC}/sms", {}),
        ("at", f"africastalking://u:k@h.example?token={SECRET}", {"callback_url": PUBLIC}),
        ("aws", "aws://k:s@sms-voice.eu-west-1.amazonaws.com", {"callback_url": PUBLIC, "topics": TOPIC}),
        ("smpp", "smpp://u:p@127.0.0.1:2775", {}),
    ]
    for name, url, settings in configured:
        made = await api.post(
            "/v1/gateways", {"name": name, "url": url, "settings": settings, "reason": "for the tests"}
        )
        assert made.status < 300, made.raw
    callbacks.receivers._read_at = 0.0


async def call(api, path, **options):
    """Without any key of ours."""
    method = options.pop("method", "POST")
    async with api.session.request(method, api.url + path, **options) as response:
        return response.status, await response.read()


def signed(fields, *, url=f"{PUBLIC}/v1/callbacks/tw", secret=SECRET):
    headers = {
        "X-Twilio-Signature": twilio.signature(secret, url, list(fields.items())),
        "Content-Type": "application/x-www-form-urlencoded",
    }
    return {"data": urlencode(fields).encode(), "headers": headers}


async def stored(api):
    return await api.count("parked_inbound"), await api.count("parked_receipts")


async def test_a_signed_text_is_stored_and_answered_as_the_provider_wants(api):
    before, _ = await stored(api)
    status, body = await call(api, "/v1/callbacks/tw", **signed(INBOUND))
    assert (status, body) == (200, twilio.EMPTY_TWIML)
    assert (await stored(api))[0] == before + 1


@pytest.mark.parametrize(
    "forged",
    [
        {
            "data": urlencode(INBOUND).encode(),
            "headers": {"Content-Type": "application/x-www-form-urlencoded"},
        },
        signed(INBOUND, secret="guess"),
        signed(INBOUND, url=f"{PUBLIC}/v1/callbacks/at"),  # signed for another gateway's address
        signed(INBOUND) | {"data": urlencode(INBOUND | {"From": "+12025550102"}).encode()},
        signed(INBOUND) | {"data": urlencode(INBOUND).encode() + b"&Body=STOP"},
        signed({}) | {"data": urlencode(INBOUND).encode()},
    ],
)
async def test_forged_calls_store_nothing(api, forged):
    before = await stored(api)
    status, body = await call(api, "/v1/callbacks/tw", **forged)
    assert (status, body) == (403, b"")
    assert await stored(api) == before


async def test_what_was_signed_for_the_public_address_in_the_gateways_url_is_taken(api):
    before, _ = await stored(api)
    fields = [("MessageUUID", "m1"), ("From", "12025550101"), ("To", "12025550199"), ("Text", "START")]
    signature = plivo.signature_v3(SECRET, f"{PUBLIC}/sms/v1/callbacks/plivo", fields, "n")
    headers = {plivo.V3: signature, f"{plivo.V3}-nonce": "n"}
    status, _ = await call(api, "/v1/callbacks/plivo", data=dict(fields), headers=headers)
    assert status == 200
    assert (await stored(api))[0] == before + 1


async def test_a_receipt_that_says_opted_out_says_so_to_the_dispatcher(api):
    fields = {"MessageSid": "SM7", "MessageStatus": "undelivered", "ErrorCode": "21610", "To": "+12025550101"}
    assert (await call(api, "/v1/callbacks/tw", **signed(fields)))[0] == 200
    rows = await api.fetch("SELECT receipt FROM parked_receipts")
    parked = [msgspec.msgpack.decode(row["receipt"], type=Slip) for row in rows]
    assert [slip.opted_out for slip in parked if slip.gateway_message_id == "SM7"] == [True]


@pytest.mark.parametrize("host", ["volley.example.org", "evil.example", "127.0.0.1", "x/../.."])
async def test_the_host_that_a_caller_names_signs_nothing(api, host):
    """Where the service is known by its public address, only what was signed for that counts."""
    own = signed(INBOUND, url=f"http://{host}/v1/callbacks/tw", secret="guess")
    own["headers"] |= {"Host": host, "X-Forwarded-Host": host, "X-Forwarded-Proto": "https"}
    assert (await call(api, "/v1/callbacks/tw", **own))[0] in (400, 403)


@pytest.mark.parametrize(
    "query", ["", "?token=", "?token=guess", f"?token={SECRET[:-1]}", f"?Token={SECRET}"]
)
async def test_a_token_that_is_none(api, query):
    before = await stored(api)
    form = {"id": "1", "text": "START", "from": "+12025550101", "to": "1"}
    assert await call(api, f"/v1/callbacks/at{query}", data=form) == (403, b"")
    assert await call(api, f"/v1/callbacks/at{query}", data=form | {"token": SECRET}) == (403, b"")
    assert await stored(api) == before


@pytest.mark.parametrize("topic", [TOPIC, f"{TOPIC}2", ""])
async def test_what_sns_did_not_sign(api, topic):
    """Nobody is asked for a certificate: it isn't where SNS has them. Whole signatures: `gateways/http/test_sns.py`."""
    before = await stored(api)
    inbound = {"inboundMessageId": "1", "messageBody": "START", "originationNumber": "+12025550101"}
    now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
    envelope = {"Type": "Notification", "MessageId": "1", "TopicArn": topic, "Message": json.dumps(inbound)}
    envelope |= {"Timestamp": now, "SignatureVersion": "1", "Signature": "eHg="}
    envelope |= {"SigningCertURL": "https://sns.evil.example/SimpleNotificationService-0.pem"}
    for body in (envelope, {"Type": "Notification", "Message": json.dumps(inbound)}, inbound):
        assert await call(api, "/v1/callbacks/aws", json=body) == (403, b"")
    assert await stored(api) == before


async def test_unreadable_calls_say_what_is_missing_and_no_value(api):
    status, body = await call(api, f"/v1/callbacks/at?token={SECRET}", data={"text": "secret text"})
    assert (status, body) == (400, b"id is missing")
    assert (await call(api, f"/v1/callbacks/at?token={SECRET}", data=b"\xff=%ff"))[0] == 400


@pytest.mark.parametrize(
    "path", ["nobody", "smpp", "TW", "tw/x", "tw%2f", "%00", "..%2f..", "tw%0d%0aX:1", "x" * 5000]
)
async def test_addresses_of_nobody(api, path):
    status, body = await call(api, f"/v1/callbacks/{path}", **signed(INBOUND))
    assert status in (400, 403, 404), (status, body)
    assert b"Traceback" not in body


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_other_methods(api, method):
    assert (await call(api, "/v1/callbacks/tw", method=method, **signed(INBOUND)))[0] == 405


async def test_too_large_whether_it_says_so_or_not(api):
    too_large = b"a" * (callbacks.MAX_BODY_BYTES + 1)

    async def in_pieces():
        for start in range(0, len(too_large), 50_000):
            yield too_large[start : start + 50_000]

    for data in (too_large, in_pieces()):
        status, body = await call(api, "/v1/callbacks/tw", data=data)
        assert (status, json.loads(body)["code"]) == (413, "request_too_large")


@pytest.mark.parametrize("length", ["-1", "9" * 5000, "1e9", "0x10"])
async def test_lengths_that_are_none(api, length):
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(
        f"POST /v1/callbacks/tw HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n".encode() + b"a"
    )
    async with asyncio.timeout(60):
        assert (await reader.read(1000)).split(b" ")[1] in (b"400", b"413")
    writer.close()


async def test_a_compressed_body_is_not_unpacked(api):
    bomb = zlib.compress(b"a" * 20_000_000)
    headers = {"Content-Encoding": "deflate", "Content-Type": "application/x-www-form-urlencoded"}
    assert (await call(api, f"/v1/callbacks/at?token={SECRET}", data=bomb, headers=headers))[0] == 400


async def test_a_body_that_stops_halfway_stores_nothing(api):
    before = await stored(api)
    given = signed(INBOUND)
    head = "".join(f"{name}: {value}\r\n" for name, value in given["headers"].items())
    length = len(given["data"])
    _, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(
        f"POST /v1/callbacks/tw HTTP/1.1\r\nHost: h\r\n{head}Content-Length: {length}\r\n\r\n".encode()
        + given["data"][:-3]
    )
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert (await call(api, "/v1/callbacks/tw", **signed(INBOUND)))[0] == 200  # the next one is taken
    assert (await stored(api))[0] == before[0] + 1
