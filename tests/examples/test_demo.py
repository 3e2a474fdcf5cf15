"""The demo, run as people run it: twice, with the shipped model and real servers."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.examples import CHART_ANSWER, COVER_AUTHOR, COVER_TITLE
from visionq import Result, State, TaskHandle, Usage, Verdict
from visionq.contract import Provenance, Timings
from visionq.names import result_key

SCRIPT = Path(__file__).parents[2] / "examples" / "demo.py"
TASK_ID = "00000000-0000-4000-8000-000000000001"
OTHER_ID = "00000000-0000-4000-8000-000000000002"
SECONDS = 120.0


def demo(state: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, "--state", state], capture_output=True, text=True, timeout=SECONDS
    )


def stored_ids(output: str) -> list[str]:
    return re.findall(r"stored as s3://visionq/results/(\S+)\.json", output)


def test_second_run_says_whose_answers_it_shows(tmp_path: Path) -> None:
    """The servers keep their data: the second run's tasks are answered from the first one's."""
    first, second = demo(tmp_path / "state"), demo(tmp_path / "state")
    assert (first.returncode, first.stderr) == (0, "")
    assert (second.returncode, second.stderr) == (0, "")
    for run in (first, second):
        assert f"  > {CHART_ANSWER}\n" in run.stdout
        assert f"  > Title: {COVER_TITLE}\n    Author: {COVER_AUTHOR}\n" in run.stdout
    made = stored_ids(first.stdout)
    assert len(made) == 3
    assert "the answer of task" not in first.stdout
    assert re.findall(r"the answer of task (\S+), which asked the same", second.stdout) == made
    assert not set(stored_ids(second.stdout)) & set(made)
    assert "None" not in first.stdout + second.stdout


@pytest.fixture(scope="module")
def show() -> Any:
    return runpy.run_path(str(SCRIPT))["show"]


def result(**more: Any) -> Result:
    return Result(task_id=TASK_ID, kind="ocr", state=State.SUCCESS, finished_at=1.0, **more)


USAGE = Usage(prompt_tokens=20, image_tokens=10, completion_tokens=3)


@pytest.mark.parametrize(
    "shown",
    [
        result(),
        result(text="Red.", timings=Timings(queue_seconds=0.1)),
        result(text="Red.", usage=USAGE, timings=Timings(prefill_seconds=0.5)),
        result(text="Red.", verdict=Verdict(outcome="degraded", reasons=("truncated",))),
        result(text="Red.", provenance=Provenance(reused_from=OTHER_ID)),
    ],
)
def test_what_a_result_does_not_say_is_left_out(
    show: Any, shown: Result, capsys: pytest.CaptureFixture[str]
) -> None:
    handle = TaskHandle(None, TASK_ID)  # type: ignore[arg-type]  # only its key is asked for
    show(shown, handle, "bucket")
    printed = capsys.readouterr().out
    assert "None" not in printed
    assert printed.endswith(f"stored as s3://bucket/{result_key(TASK_ID)}\n")
    assert ("prompt tokens" in printed) == (shown.usage is not None)
    assert ("prefill 0.50 s" in printed) == (shown.timings.prefill_seconds is not None)
    assert (OTHER_ID in printed) == (shown.provenance.reused_from is not None)


def test_an_answer_cannot_command_the_terminal(
    show: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    handle = TaskHandle(None, TASK_ID)  # type: ignore[arg-type]
    show(result(text="\x1b[2Jgone\x9b\r\u202e"), handle, "bucket")
    printed = capsys.readouterr().out
    assert not set(printed) & set("\x1b\x9b\r\u202e")
    assert "gone" in printed
