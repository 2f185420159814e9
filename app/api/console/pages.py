"""The console's files and the headers that every answer of it carries.

Guarantees: pages come from this package alone, and no script or style but from files of it can run in them (Content
Security Policy, level 3); whatever is put into HTML is escaped; no page may be framed or kept by a cache.
"""

from __future__ import annotations

import hashlib
import html
from importlib.resources import files
from string import Template

from starlette.responses import Response

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
MEDIA_TYPES = {
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "mark.svg": "image/svg+xml",
}


def _read(name: str) -> bytes:
    return files("app.api.console").joinpath("static", name).read_bytes()


ASSETS = {name: _read(name) for name in MEDIA_TYPES}
VERSION = hashlib.sha256(b"".join(ASSETS.values())).hexdigest()[:12]  # in the URLs: a new one is fetched anew
_SIGN_IN = Template(_read("sign_in.html").decode())
_CONSOLE = Template(_read("console.html").decode())


def asset(name: str) -> Response | None:
    """A file of the pages; None when there is none of that name."""
    if name not in ASSETS:
        return None
    headers = {**HEADERS, "cache-control": "public, max-age=31536000, immutable"}
    return Response(ASSETS[name], media_type=MEDIA_TYPES[name], headers=headers)


def sign_in(error: str = "", status: int = 200, retry_after_s: int | None = None) -> Response:
    """The sign-in page, with what went wrong."""
    headers = dict(HEADERS)
    if retry_after_s is not None:
        headers["retry-after"] = str(retry_after_s)
    shown = f'<p class="error" id="error" role="alert">{html.escape(error)}</p>' if error else ""
    invalid = ' aria-invalid="true" aria-describedby="error"' if error else ""
    page = _SIGN_IN.substitute(version=VERSION, error=shown, invalid=invalid)
    return Response(page, status, media_type="text/html; charset=utf-8", headers=headers)


def console(*, tenant: str, key_name: str, token: str, operator: bool) -> Response:
    """The live page."""
    page = _CONSOLE.substitute(
        version=VERSION,
        tenant=html.escape(tenant),
        key_name=html.escape(key_name),
        token=html.escape(token),
        operator="yes" if operator else "no",
    )
    return Response(page, media_type="text/html; charset=utf-8", headers=HEADERS)
