"""That the bench measures every bar and prints it. How fast anything is, is no test's business."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.bench.__main__ import BARS
from tests.bench.children import REPOSITORY
from tests.bench.readings import Reading, table

SMALL = ("--rounds", "1", "--scale", "0.005")
QUICK_BARS = tuple(bar for bar in BARS if bar not in ("worker", "flat"))
"""Those two need half a minute for their workers; `wait` starts one of each sort, too."""


def bench(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", *arguments],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout


def test_bars_are_measured_and_reported_as_json() -> None:
    report = json.loads(bench("--json", *SMALL, *QUICK_BARS))
    readings = report["readings"]
    assert list(dict.fromkeys(reading["bar"] for reading in readings)) == list(QUICK_BARS)
    assert all(reading["measured"] >= 0 for reading in readings)
    assert report["is_valid"] is (report["drift"] <= 1.5)
    assert len(report["round_trips"]) == len(QUICK_BARS) + 1


def test_one_bar_is_measured_and_printed_as_a_table() -> None:
    printed = bench(*SMALL, "submit_many")
    assert "before: PING" in printed
    assert "after:  PING" in printed
    assert "drift:" in printed
    first_words = [line.split()[0] for line in printed.partition("\n\n")[2].splitlines()]
    assert list(dict.fromkeys(first_words)) == ["bar", "submit_many"]


def test_an_unknown_bar_is_refused_with_the_names_of_the_bars() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "speed"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "no bar speed; there are submit, submit_many" in done.stderr


def test_a_reading_says_whether_its_limit_is_met() -> None:
    slow = Reading(bar="submit", what="ours / theirs", measured=1.25, limit=1.0)
    fast = Reading(bar="bulk", what="theirs / ours", measured=7.5, sense=">=", limit=6.0)
    shown = Reading(bar="aside", what="ours / theirs", measured=2.0)
    assert [slow.is_met, fast.is_met, shown.is_met] == [False, True, None]
    assert [line.split() for line in table([slow, fast, shown]).splitlines()[1:]] == [
        ["submit", "ours", "/", "theirs", "1.25", "x", "<=", "1", "x", "NO"],
        ["bulk", "theirs", "/", "ours", "7.5", "x", ">=", "6", "x", "yes"],
        ["aside", "ours", "/", "theirs", "2", "x", "-", "-"],
    ]
