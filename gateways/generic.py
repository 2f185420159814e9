"""A provider without a module of its own: its HTTP API described in `volley.toml`.

    [[gateways]]
    name = "acme"
    url = "generic+https://user:pass@sms.example.com/send?concurrency=20"
    callback_url = "https://volley.example.org"      # the service's public address

    [gateways.request]
    method = "POST"                                  # POST (default), PUT or GET
    content_type = "application/json"                # or "application/x-www-form-urlencoded" or "query"
    headers = { Authorization = "Bearer {password}", Idempotency-Key = "{message_id}" }
    body = { to = "{to}", from = "{sender}", text = "{text}", ttl = "{validity_s}",
             options = { unicode = "{encoding}", report_to = "{callback_url}" } }
    encoding = { gsm7 = "no", ucs2 = "yes" }         # what {encoding} stands for

    [gateways.response]                              # tried in this order: throttled, rejected, accepted
    throttled = { status = [429, 503] }
    rejected = { status = [400, 422], code = "/error/code",
                 reasons = { 13 = "invalid_number", 27 = "opted_out" } }
    accepted = { status = [200, 202], where = { "/ok" = ["true"] }, id = "/messages/0/id" }

    [gateways.receipt]                               # a call to {callback_url}
    format = "json"                                  # or "form" or "query"
    list = "/results"                                # where the array of them is; without it, one a call
    id = "/id"
    state = "/status"
    error = "/error"
    to = "/to"
    done_at = "/at"                                  # Unix seconds or milliseconds, or ISO 8601 with offset
    states = { DELIVRD = "delivered", UNDELIV = "undelivered", EXPIRED = "expired", ENROUTE = "enroute" }

    [gateways.inbound]                               # a call to the same address that is no receipt
    format = "json"
    sender = "/from"
    to = "/to"
    text = "/text"
    id = "/id"

    [gateways.callback]                              # needed with receipt or inbound: who may call
    signature = { header = "X-Signature", secret = "…", digest = "sha256", encoding = "hex", prefix = "" }
    # or: token = { header = "X-Token", value = "…" }   or: token = { query = "token", value = "…" }
    # or: unsigned = true                            # something in front of Volley checks who calls
    reply = { status = 200, content_type = "text/plain", body = "OK" }

Placeholders: {to} in E.164 with plus, {to_digits} without, {sender}, {text}, {message_id},
{reference}, {segments}, {validity_s}, {encoding}, {category}, {callback_url}, {username},
{password}, {basic} (Base64 of user:pass). `{{` and `}}` are braces. A value that is one placeholder
and nothing else keeps its type in JSON (reference, segments and validity_s are numbers), and
its key is left out when there is nothing to put (no validity, no callback_url, no sender).
Headers take only placeholders that no customer can fill: message_id, reference, segments,
category, username, password, basic.

Rules of an answer: `status` (default for accepted: 200, 201, 202), `where` (each place has one
of the values), `regex` (found in the body). `id` and `code` are places; a regex may give them as
groups of these names. A place is a JSON pointer (RFC 6901), the name of a field for form and
query, or "?name" for a field of the called URL's query. What no rule fits goes by its HTTP
status (`gateways.provider.by_status`), and a 2xx without rule or id is `Unknown`: never a guess.

Guarantees: what is wrong in these tables is found by `parse`, in one line with the key's
name. Placeholders are filled by position, never by `format`: a text with braces, quotes,
`&` or line ends reaches the provider as it is, and nothing else changes. Pure.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import partial
from typing import Literal, TypeVar, cast
from urllib.parse import urlencode, urlsplit

import msgspec

from gateways.base import (
    Accepted,
    Gateway,
    Inbound,
    Outcome,
    Receipt,
    Rejected,
    Retry,
    Sink,
    Submission,
    Unknown,
)
from gateways.http import MAX_ANSWER_BYTES, HttpGateway
from gateways.provider import (
    BadCallback,
    BadSignature,
    Dsn,
    HttpReply,
    HttpRequest,
    by_status,
    digits,
    form_fields,
    international,
    json_value,
    parse_dsn,
    retry_after_s,
    same,
    wrong,
)

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
QUERY = "query"

MAX_EVENTS = 1000  # receipts or texts in one callback
MAX_TEMPLATE_DEPTH = 16

State = Literal[
    "enroute", "accepted", "delivered", "undelivered", "expired", "rejected", "deleted", "unknown"
]
Format = Literal["json", "form", "query"]

# -- the tables, as they stand in the file


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    def __repr__(self) -> str:  # some hold secrets
        return type(self).__name__


class RequestTable(_Table, frozen=True):
    body: dict[str, object]
    method: Literal["POST", "PUT", "GET"] = "POST"
    content_type: Literal["application/json", "application/x-www-form-urlencoded", "query"] = (
        "application/json"
    )
    headers: dict[str, str] = {}
    encoding: dict[Literal["gsm7", "ucs2"], str] = {}


class AcceptedTable(_Table, frozen=True):
    status: list[int] = [200, 201, 202]
    where: dict[str, list[str]] = {}
    regex: str = ""
    id: str = ""


class RejectedTable(_Table, frozen=True):
    status: list[int] = []
    where: dict[str, list[str]] = {}
    regex: str = ""
    code: str = ""
    reasons: dict[str, str] = {}
    reason: str = "rejected"


class ThrottledTable(_Table, frozen=True):
    status: list[int] = []
    where: dict[str, list[str]] = {}
    regex: str = ""
    code: str = ""
    reason: str = "throttled"


class ResponseTable(_Table, frozen=True):
    accepted: AcceptedTable
    rejected: RejectedTable | None = None
    throttled: ThrottledTable | None = None


class ReceiptTable(_Table, frozen=True):
    id: str
    state: str
    states: dict[str, State]
    format: Format = "json"
    items: str = msgspec.field(default="", name="list")
    where: dict[str, list[str]] = {}
    error: str = ""
    to: str = ""
    sender: str = ""
    submitted_at: str = ""
    done_at: str = ""


class InboundTable(_Table, frozen=True):
    sender: str
    to: str
    text: str
    format: Format = "json"
    items: str = msgspec.field(default="", name="list")
    where: dict[str, list[str]] = {}
    id: str = ""


class SignatureTable(_Table, frozen=True):
    header: str
    secret: str
    digest: Literal["sha1", "sha256", "sha512"] = "sha256"
    encoding: Literal["hex", "base64"] = "hex"
    prefix: str = ""


class TokenTable(_Table, frozen=True):
    value: str
    header: str = ""
    query: str = ""


class ReplyTable(_Table, frozen=True):
    status: int = 200
    content_type: str = "text/plain"
    body: str = ""


class CallbackTable(_Table, frozen=True):
    signature: SignatureTable | None = None
    token: TokenTable | None = None
    unsigned: bool = False
    reply: ReplyTable = ReplyTable()


# -- templates and places, compiled

_FIELDS: dict[str, Callable[[Settings, Submission], str | int | None]] = {
    "to": lambda _, m: m.to,
    "to_digits": lambda _, m: digits(m.to),
    "sender": lambda _, m: m.sender or None,
    "text": lambda _, m: m.text,
    "message_id": lambda _, m: m.message_id,
    "reference": lambda _, m: m.reference,
    "segments": lambda _, m: len(m.parts),
    "validity_s": lambda _, m: m.validity_s,
    "encoding": lambda s, m: s.encoding.get(m.encoding, m.encoding),
    "category": lambda _, m: m.category,
    "callback_url": lambda s, _: s.dsn.callback_url or None,
    "username": lambda s, _: s.dsn.username,
    "password": lambda s, _: s.dsn.password,
    "basic": lambda s, _: base64.b64encode(f"{s.dsn.username}:{s.dsn.password}".encode()).decode(),
}
_HEADER_FIELDS = frozenset(
    {"message_id", "reference", "segments", "category", "username", "password", "basic"}
)
_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([a-z_]+)\}|[{}]")


class _Field(msgspec.Struct, frozen=True):
    """A placeholder on its way to its value."""

    name: str


# A template is what the file says, with strings turned into tuples of literals and fields.
Template = tuple["str | _Field", ...] | dict[str, "Template"] | list["Template"] | int | float | bool | None
Place = tuple[str, ...] | str  # the steps of a JSON pointer, or the name of a field ("?name": of the query)


class Rule(msgspec.Struct, frozen=True):
    """When an answer is of one kind, and where its id or code stands."""

    status: frozenset[int]
    where: tuple[tuple[Place, frozenset[str]], ...]
    regex: re.Pattern[str] | None
    value: Place
    group: str


class Shape(msgspec.Struct, frozen=True):
    """How to read one kind of callback: named places, of which some must be there."""

    format: Format
    items: Place
    where: tuple[tuple[Place, frozenset[str]], ...]
    places: dict[str, Place]
    required: tuple[str, ...]


class Settings(msgspec.Struct, frozen=True):
    dsn: Dsn
    method: str
    content_type: str
    headers: dict[str, Template]
    body: dict[str, Template]
    encoding: dict[Literal["gsm7", "ucs2"], str]
    accepted: Rule
    rejected: Rule | None
    rejected_reasons: dict[str, str]
    rejected_reason: str
    throttled: Rule | None
    throttled_reason: str
    receipt: Shape | None
    states: dict[str, State]
    inbound: Shape | None
    callback: CallbackTable

    def __repr__(self) -> str:
        return f"generic.Settings({self.dsn.name})"


# -- reading the file


def parse(name: str, url: str, settings: Mapping[str, object]) -> Settings:
    """See the module's docstring. Raises ValueError: one line that names the key."""
    tables = ("request", "response", "receipt", "inbound", "callback")
    dsn = parse_dsn(name, url, settings, extra=tables)
    request_table = _table(dsn, "request", RequestTable)
    response_table = _table(dsn, "response", ResponseTable)
    if request_table is None or response_table is None:
        raise wrong(name, "request" if request_table is None else "response", "is missing")
    if request_table.content_type != QUERY and request_table.method == "GET":
        raise wrong(name, "request.content_type", 'must be "query" with method GET')
    receipt_table = _table(dsn, "receipt", ReceiptTable)
    inbound_table = _table(dsn, "inbound", InboundTable)
    callback = _table(dsn, "callback", CallbackTable) or CallbackTable()
    if receipt_table or inbound_table:
        _check_callback(name, callback)
    accepted, rejected, throttled = response_table.accepted, response_table.rejected, response_table.throttled
    return Settings(
        dsn=dsn,
        method=request_table.method,
        content_type=request_table.content_type,
        headers=_headers(name, request_table.headers),
        body=_body(name, request_table),
        encoding=request_table.encoding,
        accepted=_rule(name, "response.accepted", accepted, accepted.id, "id"),
        rejected=_rule(name, "response.rejected", rejected, rejected.code, "code") if rejected else None,
        rejected_reasons=rejected.reasons if rejected else {},
        rejected_reason=rejected.reason if rejected else "",
        throttled=_rule(name, "response.throttled", throttled, throttled.code, "code") if throttled else None,
        throttled_reason=throttled.reason if throttled else "",
        receipt=_shape(name, "receipt", receipt_table, _RECEIPT_PLACES) if receipt_table else None,
        states=receipt_table.states if receipt_table else {},
        inbound=_shape(name, "inbound", inbound_table, _INBOUND_PLACES) if inbound_table else None,
        callback=callback,
    )


def build(name: str, url: str, settings: Mapping[str, object], sink: Sink) -> Gateway:
    """A gateway as the tables describe it. Raises ValueError for wrong ones."""
    parsed = parse(name, url, settings)
    return HttpGateway(parsed.dsn, sink, partial(request, parsed), partial(outcome, parsed))


T = TypeVar("T")


def _table(dsn: Dsn, key: str, kind: type[T]) -> T | None:
    if key not in dsn.extra:
        return None
    try:
        return msgspec.convert(dsn.extra[key], kind)
    except msgspec.ValidationError as exc:
        problem, _, path = str(exc).partition(" - at `$")
        unknown = re.match(r"Object contains unknown field `(.*)`$", problem)
        missing = re.match(r"Object missing required field `(.*)`$", problem)
        place = key + path.rstrip("`")
        if unknown:
            place, problem = f"{place}.{unknown[1]}", "unknown key"
        elif missing:
            place, problem = f"{place}.{missing[1]}", "is missing"
        raise wrong(dsn.name, place, problem) from None


def _check_callback(name: str, callback: CallbackTable) -> None:
    ways = [callback.signature is not None, callback.token is not None, callback.unsigned]
    if sum(ways) != 1:
        raise wrong(name, "callback", "needs one of signature, token and unsigned = true")
    token = callback.token
    if token is not None and (bool(token.header) == bool(token.query) or not token.value):
        raise wrong(name, "callback.token", "needs a value, and a header or a query field that carries it")
    if callback.signature is not None and not callback.signature.secret:
        raise wrong(name, "callback.signature.secret", "is empty")


def _headers(name: str, headers: dict[str, str]) -> dict[str, Template]:
    compiled: dict[str, Template] = {}
    for header, value in headers.items():
        key = f"request.headers.{header}"
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", header) or re.search(r"[\x00-\x1f\x7f]", value):
            raise wrong(name, key, "is not a valid header")
        compiled[header] = _compile(name, key, value, allowed=_HEADER_FIELDS)
    return compiled


def _body(name: str, table: RequestTable) -> dict[str, Template]:
    for key, value in table.body.items():
        if table.content_type != JSON and isinstance(value, dict | list):
            raise wrong(name, f"request.body.{key}", f"must be a plain value with {table.content_type}")
    return {key: _compile(name, f"request.body.{key}", value) for key, value in table.body.items()}


def _compile(
    name: str, key: str, value: object, *, allowed: frozenset[str] = frozenset(_FIELDS), depth: int = 0
) -> Template:
    if depth > MAX_TEMPLATE_DEPTH:
        raise wrong(name, key, "is nested too deep")
    if isinstance(value, dict):
        return {
            k: _compile(name, f"{key}.{k}", v, allowed=allowed, depth=depth + 1) for k, v in value.items()
        }
    if isinstance(value, list):
        return [
            _compile(name, f"{key}.{i}", v, allowed=allowed, depth=depth + 1) for i, v in enumerate(value)
        ]
    if not isinstance(value, str):
        if value is None or isinstance(value, int | float | bool):
            return value
        raise wrong(name, key, "must be a string, number, boolean, table or array")
    parts: list[str | _Field] = []
    start = 0
    for found in _PLACEHOLDER.finditer(value):
        literal, start = value[start : found.start()], found.end()
        if found[0] in ("{{", "}}"):
            literal += found[0][0]
        if literal:
            parts.append(literal)
        if found[0] in ("{", "}"):
            raise wrong(name, key, "has a lone brace; write {{ or }} for a brace itself")
        if found[1]:
            if found[1] not in allowed:
                raise wrong(name, key, f"{{{found[1]}}} is no placeholder that may stand here")
            parts.append(_Field(found[1]))
    if value[start:]:
        parts.append(value[start:])
    return tuple(parts)


def _place(name: str, key: str, value: str, form: Format) -> Place:
    if form != "json" or value.startswith("?") or not value:
        return value
    if not value.startswith("/"):
        raise wrong(name, key, 'must be a JSON pointer such as "/messages/0/id", or "?name"')
    return tuple(step.replace("~1", "/").replace("~0", "~") for step in value[1:].split("/"))


def _where(
    name: str, key: str, where: dict[str, list[str]], form: Format
) -> tuple[tuple[Place, frozenset[str]], ...]:
    return tuple(
        (_place(name, f"{key}.where", place, form), frozenset(values)) for place, values in where.items()
    )


def _rule(
    name: str, key: str, table: AcceptedTable | RejectedTable | ThrottledTable, value: str, group: str
) -> Rule:
    try:
        regex = re.compile(table.regex) if table.regex else None
    except re.error:
        raise wrong(name, f"{key}.regex", "is not a regular expression") from None
    if not (table.status or table.where or regex):
        raise wrong(name, key, "needs status, where or regex")
    if group == "id" and not value and (regex is None or "id" not in regex.groupindex):
        raise wrong(name, f"{key}.id", "is missing, and the regex has no group of that name")
    if value.startswith("?"):
        raise wrong(name, f"{key}.{group}", "an answer has no query")
    return Rule(
        status=frozenset(table.status),
        where=_where(name, key, table.where, "json"),
        regex=regex,
        value=_place(name, f"{key}.{group}", value, "json"),
        group=group,
    )


_RECEIPT_PLACES = {
    "id": True,
    "state": True,
    "error": False,
    "to": False,
    "sender": False,
    "submitted_at": False,
    "done_at": False,
}
_INBOUND_PLACES = {"sender": True, "to": True, "text": True, "id": False}


def _shape(name: str, key: str, table: ReceiptTable | InboundTable, fields: Mapping[str, bool]) -> Shape:
    """`fields`: which places there are, and whether each must be there."""
    places: dict[str, Place] = {}
    for field, required in fields.items():
        if value := getattr(table, field):
            places[field] = _place(name, f"{key}.{field}", value, table.format)
        elif required:
            raise wrong(name, f"{key}.{field}", "is empty")
    if table.items and table.format != "json":
        raise wrong(name, f"{key}.list", "needs format json")
    return Shape(
        format=table.format,
        items=_place(name, f"{key}.list", table.items, "json"),
        where=_where(name, key, table.where, table.format),
        places=places,
        required=tuple(field for field, required in fields.items() if required),
    )


# -- requests


def request(settings: Settings, submission: Submission) -> HttpRequest:
    fields = {key: _fill(settings, submission, value) for key, value in settings.body.items()}
    present = {key: value for key, value in fields.items() if value is not None}
    headers = {key: _string(_fill(settings, submission, v)) for key, v in settings.headers.items()}
    url = settings.dsn.base_url
    if settings.content_type == JSON:
        return HttpRequest(
            settings.method, url, {"Content-Type": JSON, **headers}, msgspec.json.encode(present)
        )
    encoded = urlencode([(key, _string(value)) for key, value in present.items()])
    if settings.content_type == FORM:
        return HttpRequest(settings.method, url, {"Content-Type": FORM, **headers}, encoded.encode())
    return HttpRequest(settings.method, f"{url}?{encoded}", headers)


def _fill(settings: Settings, submission: Submission, template: Template) -> object:
    """The template's value. None for a placeholder that stands alone and has nothing to put."""
    if isinstance(template, dict):
        filled = {key: _fill(settings, submission, value) for key, value in template.items()}
        return {key: value for key, value in filled.items() if value is not None}
    if isinstance(template, list):
        return [_fill(settings, submission, value) for value in template]
    if not isinstance(template, tuple):
        return template
    if len(template) == 1 and isinstance(template[0], _Field):
        return _FIELDS[template[0].name](settings, submission)
    return "".join(
        _string(_FIELDS[part.name](settings, submission)) if isinstance(part, _Field) else part
        for part in template
    )


def _string(value: object) -> str:
    """A value as text, for forms and comparisons: JSON's words for truth, nothing for nothing."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


# -- answers


class _Document:
    """An answer's or callback's body, decoded once and only when a rule looks at it."""

    __slots__ = ("_body", "_json", "_text", "query")

    def __init__(self, body: bytes, query: dict[str, str]) -> None:
        self._body = body
        self._json: object = _UNREAD
        self._text: str | None = None
        self.query = query

    def text(self) -> str:
        if self._text is None:
            self._text = self._body[:MAX_ANSWER_BYTES].decode("utf-8", "replace")
        return self._text

    def json(self) -> object:
        if self._json is _UNREAD:
            try:
                self._json = json_value(self._body)
            except ValueError:
                self._json = None
        return self._json


_UNREAD = object()


def outcome(settings: Settings, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
    """By the first rule that fits; without one, by the HTTP status."""
    document = _Document(body, {})
    raw = f"HTTP {status}"
    rule = settings.throttled
    if rule is not None and _fits(rule, status, document):
        code = _value_of(rule, document)
        return Retry(settings.throttled_reason, code or raw, retry_after_s(headers))
    rule = settings.rejected
    if rule is not None and _fits(rule, status, document):
        code = _value_of(rule, document)
        return Rejected(settings.rejected_reasons.get(code, settings.rejected_reason), code or raw)
    if _fits(settings.accepted, status, document):
        gateway_message_id = _value_of(settings.accepted, document)
        return Accepted(gateway_message_id) if gateway_message_id else Unknown("bad_answer", "no id")
    return by_status(status, headers)


def _fits(rule: Rule, status: int, document: _Document) -> bool:
    if rule.status and status not in rule.status:
        return False
    if any(_look(document.json(), place, document.query) not in values for place, values in rule.where):
        return False
    return rule.regex is None or rule.regex.search(document.text()) is not None


def _value_of(rule: Rule, document: _Document) -> str:
    if rule.regex is not None and rule.group in rule.regex.groupindex:
        found = rule.regex.search(document.text())
        return (found[rule.group] or "") if found else ""
    return _look(document.json(), rule.value, document.query) if rule.value else ""


def _look(value: object, place: Place, query: Mapping[str, str]) -> str:
    """What stands at a place, as text; empty when there is nothing, or no plain value."""
    if isinstance(place, str):
        if place.startswith("?"):
            return query.get(place[1:], "")
        return _string(value.get(place)) if isinstance(value, dict) else ""
    found = _resolve(value, place)
    return "" if isinstance(found, dict | list) else _string(found)


def _resolve(value: object, steps: tuple[str, ...]) -> object:
    """RFC 6901; None when the way ends early."""
    for step in steps:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isascii() and step.isdigit() and int(step[:9]) < len(value):
            value = value[int(step[:9])]
        else:
            return None
    return value


# -- callbacks


def receive(
    settings: Settings, method: str, url: str, headers: Mapping[str, str], body: bytes
) -> list[Receipt | Inbound]:
    """Receipts or inbound texts of one call. Raises BadSignature, BadCallback."""
    query = dict(form_fields(urlsplit(url).query))
    if not _is_authentic(settings.callback, query, headers, body):
        raise BadSignature
    document = _Document(body, query)
    events: list[Receipt | Inbound] = []
    for shape, make in ((settings.receipt, _receipt), (settings.inbound, _inbound)):
        if shape is not None and not events:
            events = [make(settings, values) for values in _events(shape, document, body)]
    if not events:
        raise BadCallback("neither a receipt nor an inbound text")
    return events


def reply(settings: Settings) -> HttpReply:
    table = settings.callback.reply
    return HttpReply(table.status, {"Content-Type": table.content_type}, table.body.encode())


def _is_authentic(
    callback: CallbackTable, query: Mapping[str, str], headers: Mapping[str, str], body: bytes
) -> bool:
    if callback.token is not None:
        token = callback.token
        given = headers.get(token.header.lower(), "") if token.header else query.get(token.query, "")
        return same(token.value, given)
    if callback.signature is not None:
        table = callback.signature
        given = headers.get(table.header.lower(), "")
        if not given.startswith(table.prefix):
            return False
        given = given[len(table.prefix) :].strip()
        expected = hmac.digest(table.secret.encode(), body, getattr(hashlib, table.digest))
        try:
            decoded = (
                bytes.fromhex(given) if table.encoding == "hex" else base64.b64decode(given, validate=True)
            )
        except (ValueError, binascii.Error):
            return False
        return same(expected, decoded)
    return callback.unsigned


def _events(shape: Shape, document: _Document, body: bytes) -> Iterator[dict[str, str]]:
    """The values at the shape's places, for each item that has the required ones. Raises BadCallback."""
    root: object
    if shape.format == "json":
        root = document.json()
    else:
        root = dict(form_fields(body)) if shape.format == "form" else document.query
    items: object = [root]
    if shape.items:
        items = _resolve(root, cast(tuple[str, ...], shape.items))
        if not isinstance(items, list):
            return
    if len(cast(list[object], items)) > MAX_EVENTS:
        raise BadCallback(f"more than {MAX_EVENTS} in one call")
    for item in cast(list[object], items):
        if any(_look(item, place, document.query) not in values for place, values in shape.where):
            continue
        values = {field: _look(item, place, document.query) for field, place in shape.places.items()}
        if all(values[field] or field == "text" for field in shape.required):
            yield values


def _receipt(settings: Settings, values: dict[str, str]) -> Receipt:
    return Receipt(
        gateway_message_id=values["id"],
        state=settings.states.get(values["state"], "unknown"),
        raw=values["state"],
        error=values.get("error", ""),
        to=digits(values.get("to", "")),
        sender=digits(values.get("sender", "")),
        submitted_at=unix_s(values.get("submitted_at", "")),
        done_at=unix_s(values.get("done_at", "")),
    )


def _inbound(_settings: Settings, values: dict[str, str]) -> Inbound:
    return Inbound(
        sender=international(digits(values["sender"])),
        to=digits(values["to"]),
        text=values["text"],
        gateway_message_id=values.get("id", ""),
    )


def unix_s(value: str) -> float | None:
    """A provider's time: Unix seconds, milliseconds (from 1e11 on), or ISO 8601 with an offset."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            return None
        return at.timestamp() if at.tzinfo is not None else None
    if not 0 < seconds < 1e14:
        return None
    return seconds / 1000 if seconds >= 1e11 else seconds
