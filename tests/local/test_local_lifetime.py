"""No server outlives the process that started it, however that process ends."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from visionq.local import LocalServers, check_keys, read_urls

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc; parent-death signal")

# Prints the pids of both servers, then runs until its standard input ends.
OWNER = """
import sys
from pathlib import Path
from visionq.local import LocalServers

with LocalServers(Path(sys.argv[1])) as servers:
    print(servers.pid("valkey"), servers.pid("s3"), flush=True)
    sys.stdin.read()
"""


@contextmanager
def owner_process(folder: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A process that owns servers, in a process group of its own as a shell would give it."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        process_group=0,
    ) as owner:
        assert owner.stdout is not None
        try:
            pids = [int(pid) for pid in owner.stdout.readline().split()]
            assert len(pids) == 2
            yield owner, pids
        finally:
            owner.kill()


def runs(pid: int) -> bool:
    """Whether the process exists and is not a zombie that nobody has collected yet."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.01)


def test_a_normal_exit_leaves_no_server(tmp_path: Path) -> None:
    with owner_process(tmp_path) as (owner, pids):
        assert all(runs(pid) for pid in pids)
        owner.communicate("", timeout=10)
        assert owner.returncode == 0
        assert not any(runs(pid) for pid in pids)


def test_ctrl_c_in_the_terminal_stops_both_servers_in_order(tmp_path: Path) -> None:
    with owner_process(tmp_path) as (owner, pids):
        os.killpg(owner.pid, signal.SIGINT)
        assert owner.wait(timeout=10) == -signal.SIGINT
        assert not any(runs(pid) for pid in pids)
    log = (tmp_path / "valkey.log").read_text()
    assert "Received SIGTERM" in log
    assert "Received SIGINT" not in log
    assert not (tmp_path / "urls.json").exists()


def test_the_servers_of_a_sigkilled_process_end_with_it(tmp_path: Path) -> None:
    with owner_process(tmp_path) as (owner, pids):
        owner.kill()
        owner.wait(timeout=10)
        wait_until(lambda: not any(runs(pid) for pid in pids))
    assert (tmp_path / "urls.json").exists()
    assert read_urls(tmp_path) is None


def test_the_folder_of_a_sigkilled_process_can_be_used_at_once(tmp_path: Path) -> None:
    with owner_process(tmp_path) as (owner, _):
        urls = read_urls(tmp_path)
        owner.kill()
        owner.wait(timeout=10)
        with LocalServers(tmp_path) as servers:
            assert servers.urls == urls
            check_keys(servers.urls)


def test_servers_outlive_the_thread_that_started_them(tmp_path: Path) -> None:
    servers = LocalServers(tmp_path)
    thread = threading.Thread(target=servers.__enter__)
    thread.start()
    thread.join(timeout=30)
    with servers_closed_after(servers):
        native_thread_is_gone = f"/proc/self/task/{thread.native_id}"
        wait_until(lambda: not Path(native_thread_is_gone).exists())
        servers.check()
        check_keys(servers.urls)


@contextmanager
def servers_closed_after(servers: LocalServers) -> Iterator[None]:
    try:
        yield
    finally:
        servers.__exit__(None, None, None)
