"""Secrets in what people are shown: a gateway's URL and its settings, with the passwords masked.

Guarantees: what `mask_url` and `mask_settings` give holds no password, token or key; sending the masked
form back keeps the secret that it stands for, but a URL's only while it goes to the same place, so that
nobody learns a password by pointing the URL at a server of their own.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

MASK = "***"
_SECRET = re.compile(r"pass|secret|token|api_?key|authori[sz]ation|credential|signature|^key$", re.IGNORECASE)


class SecretLost(ValueError):
    """A masked secret was sent back, and there is nothing that it could stand for."""


def mask_url(url: str) -> str:
    """The URL with its password, and each option whose name speaks of a secret, as ***."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=_netloc(parts, MASK), query=_masked_query(parts.query)))


def unmask_url(url: str, known: str | None) -> str:
    """`url` with each *** replaced by the secret of `known`. Raises SecretLost if there is none."""
    parts = urlsplit(url)
    if parts.password != MASK and MASK not in (value for _, value in parse_qsl(parts.query)):
        return url
    old = urlsplit(known) if known is not None else None
    if old is None or _place(parts) != _place(old):
        raise SecretLost("the URL goes to another place: give its password again")
    if parts.password == MASK:
        if old.password is None:
            raise SecretLost("there is no password that *** could stand for")
        parts = parts._replace(netloc=_netloc(parts, old.password))
    secrets = dict(parse_qsl(old.query, keep_blank_values=True))
    pairs = []
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if value == MASK and name not in secrets:
            raise SecretLost(f"there is no {name} that *** could stand for")
        pairs.append((name, secrets[name] if value == MASK else value))
    return urlunsplit(parts._replace(query=urlencode(pairs)))


def mask_settings(value: Any, secret: bool = False) -> Any:
    """Tables of settings with every secret string as ***; the name that it stands under tells a secret."""
    if isinstance(value, dict):
        return {
            name: mask_settings(inner, secret or bool(_SECRET.search(name))) for name, inner in value.items()
        }
    if isinstance(value, list):
        return [mask_settings(inner, secret) for inner in value]
    return MASK if secret and isinstance(value, str) else value


def unmask_settings(value: Any, known: Any) -> Any:
    """`value` with each *** replaced by what stands at the same place of `known`. Raises SecretLost."""
    if isinstance(value, dict):
        old = known if isinstance(known, dict) else {}
        return {name: unmask_settings(inner, old.get(name)) for name, inner in value.items()}
    if isinstance(value, list):
        items = known if isinstance(known, list) and len(known) == len(value) else [None] * len(value)
        return [unmask_settings(inner, old) for inner, old in zip(value, items, strict=True)]
    if value != MASK:
        return value
    if not isinstance(known, str):
        raise SecretLost("the settings hold *** where no secret was before")
    return known


def same_place(one: str, other: str) -> bool:
    """Whether two URLs go to the same scheme, host, port and user: what a secret of the one is meant for."""
    return _place(urlsplit(one)) == _place(urlsplit(other))


def _place(parts: Any) -> tuple[object, ...]:
    return parts.scheme, parts.hostname, parts.port, parts.username


def _netloc(parts: Any, password: str) -> str:
    if parts.password is None:
        return parts.netloc
    _, _, host = parts.netloc.rpartition("@")
    shown = password if password == MASK or "%" in password else quote(password, safe="!$&'()*+,;=-._~")
    return f"{parts.netloc.partition(':')[0]}:{shown}@{host}"


def _masked_query(query: str) -> str:
    if not any(_SECRET.search(name) for name, _ in parse_qsl(query, keep_blank_values=True)):
        return query
    pairs = parse_qsl(query, keep_blank_values=True)
    return urlencode([(name, MASK if _SECRET.search(name) else value) for name, value in pairs], safe="*")
