"""`visionq up`: everything on one machine, started by one command and ended by one signal."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

import psutil
import pytest
import redis

from tests.cli.commands import json_lines, json_of, visionq, visionq_worker
from tests.support.killing import wait_for_disk
from tests.support.waiting import wait_until
from visionq.local import LocalUrls, read_urls
from visionq.names import Names

BIN = Path(sys.executable).parent
SECONDS = 90.0

SETTINGS = """
[model]
source = "tiny"
device = "cpu"

[kinds.cars]
prompt = "Count the cars."
max_new_tokens = 3
"""


@dataclass(frozen=True)
class Up:
    """A `visionq up` in a process group of its own, as a shell would give it."""

    process: subprocess.Popen[bytes]
    stdout: Path
    stderr: Path

    def family(self) -> list[psutil.Process]:
        """The command, its servers and its workers."""
        command = psutil.Process(self.process.pid)
        return [command, *command.children(recursive=True)]

    def wait(self) -> int:
        return self.process.wait(SECONDS)


@contextmanager
def started(folder: Path, *arguments: object) -> Iterator[Up]:
    """`visionq ARGUMENTS`, run in the folder; whatever it leaves behind is killed."""
    stdout, stderr = folder / "stdout", folder / "stderr"
    with stdout.open("wb") as out, stderr.open("wb") as err:
        process = subprocess.Popen(
            [BIN / "visionq", *(str(argument) for argument in arguments)],
            cwd=folder,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
    up = Up(process, stdout, stderr)
    family = up.family()
    try:
        yield up
    finally:
        family += up.family() if process.poll() is None else []
        for member in family:
            if member.is_running():
                member.kill()
        process.wait()


def wait_for_servers(up: Up) -> list[psutil.Process]:
    """Every process of the command, once its servers answer and its worker has been started."""
    wait_until(lambda: b"\n" in up.stdout.read_bytes(), seconds=SECONDS, what="the servers")
    return up.family()


def printed_lines(up: Up) -> list[str]:
    """What it prints for people, once all of it is there: the line for the environment is last."""
    wait_until(lambda: re.search(rb"source .*env'?\n", up.stdout.read_bytes()), seconds=SECONDS)
    return up.stdout.read_text().splitlines()


def bare_environment() -> dict[str, str]:
    """Of a terminal that has just been opened; PYTHONPATH leads to the code under test."""
    kept = ("HOME", "PYTHONPATH", "XDG_STATE_HOME", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")
    found = {name: os.environ[name] for name in kept if name in os.environ}
    return found | {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}


def run_command(folder: Path, name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / name, *(str(argument) for argument in arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def _urls(state: Path) -> LocalUrls:
    urls = read_urls(state)
    assert urls is not None
    return urls


def assert_gone(family: list[psutil.Process]) -> None:
    assert [member for member in family if member.is_running()] == []


@pytest.mark.skipif(sys.platform != "linux", reason="needs the parent-death signal")
def test_nothing_outlives_a_killed_up_and_its_task_is_answered_by_the_next_one(
    tmp_path: Path, pictures: Path
) -> None:
    """A worker left behind would keep the GPU, and answer the next `up` with an old model.

    The task's kind is one of the settings file: both sides have read that.
    """
    (tmp_path / "our.toml").write_text(SETTINGS)
    here = ("--settings", tmp_path / "our.toml", "--state", tmp_path / "state")
    with started(tmp_path, *here, "up") as up:
        family = wait_for_servers(up)
        assert len(family) == 4  # the command, Valkey, rclone, one worker
        task_id = visionq({}, *here, "submit", "cars", pictures / "shelf_after.png").stdout.strip()
        wait_for_disk(_urls(tmp_path / "state"))
        up.process.kill()
        up.wait()
        _, alive = psutil.wait_procs(family, timeout=SECONDS)
        assert alive == []
    assert visionq({}, *here, "ls").exit_code == 5
    with started(tmp_path, *here, "up") as up:
        family = wait_for_servers(up)
        answer = visionq({}, *here, "result", task_id, "--timeout", SECONDS, "--json")
        assert answer.exit_code == 0, answer.stderr
        assert json_of(answer)["task_id"] == task_id
        assert json_of(answer)["provenance"]["model"] == "tiny"
        again = visionq({}, *here, "submit", "cars", pictures / "shelf_after.png", "--wait")
        assert again.stdout == f"{json_of(answer)['text']}\n"
        up.process.send_signal(signal.SIGTERM)
        assert up.wait() == 0
        assert_gone(family)


def test_up_says_where_its_servers_are(tmp_path: Path) -> None:
    with started(tmp_path, "--state", tmp_path / "state", "up", "--model", "tiny") as up:
        first, second, third, *lines = printed_lines(up)
    where = r"Valkey at 127\.0\.0\.1:\d+, S3 at http://127\.0\.0\.1:\d+\. Ctrl-C stops all\."
    assert re.fullmatch(where, first)
    assert second == "1 worker starting with the model tiny."
    assert third.startswith("In another terminal, for the commands and for Python ")
    assert [line.split()[0] for line in lines] == ["source"] * len(lines)


IN_PYTHON = """
import visionq
with visionq.Client.from_settings() as client:
    status = client.ocr("inputs/a").status()
print(status.state, status.kind)
"""


def test_what_up_prints_works_when_it_is_pasted(tmp_path: Path) -> None:
    """In a folder whose name needs quotes; another terminal knows nothing of ours.

    Commands, Python, the worker's command and the kinds of the settings file.
    """
    (tmp_path / "our.toml").write_text(SETTINGS)
    state = tmp_path / "it's a state"
    with started(tmp_path, "up", "--settings", "our.toml", "--state", state.name) as up:
        *_, activate, source = printed_lines(up)
        secrets = _urls(state)
        assert secrets.s3_secret_key not in up.stdout.read_text() + up.stderr.read_text()
        assert secrets.broker_url not in up.stdout.read_text()
        env = state / "env"
        assert env.stat().st_mode & 0o777 == 0o600
        pasted = "\n".join(
            [
                activate,
                source,
                "visionq ls",
                "visionq kinds",
                f"python -c '{IN_PYTHON}'",
                "visionq-worker check",
                "visionq-worker render cars 640x480 --json",
            ]
        )
        run = subprocess.run(
            ["bash", "-e"],
            input=pasted,
            capture_output=True,
            text=True,
            cwd="/",
            env=bare_environment(),
            timeout=SECONDS,
        )
        assert (run.returncode, run.stderr) == (0, "")
        assert run.stdout.startswith("none\n")
        assert "\ncars " in run.stdout
        assert "PENDING ocr\n" in run.stdout
        assert "ok   model: tiny is here\n" in run.stdout
        assert "Count the cars." in run.stdout
        up.process.send_signal(signal.SIGTERM)
        assert up.wait() == 0
    assert not env.exists()


@pytest.mark.parametrize("is_named", [True, False])
def test_render_and_check_beside_up_use_its_model(tmp_path: Path, is_named: bool) -> None:
    """By `--state`, or because nothing else is set; their own options come first."""
    state = tmp_path / "state" / "visionq"  # where it lies without `--state`, in these tests
    here = ("--state", state) if is_named else ()
    (tmp_path / "our.toml").write_text(SETTINGS + '[broker]\nnamespace = "ours"\n')
    with started(
        tmp_path, *here, "up", "--model", "tiny", "--settings", tmp_path / "our.toml"
    ) as up:
        printed_lines(up)
        # The kinds and the queues of its workers, too.
        sent = visionq({}, *here, "submit", "cars", "inputs/a", "--json")
        assert sent.exit_code == 0, sent.stderr
        with redis.Redis.from_url(_urls(state).broker_url) as raw:
            assert raw.exists(Names("ours").record(json_of(sent)["id"]))
        shown = visionq_worker({}, *here, "render", "ocr", "640x480", "--json")
        assert json_of(shown)["image_tokens"] == [1921]
        checked = visionq_worker({}, *here, "check", "--json")
        assert checked.exit_code == 0
        texts = {one["name"]: one["text"] for one in json_lines(checked)}
        assert texts["broker"].endswith("answers; namespace ours")
        assert texts["model"] == "tiny is here"
        other = visionq_worker({}, *here, "check", "--model", "./nowhere")
        assert "no model folder at ./nowhere" in other.stdout
        if is_named:  # a process of its own, to which the option is handed on
            handed = run_command(tmp_path, "visionq", "render", "cars", "640x480", *here)
            assert handed.returncode == 0, handed.stderr
            assert "Count the cars." in handed.stdout
    gone = visionq_worker({}, *here, "check", "--quick")
    assert gone.exit_code == (2 if is_named else 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_up_ends_at_ctrl_c_and_when_its_terminal_is_closed(
    tmp_path: Path, number: signal.Signals
) -> None:
    """The signal goes to the whole process group, as a terminal sends it."""
    with started(tmp_path, "--state", tmp_path / "state", "up", "--model", "tiny") as up:
        family = wait_for_servers(up)
        os.killpg(up.process.pid, number)
        assert up.wait() == 0
        assert_gone(family)


def test_up_fails_when_its_worker_cannot_load_the_model(tmp_path: Path) -> None:
    with started(tmp_path, "--state", tmp_path / "state", "up", "--model", "./nowhere") as up:
        family = wait_for_servers(up)
        assert up.wait() == 1
        assert_gone(family)
        *_, reason, last = up.stderr.read_text().splitlines()
    assert reason.endswith(
        "cannot start: model: no model folder at ./nowhere: correct the path or use a hub id"
    )
    assert last == "visionq: a worker has ended with exit code 3"


def test_up_fails_when_a_server_dies(tmp_path: Path) -> None:
    with started(tmp_path, "--state", tmp_path / "state", "up", "--model", "tiny") as up:
        family = wait_for_servers(up)
        (valkey,) = (member for member in family if "valkey-server" in member.cmdline()[0])
        valkey.kill()
        assert up.wait() == 1
        assert_gone(family)
        assert "visionq: valkey died with exit status -9; " in up.stderr.read_text()


def test_up_with_a_wrong_setting_starts_nothing(tmp_path: Path) -> None:
    (tmp_path / "our.toml").write_text("[worker]\nthreads = 8\n")
    state = tmp_path / "state"
    result = visionq({}, "--settings", tmp_path / "our.toml", "--state", state, "up")
    assert result.exit_code == 2
    assert "worker.threads: " in result.stderr
    assert not state.exists()


def test_up_with_a_wrong_number_of_workers_is_wrong_usage(tmp_path: Path) -> None:
    assert visionq({}, "--state", tmp_path / "state", "up", "--workers", "0").exit_code == 2


def workers_of(up: Up) -> list[psutil.Process]:
    """The workers that run now, by their command line; not those that are still being launched.

    Nor what a worker starts itself, which is for a moment a copy of it.
    """
    found = []
    for member in psutil.Process(up.process.pid).children():
        with suppress(psutil.Error):
            if any(part.endswith("visionq-worker") for part in member.cmdline()[:2]):
                found.append(member)
    return found


def test_a_killed_worker_is_started_again_and_the_others_stay(tmp_path: Path) -> None:
    here = ("--state", tmp_path / "state")
    with started(tmp_path, *here, "up", "--model", "tiny", "--workers", "3") as up:
        wait_for_servers(up)
        wait_until(lambda: len(workers_of(up)) == 3, seconds=SECONDS, what="three workers")
        victim, *others = workers_of(up)
        victim.kill()

        def is_replaced() -> bool:
            running = set(workers_of(up))
            return victim not in running and running > set(others)

        wait_until(is_replaced, seconds=SECONDS, what="another worker in its place")
        assert (
            "visionq: a worker has ended with signal 9; it is started again in 1 s"
            in up.stderr.read_text()
        )
        up.process.send_signal(signal.SIGTERM)
        family = up.family()
        assert up.wait() == 0
        assert_gone(family)


def test_up_stops_when_workers_end_five_times_in_a_minute(tmp_path: Path) -> None:
    """As fast as they come, each is killed while it starts."""
    with started(tmp_path, "--state", tmp_path / "state", "up", "--model", "tiny") as up:
        family = wait_for_servers(up)
        began = monotonic()
        while up.process.poll() is None and monotonic() - began < SECONDS:
            for worker in workers_of(up):
                with suppress(psutil.Error):
                    worker.kill()
            sleep(0.05)
        assert up.wait() == 1
        assert_gone(family)
        text = up.stderr.read_text()
    assert [f"again in {seconds} s" in text for seconds in (1, 2, 4, 8)] == [True] * 4
    assert text.splitlines()[-1] == (
        "visionq: workers have ended 5 times within 60 s, the last one with signal 9: "
        "their output says why"
    )


def test_worker_that_was_told_to_stop_is_not_started_again(tmp_path: Path) -> None:
    with started(tmp_path, "--state", tmp_path / "state", "up", "--model", "tiny") as up:
        wait_for_servers(up)
        [worker] = wait_until(lambda: workers_of(up), seconds=SECONDS)
        wait_until(lambda: b"ready." in up.stderr.read_bytes(), seconds=SECONDS)
        worker.terminate()
        assert up.wait() == 1
        assert up.stderr.read_text().splitlines()[-2:] == [
            "visionq: a worker was told to stop, and is not started again; stop `visionq up` and"
            " start it again to have it back",
            "visionq: all workers were told to stop",
        ]
