"""Drawn pictures: the same again from their seed, readable, and answered truly."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from random import Random

import numpy as np
import pytest

from visionq.kinds import BUILTIN_KINDS
from visionq.schemas import strict_schema
from visionq_worker.documents import read_document
from visionq_worker.outputs import parse
from visionq_worker.pocket.world.charts import FLOOR_PX, POINT_PX, draw_line_chart
from visionq_worker.pocket.world.documents import FIELDS, NUM_ASKED
from visionq_worker.pocket.world.fonts import BUILT_IN, faces, font, size_for
from visionq_worker.pocket.world.level import HARDEST, LEVELS, LONGER_SIDE_PX, Level
from visionq_worker.pocket.world.samples import SORTS, Sample, sample, samples

SEEDS = range(6)
EVERY = [(sort, seed) for sort in SORTS for seed in SEEDS]


@pytest.mark.parametrize("sort", SORTS)
def test_the_same_seed_draws_the_same_and_another_does_not(sort: str) -> None:
    first, again, other = sample(sort, 1), sample(sort, 1), sample(sort, 2)
    assert first.answer == again.answer
    assert [one.image.tobytes() for one in first.canvases] == [
        one.image.tobytes() for one in again.canvases
    ]
    assert first.canvases[0].image.tobytes() != other.canvases[0].image.tobytes()


def test_more_is_asked_about_a_picture_where_there_is_another_answer() -> None:
    asked = {
        sort: {tuple(sorted(one.kind for one in samples(sort, seed))) for seed in range(30)}
        for sort in SORTS
    }
    assert asked["cover"] == {("ocr", "ocr")}
    for sort in ("chart", "line-chart"):
        assert asked[sort] == {("analyze",)}, "in other words, with the same answer"
    assert asked["scene"] == {("describe",), ("describe", "detect")}, "no boxes where it is turned"
    assert max(len(kinds) for kinds in asked["document"]) == NUM_ASKED


def test_levels_are_harder_and_harder() -> None:
    for before, after in pairwise(LEVELS):
        assert before.min_letter_px >= after.min_letter_px
        assert before.max_words <= after.max_words
        assert before.max_syllables <= after.max_syllables
    for level in LEVELS:
        numbers = {len(sample("scene", seed, level).canvases[0].marks) for seed in range(60)}
        assert numbers == set(range(2, level.max_shapes + 1))


@pytest.mark.parametrize(("sort", "seed"), EVERY)
@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
def test_what_is_drawn_is_within_the_picture(sort: str, seed: int, level: Level) -> None:
    drawn = sample(sort, seed, level)
    for canvas in drawn.canvases:
        assert max(canvas.image.size) == LONGER_SIDE_PX
        assert canvas.marks or sort == "pair"
        for mark in canvas.marks:
            left, top, right, bottom = mark.box
            assert -4 <= left < right <= canvas.image.width + 4, mark
            assert -4 <= top < bottom <= canvas.image.height + 4, mark


@pytest.mark.parametrize("seed", SEEDS)
def test_marks_stand_where_the_letters_are(seed: int) -> None:
    """Each letter's box has its ink in it, however the picture is turned."""
    (canvas,) = sample("cover", seed).canvases
    pixels = np.asarray(canvas.image.convert("L"), dtype=int)
    ground = np.asarray(canvas.ground) @ (0.299, 0.587, 0.114)
    for mark in canvas.marks:
        left, top, right, bottom = (round(edge) for edge in mark.box)
        inside = pixels[max(0, top) : bottom + 1, max(0, left) : right + 1]
        assert np.abs(inside - ground).max() > 60, mark


@pytest.mark.parametrize("seed", SEEDS)
def test_a_cover_shows_the_letters_of_its_answer(seed: int) -> None:
    drawn = sample("cover", seed)
    shown = "".join(mark.what for mark in drawn.canvases[0].marks)
    told = [*drawn.value.values()] if isinstance(drawn.value, dict) else drawn.value
    assert sorted(shown) == sorted("".join(told).replace(" ", ""))


@pytest.mark.parametrize(("sort", "seed"), EVERY)
def test_answers_are_what_the_kind_would_parse(sort: str, seed: int) -> None:
    drawn = sample(sort, seed)
    kind = BUILTIN_KINDS[drawn.kind]
    kind.check(drawn.kind, len(drawn.canvases), drawn.question)
    value = parse(drawn.answer, kind.parser, drawn.canvases[0].image.size)
    if kind.parser == "table":
        assert value["header"] == drawn.value["header"]
        assert value["rows"] == drawn.value["rows"]
    if kind.parser == "boxes":
        assert [box["label"] for box in value] == [thing["label"] for thing in drawn.value]


@pytest.mark.parametrize("seed", range(40))
def test_a_pair_differs_in_one_place_alone(seed: int) -> None:
    drawn = sample("pair", seed)
    marks = [mark for canvas in drawn.canvases for mark in canvas.marks]
    pixels = [np.asarray(one.image, dtype=int) for one in drawn.canvases]
    # Noise is a few, a colour or the ground instead of it is many.
    rows, columns = np.nonzero(np.abs(pixels[0] - pixels[1]).max(axis=2) > 70)
    around = [
        mark
        for mark in marks
        if mark.box[0] - 6 <= columns.min()
        and columns.max() <= mark.box[2] + 6
        and mark.box[1] - 6 <= rows.min()
        and rows.max() <= mark.box[3] + 6
    ]
    assert around
    assert drawn.value["changed"] in drawn.answer


@pytest.mark.parametrize("seed", range(30))
def test_a_document_fits_its_schema_and_says_what_is_there(seed: int) -> None:
    for drawn in samples("document", seed):
        assert drawn.schema is not None
        strict_schema(drawn.schema)  # or the client would refuse it
        value, verdict = read_document(drawn.answer, drawn.schema, finish_reason="stop")
        assert verdict.outcome == "ok"
        assert value == drawn.value
        shown = Counter(mark.what for canvas in drawn.canvases for mark in canvas.marks)
        for key, fact in value.items():
            if fact is not None:
                assert isinstance(fact, FIELDS[key])
                assert Counter(str(fact).replace(" ", "")) <= shown


def test_documents_differ_in_what_they_ask_for() -> None:
    values = [sample("document", seed).value for seed in range(200)]
    assert {("title", "author"), ("author", "title"), ("value",)} <= {*map(tuple, values)}
    absent = {key for value in values for key, fact in value.items() if fact is None}
    assert absent == FIELDS.keys() - {"title"}
    assert any([*value.values()].index(None) == 0 for value in values if None in value.values())


def test_an_optional_property_may_be_in_the_picture_or_not() -> None:
    found = set()
    for seed in range(200):
        drawn = sample("document", seed)
        assert drawn.schema is not None
        for key in drawn.value.keys() - drawn.schema.get("required", []):
            found.add(drawn.value[key] is None)
    assert found == {True, False}


def test_the_answer_about_a_chart_names_the_largest_bar() -> None:
    for seed in range(30):
        drawn: Sample = sample("chart", seed)
        bars = [mark for mark in drawn.canvases[0].marks if mark.what == "bar"]
        heights = [mark.box[3] - mark.box[1] for mark in bars]
        listed = drawn.answer.split(". ")[-2].split(", ")
        assert listed[int(np.argmax(heights))] == f"{drawn.value['largest']} {drawn.value['value']}"


@pytest.mark.parametrize("seed", range(30))
def test_a_line_chart_shows_what_its_answer_says(seed: int) -> None:
    """Labels and values in their order, and one line through points as high as the values."""
    drawn = draw_line_chart(Random(seed), HARDEST)  # neither turned nor noisy
    (canvas,), told = drawn.canvases, drawn.asked[0].value
    listed = [entry.split() for entry in drawn.asked[0].answer.split(". ")[1].split(", ")]
    letters = iter(canvas.marks)
    title = told["title"].replace(" ", "")
    assert "".join(next(letters).what for _ in title) == title
    middles, bottoms = [], []
    for label, value in listed:
        digits = [next(letters) for _ in value]
        assert "".join(mark.what for mark in digits) == value
        assert "".join(next(letters).what for _ in label) == label
        middles.append((digits[0].box[0] + digits[-1].box[2]) / 2)
        bottoms.append(max(mark.box[3] for mark in digits))
    values = [int(value) for _, value in listed]
    largest = values.index(max(values))
    assert listed[largest] == [told["largest"], str(told["value"])]
    pixels = np.asarray(canvas.image)
    # The first thing under the largest value is the upper edge of its point.
    column, below = round(middles[largest]), round(bottoms[largest]) + 2
    highest = below + int((pixels[below:, column] != canvas.ground).any(axis=1).argmax()) + POINT_PX
    points = [
        (x, FLOOR_PX - (FLOOR_PX - highest) * value / max(values))
        for x, value in zip(middles, values, strict=True)
    ]
    colour = pixels[highest, column]
    between = [((a + c) / 2, (b + d) / 2) for (a, b), (c, d) in pairwise(points)]
    for x, y in [*points, *between]:
        near = pixels[round(y) - 8 : round(y) + 9, round(x)]
        assert (near == colour).all(axis=1).any(), (x, y)


@pytest.mark.parametrize("face", faces())
def test_capitals_are_as_high_as_asked(face: str) -> None:
    box = font(face, size_for(face, 40)).getbbox("H")
    assert 38 <= box[3] - box[1] <= 42


def test_there_is_a_face_without_any_package() -> None:
    assert faces()[0] == BUILT_IN


def test_an_unknown_sort_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="no sort 'poem'; there are cover, chart"):
        sample("poem", 1)


def test_boxes_of_a_scene_are_in_thousandths() -> None:
    drawn = [sample("scene", seed) for seed in range(20)]
    found = [json.loads(one.answer) for one in drawn if one.kind == "detect"]
    assert len(found) > 5
    for thing in (thing for things in found for thing in things):
        left, top, right, bottom = thing["box"]
        assert 0 <= left < right <= 1000
        assert 0 <= top < bottom <= 1000


def test_boxes_are_where_the_shapes_are_in_the_finished_picture() -> None:
    asked = [one for seed in range(20) for one in samples("scene", seed) if one.kind == "detect"]
    assert len(asked) > 5
    for one in asked:
        marked = [[round(edge * 1000 / 672) for edge in mark.box] for mark in one.canvases[0].marks]
        assert [thing["box"] for thing in one.value] == marked
