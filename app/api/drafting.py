"""From requests to what is accepted: each value checked, each text rendered and measured.

Guarantees: what comes out can be stored and handed over as it is; a recipient that can't be is a
Rejection with its index, place and reason, and hinders no other. No I/O; time is an argument.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from app.api import limits, wire
from app.api.auth import Caller
from app.api.ground import Ground, TenantGround, Warned
from app.api.problems import Problem, field_problem
from app.countries.places import known_zones
from app.countries.texts import Finding, Refusal
from app.domain import ids, smart
from app.domain.message import Category
from app.domain.pack import PACK_SIZE, Entry, Pack
from app.domain.phone import InvalidNumber, parse
from app.domain.routing import POOL_MARK, TEST_GATEWAY, Member, sender_for
from app.domain.template import Template, TemplateError, escaped
from app.domain.template import parse as parse_template
from app.domain.text import TextError, count
from app.store.intake import Draft

_NUMBER = re.compile(r"\+?[0-9]{3,15}\Z")
_NAME = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9 &._\-]{1,11}\Z")
_HOST = re.compile(r"[A-Za-z0-9._\-\[\]:]+\Z")
_LOOPBACK = frozenset(("localhost", "127.0.0.1", "::1"))


class Regions(msgspec.Struct, frozen=True):
    """The region of a number: the longest matching prefix of the region table, else its country."""

    by_prefix: dict[str, str]
    lengths: tuple[int, ...]  # of the prefixes, longest first

    @classmethod
    def of(cls, rows: Sequence[tuple[str, Sequence[str]]]) -> Regions:
        """From (code, prefixes); a prefix may lack its plus sign."""
        found = {f"+{prefix.lstrip('+')}": code for code, prefixes in rows for prefix in prefixes}
        return cls(found, tuple(sorted({len(prefix) for prefix in found}, reverse=True)))

    def region(self, e164: str, country: str) -> str:
        """The region's code."""
        for length in self.lengths:
            code = self.by_prefix.get(e164[:length])
            if code is not None:
                return code
        return country


class Terms(msgspec.Struct):
    """What the messages of one request share, checked. Times are Unix seconds.

    `segments` is known beforehand when the text has no variables.
    """

    tenant_id: int
    test: bool
    category: int
    sender: str
    body: str
    template: str | None
    parsed: Template
    segments: int | None
    priority: int
    due_at: float
    scheduled_at: float | None
    expires_at: float | None
    retry_unknown: bool
    campaign: str | None = None
    pool: tuple[Member, ...] | None = None  # `sender` names it; each recipient has one of it
    shift_tables: bool = False
    most: int = limits.MAX_SEGMENTS
    smart: Smart | None = None
    metadata: dict[str, Any] | None = None  # a batch's


class Smart(msgspec.Struct):
    """Smart encoding was asked for. `body` and `parsed` are of the request; where they were replaced, `Terms` has the
    new ones, and `replaced` says what; a message whose values spoil it goes with these."""

    body: str
    parsed: Template
    replaced: list[smart.Replaced]


class StoredTemplate(msgspec.Struct, frozen=True):
    """A template as it is found: `label` is name@version."""

    label: str
    body: str
    smart_encoding: bool = False


def terms_of(
    request: wire.PostMessage | wire.BatchTerms,
    caller: Caller,
    template: StoredTemplate | None,
    now_s: float,
) -> Terms:
    """Check all that isn't a recipient's. Raises Problem (422)."""
    body = template.body if template else request.body
    if body is None or (request.body is not None and request.template is not None):
        raise field_problem("/body", "body_or_template", "send either a body or a template")
    if not body.strip():
        raise field_problem("/body", "empty_body", "the text is empty")
    allowed = caller.settings.get("max_segments") or limits.MAX_SEGMENTS
    most = min(request.max_segments or limits.MAX_SEGMENTS, allowed)
    asked = request.smart_encoding
    if asked is None:
        asked = template is not None and template.smart_encoding
    smartened = None
    try:
        parsed = parse_template(body)
        if asked:
            smartened = Smart(body, parsed, [])
            body, parsed = _smartened(smartened)
        segments = None if parsed.names else _measured(parsed.render(None), most)
    except TemplateError as error:
        raise field_problem("/body", error.code, error.detail) from None
    except TextError as error:
        raise field_problem("/body", _text_code(error.code), str(error)) from None
    category = Category[request.category]
    due_at, scheduled_at, expires_at = _times(request, category, now_s)
    return Terms(
        tenant_id=caller.tenant_id,
        test=caller.test,
        category=int(category),
        sender=_sender(request.sender, caller),
        body=body,
        template=template.label if template else None,
        parsed=parsed,
        segments=segments,
        priority=request.priority,
        due_at=due_at,
        scheduled_at=scheduled_at,
        expires_at=expires_at,
        retry_unknown=request.retry_unknown,
        campaign=request.campaign,
        shift_tables=request.shift_tables,
        most=most,
        smart=smartened,
        metadata=None if isinstance(request, wire.PostMessage) else request.metadata,
    )


def _smartened(asked: Smart) -> tuple[str, Template]:
    """The body to go on with: the request's own, or what smart encoding makes of it."""
    sample = asked.parsed.render(dict.fromkeys(asked.parsed.names, ""))
    found = smart.smarten(sample)
    if found is None:
        return asked.body, asked.parsed
    asked.replaced = found[1]
    body = smart.written_body(asked.body)
    return body, parse_template(body)


def _measured(text: str, most: int) -> int:
    """Segments of a rendered text. Raises TextError (`too_many_segments`, `lone_surrogate`, `empty`)."""
    segments = count(text)
    if segments > most:
        raise TextError("too_many_segments", f"{segments} segments; at most {most} are allowed")
    if not text.strip():
        raise TextError("empty", "the text is empty")
    return segments


def _text_code(code: str) -> str:
    return {"too_many_segments": "body_too_long", "empty": "empty_body"}.get(code, code)


def _times(
    request: wire.PostMessage | wire.BatchTerms, category: Category, now_s: float
) -> tuple[float, float | None, float | None]:
    """(due, scheduled, expiry)."""
    scheduled_at = _instant(request.scheduled_at, "/scheduled_at", now_s)
    due_at = now_s if scheduled_at is None else max(scheduled_at, now_s)
    expires_at = _instant(request.expires_at, "/expires_at", now_s)
    if expires_at is None:
        return due_at, scheduled_at, due_at + limits.OTP_VALIDITY_S if category is Category.otp else None
    if expires_at <= now_s:
        raise field_problem("/expires_at", "time_in_past", "the expiry has passed")
    if expires_at <= due_at:
        raise field_problem("/expires_at", "invalid_time", "the expiry is not after the scheduled time")
    return due_at, scheduled_at, expires_at


def _instant(value: datetime | None, pointer: str, now_s: float) -> float | None:
    if value is None:
        return None
    instant_s = value.timestamp()
    if instant_s < now_s - limits.PAST_LEEWAY_S:
        raise field_problem(pointer, "time_in_past", "the time has passed")
    if instant_s > now_s + limits.MAX_SCHEDULE_S:
        days = limits.MAX_SCHEDULE_S // 86_400
        raise field_problem(pointer, "time_too_far", f"the time is more than {days} days away")
    return instant_s


def _sender(sender: str | None, caller: Caller) -> str:
    """A number without its plus sign, a short code, or a name."""
    if sender is None:
        sender = caller.settings.get("default_sender")
        if not sender:
            raise field_problem("/sender", "sender_required", "send a sender: this tenant has no default")
    if sender.startswith(POOL_MARK):
        return sender  # whether there is such a pool, `posting.with_pool` asks
    if _NUMBER.match(sender):
        return sender.lstrip("+")
    if not _NAME.match(sender):
        raise field_problem(
            "/sender",
            "invalid_sender",
            "a sender is 3 to 15 digits, or 1 to 11 letters, digits, spaces, '&', '.', '_' and '-' with a letter",
        )
    return sender


def extra_of(request: wire.PostMessage | wire.BatchTerms, caller: Caller) -> dict[str, Any] | None:
    """Metadata and callback URL, checked. Raises Problem (422)."""
    extra: dict[str, Any] = {}
    if request.metadata:
        for name, value in request.metadata.items():
            if len(name) > limits.MAX_METADATA_KEY_CHARS:
                raise field_problem("/metadata", "invalid_metadata", "a key is too long")
            if isinstance(value, str) and len(value) > limits.MAX_METADATA_VALUE_CHARS:
                raise field_problem("/metadata", "invalid_metadata", "a value is too long")
        extra["metadata"] = request.metadata
    if request.callback_url is not None:
        extra["callback_url"] = _checked_url(request.callback_url, caller.settings)
    return extra or None


def _checked_url(url: str, settings: Mapping[str, Any]) -> str:
    """https, or http to this machine or a host that the tenant's settings allow. What the name
    resolves to is looked at when the callback is made."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if (
        not host
        or not url.isascii()
        or not url.isprintable()
        or " " in url
        or not _HOST.match(parts.netloc)  # no user, no password
        or parts.scheme not in ("https", "http")
    ):
        raise field_problem(
            "/callback_url", "invalid_callback_url", "an https:// URL without credentials is needed"
        )
    allowed = settings.get("callback_http_hosts") or ()
    if parts.scheme == "http" and host not in _LOOPBACK and host not in allowed:
        raise field_problem("/callback_url", "invalid_callback_url", "http:// is not allowed to this host")
    return url


class Refused(Exception):
    """A recipient that can't be accepted; `pointer` is below the recipient, or, `shared`, below the request."""

    def __init__(
        self, pointer: str, code: str, detail: str, reason: str | None = None, *, shared: bool = False
    ) -> None:
        super().__init__(code)
        self.pointer = pointer
        self.shared = shared
        self.code = code
        self.detail = detail
        self.reason = reason


class Drafting:
    """Collects the recipients of one request by region, and makes packs of them."""

    def __init__(
        self,
        terms: Terms,
        hash_key: bytes,
        regions: Regions,
        tenant: TenantGround,
        batch_id: bytes | None,
    ) -> None:
        self._terms = terms
        self._tenant = tenant
        self._grounds: dict[tuple[str, str], _Footing] = {}
        self._warned: dict[tuple[str, str], Warned] = {}
        self._hash = hashlib.blake2b(key=hash_key, digest_size=8)
        self._regions = regions
        self._batch_id = batch_id
        self._groups: dict[Place, list[Entry]] = {}
        self.rejected: list[wire.Rejection] = []

    def entry(
        self,
        to: str,
        variables: dict[str, wire.Value] | None,
        reference: str | None,
        extra: dict[str, Any] | None = None,
        zone: str | None = None,
    ) -> tuple[Place, Entry]:
        """One recipient and its place. `zone`: where they are known to be. Raises Refused."""
        if zone is not None and zone not in known_zones():
            raise Refused("/timezone", "invalid_timezone", "there is no such IANA time zone")
        try:
            number = parse(to)
        except InvalidNumber as error:
            raise Refused("/to", "invalid_number", error.detail, error.code) from None
        terms = self._terms
        digest = self._hash.copy()
        digest.update(number.e164.encode())
        recipient = digest.digest()
        sender = terms.sender if terms.pool is None else sender_for(terms.pool, number.country, recipient)
        footing = self._grounds.get((number.country, sender))
        if footing is None:
            footing = self._grounds[number.country, sender] = self._footing(number.country, sender)
        if footing.refused is not None:
            raise footing.refused
        names = terms.parsed.names
        filled: dict[str, str] | None = None
        if names:
            filled = _filled(names, variables)
            body, text = terms.body, terms.parsed.render(filled)
            if terms.smart is not None:
                body, text, filled, extra = _smart_entry(terms, terms.smart, filled, extra)
            body, segments, spared = self._personal(footing, body, text)
        else:
            body, segments, spared = footing.body, footing.segments, False
            if terms.smart is not None and terms.smart.replaced:
                extra = {**(extra or {}), "replaced": terms.smart.replaced}
        for one in footing.warnings:
            self._warn(one)
            spared = spared or one.spared
        entry = Entry(0, number.e164, recipient, segments, filled, None, reference, extra, zone)
        region = self._regions.region(number.e164, number.country)
        gateway = TEST_GATEWAY if spared and not terms.test else ""
        return Place(region, number.country, sender, body, gateway), entry

    def _footing(self, country: str, sender: str) -> _Footing:
        """What holds for all recipients of a country and sender."""
        terms = self._terms
        ground = Ground(self._tenant, Category(terms.category), country, sender)
        footing = _Footing(ground, None, terms.body, terms.segments or 0, list(ground.warnings))
        if ground.refusal is not None:
            footing.refused = _refused(ground.refusal)
        elif not terms.parsed.names and not ground.silent:
            try:
                before, behind, found = ground.fit(terms.parsed.render(None))
                footing.warnings += found
                if before or behind:
                    footing.body = _labelled(terms.body, before, behind)
                    footing.segments = _measured(before + terms.parsed.render(None) + behind, terms.most)
            except Refusal as refusal:
                footing.refused = _refused(refusal.finding)
            except TextError as error:
                detail = f"with the label that {country} demands: {error}"
                footing.refused = Refused("/body", _text_code(error.code), detail, shared=True)
        return footing

    def _personal(self, footing: _Footing, body: str, text: str) -> tuple[str, int, bool]:
        """Body and segments of a rendered text, and whether it was spared a refusal. Raises Refused."""
        try:
            before, behind, found = footing.ground.fit(text)
            segments = _measured(before + text + behind, self._terms.most)
        except Refusal as refusal:
            raise _refused(refusal.finding) from None
        except TextError as error:
            raise Refused("/variables", _text_code(error.code), str(error)) from None
        for one in found:
            self._warn(one)
        body = _labelled(body, before, behind) if before or behind else body
        return body, segments, any(one.spared for one in found)

    def _warn(self, one: Finding) -> None:
        known = self._warned.get((one.code, one.rule))
        if known is None:
            self._warned[(one.code, one.rule)] = Warned(one.code, one.rule, one.detail)
        else:
            known.count += 1

    @property
    def warnings(self) -> list[Warned]:
        """What may keep accepted messages from arriving as they are."""
        return list(self._warned.values())

    def add(self, recipients: Sequence[wire.Recipient], first: int, base: str = "/recipients") -> None:
        """Take these; what can't be accepted is in `rejected` with its index from `first`."""
        groups, entry_of = self._groups, self.entry
        for index, recipient in enumerate(recipients, first):
            try:
                place, entry = entry_of(
                    recipient.to,
                    recipient.variables,
                    recipient.client_reference,
                    None,
                    recipient.timezone,
                )
            except Refused as refused:
                self.reject(index, base, refused)
                continue
            group = groups.get(place)
            if group is None:
                group = groups[place] = []
            entry.index = len(group) % PACK_SIZE
            group.append(entry)

    def reject(self, index: int, base: str, refused: Refused) -> None:
        """Note a recipient that isn't accepted."""
        pointer = refused.pointer if refused.shared else f"{base}/{index}{refused.pointer}"
        self.rejected.append(wire.Rejection(index, pointer, refused.code, refused.detail, refused.reason))

    @property
    def accepted(self) -> int:
        """How many recipients are in."""
        return sum(map(len, self._groups.values()))

    def drafts(self, now_s: float) -> Iterator[Draft]:
        """The packs, region by region."""
        terms = self._terms
        for place, entries in self._groups.items():
            for start in range(0, len(entries), PACK_SIZE):
                pack = pack_of(terms, self._batch_id, place, entries[start : start + PACK_SIZE])
                yield Draft(ids.new_id(now_s), pack, terms.due_at, terms.priority)


class Place(NamedTuple):
    """What the entries of a pack share beside their request's terms. `body` has its country's labels; `gateway` is the
    one that they may go by ("": any): what was spared a refusal for the sandbox's sake stays with the sandbox, whatever
    is configured by the time it goes.
    """

    region: str
    country: str
    sender: str
    body: str
    gateway: str = ""


class _Footing(msgspec.Struct):
    """One country's part of a request: what all its recipients share. `body` and `segments` of a text without
    variables have its labels."""

    ground: Ground
    refused: Refused | None
    body: str
    segments: int
    warnings: list[Finding]


def _refused(finding: Finding) -> Refused:
    return Refused(f"/{finding.field}", finding.code, finding.detail, finding.rule, shared=True)


def _labelled(body: str, before: str, behind: str) -> str:
    """A body, unrendered, with what its country's pack adds."""
    return f"{escaped(before)}{body}{escaped(behind)}"


def pack_of(terms: Terms, batch_id: bytes | None, place: Place, entries: list[Entry]) -> Pack:
    """Those entries under those terms."""
    return Pack(
        terms.tenant_id,
        batch_id,
        place.region,
        place.country,
        terms.category,
        place.sender,
        place.body,
        terms.template,
        terms.expires_at,
        terms.retry_unknown,
        entries,
        terms.test,
        shift_tables=terms.shift_tables,
        campaign=terms.campaign,
        gateway=place.gateway,
        max_segments=terms.most,
        metadata=terms.metadata,
    )


def _smart_entry(
    terms: Terms, asked: Smart, filled: dict[str, str], extra: dict[str, Any] | None
) -> tuple[str, str, dict[str, str], dict[str, Any] | None]:
    """(body, text, variables, extra) of a message: smart, or, where that makes no GSM-7 of it, as it came."""
    text = asked.parsed.render(filled)
    found = smart.smarten(text)
    if found is None:
        return asked.body, text, filled, extra
    values = {name: smart.written(value) for name, value in filled.items()}
    # A letter and its mark may come together only in the text: then it is a body of its own.
    body = terms.body if terms.parsed.render(values) == found[0] else escaped(found[0])
    return body, found[0], values, {**(extra or {}), "replaced": found[1]}


def _filled(names: tuple[str, ...], variables: dict[str, wire.Value] | None) -> dict[str, str]:
    """The values that the body names, as text. Raises Refused."""
    found: dict[str, str] = {}
    for name in names:
        value = None if variables is None else variables.get(name)
        if value is None:
            raise Refused(f"/variables/{name}", "missing_variable", f"the variable '{name}' has no value")
        if type(value) is not str:
            value = str(value)
        if len(value) > limits.MAX_VALUE_CHARS:
            raise Refused(f"/variables/{name}", "too_long", f"more than {limits.MAX_VALUE_CHARS} characters")
        found[name] = value
    return found


def refused_problem(refused: Refused) -> Problem:
    """The same for a message of its own."""
    return field_problem(refused.pointer, refused.code, refused.detail, reason=refused.reason)
