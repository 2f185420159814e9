"""Every way of writing a text: what we send is put together again by smpplib's, smpp34's and our own reading."""

from __future__ import annotations

import random

import pytest
import smpp34
from hypothesis import given
from hypothesis import strategies as st
from smpplib import smpp

from app.domain import text as texts
from app.domain.national import LANGUAGES
from gateways.base import Accepted, Rejected, Retry, Submission, Unknown
from gateways.smpp import config, pdu
from gateways.smpp.config import Options, codings
from gateways.smpp.encoder import ALL, Encoder
from gateways.smpp.reassembly import Reassembler, read_text

HINDI = "नमस्ते, आपका ऑर्डर 1234 भेज दिया गया है। धन्यवाद! "
TURKISH = "İyi günler, siparişiniz kargoya verildi: ğüşıöçĞÜŞİÖÇ "
SPANISH = "Mañana a las 5 verá usted la edición: áéíóúñü¿¡ "
PORTUGUESE = "Olá! A sua encomenda não está pronta: ãõâêçÁÀ "

WAYS = [
    {},
    {"concat": "udh16"},
    {"concat": "sar"},
    {"concat": "payload"},
    {"alphabet": "gsm7-packed"},
    {"alphabet": "gsm7-packed", "concat": "udh16"},
    {"alphabet": "gsm7-packed", "concat": "sar"},
    {"alphabet": "gsm7-packed", "concat": "payload"},
    {"alphabet": "latin-1"},
    {"alphabet": "ascii", "concat": "udh16"},
    {"encodings": "latin-1,ucs2"},
    {"encodings": "octet,ucs2", "concat": "udh16"},
    {"encodings": "gsm7,latin-1,ucs2", "concat": "payload"},
    {"encodings": "ucs2"},
    {"message_class": 0},
    {"shift_tables": "always"},
    {"shift_tables": "always", "concat": "udh16"},
    {"shift_tables": "always", "alphabet": "gsm7-packed"},
]

any_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00\x1b"), max_size=300)
some_text = (
    any_text
    | st.text(st.sampled_from("abc @£€[]{}ΔΩñüéÄ\r\n"), max_size=500)
    | st.text(st.sampled_from(HINDI + "é"), max_size=400)
    | st.text(st.sampled_from(TURKISH), max_size=400)
    | st.text(st.sampled_from(SPANISH + PORTUGUESE), max_size=400)
    | st.text(st.sampled_from("ça va déjà ÿ\xa0"), max_size=300)
    | st.text(st.sampled_from("😀👍🏽é中ạ"), max_size=200)
)


def submitted(text: str, options: Options, reference: int = 0x1234) -> Submission:
    cut = texts.segment(text, 60, codings(options)[0])
    return Submission(
        None, "id", "+12025550101", "12025550199", text, cut.encoding, cut.parts, (1 << len(cut.parts)) - 1,
        reference, 1e12, header=cut.header,
    )  # fmt: skip


def bodies_of(text: str, options: Options) -> list[bytes]:
    bodies = Encoder(options).bodies(submitted(text, options))
    assert not isinstance(bodies, Rejected), bodies
    return [body for _, body in bodies]


def put_together(bodies: list[bytes], alphabet: str) -> str:
    reassembler = Reassembler(alphabet, 60)
    read = [pdu.read_message(body, 0, len(body)) for body in bodies]
    done = [one for message in read for one in reassembler.add(message, None, 0.0)]
    assert len(done) == 1
    return done[0].inbound.text


@pytest.mark.parametrize("way", WAYS, ids=str)
@given(text=some_text, dice=st.randoms(use_true_random=False))
def test_what_is_sent_is_read_as_it_was_written(way, text, dice):
    options = Options(**way)
    bodies = bodies_of(text, options)
    dice.shuffle(bodies)
    read = put_together(bodies, options.alphabet)
    if options.alphabet == "gsm7-packed" and options.concat != "payload":
        # a CR at the very end of a part can't be told from a filler (3GPP TS 23.038, 6.1.2.3.1)
        assert read.replace("\r", "").replace("@", "") == text.replace("\r", "").replace("@", "")
    elif options.alphabet == "gsm7-packed":
        assert read.rstrip("\r@") == text.rstrip("\r@")
    else:
        assert read == text


@pytest.mark.parametrize("way", WAYS, ids=str)
@given(text=some_text)
def test_segments_are_counted_as_they_are_sent_and_fit_the_air(way, text):
    options = Options(**way)
    coding = codings(options)[0]
    cut = texts.segment(text, 255, coding)
    assert texts.count(text, coding) == len(cut.parts)
    several = len(cut.parts) > 1
    for part in cut.parts:
        header = (coding.header_octets if several else bool(cut.header)) + len(cut.header)
        bits = len(part) * (7 if cut.encoding == "gsm7" else 8)
        fill = -header * 8 % 7 if cut.encoding == "gsm7" else 0
        assert header * 8 + fill + bits <= 140 * 8
        if cut.encoding == "gsm7":
            assert not part.endswith(b"\x1b"), "an escape pair is never split"


@pytest.mark.parametrize("way", WAYS, ids=str)
@given(text=some_text)
def test_smpplib_and_smpp34_read_the_same(way, text):
    options = Options(**way)
    for body in bodies_of(text, options):
        unit = pdu.frame(pdu.SUBMIT_SM, 7, body)
        ours = pdu.read_message(body, 0, len(body))
        theirs = smpp.make_pdu("submit_sm", sequence=7)
        theirs.parse(unit)
        payload = theirs.short_message or getattr(theirs, "message_payload", None) or b""
        assert (payload, theirs.esm_class, theirs.data_coding) == (
            ours.payload,
            ours.esm_class,
            ours.data_coding,
        )
        other = smpp34.decode(unit)
        assert other.short_message in (ours.payload, b"")
        assert (other.esm_class, other.data_coding) == (ours.esm_class, ours.data_coding)


@pytest.mark.parametrize(
    ("text", "way", "encoding", "header", "sizes"),
    [
        ("ş" * 70, {}, "ucs2", "", [140]),  # it saves no segment
        ("ş" * 71, {}, "gsm7", "240101", [142]),  # of equals the one that a phone without it still can read
        ("ş" * 80, {}, "gsm7", "250101", [80]),
        ("ş" * 155, {}, "gsm7", "250101", [155]),
        ("ş" * 156, {}, "gsm7", "250101", [149, 7]),
        ("ş" * 155 + "{", {}, "gsm7", "250101", [149, 8]),
        ("abcş" * 30, {}, "gsm7", "240101", [150]),
        ("ş" * 156, {"concat": "udh16"}, "gsm7", "250101", [148, 8]),
        ("á" * 71, {"shift_languages": "spanish"}, "gsm7", "240102", [142]),
        ("aá" * 50, {"shift_languages": "spanish"}, "gsm7", "240102", [150]),
        ("ş" * 71, {"shift_languages": "spanish,hindi"}, "ucs2", "", [134, 8]),
        ("क" * 150 + "A" * 2, {}, "gsm7", "240106250106", [146, 8]),
        ("क" * 150, {}, "gsm7", "250106", [150]),
        ("中" * 71, {}, "ucs2", "", [134, 8]),
        ("a" * 161, {}, "gsm7", "", [153, 8]),
    ],
)
def test_shift_tables_are_used_where_they_save_a_segment(text, way, encoding, header, sizes):
    cut = texts.segment(text, coding=codings(Options(shift_tables="always", **way))[0])
    assert (cut.encoding, cut.header.hex(), [len(part) for part in cut.parts]) == (encoding, header, sizes)
    plain = texts.segment(text)
    assert len(cut.parts) <= len(plain.parts)
    assert not cut.header or len(cut.parts) < len(plain.parts)


def test_the_header_names_the_tables_beside_the_concatenation():
    (one,) = bodies_of("ş" * 80, Options(shift_tables="always"))
    message = pdu.read_message(one, 0, len(one))
    assert (message.payload[:4].hex(), message.esm_class, message.data_coding) == ("03250101", 0x40, 0)
    two = bodies_of("क" * 150 + "AB", Options(shift_tables="always"))
    headers = [pdu.read_message(body, 0, len(body)).payload[:12].hex() for body in two]
    assert headers == ["0b0003340201240106250106", "0b0003340202240106250106"]
    (wide, _) = bodies_of("ş" * 156, Options(shift_tables="always", concat="udh16"))
    assert pdu.read_message(wide, 0, len(wide)).payload[:10].hex() == "09080412340201250101"


def test_shift_tables_are_for_who_asks_when_the_gateway_says_so():
    for setting, general, asked in (("never", 0, 0), ("asked", 0, 13), ("always", 13, 13)):
        both = codings(Options(shift_tables=setting))
        assert [len(coding.shifts) for coding in both] == [general, asked]
    assert codings(Options())[0] is texts.PLAIN


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_language_is_read_by_its_own_tables(language):
    number = LANGUAGES[language]
    dice = random.Random(number)
    table = {**texts.national.LOCKING.get(number, {}), **texts.national.SINGLE[number]}
    letters = [chr(point) for point in table.values()]
    text = "".join(dice.choice(letters) for _ in range(300))
    options = Options(shift_tables="always", shift_languages=language)
    assert put_together(bodies_of(text, options), "gsm7") == text


@pytest.mark.parametrize(
    ("encoding", "way", "coding"),
    [
        ("gsm7", {}, 0),
        ("gsm7", {"gsm7_coding": 1}, 1),
        ("gsm7", {"message_class": 0}, 0x10),
        ("gsm7", {"message_class": 2}, 0x12),
        ("ucs2", {}, 8),
        ("ucs2", {"message_class": 0}, 0x18),
        ("ucs2", {"ucs2_coding": 0xE0}, 0xE0),
        ("latin-1", {"encodings": "latin-1"}, 3),
        ("latin-1", {"encodings": "latin-1", "latin1_coding": 0}, 0),
        ("octet", {"encodings": "octet"}, 4),
        ("octet", {"encodings": "octet", "octet_coding": 2}, 2),
        ("octet", {"encodings": "octet", "message_class": 0}, 0x14),
    ],
)
def test_data_codings(encoding, way, coding):
    text = "ạ" if encoding == "ucs2" else "hi"
    (body,) = bodies_of(text, Options(**way))
    assert pdu.read_message(body, 0, len(body)).data_coding == coding


def test_what_the_carriers_own_alphabet_lacks_goes_in_another_one():
    for alphabet, text in (("latin-1", "5 € Δ"), ("ascii", "Grüße")):
        (body,) = bodies_of(text, Options(alphabet=alphabet))
        message = pdu.read_message(body, 0, len(body))
        assert (message.data_coding, message.payload) == (8, text.encode("utf-16-be"))
    (body,) = bodies_of("Grüße @", Options(alphabet="latin-1"))
    assert pdu.read_message(body, 0, len(body)).payload == "Grüße @".encode("latin-1")


def test_a_text_that_no_encoding_carries_is_an_error():
    coding = codings(Options(encodings="latin-1"))[0]
    with pytest.raises(texts.TextError) as error:
        texts.segment("ạ", coding=coding)
    assert error.value.code == "not_encodable"
    with pytest.raises(texts.TextError) as error:
        texts.segment("\ud83d", coding=coding)
    assert error.value.code == "lone_surrogate"


@pytest.mark.parametrize(
    ("way", "word"),
    [
        ({"encodings": "gsm8"}, "encodings"),
        ({"encodings": "gsm7,gsm7"}, "encodings"),
        ({"encodings": ""}, "encodings"),
        ({"shift_languages": "klingon"}, "klingon"),
        ({"shift_tables": "always", "alphabet": "latin-1"}, "alphabet"),
        ({"shift_tables": "asked", "encodings": "ucs2"}, "gsm7 among"),
        ({"shift_tables": "asked", "concat": "sar"}, "concat"),
        ({"message_class": 0, "encodings": "latin-1"}, "message_class"),
        ({"message_class": 0, "ucs2_coding": 0xE0}, "message_class"),
        ({"message_class": 4}, "message_class"),
        ({"concat": "udh32"}, "concat"),
    ],
)
def test_settings_that_make_no_sense_are_named(way, word):
    with pytest.raises(ValueError, match=word) as error:
        config.parse("one", "smpp://u:secretpw@h", way)
    assert "secretpw" not in str(error.value)


def test_packed_septets():
    # 3GPP TS 23.038, 6.1.2.1: eight septets in seven octets
    assert texts.pack(b"hellohello").hex() == "e8329bfd4697d9ec37"
    assert texts.unpack(bytes.fromhex("e8329bfd4697d9ec37")) == b"hellohello"
    # seven septets leave seven bits: CR, not an @
    assert texts.unpack(texts.pack(b"1234567")) == b"1234567"
    assert texts.pack(b"1234567")[-1] >> 1 == 0x0D
    # behind a header the text begins at a septet's boundary
    assert texts.pack(b"a", 6).hex() == f"{0x61 << 1:02x}"


@given(st.binary(max_size=160).map(lambda octets: bytes(o & 0x7F for o in octets)), st.integers(0, 14))
def test_packing_loses_nothing_but_a_last_filler(septets, header):
    assert texts.unpack(texts.pack(septets, header), header).rstrip(b"\r\x00") == septets.rstrip(b"\r\x00")


def test_a_payload_is_one_pdu_with_all_segments():
    options = Options(concat="payload")
    submission = submitted("x" * 400, options)
    ((index, body),) = Encoder(options).bodies(submission)
    message = pdu.read_message(body, 0, len(body))
    assert index == ALL
    assert (message.payload, message.tlvs[pdu.TLV_MESSAGE_PAYLOAD]) == (b"x" * 400, b"x" * 400)
    submission.mask = 0b010
    assert Encoder(options).bodies(submission) == Rejected("partial_unsupported")
    (short,) = bodies_of("short", options)
    assert pdu.read_message(short, 0, len(short)).tlvs == {}


async def test_the_answer_to_a_payload_is_that_of_all_segments(opened, wire, recorder, submission):
    gateway = await opened(wire.port, concat="payload", window=4)
    peer = await wire.peer()
    await peer.bound()
    await recorder.until(lambda: gateway.take(9) == 4)
    gateway.submit([submission("one", text="x" * 400), submission("two", text="y" * 200)])
    first, body = await peer.expect(pdu.SUBMIT_SM)
    assert pdu.read_message(body, 0, len(body)).payload == b"x" * 400
    second, _ = await peer.expect(pdu.SUBMIT_SM)
    peer.write(
        pdu.submit_sm_resp(first, b"abc"), pdu.submit_sm_resp(second, b"", status=0x14)
    )  # ESME_RMSGQFUL
    await recorder.until(lambda: len(recorder.ended) == 5)
    by_tag = {}
    for one, index, outcome in recorder.ended:
        by_tag.setdefault(one.tag, []).append((index, type(outcome)))
    assert by_tag == {"one": [(0, Accepted), (1, Accepted), (2, Accepted)], "two": [(0, Retry), (1, Retry)]}
    await recorder.until(lambda: gateway.take(9) >= 1)
    gateway.give_back(4)
    gateway.submit([submission("three", text="z" * 400)])
    await peer.expect(pdu.SUBMIT_SM)
    peer.abort()
    await recorder.until(lambda: len(recorder.ended) == 8)
    last = [(index, type(outcome)) for one, index, outcome in recorder.ended if one.tag == "three"]
    assert last == [(0, Unknown), (1, Unknown), (2, Unknown)]


def test_a_header_that_makes_no_sense_hinders_no_reading():
    for payload in (
        b"\x03\x24\x01",
        b"\x02\x24\x01a",
        b"\x05\x24\x02\x01\x01\x01ab",
        b"\xff\x24\x01\x01",
        b"",
    ):
        message = pdu.read_message(
            (body := pdu.submit_sm_body(pdu.address(1, 1, b"1"), pdu.address(1, 1, b"2"), 0, payload, 0x40)),
            0,
            len(body),
        )
        octets, encoding, _ = read_text(message, "gsm7")
        assert isinstance(texts.decode(octets, encoding), str)
    assert texts.decode(b"a", "gsm7/99/77") == "a"  # a language that nobody defined
