"""Links and numbers in texts, and how people hide them."""

from __future__ import annotations

import pytest

from app.domain.links import has_phone_number, hosts, is_allowed, is_shortener


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Sale: https://shop.example.com/a?b", ("shop.example.com",)),
        ("HTTP://BIT.LY/x", ("bit.ly",)),
        ("bit.ly/x and www.example.org.", ("example.org", "bit.ly")),
        ("see example.com", ("example.com",)),
        ("see example.rocks/path", ("example.rocks",)),
        ("https://user:pw@evil.example:8443/", ("evil.example",)),
        ("b\u200bit.ly/x", ("bit.ly",)),  # zero width
        ("ｂｉｔ．ｌｙ/x", ("bit.ly",)),  # full width
        ("bit。ly/x", ("bit.ly",)),
        ("https://bit.ly\\@example.com/x", ("bit.ly",)),  # a browser reads the backslash as a slash
        ("bi\ufe0ft\u2063.ly/x", ("bit.ly",)),  # variation selector, invisible separator
        ("Hello.It was 3.50 at 12.30, v1.2.3", ()),
        ("mail me@example.com", ()),
        ("No link", ()),
        ("Rs.500 off", ()),
        ("点击 t.cn/abc", ("t.cn",)),
    ],
)
def test_hosts(text: str, found: tuple[str, ...]) -> None:
    assert hosts(text) == found


def test_domains_and_what_is_below_them() -> None:
    assert is_shortener("bit.ly")
    assert is_shortener("brand.short.gy")
    assert not is_shortener("rabbit.ly")
    assert is_allowed("shop.example.com", {"example.com"})
    assert not is_allowed("notexample.com", {"example.com"})
    assert not is_allowed("example.com.evil.net", {"example.com"})


@pytest.mark.parametrize("text", ["Call +60 12-345 6789", "0123456789", "Hotline: (03) 1234-5678!"])
def test_phone_numbers(text: str) -> None:
    assert has_phone_number(text)


@pytest.mark.parametrize(
    "text", ["RM 1.234.567", "Order 1234567", "2027-02-17", "17.02.2027", "No 12, 13 and 14"]
)
def test_other_numbers(text: str) -> None:
    assert not has_phone_number(text)
