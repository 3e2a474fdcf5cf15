"""The supervisor with real processes: what it starts again, and how it is stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.waiting import wait_until

PARENT = """
import logging, sys
from visionq_worker.supervisor import Supervisor
logging.basicConfig(level="INFO")
command = [sys.executable, "-c", sys.argv[1], sys.argv[2]]
sys.exit(Supervisor(command, first_pause_seconds=0.01).run())
"""
COUNTS = """
import pathlib, sys
file = pathlib.Path(sys.argv[1])
number = len(file.read_text()) if file.exists() else 0
file.write_text("x" * (number + 1))
"""
WAITS = """
import signal, sys, pathlib
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
pathlib.Path(sys.argv[1]).write_text("up")
signal.pause()
"""


def supervised(child: str, file: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PARENT, child, str(file)])


@pytest.mark.parametrize(
    "end", ["sys.exit(70)", "sys.exit(3)", "import os; os.kill(os.getpid(), 9)"]
)
def test_worker_that_dies_is_started_again(tmp_path: Path, end: str) -> None:
    file = tmp_path / "starts"
    child = COUNTS + f"if number < 2:\n    {end}\n"
    assert supervised(child, file).wait(30) == 0
    assert file.read_text() == "xxx"


def test_worker_that_was_called_wrongly_is_not(tmp_path: Path) -> None:
    file = tmp_path / "starts"
    assert supervised(COUNTS + "sys.exit(2)", file).wait(30) == 2
    assert file.read_text() == "x"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_is_passed_on_and_the_worker_waited_for(
    tmp_path: Path, number: signal.Signals
) -> None:
    file = tmp_path / "up"
    parent = supervised(WAITS.replace("signal.SIGTERM", str(int(number))), file)
    wait_until(file.exists)
    parent.send_signal(number)
    assert parent.wait(30) == 0


def test_supervisor_stops_between_two_workers(tmp_path: Path) -> None:
    file = tmp_path / "starts"
    slow = PARENT.replace("0.01", "60")
    parent = subprocess.Popen(
        [sys.executable, "-c", slow, COUNTS + "sys.exit(70)", str(file)], stderr=subprocess.PIPE
    )
    assert parent.stderr is not None
    with parent.stderr as said:
        # Only now the first one has ended: the file is there before.
        assert b"again in 60 s" in said.readline()
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(30) == 0
