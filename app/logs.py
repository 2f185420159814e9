"""Structured logs: one JSON object a line on stderr, with secrets and numbers masked.

Guarantees: no whole phone number, API key, password in a URL, bearer token or webhook secret
leaves through these logs, whether in the message, an extra field or a traceback; a line is
always one line of valid JSON. Texts of messages can't be recognised: never log them.

A line holds `time` (RFC 3339, UTC), `level`, `role`, `logger`, `message`, then the fields given by
`extra=`, then `exception`. Log per batch, not per message: a line costs about 15 µs.
"""

from __future__ import annotations

import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec

# Not beside letters, hyphens or a point: UUIDs, hashes, dates and decimals stay legible.
_NUMBER = re.compile(r"(?<![\w.\-])(\+\d[\d ().\-]{5,}\d|\d{7,15})(?![\w\-])")
_NUMBER_IN_NAME = re.compile(r"(?<=tel:)\+?\d{7,15}|(?<=%2B)\d{7,15}")
# A setting that an error names, "VOLLEY_API_KEY: ...", is followed by words, not by its value.
_SECRETS = (
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=\-]+"), r"\1 ***"),
    (re.compile(r"\bvk_[\w\-]+"), "vk_***"),
    (re.compile(r"\bwhsec_[\w+/=\-]+"), "whsec_***"),
    (re.compile(r"(\b[a-zA-Z][\w+.\-]*://[^\s:/@]*:)[^\s@]+@"), r"\1***@"),
    (
        re.compile(
            r"(?i)(\b(?!VOLLEY_\w+: )\w*(?:password|passwd|secret|token|api_?key)\b[\"']?\s*[=:]\s*[\"']?)[^\s\"',&;)]+"
        ),
        r"\1***",
    ),
)
_PRIVATE_FIELDS = frozenset(
    ("password", "secret", "token", "authorization", "api_key", "key", "body", "text", "content", "variables")
)
_KEPT_DIGITS_START, _KEPT_DIGITS_END = 3, 2
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def mask(text: str) -> str:
    """The text with secrets replaced, and phone numbers cut to their first 3 and last 2 digits."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return _NUMBER_IN_NAME.sub(_cut, _NUMBER.sub(_cut, text))


def _cut(match: re.Match[str]) -> str:
    digits = "".join(filter(str.isdigit, match[0]))
    plus = "+" if match[0].startswith("+") else ""
    hidden = len(digits) - _KEPT_DIGITS_START - _KEPT_DIGITS_END
    return f"{plus}{digits[:_KEPT_DIGITS_START]}{'*' * hidden}{digits[-_KEPT_DIGITS_END:]}"


def _masked(name: str, value: Any) -> Any:
    """A field's value, masked all the way down; whole numbers stay, they are counts and times."""
    if name in _PRIVATE_FIELDS:
        return "***"
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict):
        return {str(key): _masked(str(key), inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_masked("", inner) for inner in value]
    return mask(str(value))


class JsonLines(logging.Formatter):
    """Renders a record as one line of JSON."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self.role = role
        self._encoder = msgspec.json.Encoder()

    def format(self, record: logging.LogRecord) -> str:
        """One line, without its end."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "role": self.role,
            "logger": record.name,
            "message": mask(_message(record)),
        }
        for name, value in vars(record).items():
            if name not in _STANDARD and not name.startswith("_"):
                line[name] = _masked(name, value)
        if record.exc_info:
            line["exception"] = mask(self.formatException(record.exc_info))
        if record.stack_info:
            line["stack"] = mask(record.stack_info)
        return self._encoder.encode(line).decode()


def _message(record: logging.LogRecord) -> str:
    """The text; a placeholder that doesn't fit its arguments must not lose the line."""
    try:
        return record.getMessage()
    except (TypeError, ValueError):
        return str(record.msg)


def configure(role: str, level: str = "info", stream: TextIO | None = None) -> None:
    """Send all logging of this process, uvicorn's and warnings included, to `stream` (stderr)."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines(role))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):  # they bring handlers of their own
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    for name in ("asyncio", "aiohttp.access", "alembic", "uvicorn.access"):  # a line a request or step
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
