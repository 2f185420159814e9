"""National language shift tables.

The tables were compared, cell by cell, with three readings of the specification that are not ours: gsmcodecs (PyPI),
lib3gpp23038 and Android's GsmAlphabet. Where one of them stands alone the other two are followed, but for the cell
that the head of `app/domain/national.py` names. The sentences below are encoded by gsmcodecs 1.0.0.
"""

from __future__ import annotations

import hashlib
import unicodedata

import pytest

from app.domain import national
from app.domain.text import decode_shifted, encode_shifted

BY_GSMCODECS = [
    # locking, single, text, septets
    (1, 1, "İyi günler, şimdi ığdır {€}", "40796920677e6e6c65722c201d696d646920070c640772201b28041b29"),
    (
        0,
        1,
        "İyi günler, şimdi ığdır {€}",
        "1b49796920677e6e6c65722c201b73696d6469201b691b67641b6972201b281b651b29",
    ),
    (1, 0, "İyi günler, şimdi ığdır {€}", "40796920677e6e6c65722c201d696d646920070c640772201b28041b29"),
    (
        0,
        2,
        "¿Dónde está mañana? Ánimo €5",
        "60441b6f6e6465206573741b61206d617d616e613f201b416e696d6f201b6535",
    ),
    (3, 3, "Olá, não há ligação às 10h ~", "4f6c0f2c206e7b6f20680f206c696761097b6f207f73203130682060"),
    (
        0,
        3,
        "Olá, não há ligação às 10h ~",
        "4f6c1b0f2c206e1b7b6f20681b0f206c6967611b091b7b6f207f7320313068201b3d",
    ),
    (3, 0, "Olá, não há ligação às 10h ~", "4f6c0f2c206e7b6f20680f206c696761097b6f207f73203130682060"),
    (
        4,
        4,
        "আপনার অর্ডার ১২৩ পাঠানো হয়েছে OK",
        "043d2f50442003445f245044201b1a1b1c1b1d203d5023502f5d204d434e591c59201b4f1b4b",
    ),
    (5, 5, "તમારો ઓર્ડર ૧૨ મોકલ્યો છે OK", "274250445d2013445f2444201b1d1b1e20425d15465f435d201c59201b4f1b4b"),
    (
        6,
        6,
        "आपका ऑर्डर भेज दिया गया है। OK १२",
        "043d15502011445f24442041591d202b51435020174350204d5a1b19201b4f1b4b201b1d1b1e",
    ),
    (
        7,
        7,
        "ನಿಮ್ಮ ಆರ್ಟರ್ ೧೨ ಕಳುಹಿಸಲಾಗಿದೆ OK",
        "2f51425f422004445f22445f201b1d1b1e201547534d514c465017512b58201b4f1b4b",
    ),
    (8, 8, "നിങ്ങളുടെ ഓർഡർ ൧൨ അയച്ചു OK", "2f51195f194753225820131b31241b31201b1d1b1e2003431a5f1a53201b4f1b4b"),
    (9, 9, "ଆପଣଙ୍କ ଅର୍ଡର ୧୨ ପଠାଯାଇଛି OK", "043d26195f152003445f2444201b1d1b1e203d23504350051c51201b4f1b4b"),
    (10, 10, "ਤੁਹਾਡਾ ਆਰਡਰ ੧੨ ਭੇਜਿਆ ਗਿਆ OK", "27534d5024502004442444201b1d1b1e2041591d510420175104201b4f1b4b"),
    (
        11,
        11,
        "உங்கள் ஆர்டர் ௧௨ அனுப்பப்பட்டது OK",
        "07195f15475f2004445f22445f201b1d1b1e20033c533d5f3d3d5f3d225f222753201b4f1b4b",
    ),
    (12, 12, "మీ ఆర్డర్ ౧౨ పంపబడింది OK", "42522004445f24445f201b1d1b1e203d013d402451012b51201b4f1b4b"),
    (
        13,
        13,
        "آپ کا آرڈر ۱۲ بھیج دیا گیا ہے۔ OK",
        "01052047002001251d25201b1d1b1e2002575911201a5900204a590020565b1b3f201b4f1b4b",
    ),
]


@pytest.mark.parametrize(("locking", "single", "text", "septets"), BY_GSMCODECS)
def test_sentences_are_encoded_as_gsmcodecs_does(locking, single, text, septets):
    assert encode_shifted(text, locking, single).hex() == septets
    assert decode_shifted(bytes.fromhex(septets), locking, single) == text


def test_the_tables_are_those_that_were_compared():
    cells = [
        (kind, language, code, point)
        for kind, tables in (("locking", national.LOCKING), ("single", national.SINGLE))
        for language, table in sorted(tables.items())
        for code, point in sorted(table.items())
    ]
    assert hashlib.sha256(repr(cells).encode()).hexdigest() == FINGERPRINT


FINGERPRINT = "e26d54fc6b1020b03af5b127a0c18296f451ef1e38cd3b415aac4bbb85c85e1d"


@pytest.mark.parametrize("language", national.LANGUAGES)
def test_tables_hold_their_own_script_and_no_character_twice(language):
    number = national.LANGUAGES[language]
    script = {"turkish": "LATIN", "spanish": "LATIN", "portuguese": "LATIN", "urdu": "ARABIC"}.get(
        language, {"punjabi": "GURMUKHI", "hindi": "DEVANAGARI"}.get(language, language.upper())
    )
    letters = [chr(point) for point in {**national.SINGLE[number]}.values()]
    locking = national.LOCKING.get(number)
    if locking is not None:
        assert locking[0x20] == 0x20
        assert len(set(locking.values())) == len(locking)
        assert national.ESCAPE not in locking
        letters += map(chr, locking.values())
    for letter in letters:
        name = unicodedata.name(letter, "")
        if unicodedata.category(letter)[0] in "LM" and not name.startswith("LATIN"):
            assert name.startswith(
                (script, "GREEK", "COMBINING", "DEVANAGARI STRESS", "FEMININE", "MASCULINE")
            ), name
    for char, code in (("€", 0x65), ("{", 0x28), ("\\", 0x2F), ("\f", 0x0A)):
        if (language, char) != ("telugu", "€"):
            assert national.SINGLE[number][code] == ord(char)


def test_the_elements_that_name_the_tables():
    assert national.header(0, 1).hex() == "240101"
    assert national.header(13, 0).hex() == "25010d"
    assert national.header(6, 6).hex() == "240106250106"
