"""What an inbound text asks for: stop, start, help, or nothing that a machine should act on.

Guarantees:

* STOP is understood whatever surrounds the letters: case (Turkish dotted and dotless i
  too), accents or none, full-width or mathematical letters, quotes, punctuation, emoji,
  invisible marks, spaces between the letters, a number behind it, a quoted text below it;
  written with look-alike letters of other scripts, or with letters held down ("STOPPP").
* In doubt it is a stop, and says that it was doubtful: a wrong one costs a word to come
  back, a missed one costs the person's trust and, in the United States, USD 500 to 1,500.
* Nothing opts in by accident: only a whole message that is a start word does, and a mere
  "yes" is marked as doubtful, to be heeded only where that person was asked.

Order: the whole message; the first line above others; the first of at most three different
words; a stop word among at most three; a stop word of the country with a code behind it; a stop word
that is a sentence, or before a comma or dash, at the beginning; a phrase anywhere; then the same, for a
stop alone, with look-alike and repeated letters set right. A word counts in its country's languages first,
then in all others, and stop goes before help before start.

Pure: the lists come in as data (`app/countries/keywords.toml`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Literal

import msgspec

Action = Literal["stop", "help", "start"]

MAX_TEXT_CHARS: Final = 6_000  # 39 segments; what is longer is read so far
MAX_WORDS: Final = 3  # of a message whose first word acts; numbers are none
MAX_OPENINGS: Final = 4  # parts in which the first word of a text is looked for
MAX_OPENING_CHARS: Final = 200  # of a part; a stop word is shorter

_INVISIBLE: Final = frozenset(("Cf", "Cc", "Cs", "Co", "Cn"))
_MARKS: Final = (  # dropped in the second key; vowel signs of Indic scripts and Thai stay
    (0x0300, 0x036F),  # Latin, Greek and Cyrillic accents
    (0x0591, 0x05C7),  # Hebrew points
    (0x064B, 0x065F),  # Arabic vowels
    (0x1AB0, 0x1AFF),
    (0x1DC0, 0x1DFF),
    (0x20D0, 0x20FF),  # for symbols: strokes, rings
)
_FILLERS: Final = frozenset("\u115f\u1160\u3164\uffa0")  # letters by Unicode, and nothing to see
_PLAIN: Final = {
    **str.maketrans("асеіјкморѕтухԁһԛԝвнАВСЕНІЈКМОРЅТУХ", "aceijkmopstyxdhqwbhABCEHIJKMOPSTYX"),  # Cyrillic
    **str.maketrans("ικορτυχνσςαΑΒΕΖΗΙΚΜΝΟΡΤΥΧΣ", "ikoptyxvssaABEZHIKMNOPTYXS"),  # Greek
    **str.maketrans("ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢ", "abcdefghijklmnoprstuvwyz"),  # small capitals
    **{start + n: ord("a") + n for start in (0x1F150, 0x1F170) for n in range(26)},  # 🅢, 🆂
}
_HELD_DOWN: Final = re.compile(r"([^\W\d_])\1{2,}", re.IGNORECASE)
_FOLDED: Final = str.maketrans(
    {
        "ı": "i",
        "أ": "ا", "إ": "ا", "آ": "ا", "ٱ": "ا", "ى": "ي", "ی": "ي", "ک": "ك", "ة": "ه", "ـ": None, "ٰ": None,
        "đ": "d", "ø": "o", "ł": "l", "æ": "ae", "œ": "oe", "þ": "th", "ð": "d",
    }
)  # fmt: skip
_SENTENCE_END: Final = re.compile(
    r"[\n.!?,;:…。！？，、；：؟،۔।]+(?=\s|$)|[…。！？，、；：]|\s[-\u2013\u2014]+\s"
)
_LETTER_DIGIT: Final = re.compile(r"(?<=[^\W\d_])(?=\d)")
_CODE: Final = re.compile(r"( (\w )?\d+)+$")  # "B001" is "b 001" by then
# Scripts that put no spaces between words: Thai, kana, Han; Hangul particles stick to their word.
_UNSPACED: Final = re.compile("[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")


class Match(msgspec.Struct, frozen=True):
    """What a text asks for.

    `keyword` as the list writes it; `language` BCP 47, or the country whose word it is.
    `doubtful`: of a stop, act on it and let a person look; of a start, act only if this
    person has an open question ("reply YES to confirm") from this sender.
    """

    action: Action
    keyword: str
    language: str
    doubtful: bool


class Words(msgspec.Struct, frozen=True, kw_only=True):
    """The words of one language or country. What each list does: see keywords.toml."""

    stop: tuple[str, ...] = ()
    stop_alone: tuple[str, ...] = ()
    start: tuple[str, ...] = ()
    yes: tuple[str, ...] = ()
    help: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()


class Keywords:
    """All lists, compiled. Immutable."""

    def __init__(
        self,
        languages: Mapping[str, Words],
        countries: Mapping[str, Words],
        spoken: Mapping[str, Iterable[str]],
    ) -> None:
        """`languages` by BCP 47 code, `countries` by ISO code; `spoken`: a country's languages."""
        self._languages = {code: _Index(code, words) for code, words in languages.items()}
        self._countries = {code: _Index(code, words) for code, words in countries.items()}
        self._spoken = {country: tuple(codes) for country, codes in spoken.items()}
        self._phrases = [phrase for index in self._languages.values() for phrase in index.phrases]

    def match(self, text: str, country: str) -> Match | None:
        """What `text`, from a number of `country` (ISO 3166-1 alpha-2), asks for; None: nothing."""
        text = text[:MAX_TEXT_CHARS]
        match = self._match(text, country)
        if match is not None:
            return match
        found = (self._match(plain, country) for plain in undisguised(text))
        return next((match for match in found if match is not None and match.action == "stop"), None)

    def _match(self, text: str, country: str) -> Match | None:
        keys = normalise(text)
        if not keys:
            return None
        return (
            self._whole(keys, country)
            or self._first_line(text, country)
            or self._few_words(keys, country)
            or self._with_code(keys, country)
            or self._opening(text, country)
            or self._phrase(keys)
        )

    def spoken(self, country: str) -> tuple[str, ...]:
        """The languages of a country, most spoken first; none if unknown."""
        return self._spoken.get(country, ())

    def anywhere(self, word: str) -> list[Match]:
        """What `word` would ask for in one country or another: of the lists' words it can't be another one's."""
        countries = ("", *self._countries, *self._spoken)
        found = (self.match(word, country) for country in dict.fromkeys(countries))
        return list(dict.fromkeys(match for match in found if match is not None))

    def _indexes(self, country: str) -> Iterator[tuple[_Index, bool]]:
        """Lists in the order in which they count, and whether they are at home in the country."""
        home = self._spoken.get(country, ())
        if country in self._countries:
            yield self._countries[country], True
        for code in home:
            if code in self._languages:
                yield self._languages[code], True
        for code, index in self._languages.items():
            if code not in home:
                yield index, code == "en"

    def _whole(self, keys: tuple[str, ...], country: str) -> Match | None:
        found = [m for index, home in self._indexes(country) for key in keys if (m := index.whole(key, home))]
        at_home = [match for match, home in found if home]
        return min(at_home or [match for match, _ in found], key=_urgency, default=None)

    def _first_line(self, text: str, country: str) -> Match | None:
        """A stop above a quoted text or a signature."""
        lines = [line for line in text.splitlines() if line.strip()]
        match = self._whole(normalise(lines[0]), country) if len(lines) > 1 else None
        return msgspec.structs.replace(match, doubtful=True) if match and match.action == "stop" else None

    def _few_words(self, keys: tuple[str, ...], country: str) -> Match | None:
        """STOP PLEASE, STOP 36180; then PLEASE STOP, in doubt."""
        words = [list(dict.fromkeys(key.split())) for key in keys]  # STOP STOP STOP STOP is one word
        if sum(not word.isdecimal() for word in words[0]) > MAX_WORDS:  # STOP 456*9*5#
            return None
        indexes = [index for index, _ in self._indexes(country)]
        leading = [m for index in indexes for key in words if (m := index.leading(key))]
        if leading:
            return min(leading, key=_urgency)
        among = (index.stop.get(word) for index in indexes for key in words for word in key)
        found = next((keyword for keyword in among if keyword), None)
        return Match("stop", found[0], found[1], True) if found else None

    def _with_code(self, keys: tuple[str, ...], country: str) -> Match | None:
        """RET 12345, RET B001: a word that opts out only alone, with nothing but a code behind it; in doubt."""
        for index in (index for index, home in self._indexes(country) if home):
            for key in keys:
                found = index.alone(_CODE.sub("", key))
                if found and key[-1].isdecimal():
                    return Match("stop", *found, True)
        return None

    def _opening(self, text: str, country: str) -> Match | None:
        """STOP. I never signed up for this."""
        parts = _SENTENCE_END.split(text, maxsplit=MAX_OPENINGS)[:MAX_OPENINGS]
        read = (normalise(part[:MAX_OPENING_CHARS]) for part in parts)
        keys: tuple[str, ...] = next((found for found in read if found), ())
        stops = [index.stop for index, home in self._indexes(country) if home]
        found = next((stop[key] for stop in stops for key in keys if key in stop), None)
        return Match("stop", found[0], found[1], True) if found else None

    def _phrase(self, keys: tuple[str, ...]) -> Match | None:
        for phrase, written, language in self._phrases:
            for key in keys:
                if phrase in (key if _UNSPACED.search(phrase) else f" {key} "):
                    return Match("stop", written, language, True)
        return None


class _Index:
    """One list by normalised word."""

    def __init__(self, code: str, words: Words) -> None:
        self.stop = _by_key(code, words.stop)
        self._stop_alone = _by_key(code, words.stop_alone)
        self._help = _by_key(code, words.help)
        self._start = _by_key(code, words.start)
        self._yes = _by_key(code, words.yes)
        self.phrases = [
            (key if _UNSPACED.search(key) else f" {key} ", written, code)
            for written in words.phrases
            for key in normalise(written)
        ]

    def whole(self, key: str, home: bool) -> tuple[Match, bool] | None:
        """The match of a whole message and whether it is at home; a foreign start is doubtful."""
        stop = self.stop.get(key) or self._stop_alone.get(key)
        if stop:
            return Match("stop", *stop, False), home
        if key in self._help:
            return Match("help", *self._help[key], False), home
        if key in self._start:
            return Match("start", *self._start[key], not home), home
        return (Match("start", *self._yes[key], True), home) if key in self._yes else None

    def alone(self, key: str) -> tuple[str, str] | None:
        """The stop word that acts as the whole message, and its language; a single letter is none with a code."""
        return self._stop_alone.get(key) if len(key) > 1 else None

    def leading(self, words: list[str]) -> Match | None:
        """The match of a message's first words; never a start."""
        for count in range(len(words), 0, -1):
            first = " ".join(words[:count])
            if first in self.stop:
                return Match("stop", *self.stop[first], False)
            if first in self._help:
                return Match("help", *self._help[first], False)
        return None


def _urgency(match: Match) -> int:
    return ("stop", "help", "start").index(match.action)


def _by_key(code: str, words: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Normalised word to (the word as written, language); the first way to write one wins."""
    found: dict[str, tuple[str, str]] = {}
    for word in words:
        for key in normalise(word):
            found.setdefault(key, (word, code))
    return found


def normalise(text: str) -> tuple[str, ...]:
    """The keys by which a text is looked up: words with single spaces; empty when it has none.

    With accents and without ("arrêt", "arret"), and the letters of "s t o p" drawn together.
    """
    whole = unicodedata.normalize("NFKC", text)[:MAX_TEXT_CHARS]  # one letter may stand for eighteen
    folded = whole.casefold().replace("i\u0307", "i").translate(_FOLDED)
    accented = _words("".join(_spaced(char) for char in folded))
    if not accented:
        return ()
    decomposed = unicodedata.normalize("NFKD", accented)
    bare = _words(unicodedata.normalize("NFC", "".join(c for c in decomposed if not _is_mark(c))))
    keys = dict.fromkeys(key for key in (accented, bare) if key)
    letters = bare.split()
    if len(letters) > 1 and all(len(letter) == 1 for letter in letters):
        keys["".join(letters)] = None
    return tuple(keys)


def undisguised(text: str) -> tuple[str, ...]:
    """How else a text may have been meant: look-alike letters as Latin ones, letters held down written once or twice.

    Only to find a stop: of what is Russian or Greek it makes nonsense. Not the text itself.
    """
    whole = unicodedata.normalize("NFKC", text)[:MAX_TEXT_CHARS]
    plain = (whole.translate(_PLAIN), whole)
    forms = [_HELD_DOWN.sub(times, one) for one in plain for times in (r"\1", r"\1\1")]
    return tuple(form for form in dict.fromkeys(forms) if form not in (text, whole))


def _spaced(char: str) -> str:
    """The character, nothing for what can't be seen, a space for punctuation and symbols."""
    if char in _FILLERS:
        return ""
    if char.isalnum():
        return char
    category = unicodedata.category(char)
    if char in "\n\r\t" or category[0] in "PSZ":
        return " "
    if category in _INVISIBLE or category == "Me" or "\ufe00" <= char <= "\ufe0f":
        return ""
    return char


def _is_mark(char: str) -> bool:
    return any(low <= ord(char) <= high for low, high in _MARKS)


def _words(text: str) -> str:
    return " ".join(_LETTER_DIGIT.sub(" ", text).split())
