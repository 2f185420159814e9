"""/v1/texts/estimate: what a text would cost, why, and what would make it cheaper. Nothing is sent or stored."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field, model_validator

import gateways
from app.api import limits
from app.api.auth import Caller, require
from app.api.context import Context
from app.api.idempotency import IdempotentRoute
from app.api.problems import field_problem
from app.api.reading import context_of
from app.api.resources.base import PROBLEMS, Flag, Strict, Text, Whole
from app.domain import estimate, smart
from app.domain.message import Category
from app.domain.routing import Asked
from app.domain.template import Template, TemplateError, parse
from app.domain.text import PLAIN, Coding, TextError
from app.store import config

MAX_ESTIMATED = 500  # recipients
A_STRETCH = 20

router = APIRouter(tags=["texts"], route_class=IdempotentRoute, responses=PROBLEMS)
Sender = Annotated[Caller, Depends(require("send"))]
Value = Annotated[Text, Field(max_length=limits.MAX_VALUE_CHARS)]
Variables = Annotated[dict[Text, Value | int | float], Field(max_length=limits.MAX_VARIABLES)]


class Recipient(Strict):
    """The values of one recipient."""

    variables: Variables = Field(default_factory=dict)


class Estimate(Strict):
    """A body or a template. `gateway`: as that one writes texts; `country`: as the first gateway of its route does;
    neither: GSM-7 or UCS-2, as calculators count. `recipients` are counted each with its values, else the text is
    taken `recipient_count` times."""

    body: Annotated[Text, Field(max_length=limits.MAX_BODY_CHARS)] | None = None
    template: Annotated[Text, Field(max_length=limits.MAX_TEMPLATE_CHARS)] | None = None
    variables: Variables = Field(default_factory=dict)
    recipients: Annotated[list[Recipient], Field(max_length=MAX_ESTIMATED)] = Field(default_factory=list)
    recipient_count: Annotated[Whole, Field(ge=1, le=100_000_000)] = 1
    country: Annotated[str, Field(pattern=r"^[A-Z]{2}$")] | None = None
    gateway: Annotated[Text, Field(max_length=64)] | None = None
    category: Literal["otp", "transactional", "marketing"] = "transactional"
    smart_encoding: Flag = False
    shift_tables: Flag = False

    @model_validator(mode="after")
    def _one_text(self) -> Estimate:
        if (self.body is None) == (self.template is None):
            raise ValueError("send either a body or a template")
        return self


class SizeView(BaseModel):
    """A text as it would be cut. `units_over`: so many less would save a segment (0: there is one only). `languages`:
    whose national shift tables it uses."""

    encoding: Literal["gsm7", "ucs2", "latin-1", "octet"]
    segments: int
    unit: Literal["septets", "utf16_units", "octets"]
    units: int
    units_left: int
    units_over: int
    languages: list[str]


class ForcingView(BaseModel):
    """A character that GSM-7 lacks. `positions` count characters from 0, the first 20; `replacement`: what smart
    encoding makes of it."""

    character: str
    code_point: str
    name: str
    times: int
    positions: list[int]
    replacement: str | None


class ReplacedView(BaseModel):
    """Something that smart encoding replaced."""

    character: str
    replacement: str
    times: int


class AlternativeView(BaseModel):
    """The same text otherwise, and the segments of all recipients with it. `changes`: what a reader would notice.
    `shift_tables` needs carriers that carry them."""

    kind: Literal["smart_encoding", "without_accents", "shift_tables", "without_characters"]
    changes: Literal["nothing", "typography", "accents", "characters"]
    text: str
    size: SizeView
    saved: int
    total_segments: int


class Estimated(BaseModel):
    """`text` is the first recipient's; `total_segments` and `by_segments` (segments: recipients) count all.
    `too_long`: recipients whose text has more segments than may be sent."""

    text: str
    size: SizeView
    gateway: str | None
    replaced: list[ReplacedView]
    forcing: list[ForcingView]
    alternatives: list[AlternativeView]
    recipients: int
    total_segments: int
    by_segments: dict[str, int]
    too_long: int
    advice: list[str]


@router.post("/v1/texts/estimate", summary="Estimate a text")
async def estimate_text(body: Estimate, request: Request, caller: Sender) -> Estimated:
    """Encoding, segments, what is left in the last one, which characters force UCS-2 and where, and what the text
    would need with smart encoding, without accents, or with national shift tables."""
    context = context_of(request)
    coding, gateway = await _coding(body, caller, context)
    template = await _template(body, caller, context)
    texts = _texts(body, template)
    replaced: list[smart.Replaced] = []
    if body.smart_encoding:
        made = [smart.smarten(text) for text in texts]
        replaced = made[0][1] if made[0] is not None else []
        texts = [text if found is None else found[0] for text, found in zip(texts, made, strict=True)]
    try:
        size = estimate.measure(texts[0], coding)
        others = estimate.alternatives(texts[0], coding)
    except TextError as error:
        code = "body_too_long" if error.code == "too_many_segments" else error.code
        raise field_problem("/body", code, str(error)) from None
    times = 1 if body.recipients else body.recipient_count
    counts = await _counts(texts, coding)
    most = min(limits.MAX_SEGMENTS, caller.settings.get("max_segments") or limits.MAX_SEGMENTS)
    return Estimated(
        text=texts[0],
        size=_size(size),
        gateway=gateway,
        replaced=[ReplacedView(character=r.old, replacement=r.new, times=r.times) for r in replaced],
        forcing=[ForcingView.model_validate(one, from_attributes=True) for one in estimate.forcing(texts[0])],
        alternatives=[await _view(one, size, texts, coding, times) for one in others],
        recipients=len(texts) * times,
        total_segments=sum(n * m for n, m in counts.items()) * times,
        by_segments={str(n): m * times for n, m in sorted(counts.items())},
        too_long=sum(m for n, m in counts.items() if n > most) * times,
        advice=_advice(size, others),
    )


async def _view(
    one: estimate.Alternative, size: estimate.Size, texts: Sequence[str], coding: Coding, times: int
) -> AlternativeView:
    # Of recipients with values of their own, each text is made anew.
    total = sum(await _totals(one.kind, texts, coding)) if len(texts) > 1 else one.size.segments
    return AlternativeView(
        kind=one.kind,  # type: ignore[arg-type]
        changes=one.changes,  # type: ignore[arg-type]
        text=one.text,
        size=_size(one.size),
        saved=size.segments - one.size.segments,
        total_segments=total * times,
    )


async def _coding(body: Estimate, caller: Caller, context: Context) -> tuple[Coding, str | None]:
    """How the text would be cut, and by which gateway. Raises Problem."""
    if body.gateway is None and body.country is None:
        return PLAIN, None
    async with context.database.driver() as driver:
        found = await config.load(driver)
    name = body.gateway
    if name is None:
        asked = Asked(
            caller.tenant_id,
            int(Category[body.category]),
            "",
            body.country or "",
            body.country or "",
            caller.test,
        )
        names = found.table().plan(asked).usual()
        if not names:
            raise field_problem("/country", "invalid_value", "no route leads there")
        name = names[0]
    row = next((one for one in found.gateways if one.name == name), None)
    if row is None:
        raise field_problem("/gateway", "invalid_value", "there is no such gateway")
    return gateways.codings(row.url, row.settings)[int(body.shift_tables)], name


async def _template(body: Estimate, caller: Caller, context: Context) -> Template:
    written = body.body
    if body.template is not None:
        written = (await context.references.template(caller.tenant_id, body.template)).body
    assert written is not None
    if not written.strip():
        raise field_problem("/body", "empty_body", "the text is empty")
    try:
        return parse(written)
    except TemplateError as error:
        raise field_problem("/body", error.code, error.detail) from None


def _texts(body: Estimate, template: Template) -> list[str]:
    """Each recipient's. What it doesn't name is taken from the request's own variables. Raises Problem."""
    texts = []
    for index, one in enumerate(body.recipients or [Recipient()]):
        values = {name: str(value) for name, value in {**body.variables, **one.variables}.items()}
        try:
            texts.append(template.render(values))
        except KeyError as error:
            place = f"/recipients/{index}/variables" if body.recipients else "/variables"
            name = error.args[0]
            detail = f"the variable '{name}' has no value"
            raise field_problem(f"{place}/{name}", "missing_variable", detail) from None
    return texts


async def _counts(texts: Sequence[str], coding: Coding) -> Counter[int]:
    return Counter(await _totals("", texts, coding))


async def _totals(kind: str, texts: Sequence[str], coding: Coding) -> list[int]:
    """Segments of each text, in the alternative of that kind where it has one. Others have their turn."""
    found = []
    for index, text in enumerate(texts):
        if index % A_STRETCH == A_STRETCH - 1:
            await asyncio.sleep(0)
        try:
            segments = estimate.measure(text, coding).segments
            if kind:
                others = [
                    one.size.segments for one in estimate.alternatives(text, coding) if one.kind == kind
                ]
                segments = min([segments, *others])
        except TextError as error:
            code = "body_too_long" if error.code == "too_many_segments" else error.code
            raise field_problem(f"/recipients/{index}", code, str(error)) from None
        found.append(segments)
    return found


def _size(size: estimate.Size) -> SizeView:
    return SizeView.model_validate(size, from_attributes=True)


def _advice(size: estimate.Size, others: Sequence[estimate.Alternative]) -> list[str]:
    """In words, the cheapest way first."""
    said = []
    for one in others:
        if one.size.segments < size.segments:
            said.append(f"{_WAYS[one.kind]}: {one.size.segments} instead of {size.segments} segments")
    if size.units_over:
        unit = {"septets": "septets", "utf16_units": "UTF-16 units", "octets": "octets"}[size.unit]
        said.append(f"{size.units_over} {unit} less: {size.segments - 1} instead of {size.segments} segments")
    return said


_WAYS = {
    "smart_encoding": "with smart encoding",
    "without_accents": "without accents",
    "shift_tables": "with national shift tables, where carriers carry them",
    "without_characters": "without the characters that GSM-7 lacks",
}
