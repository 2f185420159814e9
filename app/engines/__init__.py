"""Embedded engines: a real PostgreSQL and a real Valkey, from wheels, as child processes.

Guarantees:

* fsync, synchronous_commit and the append-only file are on: what the engines
  acknowledged survives `kill -9` of everything;
* no engine runs as root, no user is created, and no permission of a folder that
  Volley did not make is changed;
* no engine outlives the process that started it, and what a killed one left behind
  (sockets, pid files, half-made clusters) never blocks the next start;
* both listen on 127.0.0.1 only and ask for a password.

`home` finds and locks the data, `postgres` and `valkey` describe the two servers, `process`
starts and ends processes, `supervisor` keeps a set of them running.
"""


class EngineError(Exception):
    """An engine can't be started; the text is one line for the person at the terminal."""
