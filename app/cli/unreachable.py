# ruff: noqa: PLC0415  a command imports what it runs when it runs
"""Failures of an engine as one line that names the setting it came from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from app.cli.terminal import Failure


@contextmanager
def name_the_engine(setting: str) -> Iterator[None]:
    """Turn what PostgreSQL, Redis or the network says into Failure; errors of our own stay as they are."""
    import asyncpg
    import redis
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, redis.RedisError) as error:
        raise Failure(f"{setting}: {_line(error)}") from error
    except SQLAlchemyError as error:
        raise Failure(f"{setting}: {_line(getattr(error, 'orig', None) or error)}") from error


def _line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
