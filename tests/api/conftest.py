"""The API on a real socket, on real engines, with a client that speaks like anyone's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
import uvicorn

from app.api.edge import Edge
from app.api.server import create_app
from app.settings import Settings
from app.store import keys
from app.store.engine import Database
from app.store.idempotency import slot_of

SENDER = "12025550199"


class Reply:
    """An answer, read whole."""

    def __init__(self, status: int, headers: Any, raw: bytes) -> None:
        self.status = status
        self.headers = headers
        self.raw = raw

    @property
    def json(self) -> Any:
        import msgspec  # noqa: PLC0415

        return msgspec.json.decode(self.raw)

    @property
    def code(self) -> str:
        """The problem's code; its form is checked on the way."""
        assert self.headers["content-type"] == "application/problem+json", (self.status, self.raw)
        problem = self.json
        assert problem["status"] == self.status
        assert problem["type"].endswith(problem["code"])
        assert problem["title"]
        return problem["code"]


class Api:
    """A running API and keys for it."""

    def __init__(self, port: int, session: aiohttp.ClientSession, database: Database) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.session = session
        self.database = database
        self.redis_url = ""
        self.key = ""
        self.tenant_id = 0

    async def call(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        data: Any = None,
        key: str | None = None,
        idempotency_key: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Reply:
        sent = {"Authorization": f"Bearer {key or self.key}", **(headers or {})}
        if idempotency_key is not None:
            sent["Idempotency-Key"] = idempotency_key
        async with self.session.request(method, self.url + path, json=json, data=data, headers=sent) as r:
            return Reply(r.status, r.headers, await r.read())

    async def get(self, path: str, **options: Any) -> Reply:
        return await self.call("GET", path, **options)

    async def post(self, path: str, json: Any = None, **options: Any) -> Reply:
        return await self.call("POST", path, json=json, **options)

    async def raw(self, path: str, body: bytes, **headers: str) -> Reply:
        """A POST with exactly that body."""
        given = {"content-type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
        return await self.call("POST", path, data=body, headers=given)

    async def tenant(self, name: str, scopes: tuple[str, ...] = keys.SCOPES, *, test: bool = False) -> str:
        """A key of a new tenant."""
        async with self.database.driver() as driver:
            tenant_id = await keys.create_tenant(driver, name, {"default_sender": SENDER})
            return await self.scoped(tenant_id, scopes, test=test, driver=driver)

    async def scoped(
        self, tenant_id: int, scopes: tuple[str, ...], *, driver: Any, test: bool = False
    ) -> str:
        _, secret = await keys.create(
            driver,
            tenant_id=tenant_id,
            name="test",
            scopes=scopes,
            test=test,
            created_by="test",
            now_s=time.time(),
        )
        return secret

    async def fetch(self, query: str, *arguments: Any) -> list[Any]:
        async with self.database.driver() as driver:
            return await driver.fetch(query, *arguments)

    async def count(self, table: str) -> int:
        return (await self.fetch(f"SELECT count(*) FROM {table}"))[0][0]

    async def kept_as(self, key: str) -> str:
        """An idempotency key of the tenant, as it is stored."""
        [(hash_key,)] = await self.fetch("SELECT hash_key FROM tenants WHERE id = $1", self.tenant_id)
        return slot_of(self.tenant_id, bytes(hash_key), "", key).key

    def message(self, **fields: Any) -> dict[str, Any]:
        """A valid message, with changes; None leaves a field out."""
        made = {
            "to": "+12025550101",
            "category": "transactional",
            "body": "Hello",
            "sender": SENDER,
            **fields,
        }
        return {name: value for name, value in made.items() if value is not None}

    def batch(self, recipients: list[Any], **fields: Any) -> dict[str, Any]:
        made = {"category": "transactional", "body": "Hello {name}", "sender": SENDER, **fields}
        return {name: value for name, value in made.items() if value is not None} | {"recipients": recipients}


class Running:
    """uvicorn in this loop, on a free port."""

    def __init__(self, settings: Settings) -> None:
        config = uvicorn.Config(
            create_app(settings),
            host="127.0.0.1",
            port=0,
            http=Edge,
            lifespan="on",
            access_log=False,
            log_config=None,
            proxy_headers=False,
            timeout_graceful_shutdown=2,
        )
        self.server = uvicorn.Server(config)
        self.server.install_signal_handlers = lambda: None  # type: ignore[attr-defined,method-assign]
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> int:
        self._task = asyncio.create_task(self.server._serve())
        while not self.server.started:
            assert not self._task.done(), self._task
            await asyncio.sleep(0.01)
        return self.server.servers[0].sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self.server.should_exit = True
        assert self._task is not None
        await self._task


@pytest_asyncio.fixture(scope="module")
async def api(postgres_url: str, redis_url: str) -> AsyncIterator[Api]:
    """The API with an admin's key of the tenant 'default'."""
    running = Running(Settings(database_url=postgres_url, redis_url=redis_url))
    port = await running.start()
    database = Database(postgres_url, pool=3, name="test")
    # shorter than the server keeps an idle connection: the one must not write while the other closes
    connector = aiohttp.TCPConnector(keepalive_timeout=2)
    async with aiohttp.ClientSession(auto_decompress=False, connector=connector) as session:
        made = Api(port, session, database)
        made.redis_url = redis_url
        async with database.driver() as driver:
            made.key = await keys.bootstrap(driver, secret=None, now_s=time.time()) or ""
            made.tenant_id = await driver.fetchval("SELECT min(id) FROM tenants")
        yield made
    await running.stop()
    await database.dispose()


@pytest.fixture
def settings(postgres_url: str, redis_url: str) -> Settings:
    return Settings(database_url=postgres_url, redis_url=redis_url)
