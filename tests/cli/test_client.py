"""The commands' HTTP client, against a server on the wire that misbehaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from app.cli import client
from app.cli.client import Api
from app.cli.terminal import Failure
from app.settings import Settings

KEY = "vk_test_0123456789"


class Server:
    """Answers with what a test laid ready, in order, and notes what it was asked."""

    def __init__(self) -> None:
        self.answers: list[web.StreamResponse | None] = []  # None: cut the connection
        self.asked: list[tuple[str, dict[str, str], bytes]] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.path_qs, dict(request.headers), await request.read()))
        answer = self.answers.pop(0)
        if answer is None:
            assert request.transport is not None
            request.transport.abort()
            await asyncio.sleep(0)
            return web.Response()
        return answer


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    monkeypatch.setattr(client, "FIRST_PAUSE_S", 0.01)
    server = Server()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = site.name
    yield server
    await runner.cleanup()


async def test_a_post_that_breaks_is_repeated_with_the_same_key_and_the_whole_body(server: Server):
    async def rows() -> AsyncIterator[bytes]:
        yield b"to\n"
        yield b"+12025550101\n"

    server.answers = [None, web.json_response({}, status=503), web.json_response({"id": "b"}, status=202)]
    async with Api(server.url, KEY) as api:
        answer = await api.upload("/v1/batches/upload", {"body": "Xin chào {name}"}, "text/csv", rows)
    assert answer == {"id": "b"}
    assert len(server.asked) == 3
    assert {headers["Idempotency-Key"] for _, headers, _ in server.asked} != {""}
    assert len({headers["Idempotency-Key"] for _, headers, _ in server.asked}) == 1
    assert {body for _, _, body in server.asked} == {b"to\n+12025550101\n"}
    assert server.asked[0][0] == "/v1/batches/upload?body=Xin+ch%C3%A0o+%7Bname%7D"
    assert server.asked[0][1]["Authorization"] == f"Bearer {KEY}"


async def test_two_posts_have_different_keys(server: Server):
    server.answers = [web.json_response({}), web.json_response({})]
    async with Api(server.url, KEY) as api:
        await api.post("/v1/messages", json={})
        await api.post("/v1/messages", json={})
    assert len({headers["Idempotency-Key"] for _, headers, _ in server.asked}) == 2


@pytest.mark.parametrize(
    ("status", "body", "line"),
    [
        (401, {"code": "unauthorized", "title": "Unauthorized"}, "unauthorized: Unauthorized"),
        (
            422,
            {
                "code": "invalid",
                "title": "x",
                "detail": "the body is wrong",
                "errors": [{"pointer": "/to", "code": "invalid_number", "detail": "too short"}],
            },
            "invalid: the body is wrong; /to too short",
        ),
        (500, "<html>", "the API answered 500"),
        (503, {"code": "unavailable", "detail": "no database"}, "unavailable: no database"),
    ],
)
async def test_what_the_api_refuses_is_one_line(server: Server, status: int, body: object, line: str):
    server.answers = [web.json_response(body, status=status) for _ in range(client.ATTEMPTS)]
    async with Api(server.url, KEY) as api:
        with pytest.raises(Failure) as caught:
            await api.get("/v1/messages/x")
    assert str(caught.value) == line


async def test_nothing_there(server: Server):
    async with Api("http://127.0.0.1:1", KEY) as api:
        with pytest.raises(Failure, match=r"nothing answers at http://127\.0\.0\.1:1: does `volley up` run"):
            await api.get("/v1/messages/x")


async def test_the_key_comes_from_the_settings_or_the_data_directory(tmp_path: Path, server: Server):
    with pytest.raises(Failure, match=r"VOLLEY_API_KEY: not set, and there is no .*/api-key"):
        Api.from_settings(Settings(data_dir=tmp_path))
    (tmp_path / "api-key").write_text(f"{KEY}\n")
    server.answers = [web.json_response({}), web.json_response({})]
    for settings in (
        Settings(data_dir=tmp_path, url=server.url),
        Settings(data_dir=tmp_path / "no", url=server.url, api_key=KEY),
    ):
        async with Api.from_settings(settings) as api:
            await api.get("/")
    assert [headers["Authorization"] for _, headers, _ in server.asked] == [f"Bearer {KEY}"] * 2
