"""Who gets in, for how long, and what the pages allow a browser."""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING

import pytest

from app.api.console import sessions
from app.api.console.sessions import ATTEMPTS, ATTEMPTS_OF_ALL, MAX_ADDRESSES, WINDOW_S, Attempts
from app.store import keys

if TYPE_CHECKING:
    from tests.console.conftest import Browser, Console


async def reader(console: Console, *scopes: str, name: str = "a key") -> str:
    tenant_id = await console.tenant(uuid.uuid4().hex)
    return await console.key(tenant_id, *(scopes or ("read",)), name=name)


async def test_a_stranger_gets_the_sign_in_and_no_data(browser: Browser) -> None:
    page = await browser.get("/")
    assert page.status == 200
    assert 'action="/console/sign-in"' in page.body
    live = await browser.get("/console/live")
    assert (live.status, live.json["code"]) == (401, "unauthenticated")


async def test_a_key_signs_in_and_signs_out(console: Console, browser: Browser) -> None:
    answer = await browser.sign_in(await reader(console))
    assert (answer.status, answer.headers["location"]) == (303, "/")
    assert (await browser.get("/console/live")).status == 200
    assert 'id="batches"' in (await browser.get("/")).body
    await browser.post("/console/sign-out")
    assert browser.cookie == ""
    assert (await browser.get("/console/live")).status == 401


async def test_the_cookie_is_out_of_reach_and_holds_no_secret(console: Console, browser: Browser) -> None:
    key = await reader(console)
    set_cookie = (await browser.sign_in(key)).headers["set-cookie"]
    for attribute in ("HttpOnly", "SameSite=strict", "Path=/", f"Max-Age={12 * 3600}"):
        assert attribute in set_cookie
    assert "Secure" not in set_cookie
    assert key[3:] not in set_cookie
    behind_tls = await browser.sign_in(key, x_forwarded_proto="https")
    assert "Secure" in behind_tls.headers["set-cookie"]


@pytest.mark.parametrize(
    ("key", "status", "said"),
    [
        ("", 401, "not valid"),
        ("vk_nonsense", 401, "not valid"),
        ("vk_" + "x" * 3000, 401, "not valid"),
        ("ключ", 401, "not valid"),
        ("a\r\nb", 401, "not valid"),
    ],
)
async def test_what_is_no_key_is_refused(browser: Browser, key: str, status: int, said: str) -> None:
    answer = await browser.sign_in(key)
    assert (answer.status, said in answer.body) == (status, True)
    assert "set-cookie" not in answer.headers
    assert key not in answer.body or not key


async def test_a_key_that_may_not_read_is_refused(console: Console, browser: Browser) -> None:
    answer = await browser.sign_in(await reader(console, "send"))
    assert (answer.status, browser.cookie) == (403, "")


async def test_a_form_that_is_too_large_is_refused(browser: Browser) -> None:
    assert (await browser.sign_in("k" * 5000)).status == 413


async def test_a_form_from_another_site_is_refused(console: Console, browser: Browser) -> None:
    key = await reader(console)
    for headers in ({"origin": "https://evil.example"}, {"sec_fetch_site": "cross-site"}, {"origin": "null"}):
        answer = await browser.sign_in(key, **headers)
        assert (answer.status, browser.cookie) == (403, "")
    assert (await browser.sign_in(key, origin=console.url, sec_fetch_site="same-origin")).status == 303


async def test_guessing_is_slowed_down(console: Console, browser: Browser) -> None:
    for _ in range(ATTEMPTS):
        assert (await browser.sign_in("vk_guess")).status == 401
    answer = await browser.sign_in(await reader(console))
    assert (answer.status, answer.headers["retry-after"], browser.cookie) == (429, "60", "")


async def test_a_revoked_key_ends_its_sessions(console: Console, browser: Browser) -> None:
    tenant_id = await console.tenant(uuid.uuid4().hex)
    await browser.sign_in(await console.key(tenant_id, "read"))
    assert (await browser.get("/console/live")).status == 200
    async with console.database.driver() as driver:
        (key,) = await keys.listed(driver, tenant_id)
        await keys.revoke(driver, tenant_id, key.id.bytes)
    assert (await browser.get("/console/live")).status == 401


async def test_a_session_ends_by_itself(console: Console, browser: Browser) -> None:
    await browser.sign_in(await reader(console))
    now_s = console.app.state.context.clock()
    for age_s, alive in ((0, True), (sessions.LIFETIME_S - 5, True), (sessions.LIFETIME_S + 1, False)):
        found = await sessions.session_of(browser.cookie, console.database, now_s + age_s)
        assert (found is not None) == alive


async def test_a_forged_cookie_is_worth_nothing(
    console: Console, browser: Browser, other_browser: Browser
) -> None:
    await browser.sign_in(await reader(console))
    await other_browser.sign_in(await reader(console))
    mine, theirs = browser.cookie, other_browser.cookie
    flipped = mine[:-2] + ("A" if mine[-2] != "A" else "B") + mine[-1]
    longer_lived = mine[:22] + "____" + mine[26:]
    for forged in (flipped, longer_lived, theirs[:20] + mine[20:], mine[:-8], "!" * 76, "é", "A" * 5000):
        assert await sessions.session_of(forged, console.database, 0.0) is None
    assert await sessions.session_of(mine, console.database, 0.0) is not None


async def test_no_page_runs_what_is_not_ours(console: Console, browser: Browser) -> None:
    strange = '"><script>alert(1)</script>'
    await browser.sign_in(await reader(console, name=strange))
    signed_in = await browser.get("/")
    assert strange not in signed_in.body
    assert "&lt;script&gt;" in signed_in.body
    for page in (signed_in, await browser.get("/console/live")):
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert page.headers["cache-control"] == "no-store"
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|style=|https?://", signed_in.body)


async def test_every_file_of_the_pages_is_there(console: Console, browser: Browser) -> None:
    pages = (await browser.get("/")).body
    await browser.sign_in(await reader(console))
    pages += (await browser.get("/")).body
    paths = set(re.findall(r'(?:src|href)="(/console/[^"]+)"', pages))
    assert len(paths) == 3
    for path in paths:
        found = await browser.get(path)
        assert found.status == 200
        assert "immutable" in found.headers["cache-control"]
    for path in ("/console/static/console.html", "/console/static/..%2Froutes.py"):
        assert (await browser.get(path)).status == 404


def test_attempts_are_forgotten_after_a_minute_and_counted_by_address() -> None:
    now = 0.0
    attempts = Attempts(lambda: now)
    for _ in range(ATTEMPTS):
        assert attempts.allowed("a")
        attempts.refused("a")
    assert (attempts.allowed("a"), attempts.allowed("b")) == (False, True)
    now = WINDOW_S + 1
    assert attempts.allowed("a")


def test_attempts_of_all_are_bounded_and_so_is_the_memory() -> None:
    now = 0.0
    attempts = Attempts(lambda: now)
    for i in range(ATTEMPTS_OF_ALL):
        assert attempts.allowed(str(i))
        attempts.refused(str(i))
    assert not attempts.allowed("another")
    for i in range(2 * MAX_ADDRESSES):
        attempts.refused(f"more {i}")
    assert len(attempts._refused) == MAX_ADDRESSES
