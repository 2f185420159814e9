"""The alerts and dashboards against promtool, against our own /metrics, and against a real Prometheus."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from app import settings
from app.cli.configure import check_gateway
from app.engines import ports
from app.engines.process import spawn, stop
from app.engines.running import await_ready
from app.settings import Settings
from app.store import bootstrap

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
METRIC = re.compile(r"\b(?:volley|process)_[a-z_]+")
TYPE_LINE = re.compile(r"^# TYPE (\S+) (\S+)$", re.MULTILINE)
SENT = 50
TIMEOUT_S = 30.0
# What a short run on one gateway in good order has none of.
QUIET = {
    "volley_outcomes_total",
    "volley_held_total",
    "volley_inbound_total",
    "volley_messages_rejected_total",
    'state="unknown"',
    'result="parked"',
    'status="5xx"',
}
CONFIG = """\
[[gateways]]
name = "sandbox"
url = "smpp://volley:secret@127.0.0.1:{port}?bind=transceiver&binds=2&window=100&rate=0"

[[routes]]
to = "*"
gateways = ["sandbox"]
"""

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="Prometheus is not installed"
)


# -- what is asked


def _plain(expression: str) -> str:
    """Without Grafana's variables."""
    expression = expression.replace("$__rate_interval", "1m")
    return re.sub(r"\$(region|category|gateway)\b", ".*", expression)


def dashboard_queries() -> dict[str, str]:
    found = {}
    for path in sorted((DEPLOY / "grafana" / "dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                found[f"{path.stem}: {panel['title']} {target['refId']}"] = _plain(target["expr"])
    return found


def alert_queries() -> dict[str, str]:
    rules = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())
    return {rule["alert"]: rule["expr"] for group in rules["groups"] for rule in group["rules"]}


def promtool(*words: str | Path) -> None:
    done = subprocess.run(
        ["promtool", *map(str, words)], cwd=PROMETHEUS, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_the_configuration_is_valid() -> None:
    promtool("check", "config", "prometheus.yml")


@needs_promtool
def test_each_alert_holds_its_cases() -> None:
    promtool("test", "rules", "alerts_test.yml")


def test_every_alert_has_a_case() -> None:
    cases = (PROMETHEUS / "alerts_test.yml").read_text()
    assert [name for name in alert_queries() if f'alertname="{name}"' not in cases] == []


def test_every_alert_is_explained() -> None:
    explained = (DEPLOY / "README.md").read_text()
    assert [name for name in alert_queries() if f"`{name}`" not in explained] == []


@needs_promtool
def test_every_query_of_the_dashboards_parses(tmp_path: Path) -> None:
    rules = [{"record": f"q{i}", "expr": expr} for i, expr in enumerate(dashboard_queries().values())]
    assert len(rules) > 20
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    promtool("check", "rules", path)


# -- a running Volley


class Volley:
    """An API, a dispatcher and a sandbox; `ports` by role."""

    def __init__(self, key: str, found: dict[str, int]) -> None:
        self.key = key
        self.ports = found

    def get(self, role: str, path: str) -> str:
        return _request("GET", self.ports[role], path)[1]


def _request(
    method: str, port: int, path: str, body: str | None = None, headers: dict[str, str] | None = None
) -> tuple[int, str]:
    connection = http.client.HTTPConnection(ports.LOOPBACK, port, timeout=5.0)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def _until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not _holds(holds):
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.05)


def _holds(condition: Callable[[], bool]) -> bool:
    try:
        return condition()
    except (OSError, http.client.HTTPException):
        return False


@pytest.fixture(scope="module")
def volley(postgres_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Volley]:
    folder = tmp_path_factory.mktemp("volley")
    found = {name: ports.free() for name in ("api", "dispatch", "sandbox")}
    config = folder / "volley.toml"
    config.write_text(CONFIG.format(port=found["sandbox"]))
    bootstrap.seed(postgres_url, config, check_gateway)
    key = bootstrap.first_key(postgres_url, None)
    assert key is not None
    environ = settings.child_environment(
        Settings(
            port=found["api"],
            data_dir=folder,
            database_url=postgres_url,
            redis_url=redis_url,
            config=config,
            dispatcher_port=found["dispatch"],
            sandbox_port=found["sandbox"],
            log_level="warning",
        )
    )
    environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    running = []
    try:
        for name, ready in (
            ("sandbox", lambda: ports.answers(found["sandbox"])),
            ("dispatch", lambda: _holds(lambda: _request("GET", found["dispatch"], "/readyz")[0] == 200)),
            ("api", lambda: _holds(lambda: _request("GET", found["api"], "/readyz")[0] == 200)),
        ):
            options = ("--control-port", "-1") if name == "sandbox" else ()
            log = folder / f"{name}.log"
            with log.open("wb") as output:
                process = spawn(
                    [sys.executable, "-P", "-m", "app.cli", name, *options],
                    env=environ,
                    output=output,
                    death_signal=signal.SIGTERM,
                    cwd=folder,
                )
            running.append(process)
            await_ready(ready, process, name, log, TIMEOUT_S)
        volley = Volley(key, found)
        _send(volley)
        yield volley
    finally:
        for process in reversed(running):
            stop(process, [(signal.SIGTERM, 8.0)])


def _send(volley: Volley) -> None:
    """A batch, to its last receipt, and until the sweeper has compared the books."""
    body = {
        "category": "transactional",
        "sender": "12025550199",
        "body": "Hello {name}",
        "recipients": [{"to": f"+1415867{i:04d}", "variables": {"name": "A"}} for i in range(SENT)],
    }
    headers = {"Authorization": f"Bearer {volley.key}", "Content-Type": "application/json"}
    status, answer = _request("POST", volley.ports["api"], "/v1/batches", json.dumps(body), headers)
    assert status == 202, answer
    delivered = re.compile(
        rf'^volley_messages_total{{[^}}]*state="delivered"[^}}]*}} {SENT}\.0$', re.MULTILINE
    )
    _until(lambda: delivered.search(volley.get("dispatch", "/metrics")) is not None, "the receipts")
    _until(lambda: "volley_lane_parcels{" in volley.get("dispatch", "/metrics"), "the accounting")


def _exported(exposition: str) -> set[str]:
    found = set()
    for name, kind in TYPE_LINE.findall(exposition):
        parts = ("_bucket", "_count", "_sum") if kind == "histogram" else ("",)
        found |= {name + part for part in parts}
    return found


def test_every_metric_that_is_asked_for_exists(volley: Volley) -> None:
    exported = _exported(volley.get("api", "/metrics")) | _exported(volley.get("dispatch", "/metrics"))
    asked = {
        name: set(METRIC.findall(query)) for name, query in (dashboard_queries() | alert_queries()).items()
    }
    assert {name: missing for name, names in asked.items() if (missing := names - exported)} == {}


# -- a running Prometheus


@pytest.fixture(scope="module")
def prometheus(volley: Volley, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a Prometheus that scrapes `volley` as deploy/prometheus does, by address instead of by name."""
    folder = tmp_path_factory.mktemp("prometheus")
    config: dict[str, Any] = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "200ms", "scrape_timeout": "200ms", "evaluation_interval": "200ms"}
    config["rule_files"] = [str(PROMETHEUS / "alerts.yml")]
    of_job = {"volley-api": volley.ports["api"], "volley-dispatcher": volley.ports["dispatch"]}
    for job in config["scrape_configs"]:
        del job["dns_sd_configs"]
        job["static_configs"] = [{"targets": [f"127.0.0.1:{of_job[job['job_name']]}"]}]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    port, log = ports.free(), folder / "log"
    with log.open("wb") as output:
        process = spawn(
            [
                str(shutil.which("prometheus")),
                f"--config.file={path}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            env=os.environ,
            output=output,
            death_signal=signal.SIGTERM,
            cwd=folder,
        )
    try:
        ready = lambda: _holds(lambda: _request("GET", port, "/-/ready")[0] == 200)  # noqa: E731
        await_ready(ready, process, "prometheus", log, TIMEOUT_S)
        scraped = "min(count_over_time(up[1m])) >= 3 and count(up == 1) == 2"
        _until(lambda: _ask(port, scraped) != [], "three scrapes of both")
        yield port
    finally:
        stop(process, [(signal.SIGTERM, 5.0)])


def _ask(port: int, query: str) -> list[Any]:
    status, body = _request("GET", port, "/api/v1/query?" + urllib.parse.urlencode({"query": query}))
    answer = json.loads(body)
    assert status == 200, answer
    assert not answer.get("warnings"), answer
    return list(answer["data"]["result"])


@needs_prometheus
def test_every_panel_shows_something(prometheus: int) -> None:
    empty = [
        name
        for name, query in dashboard_queries().items()
        if not any(quiet in query for quiet in QUIET) and _ask(prometheus, query) == []
    ]
    assert empty == []


@needs_prometheus
def test_queries_for_what_did_not_happen_are_understood(prometheus: int) -> None:
    for query in dashboard_queries().values():
        _ask(prometheus, query)


@needs_prometheus
def test_no_alert_fires_while_all_is_well(prometheus: int) -> None:
    rules = json.loads(_request("GET", prometheus, "/api/v1/rules")[1])["data"]["groups"]
    states = {rule["name"]: (rule["state"], rule["health"]) for group in rules for rule in group["rules"]}
    assert states.keys() == alert_queries().keys()
    _until(
        lambda: all(
            rule["health"] == "ok"
            for group in json.loads(_request("GET", prometheus, "/api/v1/rules")[1])["data"]["groups"]
            for rule in group["rules"]
        ),
        "every alert evaluated",
    )
    assert _ask(prometheus, 'ALERTS{alertstate="firing"}') == []
