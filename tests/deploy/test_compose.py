"""What can be known of the container set-up without Docker: its files exist, its settings and commands do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import yaml

from app import config_file, settings
from app.cli import volley

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
PRODUCT = re.compile(r"^volley(:|$)")


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return dict(document["services"])


def ours(services: dict[str, Any]) -> dict[str, Any]:
    return {name: one for name, one in services.items() if PRODUCT.match(one["image"])}


def test_each_service_of_ours_runs_a_command_that_exists(services: dict[str, Any]) -> None:
    for name, service in ours(services).items():
        program, first, *_ = service["command"]
        assert program == "volley", name
        assert first in volley.commands, name


def test_each_setting_exists(services: dict[str, Any]) -> None:
    known = {settings.PREFIX + field.upper() for field in settings.READERS}
    for name, service in ours(services).items():
        assert {one for one in service["environment"] if one.startswith(settings.PREFIX)} <= known, name


def test_every_variable_has_a_default_or_stands_in_the_example() -> None:
    example = set(re.findall(r"^([A-Z_]+)=", (DEPLOY / "env.example").read_text(), re.MULTILINE))
    asked = set(re.findall(r"(?<!\$)\$\{([A-Z_]+)(?!\w)[^}]*}", COMPOSE.read_text()))
    assert asked <= example


def test_what_is_mounted_exists(services: dict[str, Any]) -> None:
    mounted = [str(volume).partition(":")[0] for s in services.values() for volume in s.get("volumes", [])]
    assert [path for path in mounted if path.startswith("./") and not (DEPLOY / path).exists()] == []


def test_dependencies_exist_and_can_be_waited_for(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            assert other in services, name
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services[other], f"{name} waits for {other}"


def test_what_prometheus_asks_for_is_a_service(services: dict[str, Any]) -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    names = {n for job in config["scrape_configs"] for sd in job["dns_sd_configs"] for n in sd["names"]}
    assert names == {"api", "dispatcher"}
    assert names <= services.keys()


def test_ours_have_no_rights_that_they_do_not_need(services: dict[str, Any]) -> None:
    for name, service in ours(services).items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
    assert re.search(r"^USER 10001:10001$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)


def test_the_image_gets_what_the_wheel_needs() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    let_in = set((DEPLOY / "Dockerfile.dockerignore").read_text().split())
    for name in " ".join(copied).split():
        assert f"!{name}" in let_in


async def test_a_first_start_makes_key_and_configuration_once(postgres_url: str) -> None:
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith(settings.PREFIX)},
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "VOLLEY_DATABASE_URL": postgres_url,
        "VOLLEY_API_KEY": "vk_" + "k" * 40,
        "VOLLEY_CONFIG": str(DEPLOY / "volley.toml"),
    }
    for seeded in (True, False):
        done = subprocess.run(
            [sys.executable, "-m", "app.cli", "migrate"],
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert ("configuration: from" in done.stdout + done.stderr) is seeded
    connection = await asyncpg.connect(postgres_url)
    try:
        assert await connection.fetchval("SELECT count(*) FROM api_keys") == 1
        assert await connection.fetchval("SELECT count(*) FROM gateways") == 1
    finally:
        await connection.close()


def test_the_configuration_is_valid() -> None:
    assert config_file.load(DEPLOY / "volley.toml").gateways[0].name == "sandbox"
