"""What a country's rules demand at the ends of a text: added where it is missing, never twice.

Guarantees: `ends` of a text that it has been applied to adds nothing more. A mark is recognised in any case of letters,
in full-width letters and behind white space too; what is sent stays as it was written. Looking for it takes time in
proportion to the text, whatever the pattern.

Pure. Marks are patterns from data files, in RE2's syntax (no look-around, no back-references; an operator's own can't
stall the service): they are compiled when a file is read, and a bad one is a `ValueError`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

import msgspec
import re2

WORDS: Final = ("brand", "opt_out")  # what a tenant sets for a mark: the names that may stand in braces
KEYWORD: Final = "keyword"  # and the first of the country's opt-out words
KEYWORDS: Final = "{keywords}"  # in a pattern: any of them
MAX_PATTERNS: Final = 20  # of a mark
MAX_PATTERN_CHARS: Final = 200
PATTERN_BYTES: Final = 1 << 18  # compiled
_PLACE: Final = re.compile(r"\{(\w+)\}")
_PATTERNS_KEPT: Final = 4_096
_INVISIBLE: Final = "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"
_NOTHING: Final = r"[^\x{0}-\x{10FFFF}]"
_BEFORE, _BEHIND = r"(?:^|[^\pL\pN-])", r"(?:[^\pL\pN-]|$)"  # "non-stop" is no STOP
# Scripts that put no spaces between words.
_UNSPACED: Final = re.compile("[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")


class Missing(Exception):
    """A mark can't be made: the tenant has not set `name`."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Mark(msgspec.Struct, frozen=True):
    """`add`, unless one of `accepts` is there; `otherwise`, where a word of `add` is not set.

    `keywords`: the country's opt-out words; `{keyword}` in `add` and `otherwise` is the first of them, `{keywords}` in
    `accepts` any of them as a word.
    """

    add: str
    accepts: tuple[str, ...]
    otherwise: str | None = None
    keywords: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for form in (self.add, self.otherwise or ""):
            for name in _PLACE.findall(form):
                if name not in (*WORDS, KEYWORD):
                    raise ValueError(f"{{{name}}} is none of {', '.join((*WORDS, KEYWORD))}")
        if not self.add.strip() or not self.accepts:
            raise ValueError("a mark has something to add and something to accept")
        if len(self.accepts) > MAX_PATTERNS or any(len(one) > MAX_PATTERN_CHARS for one in self.accepts):
            raise ValueError(
                f"a mark accepts at most {MAX_PATTERNS} patterns of {MAX_PATTERN_CHARS} characters"
            )
        if not self.keywords and f"{{{KEYWORD}}}" in self.add + (self.otherwise or ""):
            raise ValueError("{keyword} needs an opt-out word")
        for pattern in self.accepts:
            _compiled(pattern, self.keywords)

    def made(self, words: Mapping[str, str]) -> str:
        """What is added. Raises Missing."""
        known = {**words, KEYWORD: self.keywords[0] if self.keywords else ""}
        for name in _PLACE.findall(self.add):
            if not known.get(name):
                if self.otherwise is not None:
                    return _PLACE.sub(lambda place: known.get(place[1], ""), self.otherwise)
                raise Missing(name)
        return _PLACE.sub(lambda place: known[place[1]], self.add)


def ends(text: str, start: Mark | None, end: Mark | None, words: Mapping[str, str]) -> tuple[str, str]:
    """What goes before and behind the text; empty where it is there already.

    A text that has the tenant's own opt-out words, or begins with just what would be added, has the mark.
    Raises Missing.
    """
    return (_start(text, start, words) if start else "", _end(text, end, words) if end else "")


def _start(text: str, mark: Mark, words: Mapping[str, str]) -> str:
    forms = [form.lstrip(_INVISIBLE + " \t\r\n\u3000\xa0") for form in _read(text)]
    if any(_compiled(one, mark.keywords).match(form) for form in forms for one in mark.accepts):
        return ""
    made = mark.made(words)
    return "" if _plain(forms[-1]).startswith(_plain(made.rstrip())) else made


def _end(text: str, mark: Mark, words: Mapping[str, str]) -> str:
    own, forms = words.get("opt_out"), _read(text)
    if own and _plain(own) in _plain(forms[-1]):
        return ""
    if any(_compiled(one, mark.keywords).search(form) for form in forms for one in mark.accepts):
        return ""
    made = mark.made(words)
    return "" if _plain(forms[-1]).endswith(_plain(made.strip())) else made


def _read(text: str) -> tuple[str, ...]:
    """The text as it is, and, where that is another, with full-width and other presentation forms folded."""
    if unicodedata.is_normalized("NFKC", text):
        return (text,)
    return text, unicodedata.normalize("NFKC", text)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


@lru_cache(maxsize=_PATTERNS_KEPT)
def _compiled(pattern: str, keywords: Sequence[str] = ()) -> re2._Regexp:
    """A pattern in any case of letters. Raises ValueError."""
    options = re2.Options()
    options.log_errors = False
    options.case_sensitive = False
    options.max_mem = PATTERN_BYTES
    try:
        return re2.compile(pattern.replace(KEYWORDS, _any_of(keywords)), options)
    except re2.error as error:
        said = error.args[0].decode(errors="replace") if error.args else ""
        raise ValueError(f"{pattern!r} is no pattern that RE2 takes: {said}") from None


def _any_of(words: Sequence[str]) -> str:
    """A pattern of any of these as a word of its own."""
    made = []
    for word in words:
        quoted = r"\s+".join(re2.escape(part) for part in word.split())
        made.append(quoted if _UNSPACED.search(word) else f"{_BEFORE}{quoted}{_BEHIND}")
    return f"(?:{'|'.join(made)})" if made else _NOTHING
