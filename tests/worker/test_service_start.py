"""What stands in the way of a start is one line that names it; else everything is there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.support.scripted import ScriptedEngine
from visionq.local import LocalUrls
from visionq.settings import Settings, load_settings
from visionq.up import settings_flags
from visionq_worker.engine.request import Engine
from visionq_worker.errors import StartError
from visionq_worker.executor import Executor
from visionq_worker.service import Service

Flags = dict[str, dict[str, Any]]


def settings_with(urls: LocalUrls, **changes: Mapping[str, Any]) -> Settings:
    """The settings of the test servers, with some keys changed."""
    flags: Flags = {name: dict(values) for name, values in settings_flags(urls).items()}
    for section, keys in changes.items():
        flags[section] = flags.get(section, {}) | dict(keys)
    return load_settings(None, **flags)


def refusal(settings: Settings) -> str:
    """Why the service does not open. The model must not have been loaded by then."""
    service = Service(settings, lambda: pytest.fail("the model was loaded"))
    with pytest.raises(StartError) as caught:
        service.open()
    assert "\n" not in str(caught.value)
    service.close()
    return str(caught.value)


def test_open_service_has_an_executor_and_closes_its_engine(urls: LocalUrls) -> None:
    engine = ScriptedEngine()
    service = Service(settings_with(urls), lambda: engine)
    service.open()
    assert isinstance(service.executor, Executor)
    assert not engine.is_closed
    service.close()
    assert engine.is_closed


def test_broker_that_is_away_is_named(urls: LocalUrls, closed_port: int) -> None:
    away = settings_with(urls, broker={"url": f"redis://127.0.0.1:{closed_port}/0"})
    assert refusal(away).startswith("broker: Redis: ConnectionError: ")


def test_wrong_password_is_named_and_not_repeated(urls: LocalUrls) -> None:
    wrong = settings_with(urls, broker={"url": f"redis://:hunter2@{urls.broker_address}/0"})
    text = refusal(wrong)
    assert text.startswith("broker: Redis: AuthenticationError: ")
    assert "hunter2" not in text


def test_url_with_a_password_that_is_not_encoded_is_named_and_not_repeated(
    urls: LocalUrls,
) -> None:
    wrong = settings_with(urls, broker={"url": "redis://:hunter2/x@127.0.0.1:6379/0"})
    with pytest.raises(StartError) as caught:
        Service(wrong, lambda: pytest.fail("the model was loaded"))
    assert str(caught.value) == "broker: url is not redis://user:password@host:port/db"


def test_wrong_secret_of_the_store_is_named_and_not_repeated(urls: LocalUrls) -> None:
    wrong = settings_with(urls, storage={"secret_key": "hunter2" * 6})
    text = refusal(wrong)
    assert text.startswith("bucket: the object store refused access")
    assert "hunter2" not in text


def test_missing_bucket_is_named(urls: LocalUrls) -> None:
    missing = settings_with(urls, storage={"bucket": "nobody-made-this"})
    assert refusal(missing) == "bucket: there is no bucket 'nobody-made-this'"


def test_store_that_is_away_is_named(urls: LocalUrls, closed_port: int) -> None:
    away = settings_with(urls, storage={"endpoint_url": f"http://127.0.0.1:{closed_port}"})
    assert refusal(away).startswith("bucket: object store: EndpointConnectionError: ")


def test_model_that_cannot_be_loaded_leaves_nothing_open(urls: LocalUrls) -> None:
    def load() -> Engine:
        raise StartError("model: no such model")

    service = Service(settings_with(urls), load)
    with pytest.raises(StartError, match=r"^model: no such model$"):
        service.open()
    with pytest.raises(AssertionError, match="opened before"):
        _ = service.executor
    service.close()
