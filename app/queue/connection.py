"""The way to Redis or Valkey, and the epoch that every key carries.

Guarantee: a script runs only on a server whose copy has been checked against PostgreSQL. Scripts are
loaded by `load` alone, after that check; a restart or a failover loses them, so a stale caller gets
`EpochLost` from its next call instead of an answer from a copy that may miss something.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import redis.asyncio as redis
from redis.exceptions import NoScriptError, RedisError

SCRIPTS = (
    "offer",
    "claim",
    "settle",
    "give_back",
    "index",
    "reserve",
    "confirm",
    "check",
    "enrol",
    "record",
    "uncount",
    "remember",
    "forget",
    "withdraw",
    "mend",
)
SOCKET_TIMEOUT_S = 5
LAYOUT = 2  # of what stands under the keys: raise it with each change, and a newer Volley builds an epoch of its own
Unavailable = RedisError
WAKE = "volley:wake"


def in_our_layout(run_id: str) -> bool:
    """Whether the keys of an epoch of that run stand as this Volley writes and reads them."""
    return run_id.rpartition(".")[2] == str(LAYOUT)


class EpochLost(Exception):
    """Redis no longer holds what PostgreSQL says it should: nothing may be decided by it until it is rebuilt."""


class Queue:
    """One process's connections. `epoch` is set by `attach`; each key is made for it."""

    def __init__(self, redis_url: str, *, connections: int = 16) -> None:
        # a caller over the number waits for its turn: refused, it would look like a server that is away
        pool = redis.BlockingConnectionPool.from_url(
            redis_url,
            max_connections=connections,
            timeout=SOCKET_TIMEOUT_S,
            socket_timeout=SOCKET_TIMEOUT_S,
            socket_connect_timeout=SOCKET_TIMEOUT_S,
            decode_responses=False,
            protocol=2,
        )
        self.client: redis.Redis = redis.Redis.from_pool(pool)
        self.epoch = 0
        self._sha: dict[str, str] = {}

    def attach(self, epoch: int) -> None:
        """From now on work in that epoch."""
        self.epoch = epoch

    def key(self, *parts: str) -> str:
        """A key of the current epoch."""
        return f"v{self.epoch}:" + ":".join(parts)

    async def run_id(self) -> str:
        """The server's incarnation, and the layout of the keys: an epoch belongs to both.

        It changes with each start, is another one's after a failover, and a copy in another layout answers nothing.
        """
        info: Any = await self.client.info("server")
        return f"{info['run_id']}.{LAYOUT}"

    async def load(self) -> None:
        """Load the scripts: the caller has checked that this server's copy is whole."""
        for name in SCRIPTS:
            source = files("app.queue").joinpath("lua", f"{name}.lua").read_text("utf-8")
            self._sha[name] = await self.client.script_load(source)

    def queue_script(self, pipe: Any, name: str, keys: Sequence[Any], args: Sequence[Any]) -> None:
        """Put a script call into a pipeline. `EpochLost` when the scripts were never loaded."""
        sha = self._sha.get(name)
        if sha is None:
            raise EpochLost("scripts are not loaded")
        pipe.evalsha(sha, len(keys), *keys, *args)

    async def execute(self, pipe: Any) -> list[Any]:
        """Run a pipeline; `EpochLost` if the server has lost the scripts."""
        try:
            return await pipe.execute()
        except NoScriptError:
            raise EpochLost("the server was restarted") from None

    async def script(self, name: str, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        """One script call."""
        pipe = self.client.pipeline(transaction=False)
        self.queue_script(pipe, name, keys, args)
        return (await self.execute(pipe))[0]

    async def close(self) -> None:
        await self.client.aclose()
