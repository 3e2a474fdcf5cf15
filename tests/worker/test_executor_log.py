"""What a finished task leaves in the log: one line with fields, and nothing anybody wrote."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable

import pytest

from tests.support.scripted import ScriptedEngine
from tests.worker.picture_bytes import DOT
from tests.worker.workbench import VerbatimEngine, Workbench
from visionq.contract import Options

BenchWith = Callable[[ScriptedEngine], Workbench]

QUESTION, ANSWER = "canary-in-the-question", "canary-in-the-answer"
PROMISED = ("task_id", "kind", "state", "code", "seconds", "completion_tokens")


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, logger="visionq_worker")
    return caplog


def fields(record: logging.LogRecord) -> dict[str, object]:
    return {name: record.__dict__[name] for name in PROMISED if name in record.__dict__}


def test_answered_task_is_one_line_with_its_fields(
    bench: Workbench, log: pytest.LogCaptureFixture
) -> None:
    task = bench.task("describe", None)
    bench.run(task)
    (record,) = log.records
    assert record.levelno == logging.INFO
    seconds = fields(record)["seconds"]
    assert isinstance(seconds, float)
    assert 0 < seconds < 5
    assert fields(record) == {
        "task_id": task.id,
        "kind": "describe",
        "state": "SUCCESS",
        "code": None,
        "seconds": seconds,
        "completion_tokens": 3,
    }
    assert record.getMessage() == (f"task {task.id} describe SUCCESS in {seconds:.3f} s, 3 tokens")


def test_failed_task_says_its_code(bench: Workbench, log: pytest.LogCaptureFixture) -> None:
    task = bench.task("guess")
    bench.run(task)
    finished = log.records[-1]
    assert fields(finished) == {
        "task_id": task.id,
        "kind": "guess",
        "state": "FAILURE",
        "code": "unknown_kind",
        "seconds": fields(finished)["seconds"],
        "completion_tokens": 0,
    }


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"kind": "guess"},
        {"kind": "table"},
        {"options": Options(max_new_tokens=4_096)},
        {"question": f"{QUESTION} <|end|>"},
        {"deadline": 1.0},
    ],
    ids=["answered", "unknown kind", "unparsed", "too long", "tag", "expired"],
)
def test_neither_question_nor_answer_nor_image_is_logged(
    bench_with: BenchWith, log: pytest.LogCaptureFixture, given: dict[str, object]
) -> None:
    bench = bench_with(VerbatimEngine(ANSWER))
    bench.run(bench.task(**({"question": QUESTION} | given)))  # type: ignore[arg-type]
    assert log.records
    formatter = logging.Formatter()
    for record in log.records:
        told = formatter.format(record) + repr(record.__dict__)
        for secret in (QUESTION, ANSWER, repr(DOT)[2:-1], base64.b64encode(DOT).decode()):
            assert secret not in told
