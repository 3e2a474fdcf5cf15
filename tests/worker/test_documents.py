"""Answers to a schema, from the prompt to the verdict; the engine says what the test wants."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.random_schemas import random_schema
from tests.support.scripted import ScriptedEngine, Unmasked
from tests.worker.workbench import VerbatimEngine, Workbench
from visionq.contract import Options, Verdict
from visionq.kinds import Kind
from visionq.schemas import strict_schema
from visionq_worker.documents import fits, read_document, schema_digest
from visionq_worker.engine.errors import RequestInvalid
from visionq_worker.engine.request import LogitMask

BenchWith = Callable[[ScriptedEngine], Workbench]

BOOK: dict[str, Any] = {
    "type": "object",
    "properties": {"title": {"type": "string", "description": "As printed"}},
    "required": ["title"],
}
ASKED = Options(schema=BOOK)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["", "red", "a", "bc"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.just("title"), inner),
    max_leaves=4,
)


def test_a_document_becomes_the_value(bench_with: BenchWith) -> None:
    bench = bench_with(VerbatimEngine('{"title": "Dune"}'))
    result = bench.run(bench.task(options=ASKED))
    assert result.text == '{"title": "Dune"}'
    assert result.value == {"title": "Dune"}
    assert result.verdict == Verdict(outcome="ok")
    assert result.provenance.schema_digest == schema_digest(BOOK)


def test_the_engine_gets_the_strict_form(bench_with: BenchWith) -> None:
    bench = bench_with(VerbatimEngine('{"title": "Dune"}'))
    bench.run(bench.task(options=ASKED))
    (request,) = bench.engine.requests
    assert request.logit_mask == Unmasked(strict_schema(BOOK))
    assert request.loop_tokens is None, "a document may say the same again"


def test_a_task_without_schema_has_no_mask(bench: Workbench) -> None:
    result = bench.run(bench.task())
    assert bench.engine.requests[0].logit_mask is None
    assert result.provenance.schema_digest is None


@pytest.mark.parametrize("text", ['{"title": 5}', '{"title": "Du', '{"author": "Herbert"}'])
def test_what_does_not_fit_gives_no_value(bench_with: BenchWith, text: str) -> None:
    bench = bench_with(VerbatimEngine(text))
    result = bench.run(bench.task(options=ASKED))
    assert (result.text, result.value) == (text, None)
    assert result.verdict == Verdict(outcome="degraded", reasons=("schema_invalid",))


def test_a_document_that_is_cut_off_gives_no_value() -> None:
    value, verdict = read_document('{"title": "Du', BOOK, finish_reason="length")
    assert value is None
    assert verdict == Verdict(outcome="degraded", reasons=("truncated",))


def test_null_is_a_value() -> None:
    value, verdict = read_document("null", {"type": "null"}, finish_reason="stop")
    assert (value, verdict.outcome) == (None, "ok")


def test_the_schema_stands_below_the_question() -> None:
    assert Kind().words("Which book?", BOOK) == (
        "Which book?\n"
        "Answer with one JSON document that fits this JSON Schema, and with nothing else:\n"
        '{"type": "object", "properties": {"title": {"type": "string", "description": '
        '"As printed"}}, "required": ["title"]}'
    )


def test_a_schema_that_the_grammar_refuses_fails_with_its_code(bench_with: BenchWith) -> None:
    class Refusing(ScriptedEngine):
        def mask(self, schema: Any) -> LogitMask:
            raise RequestInvalid("the schema cannot be enforced: nothing fits")

    bench = bench_with(Refusing())
    failure = bench.run(bench.task(options=ASKED)).failure
    assert failure is not None
    assert (failure.code, failure.retryable) == ("schema_unsupported", False)


@given(seed=st.integers(0, 10**6), value=json_values)
def test_what_fits_the_strict_form_fits_the_schema(seed: int, value: Any) -> None:
    schema = random_schema(Random(seed))
    if fits(value, strict_schema(schema)):
        assert jsonschema.Draft202012Validator(schema).is_valid(value)


FITS: list[tuple[Any, Any, bool]] = [
    ({"type": "integer"}, True, False),
    ({"type": "integer"}, 1.0, False),
    ({"type": "number"}, 1, True),
    ({"type": "boolean"}, 1, False),
    ({"enum": [1]}, True, False),
    ({"type": "null"}, False, False),
    ({"type": "array", "prefixItems": [{"type": "null"}]}, [None], True),
    ({"type": "array", "prefixItems": [{"type": "null"}]}, [], False),
    ({"type": "object", "additionalProperties": {"type": "null"}}, {"a": None}, True),
    ({"type": "object", "additionalProperties": {"type": "null"}}, {"a": 1}, False),
    ({"type": "string", "format": "date"}, "2024-02-29", True),
    ({"type": "string", "format": "date"}, "2023-02-29", False),
    ({"anyOf": [{"type": "null"}, {"const": "a"}]}, "a", True),
]


@pytest.mark.parametrize(("schema", "value", "expected"), FITS)
def test_values_are_held_to_the_strict_form(schema: Any, value: Any, expected: bool) -> None:
    assert fits(value, strict_schema(schema)) is expected
