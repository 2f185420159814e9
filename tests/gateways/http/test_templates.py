"""Templates: which one a text was written by, its values, and what settings may not say."""

from __future__ import annotations

import re

import pytest

from gateways import templates

MARK = re.compile(r"\$\{(\w+)\}")


def parsed(**options):
    return templates.parse("g", {"template": "whole"} | options, MARK, "content")


TABLE = {
    "code": "Your code is ${code}.",
    "visit": "Hi ${name}, see you on ${day} at ${hour}",
    "fixed": "We are open.",
    "lead": "${name}: hello",
    "all": "Order ${id} shipped.",
}


@pytest.mark.parametrize(
    ("text", "template", "values"),
    [
        ("Your code is 123.", "code", [("code", "123")]),
        ("Your code is a. b..", "code", [("code", "a. b.")]),
        ("Your code is .", "whole", [("content", "Your code is .")]),  # a value can't be empty
        ("Your code is 123", "whole", [("content", "Your code is 123")]),
        (
            "Hi Ann, see you on Monday at 9",
            "visit",
            [("name", "Ann"), ("day", "Monday"), ("hour", "9")],
        ),
        (
            "Hi A, see you on B, see you on C at D at E",
            "visit",
            [("name", "A"), ("day", "B, see you on C"), ("hour", "D at E")],
        ),
        ("We are open.", "fixed", []),
        ("We are open..", "whole", [("content", "We are open..")]),
        ("Ann: hello", "lead", [("name", "Ann")]),
        ("Order 7 shipped. shipped.", "all", [("id", "7 shipped.")]),
        ("", "whole", [("content", "")]),
    ],
)
def test_choice(text, template, values):
    assert parsed(templates=TABLE).choose(text) == (template, values)


def test_the_text_comes_back_letter_for_letter():
    for text in ("Your code is 1 2.", "Hi a, see you on b at c", "Hi , see you on , see you on x at  at "):
        chosen, values = parsed(templates=TABLE).choose(text)
        again = TABLE.get(chosen, "${content}")
        for name, value in values:
            again = again.replace("${" + name + "}", value)
        assert again == text


def test_a_hostile_text_takes_no_longer():
    known = parsed(templates={"t": "a${1}a${2}a${3}a${4}a${5}a${6}b"})
    assert known.choose("a" * 20_000)[0] == "whole"


def test_the_first_that_fits():
    both = {"one": "Hi ${x}", "two": "Hi ${x}, bye"}
    assert parsed(templates=both).choose("Hi Ann, bye") == ("one", [("x", "Ann, bye")])


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"template": ""}, "template: is needed"),
        ({"template": 1}, "template: must be a string"),
        ({"templates": "x"}, "templates: must be a table"),
        ({"templates": {"t": 1}}, "templates: must be a table"),
        ({"templates": {"t": ""}}, r"templates.t: must have a text"),
        ({"templates": {"t": "${a}${b}"}}, r"templates.t: has placeholders side by side"),
        (
            {"templates": {"t": "${a} ${a}"}},
            r"templates.t: has placeholders side by side, or one of them twice",
        ),
        ({"templates": {"t": " ".join(f"${{v{i}}}" for i in range(31))}}, "templates.t: must have"),
        ({"templates": {str(i): "x" for i in range(501)}}, "templates: must be 500 at most"),
    ],
)
def test_wrong_settings(options, problem):
    with pytest.raises(ValueError, match=r"^gateway g: ") as error:
        parsed(**options)
    assert problem in str(error.value)
