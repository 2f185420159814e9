"""A dispatcher process for tests that kill it: `child.py DATABASE_URL REDIS_URL RULES_FOLDER`."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import uvloop

from app.countries.packs import Packs
from app.settings import Settings
from dispatcher.main import Process


def main(database_url: str, redis_url: str, rules: str) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    packs = Packs.from_files({path.name: path.read_bytes() for path in Path(rules).glob("*.toml")})
    settings = Settings(database_url=database_url, redis_url=redis_url, dispatcher_port=0)

    async def run() -> int:
        return await Process(settings, database_url, redis_url, packs=packs).run()

    return uvloop.run(run())


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
