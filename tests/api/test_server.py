"""Health, metrics, problems of the framework's routes, limits, outages, and the served process."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import pytest

import app
from app.api import limits
from app.api.codes import TITLES
from app.api.health import schema_head
from app.settings import Settings
from app.store import keys, messages, migrate
from app.store.engine import Database
from tests.api.conftest import Api, Running

SOURCES = Path(app.__file__).parent  # as installed: the tests also run against the wheel


async def test_health_readiness_and_metrics_need_no_key(api):
    for path in ("/healthz", "/readyz", "/metrics"):
        async with api.session.get(api.url + path) as reply:
            assert reply.status == 200
    ready = (await api.get("/readyz")).json
    assert ready["checks"]["postgresql"] == "ok"
    assert ready["checks"]["redis"] == "ok"


async def test_an_unmigrated_database_is_not_ready(api):
    await api.fetch("UPDATE alembic_version SET version_num = '0000'")
    reply = await api.get("/readyz")
    await api.fetch("UPDATE alembic_version SET version_num = $1", schema_head())
    assert (reply.status, reply.code) == (503, "unavailable")
    assert "retry-after" in reply.headers
    assert (await api.get("/readyz")).status == 200


async def test_metrics_count_what_was_accepted_and_refused(api):
    async def value(pattern: str) -> float:
        found = re.search(pattern + r"\S* (\S+)", (await api.get("/metrics")).raw.decode())
        return float(found[1]) if found else 0.0

    accepted = r'volley_messages_accepted_total\{category="marketing",region="FR"\}'
    rejected = r'volley_messages_rejected_total\{code="invalid_number"\}'
    requests = (
        r'volley_http_request_duration_seconds_count\{method="POST",route="/v1/messages",status="2xx"\}'
    )
    before = [await value(accepted), await value(rejected), await value(requests)]
    await api.post("/v1/messages", api.message(category="marketing", to="+33612345678", body="STOP 36180"))
    await api.post("/v1/messages", api.message(to="+1"))
    assert await value(accepted) == before[0] + 1
    assert await value(rejected) == before[1] + 1
    assert await value(requests) == before[2] + 1
    text = (await api.get("/metrics")).raw.decode()
    assert "+336" not in text


PROBLEMS = [
    ("GET", "/nowhere", 404, "not_found"),
    ("GET", "/v1/messages/", 404, "not_found"),
    ("GET", "/v1/messages/abc", 404, "not_found"),
    ("GET", "/v1/messages/00000000-0000-7000-8000-000000000000", 404, "not_found"),
    ("GET", "/v1/messages/01a200e5-7c2b-75dc-800a-a5abf6469c01", 404, "not_found"),
    ("GET", "/v1/batches/%00", 404, "not_found"),
    ("PUT", "/v1/messages", 405, "method_not_allowed"),
    ("DELETE", "/v1/batches", 405, "method_not_allowed"),
    ("GET", "/v1/batches/upload/x", 404, "not_found"),
]


@pytest.mark.parametrize(("method", "path", "status", "code"), PROBLEMS)
async def test_every_error_is_a_problem(api, method, path, status, code):
    reply = await api.call(method, path)
    assert (reply.status, reply.code) == (status, code)


async def test_a_405_names_every_method_of_the_path(api):
    for path, wanted in (("/v1/messages", {"GET", "POST"}), ("/v1/batches/upload", {"POST"})):
        reply = await api.call("PUT", path)
        assert set(reply.headers["allow"].split(", ")) == wanted


async def test_a_large_body_is_refused_by_the_framework_routes_too(api):
    large = b'{"name":"' + b"x" * limits.MAX_MESSAGE_BYTES + b'"}'
    for path in ("/v1/templates", "/v1/batches/01a200e5-7c2b-75dc-800a-a5abf6469c01/pause"):
        for headers in ({}, {"idempotency_key": "k"}):
            reply = await api.raw(path, large, **headers)
            assert (reply.status, reply.code) == (413, "request_too_large"), path


def test_every_code_in_the_sources_is_in_the_catalogue():
    found = set()
    for source in SOURCES.glob("api/**/*.py"):
        text = source.read_text()
        found |= set(re.findall(r'Problem\(\s*\d{3},\s*"(\w+)"', text))
        found |= set(re.findall(r'(?:field_problem|FieldError|Refused)\(\s*f?"[^"]*",\s*"(\w+)"', text))
    assert len(found) > 30
    assert found - TITLES.keys() == set()


async def test_an_unexpected_error_is_a_500_problem_without_its_text(api, monkeypatch, caplog):
    async def broken(*_: object) -> None:
        raise RuntimeError("+12025559876 secret")

    monkeypatch.setattr(messages, "find", broken)
    reply = await api.get("/v1/messages/01a200e5-7c2b-75dc-800a-a5abf6469c01")
    assert (reply.status, reply.code) == (500, "internal_error")
    assert b"secret" not in reply.raw
    assert any(record.exc_info for record in caplog.records)


async def test_too_many_requests_or_bytes_at_once_are_told_to_come_again(api, monkeypatch):
    monkeypatch.setattr(limits, "MAX_REQUESTS_IN_FLIGHT", 0)
    full = await api.post("/v1/messages", api.message())
    assert (full.status, full.code, full.headers["retry-after"]) == (503, "overloaded", "1")
    assert (await api.get("/healthz")).status == 200
    monkeypatch.setattr(limits, "MAX_REQUESTS_IN_FLIGHT", 100)
    monkeypatch.setattr(limits, "MAX_BYTES_IN_FLIGHT", 10)
    heavy = await api.post("/v1/messages", api.message())
    assert (heavy.status, heavy.code) == (503, "overloaded")
    assert "retry-after" in heavy.headers
    monkeypatch.undo()
    assert (await api.post("/v1/messages", api.message())).status == 202
    metrics = (await api.get("/metrics")).raw.decode()
    assert "volley_http_bytes_in_flight 0.0" in metrics


async def test_postgresql_gone_is_a_503_and_back_again_without_a_restart(engines):
    """Nothing is accepted without PostgreSQL; Redis away changes nothing."""
    postgres, valkey = engines.postgres(), engines.valkey()
    await migrate.upgrade_async(postgres.url)
    running = Running(Settings(database_url=postgres.url, redis_url=valkey.url))
    port = await running.start()
    database = Database(postgres.url, pool=1)
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        api = Api(port, session, database)
        async with database.driver() as driver:
            api.key = await keys.bootstrap(driver, secret=None, now_s=time.time()) or ""
        await database.dispose()
        first = await api.post("/v1/messages", api.message())
        assert first.status == 202
        valkey.kill()
        assert (await api.post("/v1/messages", api.message())).status == 202
        assert (await api.get("/readyz")).json["checks"]["redis"] == "unreachable"
        postgres.kill()
        for reply in await asyncio.gather(
            api.post("/v1/messages", api.message()),
            api.post("/v1/batches", api.batch([{"to": "+12025550101"}], body="x")),
            api.get(first.json["url"]),
            api.get("/readyz"),
        ):
            assert (reply.status, reply.code) == (503, "database_unavailable")
            assert "retry-after" in reply.headers
        assert (await api.get("/healthz")).status == 200
        postgres.start()
        deadline = time.monotonic() + 60
        while (await api.post("/v1/messages", api.message())).status != 202:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        while (found := await api.get(first.json["url"])).status == 503:  # each stale connection costs one
            assert time.monotonic() < deadline
        assert found.status == 200  # committed before the crash
    await running.stop()


async def counted(url: str) -> float:
    """Accepted messages, as a fresh connection is told: whichever worker takes it."""
    async with aiohttp.ClientSession() as session, session.get(url + "/metrics") as reply:
        found = re.search(r"volley_messages_accepted_total\{\S* (\S+)", await reply.text())
        return float(found[1]) if found else 0.0


SERVE = """
import sys
from app.api.server import run
from app.settings import Settings
if __name__ == "__main__":
    database, redis, port, workers = sys.argv[1:]
    run(Settings(database_url=database, redis_url=redis, port=int(port), api_workers=int(workers)))
"""


@pytest.mark.parametrize("workers", [1, 2])
async def test_the_process_serves_and_stops_on_sigterm(api, postgres_url, redis_url, tmp_path, workers):
    script = tmp_path / "serve.py"
    script.write_text(SERVE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(SOURCES.parent)}
    process = subprocess.Popen(
        [sys.executable, str(script), postgres_url, redis_url, str(port), str(workers)],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        accepted, log = await _served(api, process, f"http://127.0.0.1:{port}", workers)
    finally:
        process.kill()
    assert process.returncode in (0, -signal.SIGTERM), log
    assert (await api.get(accepted["url"])).status == 200
    assert "Traceback" not in log
    assert "+1202" not in log


async def _served(api: Api, process: subprocess.Popen, url: str, workers: int) -> tuple[dict, str]:
    """A message by that process, and what it had logged at its end."""
    deadline = time.monotonic() + 60
    while True:
        try:
            async with api.session.get(url + "/readyz") as reply:
                if reply.status == 200:
                    break
        except aiohttp.ClientError:
            pass
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    headers = {"Authorization": f"Bearer {api.key}"}
    async with api.session.post(url + "/v1/messages", json=api.message(), headers=headers) as reply:
        assert reply.status == 202, reply.raw
        accepted = await reply.json()
    if workers > 1:  # any worker answers for all
        deadline = time.monotonic() + 60
        for _ in range(3):
            while await counted(url) != 1:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, log = await asyncio.to_thread(process.communicate, timeout=20)
    return accepted, log


async def _half_sent(api: Api, path: str, key: str | None, body: bytes = b"{") -> tuple:
    """A POST that announces 100 bytes and sends fewer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"
    if key is not None:
        head += f"Authorization: Bearer {key}\r\n"
    writer.write(head.encode() + b"\r\n" + body)
    await writer.drain()
    return reader, writer


UNKNOWN = (None, "vk_unknown")


@pytest.mark.parametrize("key", UNKNOWN)
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/templates", "/v1/nowhere"])
async def test_without_a_known_key_the_answer_comes_before_the_body(api, path, key):
    reader, writer = await _half_sent(api, path, key)
    line = await asyncio.wait_for(reader.readline(), 30)
    assert b" 401 " in line
    writer.close()


async def test_strangers_take_no_slot_from_those_who_have_a_key(api, monkeypatch):
    monkeypatch.setattr(limits, "MAX_REQUESTS_IN_FLIGHT", 4)
    monkeypatch.setattr(limits, "MAX_PUBLIC_IN_FLIGHT", 4)
    paths = ["/v1/templates", "/v1/messages", "/v1/callbacks/nobody/x", "/console/sign-in"]
    held = [await _half_sent(api, path, None) for path in paths * 6]
    try:
        assert (await api.post("/v1/messages", api.message())).status == 202
        assert (await api.post("/v1/templates", {"name": "x"})).status == 422
    finally:
        for _, writer in held:
            writer.close()


async def test_one_key_holds_at_most_half_of_the_slots(api, monkeypatch):
    monkeypatch.setattr(limits, "MAX_REQUESTS_IN_FLIGHT", 4)
    other = await api.tenant("of the other half")
    held = [await _half_sent(api, "/v1/templates", api.key) for _ in range(2)]
    try:
        while "requests_in_flight 2.0" not in (await api.get("/metrics")).raw.decode():
            await asyncio.sleep(0.01)
        full = await api.post("/v1/messages", api.message())
        assert (full.status, full.code, full.headers["retry-after"]) == (429, "rate_limited", "1")
        assert (await api.get("/v1/messages", key=other)).status == 200
    finally:
        for _, writer in held:
            writer.close()
    while "requests_in_flight 0.0" not in (await api.get("/metrics")).raw.decode():
        await asyncio.sleep(0.01)
    assert (await api.post("/v1/messages", api.message())).status == 202


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/templates", "/console/sign-in"])
async def test_a_body_that_stalls_is_a_408_and_the_connection_ends(api, monkeypatch, path):
    monkeypatch.setattr(limits, "BODY_IDLE_S", 0.05)
    reader, writer = await _half_sent(api, path, api.key)
    answer = await asyncio.wait_for(reader.read(), 30)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"request_timeout" in answer
    assert b"connection: close" in answer.lower()
    writer.close()


async def test_a_body_that_trickles_is_a_408(api, monkeypatch):
    monkeypatch.setattr(limits, "BODY_ALLOWANCE_S", 0.2)
    reader, writer = await _half_sent(api, "/v1/messages", api.key)

    async def trickle() -> None:
        while True:
            await asyncio.sleep(0.03)
            writer.write(b" ")

    trickling = asyncio.create_task(trickle())
    line = await asyncio.wait_for(reader.readline(), 30)
    trickling.cancel()
    assert b" 408 " in line
    writer.close()


async def test_a_body_that_keeps_its_pace_may_take_longer_than_any_allowance(api, monkeypatch):
    monkeypatch.setattr(limits, "BODY_ALLOWANCE_S", 0.2)
    monkeypatch.setattr(limits, "MIN_BODY_BYTES_PER_S", 100)

    async def rows():
        yield b"to\n"
        for n in range(20):
            await asyncio.sleep(0.04)
            yield b"+1202555%04d\n" % (100 + n)

    reply = await api.call(
        "POST",
        "/v1/batches/upload?category=transactional&body=Hi&sender=12025550100",
        data=rows(),
        headers={"content-type": "text/csv"},
    )
    assert reply.status == 202, reply.raw
