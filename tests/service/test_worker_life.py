"""A worker's start, its end, and outages of what it depends on. Real processes, really killed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import redis
from celery.result import AsyncResult

from tests.conftest import SERVICE_NAMESPACE
from tests.support.addresses import store_address
from tests.support.foreign import foreign_app
from tests.support.killing import kill_valkey
from tests.support.waiting import wait_until
from tests.support.workers import BIN, READY_SECONDS, environment, running_worker
from visionq import Client, State
from visionq.local import LocalServers, LocalUrls
from visionq.names import Names
from visionq.objects import ObjectStore

SECONDS = 30.0
EXIT_START = 3


def _run_to_its_end(env: Mapping[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / command[0], *command[1:]],
        env=env,
        capture_output=True,
        text=True,
        timeout=READY_SECONDS,
    )


@pytest.fixture
def waiting_task(client: Client, pictures: Path) -> str:
    """The id of a task that nobody has taken yet."""
    return client.ask(pictures / "shelf_after.png", "What?", max_new_tokens=2).id


BROKEN: dict[str, tuple[dict[str, str], str]] = {
    "model": ({"VISIONQ_MODEL__SOURCE": "no/such-folder"}, "model"),
    "secret": ({"VISIONQ_STORAGE__SECRET_KEY": "wrong-secret-wrong"}, "bucket"),
    "bucket": ({"VISIONQ_STORAGE__BUCKET": "no-such-bucket"}, "bucket"),
    "store": ({"VISIONQ_STORAGE__ENDPOINT_URL": "http://127.0.0.1:9"}, "bucket"),
    "broker": ({"VISIONQ_BROKER__URL": "redis://127.0.0.1:9/0"}, "broker"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_worker_that_cannot_start_exits_without_taking_a_message(
    urls: LocalUrls,
    namespace: str,
    raw: redis.Redis,
    client: Client,
    waiting_task: str,
    name: str,
    tmp_path: Path,
) -> None:
    changes, named = BROKEN[name]
    env = environment(urls, namespace, HF_HUB_OFFLINE="1", **changes)
    ended = _run_to_its_end(env, "visionq-worker", "run")
    assert ended.returncode == EXIT_START, ended.stderr
    lines = [line for line in ended.stderr.splitlines() if "cannot start" in line]
    assert len(lines) == 1
    assert f"cannot start: {named}:" in lines[0]
    assert raw.llen(f"{namespace}.interactive") == 1
    assert client.status(waiting_task).state is State.PENDING


def test_worker_with_damaged_weights_exits_without_taking_a_message(
    urls: LocalUrls, namespace: str, raw: redis.Redis, waiting_task: str, tmp_path: Path
) -> None:
    from visionq_worker.model.tiny import make_tiny

    folder = tmp_path / "model"
    make_tiny(folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    ended = _run_to_its_end(
        environment(urls, namespace, VISIONQ_MODEL__SOURCE=str(folder)), "visionq-worker", "run"
    )
    assert ended.returncode == EXIT_START
    assert "cannot start: model:" in ended.stderr
    assert raw.llen(f"{namespace}.interactive") == 1


def test_worker_with_wrong_settings_exits_and_names_the_key(
    urls: LocalUrls, namespace: str
) -> None:
    env = environment(urls, namespace, VISIONQ_WORKER__CONCURENCY="4")
    ended = _run_to_its_end(env, "visionq-worker", "run")
    assert ended.returncode == 2
    assert "worker.concurency" in ended.stderr


def test_celery_command_line_runs_the_same_worker(
    urls: LocalUrls, namespace: str, client: Client, waiting_task: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    command = ["-A", "visionq_worker.app", "worker", "--pool", "threads", "--loglevel", "INFO"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [BIN / "celery", *command],
            env=environment(urls, namespace),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        assert client.wait(waiting_task, READY_SECONDS).state is State.SUCCESS
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0
    finally:
        process.kill()
        process.wait()
    answer = client.result(waiting_task, 0).text
    assert answer
    assert answer not in log.read_text(), "the model's text is in the log"


def test_celery_command_line_refuses_another_pool(urls: LocalUrls, namespace: str) -> None:
    env = environment(urls, namespace)
    ended = _run_to_its_end(env, "celery", "-A", "visionq_worker.app", "worker", "-P", "solo")
    assert ended.returncode != 0
    assert "--pool threads" in ended.stdout + ended.stderr


def test_sigterm_lets_the_running_task_finish(
    urls: LocalUrls, namespace: str, client: Client, pictures: Path, tmp_path: Path
) -> None:
    with running_worker(environment(urls, namespace), tmp_path / "log") as process:
        handle = client.ask(pictures / "shelf_after.png", "Go on.", max_new_tokens=600)
        wait_until(lambda: handle.status().generated_tokens, seconds=SECONDS)
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0
    status = handle.status()
    assert (status.state, status.generated_tokens) == (State.SUCCESS, 600)


@pytest.fixture
def own_servers(tmp_path: Path) -> Iterator[LocalServers]:
    """Servers of the test's own, to be killed."""
    with LocalServers(tmp_path / "servers") as servers:
        yield servers


@pytest.fixture
def own_client(own_servers: LocalServers) -> Iterator[Client]:
    urls = own_servers.urls
    address = store_address(urls)
    with Client(urls.broker_url, address, namespace="own") as client:
        yield client


def test_store_outage_postpones_tasks_and_loses_none(
    own_servers: LocalServers, own_client: Client, pictures: Path, tmp_path: Path
) -> None:
    picture = pictures / "shelf_after.png"
    env = environment(own_servers.urls, "own", VISIONQ_STORAGE__TIMEOUT_SECONDS="1")
    with running_worker(env, tmp_path / "log"):
        first = own_client.ask(picture, "Before?", max_new_tokens=1)
        key = own_client.result(first.id, SECONDS).provenance.input_digests[0]
        own_servers.kill("s3")
        during = [own_client.ask(f"inputs/{key}", f"{n}?", max_new_tokens=1) for n in range(3)]
        wait_until(
            lambda: any(handle.status().state is State.RETRY for handle in during), seconds=SECONDS
        )
        failure = next(
            status.failure
            for status in (handle.status() for handle in during)
            if status.state is State.RETRY
        )
        assert failure is not None
        assert failure.code == "storage_unavailable"
        own_servers.restart("s3")
        for handle in during:
            assert handle.result(SECONDS).text
            assert handle.status().attempt >= 2 or handle.status().failure is None


def test_bucket_that_vanishes_postpones_tasks_until_it_is_back(
    own_servers: LocalServers, own_client: Client, pictures: Path, tmp_path: Path
) -> None:
    picture = pictures / "shelf_after.png"
    bucket = next(folder for folder in (tmp_path / "servers" / "s3").iterdir() if folder.is_dir())
    with running_worker(environment(own_servers.urls, "own"), tmp_path / "log"):
        handle = own_client.ask(picture, "Before?", max_new_tokens=1)
        handle.result(SECONDS)
        digest = handle.result(0).provenance.input_digests[0]
        shutil.move(bucket, tmp_path / "aside")
        during = own_client.ask(f"inputs/{digest}", "During?", max_new_tokens=1)
        wait_until(lambda: during.status().state is State.RETRY, seconds=SECONDS)
        # The worker has tried what the store does for an object of its own, which made the folder.
        shutil.copytree(tmp_path / "aside", bucket, dirs_exist_ok=True)
        assert during.result(SECONDS).text


def test_redis_restart_with_tasks_running_loses_none(
    own_servers: LocalServers, own_client: Client, pictures: Path, tmp_path: Path
) -> None:
    picture = pictures / "shelf_after.png"
    with running_worker(environment(own_servers.urls, "own"), tmp_path / "log") as process:
        handles = [own_client.ask(picture, f"{n}?", max_new_tokens=150) for n in range(8)]
        wait_until(lambda: handles[0].status().generated_tokens, seconds=SECONDS)
        kill_valkey(own_servers)
        own_servers.restart("valkey")
        states = [handle.wait(SECONDS).state for handle in handles]
        assert states == [State.SUCCESS] * 8
        after = own_client.ask(picture, "After?", max_new_tokens=1)
        assert after.wait(SECONDS).state is State.SUCCESS
        assert process.poll() is None


def test_second_delivery_of_a_finished_task_changes_nothing(
    service: Client, urls: LocalUrls, store: ObjectStore, pictures: Path
) -> None:
    from visionq.broker import Publisher
    from visionq.contract import ImageRef, Options, Task
    from visionq.names import Names

    handle = service.ask(pictures / "shelf_after.png", "What?", max_new_tokens=2)
    digest = handle.result(SECONDS).provenance.input_digests[0]
    before = store.get(handle.result_key)
    again = Task(
        id=handle.id,
        kind="ask",
        images=(ImageRef(ref=f"inputs/{digest}"),),
        question="What?",
        options=Options(max_new_tokens=2),
    )
    publisher = Publisher(urls.broker_url, Names("service"), timeout_seconds=2)
    publisher.publish(again)
    publisher.close()
    next_one = service.ask(pictures / "shelf_after.png", "Next?", max_new_tokens=1)
    next_one.wait(SECONDS)
    assert handle.status().attempt == 1
    assert store.get(handle.result_key) == before


def test_sigterm_while_starting_ends_the_worker_with_no_message_taken(
    urls: LocalUrls, namespace: str, raw: redis.Redis, waiting_task: str, tmp_path: Path
) -> None:
    """It hangs on a store that never answers, as it would on a model that takes its time."""
    log = tmp_path / "log"
    with socket.create_server(("127.0.0.1", 0)) as mute, log.open("wb") as output:
        port = mute.getsockname()[1]
        env = environment(urls, namespace, VISIONQ_STORAGE__ENDPOINT_URL=f"http://127.0.0.1:{port}")
        process = subprocess.Popen(
            [BIN / "visionq-worker", "run"], env=env, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            mute.settimeout(SECONDS)
            asked, _ = mute.accept()
            process.send_signal(signal.SIGTERM)
            assert process.wait(SECONDS) == 0, log.read_text()
            asked.close()
        finally:
            process.kill()
            process.wait()
    assert "told to stop while starting" in log.read_text()
    assert raw.llen(f"{namespace}.interactive") == 1


def test_interactive_tasks_start_before_bulk_ones(
    urls: LocalUrls, namespace: str, client: Client, pictures: Path, tmp_path: Path
) -> None:
    picture = pictures / "shelf_after.png"
    bulk = [client.ask(picture, f"{n}?", max_new_tokens=1, lane="bulk") for n in range(3)]
    urgent = [client.ask(picture, f"{n}!", max_new_tokens=1) for n in range(3)]
    env = environment(urls, namespace, VISIONQ_WORKER__CONCURRENCY="1")
    with running_worker(env, tmp_path / "log"):
        ended = [client.wait(handle.id, SECONDS) for handle in (*bulk, *urgent)]
    started = sorted(ended, key=lambda status: status.started_at or 0.0)
    assert [status.lane for status in started] == ["interactive"] * 3 + ["bulk"] * 3


def test_sigterm_lets_a_task_finish_that_has_not_reached_the_model(
    own_servers: LocalServers, own_client: Client, pictures: Path, tmp_path: Path
) -> None:
    """Its picture is still being fetched, from a store that is slow to come back."""
    picture = pictures / "shelf_after.png"
    env = environment(own_servers.urls, "own", VISIONQ_STORAGE__TIMEOUT_SECONDS="20")
    with running_worker(env, tmp_path / "log") as process:
        first = own_client.ask(picture, "Before?", max_new_tokens=1)
        digest = first.result(SECONDS).provenance.input_digests[0]
        store_pid = own_servers.pid("s3")
        os.kill(store_pid, signal.SIGSTOP)
        try:
            handle = own_client.ask(f"inputs/{digest}", "During?", max_new_tokens=1)
            wait_until(lambda: handle.status().state is State.STARTED, seconds=SECONDS)
            process.send_signal(signal.SIGTERM)
            wait_until(lambda: b"Warm shutdown" in (tmp_path / "log").read_bytes(), seconds=SECONDS)
        finally:
            os.kill(store_pid, signal.SIGCONT)
        assert process.wait(SECONDS) == 0
    assert handle.status().state is State.SUCCESS


def test_celery_learns_of_a_result_that_was_committed_just_before_a_kill(
    service: Client, urls: LocalUrls, raw: redis.Redis, pictures: Path
) -> None:
    """What is left then: object and record, but no result of Celery's, and the message again."""
    handle = service.ask(pictures / "shelf_after.png", "What?", max_new_tokens=2)
    text = handle.result(SECONDS).text
    key = Names(SERVICE_NAMESPACE).celery_result(handle.id)
    wait_until(lambda: raw.exists(key), seconds=SECONDS)
    raw.delete(key)
    app = foreign_app(urls, SERVICE_NAMESPACE)
    task = {"kind": "ask", "question": "What?", "images": [{"ref": "inputs/x"}]}
    app.send_task(
        "visionq.run", task_id=handle.id, kwargs={"task": task}, queue="service.interactive"
    )
    wait_until(lambda: raw.exists(key), seconds=SECONDS)
    assert AsyncResult(handle.id, app=app).get(timeout=SECONDS)["text"] == text


def test_supervised_worker_that_is_killed_comes_back_and_is_probed(
    urls: LocalUrls, namespace: str, client: Client, pictures: Path, tmp_path: Path
) -> None:
    health = tmp_path / "health.json"
    env = environment(urls, namespace, VISIONQ_WORKER__HEALTH_FILE=str(health))
    assert _run_to_its_end(env, "visionq-worker", "probe", "live").returncode == 1
    with running_worker(env, tmp_path / "log", "--supervise") as supervisor:
        wait_until(
            lambda: _run_to_its_end(env, "visionq-worker", "probe", "ready").returncode == 0,
            seconds=SECONDS,
        )
        children = Path(f"/proc/{supervisor.pid}/task/{supervisor.pid}/children").read_text()
        os.kill(int(children), signal.SIGKILL)
        health.unlink()
        task = client.ask(pictures / "shelf_after.png", "What?", max_new_tokens=2)
        assert task.wait(READY_SECONDS).state is State.SUCCESS
        wait_until(health.exists)
        probed = _run_to_its_end(env, "visionq-worker", "probe", "live")
        assert (probed.returncode, probed.stdout) == (0, "live\n")
