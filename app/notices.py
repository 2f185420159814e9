"""Texts that Volley itself writes to one person: confirmations, answers, and the question of a double opt-in.

Guarantee: each is an ordinary transactional text in the outbox, of one sender, with a validity; it goes through the
same rules at hand-over as any other (the confirmation of a stop alone passes the stop that it confirms).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, Literal

import msgspec

from app.countries.keywords import Confirmations, load_file, matcher
from app.countries.packs import Packs
from app.countries.schema import BadPack
from app.domain import ids
from app.domain.keywords import Keywords
from app.domain.message import Category
from app.domain.pack import Entry, Pack
from app.domain.recipient import hash_of
from app.domain.text import count
from app.store.intake import Draft

Kind = Literal["stop", "start", "help", "question"]
Prefixes = Sequence[tuple[str, Sequence[str]]]


class Language(msgspec.Struct, frozen=True):
    """What texts are understood and answered by."""

    keywords: Keywords
    confirmations: Mapping[str, Confirmations]


@lru_cache(maxsize=4)
def language(own: frozenset[tuple[str, str]] = frozenset()) -> Language:
    """The lists of `app.countries`, compiled once. `own`: an operator's packs, as (country, TOML), in place of the
    shipped ones; one that can't be read leaves the shipped one."""
    packs, data = Packs.load(), load_file()
    for country, content in sorted(own):
        with suppress(BadPack):  # the shelf of packs has said so
            candidate = packs.replaced({f"{country}.toml": content.encode()})
            if data.languages.keys() >= set(candidate.pack(country).data.languages):
                packs = candidate
    return Language(matcher(data, packs), data.confirmations)


@lru_cache(maxsize=4)
def language_of(packs: Packs) -> Language:
    """The same with packs as they are. Raises BadPack: one names a language that has no words."""
    data = load_file()
    return Language(matcher(data, packs), data.confirmations)


class Writer(msgspec.Struct, frozen=True):
    """Who a text is from: a tenant, as far as texts of ours need it."""

    tenant_id: int
    name: str
    hash_key: bytes
    settings: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"Writer({self.tenant_id})"


def text(words: Language, writer: Writer, kind: Kind, sender: str, codes: Sequence[str]) -> str:
    """In the first of these languages that has one, else in English; brand and contact are the tenant's."""
    answers = next(words.confirmations[code] for code in (*codes, "en") if code in words.confirmations)
    settings = writer.settings
    return getattr(answers, kind).format(
        brand=settings.get("brand") or writer.name,
        contact=settings.get("contact") or sender,
        program=settings.get("program") or answers.program,
        frequency=settings.get("frequency") or answers.frequency,
    )


def asks_in(words: Language, code: str) -> bool:
    """Whether there is a question of a double opt-in in that language."""
    return code in words.confirmations


def draft(
    prefixes: Prefixes,
    writer: Writer,
    *,
    to: str,
    country: str,
    sender: str,
    body: str,
    extra: dict[str, Any],
    valid_s: float,
    now_s: float,
) -> Draft:
    """The text, ready to be accepted: urgent, transactional, and gone when it is late."""
    entry = Entry(0, to, hash_of(writer.hash_key, to), count(body), extra=extra)
    pack = Pack(
        tenant_id=writer.tenant_id,
        batch_id=None,
        region=_region(prefixes, to, country),
        country=country,
        category=Category.transactional,
        sender=sender,
        body=body.replace("{", "{{").replace("}", "}}"),
        template=None,
        expires_at=now_s + valid_s,
        retry_unknown=False,
        entries=[entry],
    )
    return Draft(ids.new_id(now_s), pack, now_s, 0)


def _region(prefixes: Prefixes, e164: str, country: str) -> str:
    """The longest prefix of the region table, else the country."""
    matching = [(len(p), code) for code, of in prefixes for p in of if e164.startswith(f"+{p.lstrip('+')}")]
    return max(matching)[1] if matching else country
