"""The tables that describe a provider: as they stand in the file, checked, and compiled.

Guarantees: `parse` finds what is wrong, in one line with the key's name and no secret; what
it gives needs no further check. Pure.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from typing import Literal, TypeVar

import msgspec

from gateways.base import State, Submission
from gateways.provider import Dsn, digits, parse_dsn, wrong

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
QUERY = "query"

MAX_TEMPLATE_DEPTH = 16

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
    status: tuple[int, ...] = (200, 201, 202)
    where: dict[str, list[str]] = {}
    regex: str = ""
    id: str = ""


class RejectedTable(_Table, frozen=True):
    status: tuple[int, ...] = ()
    where: dict[str, list[str]] = {}
    regex: str = ""
    code: str = ""
    reasons: dict[str, str] = {}
    reason: str = "rejected"


class ThrottledTable(_Table, frozen=True):
    status: tuple[int, ...] = ()
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

FIELDS: dict[str, Callable[[Settings, Submission], str | int | None]] = {
    "to": lambda _, m: m.to,
    "to_digits": lambda _, m: digits(m.to),
    "sender": lambda _, m: m.sender or None,
    "text": lambda _, m: m.text,
    "message_id": lambda _, m: m.message_id,
    "reference": lambda _, m: m.reference,
    "segments": lambda _, m: len(m.parts),
    "validity_s": lambda _, m: m.validity_s,
    "encoding": lambda s, m: s.encoding.get(m.encoding, m.encoding),  # type: ignore[arg-type]
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


class Field(msgspec.Struct, frozen=True):
    """A placeholder on its way to its value."""

    name: str


# A template is what the file says, with strings turned into tuples of literals and fields.
Template = tuple["str | Field", ...] | dict[str, "Template"] | list["Template"] | int | float | bool | None
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


T = TypeVar("T")


def _table(dsn: Dsn, key: str, kind: type[T]) -> T | None:
    if key not in dsn.extra:
        return None
    try:
        return msgspec.convert(dsn.extra[key], kind)
    except msgspec.ValidationError as exc:
        found = re.fullmatch(r"(.*?)(?: - at (?:`key` in )?`\$(.*)`)?", str(exc))
        problem, path = (found[1], found[2] or "") if found else ("is wrong", "")
        unknown = re.match(r"Object contains unknown field `(.*)`$", problem)
        missing = re.match(r"Object missing required field `(.*)`$", problem)
        place = key + path
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
    name: str, key: str, value: object, *, allowed: frozenset[str] = frozenset(FIELDS), depth: int = 0
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
    parts: list[str | Field] = []
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
            parts.append(Field(found[1]))
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
