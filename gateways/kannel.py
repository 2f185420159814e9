"""Kannel's `sendsms` (smsbox), and Jasmin's HTTP API, which grew out of it.

    kannel+http://USER:PASSWORD@10.0.0.5:13013?allow_private=true&token=…
    kannel+http://USER:PASSWORD@10.0.0.5:1401?flavour=jasmin&allow_private=true&token=…

A URL without path gets the usual one, `/cgi-bin/sendsms` or `/send`. Options, beside those of every HTTP
gateway: `flavour`, `kannel` by default; `smsc`, the connection that Kannel shall use; `token` (letters,
digits, `-` and `_`), needed when callbacks are used: neither signs, so this secret stands in the query of the
callbacks' URL. Both take the password in the query, so keep queries out of access logs, and the way there
private. Receipts are asked for with each message. Inbound texts, in Kannel (`omit-empty` and `max-messages =
0`, lest the person gets our empty answer as a text):

    get-url = "{callback_url}/v1/callbacks/{gateway}?token=…&from=%p&to=%P&text=%b&charset=%C&in=%I"

In Jasmin, an HTTP connector with base URL …?token=… and method POST.

Guarantees: pure but for `build`; a callback is read only after its token was checked. Kannel's answer names
no id, so our message id is the id there, and its receipts name it, since it stands in their URL; Jasmin's own
id is used with Jasmin. Neither knows a key against duplicates. Kannel asks its SMSC for a receipt of a long text's
first part only; Jasmin reports on parts, so several receipts may come for one id.

Kannel 1.4.5 (Debian) was tried by hand, with the sandbox SMSC behind it: texts, receipts, refusals and inbound texts.
Jasmin is written from documentation alone.
Sources: https://www.kannel.org/download/kannel-userguide-snapshot/userguide.html (sections "Using the
HTTP interface to sendsms", "Delivery reports", "Parameters (escape codes)"),
https://docs.jasminsms.com/en/latest/apis/http/index.html.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import partial
from urllib.parse import parse_qsl, urlsplit

from gateways.base import (
    Accepted,
    Gateway,
    Inbound,
    Outcome,
    Receipt,
    Rejected,
    Retry,
    Sink,
    State,
    Submission,
    Unknown,
)
from gateways.http import HttpGateway
from gateways.provider import (
    MAX_FIELDS,
    BadCallback,
    BadSignature,
    HttpReply,
    HttpRequest,
    ProviderSettings,
    by_status,
    digits,
    form_encode,
    international,
    parse_dsn,
    same,
    text,
    wrong,
)

FLAVOURS = {"kannel": "/cgi-bin/sendsms", "jasmin": "/send"}
FINAL_REPORTS = "19"  # dlr-mask: 1 delivered + 2 not delivered + 16 refused by the SMSC

# How the body of Kannel's answer begins (status 202, in old releases 200).
TAKEN = ("0:", "3:", "Sent")  # accepted; queued, since no SMSC is up; accepted, before release 1.4
# And of a refusal, where its status says less.
REFUSALS: dict[str, Outcome] = {
    "Number(s) has/have been denied": Rejected("blocked", "denied by list"),
    "Empty receiver number not allowed": Rejected("invalid_number", "empty receiver"),
    "Missing receiver number": Rejected("invalid_number", "missing receiver"),
    "Sender missing": Rejected("invalid_sender", "sender missing"),
    "Charset or body misformed": Rejected("content_rejected", "charset or body"),
    # Jasmin's, in quotes after the word Error
    'Error "No route found': Rejected("no_route", "no route"),
    'Error "Cannot charge': Rejected("no_credit", "cannot charge"),
    'Error "User throughput exceeded': Retry("throttled", "throughput"),
}

# `%d` in Kannel's dlr-url.
KANNEL_STATES: dict[str, State] = {
    "1": "delivered",
    "2": "undelivered",
    "4": "accepted",  # buffered at the SMSC
    "8": "enroute",  # taken by the SMSC
    "16": "rejected",
    "34": "expired",
    "66": "unknown",
}
# `message_status` of Jasmin: the receipt's word (SMPP 3.4, appendix B).
JASMIN_STATES: dict[str, State] = {
    "DELIVRD": "delivered",
    "UNDELIV": "undelivered",
    "EXPIRED": "expired",
    "DELETED": "deleted",
    "REJECTD": "rejected",
    "ACCEPTD": "accepted",
    "ENROUTE": "enroute",
    "UNKNOWN": "unknown",
    "ESME_ROK": "enroute",  # at level 1: the SMSC took it
}

# `%C` of an inbound text; Kannel gives UTF-8 for the default alphabet and raw UCS-2 for the rest.
CHARSETS = {
    "UTF-8": "utf-8",
    "UTF-16BE": "utf-16-be",
    "WINDOWS-1252": "cp1252",
    "ISO-8859-1": "latin-1",
}

_ID = re.compile(r'Success "([^"]+)"')
_ERROR = re.compile(r"\berr:([0-9A-Za-z]+)|^NACK/([^/]+)")  # in the SMSC's reply, `%A`


class Settings(ProviderSettings, frozen=True):
    url: str
    jasmin: bool
    smsc: str
    token: str


def parse(name: str, url: str, settings: Mapping[str, object]) -> Settings:
    """See the module's docstring. Raises ValueError."""
    dsn = parse_dsn(name, url, settings, extra=("flavour", "smsc", "token"))
    if not dsn.username or not dsn.password:
        raise wrong(name, "url", "needs USER:PASSWORD before the host")
    flavour = text(name, dsn.extra, "flavour", "kannel")
    if flavour not in FLAVOURS:
        raise wrong(name, "flavour", f"must be one of {', '.join(FLAVOURS)}")
    token = text(name, dsn.extra, "token")
    if not re.fullmatch(r"[A-Za-z0-9_-]*", token):  # Kannel reads % in a dlr-url as its own
        raise wrong(name, "token", "must be of letters, digits, - and _")
    if dsn.callback_url and not token:
        raise wrong(name, "token", "is needed to know who calls back")
    bare = urlsplit(dsn.base_url).path in ("", "/")
    return Settings(
        dsn=dsn,
        url=dsn.base_url.rstrip("/") + FLAVOURS[flavour] if bare else dsn.base_url,
        jasmin=flavour == "jasmin",
        smsc=text(name, dsn.extra, "smsc"),
        token=token,
    )


def build(name: str, url: str, settings: Mapping[str, object], sink: Sink) -> Gateway:
    """A gateway to Kannel or Jasmin. Raises ValueError for wrong settings."""
    parsed = parse(name, url, settings)
    if parsed.jasmin:
        return HttpGateway(parsed.dsn, sink, partial(request, parsed), partial(outcome, parsed))
    # `HttpGateway` asks and reads the answer in one task for each submission, so what is set there is
    # what is read there, however many are under way.
    current: ContextVar[str] = ContextVar("message_id")

    def ask(submission: Submission) -> HttpRequest:
        current.set(submission.message_id)
        return request(parsed, submission)

    def told(status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
        return outcome(parsed, status, headers, body, current.get())

    return HttpGateway(parsed.dsn, sink, ask, told)


def request(settings: Settings, submission: Submission) -> HttpRequest:
    fields = [
        ("username", settings.dsn.username),
        ("password", settings.dsn.password),
        ("to", submission.to if not settings.jasmin else digits(submission.to)),
    ]
    if submission.sender:
        fields.append(("from", submission.sender))
    fields += (
        _jasmin_fields(settings, submission) if settings.jasmin else _kannel_fields(settings, submission)
    )
    return HttpRequest("GET", f"{settings.url}?{form_encode(fields)}", {})


def _kannel_fields(settings: Settings, submission: Submission) -> list[tuple[str, str]]:
    fields = [
        ("text", submission.text),
        ("charset", "UTF-8"),
        ("coding", "2" if submission.encoding == "ucs2" else "0"),
    ]
    if settings.smsc:
        fields.append(("smsc", settings.smsc))
    if submission.validity_s is not None:
        fields.append(("validity", str(max(submission.validity_s // 60, 1))))
    if settings.dsn.callback_url:
        ours = f"{settings.dsn.callback_url}?token={settings.token}&id={submission.message_id}"
        url = f"{ours.replace('%', '%%')}&state=%d&at=%T&reply=%A"
        fields += [("dlr-mask", FINAL_REPORTS), ("dlr-url", url)]
    return fields


def _jasmin_fields(settings: Settings, submission: Submission) -> list[tuple[str, str]]:
    if submission.encoding == "ucs2":
        fields = [("coding", "8"), ("hex-content", submission.text.encode("utf-16-be").hex())]
    else:
        fields = [("coding", "0"), ("content", submission.text)]
    if submission.validity_s is not None:
        fields.append(("validity-period", str(max(submission.validity_s // 60, 1))))
    if settings.dsn.callback_url:
        fields += [
            ("dlr", "yes"),
            ("dlr-url", f"{settings.dsn.callback_url}?token={settings.token}"),
            ("dlr-level", "2"),
            ("dlr-method", "POST"),
        ]
    return fields


def outcome(
    settings: Settings, status: int, headers: Mapping[str, str], body: bytes, message_id: str = ""
) -> Outcome:
    """202 or 200 with the right words is acceptance; known refusals by their words, all else by its status."""
    answer = body.decode("utf-8", "replace").strip()
    if status in (200, 202):
        if settings.jasmin:
            found = _ID.match(answer)
            return Accepted(found[1]) if found else Unknown("bad_answer", "no id")
        taken = answer.startswith(TAKEN) and message_id
        return Accepted(message_id) if taken else Unknown("bad_answer", f"HTTP {status}")
    if 400 <= status <= 499:
        for words, refusal in REFUSALS.items():
            if answer.startswith(words):
                return refusal
    return by_status(status, headers)


def receive(
    settings: Settings, method: str, url: str, headers: Mapping[str, str], body: bytes
) -> list[Receipt | Inbound]:
    """One receipt or one inbound text. Raises BadSignature, BadCallback."""
    form = urlsplit(url).query
    if not settings.token or not same(settings.token, _fields(form).get("token", "")):
        raise BadSignature
    if method == "POST":
        form = f"{form}&{body.decode('latin-1')}"
    values = _fields(form)
    if settings.jasmin:
        return [_from_jasmin(values)]
    if "state" in values:
        if not values.get("id"):
            raise BadCallback("id is missing")
        error = _ERROR.search(values.get("reply", ""))
        code = (error[1] or error[2]) if error else ""
        at = values.get("at", "")
        return [
            Receipt(
                gateway_message_id=values["id"],
                state=KANNEL_STATES.get(values["state"], "unknown"),
                raw=values["state"],
                error="" if set(code) == {"0"} else code,
                done_at=float(at) if at.isascii() and at.isdigit() else None,
            )
        ]
    if "text" not in values or "from" not in values:
        raise BadCallback("neither state nor from and text")
    sender, content = international(digits(values["from"])), _content(form, values)
    return [Inbound(sender, digits(values.get("to", "")), content, values.get("in", ""))]


def reply(settings: Settings) -> HttpReply:
    """Jasmin wants these words; what Kannel gets could go to the person as a text."""
    return HttpReply(200, {"Content-Type": "text/plain"}, b"ACK/Jasmin" if settings.jasmin else b"")


def _from_jasmin(values: Mapping[str, str]) -> Receipt | Inbound:
    message_id = values.get("id", "")
    if not message_id:
        raise BadCallback("id is missing")
    if "message_status" in values:
        status, error = values["message_status"], values.get("err", "")
        unknown: State = "rejected" if status.startswith("ESME_") else "unknown"
        return Receipt(
            gateway_message_id=message_id,
            state=JASMIN_STATES.get(status, unknown),
            raw=status,
            error="" if set(error) == {"0"} else error,
            done_at=_unix_s(values.get("donedate", "")),
        )
    if "content" not in values:
        raise BadCallback("neither message_status nor content")
    content = values["content"]
    if values.get("coding") == "8":  # the content's octets aren't UTF-8: they come in hex, too
        try:
            content = bytes.fromhex(values.get("binary", "")).decode("utf-16-be")
        except ValueError:
            raise BadCallback("binary can't be read") from None
    sender = international(digits(values.get("from", "")))
    return Inbound(sender, digits(values.get("to", "")), content, message_id)


def _fields(query: str) -> dict[str, str]:
    """As `form_fields`, but for octets that aren't UTF-8, which both may send. Raises BadCallback."""
    try:
        return dict(parse_qsl(query, keep_blank_values=True, errors="replace", max_num_fields=MAX_FIELDS))
    except ValueError:
        raise BadCallback("the form can't be read") from None


def _content(form: str, values: Mapping[str, str]) -> str:
    """The text of Kannel's `%b`: octets in whatever charset it says, or seems to be in where it says none."""
    as_octets = parse_qsl(form, keep_blank_values=True, encoding="latin-1", max_num_fields=MAX_FIELDS)
    octets = dict(as_octets).get("text", "").encode("latin-1")
    guess = "utf-16-be" if b"\x00" in octets else "utf-8"
    return octets.decode(CHARSETS.get(values.get("charset", "").upper(), guess), "replace")


def _unix_s(value: str) -> float | None:
    """`YYMMDDhhmm` of an SMSC's receipt, taken as UTC."""
    try:
        return datetime.strptime(value[:10], "%y%m%d%H%M").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None
