"""What the commands write to the terminal, and how they give up.

A terminal that went away (EIO, EPIPE) stops no service: what can't be written is dropped.
"""

from __future__ import annotations

import contextlib

import click

from app.logs import mask


class Failure(Exception):
    """The command can't go on; the text is one line for the person at the terminal."""


def say(line: str = "", *, good: bool = False, bad: bool = False, bold: bool = False) -> None:
    """One line on stdout; colours only on a terminal."""
    colour = "green" if good else "yellow" if bad else None
    with contextlib.suppress(OSError):
        click.echo(click.style(line, fg=colour, bold=bold))


def say_error(line: str) -> None:
    """One line on stderr, with what may be a secret masked."""
    with contextlib.suppress(OSError):
        click.echo(f"volley: {mask(' '.join(line.split()))}", err=True)
