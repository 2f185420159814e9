"""A tenant's own keywords: automatic answers, and surveys of one question with the answers collected.

Guarantee: a keyword is looked up only after stop, start and help; `app.api` refuses one that any list has. Of a
person's answers to a survey the last one counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from app.store.intake import as_uuid, at, signed

HELP_KEY = ""  # of the answer to HELP: no text has it


class Keyword(msgspec.Struct, frozen=True):
    """What a word to a sender ('': to any of the tenant's) does."""

    id: UUID
    sender: str
    keyword: str
    reply: str
    survey_id: UUID | None
    option: str | None
    created_at: datetime


class Survey(msgspec.Struct, frozen=True):
    """A question, its options with their words, and how often each was answered."""

    id: UUID
    name: str
    question: str
    sender: str
    created_at: datetime
    ends_at: datetime | None
    options: dict[str, list[str]]
    reply: str
    counts: dict[str, int]


class Taken(ValueError):
    """That word is a keyword of that sender already."""

    def __init__(self, keyword: str) -> None:
        super().__init__(keyword)
        self.keyword = keyword


_COLUMNS = "k.id, k.sender, k.keyword, k.reply, k.survey_id, k.option, k.created_at"


async def find(
    driver: asyncpg.Connection,
    tenant_id: int,
    sender: str,
    keys: Sequence[str],
    first: Sequence[str],
    now_s: float,
) -> Keyword | None:
    """The keyword that a text is (by `keys`), else that it begins with; the sender's own goes before the tenant's."""
    row = await driver.fetchrow(
        f"SELECT {_COLUMNS} FROM keywords k LEFT JOIN surveys s ON s.id = k.survey_id"  # noqa: S608 - our own
        " WHERE k.tenant_id = $1 AND k.sender IN ('', $2) AND k.key <> '' AND k.key = ANY($3 || $4::text[])"
        " AND (s.ends_at IS NULL OR s.ends_at > $5) ORDER BY k.key = ANY($3) DESC, k.sender = '' LIMIT 1",
        tenant_id,
        sender,
        list(keys),
        list(first),
        at(now_s),
    )
    return None if row is None else Keyword(**row)


async def help_of(driver: asyncpg.Connection, tenant_id: int, sender: str) -> str | None:
    """What that sender answers to HELP, if the tenant has said so."""
    return await driver.fetchval(
        "SELECT reply FROM keywords WHERE tenant_id = $1 AND sender IN ('', $2) AND key = ''"
        " ORDER BY sender = '' LIMIT 1",
        tenant_id,
        sender,
    )


async def answer(
    driver: asyncpg.Connection, keyword: Keyword, recipient: bytes, inbound_id: bytes, now_s: float
) -> None:
    """Count an answer to the survey; one of that person's before is replaced."""
    await driver.execute(
        "INSERT INTO survey_answers (survey_id, recipient, option, inbound_id, at) VALUES ($1, $2, $3, $4, $5)"
        " ON CONFLICT (survey_id, recipient) DO UPDATE SET option = excluded.option,"
        " inbound_id = excluded.inbound_id, at = excluded.at",
        keyword.survey_id,
        signed(recipient),
        keyword.option,
        as_uuid(inbound_id),
        at(now_s),
    )


async def page(
    driver: asyncpg.Connection, tenant_id: int, *, after: bytes | None = None, limit: int = 100
) -> list[Keyword]:
    """A tenant's keywords, those of surveys too, by id."""
    rows = await driver.fetch(
        f"SELECT {_COLUMNS} FROM keywords k WHERE k.tenant_id = $1 AND ($2::uuid IS NULL OR k.id > $2)"  # noqa: S608
        " ORDER BY k.id LIMIT $3",
        tenant_id,
        as_uuid(after),
        limit,
    )
    return [Keyword(**row) for row in rows]


async def put(
    driver: asyncpg.Connection,
    tenant_id: int,
    keyword_id: bytes,
    *,
    sender: str,
    key: str,
    keyword: str,
    reply: str,
    survey_id: bytes | None = None,
    option: str | None = None,
) -> Keyword:
    """A new keyword. Raises Taken."""
    row = await driver.fetchrow(
        "INSERT INTO keywords AS k (id, tenant_id, sender, key, keyword, reply, survey_id, option)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (tenant_id, sender, key) DO NOTHING"
        " RETURNING k.id, k.sender, k.keyword, k.reply, k.survey_id, k.option, k.created_at",
        as_uuid(keyword_id),
        tenant_id,
        sender,
        key,
        keyword,
        reply,
        as_uuid(survey_id),
        option,
    )
    if row is None:
        raise Taken(keyword)
    return Keyword(**row)


async def remove(driver: asyncpg.Connection, tenant_id: int, keyword_id: bytes) -> bool:
    """A keyword goes, unless it is a survey's; whether there was one."""
    done = await driver.execute(
        "DELETE FROM keywords WHERE tenant_id = $1 AND id = $2 AND survey_id IS NULL",
        tenant_id,
        as_uuid(keyword_id),
    )
    return done == "DELETE 1"


# -- surveys


async def create_survey(
    driver: asyncpg.Connection,
    tenant_id: int,
    survey_id: bytes,
    *,
    name: str,
    question: str,
    sender: str,
    ends_at: datetime | None,
) -> bool:
    """A survey without its words; False when there is one of that name."""
    done = await driver.execute(
        "INSERT INTO surveys (id, tenant_id, name, question, sender, ends_at) VALUES ($1, $2, $3, $4, $5, $6)"
        " ON CONFLICT (tenant_id, name) DO NOTHING",
        as_uuid(survey_id),
        tenant_id,
        name,
        question,
        sender,
        ends_at,
    )
    return done == "INSERT 0 1"


async def end_survey(driver: asyncpg.Connection, tenant_id: int, survey_id: bytes, now: datetime) -> bool:
    """From now on its words are nothing special, and free for others; whether there is such a survey."""
    done = await driver.execute(
        "UPDATE surveys SET ends_at = least(ends_at, $3) WHERE tenant_id = $1 AND id = $2",
        tenant_id,
        as_uuid(survey_id),
        now,
    )
    await driver.execute(
        "UPDATE keywords SET key = key || E'\\\\tended\\\\t' || id WHERE tenant_id = $1 AND survey_id = $2"
        " AND key NOT LIKE E'%\\\\tended\\\\t%'",
        tenant_id,
        as_uuid(survey_id),
    )
    return done == "UPDATE 1"


_SURVEYS = """
SELECT s.id, s.name, s.question, s.sender, s.created_at, s.ends_at,
       coalesce((SELECT jsonb_object_agg(o.option, o.words) FROM (SELECT option, jsonb_agg(keyword ORDER BY id) AS words
                 FROM keywords WHERE survey_id = s.id GROUP BY option) o), '{}') AS options,
       coalesce((SELECT min(reply) FROM keywords WHERE survey_id = s.id), '') AS reply,
       coalesce((SELECT jsonb_object_agg(a.option, a.n) FROM (SELECT option, count(*) AS n FROM survey_answers
                 WHERE survey_id = s.id GROUP BY option) a), '{}') AS counts
FROM surveys s WHERE s.tenant_id = $1
"""


async def surveys(
    driver: asyncpg.Connection, tenant_id: int, *, after: bytes | None = None, limit: int = 100
) -> list[Survey]:
    """A tenant's surveys by id, with their counts."""
    rows = await driver.fetch(
        _SURVEYS + " AND ($2::uuid IS NULL OR s.id > $2) ORDER BY s.id LIMIT $3",
        tenant_id,
        as_uuid(after),
        limit,
    )
    return [_survey(row) for row in rows]


async def survey(driver: asyncpg.Connection, tenant_id: int, survey_id: bytes) -> Survey | None:
    """One survey with its counts."""
    row = await driver.fetchrow(_SURVEYS + " AND s.id = $2", tenant_id, as_uuid(survey_id))
    return None if row is None else _survey(row)


def _survey(row: Mapping[str, Any]) -> Survey:
    counts = {option: row["counts"].get(option, 0) for option in row["options"]}
    return Survey(**{**row, "counts": counts})


class Answer(msgspec.Struct, frozen=True):
    """One person's answer. `address` None: erased."""

    address: str | None
    option: str
    inbound_id: UUID
    at: datetime


async def answers(
    driver: asyncpg.Connection, survey_id: bytes, *, after: bytes | None = None, limit: int = 100
) -> list[Answer]:
    """The answers, in the order of their texts, above the inbound text `after`."""
    rows = await driver.fetch(
        "SELECT nullif(i.sender, '') AS address, a.option, a.inbound_id, a.at FROM survey_answers a"
        " LEFT JOIN inbound i ON i.id = a.inbound_id WHERE a.survey_id = $1"
        " AND ($2::uuid IS NULL OR a.inbound_id > $2) ORDER BY a.inbound_id LIMIT $3",
        as_uuid(survey_id),
        as_uuid(after),
        limit,
    )
    return [Answer(**row) for row in rows]
