"""The keyword lists and confirmations of `keywords.toml`, and each pack's own opt-out words."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from importlib.resources import files
from typing import Literal

import msgspec

from app.countries.packs import Pack, Packs
from app.countries.schema import BadPack
from app.domain.keywords import Keywords, Words

Confidence = Literal["sourced", "translation"]


class Language(Words, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One language's words and where they come from."""

    name: str
    confidence: Confidence
    sources: tuple[str, ...] = ()


class CountryWords(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Words that only one country uses; they act as the whole message there."""

    stop: tuple[str, ...]
    source: str


class Confirmations(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What Volley writes itself; fields: {brand}, {contact}, {program}, {frequency}.

    `program` and `frequency`: what a tenant that says nothing else is taken to send.
    """

    confidence: Confidence
    program: str
    frequency: str
    stop: str
    start: str
    help: str
    question: str  # of a double opt-in; its answer is one of the language's yes or start words


class KeywordsFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    reviewed: date
    countries: dict[str, CountryWords]
    spoken: dict[str, list[str]]  # in countries without a pack, most spoken first
    languages: dict[str, Language]
    confirmations: dict[str, Confirmations]  # by BCP 47 code: one for each language


def read(content: bytes) -> KeywordsFile:
    """Decode `keywords.toml`; `BadPack` with one line naming the key if it is not in order."""
    try:
        data = msgspec.toml.decode(content, type=KeywordsFile)
    except ValueError as error:
        raise BadPack(f"keywords.toml: {' '.join(str(error).split())}") from error
    if "en" not in data.languages:
        raise BadPack("keywords.toml: English is missing - at `$.languages`")
    for code in data.languages.keys() - data.confirmations.keys():
        raise BadPack(f"keywords.toml: no answers in {code} - at `$.confirmations`")
    for code in {code for codes in data.spoken.values() for code in codes} - data.languages.keys():
        raise BadPack(f"keywords.toml: no keywords for language {code!r} - at `$.spoken`")
    return data


def load_file() -> KeywordsFile:
    """The file in this package."""
    return read(files("app.countries").joinpath("keywords.toml").read_bytes())


def matcher(data: KeywordsFile, packs: Packs) -> Keywords:
    """The matcher over all lists; a pack's own opt-out words act as whole messages in its countries."""
    by_country = {country: pack for pack in packs.all() for country in (pack.id, *pack.data.covers)}
    for pack in by_country.values():
        for code in pack.data.languages:
            if code not in data.languages:
                raise BadPack(f"{pack.id}.toml: no keywords for language {code!r} - at `$.languages`")
    packs_speak = {country: pack.data.languages for country, pack in by_country.items()}
    return Keywords(data.languages, _words_of_countries(data, by_country), data.spoken | packs_speak)


def _words_of_countries(data: KeywordsFile, by_country: Mapping[str, Pack]) -> dict[str, Words]:
    words = {country: tuple(pack.data.opt_out.keywords) for country, pack in by_country.items()}
    for country, own in data.countries.items():
        words[country] = own.stop + words.get(country, ())
    return {country: Words(stop_alone=stop) for country, stop in words.items()}
