"""The API's description: FastAPI's own for the ordinary routes, and the hot routes' beside it.

Guarantee: what is declared here is what `wire.py` decodes and encodes: the schemas are made from it.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app.api import limits, wire
from app.api.problems import MEDIA_TYPE

_PROBLEM = {"content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemView"}}}}
_TEXTS = {
    400: "The request can't be read.",
    401: "A valid API key is needed.",
    403: "The key's scopes don't allow this.",
    404: "There is no such thing.",
    409: "It conflicts with the present state, or with a request under way.",
    413: "The body is over the size limit.",
    415: "The content type is not read here.",
    422: "Something in the request is not valid: `errors` says what.",
    429: "Too many requests; see Retry-After.",
    500: "An unexpected error.",
    503: "Not now; see Retry-After.",
}
SCOPE = "x-scope"  # in a route's `openapi_extra`: what its key needs
_ALWAYS = (400, 401, 403, 422, 500, 503)


def schema(name: str) -> dict[str, str]:
    """A reference to a component."""
    return {"$ref": f"#/components/schemas/{name}"}


def problem(status: int) -> dict[str, Any]:
    """A problem as an answer."""
    return {"description": _TEXTS[status], **_PROBLEM}


def answers(status: int, name: str, *problems: int) -> dict[int | str, dict[str, Any]]:
    """A route's `responses`: a JSON answer of that schema, and problems."""
    found: dict[int | str, dict[str, Any]] = {
        status: {"description": "Done.", "content": {"application/json": {"schema": schema(name)}}}
    }
    for one in sorted({*problems, *_ALWAYS}):
        found[one] = problem(one)
    return found


def optional_body(name: str) -> dict[str, Any]:
    """A route's `openapi_extra`: a JSON body that may be left out."""
    return {"requestBody": {"required": False, "content": {"application/json": {"schema": schema(name)}}}}


_KEY_HEADER = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same key with the same request replays the first answer, for 24 hours and more.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
}


def _hot(
    summary: str, description: str, body: dict[str, Any], answer: str, extra: list[Any]
) -> dict[str, Any]:
    return {
        "tags": ["messages" if answer == "Posted" else "batches"],
        "summary": summary,
        "description": description,
        "operationId": summary.lower().replace(" ", "_"),
        "security": [{"key": ["send"]}],
        "parameters": [_KEY_HEADER, *extra],
        "requestBody": {"required": True, "content": body},
        "responses": {str(status): one for status, one in answers(202, answer, 409, 413, 415).items()},
    }


def _paths() -> dict[str, dict[str, Any]]:
    json = "application/json"
    return {
        "/v1/messages": {
            "post": _hot(
                "Post a message",
                "Accepts one message. A 202 is given once it is committed.\n\nDefaults: an OTP expires "
                f"{limits.OTP_VALIDITY_S // 60} minutes after it is due, the other categories never; priority "
                f"{limits.DEFAULT_PRIORITY}; the tenant's default sender. At most {limits.MAX_SEGMENTS} segments.",
                {json: {"schema": schema("PostMessage")}},
                "Posted",
                [],
            )
        },
        "/v1/batches": {
            "post": _hot(
                "Post a batch",
                f"Accepts one body or template for up to {limits.MAX_RECIPIENTS:,} recipients, in one "
                "transaction. Recipients that can't be accepted are listed and hinder no other; if none can, "
                "it is a 422 and there is no batch.",
                {json: {"schema": schema("PostBatch")}},
                "PostedBatch",
                [],
            )
        },
        "/v1/batches/upload": {
            "post": _hot(
                "Upload a batch",
                "Streams a file of recipients into a batch; nothing is handed over before the whole file is in. "
                "NDJSON has a recipient a line; CSV (UTF-8; comma, semicolon or tab) has a header with `to` or "
                "`phone`, `client_reference` if wanted, and a column for each variable. Rows that can't be "
                f"accepted are listed, the first {limits.MAX_SHOWN_REJECTIONS} here and "
                f"{limits.MAX_KEPT_REJECTIONS:,} at `rejections_url`.\n\nWith an Idempotency-Key, a broken upload "
                "is resumed by sending the same file again, or replaced with `replace=true`.",
                {
                    "application/x-ndjson": {
                        "schema": {"type": "string", "description": "A recipient a line."}
                    },
                    "text/csv": {
                        "schema": {"type": "string", "description": "A header and a recipient a record."}
                    },
                },
                "PostedBatch",
                _query(),
            )
        },
    }


def _query() -> list[dict[str, Any]]:
    """The parameters of an upload: a batch's terms, but metadata."""
    terms = wire.schemas()["BatchTerms"]
    found = [
        {
            "name": name,
            "in": "query",
            "required": name in terms["required"],
            "schema": _without_null(one),
        }
        for name, one in terms["properties"].items()
        if name != "metadata"
    ]
    replace = {"type": "boolean", "default": False}
    return [*found, {"name": "replace", "in": "query", "required": False, "schema": replace}]


def _without_null(found: dict[str, Any]) -> dict[str, Any]:
    """A query parameter is there or isn't; it can't be null."""
    if "anyOf" not in found:
        return found
    kinds = [one for one in found["anyOf"] if one != {"type": "null"}]
    return kinds[0] if len(kinds) == 1 else {"anyOf": kinds}


def install(app: FastAPI) -> None:
    """Make `app.openapi()` describe everything."""

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _described(app)
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]


def _described(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    components = document.setdefault("components", {})
    components.setdefault("schemas", {}).update(wire.schemas())
    components.setdefault("securitySchemes", {}).setdefault(
        "key", {"type": "http", "scheme": "bearer", "description": "An API key: `vk_…`"}
    )
    for path, operations in _paths().items():
        document["paths"].setdefault(path, {}).update(operations)
    _as_problems(document)
    return document


def _as_problems(document: dict[str, Any]) -> None:
    """Every operation's errors are problems, also where FastAPI would declare its own."""
    for path in document["paths"].values():
        for name, operation in path.items():
            if name not in ("get", "post", "put", "patch", "delete") or "responses" not in operation:
                continue
            found = operation["responses"]
            if scope := operation.pop(SCOPE, None):  # as the role of its requirement (OpenAPI 3.1, 4.8.30)
                operation["security"] = [{"key": [scope]}]
            secured = bool(operation.get("security"))
            wanted = {"500", "503", *(("401", "403") if secured else ())}
            if "422" in found or operation.get("parameters") or operation.get("requestBody"):
                wanted |= {"400", "422"}
            if operation.get("requestBody"):
                wanted |= {"413", "415"} if secured else {"413"}
            if name == "post" and secured:
                wanted.add("409")
                _declare_key(operation)
            for status in wanted:
                found[status] = problem(int(status))
    document["components"]["schemas"].pop("HTTPValidationError", None)
    document["components"]["schemas"].pop("ValidationError", None)


def _declare_key(operation: dict[str, Any]) -> None:
    parameters = operation.setdefault("parameters", [])
    if not any(one.get("name") == "Idempotency-Key" for one in parameters):
        parameters.append(_KEY_HEADER)
