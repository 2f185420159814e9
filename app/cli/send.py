"""`volley send`: one message, followed until its state is final."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import click

from app import settings
from app.cli.client import Api
from app.cli.terminal import Failure, say
from app.domain.message import Category, State

POLL_S = 0.3


@click.command()
@click.argument("to")
@click.argument("body")
@click.option(
    "--category", type=click.Choice([c.name for c in Category]), default="transactional", show_default=True
)
@click.option("--sender", help="The from-address.")
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(0),
    default=15.0,
    show_default=True,
    help="Seconds to follow it.",
)
def send(to: str, body: str, category: str, sender: str | None, wait_s: float) -> None:
    """Send BODY to the number TO (+12025550101)."""
    message: dict[str, Any] = {"to": to, "body": body, "category": category}
    if sender is not None:
        message["sender"] = sender
    asyncio.run(_send(message, wait_s))


async def _send(message: dict[str, Any], wait_s: float) -> None:
    async with Api.from_settings(settings.load()) as api:
        accepted = await api.post("/v1/messages", json=message)
        say(f"accepted   {accepted['id']}")
        shown = "accepted"
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline:
            current = await api.get(f"/v1/messages/{accepted['id']}")
            if current["state"] != shown:
                shown = current["state"]
                _show(current)
            if State[shown].final:
                if shown != State.delivered.name:
                    raise Failure(f"not delivered: {shown}{_why(current)}")
                return
            await asyncio.sleep(POLL_S)
        say(f"still {shown}; GET /v1/messages/{accepted['id']} tells the rest")


def _show(message: dict[str, Any]) -> None:
    state = message["state"]
    say(f"{state:<10} {_why(message).removeprefix(' ')}".rstrip(), good=state == State.delivered.name)


def _why(message: dict[str, Any]) -> str:
    reason = message.get("reason")
    return f" ({reason})" if reason and reason != message["state"] else ""
