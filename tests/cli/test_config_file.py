"""volley.toml: what it may say, and how a mistake is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from app import config_file
from app.config_file import Config, ConfigError, Gateway, Region, Route

GATEWAY = '[[gateways]]\nname = "a"\nurl = "smpp://u:hunter2@h:2775"\n'


def test_the_shipped_file_sends_everything_to_the_sandbox():
    config = config_file.parse(config_file.shipped(), "shipped")
    assert [gateway.name for gateway in config.gateways] == ["sandbox"]
    assert config.routes == (Route(to="*", gateways=("sandbox",)),)
    assert config.regions == {}
    assert config_file.sandbox_port(config) == 2775


def test_the_shipped_gateway_follows_the_sandbox_port():
    config = config_file.parse(config_file.shipped(4242), "shipped")
    assert config.gateways[0].url == (
        "smpp://volley:secret@127.0.0.1:4242?bind=transceiver&binds=2&window=100&rate=0"
    )
    assert config_file.sandbox_port(config) == 4242


def test_a_shipped_file_is_known_until_somebody_changes_it():
    text = config_file.shipped(4242)
    assert config_file.is_shipped(text)
    assert not config_file.is_shipped(text + "\n")
    assert not config_file.is_shipped(text.replace(":4242?", "?"))


def test_a_gateway_elsewhere_is_not_the_sandbox():
    text = '[[gateways]]\nname = "sandbox"\nurl = "smpp://u:p@smsc.example.org:2775"\n'
    assert config_file.sandbox_port(config_file.parse(text, "x")) is None


def test_everything_it_may_say():
    text = (
        GATEWAY
        + """
rate = 50
[gateways.request]
body = { to = "{to}" }
[gateways.receipt.states]
DONE = "delivered"
[[gateways]]
name = "b"
url = "https://sms.example.org/send"
[[gateways.header]]
name = "x"
[[routes]]
to = "US-FL"
category = "otp"
gateways = ["a", "b"]
[[routes]]
to = "+8490"
gateways = ["b"]
[regions.VN]
rate = 100
[regions.US-FL]
prefixes = ["1305", "1786"]
paused = true
"""
    )
    assert config_file.parse(text, "x") == Config(
        gateways=(
            Gateway(
                name="a",
                url="smpp://u:hunter2@h:2775",
                rate=50,
                settings={"request": {"body": {"to": "{to}"}}, "receipt": {"states": {"DONE": "delivered"}}},
            ),
            Gateway(name="b", url="https://sms.example.org/send", settings={"header": [{"name": "x"}]}),
        ),
        routes=(
            Route(to="US-FL", gateways=("a", "b"), category="otp"),
            Route(to="+8490", gateways=("b",)),
        ),
        regions={"VN": Region(rate=100), "US-FL": Region(prefixes=("1305", "1786"), paused=True)},
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[[gateways]\n", "f: Expected ']]' at the end of an array declaration (at line 1, column 11)"),
        (
            "[gateway]\n",
            "f: gateway: there is no such table; there are gateways, routes, regions and currencies",
        ),
        ("[gateways]\nname = 'a'", "f: gateways: write [[gateways]], with two brackets"),
        ("[[gateways]]\nname = 'a'", "f: gateways.a: object missing required field `url`"),
        ("[[gateways]]\nurl = 'smpp://h'", "f: gateways entry 1: object missing required field `name`"),
        ("[[gateways]]\nname = 7\nurl = 'smpp://h'", "f: gateways entry 1.name: expected `str`, got `int`"),
        (GATEWAY + "rats = 7", "f: gateways.a: object contains unknown field `rats`"),
        (GATEWAY + "rate = 'x'", "f: gateways.a.rate: expected `int | null`, got `str`"),
        (GATEWAY + "rate = -1", "f: gateways.a.rate: -1 is negative"),
        (GATEWAY + "settings = 1", "f: gateways.a.settings: there is no such key"),
        (GATEWAY + GATEWAY, "f: gateways.a: the name is used twice"),
        (
            "[[gateways]]\nname = 'A b'\nurl = 'smpp://h'",
            "f: gateways.A b.name: small letters, digits, '-', '_' and '.', at most 64",
        ),
        (
            "[[gateways]]\nname = 'a'\nurl = 'u:hunter2@h'",
            "f: gateways.a.url: it has no scheme (smpp://, https://, twilio://)",
        ),
        ("[[gateways]]\nname = 'a'\nurl = 'smpp://u:hunter2@h:x'", "f: gateways.a.url: not a URL"),
        ("[[gateways]]\nname = 'a'\nurl = 'smpp://'", "f: gateways.a.url: it names no host"),
        (
            GATEWAY + "[[routes]]\nto = '*'\ngateways = ['b']",
            "f: routes entry 1.gateways: there is no gateway 'b'",
        ),
        (GATEWAY + "[[routes]]\nto = '*'\ngateways = []", "f: routes entry 1.gateways: name at least one"),
        (
            GATEWAY + "[[routes]]\nto = '*'\ngateways = ['a', 'a']",
            "f: routes entry 1.gateways: one is named twice",
        ),
        (
            GATEWAY + "[[routes]]\nto = 'Vietnam'\ngateways = ['a']",
            "f: routes entry 1.to: 'Vietnam' is neither '*' nor a region nor a number prefix",
        ),
        (
            GATEWAY + "[[routes]]\nto = '*'\ngateways = ['a']\ncategory = 'promo'",
            "f: routes entry 1.category: invalid enum value 'promo'",
        ),
        ("[regions.vn]\nrate = 1", "f: regions.vn: 'vn' is no region code (VN, US-FL)"),
        (
            "[regions.UK]\nrate = 1",
            "f: regions.UK.prefixes: UK is no country (ISO 3166-1): say which numbers are in it",
        ),
        (
            "[regions.US-FL]\nrate = 1",
            "f: regions.US-FL.prefixes: US-FL is no country (ISO 3166-1): say which numbers are in it",
        ),
        ("[regions.VN]\nrate = 1.5", "f: regions.VN.rate: expected `int | null`, got `float`"),
        ("[regions]\nVN = 7", "f: regions.VN: write [regions.VN]"),
        ("[[regions]]\nrate = 7", "f: regions: write [regions.XX]"),
        ("[regions.VN]\nprefixes = ['0']", "f: regions.VN.prefixes: '0' is no number prefix"),
    ],
)
def test_a_mistake_is_one_line(text: str, line: str):
    with pytest.raises(ConfigError) as caught:
        config_file.parse(text, "f")
    assert str(caught.value) == line
    assert "hunter2" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path):
    (tmp_path / "latin1").write_bytes(b"# \xe9")
    with pytest.raises(ConfigError, match="not UTF-8"):
        config_file.load(tmp_path / "latin1")
    with pytest.raises(ConfigError, match="not a file"):
        config_file.load(Path("/dev/zero"))
    with pytest.raises(ConfigError, match="No such file"):
        config_file.load(tmp_path / "none")


ROUTED = """\
[[gateways]]
name = "a"
url = "smpp://u:p@h:1"
currency = "EUR"
prices = {"*" = "0.05", 84 = "0.030"}
health = {slow_ms = 3000}
[gateways.extra]
key = 1
[[gateways]]
name = "b"
url = "smpp://u:p@h:1"
[[routes]]
to = "VN"
gateways = ["a", "b"]
weights = [7, 3]
sender = "VOLLEY"
[regions.VN]
test_numbers = ["+84912345678"]
[currencies]
EUR = "1.08"
"""


def test_prices_weights_currencies_and_test_numbers() -> None:
    config = config_file.parse(ROUTED, "f")
    first, _ = config.gateways
    assert (first.currency, first.prices) == ("EUR", {"*": "0.05", "+84": "0.030"})
    assert (first.health, first.settings) == ({"slow_ms": 3000}, {"extra": {"key": 1}})
    assert (config.routes[0].weights, config.routes[0].sender) == ((7, 3), "VOLLEY")
    assert config.regions["VN"].test_numbers == ("+84912345678",)
    assert config.currencies == {"EUR": "1.08"}


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ('"*" = "0.05"', '"*" = 0.05', "gateways.a.prices.*: write the amount in quotes"),
        ('currency = "EUR"\n', "", "gateways.a.currency: prices need a currency"),
        ("slow_ms = 3000", "slow_ms = 0", "gateways.a.health: slow_ms: 1 to 600,000"),
        ("weights = [7, 3]", "weights = [7]", "routes entry 1.weights: one for each gateway"),
        (
            "weights = [7, 3]",
            'weights = [7, 3]\nstrategy = "cost"',
            "routes entry 1.weights: only a route with",
        ),
        ('"+84912345678"', '"84"', "regions.VN.test_numbers: number 1:"),
        ('EUR = "1.08"', 'EUR = "0"', "currencies.EUR: a rate is more than 0"),
        (
            '84 = "0.030"}',
            '84 = "0.030"}\nprices_file = "p.csv"',
            "gateways.a: prices and prices_file exclude",
        ),
    ],
)
def test_a_mistake_in_them_is_one_line(old: str, new: str, line: str) -> None:
    assert old in ROUTED
    with pytest.raises(ConfigError) as caught:
        config_file.parse(ROUTED.replace(old, new, 1), "f")
    assert str(caught.value).startswith(f"f: {line}")


def test_a_price_file_stands_beside_volley_toml(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("to,price\n*,0.05\n")
    inline = 'prices = {"*" = "0.05", 84 = "0.030"}'
    (tmp_path / "volley.toml").write_text(ROUTED.replace(inline, 'prices_file = "p.csv"', 1))
    assert config_file.load(tmp_path / "volley.toml").gateways[0].prices == {"*": "0.05"}
    (tmp_path / "p.csv").write_text("to,price\n*,x\n")
    with pytest.raises(ConfigError, match=r"gateways\.a\.prices_file: line 2"):
        config_file.load(tmp_path / "volley.toml")
