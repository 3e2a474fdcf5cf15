"""How much of a folder of schemas is carried out, and whether the documents are valid.

    python -m tests.engine.schema_corpus FOLDER... [--documents 3] [--most 1000]

Each schema that is accepted is compiled by the grammar's library, and documents are written at
random through its masks. `jsonschema` judges them by the schema as it was given, formats included
(as far as its own requirements for formats are installed).
"""

from __future__ import annotations

import argparse
import json
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any

import jsonschema

from tests.support.pocket import pocket_grammars
from visionq.errors import SchemaUnsupported
from visionq.schemas import strict_schema
from visionq_worker.documents import fits
from visionq_worker.engine.errors import RequestInvalid
from visionq_worker.engine.grammar import GrammarFailed
from visionq_worker.model.small import special_id
from visionq_worker.pocket.text import tokenizer

MAX_TOKENS = 3_000
SOON = 400
"""Tokens, after which the document is brought to its end where it can be."""


@dataclass
class Count:
    """Of one folder."""

    num_schemas: int = 0
    num_not_local: int = 0  # of those refused: a reference to another document
    num_accepted: int = 0
    num_not_compiled: int = 0
    num_documents: int = 0
    num_unfinished: int = 0
    num_failed: int = 0
    num_invalid: int = 0
    longest_read_seconds: float = 0.0
    longest_compile_seconds: float = 0.0
    refused: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def count_folder(folder: Path, *, most: int, num_documents: int, seed: int = 0) -> Count:
    """Of at most so many of its files, drawn at random."""
    random, count = Random(seed), Count()
    for path, schema in _schemas(folder, most, random):
        count.num_schemas += 1
        begin = perf_counter()
        try:
            strict = strict_schema(schema)
        except SchemaUnsupported as error:
            count.num_not_local += error.args[1] == "names nothing that stands in this schema"
            count.refused[_reason(error)] += 1
            continue
        count.longest_read_seconds = max(count.longest_read_seconds, perf_counter() - begin)
        count.num_accepted += 1
        for number in range(num_documents):
            _judge(count, path, schema, strict, Random(f"{seed} {path.name} {number}"))
    return count


def _schemas(folder: Path, most: int, random: Random) -> Iterator[tuple[Path, dict[str, Any]]]:
    paths = sorted(folder.rglob("*.json"))
    random.shuffle(paths)
    for path in paths[:most]:
        try:
            schema = json.loads(path.read_bytes())
        except ValueError:
            continue
        if isinstance(schema, dict):
            yield path, schema


def _reason(error: SchemaUnsupported) -> str:
    keyword = [step for step in error.pointer.split("/") if not step.isdigit()][-1]
    why = re.sub(r"\d+", "N", re.sub(r"'.*'", "...", error.args[1]))
    return f"{keyword[:24]}: {why[:70]}"


def _judge(
    count: Count, path: Path, schema: dict[str, Any], strict: dict[str, Any], random: Random
) -> None:
    begin = perf_counter()
    try:
        text = random_document(strict, random)
    except RequestInvalid as error:
        count.num_not_compiled += 1
        count.wrong.append(f"{path.name}: {error}")
        return
    except GrammarFailed as error:
        count.num_failed += 1
        count.wrong.append(f"{path.name}: {error}")
        return
    finally:
        count.longest_compile_seconds = max(count.longest_compile_seconds, perf_counter() - begin)
    if text is None:
        count.num_unfinished += 1
        return
    count.num_documents += 1
    value = json.loads(text)
    problem = None if fits(value, strict) else "not of the strict form"
    problem = problem or violation(value, schema)
    if problem:
        count.num_invalid += 1
        count.wrong.append(f"{path.name}: {problem[:200]} in {text[:300]}")


def random_document(strict: dict[str, Any], random: Random) -> str | None:
    """Written through the mask of a schema; None where it found no end in time."""
    mask = pocket_grammars().mask(strict)
    end, said = special_id("end"), list[int]()
    while len(said) < MAX_TOKENS:
        allowed = mask.allowed(said).nonzero()[:, 0].tolist()
        closing = [one for one in allowed if one == end or _closes(one)]
        if closing and (len(said) > SOON or random.random() < 0.3):
            allowed = [end] if end in closing else closing
        token = random.choice(allowed)
        if token == end:
            return tokenizer().decode(said, skip_special_tokens=False)
        said.append(token)
    return None


def _closes(token: int) -> bool:
    return tokenizer().decode([token]).strip()[:1] in tuple('"}]')


def violation(value: Any, schema: dict[str, Any]) -> str | None:
    """What `jsonschema` finds wrong with a document, by the draft that the schema names."""
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        errors = list(kind(schema, format_checker=kind.FORMAT_CHECKER).iter_errors(value))
    except Exception as error:  # the schema is no schema of its draft
        return f"cannot be judged: {error!r}"
    return errors[0].message if errors else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--documents", type=int, default=3)
    parser.add_argument("--most", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    for folder in asked.folders:
        count = count_folder(
            folder, most=asked.most, num_documents=asked.documents, seed=asked.seed
        )
        _print(folder, count)


def _print(folder: Path, count: Count) -> None:
    share = count.num_accepted / max(1, count.num_schemas)
    local = count.num_accepted / max(1, count.num_schemas - count.num_not_local)
    print(
        f"{folder.name}: {count.num_accepted} of {count.num_schemas} accepted, {share:.1%}", end=""
    )
    print(f" ({local:.1%} of those that need no other document)")
    print(f"  {count.num_documents} documents, {count.num_invalid} invalid,", end=" ")
    print(f"{count.num_unfinished} unfinished, {count.num_failed} failed,", end=" ")
    print(f"{count.num_not_compiled} not compiled")
    print(f"  longest: {count.longest_read_seconds:.2f} s to read,", end=" ")
    print(f"{count.longest_compile_seconds:.2f} s to compile and write")
    for reason, number in count.refused.most_common(25):
        print(f"  {number:5} {reason}")
    for line in count.wrong[:40]:
        print(f"  ! {line}")


if __name__ == "__main__":
    main()
