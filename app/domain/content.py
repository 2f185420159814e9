"""A message's words and their segments: what goes by a gateway, and what an explanation shows."""

from __future__ import annotations

from app.domain import text
from app.domain.pack import Entry
from app.domain.template import Template, parse

MAX_MASK_PARTS = 60  # segments of which a mask can say which are to go
TOO_MANY_SEGMENTS = "too_many_segments"  # more than its request allowed, by the coding of its gateway


def content(body: Template, entry: Entry, coding: text.Coding) -> tuple[str, text.Segments]:
    """The rendered text of an entry and its segments by a gateway's coding; `body` is its pack's.

    Raises KeyError, ValueError.
    """
    words = (body if entry.body is None else parse(entry.body)).render(entry.variables)
    return words, text.segment(words, MAX_MASK_PARTS, coding)
