"""What belongs to one tenant is nobody else's: not found, never forbidden, and never changed."""

from __future__ import annotations

import uuid
from typing import Any


async def test_a_tenants_things_are_not_there_for_another(api: Any) -> None:
    stranger = await api.tenant(uuid.uuid4().hex)
    message = (await api.post("/v1/messages", api.message())).json["url"]
    batch = (await api.post("/v1/batches", api.batch([{"to": "+12025550101"}], body="x"))).json["url"]
    template = f"t-{uuid.uuid4().hex[:8]}"
    assert (await api.post("/v1/templates", {"name": template, "body": "Hi"})).status == 201
    webhook = (await api.post("/v1/webhooks", {"url": "https://example.com/hook"})).json["id"]
    key = (await api.post("/v1/keys", {"name": "k", "scopes": ["send"], "reason": "r"})).json["id"]
    sender = {"address": f"S{uuid.uuid4().hex[:8]}", "reason": "r"}
    assert (await api.post("/v1/senders", sender)).status == 201
    nothing = uuid.uuid4()
    asks = [
        ("GET", message), ("POST", f"{message}/cancel"),
        ("GET", batch), ("GET", f"{batch}/rejections"),
        *(("POST", f"{batch}/{action}") for action in ("pause", "resume", "cancel")),
        ("GET", f"/v1/templates/{template}"), ("GET", f"/v1/templates/{template}/versions"),
        ("GET", f"/v1/templates/{template}/versions/1"), ("DELETE", f"/v1/templates/{template}"),
        ("GET", f"/v1/webhooks/{webhook}"), ("DELETE", f"/v1/webhooks/{webhook}"),
        ("POST", f"/v1/webhooks/{webhook}/rotate"), ("GET", f"/v1/webhooks/{webhook}/deliveries"),
        ("POST", f"/v1/webhooks/{webhook}/deliveries/{nothing}/replay"),
        ("GET", f"/v1/keys/{key}"), ("DELETE", f"/v1/keys/{key}"),
        ("POST", f"/v1/keys/{key}/rotate"), ("POST", f"/v1/keys/{key}/revoke"),
        ("GET", f"/v1/senders/{sender['address']}"),
    ]  # fmt: skip
    for method, path in asks:
        reply = await api.call(method, path, key=stranger)
        assert (reply.status, reply.code) == (404, "not_found"), (method, path, reply.raw)
    for path in (message, batch, f"/v1/templates/{template}", f"/v1/webhooks/{webhook}", f"/v1/keys/{key}"):
        assert (await api.get(path)).status == 200
    assert (await api.get(message)).json["state"] == "queued"


async def test_another_tenants_cursor_leads_nowhere(api: Any) -> None:
    for _ in range(2):
        await api.post("/v1/batches", api.batch([{"to": "+12025550101"}], body="x"))
    cursor = (await api.get("/v1/batches?limit=1")).json["next"]
    assert (await api.get(f"/v1/batches?limit=1&cursor={cursor}")).status == 200
    stranger = await api.tenant(uuid.uuid4().hex)
    reply = await api.get(f"/v1/batches?limit=1&cursor={cursor}", key=stranger)
    assert reply.status == 400, reply.raw
