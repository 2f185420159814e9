"""docs/sandbox.md names everything that there is: settings, options, routes, fields of a text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateways.sandbox import Behaviour, Sandbox
from gateways.sandbox.behaviour import MAGIC
from gateways.sandbox.command import _parser
from gateways.sandbox.control import application
from gateways.sandbox.texts import Inbound

PAGE = (Path(__file__).parents[2] / "docs" / "sandbox.md").read_text()
ROWS = [line for line in PAGE.splitlines() if line.startswith("| `")]
NAMED = {name for row in ROWS for name in re.findall(r"`([^`]+)`", row.split("|")[1])}


@pytest.mark.parametrize("setting", Behaviour.__struct_fields__)
def test_every_setting_has_a_row(setting):
    assert setting in NAMED


def test_every_option_has_a_row():
    options = {word for action in _parser()._actions for word in action.option_strings} - {"-h", "--help"}
    named = {word for name in NAMED for word in name.split() if word.startswith("--")}
    assert named == options


def test_every_route_has_a_row():
    routes = {
        f"{route.method} {route.resource.canonical}"
        for route in application(Sandbox()).router.routes()
        if route.method != "HEAD"
    }
    assert {name for name in NAMED if name.startswith(("GET ", "POST "))} == routes


def test_every_field_of_a_text_and_every_magic_number_is_named():
    for field in Inbound.__struct_encode_fields__:
        assert f"`{field}`" in PAGE
    for number in MAGIC:
        assert number.decode() in PAGE
