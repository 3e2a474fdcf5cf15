"""`from_settings`: a client as file and environment say."""

import time
from pathlib import Path
from typing import Any

import pytest

from tests.client.hand_worker import HandWorker
from tests.support.workers import environment
from visionq import AsyncClient, BrokerUnavailable, Client, SettingsError
from visionq.dead import DeadLetters
from visionq.errors import StorageUnavailable
from visionq.local import LocalUrls
from visionq.settings import load_settings


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def _environment(urls: LocalUrls, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(urls, namespace).items():
        if name.startswith("VISIONQ_"):
            monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("_environment")
def test_a_client_from_the_environment_submits_and_uploads(worker: HandWorker) -> None:
    with Client.from_settings() as client:
        handle = client.ocr(b"\xff\xd8an image for the environment's client")
    assert worker.message_ids() == [handle.id]
    assert worker.store.exists(worker.task(handle.id).images[0].ref)


@pytest.mark.usefixtures("_environment")
def test_the_environment_corrects_a_file_with_other_values(
    tmp_path: Path, worker: HandWorker
) -> None:
    (tmp_path / "settings.toml").write_text(
        '[broker]\nurl = "redis://127.0.0.1:1/0"\nnamespace = "elsewhere"\n'
        "record_ttl_seconds = 100\n[kinds.invoice]\nprompt = 'Read this invoice.'\n"
    )
    with Client.from_settings() as client:
        handle = client.submit("invoice", "inputs/a")
    assert worker.message_ids() == [handle.id]
    ttl = worker.raw.ttl(worker.names.record(handle.id))
    assert isinstance(ttl, int)
    assert 90 < ttl <= 100


@pytest.mark.usefixtures("_environment")
def test_a_bad_value_stops_the_client_before_it_connects(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("[broker]\ntimeout_seconds = 'soon'\n")
    with pytest.raises(SettingsError, match=r"broker\.timeout_seconds"):
        Client.from_settings()
    with pytest.raises(SettingsError, match=r"broker\.timeout_seconds"):
        AsyncClient.from_settings()


@pytest.mark.usefixtures("_environment")
def test_the_timeout_of_the_broker_is_kept_to(
    mute_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISIONQ_BROKER__URL", f"redis://127.0.0.1:{mute_port}/0")
    monkeypatch.setenv("VISIONQ_BROKER__TIMEOUT_SECONDS", "0.2")
    began = time.monotonic()
    with Client.from_settings() as client, pytest.raises(BrokerUnavailable):
        client.ocr("inputs/a")
    assert time.monotonic() - began < 5


@pytest.mark.usefixtures("_environment")
def test_the_timeout_of_the_store_is_kept_to(
    mute_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISIONQ_STORAGE__ENDPOINT_URL", f"http://127.0.0.1:{mute_port}")
    monkeypatch.setenv("VISIONQ_STORAGE__TIMEOUT_SECONDS", "0.2")
    began = time.monotonic()
    with Client.from_settings() as client, pytest.raises(StorageUnavailable):
        client.ocr(b"\xff\xd8an image")
    assert time.monotonic() - began < 5


@pytest.mark.usefixtures("_environment")
def test_settings_given_are_taken_as_they_are(worker: HandWorker) -> None:
    settings = load_settings(broker={"record_ttl_seconds": 200})
    with Client.from_settings(settings) as client:
        handle = client.ocr("inputs/a")
    ttl = worker.raw.ttl(worker.names.record(handle.id))
    assert isinstance(ttl, int)
    assert 190 < ttl <= 200


@pytest.mark.parametrize("opened", [Client, AsyncClient, DeadLetters])
def test_what_is_no_settings_is_refused(opened: Any) -> None:
    with pytest.raises(SettingsError, match="must be of the type"):
        opened.from_settings("x")
