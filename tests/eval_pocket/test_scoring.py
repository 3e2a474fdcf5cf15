"""The evaluation's own measures: the true answer is right, a near one is not."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.eval_pocket.scoring import edits, is_right
from visionq.kinds import BUILTIN_KINDS
from visionq_worker.documents import read_document
from visionq_worker.outputs import parse
from visionq_worker.pocket.world.samples import SORTS, Sample, sample

SHORT = st.text("abc", max_size=6)


def judged(drawn: Sample, text: str) -> bool:
    """As the service would hand the text over."""
    if drawn.schema is None:
        value = parse(text, BUILTIN_KINDS[drawn.kind].parser, drawn.canvases[0].image.size)
    else:
        value = read_document(text, drawn.schema, finish_reason="stop")[0]
    return is_right(drawn, text, value)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("sort", SORTS)
def test_the_true_answer_is_right_and_that_of_another_picture_is_not(sort: str, seed: int) -> None:
    drawn = sample(sort, seed)
    assert judged(drawn, drawn.answer)
    other = next(
        one
        for number in range(seed + 1, seed + 99)
        if (one := sample(sort, number)).kind == drawn.kind and one.value != drawn.value
    )
    assert not judged(drawn, other.answer)
    assert not judged(drawn, "")


@pytest.mark.parametrize("sort", ["cover", "table"])
def test_one_wrong_letter_is_wrong(sort: str) -> None:
    drawn = sample(sort, 1)
    assert not judged(drawn, drawn.answer[:-1] + "#")


@pytest.mark.parametrize("seed", range(12))
def test_a_document_with_one_wrong_fact_is_wrong(seed: int) -> None:
    drawn = sample("document", seed)
    assert judged(drawn, json.dumps(drawn.value))
    for key, fact in drawn.value.items():
        other = {int: 7, str: "Nobody", type(None): "1999"}[type(fact)]
        assert not judged(drawn, json.dumps(drawn.value | {key: other}))


def test_what_the_picture_does_not_say_may_be_left_out_where_the_schema_has_it_so() -> None:
    drawn = next(
        one
        for seed in range(99)
        if (one := sample("document", seed)).schema is not None
        and one.value.keys() - one.schema["required"]
    )
    assert drawn.schema is not None
    assert judged(drawn, json.dumps({key: drawn.value[key] for key in drawn.schema["required"]}))
    assert not judged(drawn, "{}")


def test_shapes_may_be_listed_in_any_order() -> None:
    drawn = next(one for seed in range(9) if (one := sample("scene", seed)).kind == "describe")
    listed = ", ".join(f"a {label}" for label in reversed(drawn.value))
    assert judged(drawn, f"A{listed[1:]}.")
    assert not judged(drawn, f"A{listed[1:]}, a red circle.")


@pytest.mark.parametrize(
    ("wanted", "found", "count"), [("", "", 0), ("cat", "", 3), ("cat", "cut", 1), ("at", "cat", 1)]
)
def test_edits_are_counted(wanted: str, found: str, count: int) -> None:
    assert edits(wanted, found) == count


@given(SHORT, SHORT, SHORT)
def test_edits_are_a_distance(one: str, two: str, three: str) -> None:
    assert edits(one, two) == edits(two, one)
    assert (edits(one, two) == 0) == (one == two)
    assert edits(one, three) <= edits(one, two) + edits(two, three)
