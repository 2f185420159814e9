"""What the API says of itself, and whether it keeps to it."""

from __future__ import annotations

import asyncio
import os
import sys

import pytest

HOT = ["/v1/messages", "/v1/batches", "/v1/batches/upload"]


async def test_every_route_is_described_with_its_problems(api):
    document = (await api.get("/openapi.json")).json
    assert set(HOT) <= document["paths"].keys()
    schemas = document["components"]["schemas"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            responses = operation["responses"]
            assert "500" in responses, (method, path)
            for status, response in responses.items():
                if int(status) >= 400:
                    assert list(response["content"]) == ["application/problem+json"], (method, path, status)
            if path.startswith("/v1/") and method == "post" and operation.get("security"):
                assert "Idempotency-Key" in {one["name"] for one in operation["parameters"]}
    for reference in references(document):
        assert reference.removeprefix("#/components/schemas/") in schemas


def references(node):
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


@pytest.mark.parametrize("path", HOT)
async def test_the_hot_routes_describe_their_bodies(api, path):
    operation = (await api.get("/openapi.json")).json["paths"][path]["post"]
    assert operation["requestBody"]["required"]
    assert "202" in operation["responses"]
    assert operation["security"]


async def test_schemathesis_finds_nothing(api, tmp_path):
    """Requests made from the description, good and bad: no 5xx, no undescribed status, body or type."""
    process = await asyncio.create_subprocess_exec(
        os.path.join(os.path.dirname(sys.executable), "schemathesis"),
        "run",
        f"{api.url}/openapi.json",
        "--header",
        f"Authorization: Bearer {api.key}",
        "--include-path-regex",
        r"^/(v1/(messages|batches)|healthz|readyz)",
        "--max-examples",
        "6",
        "--seed",
        "7",
        "--phases",
        "examples,coverage,fuzzing",
        "--checks",
        "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
        "negative_data_rejection",
        "--generation-database",
        "none",
        "--no-color",
        cwd=tmp_path,  # it leaves a folder behind
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0, out.decode()[-6_000:]
