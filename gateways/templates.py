"""Which of a provider's templates a text was written by, and with what values.

Some providers take no text, only the id of a template that they approved and values for its
placeholders; a submission has a text and no template. So the gateway's table says how to get back:

    template = "SMS_1"                                    # the template of one placeholder, the whole text
    template_parameter = "content"                        # that placeholder's name
    templates = { SMS_2 = "Your code is ${code}." }       # others, exactly as the provider has them

A text that fits one of `templates`, in their order, goes by it; each placeholder stands for at least one
character, and what is between placeholders must agree to the letter. A text that fits none goes whole, as
the one value of `template`; where the provider forbids that, it refuses it, and the text isn't sent.

Guarantees: pure; linear in the text's length for each template, whatever the text is. Never another
text than the one submitted: template and values together give it back, letter for letter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from gateways.provider import text, wrong

KEYS = ("template", "template_parameter", "templates")
MAX_TEMPLATES = 500
MAX_PLACEHOLDERS = 30  # in one template


class Template(msgspec.Struct, frozen=True):
    """`literals` stand before, between and after the placeholders called `names`."""

    id: str
    literals: tuple[str, ...]
    names: tuple[str, ...]

    def values(self, content: str) -> list[str] | None:
        """The placeholders' values in this text; None when it isn't by this template."""
        first, *between = self.literals
        if not content.startswith(first):
            return None
        if not between:
            return [] if content == first else None
        found: list[str] = []
        at = len(first)
        last = between.pop()
        for literal in between:  # the earliest place is always as good as a later one
            end = content.find(literal, at + 1)
            if end < 0:
                return None
            found.append(content[at:end])
            at = end + len(literal)
        end = len(content) - len(last)
        if end <= at or not content.endswith(last):
            return None
        return [*found, content[at:end]]


class Templates(msgspec.Struct, frozen=True):
    known: tuple[Template, ...]
    whole: str  # the id of the template for what fits no other
    parameter: str  # and its placeholder

    def choose(self, content: str) -> tuple[str, list[tuple[str, str]]]:
        """The template's id, and name and value of each of its placeholders, in their order."""
        for template in self.known:
            values = template.values(content)
            if values is not None:
                return template.id, list(zip(template.names, values, strict=True))
        return self.whole, [(self.parameter, content)]


def parse(
    name: str, options: Mapping[str, object], placeholder: re.Pattern[str], default_parameter: str
) -> Templates:
    """Read the gateway's settings. `placeholder` finds one, its name as group 1. Raises ValueError."""
    whole = text(name, options, "template")
    if not whole:
        raise wrong(name, "template", "is needed: the provider takes templates, not texts")
    table = options.get("templates", {})
    if not isinstance(table, Mapping) or not all(
        isinstance(key, str) and isinstance(value, str) for key, value in table.items()
    ):
        raise wrong(name, "templates", "must be a table of texts by the templates' ids")
    if len(table) > MAX_TEMPLATES:
        raise wrong(name, "templates", f"must be {MAX_TEMPLATES} at most")
    return Templates(
        known=tuple(_template(name, key, value, placeholder) for key, value in table.items()),
        whole=whole,
        parameter=text(name, options, "template_parameter", default_parameter),
    )


def _template(name: str, key: str, content: str, placeholder: re.Pattern[str]) -> Template:
    parts = placeholder.split(content)
    literals, names = tuple(parts[0::2]), tuple(parts[1::2])
    if not content or len(names) > MAX_PLACEHOLDERS:
        raise wrong(name, f"templates.{key}", f"must have a text and {MAX_PLACEHOLDERS} placeholders at most")
    if not all(literals[1:-1]) or len(set(names)) != len(names):
        raise wrong(name, f"templates.{key}", "has placeholders side by side, or one of them twice")
    return Template(key, literals, names)
