"""From bytes to requests: every way in which a body can be bad, as a problem that says where.

Guarantees: nothing that a client can send raises anything but Problem here; a well-formed body is decoded
once, and only a suspicious one is looked at again; details name places and types, never values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from app.api import limits
from app.api.problems import FieldError, Problem, field_problem

Decoded = TypeVar("Decoded")

_PATH = re.compile(r" - at `(?:key in )?(\$[^`]*)`$")
_FIELD = re.compile(r"field `(.*)`$", re.DOTALL)
_PART = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_\-]{0,63}\Z")
_SURROGATE = re.compile("[\ud800-\udfff]")


def decode(raw: bytes, decoder: Callable[[bytes], Decoded]) -> Decoded:
    """The request, or Problem: 400 when it is no JSON, 422 when it is another JSON than asked for."""
    try:
        found = decoder(raw)
    except msgspec.ValidationError as error:
        fault = field_error(str(error))
        raise Problem(422, fault.code, fault.detail, [fault]) from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError:  # DecodeError, UnicodeDecodeError
        raise _malformed(raw) from None
    if b"u0000" in raw:
        _refuse_nul(found)
    return found


def demand_json(raw: bytes, declared: str | None) -> None:
    """Whether the framework may read this body as JSON: it would say of nothing but the syntax where it is bad, and
    would take NaN, NUL and half characters. Raises Problem (400, 415, 422)."""
    demand_media(declared)
    if _deeper(decode(raw, msgspec.json.decode), limits.MAX_DEPTH):
        raise _too_deep()


def demand_media(declared: str | None) -> None:
    """415 for a body that isn't declared as JSON."""
    media = (declared or "").partition(";")[0].strip().lower()
    if media != "application/json" and not (media.startswith("application/") and media.endswith("+json")):
        raise Problem(415, "unsupported_media_type", "send application/json")


def _deeper(document: Any, most: int) -> bool:
    level = [document] if isinstance(document, dict | list) else []
    for _ in range(most):
        level = [
            inner
            for one in level
            for inner in (one.values() if isinstance(one, dict) else one)
            if isinstance(inner, dict | list)
        ]
    return bool(level)


def escaped(raw: bytes, name: str) -> bytes:
    """The JSON object with each item of the list `name` as a string that holds its JSON: so that an item which
    the decoder can't read at all (a lone surrogate in it) hinders no other. `unescaped` gives an item back."""
    document = json.loads(raw)
    document[name] = [json.dumps(one) for one in document[name]]
    return json.dumps(document).encode()


def unescaped(item: msgspec.Raw) -> bytes:
    """An item of an `escaped` list, as JSON."""
    return json.loads(bytes(item)).encode()


def refuse_doubles(raw: bytes, suspects: Mapping[bytes, int]) -> None:
    """422 for a key that one object has twice: the decoder would take the last, and who meant the first
    would text a stranger.

    `suspects` are keys and how often each may be found in the bytes; only when one is found more often
    (as a value, it may be) is the whole body read again, slowly.
    """
    for key, expected in suspects.items():
        if raw.count(key) > expected:
            break
    else:
        return
    try:
        json.loads(raw, object_pairs_hook=_single)
    except _Doubled as doubled:
        name = str(doubled)
        shown = f"'{name}'" if _PLAIN_NAME.match(name) and not re.search(r"\d{6}", name) else "a key"
        raise Problem(422, "duplicate_key", f"{shown} is written twice in one object") from None
    except (ValueError, RecursionError):  # beyond Python's reader, and no double found
        return


class _Doubled(Exception):
    pass


def _single(pairs: list[tuple[str, Any]]) -> None:
    seen = set()
    for key, _ in pairs:
        if key in seen:
            raise _Doubled(key)
        seen.add(key)


def field_error(message: str, base: str = "") -> FieldError:
    """msgspec's message as one of ours: the place as a JSON Pointer below `base`, and no value."""
    place = _PATH.search(message)
    what = message[: place.start()] if place else message
    pointer = base + (_pointer(place.group(1)) if place else "")
    named = _FIELD.search(what)
    if what.startswith("Object missing") and named:
        return FieldError(
            f"{pointer}/{named.group(1)}", "required", f"the field '{named.group(1)}' is required"
        )
    if what.startswith("Object contains unknown") and named:
        name = named.group(1)
        shown = name if _PLAIN_NAME.match(name) and not re.search(r"\d{6}", name) else "?"
        return FieldError(f"{pointer}/{shown}", "unknown_field", "there is no such field")
    if what.startswith("Invalid enum value"):
        return FieldError(pointer, "invalid_value", "not one of the allowed values")
    if "datetime" in what:
        return FieldError(
            pointer, "invalid_time", "a time as in RFC 3339 with its offset from UTC is expected"
        )
    if "of length" in what:
        code = "too_long" if "<=" in what else "too_short"
        if code == "too_long" and pointer in ("/body", "query/body"):
            code = "body_too_long"  # the same as for too many segments: what is to be done is the same
        return FieldError(pointer, code, _lowered(what))
    if "out of range" in what or "`int` <" in what or "`int` >" in what:
        return FieldError(pointer, "out_of_range", _lowered(what))
    if what.startswith("Expected"):
        return FieldError(pointer, "wrong_type", _lowered(what))
    return FieldError(pointer, "invalid_value", "the value is not allowed here")


def _lowered(what: str) -> str:
    return what[:1].lower() + what[1:].replace("`", "")


def _pointer(path: str) -> str:
    parts = []
    for name, index in _PART.findall(path):
        if index == "...":  # the key of a mapping, which msgspec doesn't name
            break
        parts.append(name or index)
    return "".join(f"/{part}" for part in parts)


def _too_deep() -> Problem:
    return Problem(400, "json_too_deep", f"the JSON is nested more than {limits.MAX_DEPTH} levels deep")


def _malformed(raw: bytes) -> Problem:
    """Why it can't be decoded: looked into only here, off the fast path."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return Problem(400, "invalid_utf8", "the body is not UTF-8")
    if not text.strip():
        return Problem(400, "malformed_json", "the body is empty")
    if _depth(text) > limits.MAX_DEPTH:
        return _too_deep()
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        return Problem(
            400, "malformed_json", f"the body is not JSON, from line {error.lineno} column {error.colno} on"
        )
    except (ValueError, RecursionError):
        return Problem(400, "malformed_json", "the body is not JSON that can be read")
    for pointer, string in strings(document):
        if _SURROGATE.search(string):
            return field_problem(pointer, "lone_surrogate", "half of a surrogate pair")
    return Problem(400, "malformed_json", "the body is not JSON: it has a number that is none, or beyond all")


def _depth(text: str) -> int:
    deepest = depth = 0
    for bracket in re.findall(r'[\[{\]}]|"(?:[^"\\]|\\.)*"', text):
        if bracket in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif bracket in "]}":
            depth -= 1
    return deepest


def strings(document: Any, pointer: str = "") -> Iterator[tuple[str, str]]:
    """Each string of a document with its place; keys of objects too, at their object's place."""
    waiting = [(pointer, document)]
    while waiting:
        place, value = waiting.pop()
        if isinstance(value, str):
            yield place, value
        elif isinstance(value, dict):
            for key, inner in value.items():
                yield place, str(key)
                shown = key if _PLAIN_NAME.match(str(key)) else "?"
                waiting.append((f"{place}/{shown}", inner))
        elif isinstance(value, list):
            waiting.extend((f"{place}/{index}", inner) for index, inner in enumerate(value))


def _unread(_: Any) -> None:
    """msgspec.Raw: looked into when it is decoded."""


def _refuse_nul(found: Any) -> None:
    for pointer, string in strings(msgspec.to_builtins(found, enc_hook=_unread)):
        if "\x00" in string:
            raise field_problem(pointer, "nul_character", "NUL can't be stored")
