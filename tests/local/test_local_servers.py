"""The embedded servers are usable at once, keep their data and keep their secrets."""

import logging
import socket
import stat
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from visionq.local import (
    LocalServers,
    LocalUrls,
    ServerDied,
    ServerName,
    WrongKeys,
    check_keys,
    read_urls,
    write_urls,
)

Broker = Callable[[LocalUrls], redis.Redis]
Store = Callable[[LocalUrls], Any]

BOTH: tuple[ServerName, ...] = ("valkey", "s3")


def test_the_broker_is_usable_and_keeps_what_it_is_given(
    running: LocalServers, broker: Broker
) -> None:
    client = broker(running.urls)
    client.set("fruit", "pear")
    assert client.get("fruit") == "pear"
    wanted = {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
        "bind": "127.0.0.1",
        "protected-mode": "yes",
    }
    assert client.config_get(*wanted) == wanted


def test_the_bucket_is_there_and_takes_objects(running: LocalServers, store: Store) -> None:
    client = store(running.urls)
    client.put_object(Bucket="visionq", Key="results/a.json", Body=b"{}")
    assert client.get_object(Bucket="visionq", Key="results/a.json")["Body"].read() == b"{}"


def test_right_keys_are_accepted(running: LocalServers) -> None:
    check_keys(running.urls)


def test_data_keys_and_ports_are_the_same_in_the_next_run(
    tmp_path: Path, broker: Broker, store: Store
) -> None:
    with LocalServers(tmp_path) as servers:
        first = servers.urls
        broker(first).set("fruit", "pear")
        store(first).put_object(Bucket="visionq", Key="a.json", Body=b"1")
    with LocalServers(tmp_path) as servers:
        assert servers.urls == first
        assert broker(first).get("fruit") == "pear"
        assert store(first).get_object(Bucket="visionq", Key="a.json")["Body"].read() == b"1"


def test_data_survives_a_sigkill_and_a_restart(
    tmp_path: Path, broker: Broker, store: Store
) -> None:
    with LocalServers(tmp_path) as servers:
        broker(servers.urls).set("fruit", "pear")
        store(servers.urls).put_object(Bucket="visionq", Key="a.json", Body=b"1")
        for name in BOTH:
            pid = servers.pid(name)
            servers.kill(name)
            with pytest.raises(ServerDied, match=rf"^{name} died with exit status -9; "):
                servers.check()
            servers.restart(name)
            assert servers.pid(name) != pid
        servers.check()
        assert broker(servers.urls).get("fruit") == "pear"
        assert store(servers.urls).get_object(Bucket="visionq", Key="a.json")["Body"].read() == b"1"


def test_restart_replaces_a_server_that_still_runs(tmp_path: Path) -> None:
    with LocalServers(tmp_path) as servers:
        pid = servers.pid("valkey")
        servers.restart("valkey")
        assert servers.pid("valkey") != pid
        check_keys(servers.urls)


def test_a_remembered_port_that_is_taken_is_replaced(tmp_path: Path) -> None:
    with LocalServers(tmp_path) as servers:
        first = servers.urls
    port = int(first.broker_address.rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)), LocalServers(tmp_path) as servers:
        assert servers.urls.broker_address != first.broker_address
        assert servers.urls.s3_endpoint == first.s3_endpoint


def test_asked_ports_and_bucket_are_used(tmp_path: Path, store: Store) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):
        ports = one.getsockname()[1], two.getsockname()[1]
    with LocalServers(tmp_path, redis_port=ports[0], s3_port=ports[1], bucket="other") as servers:
        assert servers.urls.broker_address == f"127.0.0.1:{ports[0]}"
        assert servers.urls.s3_endpoint == f"http://127.0.0.1:{ports[1]}"
        buckets = store(servers.urls).list_buckets()["Buckets"]
    assert [bucket["Name"] for bucket in buckets] == ["other"]


def test_settings_of_other_programs_do_not_reach_the_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("RCLONE_READ_ONLY", "true")
    monkeypatch.setenv("RCLONE_AUTH_KEY", '"someone,else"')
    with LocalServers(tmp_path) as servers:
        store(servers.urls).put_object(Bucket="visionq", Key="a.json", Body=b"1")


def test_the_store_is_stopped_before_the_broker(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="visionq.local")
    with LocalServers(tmp_path):
        pass
    events = [" ".join(message.split()[:2]) for message in caplog.messages]
    assert events == ["valkey started", "s3 started", "s3 stopped", "valkey stopped"]
    assert "Calling fsync() on the AOF file" in (tmp_path / "valkey.log").read_text()


def test_only_the_user_can_read_the_state(tmp_path: Path, broker: Broker, store: Store) -> None:
    folder = tmp_path / "state"
    with LocalServers(folder) as servers:
        broker(servers.urls).set("fruit", "pear")
        store(servers.urls).put_object(Bucket="visionq", Key="a/b.json", Body=b"1")
        paths = [folder, *folder.rglob("*")]
        assert {"urls.json", "identity.json", "lock", "valkey.log", "s3.log", "b.json"} <= {
            path.name for path in paths
        }
        open_to_others = [path for path in paths if stat.S_IMODE(path.stat().st_mode) & 0o077]
    assert open_to_others == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_secrets_are_in_no_command_line_log_or_repr(tmp_path: Path) -> None:
    with LocalServers(tmp_path) as servers:
        password = servers.urls.broker_url.split(":")[2].partition("@")[0]
        secrets = (password, servers.urls.s3_secret_key)
        with pytest.raises(WrongKeys):
            check_keys(replace(servers.urls, s3_access_key="someone"))
        shown = [repr(servers.urls), repr(servers)]
        shown += [Path(f"/proc/{servers.pid(name)}/cmdline").read_text() for name in BOTH]
    shown += [path.read_text() for path in tmp_path.glob("*.log")]
    assert len(shown) == 6
    assert all(len(secret) == 48 for secret in secrets)
    assert not [text for text in shown if any(secret in text for secret in secrets)]


def test_other_commands_find_the_servers_only_while_they_run(tmp_path: Path) -> None:
    assert read_urls(tmp_path) is None
    with LocalServers(tmp_path) as servers:
        assert read_urls(tmp_path) == servers.urls
    assert not (tmp_path / "urls.json").exists()


@pytest.mark.parametrize("name", BOTH)
def test_a_urls_file_whose_servers_are_dead_is_not_believed(
    tmp_path: Path, name: ServerName
) -> None:
    with LocalServers(tmp_path) as servers:
        servers.kill(name)
        assert read_urls(tmp_path) is None
        urls = servers.urls
    write_urls(tmp_path, urls)
    assert read_urls(tmp_path) is None
