"""The settings of an SMPP gateway: what its URL and its settings may say.

Guarantees: an option that does not exist or makes no sense is one ValueError that names it;
no error and no `repr` holds the password.

    smpp://system_id:password@host:2775?bind=transceiver&binds=2&window=100&rate=0
    smpps://…                           TLS; the host name is verified

Characters of the password that a URL reserves are percent-encoded.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args
from urllib.parse import parse_qsl, unquote, urlsplit
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta

from app.domain.national import LANGUAGES
from app.domain.text import PLAIN, Coding, Encoding
from gateways.numbers import has_numbers
from gateways.smpp import pdu
from gateways.smpp.receipts import Addresses, IdForm
from gateways.smpp.session import Timers
from gateways.smpp.status import refusals

VERSIONS = {"3.3": 0x33, "3.4": 0x34, "5.0": 0x50}  # interface_version, 5.2.4
DEFAULT_PORTS = {"smpp": 2775, "smpps": 3550}

_Octet = Annotated[int, Meta(ge=0, le=255)]
_Seconds = Annotated[float, Meta(gt=0, le=86_400)]
_SecondsOrNone = Annotated[float, Meta(ge=0, le=7 * 86_400)]


MAX_TLV_OCTETS = 255
_METADATA = re.compile(r"\{metadata\.([^{}]{1,64})\}")
# Written here, by the text: another one of them would say something else about the same text.
_RESERVED_TLVS = frozenset(
    {
        pdu.TLV_MESSAGE_PAYLOAD,
        pdu.TLV_SAR_MSG_REF_NUM,
        pdu.TLV_SAR_TOTAL_SEGMENTS,
        pdu.TLV_SAR_SEGMENT_SEQNUM,
    }
)


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that may stand behind the `?` of the URL, or in the gateway's settings, which win."""

    # Sessions. `binds` counts transceivers, or pairs of a transmitter and a receiver.
    # outbind: the SMSC connects to `outbind_listen`, and is answered with a bind_receiver; else outbinds are refused.
    bind: Literal[
        "transceiver", "transmitter", "receiver", "transmitter+receiver", "outbind", "transmitter+outbind"
    ] = "transceiver"
    binds: Annotated[int, Meta(ge=1, le=64)] = 1
    window: Annotated[int, Meta(ge=1, le=10_000)] = 100  # PDUs a bind
    rate: Annotated[float, Meta(ge=0, le=1_000_000)] = 0.0  # segments a second and bind; 0: no limit
    # 3.3 has no transceiver and no optional parameters: options that need them are refused with it.
    interface_version: Literal["3.3", "3.4", "5.0"] = "3.4"
    system_type: str = ""
    address_range: str = ""
    outbind_listen: str = ""  # address:port; only from the addresses of the URL's host
    outbind_password: str = ""  # that the SMSC says in its outbind; required
    address_ton: _Octet = 0  # of address_range
    address_npi: _Octet = 0

    # submit_sm. TON and NPI go by the kind of address; source_ton and source_npi hold for all senders.
    service_type: Annotated[str, Meta(max_length=5)] = ""
    source_ton: _Octet | None = None
    source_npi: _Octet | None = None
    number_ton: _Octet = 1
    number_npi: _Octet = 1
    name_ton: _Octet = 5  # of an alphanumeric sender
    name_npi: _Octet = 0
    dest_ton: _Octet = 1
    dest_npi: _Octet = 1
    short_code_ton: _Octet = 3
    short_code_npi: _Octet = 0
    short_code_max: Annotated[int, Meta(ge=0, le=20)] = 8  # a sender of so many digits is a short code
    registered_delivery: Annotated[int, Meta(ge=0, le=31)] = 1
    protocol_id: _Octet = 0
    priority: Annotated[int, Meta(ge=0, le=3)] = 0
    otp_priority: Annotated[int, Meta(ge=0, le=3)] | None = None  # of one-time passwords, instead
    # The carrier is to wait so long: a minute at most, for no rule is looked at again after the hand-over.
    schedule_s: Annotated[int, Meta(ge=0, le=60)] = 0
    # A text that still waits at the carrier gives way to the next of the same sender, recipient and service_type.
    replace_if_present: bool = False
    tlvs: dict[str, str] = {}  # the carrier's own: {"0x1400": "text:1101…"}

    # Texts. `concat`: how the segments of a long one are tied together: by a user data header with an 8-bit or a
    # 16-bit reference, by sar_* parameters, or by the carrier, which gets all of it as one message_payload.
    concat: Literal["udh", "udh16", "sar", "payload"] = "udh"
    # The carrier's own alphabet, that of gsm7_coding, in both directions; packed: eight septets in seven octets.
    alphabet: Literal["gsm7", "gsm7-packed", "latin-1", "ascii"] = "gsm7"
    # What may be used; the first that can carry the text is. latin-1 and octet: up to U+00FF, 140 in a segment.
    encodings: str = "gsm7,ucs2"
    gsm7_coding: _Octet = 0x00  # data_coding of each (5.2.19)
    latin1_coding: _Octet = 0x03
    octet_coding: _Octet = 0x04
    ucs2_coding: _Octet = 0x08
    message_class: Annotated[int, Meta(ge=0, le=3)] | None = None  # 0: flash (3GPP TS 23.038, 4)
    # National shift tables, where they save a segment: never, for texts whose request allows it, or always. Only
    # for carriers that are known to carry them. `shift_languages`: turkish,hindi …; empty: all.
    shift_tables: Literal["never", "asked", "always"] = "never"
    shift_languages: str = ""

    # Whether the carrier has these; both need ids as it writes them: submit_id=asis.
    query_sm: bool = False
    cancel_sm: bool = False
    # Texts without a final receipt for so long are asked about, and again after twice as long, and so on; 0: never.
    query_after_s: Annotated[float, Meta(ge=0, le=72 * 3600)] = 0.0

    # Receipts and inbound texts
    receipts_per: Literal["segment", "message"] = "segment"  # message: one for a text of several segments
    # Gateways with the same account get each other's receipts; unless set, it is system_id@host:port.
    account: str = ""
    submit_id: IdForm = "asis"
    receipt_id: IdForm = "asis"
    unmarked_receipts: bool = False  # a text of the form "id:… stat:…" is one, whatever its esm_class
    receipt_zone: str = "UTC"  # of the dates in receipts
    # A receipt counts for a text to its recipient: where it names them; ignored: the carrier hides or changes them.
    receipt_addresses: Addresses = "swapped"
    country: str = ""  # of the national numbers in receipts and inbound texts; empty: there are none
    reassembly_s: _Seconds = 300.0
    # The same text from the same person within so long is the carrier's repetition; texts that say stop never are.
    redelivery_s: _SecondsOrNone = 60.0

    # Time-outs
    connect_timeout_s: _Seconds = 10.0
    bind_timeout_s: _Seconds = 10.0
    response_timeout_s: _Seconds = 30.0
    # A session without submits, answers and deliveries for so long is ended, and one that lived so long (up to a
    # fifth less), both in good order, and bound anew; 0: never.
    inactivity_s: _SecondsOrNone = 0.0
    session_s: _SecondsOrNone = 0.0
    enquire_link_s: _Seconds = 15.0
    enquire_link_timeout_s: _Seconds = 10.0
    # A peer whose kernel acknowledges nothing for so long is gone (TCP_USER_TIMEOUT, where there is one).
    tcp_timeout_s: _Seconds = 5.0
    reconnect_min_s: _Seconds = 0.5
    reconnect_max_s: _Seconds = 30.0

    # TLS
    tls_ca: str = ""  # file of certificate authorities instead of the system's
    tls_cert: str = ""
    tls_key: str = ""
    tls_name: str = ""  # name in the certificate, where it is not the host's

    # The carrier's own refusals: {"0x488": "retry:throttled", "0x400": "rejected:invalid_number"}
    status: dict[str, str] = {}


class Config(msgspec.Struct, frozen=True):
    """One gateway's settings, checked."""

    host: str
    port: int
    system_id: str
    password: str
    options: Options
    tls: ssl.SSLContext | None = None

    def __repr__(self) -> str:
        return f"Config({self.system_id}@{self.host}:{self.port})"

    @property
    def kinds(self) -> tuple[str, ...]:
        """What the sessions are, in the order in which they are opened; it repeats."""
        return tuple(self.options.bind.split("+"))

    @property
    def outbind_address(self) -> tuple[str, int]:
        """Where the SMSC's outbind is awaited."""
        host, _, port = self.options.outbind_listen.rpartition(":")
        return host.strip("[]"), int(port)

    def check_outbind(self) -> None:
        """Raises ValueError for outbind options that make no sense together."""
        if "outbind" not in self.kinds:
            return
        if not self.options.outbind_password:
            raise ValueError("bind=outbind needs outbind_password: whoever connects is told our own")
        if self.tls is not None:
            raise ValueError("bind=outbind goes with smpp:// only")
        try:
            host, port = self.outbind_address
        except ValueError:
            host, port = "", 0
        if not host or not 0 <= port <= 65_535:
            raise ValueError("outbind_listen: write address:port")

    @property
    def bind_fields(self) -> dict[str, Any]:
        """What `pdu.bind` is told beside who we are."""
        options = self.options
        return {
            "system_type": options.system_type,
            "address_range": options.address_range,
            "ton": options.address_ton,
            "npi": options.address_npi,
            "version": VERSIONS[options.interface_version],
        }

    @property
    def timers(self) -> Timers:
        options = self.options
        return Timers(
            bind_s=options.bind_timeout_s,
            response_s=options.response_timeout_s,
            enquire_link_s=options.enquire_link_s,
            enquire_link_response_s=options.enquire_link_timeout_s,
        )


def parse(name: str, url: str, settings: Mapping[str, Any]) -> Config:
    """The settings of gateway `name`. Raises ValueError with one line."""
    try:
        config = _parse(url, settings)
        config.check_outbind()
        pdu.bind("receiver", 1, config.system_id, config.password, **config.bind_fields)
        refusals(config.options.status)
        vendor_tlvs(config.options.tlvs)
        _check_country(config.options.country)
        _check_version(config.options)
        if (config.options.query_sm or config.options.cancel_sm) and config.options.submit_id != "asis":
            raise ValueError(
                "query_sm and cancel_sm need submit_id=asis: the carrier's ids as it writes them"
            )
        if config.options.query_after_s and not config.options.query_sm:
            raise ValueError("query_after_s needs query_sm=true")
        codings(config.options)
    except msgspec.ValidationError as error:
        raise ValueError(f"gateway {name}: {_option_error(str(error))}") from None
    except ValueError as error:
        raise ValueError(f"gateway {name}: {error}") from None
    return config


def binds_wanted(url: str, settings: Mapping[str, Any] | None = None) -> int:
    """How many binds the gateway would like to hold open; a transmitter and its receiver are one."""
    return parse("smpp", url, settings or {}).options.binds


def takes_back(url: str, settings: Mapping[str, Any] | None = None) -> bool:
    """Whether the carrier has cancel_sm."""
    return parse("smpp", url, settings or {}).options.cancel_sm


def query_after_s(url: str, settings: Mapping[str, Any] | None = None) -> float:
    """After how long without a final receipt the carrier is asked about a text (query_sm); 0: never."""
    return parse("smpp", url, settings or {}).options.query_after_s


class AskedTlv(msgspec.Struct, frozen=True):
    """An optional parameter whose value is in a text's metadata; `end` follows the value."""

    tag: int
    key: str
    end: bytes

    def written(self, metadata: Mapping[str, object]) -> bytes | None:
        """Nothing where the metadata has no such key. None: its value can't be written."""
        value = metadata.get(self.key)
        if value is None:
            return b""
        try:
            octets = str(value).encode("latin-1") + self.end
        except UnicodeEncodeError:
            return None
        return pdu.tlv(self.tag, octets) if len(octets) <= MAX_TLV_OCTETS else None


def vendor_tlvs(values: Mapping[str, str]) -> tuple[bytes, tuple[AskedTlv, ...]]:
    """A gateway's own optional parameters: tag (`"0x1400"`) to `hex:…`, `text:…` (as it stands), or `cstring:…`
    (with a NUL after it); of text and cstring the value may be `{metadata.KEY}`, each text's own. Raises ValueError
    naming the tag that makes no sense, and not its value."""
    written, asked = [], []
    for tag, value in values.items():
        try:
            number = int(str(tag), 0)
        except ValueError:
            raise ValueError(f"tlvs: {tag!r} is not a tag") from None
        kind, _, content = str(value).partition(":")
        try:
            octets = {
                "hex": bytes.fromhex,
                "text": lambda text: text.encode("latin-1"),
                "cstring": lambda text: text.encode("latin-1") + b"\x00",
            }[kind](content)
        except (KeyError, ValueError):
            raise ValueError(f"tlvs: {tag}: write hex:…, text:… or cstring:…") from None
        if not 0 < number <= 0xFFFF or number in _RESERVED_TLVS or len(octets) > MAX_TLV_OCTETS:
            raise ValueError(f"tlvs: {tag} can't be set, or is too long")
        if kind != "hex" and (key := _METADATA.fullmatch(content)):
            asked.append(AskedTlv(number, key[1], b"\x00" if kind == "cstring" else b""))
        else:
            written.append(pdu.tlv(number, octets))
    return b"".join(written), tuple(asked)


def account(url: str, settings: Mapping[str, Any] | None = None) -> str:
    """The account at the SMSC that the gateway shares with every other gateway of the same account."""
    config = parse("smpp", url, settings or {})
    return config.options.account or f"{config.system_id}@{config.host}:{config.port}"


def _parse(url: str, settings: Mapping[str, Any]) -> Config:
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError:  # its message may quote what it took for the port: part of a password
        raise ValueError("the URL can't be read; percent-encode special characters of the password") from None
    if parts.scheme not in DEFAULT_PORTS:
        raise ValueError(f"scheme {parts.scheme!r} is not smpp or smpps")
    if not host or parts.path not in ("", "/") or parts.fragment:
        raise ValueError("write smpp://system_id:password@host:port?options")
    query = parse_qsl(parts.query, keep_blank_values=True)
    given: dict[str, Any] = {}
    for key, value in query:
        if key in given:
            raise ValueError(f"option {key} is given twice")
        given[key] = value
    given |= settings
    if isinstance(given.get("bind"), str):
        given["bind"] = given["bind"].replace(" ", "+")  # a plus sign in a query means a space
    options = msgspec.convert(given, Options, strict=False)
    try:
        ZoneInfo(options.receipt_zone)
    except (KeyError, OSError, ValueError):  # a folder, an odd name, none
        raise ValueError(f"receipt_zone {options.receipt_zone!r} is not a time zone") from None
    return Config(
        host=host,
        port=port or DEFAULT_PORTS[parts.scheme],
        system_id=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        options=options,
        tls=_tls(options) if parts.scheme == "smpps" else None,
    )


def _check_country(country: str) -> None:
    if country and not has_numbers(country):
        raise ValueError(f"country {country!r} is not a country with phone numbers: two capital letters")


def _check_version(options: Options) -> None:
    if options.interface_version != "3.3":
        return
    if "transceiver" in options.bind:
        raise ValueError("interface_version 3.3 has no transceiver: set bind=transmitter+receiver")
    if options.tlvs or not options.concat.startswith("udh"):
        raise ValueError("interface_version 3.3 has no optional parameters: no tlvs, and concat=udh")


def encodings(options: Options) -> tuple[Encoding, ...]:
    """In the order in which they are tried. Raises ValueError."""
    names = tuple(one.strip() for one in options.encodings.split(","))
    known = get_args(Encoding)
    if not set(names) <= set(known) or len(set(names)) < len(names):
        raise ValueError(f"encodings: some of {', '.join(known)}, each once")
    return names  # type: ignore[return-value]


def codings_of(url: str, settings: Mapping[str, Any]) -> tuple[Coding, Coding]:
    """`codings` of the gateway of that URL."""
    return codings(parse("smpp", url, settings).options)


def codings(options: Options) -> tuple[Coding, Coding]:
    """How texts are cut: in general, and those whose request allows shift tables. Raises ValueError."""
    order = encodings(options)
    data_codings(options)
    languages = [one.strip() for one in options.shift_languages.split(",") if one.strip()]
    unknown = [one for one in languages if one not in LANGUAGES]
    if unknown:
        raise ValueError(f"shift_languages: {unknown[0]!r} is none of {', '.join(LANGUAGES)}")
    if options.shift_tables != "never":
        if not options.alphabet.startswith("gsm7") or "gsm7" not in order:
            raise ValueError(
                "shift_tables need the alphabet gsm7 or gsm7-packed, and gsm7 among the encodings"
            )
        if not options.concat.startswith("udh"):
            raise ValueError("shift_tables need concat=udh or udh16: they are named in the user data header")
    coding = Coding(
        order=order,
        charset="" if options.alphabet.startswith("gsm7") else options.alphabet,
        wide=options.concat == "udh16",
        join=options.concat,
    )
    if coding == PLAIN:
        coding = PLAIN  # the one that `segment` knows at sight
    shifting = msgspec.structs.replace(coding, shifts=tuple(LANGUAGES[one] for one in languages or LANGUAGES))
    return (
        shifting if options.shift_tables == "always" else coding,
        coding if options.shift_tables == "never" else shifting,
    )


def data_codings(options: Options) -> dict[Encoding, int]:
    """data_coding by encoding, with the message class. Raises ValueError where it can't be had."""
    found: dict[Encoding, int] = {
        "gsm7": options.gsm7_coding,
        "latin-1": options.latin1_coding,
        "octet": options.octet_coding,
        "ucs2": options.ucs2_coding,
    }
    if options.message_class is None:
        return found
    for encoding in encodings(options):
        if found[encoding] & ~0x0C:  # the class stands in bits 1 and 0 of group 0001
            raise ValueError(f"message_class can't be had with data_coding {found[encoding]:#04x}")
        found[encoding] |= 0x10 | options.message_class
    return found


def _tls(options: Options) -> ssl.SSLContext:
    """TLS 1.2 or later, certificate and host name verified."""
    try:
        context = ssl.create_default_context(cafile=options.tls_ca or None)
        if options.tls_cert:
            context.load_cert_chain(options.tls_cert, options.tls_key or None)
    except OSError as error:
        raise ValueError(f"tls_ca, tls_cert or tls_key can't be used: {error.strerror or error}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _option_error(message: str) -> str:
    """msgspec's message, with the option in our words."""
    if "unknown field" in message:
        return f"there is no option {message.rpartition('unknown field ')[2]}"
    problem, _, path = message.rpartition(" - at `$.")
    return f"option {path.rstrip('`')}: {problem}" if problem else message
