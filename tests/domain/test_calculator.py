"""Encodings and segments are those of the public calculator (Twilio's, on npm).

`segments_calculator/cases.json` holds texts with its answers: VOLLEY_WRITE_CASES=1 writes them anew. With node and
npm here (and a registry), it is asked itself as well, for thousands of texts. The version is pinned by the lock.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from app.domain import graphemes
from app.domain.text import UCS2_PART, count, segment

HERE = Path(__file__).parent / "segments_calculator"
CASES = HERE / "cases.json"

POOLS = {
    "gsm7": "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCXYZÄÖÑÜ§¿abcxyzäöñüà",
    "extension": "^{}\\[~]|€\f",
    "vietnamese": "ạảãàáâậầấẩẫăắằặẳẵđéèẻẽẹêếềểễệ abcdeghi",
    "chinese": "你好世界中文短信测试，。",
    "japanese": "こんにちはガギグｶﾞｷﾞﾞﾟ",
    "korean": "안녕하세요각낙\u1100\u1161\u11a8\u1112",
    "hindi": "नमस्तेआपकाआदेशभेजदियागयाहै क्षत्र्\u200d",
    "thai": "สวัสดีครับน้ำ",
    "arabic": "مرحبًا بالعالم\u064b\u0651\u0600",
    "tamil": "வணக்கம்நன்றி",
    "marks": "e\u0301o\u0308\u20dd",
    "emoji": "😀👍🏽👩\u200d👩\u200d👧🇻🇳🇺🇸❤\ufe0f🎅🏿🏳\ufe0f\u200d🌈☝🏻1\ufe0f\u20e3\u200d",
    "invisible": "\u200b\u00a0\u2028\t\x7f",
}


def texts(n: int, seed: int) -> list[str]:
    """Of one to three scripts, with most lengths near a limit."""
    dice = random.Random(seed)
    found = []
    for _ in range(n):
        names = dice.sample(list(POOLS), dice.choice([1, 1, 2, 3]))
        pool = "".join(POOLS[name] for name in names)
        low, high = dice.choice([(1, 20), (60, 80), (120, 170), (200, 500)])
        found.append("".join(dice.choices(pool, k=dice.randint(low, high))))
    return found


def brimful(n: int, seed: int) -> list[str]:
    """Of scripts whose characters join, just as long as two or three segments: one that can't be cut makes one more."""
    dice = random.Random(seed)
    found = []
    for _ in range(n):
        pool = POOLS[dice.choice(["hindi", "emoji", "tamil", "thai", "arabic", "marks", "korean"])]
        text, units = "ạ", dice.choice([134, 201])
        while len(text.encode("utf-16-be")) < 2 * units - 2:
            text += dice.choice(pool)
        found.append(text)
    return found


def jumbles(n: int, seed: int) -> list[str]:
    """Of one character for each property that clusters are made by."""
    dice = random.Random(seed)
    pool = "\t\u0301\u0903\u0600☝👦❤🏻\u200d🇺ᄀ\u1161ᆨ가각a"
    found = []
    for _ in range(n):
        text = "ạ"
        while len(text.encode("utf-16-be")) < 2 * 134 - 2:
            text += dice.choice(pool)
        found.append(text)
    return found


def any_texts(n: int, seed: int) -> list[str]:
    """Of any characters."""
    dice = random.Random(seed)
    ranges = [(32, 0xD7FF), (0xE000, 0xFFFD), (0x10000, 0x1FFFF)]
    return [
        "".join(chr(dice.randint(*dice.choice(ranges))) for _ in range(dice.randint(60, 200)))
        for _ in range(n)
    ]


def ours(text: str) -> list[object]:
    cut = segment(text)
    assert count(text) == len(cut.parts)
    return [cut.encoding, len(cut.parts)]


@pytest.fixture(scope="module")
def calculator(tmp_path_factory: pytest.TempPathFactory):
    """Asks the calculator; skips without node, npm or a registry."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("no node")
    home = tmp_path_factory.mktemp("calculator")
    for name in ("package.json", "package-lock.json", "count.js"):
        shutil.copy(HERE / name, home)
    try:
        subprocess.run(
            ["npm", "ci", "--no-audit", "--no-fund"], cwd=home, check=True, capture_output=True, timeout=60
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        pytest.skip("npm can't install the calculator here")

    def ask(batch: list[str]) -> list[list[object]]:
        done = subprocess.run(
            ["node", "count.js"], cwd=home, input=json.dumps(batch).encode(), capture_output=True, check=True
        )
        return json.loads(done.stdout)

    return ask


def test_the_table_of_its_answers():
    cases = json.loads(CASES.read_text())
    assert len(cases) >= 400
    wrong = [(text, answer) for text, answer in cases if ours(text) != answer]
    assert not wrong
    # a table in which nothing depended on whole characters would say little
    dependent = [
        text
        for text, (encoding, n) in cases
        if encoding == "ucs2" and n > 1 and -(-len(text.encode("utf-16-be")) // UCS2_PART) != n
    ]
    assert len(dependent) >= 20


def test_thousands_of_texts(calculator):
    batch = texts(1_500, 21) + brimful(500, 22) + any_texts(300, 23) + jumbles(500, 24)
    wrong = [
        (text, theirs) for text, theirs in zip(batch, calculator(batch), strict=True) if ours(text) != theirs
    ]
    assert not wrong


@pytest.mark.parametrize(
    "pieces",
    [
        ["👦🏻"],
        ["👦\ufe0f🏻"],
        ["👦\ufe0f\ufe0f", "🏻"],
        ["👦\ufe0f\u200d👦", "🏻"],
        ["👦\ufe0f\u200d👦\ufe0f🏻"],
        ["👦\u200d👦🏻\u200d❤"],
        ["🇺🇸\u200d", "\ufe0f"],
        ["🇺🇸\ufe0f", "\u200d❤"],
        ["🇺\u200d❤", "🇺🇸", "🇺"],
        ["\u0600🇺", "🇸"],
        ["a", "\t", "\u200d👦🏻"],
        ["\u0301\u200d👦", "🏻"],
    ],
)
def test_where_a_reader_sees_one_character(pieces: list[str]):
    """As the calculator's splitter has it, also where Unicode 10.0 says something else."""
    assert graphemes.clusters("".join(pieces)) == pieces


@pytest.mark.skipif("VOLLEY_WRITE_CASES" not in os.environ, reason="writes the table")
def test_write_the_table(calculator):
    batch = [one for one in texts(400, 11) + brimful(100, 12) + any_texts(30, 13) if len(one) < 210]
    CASES.write_text(
        "[\n"
        + ",\n".join(
            json.dumps(one, ensure_ascii=False) for one in zip(batch, calculator(batch), strict=True)
        )
        + "\n]\n"
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("ab", ["a", "b"]),
        ("e\u0301a", ["e\u0301", "a"]),
        ("\r\n", ["\r", "\n"]),
        ("👍🏽👍", ["👍🏽", "👍"]),
        ("👩\u200d👩\u200d👧a", ["👩\u200d👩\u200d👧", "a"]),
        ("🇻🇳🇺🇸🇻", ["🇻🇳", "🇺🇸", "🇻"]),
        ("\u1100\u1161\u11a8\u1100", ["\u1100\u1161\u11a8", "\u1100"]),
        ("각\u11a8나", ["각\u11a8", "나"]),
        ("नमस्ते", ["न", "म", "स्", "ते"]),
        ("1\ufe0f\u20e32", ["1\ufe0f\u20e3", "2"]),
    ],
)
def test_characters_as_a_reader_sees_them(text, found):
    assert graphemes.clusters(text) == found


def test_an_emoji_that_fits_into_a_segment_is_never_cut():
    family = "👩\u200d👩\u200d👧\u200d👦"  # 11 UTF-16 units
    cut = segment("ạ" * 60 + family * 2)
    assert [part.decode("utf-16-be") for part in cut.parts] == ["ạ" * 60, family * 2]


def test_one_that_fits_into_none_is_cut_between_its_code_points():
    endless = "e" + "\u0301" * 200
    cut = segment("😀" + endless)
    assert "".join(part.decode("utf-16-be") for part in cut.parts) == "😀" + endless
    assert all(len(part) <= UCS2_PART for part in cut.parts)
    skins = "👍" + "\ufe0f" * 32 + "🏽" * 40
    assert all(part.decode("utf-16-be") for part in segment(skins).parts)
