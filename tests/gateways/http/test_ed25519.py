"""Ed25519: the vectors of RFC 8032 section 7.1, and what must not pass."""

from __future__ import annotations

import pytest

from gateways.ed25519 import L, P, PublicKey

VECTORS = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
        "387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
        "4a7c15e9716ed28dc027beceea1ec40a",
    ),
]


@pytest.mark.parametrize(("key", "message", "signature"), VECTORS)
def test_vectors(key, message, signature):
    public = PublicKey(bytes.fromhex(key))
    good = bytes.fromhex(signature)
    assert public.verifies(good, bytes.fromhex(message))
    assert not public.verifies(good, bytes.fromhex(message) + b"x")
    for at in (0, 31, 32, 63):
        assert not public.verifies(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :], bytes.fromhex(message))


def test_a_signature_has_one_form():
    key, message, signature = VECTORS[1]
    public, good = PublicKey(bytes.fromhex(key)), bytes.fromhex(signature)
    bigger = int.from_bytes(good[32:], "little") + L
    assert not public.verifies(good[:32] + bigger.to_bytes(32, "little"), bytes.fromhex(message))
    for length in (0, 32, 63, 65):
        assert not public.verifies((good * 2)[:length], bytes.fromhex(message))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        bytes(31),
        bytes(33),
        (2).to_bytes(32, "little"),  # no x for this y
        (P + 3).to_bytes(32, "little"),  # y past the field
        (1 | 1 << 255).to_bytes(32, "little"),  # x = 0 with a sign
        (1).to_bytes(32, "little"),  # the neutral point
        bytes(32),  # of order 4
        (P - 1).to_bytes(32, "little"),  # of order 2
    ],
)
def test_what_is_no_key(raw):
    with pytest.raises(ValueError, match=r"^public key"):
        PublicKey(raw)
