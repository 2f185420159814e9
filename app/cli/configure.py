# ruff: noqa: PLC0415  a command imports what it runs when it runs
"""`volley apply`: volley.toml into the database, difference first. `volley keys`: API keys."""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from app import settings
from app.cli.client import Api
from app.cli.engines_in_use import located
from app.cli.terminal import Failure, say
from app.cli.unreachable import name_the_engine
from app.settings import Settings
from gateways.base import Inbound, Outcome, Receipt, Submission

if TYPE_CHECKING:
    from app.store.bootstrap import Change

SIGNS = {"create": "+", "change": "~", "remove": "-", "disable": "-"}


class _Nowhere:
    """A sink for gateways that are made only to see whether they can be."""

    def outcomes(self, batch: Sequence[tuple[Submission, int, Outcome]]) -> None: ...

    def ready(self) -> None: ...

    async def receipts(self, gateway: str, batch: Sequence[Receipt]) -> None: ...

    async def inbound(self, gateway: str, batch: Sequence[Inbound]) -> None: ...


def check_gateway(name: str, url: str, options: Mapping[str, Any]) -> None:
    """Raises ValueError, one line without secrets, for a gateway that could not be made."""
    import gateways

    gateways.make(name, url, options, _Nowhere())


def config_path(ours: Settings) -> Path:
    """VOLLEY_CONFIG, or the volley.toml that the first `volley up` left in the data directory."""
    return ours.config or ours.data_dir / "volley.toml"


@click.command()
@click.option("--yes", is_flag=True, help="Apply without asking.")
@click.option("--dry-run", is_flag=True, help="Only show the difference.")
@click.option("--reason", default="volley apply", show_default=True, help="Kept with the change.")
def apply(yes: bool, dry_run: bool, reason: str) -> None:
    """Show how volley.toml differs from the database, then apply it."""
    ours = located(settings.load(), redis=False)
    from app.store import bootstrap

    assert ours.database_url is not None
    path = config_path(ours)
    with name_the_engine("VOLLEY_DATABASE_URL"):
        changes = bootstrap.plan(ours.database_url, path, check_gateway)
    if not changes:
        say(f"{path} and the database agree")
        return
    for change in changes:
        _show(change)
    if dry_run:
        return
    if not yes and not click.confirm(f"Apply {len(changes)} change(s)?"):
        raise Failure("nothing was changed")
    with name_the_engine("VOLLEY_DATABASE_URL"):
        applied = bootstrap.apply(ours.database_url, path, _actor(), reason, check=check_gateway)
    say(f"{len(applied)} change(s) applied", good=True)


def _show(change: Change) -> None:
    say(f"{SIGNS[change.action]} {change.subject}", bold=True)
    for name, (before, after) in change.fields.items():
        if change.action == "create":
            if after is not None and after not in ([], {}):
                say(f"    {name}: {_value(after)}")
        elif change.action != "remove":
            say(f"    {name}: {_value(before)} -> {_value(after)}")


def _value(value: Any) -> str:
    return "none" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _actor() -> str:
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # an account without a name, as in some containers
        return "cli"


@click.group()
def keys() -> None:
    """API keys."""


@keys.command("create")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(["send", "read", "rules", "operate", "admin"]),
    default=("send", "read"),
    show_default=True,
)
@click.option("--test", is_flag=True, help="A key that reaches only the sandbox.")
def create(name: str, scopes: tuple[str, ...], test: bool) -> None:
    """Make a key and show it, once. Asks the API, with a key that may."""

    async def ask() -> dict[str, Any]:
        async with Api.from_settings(settings.load()) as api:
            return await api.post("/v1/keys", json={"name": name, "scopes": list(scopes), "test": test})

    say(str(asyncio.run(ask())["key"]))
