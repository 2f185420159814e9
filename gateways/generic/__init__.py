"""A provider without a module of its own: its HTTP API described in `volley.toml`.

    [[gateways]]
    name = "acme"
    url = "generic+https://user:pass@sms.example.com/send?concurrency=20"
    callback_url = "https://volley.example.org"      # the service's public address

    [gateways.request]
    method = "POST"                                  # POST (default), PUT or GET
    content_type = "application/json"                # or "application/x-www-form-urlencoded" or "query"
    headers = { Authorization = "Bearer {password}", Idempotency-Key = "{message_id}" }
    encoding = { gsm7 = "no", ucs2 = "yes" }         # what {encoding} stands for
    [gateways.request.body]
    to = "{to}"
    from = "{sender}"
    text = "{text}"
    ttl = "{validity_s}"
    options = { unicode = "{encoding}", report_to = "{callback_url}" }

    [gateways.response]                              # tried in this order: throttled, rejected, accepted
    throttled = { status = [429, 503] }
    accepted = { status = [200, 202], where = { "/ok" = ["true"] }, id = "/messages/0/id" }
    [gateways.response.rejected]
    status = [400, 422]
    code = "/error/code"
    reasons = { 13 = "invalid_number", 27 = "opted_out" }     # code to our reason; others: rejected

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
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import partial
from typing import cast
from urllib.parse import urlsplit

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
from gateways.generic.tables import (
    FIELDS,
    FORM,
    JSON,
    CallbackTable,
    Field,
    Place,
    Rule,
    Settings,
    Shape,
    Template,
    parse,
)
from gateways.http import MAX_ANSWER_BYTES, HttpGateway
from gateways.provider import (
    BadCallback,
    BadSignature,
    HttpReply,
    HttpRequest,
    by_status,
    digits,
    form_encode,
    form_fields,
    international,
    json_value,
    retry_after_s,
    same,
)

__all__ = ["build", "outcome", "parse", "receive", "reply", "request"]

MAX_EVENTS = 1000  # receipts or texts in one callback


def build(name: str, url: str, settings: Mapping[str, object], sink: Sink) -> Gateway:
    """A gateway as the tables describe it. Raises ValueError for wrong ones."""
    parsed = parse(name, url, settings)
    return HttpGateway(parsed.dsn, sink, partial(request, parsed), partial(outcome, parsed))


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
    encoded = form_encode((key, _string(value)) for key, value in present.items())
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
    if len(template) == 1 and isinstance(template[0], Field):
        return FIELDS[template[0].name](settings, submission)
    return "".join(
        _string(FIELDS[part.name](settings, submission)) if isinstance(part, Field) else part
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
