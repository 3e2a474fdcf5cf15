"""That the bench measures every bar and prints it. How fast anything is, is no test's business."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.children import REPOSITORY
from tests.bench_engine.gpu.__main__ import read_arguments
from tests.bench_engine.gpu.floors import Floors, Rates
from tests.bench_engine.gpu.network import PUBLISHED, Shape, published_config
from tests.bench_engine.steady import numbers_of_tokens, rate
from visionq_worker.model.geometry import Grid

SMALL = ("--rounds", "1", "--scale", "0.03")
QUICK_BARS = ("cpu", "prepare")
"""The others start processes with a model each, for half a minute; `make bench-engine` does."""

FOREIGN = ("celery", "kombu", "redis", "boto3", "pydantic", "visionq")
"""A machine that is lent for its GPU has none of these."""

RUN_GPU_BENCH = """
import sys
from tests.bench_engine.gpu.__main__ import main
code = main()
print("LOADED", *{name.partition(".")[0] for name in sys.modules})
sys.exit(code)
"""
"""As `python -m tests.bench_engine.gpu`, and then what it has imported."""

H200 = Rates(bytes_per_second=4.8e12, flops=790e12)
"""Of the study whose numbers stand below (shared/research/phi3v.md, section 7)."""


ALONE = {**os.environ, "OMP_NUM_THREADS": "1"}
"""Threads that meet after each small operation crawl when other tests have their cores."""


def python(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        env=ALONE,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout


def test_bars_are_measured_and_reported_as_json() -> None:
    report = json.loads(python("-m", "tests.bench_engine", "--json", *SMALL, *QUICK_BARS))
    readings = report["readings"]
    assert list(dict.fromkeys(reading["bar"] for reading in readings)) == list(QUICK_BARS)
    assert all(reading["measured"] > 0 for reading in readings)
    assert sum(reading["limit"] is not None for reading in readings) == 4


def test_the_gpu_bench_measures_a_toy_without_the_service(tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    whole = python("-c", RUN_GPU_BENCH, "--device", "cpu", "--json", str(file))
    printed, _, loaded = whole.partition("LOADED")
    assert not set(loaded.split()) & set(FOREIGN)
    report = json.loads(file.read_text())
    assert report["troubles"] == []
    figures = {(one["what"], one["num_image"], one["batch"]): one for one in report["figures"]}
    assert sorted(figures) == sorted(
        (what, num_image, batch)
        for num_image in (313, 457)
        for what, batches in (("prefill", (1, 3)), ("decode", (1, 3)), ("images", (3,)))
        for batch in batches
    )
    for (what, _, batch), figure in figures.items():
        assert figure["ours"] > 0
        assert figure["floor"] > 0
        assert (figure["alone"] is None) == (batch == 3 and what != "images")
        assert (figure["static"] is None) == (batch == 1), figure["notes"]
    errors = [one for one in report["readings"] if one["bar"] == "accuracy"]
    assert errors
    assert all(0 < one["measured"] < 1.2 for one in errors)
    assert "| decode, ms/step | 457 | 3 |" in printed


def test_an_unknown_section_is_refused_with_the_names_of_the_sections(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="2"):
        read_arguments(["speed", "--device", "cpu"])
    message = "no section speed; there are alone, static, engine, accuracy"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("side", "num_image", "teraflops", "prefill_ms"),
    [(2, 757, 7.65, 9.7), (4, 2509, 26.0, 32.8)],
)
def test_prefill_floors_are_those_of_the_study(
    side: int, num_image: int, teraflops: float, prefill_ms: float
) -> None:
    floors = Floors(published_config(**PUBLISHED))
    prompt = Shape(Grid(side, side)).prompt
    assert prompt.num_image == num_image
    assert floors.prefill_flops(prompt) / 1e12 == pytest.approx(teraflops, rel=0.005)
    assert floors.prefill_seconds(prompt, H200) * 1e3 == pytest.approx(prefill_ms, rel=0.005)


@pytest.mark.parametrize(
    ("side", "batch", "step_ms", "images"),
    [(2, 1, 1.62, 5.8), (2, 64, 5.91, 53), (4, 1, 1.76, 4.8), (4, 64, 15.1, 17.7)],
)
def test_decode_floors_are_those_of_the_study(
    side: int, batch: int, step_ms: float, images: float
) -> None:
    floors = Floors(published_config(**PUBLISHED))
    prompt = Shape(Grid(side, side)).prompt
    num_cached = batch * (prompt.num_tokens + 50)  # in the middle of 100 tokens
    assert floors.decode_seconds(num_cached, H200) * 1e3 == pytest.approx(step_ms, rel=0.005)
    found = floors.images_per_second(prompt, H200, num_new=100, in_flight=batch)
    assert found == pytest.approx(images, rel=0.01)


def test_a_rate_is_that_between_the_first_and_the_last_completions() -> None:
    assert rate([9.0, 1.0, 2.0, 2.5, 3.0, 0.0], 1) == 1.5


def test_requests_of_one_load_do_not_end_in_step() -> None:
    assert numbers_of_tokens(32, 7) == [24, 28, 32, 36, 40, 24, 28]
    assert numbers_of_tokens(1, 3) == [1, 1, 1]
