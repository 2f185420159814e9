"""Messages counted from the rows that they left, against the tallies: promise 1's other side.

Guarantee: nothing here reads a tally to count a row, nor a row to count a tally, so whatever is lost or written twice
on one side shows as a difference. Both are read in the caller's snapshot, in which they are equal to the message.
"""

from __future__ import annotations

import asyncpg
import msgspec

from app.domain.message import State

_ACCEPTED = "SELECT coalesce(sum(n), 0)::bigint FROM packs"
_FINAL = "SELECT state, count(*) FROM finals GROUP BY state"
# What waits for its first attempt is in parcels alone. Every other message has an attempt 1, whatever else it has.
_WAITING = "SELECT coalesce(sum(n), 0)::bigint FROM parcels WHERE attempt = 1"
_HANDED_OVER = f"""
SELECT count(*) FROM attempts a
WHERE attempt = 1 AND kind = {int(State.submitting)}
  AND NOT EXISTS (SELECT FROM finals f WHERE f.message_id = a.message_id)
"""  # noqa: S608  a constant
_MOVES = """
SELECT from_state, to_state, n FROM move_totals
UNION ALL SELECT coalesce(from_state, 0), to_state, sum(n) FROM tallies GROUP BY 1, 2
"""


class Census(msgspec.Struct, frozen=True):
    """Messages by the rows, and by the tallies; final ones by state."""

    accepted: int
    final: dict[State, int]
    open: int
    tallied_accepted: int
    tallied_final: dict[State, int]

    @property
    def differences(self) -> dict[str, int]:
        """What the two sides differ by, of each kind; over the final states summed without sign, so that one too many
        here doesn't make up for one too few there."""
        states = self.final.keys() | self.tallied_final.keys()
        return {
            "accepted": self.tallied_accepted - self.accepted,
            "final": sum(abs(self.tallied_final.get(s, 0) - self.final.get(s, 0)) for s in states),
            "open": self.tallied_accepted - sum(self.tallied_final.values()) - self.open,
        }


async def count(driver: asyncpg.Connection) -> Census:
    """Reads every row once: its caller spaces it out by how long it takes. In one REPEATABLE READ transaction."""
    tallied: dict[State, int] = {}
    accepted = 0
    for before, after, n in await driver.fetch(_MOVES):
        tallied[State(after)] = tallied.get(State(after), 0) + int(n)
        if before:
            tallied[State(before)] = tallied.get(State(before), 0) - int(n)
        else:
            accepted += int(n)
    return Census(
        await driver.fetchval(_ACCEPTED),
        {State(state): n for state, n in await driver.fetch(_FINAL)},
        await driver.fetchval(_WAITING) + await driver.fetchval(_HANDED_OVER),
        accepted,
        {state: n for state, n in tallied.items() if state.final},
    )
