# ruff: noqa: PLC0415  a command imports what it runs when it runs
"""The commands that are one process of a deployment each: api, dispatch, migrate, sandbox.

`volley up` runs these very commands as its children.
"""

from __future__ import annotations

import sys

import click

from app import logs, settings
from app.cli.engines_in_use import located
from app.cli.terminal import say
from app.cli.unreachable import name_the_engine
from app.config_file import SANDBOX_PORT


@click.command()
def api() -> None:
    """Serve the API and the console."""
    ours = located(settings.load())
    logs.configure("api", ours.log_level)
    from app.api.server import run

    run(ours)


@click.command()
def dispatch() -> None:
    """Run a dispatcher: claims, decides, submits, records."""
    ours = located(settings.load())
    logs.configure("dispatch", ours.log_level)
    from dispatcher.main import run

    run(ours)


@click.command()
def migrate() -> None:
    """Bring the database to the newest schema; VOLLEY_CONFIG seeds it, VOLLEY_API_KEY makes the first key."""
    ours = located(settings.load(), redis=False)
    from app.cli.configure import check_gateway
    from app.store import bootstrap
    from app.store import migrate as migrations

    assert ours.database_url is not None
    with name_the_engine("VOLLEY_DATABASE_URL"):
        migrations.upgrade(ours.database_url)
        say("the schema is up to date", good=True)
        if ours.config is not None and bootstrap.seed(ours.database_url, ours.config, check_gateway):
            say(f"configuration: from {ours.config}")
        if ours.api_key is not None:
            bootstrap.first_key(ours.database_url, ours.api_key)
            say("the key in VOLLEY_API_KEY is an administrator's")


@click.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []}, add_help_option=False
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def sandbox(arguments: tuple[str, ...]) -> None:
    """Run the sandbox SMSC (its options: volley sandbox --help)."""
    ours = settings.load()
    logs.configure("sandbox", ours.log_level)
    from gateways import sandbox as smsc

    given = list(arguments)
    if not any(word == "--port" or word.startswith("--port=") for word in given):
        given += ["--port", str(ours.sandbox_port or SANDBOX_PORT)]
    sys.exit(smsc.main(given))
