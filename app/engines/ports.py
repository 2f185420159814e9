"""TCP ports on the loopback interface: whether one is free, and one that is."""

from __future__ import annotations

import errno
import socket
import time

LOOPBACK = "127.0.0.1"
POLL_S = 0.05


def why_taken(port: int, host: str = LOOPBACK, patience_s: float = 0.0) -> str | None:
    """None when a server could listen there within so many seconds, otherwise the reason in words."""
    deadline = time.monotonic() + patience_s
    while (reason := _why_taken(port, host)) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return reason


def _why_taken(port: int, host: str) -> str | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return "another program listens there"
            return error.strerror or "it can't be opened"
    return None


def why_not_here(host: str) -> str | None:
    """None when servers could listen on `host`, otherwise the reason in words."""
    return _why_taken(0, host)


def free(preferred: int = 0) -> int:
    """`preferred` where it is free, otherwise a port that the system picks."""
    if preferred and why_taken(preferred) is None:
        return preferred
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def answers(port: int, host: str = LOOPBACK, timeout_s: float = 1.0) -> bool:
    """Whether a server accepts connections there."""
    try:
        with socket.create_connection((host, port), timeout_s):
            return True
    except OSError:
        return False
