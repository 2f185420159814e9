"""The console on a real socket and real engines, with browsers that keep cookies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest_asyncio
import uvicorn

from app.api.server import create_app
from app.settings import Settings
from app.store import keys
from app.store.engine import Database


class Console:
    """A running API, its database, and ways to make tenants, keys and batches."""

    def __init__(self, port: int, app: Any, database: Database) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.app = app
        self.database = database

    async def tenant(self, name: str) -> int:
        async with self.database.driver() as driver:
            return await keys.create_tenant(driver, name, {})

    async def key(self, tenant_id: int, *scopes: str, name: str = "a key") -> str:
        async with self.database.driver() as driver:
            _, secret = await keys.create(
                driver,
                tenant_id=tenant_id,
                name=name,
                scopes=scopes,
                test=False,
                created_by="test",
                now_s=time.time(),
            )
        return secret

    async def batch(self, key: str, name: str = "a batch", count: int = 3, **terms: Any) -> str:
        """Post a batch; gives its id."""
        body = {
            "name": name,
            "category": "transactional",
            "sender": "12025550199",
            "body": "the secret text",
            "recipients": [{"to": f"+1415867{i:04d}"} for i in range(count)],
            **terms,
        }
        headers = {"Authorization": f"Bearer {key}"}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self.url}/v1/batches", json=body, headers=headers) as answer,
        ):
            assert answer.status == 202, await answer.text()
            return str((await answer.json())["id"])


class Answer:
    """An answer, read whole."""

    def __init__(self, status: int, headers: Any, body: str) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class Browser:
    """Keeps cookies, follows no redirect by itself."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._session = aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))

    async def get(self, path: str, **headers: str) -> Answer:
        async with self._session.get(self.console.url + path, headers=headers) as answer:
            return Answer(answer.status, answer.headers, await answer.text())

    async def post(self, path: str, data: Any = None, **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self._session.post(
            self.console.url + path, data=data, headers=named, allow_redirects=False
        ) as answer:
            return Answer(answer.status, answer.headers, await answer.text())

    async def sign_in(self, key: str, **headers: str) -> Answer:
        return await self.post("/console/sign-in", {"key": key}, **headers)

    async def token(self) -> str:
        """The page's token for changes."""
        page = (await self.get("/")).body
        return page.partition('name="volley-token" content="')[2].partition('"')[0]

    @property
    def cookie(self) -> str:
        return next((one.value for one in self._session.cookie_jar if one.key == "volley_session"), "")

    def set_cookie(self, value: str) -> None:
        self._session.cookie_jar.update_cookies({"volley_session": value})

    async def close(self) -> None:
        await self._session.close()


@pytest_asyncio.fixture(scope="module")
async def console(postgres_url: str, redis_url: str) -> AsyncIterator[Console]:
    app = create_app(Settings(database_url=postgres_url, redis_url=redis_url))
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, lifespan="on", http="httptools", access_log=False, log_config=None)
    )
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    database = Database(postgres_url, pool=2, name="test")
    port = server.servers[0].sockets[0].getsockname()[1]
    yield Console(port, app, database)
    server.should_exit = True
    await serving
    await database.dispose()


@pytest_asyncio.fixture
async def browser(console: Console) -> AsyncIterator[Browser]:
    console.app.state.console = None  # each test begins with no attempts counted and nothing read
    browser = Browser(console)
    yield browser
    await browser.close()


@pytest_asyncio.fixture
async def other_browser(console: Console) -> AsyncIterator[Browser]:
    browser = Browser(console)
    yield browser
    await browser.close()
