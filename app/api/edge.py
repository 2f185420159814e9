"""The server's side of a connection, before there is a request: uvicorn's protocol, bounded.

Guarantees, for each process: at most MAX_CONNECTIONS connections (fewer where the system allows fewer files); one
that does not bring a complete header block within HEADERS_S, or MAX_HEADER_BYTES of it, is closed, the first one of
the connection and every later one; one that brings nothing after an answer is closed by uvicorn's keep-alive.
A body's deadline is in `admission.Paced`.
"""

from __future__ import annotations

import asyncio
import resource

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.api import limits

RESERVED_FILES = 128  # for the engines, the log, files under way


def most_connections() -> int:
    """How many connections a process may hold."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return limits.MAX_CONNECTIONS
    return max(1, min(limits.MAX_CONNECTIONS, files - RESERVED_FILES))


class Edge(HttpToolsProtocol):
    """One connection."""

    _late: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > most_connections():
            transport.abort()
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._has_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._late is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._late is not None and self._head_bytes > limits.MAX_HEADER_BYTES:
            self._close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._late is None:
            self._await_head()

    def on_headers_complete(self) -> None:
        self._has_head()
        super().on_headers_complete()

    def _await_head(self) -> None:
        self._head_bytes = 0
        self._late = self.loop.call_later(limits.HEADERS_S, self._deadline)

    def _has_head(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _deadline(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._await_head()  # a request before it is being answered: reading may be paused
            return
        self._close()

    def _close(self) -> None:
        self._has_head()
        if not self.transport.is_closing():
            self.transport.abort()
