"""Packs and parcels: the content of messages as it is stored, and the queue's unit of work.

A pack is written once with its messages and never changed but for erasure. A parcel is what is
still to be done with some of its messages. Both are msgpack arrays; a new field goes last, with a default.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from app.domain.ids import PACK_LIMIT

PACK_SIZE = 100  # messages in a full pack
assert PACK_SIZE <= PACK_LIMIT


class Entry(msgspec.Struct, array_like=True, gc=False, omit_defaults=True):
    """One message of a pack.

    `recipient` is the tenant's keyed hash of the number (8 bytes, signed big-endian in PostgreSQL).
    `body` overrides the pack's; `extra` holds what only reading needs (metadata, callback_url).
    """

    index: int
    to: str
    recipient: bytes
    segments: int
    variables: dict[str, str] | None = None
    body: str | None = None
    reference: str | None = None
    extra: dict | None = None
    zone: str | None = None  # the IANA zone that the sender knows the recipient to be in


class Pack(msgspec.Struct, array_like=True, gc=False):
    """Messages that share tenant, batch, region, category and sender. Times are Unix seconds."""

    tenant_id: int
    batch_id: bytes | None
    region: str
    country: str
    category: int
    sender: str
    body: str
    template: str | None  # "name@version"
    expires_at: float | None
    retry_unknown: bool  # a transactional text whose request allowed a second try after `unknown`
    entries: list[Entry]
    test: bool = False  # posted with a test key: the sandbox only
    shift_tables: bool = False  # national shift tables are welcome, where a gateway has them
    campaign: str | None = None  # by which a campaign's own cap counts
    gateway: str = ""  # the one gateway that it may go by: a probe's
    max_segments: int = 0  # as its gateway cuts it; 0: no limit of its own
    metadata: dict | None = None  # its batch's; a message's own stands in its entry


class Rest(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """What is left of a text of which a carrier took a part: the `mask` of its segments, and how it was cut.

    `form` is `app.domain.text.form`; negative: as the gateway of that id cuts it. The rest goes only by a gateway
    that cuts the text in that way, or it would not fit what the phone has.
    """

    mask: int
    form: int


class Parcel(msgspec.Struct, array_like=True, gc=False):
    """The still open messages of a pack, as Redis holds them. `pack.entries` has only those.

    `attempt` counts from 1; `masks` says what of a message is to be sent (absent: all of it).
    """

    id: bytes
    pack_id: bytes
    generation: int
    attempt: int
    priority: int
    due_at: float
    pack: Pack
    masks: dict[int, Rest] = {}

    @property
    def lane(self) -> str:
        return lane_of(self.pack.region, self.pack.category)

    @property
    def segments(self) -> int:
        return sum(entry.segments for entry in self.pack.entries)


def lane_of(region: str, category: int) -> str:
    """The lane's name: region and category."""
    return f"{region}:{category}"


def subqueue_of(parcel: Parcel) -> str:
    """What shares a place in the lane's ring: priority, tenant, batch and sender."""
    pack = parcel.pack
    batch = pack.batch_id.hex() if pack.batch_id else "-"
    forced = f"/{pack.gateway}" if pack.gateway else ""  # one that is down must not hold up the others
    return f"{parcel.priority}/{pack.tenant_id}/{batch}/{pack.sender}{forced}"


def bitmap(indexes: Iterable[int]) -> bytes:
    """A set of indexes as bits, lowest first."""
    bits = 0
    for index in indexes:
        bits |= 1 << index
    return bits.to_bytes((bits.bit_length() + 7) // 8 or 1, "little")


def indexes_of(members: bytes) -> list[int]:
    """The inverse of `bitmap`, ascending."""
    bits = int.from_bytes(members, "little")
    return [index for index in range(bits.bit_length()) if bits >> index & 1]


def narrowed(pack: Pack, indexes: Sequence[int]) -> Pack:
    """The same pack with only those entries."""
    wanted = set(indexes)
    return msgspec.structs.replace(pack, entries=[e for e in pack.entries if e.index in wanted])


encode = msgspec.msgpack.Encoder().encode
decode_pack = msgspec.msgpack.Decoder(Pack).decode
decode_parcel = msgspec.msgpack.Decoder(Parcel).decode
