"""The benchmark counts only what is whole: every way in which a run can be worth nothing is one that it notices."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def _loadtests_can_be_imported() -> Any:
    sys.path.insert(0, str(ROOT))
    yield
    sys.path.remove(str(ROOT))


def whole(bench: Any) -> dict[str, Any]:
    """A result without a fault: 10 messages, all delivered."""
    return {
        "accounting": {
            "accepted": 10,
            "stored": 10,
            "final": {"delivered": 10},
            "open": 0,
            "in_parcels": 0,
            "difference": 0,
            "deltas_difference": 0,
        },
        "carrier": {"submits": 10, "receipts": 10},
        "durability": dict(bench.DURABLE),
    }


def test_a_whole_run_has_no_fault() -> None:
    from loadtests import bench  # noqa: PLC0415

    assert bench.faults(whole(bench), bench.Posted(accepted=10), 10) == []


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("accounting", "final"), {"delivered": 9, "undelivered": 1}, "9 of 10 messages were delivered"),
        (("accounting", "difference"), 1, "does not balance"),
        (("accounting", "deltas_difference"), -1, "does not balance"),
        (("accounting", "open"), 1, "does not balance"),
        (("accounting", "in_parcels"), 1, "does not balance"),
        (("accounting", "stored"), 11, "11 messages are stored"),
        (("carrier", "submits"), 11, "the carrier got 11 submits"),
        (("durability", "fsync"), "off", "not everything is durable"),
        (("durability", "appendfsync"), "no", "not everything is durable"),
    ],
)
def test_a_fault_is_noticed(path: tuple[str, str], value: Any, said: str) -> None:
    from loadtests import bench  # noqa: PLC0415

    result = copy.deepcopy(whole(bench))
    result[path[0]][path[1]] = value
    (fault,) = bench.faults(result, bench.Posted(accepted=10), 10)
    assert said in fault


def test_refused_posts_are_a_fault() -> None:
    from loadtests import bench  # noqa: PLC0415

    found = bench.faults(whole(bench), bench.Posted(accepted=10, errors=["503"]), 10)
    assert found == ["1 posts failed: 503"]


def test_its_numbers_are_valid_once_each_and_none_means_a_fault_to_the_sandbox() -> None:
    import itertools  # noqa: PLC0415

    from app.domain import phone  # noqa: PLC0415
    from loadtests import bench  # noqa: PLC0415

    sample = list(itertools.islice(bench.numbers(), 0, 1_000_000, 997))
    assert len(set(sample)) == len(sample)
    assert all(phone.parse(number).country == "US" for number in sample)
    assert not any(number[5:8] == "555" for number in sample)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_cpu_time_counts_children_that_ended_and_those_that_run() -> None:
    from loadtests import rig  # noqa: PLC0415

    burn = "import time\nwhile time.process_time() < 0.3: pass\n"
    script = (
        f"import subprocess, sys, time; subprocess.run([sys.executable, '-c', {burn!r}]);"
        f"subprocess.Popen([sys.executable, '-c', {burn!r} + 'time.sleep(60)']); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    try:
        deadline = time.monotonic() + 30
        while (spent := rig.cpu_of_trees({"it": process.pid})["it"]) < 0.6:
            assert time.monotonic() < deadline, spent
            time.sleep(0.02)
        assert rig.cpu_of_trees({"other": 2**22 + 1}) == {"other": 0.0}
    finally:
        os.killpg(process.pid, 9)
        process.wait()


@pytest.mark.soak
def test_a_short_run_balances_and_prints_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "loadtests.bench", "--messages", "300", "--batch-size", "100"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    result = json.loads(line)
    assert result["accounting"]["final"] == {"delivered": 300}
    assert result["accept_to_submit_s"]["p50"] <= result["accept_to_delivered_s"]["p50"]
    assert set(result["cpu_s_per_1000"]) == {
        "api", "dispatch", "sandbox", "postgres", "valkey", "client", "all",
    }  # fmt: skip
