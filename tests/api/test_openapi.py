"""What the API says of itself, and whether it keeps to it."""

from __future__ import annotations

import asyncio
import os
import re
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


CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,negative_data_rejection,missing_required_header,unsupported_method,"
    "allow_header_conformance,ignored_auth"
)
# They would end the key that asks: it finds its own id in the list of keys.
ENDS_KEYS = r"/v1/keys/.key_id./(revoke|rotate)"


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(
            [
                *("--include-path-regex", r"^/v1/(messages|batches)$", "--max-examples", "4"),
                *("--phases", "coverage,fuzzing"),
            ],
            id="messages and batches",
        ),
        pytest.param(
            ["--exclude-path-regex", ENDS_KEYS, "--max-examples", "1", "--phases", "fuzzing"],
            id="each operation once",
        ),
        pytest.param(
            ["--exclude-path-regex", ENDS_KEYS, "--max-examples", "10", "--phases", "coverage,fuzzing"],
            id="each operation, thoroughly",
            marks=pytest.mark.soak,
        ),
        pytest.param(
            ["--include-path-regex", ENDS_KEYS, "--max-examples", "10", "--phases", "coverage"],
            id="the end of keys",
            marks=pytest.mark.soak,
        ),
    ],
)
async def test_schemathesis_finds_nothing(api, tmp_path, options):
    """Requests made from the description, good and bad: no 5xx, no undescribed status, body or type; what is against
    the description is refused."""
    async with api.database.driver() as driver:
        key = await api.scoped(api.tenant_id, ("admin",), driver=driver)
    process = await asyncio.create_subprocess_exec(
        os.path.join(os.path.dirname(sys.executable), "schemathesis"),
        "run",
        f"{api.url}/openapi.json",
        "--header",
        f"Authorization: Bearer {key}",
        "--continue-on-failure",
        "--workers",
        "1",  # with more, Python's compiler is used by two threads at once, which it does not bear
        "--seed",
        "7",
        "--checks",
        CHECKS,
        "--generation-database",
        "none",
        "--no-color",
        *options,
        cwd=tmp_path,  # it leaves a folder behind
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out = (await process.communicate())[0].decode()
    assert process.returncode == 0, out[-6_000:]
    selected, tested = (int(n) for n in re.findall(r"(?:Selected|Tested): +([0-9]+)", out))
    assert tested == selected > 0, out[-6_000:]
    if "--exclude-path-regex" in options:
        paths = (await api.get("/openapi.json")).json["paths"]
        assert tested == sum(map(len, paths.values())) - len([p for p in paths if re.search(ENDS_KEYS, p)])
