"""The whole way, from client through worker process to answer, over TLS and a Unix socket."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
import trustme

from tests.support.tls import TlsProxy, papers
from tests.support.waiting import wait_until
from tests.support.workers import BIN, environment, running_worker
from tests.worker.picture_bytes import DOT
from visionq import Client, State
from visionq.dead import DeadLetters
from visionq.local import LocalUrls
from visionq.local.binaries import find_valkey
from visionq.local.commands import valkey_command
from visionq.local.folder import own
from visionq.local.ports import choose_port, propose_port
from visionq.local.process import ServerProcess
from visionq.names import Names
from visionq.settings import Settings, load_settings

SECONDS = 60.0
LONG = 2000
"""Tokens of an answer that is cancelled before."""


@dataclass(frozen=True, slots=True)
class Way:
    """Settings that lead to a Redis, and a plain URL of the same."""

    env: Mapping[str, str]
    plain_url: str


@contextmanager
def through_tls(urls: LocalUrls, folder: Path) -> Iterator[Way]:
    parts = urlsplit(urls.broker_url)
    authority = trustme.CA()
    made = papers(authority, folder)
    with TlsProxy(parts.port or 0, authority) as proxy:
        env = {
            "VISIONQ_BROKER__URL": f"rediss://:{parts.password}@localhost:{proxy.port}/0",
            "VISIONQ_BROKER__TLS_CA_FILE": str(made.ca),
            "VISIONQ_BROKER__TLS_CERT_FILE": str(made.cert),
            "VISIONQ_BROKER__TLS_KEY_FILE": str(made.key),
        }
        yield Way(env, urls.broker_url)
        assert proxy.num_connections > 5, "nobody has used it"


@contextmanager
def through_a_socket(urls: LocalUrls, folder: Path) -> Iterator[Way]:
    """A Valkey of its own. Paths of sockets are short."""
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vq.")))
        lock = stack.enter_context(own(folder))
        spawner = stack.enter_context(ThreadPoolExecutor(1))
        port = choose_port(None, propose_port())
        command = valkey_command(find_valkey(), port=port, password="pass", state_folder=folder)
        more = f"unixsocket {place / 'redis.sock'}\nunixsocketperm 700\n"
        server = ServerProcess(
            replace(command, stdin=command.stdin + more), spawner=spawner, lock=lock
        )
        stack.callback(server.kill)
        server.start()
        wait_until((place / "redis.sock").exists, what="the socket")
        env = {"VISIONQ_BROKER__URL": f"unix://:pass@{place / 'redis.sock'}?db=2"}
        yield Way(env, f"redis://:pass@127.0.0.1:{port}/2")


WAYS = {"tls": through_tls, "socket": through_a_socket}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, urls: LocalUrls, tmp_path: Path) -> Iterator[Way]:
    with WAYS[request.param](urls, tmp_path) as led:
        yield led


@pytest.fixture
def settings(
    way: Way, urls: LocalUrls, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    for name, value in environment(urls, namespace, **way.env).items():
        if name.startswith("VISIONQ_"):
            monkeypatch.setenv(name, value)
    return load_settings()


def test_task_goes_the_whole_way(
    way: Way, settings: Settings, urls: LocalUrls, namespace: str, tmp_path: Path
) -> None:
    env = environment(urls, namespace, **way.env)
    checked = subprocess.run(
        [BIN / "visionq-worker", "check", "--quick"], env=env, capture_output=True, text=True
    )
    line = checked.stdout.splitlines()[0]
    assert line.startswith("ok   broker: ")
    assert line.endswith(f" answers; namespace {namespace}")
    log = tmp_path / "worker.log"
    with (
        running_worker(env, log),
        Client.from_settings(settings) as client,
        redis.Redis.from_url(way.plain_url, decode_responses=True) as raw,
    ):
        names = Names(namespace)
        first = client.ask(DOT, "What is this?", max_new_tokens=5)
        assert first.result(SECONDS).finish_reason is not None
        assert raw.hget(names.record(first.id), "state") == "SUCCESS", "it went this way"
        wait_until(lambda: raw.exists(names.celery_result(first.id)), what="Celery's result")
        long = client.ask(DOT, "What is this?", max_new_tokens=LONG)
        wait_until(lambda: long.status().generated_tokens, seconds=SECONDS)
        long.cancel()
        assert long.wait(SECONDS).state is State.REVOKED
        # A message that nobody can read, by kombu's way and ours.
        raw.lpush(names.queue("interactive"), "no message")
        with DeadLetters.from_settings(settings) as letters:
            wait_until(letters.list, what="the dead letter")
        wait_until(lambda: not raw.hlen(names.unacked()), what="all to be settled")
        listed = subprocess.run([BIN / "visionq", "ls"], env=env, capture_output=True, text=True)
        assert first.id in listed.stdout
    text = log.read_text()
    assert "ERROR" not in text.replace("ERROR visionq_worker.transport", "")
    assert "pass@" not in text
