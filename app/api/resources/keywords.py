"""/v1/keywords and /v1/surveys: words of a tenant's own, what they answer, and answers that are counted.

Guarantee: no word that any country's or language's lists know as stop, start or help can be made a keyword; so a stop
is always a stop. (A mere yes, which by itself does nothing, may be a survey's option.)
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field

from app import notices
from app.api import limits
from app.api.auth import Caller, require
from app.api.idempotency import IdempotentRoute
from app.api.problems import Problem, field_problem
from app.api.reading import context_of, identifier
from app.api.resources.base import PROBLEMS, Cursor, Limit, Line, Moment, Strict, Text, changing, page_of
from app.domain import ids
from app.domain.keywords import normalise
from app.domain.text import TextError, count
from app.store import config
from app.store import keywords as store

router = APIRouter(tags=["keywords"], route_class=IdempotentRoute, responses=PROBLEMS)
Ruler = Annotated[Caller, Depends(require("rules"))]
Reader = Annotated[Caller, Depends(require("read"))]
MAX_OPTIONS = 20
MAX_WORDS = 10  # of an option
Word = Annotated[Text, Field(min_length=1, max_length=40)]
Reply = Annotated[Text, Field(min_length=1, max_length=1_000)]
SenderOf = Annotated[
    Text | None, Field(max_length=20, description="One sender; null: every sender of the tenant.")
]


class NewKeyword(Strict):
    """A word and its answer: the text that has it alone, or as the first of at most three words, gets `reply`.

    Without `keyword` the reply is what HELP gets from that sender.
    """

    keyword: Word | None = None
    sender: SenderOf = None
    reply: Reply


class Keyword(BaseModel):
    """`keyword` null: the answer to HELP. `survey` and `option`: it is an answer to that survey."""

    id: UUID
    keyword: str | None
    sender: str | None
    reply: str
    survey: UUID | None
    option: str | None
    created_at: datetime


class KeywordPage(BaseModel):
    """By id."""

    data: list[Keyword]
    next: str | None


class NewSurvey(Strict):
    """One question, asked by whatever batch asks it. Answers are texts to `sender` that are a word of an option."""

    name: Line
    question: Annotated[Text, Field(min_length=1, max_length=1_000)]
    sender: Annotated[Text, Field(max_length=20)]
    options: Annotated[
        dict[
            Annotated[Text, Field(min_length=1, max_length=40)],
            Annotated[list[Word], Field(min_length=1, max_length=MAX_WORDS)],
        ],
        Field(min_length=1, max_length=MAX_OPTIONS, description="Option to the words that choose it."),
    ]
    reply: Reply | None = None
    ends_at: Moment | None = None


class Survey(BaseModel):
    """`counts`: people by option; of one person's answers the last counts."""

    id: UUID
    name: str
    question: str
    sender: str
    options: dict[str, list[str]]
    reply: str | None
    created_at: datetime
    ends_at: datetime | None
    counts: dict[str, int]


class SurveyPage(BaseModel):
    """By id."""

    data: list[Survey]
    next: str | None


class Answer(BaseModel):
    """One person's answer. `from` null: erased."""

    sender: str | None = Field(serialization_alias="from")
    option: str
    inbound_id: UUID
    at: datetime


class AnswerPage(BaseModel):
    """In the order in which they came."""

    data: list[Answer]
    next: str | None


async def _key(request: Request, word: str, pointer: str, *, option: bool = False) -> str:
    """How a text is looked up that is this word. Raises Problem (422): it is nothing, or a word of the lists."""
    keys = normalise(word)
    if not keys:
        raise field_problem(pointer, "invalid_value", "it has no letter and no digit")
    packs = await context_of(request).references.packs()
    words = await asyncio.to_thread(notices.language_of, packs)
    for found in words.keywords.anywhere(word):
        if not (option and found.action == "start" and found.doubtful):
            detail = f"it means {found.action} ({found.language})"
            raise field_problem(pointer, "reserved_keyword", detail)
    return keys[0]


def _sender(sender: str | None) -> str:
    with changing():
        return "" if sender is None else config.address(sender, "sender")


def _sendable(text: str) -> str:
    try:
        count(text)
    except TextError as error:
        raise field_problem("/reply", "body_too_long", str(error)) from None
    return text


def _view(one: store.Keyword) -> Keyword:
    return Keyword(
        id=one.id, keyword=one.keyword or None, sender=one.sender or None, reply=one.reply, survey=one.survey_id,
        option=one.option, created_at=one.created_at,
    )  # fmt: skip


def _taken(error: store.Taken) -> Problem:
    what = f"{error.keyword!r} is" if error.keyword else "there is an answer to HELP"
    return Problem(409, "conflict", f"{what} taken already for that sender")


@router.get("/v1/keywords", summary="List keywords")
async def list_keywords(
    request: Request, caller: Reader, cursor: Cursor = None, limit: Limit = limits.DEFAULT_PAGE
) -> KeywordPage:
    """The tenant's own keywords. Stop, start and help words need none."""
    page, following = await page_of(
        request, caller, "keywords", cursor, limit,
        lambda driver, start: store.page(driver, caller.tenant_id, after=start, limit=limit), lambda one: one.id,
    )  # fmt: skip
    return KeywordPage(data=[_view(one) for one in page], next=following)


@router.post("/v1/keywords", summary="Create a keyword", status_code=201)
async def create_keyword(body: NewKeyword, request: Request, caller: Ruler) -> Keyword:
    """A word that is answered. Holds for texts that come in from now on."""
    context = context_of(request)
    key = store.HELP_KEY if body.keyword is None else await _key(request, body.keyword, "/keyword")
    sender, reply = _sender(body.sender), _sendable(body.reply)
    async with context.database.driver() as driver:
        try:
            made = await store.put(
                driver, caller.tenant_id, ids.new_id(context.clock()), sender=sender, key=key,
                keyword=body.keyword or "", reply=reply,
            )  # fmt: skip
        except store.Taken as error:
            raise _taken(error) from None
    return _view(made)


@router.delete("/v1/keywords/{keyword_id}", summary="Remove a keyword", status_code=204)
async def remove_keyword(keyword_id: str, request: Request, caller: Ruler) -> Response:
    """A keyword goes. A survey's words go with the survey's end."""
    async with context_of(request).database.driver() as driver:
        if not await store.remove(driver, caller.tenant_id, identifier(keyword_id)):
            raise Problem(404, "not_found", "there is no such keyword")
    return Response(status_code=204)


@router.post("/v1/surveys", summary="Create a survey", status_code=201)
async def create_survey(body: NewSurvey, request: Request, caller: Ruler) -> Survey:
    """A question whose answers are collected and counted. Ask it with a batch from `sender`."""
    context = context_of(request)
    now_s = context.clock()
    sender = _sender(body.sender)
    ends_at = None if body.ends_at is None else body.ends_at.astimezone(UTC)
    if ends_at is not None and ends_at.timestamp() <= now_s:
        raise field_problem("/ends_at", "time_in_past", "it has passed")
    words = [
        (option, word, await _key(request, word, f"/options/{option}/{index}", option=True))
        for option, of_option in body.options.items()
        for index, word in enumerate(of_option)
    ]
    reply = "" if body.reply is None else _sendable(body.reply)
    survey_id = ids.new_id(now_s)
    async with context.database.driver() as driver, driver.transaction():
        if not await store.create_survey(
            driver,
            caller.tenant_id,
            survey_id,
            name=body.name,
            question=body.question,
            sender=sender,
            ends_at=ends_at,
        ):
            raise Problem(409, "conflict", "there is a survey of that name already")
        for index, (option, word, key) in enumerate(words):
            try:
                await store.put(
                    driver, caller.tenant_id, ids.message_id(survey_id, index), sender=sender, key=key,
                    keyword=word, reply=reply, survey_id=survey_id, option=option,
                )  # fmt: skip
            except store.Taken as error:
                raise _taken(error) from None
        found = await store.survey(driver, caller.tenant_id, survey_id)
    assert found is not None
    return _shown(found)


def _shown(one: store.Survey) -> Survey:
    fields = {name: getattr(one, name) for name in Survey.model_fields}
    return Survey(**{**fields, "reply": one.reply or None})


@router.get("/v1/surveys", summary="List surveys")
async def list_surveys(
    request: Request, caller: Reader, cursor: Cursor = None, limit: Limit = limits.DEFAULT_PAGE
) -> SurveyPage:
    """The tenant's surveys with their counts."""
    page, following = await page_of(
        request, caller, "surveys", cursor, limit,
        lambda driver, start: store.surveys(driver, caller.tenant_id, after=start, limit=limit), lambda one: one.id,
    )  # fmt: skip
    return SurveyPage(data=[_shown(one) for one in page], next=following)


async def _found(request: Request, caller: Caller, survey_id: str) -> store.Survey:
    async with context_of(request).database.driver() as driver:
        found = await store.survey(driver, caller.tenant_id, identifier(survey_id))
    if found is None:
        raise Problem(404, "not_found", "there is no such survey")
    return found


@router.get("/v1/surveys/{survey_id}", summary="One survey")
async def get_survey(survey_id: str, request: Request, caller: Reader) -> Survey:
    """A survey and its counts."""
    return _shown(await _found(request, caller, survey_id))


@router.get("/v1/surveys/{survey_id}/answers", summary="A survey's answers")
async def list_answers(
    survey_id: str,
    request: Request,
    caller: Reader,
    cursor: Cursor = None,
    limit: Limit = limits.DEFAULT_PAGE,
) -> AnswerPage:
    """Who chose what."""
    await _found(request, caller, survey_id)
    page, following = await page_of(
        request, caller, f"answers {survey_id}", cursor, limit,
        lambda driver, start: store.answers(driver, identifier(survey_id), after=start, limit=limit),
        lambda one: one.inbound_id,
    )  # fmt: skip
    data = [
        Answer(sender=one.address, option=one.option, inbound_id=one.inbound_id, at=one.at) for one in page
    ]
    return AnswerPage(data=data, next=following)


@router.post("/v1/surveys/{survey_id}/end", summary="End a survey")
async def end_survey(survey_id: str, request: Request, caller: Ruler) -> Survey:
    """Its words are nothing special any more; what was answered stays."""
    context = context_of(request)
    await _found(request, caller, survey_id)
    async with context.database.driver() as driver, driver.transaction():
        now = datetime.fromtimestamp(context.clock(), UTC)
        await store.end_survey(driver, caller.tenant_id, identifier(survey_id), now)
    return _shown(await _found(request, caller, survey_id))
