"""The engines that a command works on: those that the settings name, or those of a running `volley up`."""

from __future__ import annotations

import msgspec

from app.cli.terminal import Failure
from app.engines import ports, postgres, valkey
from app.engines.home import read_secrets
from app.settings import Settings


def located(settings: Settings, *, redis: bool = True) -> Settings:
    """The settings with both engines' URLs filled in. Raises Failure when nothing runs there."""
    missing = [
        name
        for name, url in (
            ("VOLLEY_DATABASE_URL", settings.database_url),
            ("VOLLEY_REDIS_URL", settings.redis_url if redis else "not wanted"),
        )
        if url is None
    ]
    if not missing:
        return settings
    found = read_secrets(settings.data_dir)
    if found is None:
        raise Failure(
            f"{' and '.join(missing)}: not set, and no `volley up` has run on {settings.data_dir} "
            "(VOLLEY_DATA_DIR)"
        )
    database_url = settings.database_url or postgres.url(found.postgres_password, found.postgres_port)
    redis_url = settings.redis_url or valkey.url(found.valkey_password, found.valkey_port)
    for name, port in (
        ("VOLLEY_DATABASE_URL", found.postgres_port),
        ("VOLLEY_REDIS_URL", found.valkey_port),
    ):
        if name in missing and not ports.answers(port):
            raise Failure(f"{name}: not set, and `volley up` is not running on {settings.data_dir}")
    return msgspec.structs.replace(settings, database_url=database_url, redis_url=redis_url)
