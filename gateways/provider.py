"""What the module of one HTTP provider takes and gives; pure, no I/O.

A provider (`gateways/twilio.py`) is one small file of functions on its own parsed settings:

    parse(name, url, settings) -> S                             ValueError: one line that names the wrong key
    request(s: S, submission) -> HttpRequest
    outcome(s: S, status, headers, body) -> Outcome             header names are lower-case
                                     or -> list[Outcome]        one a part, not empty, where it names them
    receive(s: S, method, url, headers, body) -> list[Receipt | Inbound]    BadSignature, BadCallback
    reply(s: S) -> HttpReply                                    what a stored callback is answered with
    build(name, url, settings, sink) -> Gateway                 an `HttpGateway` around the first three

Sending, time-outs, pooling and what a cut connection means are the same for all of them
and live in `gateways.http`; retry, metrics and logs are the caller's.

Guarantees: secrets, numbers and texts never reach a repr or an error of this module.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar, cast
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import msgspec

from app.domain.text import Coding
from gateways.base import Outcome, Rejected, Retry, Unknown
from gateways.numbers import has_numbers

MAX_DELAY_S = 3600.0  # a longer Retry-After is a provider's mistake: nothing waits for days
MAX_FIELDS = 200  # of a form or query that calls back
MAX_CONCURRENCY = 1000

Content = TypeVar("Content")

# Keys that belong to the caller; they may stand beside ours in the DSN's query or the gateway's table.
CALLERS_KEYS = frozenset({"name", "url", "rate", "binds", "callback_url"})
_LINK_KEYS = frozenset(
    {
        "concurrency",
        "connect_s",
        "send_s",
        "answer_s",
        "keepalive_s",
        "allow_private",
        "ca_file",
        "ucs2_only",
        "country",
    }
)
# Providers cut texts themselves. None is told of national shift tables, so none is counted by them.
_BY_LETTERS = Coding(join="provider")
_UCS2_ONLY = Coding(order=("ucs2",), join="provider")


class HttpRequest(msgspec.Struct, frozen=True, gc=False):
    """One request, complete. `url` is already percent-encoded; GET and PUT are as welcome as POST."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes = b""

    def __repr__(self) -> str:  # headers hold credentials, the body a number and a text
        return f"HttpRequest({self.method})"


class HttpReply(msgspec.Struct, frozen=True):
    """What the provider's callback is answered with."""

    status: int = 204
    headers: dict[str, str] = {}
    body: bytes = b""


class BadSignature(Exception):
    """The callback doesn't come from the provider; answer 403."""


class Ask(Exception):
    """The provider must be asked before the callback can be judged: GET `url`, of the provider's own host.

    With `learn`, the answer's body is given to it (it raises BadSignature for what it can't use) and the callback is
    read again; without, asking was all there is to do.
    """

    def __init__(self, url: str, learn: Callable[[bytes], None] | None = None) -> None:
        super().__init__(url)
        self.url = url
        self.learn = learn


class BadCallback(Exception):
    """The callback is authentic but can't be read; answer 400. Says what is missing, never a value."""


class Dsn(msgspec.Struct, frozen=True):
    """A gateway's URL and the options that every HTTP gateway has, checked.

    `base_url` is scheme, host, port and path, without credentials and query. `extra` holds
    the provider's own options. Times are seconds.
    """

    name: str
    base_url: str
    username: str
    password: str
    callback_url: str  # where this gateway is called back; empty when the service has no public address
    extra: dict[str, object]
    concurrency: int  # credit, in segments; also the greatest number of connections
    connect_s: float  # resolving, connecting, TLS
    send_s: float  # from the first byte of the request to its last
    answer_s: float  # from there to the last byte of the answer
    keepalive_s: float  # a pooled connection idle for longer is not used again
    allow_private: bool  # loopback, private and link-local addresses may be called
    country: str  # of national numbers in callbacks; empty: there are none
    ca_file: str  # PEM file of the authority that signs the provider's certificate; empty: the system's
    coding: (
        Coding  # how its segments are counted, and whether UCS-2 is asked for where the provider can be asked
    )

    def __repr__(self) -> str:
        return f"Dsn({self.name})"


class ProviderSettings(msgspec.Struct, frozen=True):
    """What every provider's parsed settings begin with. Their repr names the gateway, and no secret."""

    dsn: Dsn

    def __repr__(self) -> str:
        return f"{type(self).__module__.rpartition('.')[2]}.Settings({self.dsn.name})"


def wrong(name: str, key: str, problem: str) -> ValueError:
    """The one kind of error that reading settings gives: a line that names gateway and key, no value."""
    return ValueError(f"gateway {name}: {key}: {problem}")


def parse_dsn(
    name: str,
    url: str,
    settings: Mapping[str, object],
    *,
    extra: Iterable[str] = (),
    transport: str = "https",
    ucs2_only: bool = False,
) -> Dsn:
    """Read `scheme[+http|+https]://user:password@host[:port][/path]?option=value`.

    Options may also stand in the gateway's table (`settings`), which wins over the URL. `extra`
    names the provider's own options and tables; `ucs2_only` is that option's default. Raises ValueError.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise wrong(name, "url", "can't be read") from None
    scheme = parts.scheme.partition("+")[2] or transport
    if scheme not in ("http", "https"):
        raise wrong(name, "url", "the part after '+' must be http or https")
    if not parts.hostname:
        raise wrong(name, "url", "has no host")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    known = _LINK_KEYS | frozenset(extra) | CALLERS_KEYS
    options: dict[str, object] = dict(parse_qsl(parts.query, keep_blank_values=True))
    options.update(settings)
    for key in options:
        if key not in known:
            raise wrong(name, key, "unknown option")
    return Dsn(
        name=name,
        base_url=f"{scheme}://{host}{f':{port}' if port else ''}{quote(parts.path, safe='/%')}",
        username=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        callback_url=_callback_url(name, text(name, options, "callback_url")),
        extra={key: options[key] for key in extra if key in options},
        concurrency=int(number(name, options, "concurrency", 20, least=1, most=MAX_CONCURRENCY)),
        connect_s=number(name, options, "connect_s", 10, least=0.01, most=300),
        send_s=number(name, options, "send_s", 10, least=0.01, most=300),
        answer_s=number(name, options, "answer_s", 30, least=0.01, most=600),
        # Many servers close idle connections after 5 s. A request that meets such a close has an
        # unknown outcome, a new connection costs 2 round trips: so stay below.
        keepalive_s=number(name, options, "keepalive_s", 4, least=0.01, most=600),
        allow_private=flag(name, options, "allow_private"),
        country=_country(name, text(name, options, "country")),
        ca_file=text(name, options, "ca_file"),
        coding=_UCS2_ONLY if flag(name, options, "ucs2_only", ucs2_only) else _BY_LETTERS,
    )


def text(name: str, options: Mapping[str, object], key: str, default: str = "") -> str:
    """A string option. Raises ValueError."""
    value = options.get(key, default)
    if not isinstance(value, str):
        raise wrong(name, key, "must be a string")
    return value


def number(
    name: str, options: Mapping[str, object], key: str, default: float, *, least: float, most: float
) -> float:
    """A number within limits, given as a number or, in a URL, as digits. Raises ValueError."""
    value = options.get(key, default)
    try:
        if isinstance(value, bool):
            raise TypeError
        result = float(cast(float, value))
    except (TypeError, ValueError):
        raise wrong(name, key, "must be a number") from None
    if not least <= result <= most:
        raise wrong(name, key, f"must lie between {least:g} and {most:g}")
    return result


def flag(name: str, options: Mapping[str, object], key: str, default: bool = False) -> bool:
    """True or false, given as such or, in a URL, as one of the two words. Raises ValueError."""
    value = options.get(key, default)
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return value == "true"
    raise wrong(name, key, "must be true or false")


def _country(name: str, country: str) -> str:
    if country and not has_numbers(country):
        raise wrong(name, "country", "must be a country with phone numbers, in two capital letters")
    return country


def _callback_url(name: str, public_url: str) -> str:
    """The service's public base URL to the one address at which this gateway is called back."""
    if not public_url:
        return ""
    parts = urlsplit(public_url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise wrong(name, "callback_url", "must be an http(s) URL without query")
    return f"{public_url.rstrip('/')}/v1/callbacks/{quote(name, safe='')}"


def callers_token(name: str, dsn: Dsn) -> str:
    """The option `token`, which providers that sign nothing need for callbacks. Raises ValueError."""
    token = text(name, dsn.extra, "token")
    if dsn.callback_url and not token:
        raise wrong(name, "token", "is needed to know who calls back")
    return token


def called_back_at(dsn: Dsn, token: str) -> str:
    """Where the provider is asked to call back, with the token in the query; empty where it isn't called."""
    query = f"?token={quote(token, safe='')}" if token else ""
    return dsn.callback_url + query if dsn.callback_url else ""


def has_token(token: str, url: str) -> bool:
    """Does the query of the called URL have this token? An empty one is none. Raises BadCallback."""
    given = dict(form_fields(urlsplit(url).query)).get("token", "")
    return bool(token) and same(token, given)


def check_token(token: str, url: str) -> None:
    """Raises BadSignature, or BadCallback, where `has_token` is not true."""
    if not has_token(token, url):
        raise BadSignature


def basic(username: str, password: str) -> str:
    """`Authorization` by RFC 7617."""
    return f"Basic {base64.b64encode(f'{username}:{password}'.encode()).decode()}"


def json_post(url: str, headers: Mapping[str, str], content: object) -> HttpRequest:
    """A POST of JSON that wants JSON back."""
    kind = "application/json"
    return HttpRequest(
        "POST", url, {"Content-Type": kind, "Accept": kind, **headers}, msgspec.json.encode(content)
    )


def decoded(body: bytes | str, kind: type[Content]) -> Content | None:
    """A JSON document as that kind; None when it is another, or none."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, UnicodeEncodeError, RecursionError):
        return None


def called_with(body: bytes | str, kind: type[Content], what: str) -> Content:
    """What a callback says, in JSON. Raises BadCallback with `what` it should have been."""
    content = decoded(body, kind)
    if content is None:
        raise BadCallback(f"not the JSON of {what}")
    return content


def iso_unix_s(value: str | None) -> float | None:
    """`2019-01-23T18:10:02.574Z` in Unix seconds; one without zone is not a time."""
    try:
        at = datetime.fromisoformat(value or "")
        return at.timestamp() if at.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def by_status(status: int, headers: Mapping[str, str], code: str = "") -> Outcome:
    """What an HTTP status says when the provider's own table says nothing (RFC 9110 section 15).

    Only a status that means "not processed" lets the text go again. 301, 302 and 303 are what web
    frameworks give after a POST that they did process, so they are `Unknown`; 307 and 308 ask
    for the same request elsewhere (15.4.8, 15.4.9), so nothing was accepted here, and following
    them would hand number, text and credentials to a host that nobody configured.
    """
    raw = f"HTTP {status} {code}".rstrip()
    if status == 429:  # RFC 6585 section 4
        return Retry("throttled", raw, retry_after_s(headers))
    if status in _GATEWAY_REFUSALS:
        return Retry("gateway_error", raw)
    if status in _DOUBTFUL or not 400 <= status <= 499:
        return Unknown("server_error" if status >= 500 else "bad_answer", raw)
    return Rejected("no_credit" if status == 402 else "rejected", raw)


# Refusals of the gateway, not of the text: address moved, wrong credentials or wrong path.
_GATEWAY_REFUSALS = frozenset({307, 308, 401, 403, 404, 405, 407, 410, 421, 426})
# 408 may meet a request that was read after all, 409 a duplicate of one that was accepted.
_DOUBTFUL = frozenset({408, 409})


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """`Retry-After` in seconds (RFC 9110 section 10.2.3), capped; a date counts from the answer's `Date`."""
    value = headers.get("retry-after", "").strip()
    try:
        if value.isascii() and value.isdigit():
            return min(float(value), MAX_DELAY_S)
        at = parsedate_to_datetime(value)
        delay_s = (at - parsedate_to_datetime(headers.get("date", ""))).total_seconds()
    except (ValueError, TypeError, IndexError):
        return None
    return min(max(delay_s, 0.0), MAX_DELAY_S)


def form_fields(data: bytes | str) -> list[tuple[str, str]]:
    """Names and values of a form or query, in order. Raises BadCallback."""
    try:
        decoded = data.decode("ascii") if isinstance(data, bytes) else data
        return parse_qsl(decoded, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except ValueError:  # UnicodeDecodeError is one
        raise BadCallback("the form can't be read") from None


def form_encode(fields: Iterable[tuple[str, str]]) -> str:
    """A form or query (URL standard, section 5) in UTF-8, several times as fast as urllib."""
    return "&".join([f"{_form_quote(name)}={_form_quote(value)}" for name, value in fields])


def _form_quote(value: str) -> str:
    return value.encode().decode("latin-1").translate(_FORM)


# Each byte as a form writes it.
_FORM = ["+" if b == 0x20 else quote(bytes([b]), safe="") for b in range(256)]


def json_value(body: bytes) -> object:
    """The value of a JSON document. Raises ValueError, also for one nested too deep."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError("not JSON") from None


def same(expected: str | bytes, given: str | bytes) -> bool:
    """Compare a secret or signature in constant time."""
    left = expected.encode() if isinstance(expected, str) else expected
    right = given.encode() if isinstance(given, str) else given
    return hmac.compare_digest(left, right)


def digits(number: str) -> str:
    """A number without its plus sign, as receipts and senders are written; a name stays as it is."""
    return number.removeprefix("+")


def international(number: str) -> str:
    """Digits of more than 6 places are a whole number: with plus sign. Short codes and names stay."""
    return f"+{number}" if number.isascii() and number.isdigit() and len(number) > 6 else number
