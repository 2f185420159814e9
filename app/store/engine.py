"""The way to PostgreSQL: one pool, two faces.

`begin()` and `connect()` give SQLAlchemy connections for ordinary queries; `driver()` gives the asyncpg
connection beneath, for COPY and `unnest` where rows come in thousands, without SQLAlchemy's transaction.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from sqlalchemy import select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

COMMAND_TIMEOUT_S = 60
CONNECT_TIMEOUT_S = 10
# What using a connection raises when PostgreSQL is away, goes away, or refuses: try again later.
AWAY = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
# What a value raises that PostgreSQL or its driver can't take: the same again would fail again.
UNSTORABLE = (
    asyncpg.DataError,
    asyncpg.ProgramLimitExceededError,
    ValueError,  # UnicodeError and msgspec's errors are some
    TypeError,
    OverflowError,
)


def sqlalchemy_url(database_url: str) -> str:
    """`postgresql://…`, as libpq writes it, with the driver that we use. ValueError without the password."""
    try:
        url = make_url(database_url)
    except ArgumentError:
        raise ValueError("not a postgresql:// URL") from None
    if url.get_backend_name() not in ("postgresql", "postgres"):
        raise ValueError(f"{url.get_backend_name()}:// is not PostgreSQL")
    return url.set(drivername="postgresql+asyncpg").render_as_string(hide_password=False)


class Database:
    """A pool of connections. Make one a process; `dispose` at its end."""

    def __init__(self, database_url: str, *, pool: int = 10, name: str = "volley") -> None:
        self.engine: AsyncEngine = create_async_engine(
            sqlalchemy_url(database_url),
            pool_size=pool,
            max_overflow=0,
            pool_pre_ping=False,
            pool_timeout=COMMAND_TIMEOUT_S,
            hide_parameters=True,  # in what its errors say, which is logged
            connect_args={
                "server_settings": {"application_name": name, "timezone": "UTC", "jit": "off"},
                "command_timeout": COMMAND_TIMEOUT_S,
                "timeout": CONNECT_TIMEOUT_S,
            },
        )

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """A transaction, committed at the end of the block."""
        async with self.engine.begin() as connection:
            yield connection

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[AsyncConnection]:
        """For reading; rolled back at the end."""
        async with self.engine.connect() as connection:
            yield connection

    @asynccontextmanager
    async def driver(self) -> AsyncIterator[asyncpg.Connection]:
        """The asyncpg connection itself, in autocommit. A broken one is neither given out nor given back to the
        pool. Raises one of AWAY when PostgreSQL can't be reached."""
        connection, driver = await self._alive()
        try:
            try:
                yield driver
            except BaseException:
                if driver.is_closed() or driver.is_in_transaction():
                    await connection.invalidate()
                raise
        finally:
            await connection.close()

    async def _alive(self) -> tuple[AsyncConnection, asyncpg.Connection]:
        """A connection that is not known to be closed: a server that went away closes the whole pool's."""
        while True:
            try:
                connection = await self.engine.connect()
            except PoolTimeout:
                raise TimeoutError("no connection was free in time") from None
            except DBAPIError as error:
                raise ConnectionError(f"PostgreSQL can't be reached: {error.orig}") from error
            raw = await connection.get_raw_connection()
            driver = raw.driver_connection
            assert driver is not None
            if not driver.is_closed():
                return connection, driver
            await connection.invalidate()
            await connection.close()

    async def dispose(self) -> None:
        await self.engine.dispose()


async def driver_in(connection: AsyncConnection) -> asyncpg.Connection:
    """The asyncpg connection beneath a SQLAlchemy one, inside the same transaction."""
    await connection.execute(select(1))  # SQLAlchemy begins a transaction with its first statement
    raw = await connection.get_raw_connection()
    assert raw.driver_connection is not None
    return raw.driver_connection
