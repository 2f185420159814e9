"""docs/gateways.md has every kind of gateway, every option and default of each, and only tests that exist."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import gateways
from gateways import provider
from gateways.smpp.config import Options

TESTS = Path(__file__).parent
PAGE = (TESTS.parents[1] / "docs" / "gateways.md").read_text()
ROWS = {
    re.sub(r"`", "", cells[0].strip()): [cell.strip() for cell in cells]
    for cells in (line[1:-1].split(" | ") for line in PAGE.splitlines() if line.startswith("| `"))
}
HTTP = sorted(
    module.name
    for module in pkgutil.iter_modules(gateways.__path__)
    if hasattr(importlib.import_module(f"gateways.{module.name}"), "receive") and module.name != "http"
)


@pytest.mark.parametrize("option", Options.__struct_fields__)
def test_every_option_of_smpp_has_a_row_with_its_default(option):
    assert ROWS[option][2].strip("`") == shown(getattr(Options(), option))


def shown(default):
    if default is None or default == {}:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    return default if isinstance(default, str) else f"{default:g}"


@pytest.mark.parametrize("option", sorted(provider._LINK_KEYS | {"callback_url"}))
def test_every_option_of_http_has_a_row(option):
    assert option in ROWS


def test_every_kind_has_a_row_and_no_other():
    kinds = {
        module.name
        for module in pkgutil.iter_modules(gateways.__path__)
        if hasattr(importlib.import_module(f"gateways.{module.name}"), "build")
    }
    assert kinds == {*HTTP, "smpp"}
    assert {name for name, cells in ROWS.items() if len(cells) > 4} == set(HTTP)


@pytest.mark.parametrize("kind", HTTP)
def test_every_option_of_a_provider_is_in_its_row(kind, monkeypatch):
    """As its `parse` tells `parse_dsn` which ones there are."""
    module = importlib.import_module(f"gateways.{kind}")
    told = []

    class Stop(Exception):
        pass

    def listen(name, url, settings, *, extra=(), **_):
        told.extend(extra)
        raise Stop

    monkeypatch.setattr(inspect.getmodule(module.parse), "parse_dsn", listen)
    with pytest.raises(Stop):
        module.parse("g", f"{kind}://u:p@h", {})
    assert set(re.findall(r"`(\w+)`", ROWS[kind][2])) == set(told)


@pytest.mark.parametrize("row", ROWS)
def test_the_tests_that_it_names_exist(row):
    test = ROWS[row][-1].strip("`")
    if test == "not by itself":
        return
    file, _, function = test.partition("::")
    text = (TESTS / file).read_text()
    assert not function or re.search(rf"def {function}\(", text)
