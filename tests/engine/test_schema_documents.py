"""Random schemas, random weights: whatever the model would like to say, the document fits.

Nothing but the grammar keeps these answers in form. They are checked by `jsonschema` against the
schema as it was given, not against our strict form of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import jsonschema
import pytest

from tests.engine.rig import open_rig, text_inputs
from tests.engine.schema_corpus import count_folder, random_document, violation
from tests.support.pocket import pocket_grammars
from tests.support.random_schemas import random_schema
from tests.support.tiny import tiny_model
from visionq.schemas import strict_schema
from visionq_worker.documents import read_document
from visionq_worker.engine.request import Request
from visionq_worker.model.small import special_id
from visionq_worker.pocket.text import tokenizer

MAX_NEW_TOKENS = 6_000
"""Random weights end no string and no list of themselves, but only where its limit is reached."""

Validator = jsonschema.Draft202012Validator


def misfits(num_schemas: int, seed: int, temperature: float) -> Iterator[tuple[Any, str, str]]:
    """The schemas whose documents are not as they should be: schema, document, why."""
    random = Random(seed)
    schemas = [random_schema(random) for _ in range(num_schemas)]
    options = {"num_pages": 400, "max_running": 16, "max_context_tokens": 8192}
    with open_rig(**options) as rig:  # type: ignore[arg-type]
        handles = [
            rig.engine.submit(
                Request(
                    inputs=text_inputs(tiny_model(), 12, number),
                    max_new_tokens=MAX_NEW_TOKENS,
                    temperature=temperature,
                    seed=number,
                    logit_mask=rig.engine.mask(strict_schema(schema)),
                )
            )
            for number, schema in enumerate(schemas)
        ]
        for schema, handle in zip(schemas, handles, strict=True):
            completion = handle.result()
            text = rig.engine.decode(completion.token_ids)
            value, verdict = read_document(text, schema, finish_reason=completion.finish_reason)
            validator = Validator(schema, format_checker=Validator.FORMAT_CHECKER)
            if verdict.outcome != "ok":
                yield schema, text, ", ".join(verdict.reasons)
            elif errors := list(validator.iter_errors(value)):
                yield schema, text, errors[0].message


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_20_of_20_documents_fit_their_schemas(temperature: float) -> None:
    assert list(misfits(20, seed=3, temperature=temperature)) == []


def test_documents_fit_where_the_tokens_are_freely_chosen() -> None:
    """The pocket model's tokenizer has no merges; its grammar is built another way."""
    random = Random(5)
    end = special_id("end")
    for _ in range(20):
        schema = random_schema(random)
        mask = pocket_grammars().mask(strict_schema(schema))
        said: list[int] = []
        while (token := random.choice(mask.allowed(said).nonzero()[:, 0].tolist())) != end:
            said.append(token)
        value, verdict = read_document(tokenizer().decode(said), schema, finish_reason="stop")
        assert verdict.outcome == "ok", schema
        Validator(schema, format_checker=Validator.FORMAT_CHECKER).validate(value)


@pytest.mark.parametrize(
    "more",
    [
        {"pattern": ".*:.*"},
        {"pattern": r"^(?:\S+\s+){0,99}\S+$", "minLength": 1},
        {"pattern": "^iglu:([a-z.-]+)/([a-z-]+)/([0-9]+)$", "maxLength": 253},
        {"not": {"enum": ["", "a", "ab"]}},
    ],
)
def test_a_pattern_that_may_end_in_many_places_is_written(more: dict[str, Any]) -> None:
    """Where such a pattern meets a long limit, the grammar's library gives up."""
    schema = {"type": "string", **more}
    for seed in range(3):
        text = random_document(strict_schema(schema), Random(seed))
        assert text is not None
        assert violation(json.loads(text), schema) is None


@pytest.mark.parametrize("draft", ["03", "04", "07"])
@pytest.mark.parametrize("name", ["time", "relative-json-pointer", "date-time", "uri", "ipv6"])
def test_formats_are_those_of_the_draft(name: str, draft: str) -> None:
    kind = f"http://json-schema.org/draft-{draft}/schema#"
    schema = {"$schema": kind, "type": "string", "format": name}
    for seed in range(4):
        text = random_document(strict_schema(schema), Random(seed))
        assert text is not None
        assert violation(json.loads(text), schema) is None


def test_schemas_of_a_folder_are_counted(tmp_path: Path) -> None:
    for name, schema in {
        "a": {"type": "object", "properties": {"a": {"type": "null"}}},
        "b": {"type": "array", "uniqueItems": True, "items": {"type": "string"}},
        "c": {"$ref": "https://example.org/other.json"},
        "d": 5,
    }.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(schema))
    count = count_folder(tmp_path, most=10, num_documents=4)
    assert (count.num_schemas, count.num_accepted, count.num_not_local) == (3, 1, 1)
    assert (count.num_documents, count.num_invalid) == (4, 0)
    assert violation("x", {"type": "null"}) == "'x' is not of type 'null'"


@pytest.mark.long
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_500_of_500_documents_fit_their_schemas(temperature: float) -> None:
    assert list(misfits(500, seed=1, temperature=temperature)) == []
