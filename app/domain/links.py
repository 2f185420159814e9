"""Links and phone numbers in a text, as phones and carriers' filters find them.

Guarantee: what hides a link from a reader of code but not from a phone (full-width letters and dots,
zero-width characters, capitals) does not hide it here.

Pure.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from typing import Final

# Public shorteners: services on which anybody can hide any address. Well-known ones, one's own domain is none.
_WELL_KNOWN: Final = (
    "bit.ly bitly.com j.mp tinyurl.com t.ly rb.gy ow.ly is.gd v.gd goo.gl t.co lnkd.in buff.ly cutt.ly "
    "shorturl.at shorturl.asia short.gy short.io tiny.cc tiny.one bl.ink dub.sh adf.ly s.id soo.gd urlz.fr u.to "
    "clck.ru vk.cc t.cn url.cn dwz.cn suo.im w.url.cn me2.do vo.la han.gl x.gd surl.li qr.ae tny.im shrtco.de "
    "9qr.de kutt.it 1url.com snip.ly trib.al po.st db.tt cli.gs bc.vc mcaf.ee ouo.io shorte.st "
    "rebrand.ly rotf.lol gg.gg chilp.it 0rz.tw reurl.cc ppt.cc lihi.cc pse.is bom.so byvn.net l.ead.me"
)
SHORTENERS: Final = frozenset(_WELL_KNOWN.split())
_SCHEME: Final = re.compile(r"(?:https?://|www\.)([^\s/\\?#<>\"'()]+)", re.IGNORECASE)
# Without a scheme phones link what looks like a host: with a path any, without one those under common domains.
_BARE: Final = re.compile(
    r"(?<![@\w.-])((?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,24})(?:(/)|(?![\w.-]*\w))",
    re.IGNORECASE,
)
_COMMON_ENDINGS: Final = (
    "com net org info biz io co me ly app dev shop store online site xyz top club link live vip icu cc tv gov edu "
    "ae ar at au az bd be bh br ca ch cl cn de dk eg es fi fr gh gl gr hk hn hu id ie il in it jo jp ke kr kw kz "
    "ma mx my ng nl no nz pe ph pk pl pt qa ru sa se sg th tr tw uk us vn za asia eu"
)
_COMMON: Final = frozenset(_COMMON_ENDINGS.split())
_HIDING: Final = re.compile(
    "[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]"
)
_PHONE: Final = re.compile(r"(?<![\w.,/-])\+?\(?\d(?:[\d() .-]{6,}\d)(?![\w/-])")
_GROUPED: Final = re.compile(
    r"\d{1,3}(?:[ .]\d{3})+(?:\.\d+)?|\d{4}[-.]\d{1,2}[-.]\d{1,2}|\d{1,2}[-.]\d{1,2}[-.]\d{4}"
)


def hosts(text: str) -> tuple[str, ...]:
    """The hosts that a phone would make links to, in small letters, in order; userinfo left out."""
    if "." not in text and text.isascii():
        return ()
    seen = _seen(text)
    found = [_host(match[1]) for match in _SCHEME.finditer(seen)]
    for match in _BARE.finditer(seen):
        host = _host(match[1])
        ending = match[1].rpartition(".")[2]
        between_sentences = not ending.isupper() and not ending.islower()  # "See you.It was"
        if match[2] or host in SHORTENERS or (ending.lower() in _COMMON and not between_sentences):
            found.append(host)
    return tuple(dict.fromkeys(found))


def _host(netloc: str) -> str:
    return netloc.rpartition("@")[2].partition(":")[0].strip(".").lower().removeprefix("www.")


def is_shortener(host: str) -> bool:
    """Whether the host is a public shortener's, or below it."""
    return _below(host, SHORTENERS)


def is_allowed(host: str, domains: Collection[str]) -> bool:
    """Whether the host is one of those domains, or below one."""
    return _below(host, domains)


def has_phone_number(text: str) -> bool:
    """Whether the text has what reads as a phone number: eight digits or more that are no amount and no date."""
    return any(
        sum(letter.isdigit() for letter in match[0]) >= 8 and not _GROUPED.fullmatch(match[0])
        for match in _PHONE.finditer(_seen(text))
    )


def _below(host: str, domains: Collection[str]) -> bool:
    parts = host.split(".")
    return any(".".join(parts[start:]) in domains for start in range(len(parts) - 1))


def _seen(text: str) -> str:
    if text.isascii():
        return text
    return _HIDING.sub("", unicodedata.normalize("NFKC", text).replace("。", "."))
