"""Connections that never become a request."""

from __future__ import annotations

import asyncio
import resource
from typing import Any

import pytest

from app.api import limits
from app.api.edge import RESERVED_FILES, most_connections

CLOSED_S = 30.0  # only a failing test waits so long


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What comes until the connection ends."""
    try:
        return await asyncio.wait_for(reader.read(), CLOSED_S)
    except ConnectionResetError:
        return b""


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HEADERS_S", 0.3)


@pytest.mark.parametrize(
    "head", [b"", b"GET /healthz HTTP/1.1\r\nhost: x\r\n", b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-a: "]
)
async def test_half_a_header_block_is_not_waited_for(api: Any, soon: None, head: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(head)
    assert await ended(reader) == b""
    writer.close()


async def test_a_trickle_does_not_prolong_it(api: Any, soon: None) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(b"GET /healthz HTTP/1.1\r\n")
    end = asyncio.create_task(ended(reader))
    while not end.done():
        writer.write(b"x-a: b\r\n")
        await asyncio.sleep(0.02)
    assert await end == b""
    writer.close()


async def test_the_second_request_of_a_connection_has_the_same_deadline(api: Any, soon: None) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\nGET /healthz HTTP/1.1\r\nhost: ")
    assert (await ended(reader)).count(b"HTTP/1.1 200") == 1
    writer.close()


async def test_a_header_block_without_an_end_is_cut(api: Any) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nx-a: " + b"a" * (limits.MAX_HEADER_BYTES + 1))
    assert await ended(reader) == b""
    writer.close()


async def test_a_slow_but_whole_request_is_answered_and_the_connection_kept(api: Any) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    for part in (b"GET /healthz HT", b"TP/1.1\r\nhost: x", b"\r\n\r\n") * 2:
        writer.write(part)
        await asyncio.sleep(0.01)
    for _ in range(2):
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), CLOSED_S)
        assert head.startswith(b"HTTP/1.1 200")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
    writer.close()


async def test_connections_are_bounded(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_CONNECTIONS", 20)
    made = [await asyncio.open_connection("127.0.0.1", api.port) for _ in range(30)]
    refused = [asyncio.create_task(ended(reader)) for reader, _ in made]
    await asyncio.wait(refused, return_when=asyncio.FIRST_COMPLETED, timeout=CLOSED_S)
    while sum(one.done() for one in refused) < 10:
        await asyncio.sleep(0.01)
    for _, writer in made:
        writer.close()
    await asyncio.gather(*refused)
    assert (await api.get("/healthz")).status == 200


def test_fewer_where_the_system_allows_fewer_files(monkeypatch: pytest.MonkeyPatch) -> None:
    for files, most in ((1_024, 1_024 - RESERVED_FILES), (10**6, limits.MAX_CONNECTIONS), (64, 1)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, files=files: (files, files))
        assert most_connections() == most
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert most_connections() == limits.MAX_CONNECTIONS
