"""What Amazon SNS posts to an HTTP endpoint: signed envelopes, and how each is known to be of a topic of ours.

Guarantees: pure but for the clock that it is given. An envelope gets through only with the signature of a certificate
that came over TLS from `sns.<region>.amazonaws.com` (or `.cn`), for one of the configured topics, and at most MAX_AGE_S
old. A certificate is asked for once (`gateways.provider.Ask`) and kept; nothing is asked for an envelope of another
topic. The file holds the signing certificate without its chain, so what vouches for it is the TLS connection that it
came by; its names and dates are checked beside.

Sources: https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html,
https://docs.aws.amazon.com/sns/latest/dg/sns-message-and-json-formats.html,
https://docs.aws.amazon.com/sns/latest/dg/sns-message-delivery-retries.html (HTTP: 3,600 s in all).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection
from datetime import UTC, datetime

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from gateways.provider import Ask, BadSignature, iso_unix_s

MAX_AGE_S = 3_600 + 300  # SNS gives a message up after an hour; clocks differ
MAX_AHEAD_S = 300
MAX_CERTIFICATES = 8  # kept; the oldest goes

_NOTIFICATION = ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type")
_CONFIRMATION = ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type")
# What is signed, in this order, by `Type`.
SIGNED = {
    "Notification": _NOTIFICATION,
    "SubscriptionConfirmation": _CONFIRMATION,
    "UnsubscribeConfirmation": _CONFIRMATION,
}
# By `SignatureVersion`. 1 is what a topic has unless it is told otherwise.
HASHES: dict[str, type[hashes.HashAlgorithm]] = {"1": hashes.SHA1, "2": hashes.SHA256}

_HOST = r"https://sns\.[a-z]{2}(?:-[a-z]+)+-[0-9]+\.amazonaws\.com(?:\.cn)?"
_CERTIFICATE = re.compile(_HOST + r"/SimpleNotificationService-[0-9A-Za-z_-]{1,100}\.pem")
_SUBSCRIBE = re.compile(_HOST + r"/\?[!-~]{1,2000}")
_NAME = re.compile(r"sns(\.[a-z0-9-]+)?\.amazonaws\.com(\.cn)?")  # in the certificate
TOPIC = re.compile(r"arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]{1,256}")


class Envelope(msgspec.Struct, rename="pascal"):
    """As SNS writes it. `subject` is None where there is none."""

    type: str
    message_id: str
    topic_arn: str
    message: str
    timestamp: str
    signature_version: str
    signature: str
    signing_cert_url: str = msgspec.field(name="SigningCertURL")
    subject: str | None = None
    token: str | None = None
    subscribe_url: str | None = msgspec.field(default=None, name="SubscribeURL")


class Certificates:
    """The keys of the certificates that SNS signs with, by URL."""

    def __init__(self) -> None:
        self._kept: dict[str, x509.Certificate] = {}

    def key(self, url: str, now_s: float) -> rsa.RSAPublicKey:
        """Raises Ask for one that is not here, BadSignature for one that can't be SNS'."""
        if _CERTIFICATE.fullmatch(url) is None:
            raise BadSignature
        found = self._kept.get(url)
        if found is None:
            raise Ask(url, lambda pem: self._keep(url, pem))
        now = datetime.fromtimestamp(now_s, UTC)
        key = found.public_key()
        if not (found.not_valid_before_utc <= now <= found.not_valid_after_utc and _is_of_sns(found)):
            raise BadSignature
        if not isinstance(key, rsa.RSAPublicKey):
            raise BadSignature
        return key

    def _keep(self, url: str, pem: bytes) -> None:
        try:
            found = x509.load_pem_x509_certificate(pem)
            found.public_key()
        except Exception:  # whatever it was, it is no certificate
            raise BadSignature from None
        if len(self._kept) >= MAX_CERTIFICATES:
            del self._kept[next(iter(self._kept))]
        self._kept[url] = found


def _is_of_sns(certificate: x509.Certificate) -> bool:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found: list[str] = names.get_values_for_type(x509.DNSName)
    except (x509.ExtensionNotFound, ValueError):
        return False
    return any(_NAME.fullmatch(name) for name in found)


def opened(body: bytes, topics: Collection[str], certificates: Certificates, now_s: float) -> str | None:
    """The message of a notification; None for a confirmation. Raises BadSignature and Ask.

    Whoever subscribes the endpoint to one of the topics has it confirmed: its SubscribeURL is asked.
    """
    try:
        envelope = msgspec.json.decode(body, type=Envelope)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadSignature from None
    if envelope.topic_arn not in topics:
        raise BadSignature
    at_s = iso_unix_s(envelope.timestamp)
    if at_s is None or not now_s - MAX_AGE_S <= at_s <= now_s + MAX_AHEAD_S:
        raise BadSignature
    _verify(envelope, certificates, now_s)
    if envelope.type == "SubscriptionConfirmation":
        url = envelope.subscribe_url or ""
        if _SUBSCRIBE.fullmatch(url) is None:
            raise BadSignature
        raise Ask(url)
    return envelope.message if envelope.type == "Notification" else None


def _verify(envelope: Envelope, certificates: Certificates, now_s: float) -> None:
    names, algorithm = SIGNED.get(envelope.type), HASHES.get(envelope.signature_version)
    if names is None or algorithm is None:
        raise BadSignature
    try:
        signature = base64.b64decode(envelope.signature, validate=True)
        signed = to_sign(envelope, names).encode()
    except ValueError:  # no base64, or half a surrogate pair
        raise BadSignature from None
    key = certificates.key(envelope.signing_cert_url, now_s)
    try:
        key.verify(signature, signed, padding.PKCS1v15(), algorithm())
    except InvalidSignature:
        raise BadSignature from None


def to_sign(envelope: Envelope, names: Collection[str]) -> str:
    """Each name and value on a line of its own; what isn't there is left out."""
    values = msgspec.to_builtins(envelope)
    return "".join(f"{name}\n{values[name]}\n" for name in names if values[name] is not None)
