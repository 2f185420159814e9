"""The sandbox's command line."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from gateways.sandbox.behaviour import Behaviour, changed
from gateways.sandbox.control import is_open_to
from gateways.sandbox.ledger import DEFAULT_LIMIT
from gateways.sandbox.server import Sandbox, Settings

_log = logging.getLogger(__name__)


def main(argv: list[str]) -> int:
    """Run a sandbox until SIGINT or SIGTERM; gives the exit status. It logs as its caller has configured."""
    parser = _parser()
    given = parser.parse_args(argv)
    try:
        settings = _settings(given)
    except ValueError as error:
        parser.error(str(error))
    try:
        uvloop.run(_run(settings))
    except OSError as error:
        print(f"sandbox: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0


async def _run(settings: Settings) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    sandbox = Sandbox(settings)
    await sandbox.start()
    control = f", control API on port {sandbox.control_port}" if sandbox.control_port is not None else ""
    _log.info("sandbox SMSC on %s port %d%s", settings.host, sandbox.port, control)
    try:
        await stopped.wait()
    finally:
        await sandbox.stop()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="volley sandbox", description="A sandbox SMSC (SMPP 3.4) that makes the faults carriers make."
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=2775, help="SMPP; 0 takes a free one (default 2775)")
    add("--control-port", type=int, default=2776, help="HTTP control API; -1: none (default 2776)")
    add("--control-host", default="127.0.0.1", help="another address than loopback needs a token")
    add(
        "--control-token-file",
        type=Path,
        metavar="FILE",
        help="holds the token that the control API asks for",
    )
    add("--user", action="append", metavar="SYSTEM_ID:PASSWORD", help="may repeat (default volley:secret)")
    add("--ledger", type=int, default=DEFAULT_LIMIT, help="submits kept for GET /ledger; 0: none")
    add("--receipt-delay", type=float, metavar="S", help="seconds from submit to receipt (default 1)")
    add("--rate", type=int, help="submits taken a second; the others are throttled")
    add("--mix", action="append", metavar="STAT=WEIGHT", help="states of receipts, DELIVRD=97; may repeat")
    add(
        "--behaviour",
        action="append",
        metavar="NAME=VALUE",
        help="any other setting, tables as JSON; may repeat",
    )
    add("--seed", type=int, help="makes random faults repeatable")
    return parser


def _settings(given: argparse.Namespace) -> Settings:
    """Raises ValueError for what makes no sense."""
    changes: dict[str, Any] = {}
    for option in given.behaviour or ():
        name, _, value = option.partition("=")
        changes[name] = _value(value)
    if given.receipt_delay is not None:
        changes["receipt_delay_s"] = given.receipt_delay
    if given.rate is not None:
        changes["rate"] = given.rate
    if given.mix:
        pairs = (option.partition("=") for option in given.mix)
        changes["mix"] = {state: float(weight or 1) for state, _, weight in pairs}
    users = dict(
        user.split(":", 1) if ":" in user else (user, "") for user in given.user or ["volley:secret"]
    )
    settings = Settings(
        host=given.host,
        port=given.port,
        control_host=given.control_host,
        control_port=None if given.control_port < 0 else given.control_port,
        control_token=_token(given.control_token_file),
        users=users,
        ledger_limit=max(given.ledger, 0),
        behaviour=changed(Behaviour(), changes),
        seed=given.seed,
    )
    if settings.control_port is not None and not is_open_to(settings):
        raise ValueError("--control-host: another address than loopback needs --control-token-file")
    return settings


def _token(file: Path | None) -> str:
    """Raises ValueError."""
    if file is None:
        return ""
    try:
        token = file.read_text().strip()
    except (OSError, UnicodeDecodeError):
        raise ValueError(f"--control-token-file: {file} can't be read") from None
    if not token:
        raise ValueError(f"--control-token-file: {file} is empty")
    return token


def _value(written: str) -> object:
    """A number, true, false or a table is JSON; everything else is a word."""
    try:
        return msgspec.json.decode(written)
    except msgspec.DecodeError:
        return written
