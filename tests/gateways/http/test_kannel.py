"""Kannel and Jasmin: tables of answers, what is asked, and callbacks."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

from gateways import http, kannel
from gateways.base import Accepted, Inbound, Receipt, Rejected, Retry, Unknown

URL = "kannel+http://user:s3cret@10.0.0.5:13013"
CALLED = {"callback_url": "https://volley.example.org", "token": "t0ken-1"}
JASMIN = CALLED | {"flavour": "jasmin"}
PLAIN = "https://volley.example.org/v1/callbacks/k"
CALLBACK = PLAIN + "?token=t0ken-1"
TEXT = '50% & "more" “xin chào” 👋'


def parsed(url=URL, **settings):
    return kannel.parse("k", url, settings)


def asked(settings, submission):
    got = kannel.request(settings, submission)
    assert (got.method, got.body) == ("GET", b"")
    base, _, query = got.url.partition("?")
    return base, dict(parse_qsl(query, keep_blank_values=True, strict_parsing=True))


@pytest.mark.parametrize(
    ("fields", "settings", "expected"),
    [
        ({}, {}, {"coding": "0"}),
        ({"encoding": "ucs2"}, {"smsc": "a"}, {"coding": "2", "smsc": "a"}),
        ({"validity_s": 90}, {}, {"coding": "0", "validity": "1"}),
        ({"validity_s": 3600}, {}, {"coding": "0", "validity": "60"}),
        (
            {},
            CALLED,
            {
                "coding": "0",
                "dlr-mask": "19",
                "dlr-url": f"{CALLBACK}&id=m-1&state=%d&at=%T&reply=%A",
            },
        ),
    ],
)
def test_request(fields, settings, expected, submission):
    base, got = asked(parsed(**settings), submission("m-1", text=TEXT, **fields))
    assert base == "http://10.0.0.5:13013/cgi-bin/sendsms"
    assert got == {
        "username": "user",
        "password": "s3cret",
        "to": "+12025550101",
        "from": "12025550199",
        "text": TEXT,
        "charset": "UTF-8",
        **expected,
    }


def test_a_percent_sign_of_ours_is_none_of_kannels(submission):
    settings = kannel.parse("a b", URL, CALLED)
    _, got = asked(settings, submission("m-1"))
    assert got["dlr-url"].startswith("https://volley.example.org/v1/callbacks/a%%20b?token=t0ken-1&id=m-1&")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {"coding": "0", "content": "Hello"}),
        ({"encoding": "ucs2", "text": "chào"}, {"coding": "8", "hex-content": "0063006800e0006f"}),
        ({"validity_s": 600}, {"coding": "0", "content": "Hello", "validity-period": "10"}),
    ],
)
def test_request_to_jasmin(fields, expected, submission):
    base, got = asked(parsed("kannel+http://user:s3cret@10.0.0.5:1401", **JASMIN), submission(**fields))
    assert base == "http://10.0.0.5:1401/send"
    assert got == {
        "username": "user",
        "password": "s3cret",
        "to": "12025550101",
        "from": "12025550199",
        "dlr": "yes",
        "dlr-url": CALLBACK,
        "dlr-level": "2",
        "dlr-method": "POST",
        **expected,
    }


def test_a_path_of_ones_own(submission):
    assert asked(parsed("kannel://user:s3cret@h/sms/send"), submission())[0] == "https://h/sms/send"


ANSWERS = {
    "accepted": (202, b"0: Accepted for delivery", Accepted("m-1")),
    "queued": (202, b"3: Queued for later delivery", Accepted("m-1")),
    "an old release": (200, b"Sent.", Accepted("m-1")),
    "other words": (202, b"4: odd", Unknown("bad_answer", "HTTP 202")),
    "no words": (200, b"", Unknown("bad_answer", "HTTP 200")),
    "wrong password": (403, b"Authorization failed for sendsms", Retry("gateway_error", "HTTP 403")),
    "on a list": (
        403,
        b"Number(s) has/have been denied by white- and/or black-lists.",
        Rejected("blocked", "denied by list"),
    ),
    "body": (400, b"Charset or body misformed, rejected", Rejected("content_rejected", "charset or body")),
    "something else": (400, b"odd", Rejected("rejected", "HTTP 400")),
    "cannot say": (503, b"Temporal failure, try again later.", Unknown("server_error", "HTTP 503")),
    "not UTF-8": (202, b"\xff", Unknown("bad_answer", "HTTP 202")),
}
JASMINS = {
    "accepted": (200, b'Success "07033084-5cfd"', Accepted("07033084-5cfd")),
    "accepted without id": (200, b"Success", Unknown("bad_answer", "no id")),
    "no route": (412, b'Error "No route found"', Rejected("no_route", "no route")),
    "no credit": (403, b'Error "Cannot charge submit_sm, check"', Rejected("no_credit", "cannot charge")),
    "too fast": (403, b'Error "User throughput exceeded"', Retry("throttled", "throughput")),
    "wrong password": (
        403,
        b'Error "Authentication failure for username:x"',
        Retry("gateway_error", "HTTP 403"),
    ),
    "argument": (400, b'Error "Argument x is unknown."', Rejected("rejected", "HTTP 400")),
    "server error": (500, b'Error "No route found"', Unknown("server_error", "HTTP 500")),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_outcome(case):
    status, body, expected = ANSWERS[case]
    assert kannel.outcome(parsed(), status, {}, body, "m-1") == expected


@pytest.mark.parametrize("case", JASMINS)
def test_outcome_of_jasmin(case):
    status, body, expected = JASMINS[case]
    assert kannel.outcome(parsed(flavour="jasmin"), status, {}, body) == expected


def call(fields, *, url=CALLBACK, settings=CALLED, body=b""):
    if settings.get("flavour") == "jasmin":
        body = fields if isinstance(fields, bytes) else urlencode(fields).encode()
        return http.receive("k", URL, settings, "POST", url, {}, body)
    return http.receive("k", URL, settings, "GET", f"{url}&{urlencode(fields)}", {}, b"")


@pytest.mark.parametrize(
    ("state", "answer", "expected", "error"),
    [
        ("1", "id:1 sub:001 stat:DELIVRD err:000 text:x", "delivered", ""),
        ("2", "id:1 sub:001 stat:UNDELIV err:0A5 text:x", "undelivered", "0A5"),
        ("4", "", "accepted", ""),
        ("8", "ACK/", "enroute", ""),
        ("16", "NACK/0x0000000b/Invalid Destination Address", "rejected", "0x0000000b"),
        ("34", "", "expired", ""),
        ("99", "", "unknown", ""),
    ],
)
def test_receipts(state, answer, expected, error):
    receipts, inbound, reply = call({"id": "m-1", "state": state, "at": "1700000000", "reply": answer})
    assert receipts == [Receipt("m-1", expected, state, error, done_at=1_700_000_000.0)]
    assert (inbound, reply.status, reply.body) == ([], 200, b"")  # a word here would go out as a text


# As Kannel 1.4.5 wrote them.
@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("text=STOP+%C3%A9%40%E2%82%AC%C3%B1+~%5B&charset=UTF-8", "STOP é@€ñ ~["),
        ("text=%00S%00T%00O%00P%00+%00%E9%00+%00%26%00+%00%25%00+%1E%A1&charset=UTF-16BE", "STOP é & % ạ"),
        ("text=%00S%00T%00O%00P%00+%00%E9", "STOP é"),  # a get-url without %C
        ("text=STOP", "STOP"),
        ("text=%93quotes%94&charset=WINDOWS-1252", "“quotes”"),
        ("text=%D8%3D&charset=UTF-16BE", "\ufffd"),  # half a pair
        ("text=a&charset=rot13", "a"),
        ("text=&charset=UTF-8", ""),
    ],
)
def test_inbound_in_each_charset(query, text):
    url = f"{CALLBACK}&from=%2B12025550101&to=12345&{query}&in=mo-1"
    settings = parsed(callback_url="https://volley.example.org", token="t0ken-1")
    assert kannel.receive(settings, "GET", url, {}, b"") == [Inbound("+12025550101", "12345", text, "mo-1")]


def test_inbound():
    fields = {"from": "+12025550101", "to": "12345", "text": "Stop 👋", "in": "mo-1"}
    receipts, inbound, reply = call(fields)
    assert inbound == [Inbound("+12025550101", "12345", "Stop 👋", "mo-1")]
    assert (receipts, reply.body) == ([], b"")


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        ("DELIVRD", "000", "delivered"),
        ("UNDELIV", "12", "undelivered"),
        ("EXPIRED", "", "expired"),
        ("ESME_ROK", "", "enroute"),
        ("ESME_RINVDSTADR", "", "rejected"),
        ("ODD", "", "unknown"),
    ],
)
def test_receipts_of_jasmin(status, error, expected):
    fields = {"id": "j-1", "message_status": status, "err": error, "level": "2", "donedate": "2311142213"}
    receipts, inbound, reply = call(fields, settings=JASMIN)
    code = "" if error == "000" else error
    assert receipts == [Receipt("j-1", expected, status, code, done_at=1_699_999_980.0)]
    assert (inbound, reply.status, reply.body) == ([], 200, b"ACK/Jasmin")


@pytest.mark.parametrize(
    "fields",
    [
        {"content": "Stop chào", "coding": "0"},
        {"content": b"\x00S\x00t\x00o\x00p\x00 \x00c\x00h\x00\xe0\x00o", "coding": "8"},
    ],
)
def test_inbound_of_jasmin(fields):
    common = {"id": "mo-1", "from": "12025550101", "to": "12345"}
    binary = {"binary": fields["content"].hex()} if fields["coding"] == "8" else {}
    receipts, inbound, reply = call(common | fields | binary, settings=JASMIN)
    assert inbound == [Inbound("+12025550101", "12345", "Stop chào", "mo-1")]
    assert (receipts, reply.body) == ([], b"ACK/Jasmin")


@pytest.mark.parametrize("query", ["?", "?token=", "?token=t0ken", "?Token=t0ken-1"])
@pytest.mark.parametrize("settings", [CALLED, JASMIN, {}])
def test_a_stranger_gets_403(query, settings):
    fields = {"id": "m-1", "state": "1"}
    assert call(fields, url=PLAIN + query, settings=settings) == ([], [], http.HttpReply(403))


@pytest.mark.parametrize(
    ("fields", "settings"),
    [
        ({}, CALLED),
        ({"state": "1"}, CALLED),
        ({"from": "1"}, CALLED),
        ({}, JASMIN),
        ({"id": "1"}, JASMIN),
        ({"id": "1", "content": "x", "coding": "8", "binary": "zz"}, JASMIN),
        (b"a=1&" * 201, JASMIN),
    ],
)
def test_unreadable_calls_give_400(fields, settings):
    assert call(fields, settings=settings)[2].status == 400


@pytest.mark.parametrize(
    ("url", "settings", "problem"),
    [
        ("kannel://h", {}, "url: needs USER:PASSWORD"),
        (URL, {"flavour": "odd"}, "flavour: must be one of kannel, jasmin"),
        (URL, {"callback_url": "https://v.example"}, "token: is needed"),
        (URL, CALLED | {"token": "a%b"}, "token: must be of letters"),
    ],
)
def test_wrong_settings(url, settings, problem):
    with pytest.raises(ValueError, match=r"^gateway k: ") as error:
        kannel.parse("k", url, settings)
    assert problem in str(error.value)
    assert "s3cret" not in str(error.value) + repr(parsed(**CALLED))


async def test_each_text_is_accepted_by_its_own_id(wire, sink, submission):
    """Answered all at once and in another order, over as many connections."""
    waiting = []

    async def behave(peer, seen):
        waiting.append(peer)
        if len(waiting) == 5:
            for one in reversed(waiting):
                await one.answer(202, b"0: Accepted for delivery")

    server = await wire(behave)
    url = f"kannel+http://user:s3cret@127.0.0.1:{server.port}?allow_private=true"
    gateway = kannel.build("k", url, CALLED, sink)
    await gateway.open(1)
    assert gateway.take(5) == 5
    gateway.submit([submission(f"m-{i}") for i in range(5)])
    await sink.outcomes_of(5)
    await gateway.close(1)
    assert len(sink.reported) == 5
    for sent, _, outcome in sink.reported:
        assert outcome == Accepted(sent.message_id)
    asked_for = {dict(parse_qsl(urlsplit(seen.target).query))["dlr-url"] for seen in server.requests}
    assert len(asked_for) == 5
