"""A mix of what systems do all day, for locust: one-time passwords, batches, and questions about both.

Guarantees: only numbers that no one has (North American exchange 555, lines 0100 to 0188; the sandbox takes
the others of that range as orders to misbehave); every POST carries an Idempotency-Key; an answer that is not
what it should be is a failure in locust's table, with its reason.

    locust --config loadtests/locust.conf --host http://127.0.0.1:8000 --key vk_…

It measures the API under many clients. `make bench` measures the way to the last receipt.
"""

from __future__ import annotations

import itertools
import json
import random
import uuid
from collections import deque
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from locust import FastHttpUser, between, events

AREAS = (201, 202, 212, 213, 305, 312, 404, 415, 503, 512, 602, 617, 702, 713, 808, 917)
SENDER = "12025550199"
OTP_VALID = timedelta(minutes=5)
BATCH_SIZES = (50, 200, 1000)
REMEMBERED = 200  # ids that a user may ask about again
OPEN_BATCHES = 20


def fictitious_number() -> str:
    """A number from the range that is kept free for films and examples."""
    return f"+1{random.choice(AREAS)}555{random.randint(100, 188):04d}"


class Api(FastHttpUser):
    """A system with a key. Its subclasses say what it does."""

    abstract = True
    network_timeout = 30.0
    connection_timeout = 5.0

    def on_start(self) -> None:
        key = self.environment.parsed_options.key
        if not key:
            raise SystemExit("--key or VOLLEY_API_KEY: an API key with the scopes send and read is needed")
        self.client.auth_header = f"Bearer {key}"
        self.known: deque[str] = deque(maxlen=REMEMBERED)

    def post(self, path: str, document: dict[str, Any], name: str) -> dict[str, Any] | None:
        """The body of a 202; None when it was none, which locust then counts as a failure."""
        headers = {
            "Authorization": self.client.auth_header or "",
            "Content-Type": "application/json",
            "Idempotency-Key": str(uuid.uuid4()),
        }
        data = json.dumps(document)
        with self.client.post(path, data=data, headers=headers, name=name, catch_response=True) as response:
            if response.status_code != 202:
                response.failure(f"{response.status_code} {code_of(response.text)}")
                return None
            return dict(response.json())

    def read(self, path: str, name: str) -> dict[str, Any] | None:
        """The body of a 200."""
        headers = {"Authorization": self.client.auth_header or ""}
        with self.client.get(path, headers=headers, name=name, catch_response=True) as response:
            if response.status_code != 200:
                response.failure(f"{response.status_code} {code_of(response.text)}")
                return None
            return dict(response.json())


def code_of(body: str | None) -> str:
    """The stable code of a problem document."""
    try:
        return str(json.loads(body or "")["code"])
    except (ValueError, KeyError, TypeError):
        return "without a problem document"


# What they do. A task takes the user, as locust has it.


def send_otp(user: Api) -> None:
    """One password, valid for five minutes."""
    code = f"{random.randrange(1_000_000):06d}"
    document = {
        "to": fictitious_number(),
        "category": "otp",
        "sender": SENDER,
        "body": "{code} is your code. It is valid for 5 minutes.",
        "variables": {"code": code},
        "expires_at": (datetime.now(UTC) + OTP_VALID).isoformat(),
    }
    posted = user.post("/v1/messages", document, "POST /v1/messages (otp)")
    if posted is not None:
        user.known.append(posted["id"])


def ask_message(user: Api) -> None:
    """What became of one that this user posted."""
    if user.known:
        wanted = random.choice(user.known)
        found = user.read(f"/v1/messages/{wanted}", "GET /v1/messages/{id}")
        if found is not None and found["id"] != wanted:
            raise AssertionError("another message than the one that was asked for")


def send_batch(user: Api) -> None:
    """A delivery notice to some hundreds."""
    size = random.choice(BATCH_SIZES)
    document = {
        "category": "transactional",
        "sender": SENDER,
        "body": "Hi {name}, your parcel arrives today.",
        "recipients": [
            {"to": fictitious_number(), "variables": {"name": f"N{i}"}, "client_reference": f"parcel-{i}"}
            for i in range(size)
        ],
    }
    posted = user.post("/v1/batches", document, f"POST /v1/batches ({size})")
    if posted is None:
        return
    user.known.append(posted["id"])
    if posted["accepted"] != size:
        user.environment.events.request.fire(
            request_type="CHECK",
            name="batch accepted whole",
            response_time=0,
            response_length=0,
            exception=AssertionError(f"{posted['accepted']} of {size}"),
            context={},
        )


def ask_batch(user: Api) -> None:
    """How far a batch is."""
    if user.known:
        wanted = random.choice(tuple(itertools.islice(reversed(user.known), OPEN_BATCHES)))
        user.read(f"/v1/batches/{wanted}", "GET /v1/batches/{id}")


def list_messages(user: Api) -> None:
    """The messages of a batch, first page."""
    if user.known:
        wanted = random.choice(user.known)
        user.read(f"/v1/messages?batch={wanted}&limit=50", "GET /v1/messages?batch")


class SignIn(Api):
    """A shop's sign-in page: passwords one by one, and now and then a look at what became of one."""

    weight = 8
    wait_time = between(0.05, 0.3)
    tasks: ClassVar = {send_otp: 5, ask_message: 2}


class Notices(Api):
    """A logistics system: batches, then their progress."""

    weight = 2
    wait_time = between(1.0, 4.0)
    tasks: ClassVar = {send_batch: 2, ask_batch: 5, list_messages: 1}


def _add_arguments(parser: Any) -> None:
    parser.add_argument(
        "--key", env_var="VOLLEY_API_KEY", is_secret=True, default="", help="An API key: vk_…"
    )


events.init_command_line_parser.add_listener(_add_arguments)
