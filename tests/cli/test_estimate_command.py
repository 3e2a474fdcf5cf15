"""`visionq estimate`: the same for people and for programs."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from tests.cli.commands import json_of, visionq
from visionq.fleet import Fleets, WorkerReport
from visionq.names import Names

Env = dict[str, str]


def test_figures_are_printed_one_by_one(idle: Env, pictures: Path) -> None:
    images = [pictures / "shelf_before.png", pictures / "shelf_after.png"]
    told = visionq(idle, "estimate", "compare", *images, "--max-new-tokens=50")
    assert (told.exit_code, told.stderr) == (0, "")
    figures = dict(line.split(maxsplit=1) for line in told.stdout.splitlines())
    assert figures == {
        "image_tokens": "757 + 757",
        "max_prompt_tokens": "1594",
        "max_new_tokens": "50",
        "max_context_tokens": "unknown",
        "fits": "unknown",
        "position": "0",
        "seconds": "unknown",
        "has_workers": "no: `visionq up` or `visionq-worker run` starts one",
    }
    assert visionq(idle, "ls").stdout == "none\n"


@pytest.mark.parametrize(
    ("rate", "taken", "printed"),
    [(1.0, 3.2837483, "3.3"), (1.0, 0.04231, "0.042"), (1.0, 72.6, "73")],
)
def test_seconds_are_rounded(
    idle: Env,
    raw: redis.Redis,
    names: Names,
    pictures: Path,
    rate: float,
    taken: float,
    printed: str,
) -> None:
    report = WorkerReport(
        model="m",
        model_revision=None,
        max_context_tokens=16_384,
        concurrency=1,
        tasks_per_second=rate,
        seconds_per_task=taken,
    )
    Fleets(raw, names).tell("hand", report)
    told = visionq(idle, "estimate", "ocr", pictures / "book_cover.jpg")
    figures = dict(line.split(maxsplit=1) for line in told.stdout.splitlines())
    assert (figures["seconds"], figures["fits"], figures["has_workers"]) == (printed, "yes", "yes")


def test_json_has_every_field(idle: Env, pictures: Path) -> None:
    cover = pictures / "book_cover.jpg"
    visionq(idle, "submit", "ocr", "inputs/a", "--lane=bulk")
    told = visionq(
        idle, "estimate", "ocr", cover, "--num-crops=4", "--field=title", "--lane=bulk", "--json"
    )
    found = json_of(told)
    assert found["image_tokens"] == [757]
    assert (found["fits"], found["position"], found["has_workers"]) == (None, 1, False)


def test_an_image_that_has_no_size_exits_2(idle: Env, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("Dear Sir or Madam,")
    told = visionq(idle, "estimate", "ocr", tmp_path / "letter.txt", "--json")
    assert (told.exit_code, json_of(told)["code"]) == (2, "not_an_image")
