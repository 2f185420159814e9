"""What URL and settings may say."""

from __future__ import annotations

import ssl
import traceback

import pytest

import gateways
from gateways.smpp.config import parse


def test_defaults_and_percent_encoding():
    config = parse("n", "smpp://volley:p%40ss%2Fw@smsc.example", {})
    assert (config.host, config.port, config.system_id, config.password) == (
        "smsc.example",
        2775,
        "volley",
        "p@ss/w",
    )
    assert config.options.bind == "transceiver"
    assert config.tls is None


def test_settings_win_over_the_url():
    config = parse("n", "smpp://a:b@h:1?window=5&rate=2.5&bind=transmitter+receiver", {"window": 7})
    assert (config.options.window, config.options.rate) == (7, 2.5)
    assert config.kinds == ("transmitter", "receiver")


def test_tls_verifies_the_host():
    context = parse("n", "smpps://a:b@smsc.example", {}).tls
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("smpp://a:b@h", 1),
        ("smpp://a:b@h?binds=3", 3),
        ("smpp://a:b@h?binds=2&bind=transmitter%2Breceiver", 2),
        ("smpps://a:b@h?bind=transmitter", 1),
    ],
)
def test_binds_wanted(url, wanted):
    assert gateways.binds_wanted(url) == wanted


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("smpp://volley:hunter2@h?windw=5", "windw"),
        ("smpp://volley:hunter2@h?window=0", "window"),
        ("smpp://volley:hunter2@h?window=many", "window"),
        ("smpp://volley:hunter2@h?window=1&window=2", "window"),
        ("smpp://volley:hunter2@h?bind=both", "bind"),
        ("smpp://volley:hunter2@h?rate=-1", "rate"),
        ("smpp://volley:hunter2@h?submit_id=octal", "submit_id"),
        ("smpp://volley:hunter2@h?receipt_zone=Mars/Base", "receipt_zone"),
        ("smpp://volley:hunter2@h?receipt_zone=../../etc/passwd", "receipt_zone"),
        ("smpp://volley:hunter2@h?country=XX", "country"),
        ("smpp://volley:hunter2@h?country=vn", "country"),
        ("smpp://volley:hunter2@h?receipt_addresses=both", "receipt_addresses"),
        ("smpp://volley:hunter2@h?interface_version=3.5", "interface_version"),
        ("smpp://volley:hunter2@h?interface_version=3.3", "transceiver"),
        ("smpp://volley:hunter2@h?interface_version=3.3&bind=transmitter&concat=sar", "optional parameters"),
        ("smpp://volley:hunter2@h?bind=outbind", "outbind_password"),
        ("smpp://volley:hunter2@h?bind=outbind&outbind_password=x", "outbind_listen"),
        ("smpp://volley:hunter2@h?bind=outbind&outbind_password=x&outbind_listen=1:x", "outbind_listen"),
        ("smpps://volley:hunter2@h?bind=outbind&outbind_password=x&outbind_listen=::1:5", "smpp://"),
        ("smpp://volley:hunter2@h?priority=4", "priority"),
        ("smpp://volley:hunter2@h?schedule_s=3600", "schedule_s"),
        ("smpps://volley:hunter2@h?tls_ca=/nowhere/ca.pem", "tls_ca"),
        ("smpp://volley-is-much-too-long:hunter2@h", "system_id"),
        (
            "smpp://volley:hunter2hunter2hunter2hunter2hunter2hunter2hunter2hunter2hunter2hunter2@h",
            "password",
        ),
        ("smpp://volley:hunter2@h/path", "smpp://system_id:password@host"),
        ("smpp://volley:hunter2/x@h", "percent-encode"),
        ("smpp://volley:hunter2#x@h", "percent-encode"),
        ("smpp://volley:hunter2@h:99999", "URL"),
        ("smpp://", "smpp://system_id:password@host"),
        ("smtp://volley:hunter2@h", "smtp"),
        ("base://volley:hunter2@h", "base"),
        ("sandbox://volley:hunter2@h", "sandbox"),
        ("volley:hunter2@h", "volley"),
        ("", "scheme"),
    ],
)
def test_what_makes_no_sense_is_one_line_that_names_it(url, named):
    with pytest.raises(ValueError, match="gateway carrier") as error:
        gateways.make("carrier", url, {}, None)
    message = str(error.value)
    assert named in message
    assert "\n" not in message
    assert "hunter2" not in "".join(traceback.format_exception(error.value)).replace(url, "")


def test_a_wrong_status_setting_is_named():
    with pytest.raises(ValueError, match="0x488"):
        gateways.make("carrier", "smpp://a:b@h", {"status": {"0x488": "whatever"}}, None)


def test_the_password_is_in_no_repr():
    assert "hunter2" not in repr(parse("n", "smpp://volley:hunter2@h", {}))


@pytest.mark.parametrize(
    "tlvs",
    [
        {"x": "text:1"},
        {"0": "text:1"},
        {"0x10000": "text:1"},
        {"0x1400": "1101"},
        {"0x1400": "hex:abc"},
        {"0x1400": "text:ạ"},
        {"0x1400": "text:" + "1" * 256},
        {"0x0424": "text:another text"},
        {"0x020F": "hex:01"},
    ],
)
def test_a_wrong_optional_parameter_is_named(tlvs):
    with pytest.raises(ValueError, match="tlvs") as error:
        gateways.make("carrier", "smpp://a:b@h", {"tlvs": tlvs}, None)
    assert "another text" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "account"),
    [
        ("smpp://a:b@smsc.example", "a@smsc.example:2775"),
        ("smpps://a:b@smsc.example?window=5", "a@smsc.example:3550"),
        ("smpp://a:b@smsc.example?account=main", "main"),
        ("twilio://sid:token@api.twilio.com", ""),
    ],
)
def test_gateways_of_one_system_id_at_one_address_share_an_account(url, account):
    assert gateways.account(url) == account
