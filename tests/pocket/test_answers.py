"""The pocket model behind the whole service: it reads the pictures of its world."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from tests.eval_pocket.scoring import is_right
from tests.support.drawn import EVALUATED, NOT_TAUGHT, png_files
from visionq import Client
from visionq_worker.pocket.world.samples import SORTS, sample

DEMO = Path(__file__).parents[2] / "examples" / "demo.py"
SECONDS = 60.0
FIRST_SEED = 700_002
"""Neither trained on nor part of the evaluation."""
NUM_ASKED = 4
FEWEST_RIGHT = {"cover": 3, "chart": 3, "table": 3, "scene": 2, "pair": 3}
"""Of those, well below what is measured on many more (`make eval-pocket`)."""


@pytest.mark.parametrize("sort", FEWEST_RIGHT)
def test_most_pictures_are_read_rightly(pocket: Client, sort: str) -> None:
    asked = [sample(sort, FIRST_SEED + number, EVALUATED) for number in range(NUM_ASKED)]
    tasks = [pocket.submit(one.kind, png_files(one), one.question) for one in asked]
    results = [task.result(SECONDS) for task in tasks]
    right = [
        is_right(one, result.text or "", result.value)
        for one, result in zip(asked, results, strict=True)
    ]
    assert FEWEST_RIGHT.keys() == SORTS.keys() - NOT_TAUGHT
    assert sum(right) >= FEWEST_RIGHT[sort], [result.text for result in results]


@pytest.mark.parametrize(
    ("number", "answer"),
    [
        (0, "Grea. Q3 56, 2021 20, 2022 38, E 23. The largest is Q3 with 56."),
        (1, "Title: Groatdub Veamstainti\nAuthor: Vuckker Nick"),
        (2, "The blue diamond is missing in the second picture."),
    ],
)
def test_the_demo_gets_true_answers(
    pocket: Client, pictures: Path, number: int, answer: str
) -> None:
    job = runpy.run_path(str(DEMO))["POCKET_JOBS"][number]
    task = pocket.submit(job.kind, [pictures / name for name in job.pictures], job.question)
    result = task.result(SECONDS)
    assert result.text == answer
    assert result.verdict is not None
    assert result.verdict.outcome == "ok"
    assert result.provenance.num_crops == 4, "the model was trained for no more"


def test_more_crops_than_it_was_trained_for_change_nothing(pocket: Client, pictures: Path) -> None:
    cover = pictures / "world_cover.jpg"
    few, many = (
        pocket.ocr(cover, "Title and author?", num_crops=number).result(SECONDS)
        for number in (4, 16)
    )
    assert few.text == many.text
    assert many.provenance.num_crops == 4
    assert few.usage == many.usage


def test_an_estimate_knows_of_the_crops(pocket: Client, pictures: Path) -> None:
    cover = pictures / "world_cover.jpg"
    pocket.ocr(cover, "Title and author?").result(SECONDS)  # by now the worker has told
    assert pocket.estimate("ocr", cover).image_tokens == (757,)
