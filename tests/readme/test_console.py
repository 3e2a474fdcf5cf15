"""The README's console blocks: pasted from top to bottom, as a newcomer does."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tests.support.examples import CHART_ANSWER, COVER_AUTHOR, COVER_TITLE
from tests.support.waiting import wait_until
from visionq.cli import main as visionq_main
from visionq_worker.cli import main as worker_main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SECONDS = 120.0
ACTIVATION = ".venv/bin/activate"


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def section(heading: str) -> str:
    """What stands below it, up to the next one of its level."""
    return README.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


def commands(block: str) -> list[str]:
    return [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]


def expected_output(block: str) -> list[str]:
    return [line for line in block.splitlines() if not line.startswith("$ ")]


def as_script(lines: list[str]) -> str:
    """For bash. The environment of this Python stands for the clone's, which is made like it."""
    here = shlex.quote(str(Path(sys.prefix) / "bin" / "activate"))
    return "".join(f"{line.replace(ACTIVATION, here)}\n" for line in lines)


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a terminal that has just been opened, with a home of its own."""
    kept = {name: os.environ[name] for name in ("PYTHONPATH", "TMPDIR") if name in os.environ}
    home = str(tmp_path_factory.mktemp("home"))
    return kept | {"PATH": "/usr/bin:/bin", "HOME": home, "LANG": "C.UTF-8"}


@pytest.fixture(scope="module")
def _up(newcomer: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The first terminal."""
    first, *_ = blocks("console", section("Run it"))
    output = tmp_path_factory.mktemp("up") / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(
            ["bash", "-c", as_script(commands(first))],
            cwd=ROOT,
            env=newcomer,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until(
            lambda: b"source " in output.read_bytes() or process.poll() is not None, seconds=SECONDS
        )
        assert process.poll() is None, output.read_text()
        yield
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(SECONDS)


def in_second_terminal(
    env: dict[str, str], script: str, *, shell: str = "bash"
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [shell, "-e"],
        input=script,
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def opening() -> list[str]:
    """The lines with which a second terminal begins."""
    _, second = blocks("console", section("Run it"))
    return [line for line in commands(second) if line.startswith("source ")]


@pytest.mark.usefixtures("_up")
def test_commands_of_the_second_terminal_work_as_they_stand(newcomer: dict[str, str]) -> None:
    _, second = blocks("console", section("Run it"))
    run = in_second_terminal(newcomer, as_script(commands(second)))
    assert run.returncode == 0, run.stderr
    printed = expected_output(second)
    assert printed == [f"Title: {COVER_TITLE}", f"Author: {COVER_AUTHOR}"]
    assert run.stdout.splitlines()[: len(printed)] == printed
    assert "\nleft top right bottom, in pixels\n" in run.stdout
    assert "no worker is running" not in run.stdout
    assert "Read all text" in run.stdout  # of render
    assert "visionq:" not in run.stderr


@pytest.mark.usefixtures("_up")
def test_python_blocks_work_in_the_second_terminal(newcomer: dict[str, str]) -> None:
    """One after the other in one Python, as they are pasted; up to the web frameworks."""
    text = section("Ask and answer").split("\n### FastAPI\n")[0]
    examples = blocks("python", text)
    assert len(examples) == 3
    script = as_script(opening()) + "python - <<'END'\n" + "\n".join(examples) + "END\n"
    run = in_second_terminal(newcomer, script)
    assert run.returncode == 0, run.stderr
    _, answer, book, cost = run.stdout.splitlines()
    assert (answer, book) == (f"{CHART_ANSWER} ok", f"{COVER_TITLE} by {COVER_AUTHOR}")
    assert cost.startswith("(757,) ")
    assert cost.split()[2] == "True"  # a worker has told its context


def lines_of_ours() -> list[str]:
    found = []
    for block in blocks("console", README):
        for line in commands(block):
            parts = [part.strip() for part in re.split(r";|\$\(|\)", line.split(" #")[0])]
            found += [part for part in parts if part.startswith(("visionq ", "visionq-worker "))]
    return found


@pytest.mark.parametrize("line", lines_of_ours())
def test_options_and_commands_of_all_console_blocks_exist(line: str) -> None:
    """Those of production as well, which nobody can run here."""
    name, *arguments = shlex.split(line)
    command: click.Command = {"visionq": visionq_main, "visionq-worker": worker_main}[name]
    if arguments[0] == "render":
        command = worker_main
    result = CliRunner().invoke(command, [*arguments, "--help"], prog_name=name)
    assert (result.exit_code, result.stderr) == (0, "")


def test_what_make_is_asked_for_exists() -> None:
    targets = [line.split()[1] for block in blocks("console", README) for line in commands(block)
               if line.startswith("make ")]  # fmt: skip
    assert targets == ["demo", "test"]
    makefile = (ROOT / "Makefile").read_text()
    assert [one for one in targets if f"\n{one}:" not in makefile] == []


def test_the_environment_of_the_readme_is_the_one_that_make_creates() -> None:
    assert f"source {ACTIVATION}" in opening()
    assert "PYTHON_ENV := .venv/bin" in (ROOT / "Makefile").read_text()
