"""The command line: `volley up` and its roles, configuration, and a client for sending.

Guarantees: what the person at the terminal can mend is one line on stderr, without traceback
or secret; exit code 0 for done, 1 for failed, 2 for a wrong call or setting. A command imports
what it runs when it runs: `volley --help` and `volley send` don't wait for a database driver.
"""

from __future__ import annotations

import sys

import click

from app.cli import batch, configure, roles, send, up
from app.cli.terminal import Failure, say_error
from app.config_file import ConfigError
from app.engines import EngineError
from app.settings import SettingsError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="volley", prog_name="volley")
def volley() -> None:
    """Volley sends text messages in bulk: REST in, SMPP and HTTP gateways out.

    Settings come from the environment (VOLLEY_PORT, VOLLEY_DATA_DIR, VOLLEY_DATABASE_URL, ...).
    """


for command in (up.up, roles.api, roles.dispatch, roles.migrate, roles.sandbox, configure.apply):
    volley.add_command(command)
for command in (send.send, batch.batch, configure.keys):
    volley.add_command(command)


def main() -> None:
    """The `volley` program."""
    try:
        volley()
    except SettingsError as error:
        say_error(str(error))
        sys.exit(2)
    except (Failure, EngineError, ConfigError) as error:
        say_error(str(error))
        sys.exit(1)
