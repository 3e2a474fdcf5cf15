"""How threads wait on the CPU: set before torch is imported, in the worker and all it starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from visionq_worker import cpu
from visionq_worker.cpu import num_cores, set_up_cpu

OPENMP = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def test_threads_sleep_while_they_wait_unless_the_environment_says_otherwise() -> None:
    for given, wait in (
        ({}, "passive"),
        ({"OMP_WAIT_POLICY": "active"}, "active"),
        ({"GOMP_SPINCOUNT": "1000"}, None),
    ):
        told = dict(given)
        set_up_cpu(environment=told)
        assert told.get("OMP_WAIT_POLICY") == wait


def test_the_number_of_threads_is_the_settings_then_the_containers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = tmp_path / "cpu.max"
    monkeypatch.setattr(cpu, "CGROUP_LIMIT", limit)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    for text, asked, threads in (
        ("150000 100000\n", None, "2"),
        ("150000 100000\n", 8, "8"),
        ("800000 100000\n", None, "3"),  # more than the cores of its affinity
        ("max 100000\n", None, None),
        ("nonsense", None, None),
    ):
        limit.write_text(text)
        told: dict[str, str] = {}
        set_up_cpu(asked, environment=told)
        assert told.get("OMP_NUM_THREADS") == threads
    told = {"OMP_NUM_THREADS": "3"}
    set_up_cpu(8, environment=told)
    assert told["OMP_NUM_THREADS"] == "3"


def test_cores_are_no_more_than_the_container_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = tmp_path / "cpu.max"
    monkeypatch.setattr(cpu, "CGROUP_LIMIT", limit)
    assert 1 <= num_cores() <= (os.cpu_count() or 1)
    limit.write_text("50000 100000\n")
    assert num_cores() == 1


def test_the_application_sets_it_before_torch_is_imported() -> None:
    program = (
        "import os, sys\n"
        "from visionq.settings import load_settings\n"
        "from visionq_worker.app import build_app\n"
        "build_app(load_settings(engine={'cpu_threads': 1}))\n"
        "assert 'torch' not in sys.modules\n"
        "import torch\n"
        "print(os.environ['OMP_WAIT_POLICY'], torch.get_num_threads())\n"
    )
    plain = {name: value for name, value in os.environ.items() if name not in OPENMP}
    done = subprocess.run(
        [sys.executable, "-c", program], env=plain, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["passive", "1"]
