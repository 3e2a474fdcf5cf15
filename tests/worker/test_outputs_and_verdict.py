"""What becomes of the model's text: a table, boxes or nothing, and whether to rely on it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from visionq.contract import FinishReason, Verdict
from visionq.kinds import Parser
from visionq_worker.outputs import parse
from visionq_worker.verdict import is_better, is_refusal, is_worth_another_try, judge

SIZE = (400, 600)


def test_text_has_no_value() -> None:
    assert parse("year,price\n2020,1", "text", SIZE) is None


@pytest.mark.parametrize(
    ("text", "header", "rows"),
    [
        ("year,price\n2020,1.5\n2021,2", ["year", "price"], [["2020", "1.5"], ["2021", "2"]]),
        ("\n year , price \n\n 2020 , 1 \n", ["year", "price"], [["2020", "1"]]),
        ('name,price\n"Smith, John",3', ["name", "price"], [["Smith, John", "3"]]),
        ('a,b\n"two\nlines",1', ["a", "b"], [["two\nlines", "1"]]),
        ('a\n"say ""hi"""', ["a"], [['say "hi"']]),
        ("a,b\r\n1,2\r\n", ["a", "b"], [["1", "2"]]),
        ("a,b\n,", ["a", "b"], [["", ""]]),
    ],
)
def test_table_is_a_header_and_rows(text: str, header: list[str], rows: list[list[str]]) -> None:
    value = parse(text, "table", SIZE)
    assert {**value, "csv": None} == {"header": header, "rows": rows, "csv": None}
    assert parse(value["csv"], "table", SIZE) == value


def test_table_comes_as_csv_too() -> None:
    value = parse(' name , price \n"Smith, John",3', "table", SIZE)
    assert value["csv"] == 'name,price\n"Smith, John",3\n'


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("year,price", id="only a header"),
        pytest.param("year,price\n2020", id="a short row"),
        pytest.param("year,price\n2020,1,2", id="a long row"),
        pytest.param('a,b\n"open,1', id="an open quote"),
        pytest.param('a,b\n"1"x,2', id="text behind a quoted cell"),
    ],
)
def test_text_that_is_no_table_has_no_value(text: str) -> None:
    assert parse(text, "table", SIZE) is None


def test_boxes_are_labels_with_four_edges_in_pixels() -> None:
    text = '[{"label": "car", "box": [0, 1.5, 20, 999]}, {"label": "", "box": [500, 0, 1000, 250]}]'
    assert parse(text, "boxes", SIZE) == [
        {"label": "car", "box": [0, 1, 8, 599]},
        {"label": "", "box": [200, 0, 400, 150]},
    ]


@pytest.mark.parametrize(
    "text",
    [
        "```json\n{}\n```",
        "```\n{}",
        "~~~json\n{}\n~~~\nThese are all.",
        "Here are the 2 objects [1-2]:\n\n```json\n{}\n```",
        "Here are the objects:\n{}",
        "{}\nI hope that helps!",
        "Objects: {}",
    ],
)
@pytest.mark.parametrize("found", ['[\n{"label": "a ]", "box": [0, 0, 500, 500]}\n]', "[]"])
def test_boxes_are_taken_out_of_what_is_written_around_them(text: str, found: str) -> None:
    expected = [{"label": "a ]", "box": [0, 0, 200, 300]}] if "label" in found else []
    assert parse(text.format(found), "boxes", SIZE) == expected


def test_edges_lie_within_the_picture_and_in_order() -> None:
    text = '[{"label": "a", "box": [900, 2000, -5, 100]}]'
    assert parse(text, "boxes", SIZE) == [{"label": "a", "box": [0, 60, 360, 600]}]


@pytest.mark.parametrize(
    ("score", "kept"), [("0.9", 0.9), ("0", 0), ("1.5", None), ('"high"', None), ("true", None)]
)
def test_score_is_kept_where_it_is_one(score: str, kept: float | None) -> None:
    text = f'[{{"label": "a", "box": [0, 0, 1000, 1000], "score": {score}}}]'
    (box,) = parse(text, "boxes", SIZE)
    assert box.get("score") == kept


def test_no_boxes_are_a_value_too() -> None:
    assert parse(" [] ", "boxes", SIZE) == []


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("I see a car.", id="prose"),
        pytest.param('{"label": "car", "box": [0, 1, 2, 3]}', id="no array"),
        pytest.param('[{"label": "car", "box": [0, 1, 2, 3]}', id="an open array"),
        pytest.param('["car"]', id="no objects"),
        pytest.param('{"found": [{"label": "car", "box": [0, 1, 2, 3]}]}', id="within an object"),
        pytest.param('{"label": "car", "box": [0, 1, 2, 3], "more": []}', id="an array in one"),
        pytest.param('[{"label": "a", "box": [0, 1, 2, 3]}]\n[]', id="two arrays"),
        pytest.param("```json\n[]\n```\n```json\n[]\n```", id="two fences"),
        pytest.param('```json\n[{"label": "a", "box": [0, 1, 2\n```', id="cut off in a fence"),
        pytest.param('[{"label": 7, "box": [0, 1, 2, 3]}]', id="a number for a label"),
        pytest.param('[{"box": [0, 1, 2, 3]}]', id="no label"),
        pytest.param('[{"label": "car"}]', id="no box"),
        pytest.param('[{"label": "car", "box": [0, 1, 2]}]', id="three edges"),
        pytest.param('[{"label": "car", "box": [0, 1, 2, "3"]}]', id="an edge in quotes"),
        pytest.param('[{"label": "car", "box": [0, 1, 2, true]}]', id="a truth value"),
        pytest.param('[{"label": "car", "box": [0, 1, 2, NaN]}]', id="not a number"),
        pytest.param('[{"label": "car", "box": [0, 1, 2, 1e999]}]', id="infinity"),
        pytest.param('[{"label": "\\ud83d", "box": [0, 1, 2, 3]}]', id="half a surrogate pair"),
        pytest.param("[" * 100_000, id="too deep"),
    ],
)
def test_text_that_is_no_boxes_has_no_value(text: str) -> None:
    assert parse(text, "boxes", SIZE) is None


@given(text=st.text(), parser=st.sampled_from(["text", "table", "boxes"]))
@example(text="[" * 100_000 + "]" * 100_000, parser="boxes")
@example(text='"', parser="table")
@example(text="a\rb", parser="table")
@example(text="a\0b,c\n1,2", parser="table")
def test_parsing_never_raises(text: str, parser: Parser) -> None:
    assert isinstance(parse(text, parser, SIZE), dict | list | None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["label", "box"]), inner),
    max_leaves=8,
)


@given(found=st.lists(JSON))
def test_value_of_boxes_can_be_stored_as_json(found: list[Any]) -> None:
    value = parse(json.dumps(found), "boxes", SIZE)
    assert value is None or json.loads(json.dumps(value, allow_nan=False)) == value


@pytest.mark.parametrize(
    ("text", "value", "finish_reason", "parser", "expected"),
    [
        ("An answer.", None, "stop", "text", Verdict(outcome="ok")),
        ("An ans", None, "length", "text", Verdict(outcome="degraded", reasons=("truncated",))),
        ("", None, "stop", "text", Verdict(outcome="rejected", reasons=("empty",))),
        (
            " \n",
            None,
            "length",
            "boxes",
            Verdict(outcome="rejected", reasons=("empty", "truncated")),
        ),
        (
            "Sorry, I can't.",
            None,
            "stop",
            "text",
            Verdict(outcome="rejected", reasons=("refused",)),
        ),
        ("So so so", None, "loop", "text", Verdict(outcome="degraded", reasons=("loop",))),
        ("a\n1", {"header": ["a"], "rows": [["1"]]}, "stop", "table", Verdict(outcome="ok")),
        ("[]", [], "stop", "boxes", Verdict(outcome="ok")),
        ("Hm.", None, "stop", "table", Verdict(outcome="degraded", reasons=("unparsed",))),
        (
            "[{",
            None,
            "length",
            "boxes",
            Verdict(outcome="degraded", reasons=("truncated", "unparsed")),
        ),
    ],
)
def test_verdict_says_what_an_answer_lacks(
    text: str, value: Any, finish_reason: FinishReason, parser: Parser, expected: Verdict
) -> None:
    assert judge(text, value, finish_reason=finish_reason, parser=parser) == expected


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry, I cannot identify people.",
        "I am unable to read this image.",
        "Sorry, I cannot do that.",
        "As an AI language model, I cannot see pictures.",
        "I cannot assist with that request.",
        "Unfortunately, I cannot read the text.",
    ],
)
def test_refusal_is_known(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "The sign says: I'm sorry.",
        "Sorry! by Zoran Drvenkar",
        "As an aid to memory, the chart is coloured.",
        "I can see two cars.",
        "A book cover: 'I Am an AI'",
        "I'm sorry to say that sales fell: " + "2020 was bad. " * 50,
    ],
)
def test_answer_is_no_refusal(text: str) -> None:
    assert not is_refusal(text)


def test_try_that_was_cut_off_is_not_repeated() -> None:
    cut = Verdict(outcome="degraded", reasons=("truncated",))
    looped = Verdict(outcome="degraded", reasons=("loop", "unparsed"))
    assert not is_worth_another_try(Verdict(outcome="ok"))
    assert not is_worth_another_try(cut)
    assert is_worth_another_try(looped)
    assert is_better(Verdict(outcome="ok"), looped)
    assert is_better(looped, Verdict(outcome="rejected", reasons=("empty",)))
    assert not is_better(looped, cut)
