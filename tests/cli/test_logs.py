"""Log lines are JSON, and no number or secret leaves through them."""

from __future__ import annotations

import io
import json
import logging

import pytest

from app import logs


@pytest.fixture
def stream():
    """A log that is read back; logging is as it was afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    output = io.StringIO()
    logs.configure("api", "info", output)
    yield output
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("to +12025550101 failed", "to +120******01 failed"),
        ("12025550101", "120******01"),
        ("+84 90 123 45 67, next", "+849******67, next"),
        ("(+44) 7700900123", "(+447*******23"),
        ("to=%2B12025550101", "to=%2B120******01"),
        ("id 01900000-1234-7000-8000-123456789012", "id 01900000-1234-7000-8000-123456789012"),
        ("at 2026-11-22T00:35:00.123Z", "at 2026-11-22T00:35:00.123Z"),
        ("took 0.1234567 s", "took 0.1234567 s"),
        ("10000 messages", "10000 messages"),
        ("Bearer vk_live_abc-DEF_1", "Bearer ***"),
        ("key vk_live_abc-DEF_1.", "key vk_***."),
        ("smpp://volley:hunter2@127.0.0.1:2775?binds=2", "smpp://volley:***@127.0.0.1:2775?binds=2"),
        ("redis://:hunter2@127.0.0.1:6379/0", "redis://:***@127.0.0.1:6379/0"),
        ("VOLLEY_API_KEY=hunter2hunter2hu", "VOLLEY_API_KEY=***"),
        ("VOLLEY_API_KEY: a key has 16 characters", "VOLLEY_API_KEY: a key has 16 characters"),
        ("password=hunter2 host=x", "password=*** host=x"),
        ('{"api_key": "hunter2", "a": 1}', '{"api_key": "***", "a": 1}'),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_***"),
    ],
)
def test_mask(text: str, masked: str):
    assert logs.mask(text) == masked


def test_a_line(stream: io.StringIO):
    logging.getLogger("dispatcher.claim").warning(
        "held %s of %d",
        "+12025550101",
        1234567,
        extra={
            "gateway": "sandbox",
            "count": 12345678,
            "recipient": "12025550101",
            "body": "a text",
            "nested": {"to": ["+12025550101"], "token": "hunter2"},
        },
    )
    line = json.loads(stream.getvalue())
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "warning",
        "role": "api",
        "logger": "dispatcher.claim",
        "message": "held +120******01 of 123**67",
        "gateway": "sandbox",
        "count": 12345678,
        "recipient": "120******01",
        "body": "***",
        "nested": {"to": ["+120******01"], "token": "***"},
    }


def test_a_traceback_is_part_of_one_line_and_masked(stream: io.StringIO):
    try:
        raise ValueError("no such number: +12025550101\nDSN postgresql://volley:hunter2@db/volley")
    except ValueError:
        logging.getLogger("x").exception("failed")
    text = stream.getvalue()
    assert text.count("\n") == 1
    exception = json.loads(text)["exception"]
    assert "Traceback" in exception
    assert "+12025550101" not in exception
    assert "hunter2" not in exception


def test_arguments_that_do_not_fit_lose_no_line():
    record = logging.makeLogRecord({"msg": "%d of %d", "args": ("many",), "levelname": "ERROR"})
    assert json.loads(logs.JsonLines("api").format(record))["message"] == "%d of %d"


def test_level_and_uvicorn(stream: io.StringIO):
    logging.getLogger("x").debug("unseen")
    logging.getLogger("uvicorn.error").info("seen")
    logging.getLogger("uvicorn.access").info("a line a request, unseen")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["seen"]
