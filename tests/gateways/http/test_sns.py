"""Amazon SNS calls back: what it signs gets through, and nothing else. The certificate comes over TLS from a server
here, which stands where `sns.<region>.amazonaws.com` would; its chain, and the signing certificate's, are made on
the spot.
"""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import ssl
import time
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp.abc import AbstractResolver
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from gateways import http
from gateways.base import Inbound, Receipt

HOST = "sns.eu-west-1.amazonaws.com"
TOPIC = "arn:aws:sns:eu-west-1:123456789012:texts"
CERT_URL = f"https://{HOST}/SimpleNotificationService-f3ecfb7224c7233fe7bb5f59f96de52f.pem"
SUBSCRIBE_URL = f"https://{HOST}/?Action=ConfirmSubscription&TopicArn={TOPIC}&Token=2336412f37"
CALLBACK = "https://volley.example.org/v1/callbacks/a"
EVENT = {"eventType": "TEXT_DELIVERED", "messageStatus": "DELIVERED", "messageId": "m-1"}
INBOUND = {
    "originationNumber": "+12025550101",
    "destinationNumber": "+12025550199",
    "messageBody": "Stop 👋\nnow",
    "inboundMessageId": "in-1",
}


def key_of():
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def certificate(key, name, issuer=None, issuer_key=None, *, days=30, authority=False):
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    begin = datetime.now(UTC) - timedelta(days=60)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=60 + days))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(issuer_key or key, hashes.SHA256())
    )


class Amazon:
    """An authority, its server's certificate, and what SNS signs with."""

    def __init__(self, folder):
        self.key, self.server_key = key_of(), key_of()
        self.signing_key = self.server_key  # one less to make
        self.root = certificate(self.key, "Root", authority=True)
        server = certificate(self.server_key, HOST, self.root, self.key)
        private = self.server_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / "server.pem").write_bytes(private + server.public_bytes(Encoding.PEM))
        self.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.tls.load_cert_chain(folder / "server.pem")
        root = self.root.public_bytes(Encoding.PEM).decode()
        self.trusting = ssl.create_default_context(cadata=root)
        self.pem = self.issued("sns.amazonaws.com")

    def issued(self, name, **options):
        found = certificate(self.signing_key, name, self.root, self.key, **options)
        return found.public_bytes(Encoding.PEM)

    def signed(self, message, kind="Notification", *, version="1", key=None, at_s=None, **more):
        """An envelope, signed as AWS' documentation says."""
        at = datetime.fromtimestamp(time.time() if at_s is None else at_s, UTC)
        found = {
            "Type": kind,
            "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
            "TopicArn": TOPIC,
            "Message": message if isinstance(message, str) else json.dumps(message),
            "Timestamp": at.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
            "SignatureVersion": version,
            "SigningCertURL": CERT_URL,
        } | more
        order = ["Message", "MessageId"]
        if kind == "Notification":
            order += ["Subject"] * ("Subject" in found) + ["Timestamp", "TopicArn", "Type"]
        else:
            found |= {"SubscribeURL": SUBSCRIBE_URL, "Token": "2336412f37"} | more
            order += ["SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"]
        lines = "".join(f"{name}\n{found[name]}\n" for name in order).encode()
        digest = hashes.SHA256() if version == "2" else hashes.SHA1()
        signature = (key or self.signing_key).sign(lines, padding.PKCS1v15(), digest)
        return found | {"Signature": base64.b64encode(signature).decode()}


class Here(AbstractResolver):
    """Every name is the server in this test."""

    def __init__(self, port):
        self.port, self.asked = port, []

    async def resolve(self, host, port=0, family=socket.AF_INET):
        self.asked.append(host)
        return [
            {
                "hostname": host,
                "host": "127.0.0.1",
                "port": self.port,
                "family": family,
                "proto": 0,
                "flags": 0,
            }
        ]

    async def close(self):
        """Nothing is open."""


@pytest.fixture(scope="module")
def amazon(tmp_path_factory):
    return Amazon(tmp_path_factory.mktemp("amazon"))


@pytest.fixture
async def line(wire, amazon):
    """A gateway's reader and the server that it asks."""
    pages = {"pem": (200, amazon.pem), "/?Action=ConfirmSubscription": (200, b"<xml/>")}

    async def behave(peer, seen):
        found = next((page for part, page in pages.items() if part in seen.target), (404, b""))
        await peer.answer(*found)

    server = await wire(behave, tls=amazon.tls)
    return Line(server, pages, amazon.trusting)


class Line:
    def __init__(self, server, pages, trusting):
        self.server, self.pages = server, pages
        self.resolver = Here(server.port)
        self.asker = http.Asker(resolver=self.resolver, authorities=trusting, allow_private=True)
        settings = {"callback_url": "https://volley.example.org", "topics": TOPIC}
        self.reader = http.receiver("a", "aws://k:s@sms-voice.eu-west-1.amazonaws.com", settings)

    async def call(self, envelope, url=CALLBACK):
        body = envelope if isinstance(envelope, bytes) else json.dumps(envelope).encode()
        headers = {"Content-Type": "text/plain; charset=UTF-8"}
        receipts, texts, reply = await self.asker.read(self.reader, "POST", url, headers, body)
        assert reply.status < 300 or not (receipts or texts)
        return reply.status, [*receipts, *texts]


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("subject", [{}, {"Subject": "A subject"}])
async def test_what_sns_signed_gets_through_and_the_certificate_is_asked_for_once(
    line, amazon, version, subject
):
    event, text = amazon.signed(EVENT, version=version, **subject), amazon.signed(INBOUND, version=version)
    results = await asyncio.gather(*(line.call(one) for one in (event, text, event)))
    assert [status for status, _ in results] == [200] * 3
    found = [one for _, (one,) in results]
    assert [type(one) for one in found] == [Receipt, Inbound, Receipt]
    assert found[1] == Inbound("+12025550101", "12025550199", "Stop 👋\nnow", "in-1")
    assert [seen.target for seen in line.server.requests] == [CERT_URL.removeprefix(f"https://{HOST}")]


async def test_a_subscription_to_a_topic_of_ours_is_confirmed(line, amazon):
    assert await line.call(amazon.signed("You have chosen …", "SubscriptionConfirmation")) == (200, [])
    assert [seen.target for seen in line.server.requests][1:] == [
        SUBSCRIBE_URL.removeprefix(f"https://{HOST}")
    ]


async def test_the_end_of_a_subscription_is_heard_and_not_taken_back(line, amazon):
    assert await line.call(amazon.signed("You have chosen …", "UnsubscribeConfirmation")) == (200, [])
    assert len(line.server.requests) == 1  # the certificate


async def test_a_confirmation_that_aws_does_not_answer_comes_again(line, amazon):
    line.pages["/?Action=ConfirmSubscription"] = (500, b"")
    assert await line.call(amazon.signed("x", "SubscriptionConfirmation")) == (503, [])


def changed(**fields):
    return lambda amazon: amazon.signed(INBOUND, Subject="x") | fields


def without(name):
    return lambda amazon: {k: v for k, v in amazon.signed(INBOUND).items() if k != name}


FORGED = {
    "another text": changed(Message=json.dumps(INBOUND | {"messageBody": "START"})),
    "another id": changed(MessageId="x"),
    "another subject": changed(Subject="y"),
    "no subject": changed(Subject=None),
    "another time": changed(Timestamp="2030-01-01T00:00:00.000Z"),
    "the other hash": changed(SignatureVersion="2"),
    "a hash that there is not": changed(SignatureVersion="0"),
    "signed for another topic, sent as of ours": lambda amazon: (
        amazon.signed(INBOUND, TopicArn=TOPIC + "2") | {"TopicArn": TOPIC}
    ),
    "signed by another key": lambda amazon: amazon.signed(INBOUND, key=amazon.key),
    "not signed": changed(Signature=""),
    "no base64": changed(Signature="?"),
    "signed as a notification, sent as a confirmation": changed(
        Type="SubscriptionConfirmation", SubscribeURL=SUBSCRIBE_URL, Token="x"
    ),
}
# Of which not even the certificate is asked for.
UNASKED = {
    "of another topic": lambda amazon: amazon.signed(INBOUND, TopicArn=TOPIC.replace("9012", "9013")),
    "two hours old": lambda amazon: amazon.signed(INBOUND, at_s=time.time() - 7_200),
    "of tomorrow": lambda amazon: amazon.signed(INBOUND, at_s=time.time() + 86_400),
    "of another kind": lambda amazon: amazon.signed(INBOUND, Type="notification"),
    "without a signature": without("Signature"),
    "without a topic": without("TopicArn"),
    "without a type": without("Type"),
    "without a version": without("SignatureVersion"),
    "half a letter": changed(Message="\ud800"),
    "not in an envelope": lambda _: INBOUND,
    "not JSON": lambda _: b"Type=Notification",
} | {
    f"certificate at {url}": changed(SigningCertURL=url)
    for url in (
        CERT_URL.replace("https:", "http:"),
        CERT_URL.replace(HOST, "sns.evil.example"),
        CERT_URL.replace(HOST, f"{HOST}.evil.example"),
        CERT_URL.replace(HOST, f"{HOST}@evil.example"),
        CERT_URL.replace(HOST, f"evil.example/{HOST}"),
        CERT_URL.replace(HOST, f"{HOST}:8443"),
        CERT_URL.replace("sns.", "s3."),
        CERT_URL.replace("eu-west-1", "169.254.169.254"),
        CERT_URL.replace(".pem", ".pem?x"),
        CERT_URL.replace("Simple", "../Simple"),
        CERT_URL + "\n",
        f"https://{HOST}/?Action=ConfirmSubscription",
        "",
    )
}


@pytest.mark.parametrize("case", FORGED)
async def test_what_is_forged_is_refused(line, amazon, case):
    assert await line.call(amazon.signed(EVENT)) == (200, [Receipt("m-1", "delivered", "TEXT_DELIVERED")])
    assert await line.call(FORGED[case](amazon)) == (403, [])
    assert len(line.server.requests) == 1


@pytest.mark.parametrize("case", UNASKED)
async def test_what_could_not_be_ours_asks_nobody(line, amazon, case):
    assert await line.call(UNASKED[case](amazon)) == (403, [])
    assert line.resolver.asked == []


@pytest.mark.parametrize("url", ["https://evil.example/?Action=ConfirmSubscription", f"http://{HOST}/?x", ""])
async def test_a_confirmation_calls_nobody_but_sns(line, amazon, url):
    assert await line.call(amazon.signed("x", "SubscriptionConfirmation", SubscribeURL=url)) == (403, [])
    assert len(line.server.requests) == 1  # the certificate


async def test_a_certificate_that_is_not_there_is_no_certificate(line, amazon):
    line.pages["pem"] = (404, b"")
    assert await line.call(amazon.signed(EVENT)) == (403, [])


@pytest.mark.parametrize("page", [(500, b""), (302, b""), (200, b"x" * 100_000)])
async def test_a_certificate_that_does_not_come_is_asked_for_again(line, amazon, page):
    line.pages["pem"] = page
    assert await line.call(amazon.signed(EVENT)) == (503, [])
    line.pages["pem"] = (200, amazon.pem)
    assert (await line.call(amazon.signed(EVENT)))[0] == 200


async def test_certificates_that_are_not_of_sns(line, amazon):
    others = [b"", b"-----BEGIN", amazon.issued("sns.evil.example"), amazon.issued(HOST, days=-1)]
    others += [amazon.issued("sns.amazonaws.com.evil.example")]
    for number, pem in enumerate(others):
        line.pages["pem"] = (200, pem)
        envelope = amazon.signed(EVENT, SigningCertURL=CERT_URL.replace("-f3", f"-{number}"))
        assert await line.call(envelope) == (403, []), number


async def test_a_server_without_a_certificate_of_its_name_is_not_believed(wire, amazon, line):
    async def behave(peer, seen):
        await peer.answer(200, amazon.pem)

    server = await wire(behave, tls=True)  # self-signed, for another name
    line.resolver.port = server.port
    assert await line.call(amazon.signed(EVENT)) == (503, [])
    assert server.requests == []


async def test_private_addresses_are_not_called(line, amazon):
    line.asker = http.Asker(resolver=line.resolver, authorities=amazon.trusting)
    assert await line.call(amazon.signed(EVENT)) == (503, [])
    assert line.server.connections == 0


async def test_a_token_opens_what_is_not_signed_and_no_envelope(line, amazon):
    settings = {"callback_url": "https://volley.example.org", "topics": TOPIC, "token": "t"}
    line.reader = http.receiver("a", "aws://k:s@sms-voice.eu-west-1.amazonaws.com", settings)
    with_token = f"{CALLBACK}?token=t"
    assert (await line.call(EVENT, with_token))[0] == 200
    assert (await line.call(EVENT))[0] == 403
    assert (await line.call({"Type": "Notification", "Message": json.dumps(EVENT)}, with_token))[0] == 403
    assert (await line.call({"Message": json.dumps(EVENT)}, with_token))[0] == 403
    assert (await line.call(amazon.signed(EVENT)))[0] == 200


async def test_a_topic_must_be_named(line, amazon):
    settings = {"callback_url": "https://volley.example.org", "token": "t"}
    line.reader = http.receiver("a", "aws://k:s@sms-voice.eu-west-1.amazonaws.com", settings)
    assert (await line.call(amazon.signed(EVENT), f"{CALLBACK}?token=t"))[0] == 403
    assert line.resolver.asked == []
