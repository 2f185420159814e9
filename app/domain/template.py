"""Bodies with named places: `Xin chào {name}`. `{{` and `}}` are literal braces.

Guarantee: a place is a plain name and nothing else: no attribute, index, format or call can be
written, so a body from outside cannot reach into the program. Rendering never leaves a place unfilled.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

MAX_PLACES = 64
MAX_VALUE_CHARS = 1_600
_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}\Z")


class TemplateError(ValueError):
    """The body is not a template; `detail` says where, without repeating the text."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class Template:
    """A parsed body. `names` are the places in order of first appearance."""

    __slots__ = ("_format", "names")

    def __init__(self, literal: list[str], places: list[str]) -> None:
        self.names = tuple(dict.fromkeys(places))
        # plain names and doubled braces are all that a format can have here, so that nothing else is looked up by it
        first, *rest = map(escaped, literal)
        named = (f"{{{place}}}{text}" for place, text in zip(places, rest, strict=True))
        self._format = "".join((first, *named)) if places else literal[0]

    def render(self, variables: Mapping[str, str] | None) -> str:
        """The text. Raises KeyError with the name of a missing variable."""
        if not self.names:
            return self._format
        if variables is None:
            raise KeyError(self.names[0])
        return self._format.format_map(variables)


def escaped(text: str) -> str:
    """A body that renders as this text."""
    return text.replace("{", "{{").replace("}", "}}")


@lru_cache(maxsize=4096)
def parse(body: str) -> Template:
    """Raises TemplateError (`template_syntax`, `template_too_many_variables`)."""
    literal: list[str] = [""]
    places: list[str] = []
    at = 0
    for match in _TOKEN.finditer(body):
        literal[-1] += body[at : match.start()]
        at = match.end()
        token = match.group()
        if token == "{{":  # noqa: S105 - a brace, no password
            literal[-1] += "{"
        elif token == "}}":  # noqa: S105
            literal[-1] += "}"
        elif len(token) == 1:
            raise TemplateError("template_syntax", f"unpaired brace at character {match.start()}")
        elif not _NAME.match(match.group(1)):
            raise TemplateError(
                "template_syntax", f"no variable name in the braces at character {match.start()}"
            )
        else:
            places.append(match.group(1))
            literal.append("")
            if len(places) > MAX_PLACES:
                raise TemplateError("template_too_many_variables", f"more than {MAX_PLACES} variables")
    literal[-1] += body[at:]
    return Template(literal, places)
