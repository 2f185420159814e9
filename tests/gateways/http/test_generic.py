"""The described provider: its documentation's own example, each part of the tables, each mistake."""

from __future__ import annotations

import base64
import copy
import hashlib
import hmac
import json
import textwrap
import tomllib
from urllib.parse import parse_qsl, urlsplit

import pytest

from gateways import generic, http
from gateways.base import Accepted, Inbound, Receipt, Rejected, Retry, Unknown
from gateways.generic import tables
from gateways.provider import BadCallback, BadSignature

URL = "generic+https://user:pass@sms.example.com/send"


def example():
    """The table in the module's docstring, read as the file is."""
    text = generic.__doc__.partition("\n\n")[2].partition("\n\nPlaceholders")[0]
    (table,) = tomllib.loads(textwrap.dedent(text))["gateways"]
    return table


def minimal(**tables):
    settings = {"request": {"body": {"to": "{to}"}}, "response": {"accepted": {"id": "/id"}}}
    return settings | tables


def parsed(settings=None, url=URL, **tables):
    return generic.parse("acme", url, minimal(**tables) if settings is None else settings)


def changed(path, value):
    """The example with one key set, or deleted (value is None)."""
    table = copy.deepcopy(example())
    place = table
    *steps, last = path.split(".")
    for step in steps:
        place = place[step]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return table


# -- the example


def test_request_of_the_example(submission):
    table = example()
    settings = generic.parse("acme", table["url"], table)
    assert settings.dsn.concurrency == 20
    asked = generic.request(settings, submission("m-9", text='"}, {"x": 1}', validity_s=90))
    assert (asked.method, asked.url) == ("POST", "https://sms.example.com/send")
    assert asked.headers == {
        "Content-Type": "application/json",
        "Authorization": "Bearer pass",
        "Idempotency-Key": "m-9",
    }
    assert json.loads(asked.body) == {
        "to": "+12025550101",
        "from": "12025550199",
        "text": '"}, {"x": 1}',
        "ttl": 90,
        "options": {"unicode": "no", "report_to": "https://volley.example.org/v1/callbacks/acme"},
    }


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (202, {"ok": True, "messages": [{"id": "a-1"}]}, Accepted("a-1")),
        (200, {"ok": True, "messages": [{"id": 7}]}, Accepted("7")),
        (200, {"ok": True, "messages": []}, Unknown("bad_answer", "no id")),
        (200, {"ok": True, "messages": [{"id": {"deep": 1}}]}, Unknown("bad_answer", "no id")),
        (200, {"ok": False, "messages": [{"id": "a-1"}]}, Unknown("bad_answer", "HTTP 200")),
        (201, {"ok": True, "messages": [{"id": "a-1"}]}, Unknown("bad_answer", "HTTP 201")),
        (400, {"error": {"code": 13}}, Rejected("invalid_number", "13")),
        (422, {"error": {"code": "27"}}, Rejected("opted_out", "27")),
        (400, {"error": {"code": 99}}, Rejected("rejected", "99")),
        (400, {}, Rejected("rejected", "HTTP 400")),
        (429, {}, Retry("throttled", "HTTP 429", 4.0)),
        (503, {}, Retry("throttled", "HTTP 503", 4.0)),  # the table says so
        (500, {}, Unknown("server_error", "HTTP 500")),
        (401, {}, Retry("gateway_error", "HTTP 401")),
    ],
)
def test_outcomes_of_the_example(status, body, expected):
    settings = generic.parse("acme", URL, changed("callback_url", None))
    assert generic.outcome(settings, status, {"retry-after": "4"}, json.dumps(body).encode()) == expected


def signed(body, secret="…"):
    return {"x-signature": "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}


def example_with_prefix():
    return changed("callback.signature.prefix", "sha256=")


def receive(settings, body, headers=None, *, query="", method="POST"):
    """Through the function that the API calls."""
    url = "https://volley.example.org/v1/callbacks/acme" + query
    return http.receive("acme", URL, settings, method, url, headers or {}, body)


def test_receipts_of_the_example():
    body = json.dumps(
        {
            "results": [
                {"id": "a-1", "status": "DELIVRD", "to": "+12025550101", "at": 1_700_000_000},
                {"id": 2, "status": "UNDELIV", "error": 5, "at": "2023-11-14T22:13:20Z"},
                {"id": "a-3", "status": "NEW_WORD"},
                {"id": "a-4"},
            ]
        }
    ).encode()
    receipts, inbound, reply = receive(example_with_prefix(), body, signed(body))
    assert receipts == [
        Receipt("a-1", "delivered", "DELIVRD", to="12025550101", done_at=1_700_000_000.0),
        Receipt("2", "undelivered", "UNDELIV", "5", done_at=1_700_000_000.0),
        Receipt("a-3", "unknown", "NEW_WORD"),
    ]
    assert inbound == []
    assert (reply.status, reply.headers, reply.body) == (200, {"Content-Type": "text/plain"}, b"OK")


def test_inbound_of_the_example():
    body = json.dumps({"from": "12025550101", "to": "+12025550199", "text": "STOP", "id": "mo-1"}).encode()
    receipts, inbound, _ = receive(example_with_prefix(), body, signed(body))
    assert inbound == [Inbound("+12025550101", "12025550199", "STOP", "mo-1")]
    assert receipts == []


# -- requests

NASTY = [
    "{to} {password} {{x}} {0} {text.__class__}",
    'a"b\\c\n\t\x00',
    "a&b=c#d;e+f g%20%",
    "“xin chào” 👋 日本",
    "\r\nX-Injected: 1",
    "",
]


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize("content_type", [tables.JSON, tables.FORM, tables.QUERY])
def test_a_text_reaches_the_provider_as_it_is(text, content_type, submission):
    body = {"t": "{text}", "in": "<{text}>{{literal}}", "fixed": "a&b", "n": 1, "yes": True}
    request = {"content_type": content_type, "body": body}
    asked = generic.request(parsed(request=request), submission(text=text))
    if content_type == tables.JSON:
        got = json.loads(asked.body)
        assert (got["n"], got["yes"]) == (1, True)
    else:
        form = urlsplit(asked.url).query if content_type == tables.QUERY else asked.body.decode()
        got = dict(parse_qsl(form, keep_blank_values=True, strict_parsing=True))
        assert (got["n"], got["yes"]) == ("1", "true")
        assert ("Content-Type" in asked.headers) == (content_type == tables.FORM)
        assert (asked.body == b"") == (content_type == tables.QUERY)
    assert (got["t"], got["in"], got["fixed"]) == (text, f"<{text}>{{literal}}", "a&b")
    assert set(got) == set(body)
    assert "\r" not in asked.url
    assert "\n" not in asked.url


def test_each_placeholder(submission):
    names = list(tables.FIELDS)
    request = {"body": {name: f"{{{name}}}" for name in names}, "encoding": {"ucs2": "8"}}
    settings = parsed(minimal(request=request, callback_url="https://v.example"))
    asked = generic.request(
        settings, submission("m-1", segments=2, validity_s=60, encoding="ucs2", category="otp")
    )
    assert json.loads(asked.body) == {
        "to": "+12025550101",
        "to_digits": "12025550101",
        "sender": "12025550199",
        "text": "Hello",
        "message_id": "m-1",
        "reference": 7,
        "segments": 2,
        "validity_s": 60,
        "encoding": "8",
        "category": "otp",
        "callback_url": "https://v.example/v1/callbacks/acme",
        "username": "user",
        "password": "pass",
        "basic": base64.b64encode(b"user:pass").decode(),
    }


def test_what_has_no_value_is_left_out(submission):
    body = {
        "v": "{validity_s}",
        "c": "{callback_url}",
        "s": "{sender}",
        "in": {"v": "{validity_s}", "k": 1},
        "text": "v={validity_s}",
    }
    asked = generic.request(parsed(request={"body": body}), submission(sender=""))
    assert json.loads(asked.body) == {"in": {"k": 1}, "text": "v="}


# -- answers

TEXT = {
    "accepted": {"regex": r"^OK (?P<id>\w+)"},
    "rejected": {"regex": r"^ERR (?P<code>\d+)", "reasons": {"3": "opted_out"}},
    "throttled": {"regex": "^BUSY", "status": [200]},
}


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, b"OK a1", Accepted("a1")),
        (200, b"ERR 3", Rejected("opted_out", "3")),
        (400, b"ERR 4", Rejected("rejected", "4")),
        (200, b"BUSY", Retry("throttled", "HTTP 200")),
        (503, b"BUSY", Unknown("server_error", "HTTP 503")),
        (200, b"", Unknown("bad_answer", "HTTP 200")),
        (200, b"\xff\xfe", Unknown("bad_answer", "HTTP 200")),
        (500, b"OK a1", Unknown("server_error", "HTTP 500")),
    ],
)
def test_answers_in_plain_text(status, body, expected):
    assert generic.outcome(parsed(response=TEXT), status, {}, body) == expected


@pytest.mark.parametrize("body", [b"", b"[", b"[" * 60_000, b'"\xff"', b"null", b"[1, 2]", b'{"id": null}'])
def test_an_answer_that_makes_no_sense_is_unknown(body):
    assert generic.outcome(parsed(), 200, {}, body) == Unknown("bad_answer", "no id")


@pytest.mark.parametrize(
    ("pointer", "expected"),
    [
        ("/a~1b", "slash"),
        ("/m~0n", "tilde"),
        ("/list/1", "second"),
        ("/list/01x", ""),
        ("/list/9", ""),
        ("/list/99999999999", ""),
        ("/", "empty"),
        ("/true", "true"),
        ("/list", ""),
        ("/none", ""),
    ],
)
def test_json_pointers(pointer, expected):
    document = {"a/b": "slash", "m~n": "tilde", "list": ["first", "second"], "": "empty", "true": True}
    place = tables._place("acme", "id", pointer, "json")
    assert generic._look(document, place, {}) == expected


# -- callbacks

RECEIPT = {"id": "/id", "state": "/state", "states": {"D": "delivered"}}
UNSIGNED = {"unsigned": True}


@pytest.mark.parametrize("form", ["form", "query"])
def test_receipt_as_form_or_query(form):
    receipt = {"format": form, "id": "msgid", "state": "st", "states": {"D": "delivered"}, "to": "msisdn"}
    settings = minimal(receipt=receipt, callback=UNSIGNED)
    fields = "msgid=a%201&st=D&msisdn=%2B12025550101"
    if form == "form":
        receipts, _, reply = receive(settings, fields.encode())
    else:
        receipts, _, reply = receive(settings, b"", query="?" + fields, method="GET")
    assert receipts == [Receipt("a 1", "delivered", "D", to="12025550101")]
    assert reply.status == 200


def test_receipt_and_text_told_apart_by_the_query():
    settings = minimal(
        receipt=RECEIPT | {"where": {"?kind": ["dlr"]}},
        inbound={"sender": "/id", "to": "/state", "text": "/text", "where": {"?kind": ["mo"]}},
        callback=UNSIGNED,
    )
    body = b'{"id": "12025550101", "state": "D"}'
    assert receive(settings, body, query="?kind=dlr")[0] == [Receipt("12025550101", "delivered", "D")]
    assert receive(settings, body, query="?kind=mo")[1] == [Inbound("+12025550101", "D", "")]
    assert receive(settings, body, query="?kind=x")[2].status == 400


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b'{"id": "1"}', b"[" * 60_000, b"\xff", b'{"id": [], "state": 1}']
)
def test_callback_that_is_nothing_gives_400(body):
    receipts, inbound, reply = receive(minimal(receipt=RECEIPT, callback=UNSIGNED), body)
    assert (receipts, inbound, reply.status) == ([], [], 400)


def test_callback_with_too_many_receipts():
    settings = parsed(receipt=RECEIPT | {"list": "/r"}, callback=UNSIGNED)
    body = json.dumps({"r": [{"id": "1", "state": "D"}] * 1001}).encode()
    with pytest.raises(BadCallback):
        generic.receive(settings, "POST", "https://v/", {}, body)


NATIONAL = {
    "receipt": {"format": "json", "id": "/id", "state": "/state", "to": "/to", "states": {"1": "delivered"}},
    "inbound": {"format": "json", "sender": "/from", "to": "/to", "text": "/text"},
    "callback": {"token": {"query": "token", "value": "t"}},
}


@pytest.mark.parametrize(
    ("country", "given", "read"),
    [
        ("VN", "0912345678", "+84912345678"),
        ("VN", "84912345678", "+84912345678"),
        ("VN", "+84912345678", "+84912345678"),
        ("VN", "+12025550101", "+12025550101"),
        ("", "84912345678", "+84912345678"),
    ],
)
def test_national_numbers_of_the_providers_country(country, given, read):
    receive = http.receiver("acme", URL, minimal(**NATIONAL) | ({"country": country} if country else {}))

    def called(content):
        return receive("POST", "https://v.example/x?token=t", {}, json.dumps(content).encode())

    (receipt,), _, _ = called({"id": "1", "state": "1", "to": given})
    assert receipt.to == read.removeprefix("+")
    _, (text,), _ = called({"from": given, "to": "8199", "text": "STOP"})
    assert (text.sender, text.to) == (read, "8199")


def test_a_country_that_is_none():
    with pytest.raises(ValueError, match="acme: country: must be"):
        http.receiver("acme", URL, minimal(**NATIONAL) | {"country": "vn"})


@pytest.mark.parametrize(
    "callback",
    [
        {"signature": {"header": "X-Sig", "secret": "k"}},
        {
            "signature": {
                "header": "X-Sig",
                "secret": "k",
                "digest": "sha512",
                "encoding": "base64",
                "prefix": "v1=",
            }
        },
        {"token": {"header": "X-Token", "value": "t0ken"}},
        {"token": {"query": "token", "value": "t0ken"}},
    ],
)
def test_callbacks_are_authentic_or_refused(callback):
    settings = parsed(receipt=RECEIPT, callback=callback)
    body = b'{"id": "1", "state": "D"}'
    headers, url = {"x-token": "t0ken"}, "https://v/?token=t0ken"
    if table := callback.get("signature"):
        mac = hmac.new(b"k", body, table.get("digest", "sha256")).digest()
        shown = base64.b64encode(mac).decode() if "encoding" in table else mac.hex()
        headers["x-sig"] = table.get("prefix", "") + shown
    assert generic.receive(settings, "POST", url, headers, body) == [Receipt("1", "delivered", "D")]
    wrong = {key: value[:-2] + "00" for key, value in headers.items()}
    for bad_headers in ({}, wrong, {"x-sig": "é", "x-token": "é"}):
        with pytest.raises(BadSignature):
            generic.receive(settings, "POST", "https://v/?token=t0keN", bad_headers, body)
    if "signature" in callback:
        with pytest.raises(BadSignature):
            generic.receive(settings, "POST", url, headers, body + b" ")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1700000000", 1_700_000_000.0),
        ("1700000000123", 1_700_000_000.123),
        ("2023-11-14T22:13:20+00:00", 1_700_000_000.0),
        ("2023-11-15T05:13:20+07:00", 1_700_000_000.0),
        ("2023-11-14T22:13:20", None),  # no offset: anyone's guess
        ("yesterday", None),
        ("", None),
        ("nan", None),
        ("inf", None),
        ("-1", None),
    ],
)
def test_times(value, expected):
    assert generic.unix_s(value) == expected


# -- mistakes in the file


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("request", None, "request: is missing"),
        ("request.body", None, "request.body: is missing"),
        ("request.methd", "POST", "request.methd: unknown key"),
        ("request.method", "DELETE", "request.method: Invalid enum value 'DELETE'"),
        ("request.method", "GET", 'request.content_type: must be "query" with method GET'),
        ("request.body.text", "{txt}", "request.body.text: {txt} is no placeholder"),
        ("request.body.text", "{text.__class__}", "request.body.text: has a lone brace"),
        ("request.body.text", "100 % {", "request.body.text: has a lone brace"),
        (
            "request.headers.Authorization",
            "{text}",
            "request.headers.Authorization: {text} is no placeholder",
        ),
        ("request.headers.Authorization", "a\nb", "request.headers.Authorization: is not a valid header"),
        ("request.headers.A B", "x", "request.headers.A B: is not a valid header"),
        ("request.content_type", "query", "request.body.options: must be a plain value"),
        ("request.encoding.utf8", "x", "request.encoding"),
        ("response.accepted", None, "response.accepted: is missing"),
        ("response.accepted.id", None, "response.accepted.id: is missing"),
        ("response.accepted.id", "messages", "response.accepted.id: must be a JSON pointer"),
        ("response.accepted.status", ["200"], "response.accepted.status[0]: Expected `int`, got `str`"),
        ("response.accepted.where", {"ok": ["1"]}, "response.accepted.where: must be a JSON pointer"),
        ("response.rejected.regex", "(", "response.rejected.regex: is not a regular expression"),
        ("response.rejected.reson", "x", "response.rejected.reson: unknown key"),
        ("response.throttled", {}, "response.throttled: needs status, where or regex"),
        ("receipt.state", None, "receipt.state: is missing"),
        ("receipt.id", "", "receipt.id: is empty"),
        ("receipt.states", {"D": "done"}, "receipt.states[...]: Invalid enum value 'done'"),
        ("receipt.format", "xml", "receipt.format: Invalid enum value 'xml'"),
        ("receipt.format", "form", "receipt.list: needs format json"),
        ("inbound.text", "text", "inbound.text: must be a JSON pointer"),
        ("callback", None, "callback: needs one of signature, token and unsigned"),
        ("callback.unsigned", True, "callback: needs one of"),
        ("callback.signature.digest", "md5", "callback.signature.digest: Invalid enum value"),
        ("callback.signature.secret", "", "callback.signature.secret: is empty"),
        ("callback.signature.secret", 5, "callback.signature.secret: Expected `str`, got `int`"),
        ("speed", 3, "speed: unknown option"),
    ],
)
def test_a_mistake_is_named_in_one_line(path, value, problem):
    with pytest.raises(ValueError, match=r"^gateway acme: ") as error:
        generic.parse("acme", URL, changed(path, value))
    assert problem in str(error.value)
    assert "\n" not in str(error.value)


def test_settings_show_no_secret():
    shown = repr(parsed(example()))
    assert "pass" not in shown
    assert "secret" not in shown


def test_a_scheme_without_gateway():
    for url in ("smoke://h", "base://h", "http://h", "os.path://h", "://h", ""):
        with pytest.raises(LookupError):
            http.receiver("x", url, {})


# -- end to end


@pytest.mark.parametrize("method", ["POST", "PUT", "GET"])
async def test_a_text_through_a_real_server(method, wire, sink, submission):
    async def behave(peer, seen):
        await peer.answer(200, b'{"id": "a-1"}')

    server = await wire(behave)
    request = {
        "method": method,
        "content_type": "query" if method == "GET" else "application/json",
        "headers": {"Authorization": "Basic {basic}"},
        "body": {"to": "{to}", "text": "{text}"},
    }
    url = f"generic+http://user:pass@127.0.0.1:{server.port}/a%20b?allow_private=true"
    gateway = generic.build("acme", url, minimal(request=request), sink)
    await gateway.open(1)
    assert gateway.take(1) == 1
    gateway.submit([submission(text="50% & “more”")])
    assert await sink.outcomes_of(1) == [Accepted("a-1")]
    await gateway.close(1)
    (seen,) = server.requests
    assert seen.method == method
    assert seen.headers["authorization"] == "Basic dXNlcjpwYXNz"
    path, _, query = seen.target.partition("?")
    assert path == "/a%20b"
    got = dict(parse_qsl(query)) if method == "GET" else json.loads(seen.body)
    assert got == {"to": "+12025550101", "text": "50% & “more”"}
