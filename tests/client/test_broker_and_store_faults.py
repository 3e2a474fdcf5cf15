"""A broker or a store that is away, mute, or refuses: a typed error, soon, and nothing sent."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.client.hand_worker import HandWorker
from visionq import BrokerUnavailable, Client, StorageError, StoreAddress, Submission
from visionq.broker import Publisher
from visionq.contract import ImageRef, Task
from visionq.errors import BucketMissing, StorageDenied, StorageUnavailable
from visionq.local import LocalUrls
from visionq.names import Names
from visionq.objects import ObjectStore

TASK = Task(
    id="0b0c1a9e-52a8-4b43-9a56-0a2f8a1d9a11", kind="ocr", images=(ImageRef(ref="inputs/a"),)
)
PROMISED_SECONDS = 5.0

SUBMITS: dict[str, Callable[[Client], Any]] = {
    "submit": lambda client: client.ocr("inputs/a"),
    "submit_many": lambda client: client.submit_many([Submission("ocr", "inputs/a")] * 3),
}
OTHER_CALLS: dict[str, Callable[[Client], Any]] = {
    "status": lambda client: client.status(TASK.id),
    "status_many": lambda client: client.status_many([TASK.id]),
    "cancel": lambda client: client.cancel(TASK.id),
    "recent": lambda client: client.recent(),
    "wait": lambda client: client.wait(TASK.id, 0.5),
    "result": lambda client: client.result(TASK.id, 0.5),
}


def broker_url(port: int) -> str:
    return f"redis://:secret-word@127.0.0.1:{port}/0"


@pytest.fixture(params=["closed", "mute"])
def away_url(request: pytest.FixtureRequest, closed_port: int, mute_port: int) -> str:
    return broker_url(closed_port if request.param == "closed" else mute_port)


@pytest.mark.parametrize("call", SUBMITS)
def test_submitting_to_a_broker_that_is_away_or_mute_fails_within_5_seconds(
    away_url: str, address: StoreAddress, call: str
) -> None:
    with Client(away_url, address) as client:
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable) as caught:
            SUBMITS[call](client)
        assert time.monotonic() - began <= PROMISED_SECONDS
    assert "secret-word" not in str(caught.value)


def test_publishing_fails_within_5_seconds_when_the_broker_goes_after_the_record(
    away_url: str,
) -> None:
    publisher = Publisher(away_url, Names(), timeout_seconds=2.0)
    began = time.monotonic()
    with pytest.raises(BrokerUnavailable, match="publishing failed"):
        publisher.publish(TASK)
    assert time.monotonic() - began <= PROMISED_SECONDS
    publisher.close()


def test_publishing_many_fails_in_time_too(away_url: str) -> None:
    publisher = Publisher(away_url, Names(), timeout_seconds=0.3)
    with pytest.raises(BrokerUnavailable, match="publishing failed"):
        publisher.publish_many([TASK] * 3)
    publisher.close()


def test_publishing_fails_the_hundredth_time_as_it_did_the_first(closed_port: int) -> None:
    """What a failure takes from the pool of producers it gives back."""
    publisher = Publisher(broker_url(closed_port), Names(), timeout_seconds=2.0)
    for _ in range(50):
        with pytest.raises(BrokerUnavailable):
            publisher.publish(TASK)
        with pytest.raises(BrokerUnavailable):
            publisher.publish_many([TASK])
    publisher.close()


@pytest.mark.parametrize("call", OTHER_CALLS)
def test_every_other_call_to_such_a_broker_is_the_same_typed_error(
    away_url: str, address: StoreAddress, call: str
) -> None:
    with (
        Client(away_url, address, timeout_seconds=0.3) as client,
        pytest.raises(BrokerUnavailable) as caught,
    ):
        OTHER_CALLS[call](client)
    assert "secret-word" not in str(caught.value)


def test_many_threads_at_a_mute_broker_wait_no_longer_than_one(
    mute_port: int, address: StoreAddress
) -> None:
    seconds: list[float] = []
    with Client(broker_url(mute_port), address, timeout_seconds=0.5) as client:

        def submit() -> None:
            began = time.monotonic()
            with pytest.raises(BrokerUnavailable):
                client.ocr("inputs/a")
            seconds.append(time.monotonic() - began)

        threads = [threading.Thread(target=submit) for _ in range(30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(seconds) == 30
    assert max(seconds) <= PROMISED_SECONDS


def test_a_wrong_password_is_said_and_not_shown(urls: LocalUrls, address: StoreAddress) -> None:
    host = urls.broker_address
    with (
        Client(f"redis://:wrong-word@{host}/0", address) as client,
        pytest.raises(BrokerUnavailable, match="AuthenticationError") as caught,
    ):
        client.ocr("inputs/a")
    assert "wrong-word" not in str(caught.value)


def wrong_secret(address: StoreAddress, _port: int) -> StoreAddress:
    return replace(address, secret_key="wrong")


def wrong_key(address: StoreAddress, _port: int) -> StoreAddress:
    return replace(address, access_key="nobody")


def no_bucket(address: StoreAddress, _port: int) -> StoreAddress:
    return replace(address, bucket="nowhere")


def away(address: StoreAddress, port: int) -> StoreAddress:
    return replace(address, endpoint_url=f"http://127.0.0.1:{port}")


STORES: list[tuple[Callable[[StoreAddress, int], StoreAddress], type[StorageError]]] = [
    (wrong_secret, StorageDenied),
    (wrong_key, StorageDenied),
    (no_bucket, BucketMissing),
    (away, StorageUnavailable),
]


@pytest.mark.parametrize(("spoil", "error"), STORES)
def test_an_image_that_cannot_be_uploaded_stops_the_task_and_nothing_is_sent(
    urls: LocalUrls,
    address: StoreAddress,
    namespace: str,
    closed_port: int,
    worker: HandWorker,
    spoil: Callable[[StoreAddress, int], StoreAddress],
    error: type[StorageError],
) -> None:
    with Client(urls.broker_url, spoil(address, closed_port), namespace=namespace) as client:
        with pytest.raises(error) as caught:
            client.ocr(b"\xff\xd8an image")
        with pytest.raises(error):
            client.submit_many(
                [Submission("ocr", "inputs/a"), Submission("ocr", b"\xff\xd8an image")]
            )
    assert worker.keys() == []
    assert str(address.secret_key) not in str(caught.value)


@pytest.mark.parametrize(("spoil", "error"), STORES)
def test_the_bucket_can_be_checked_beforehand(
    address: StoreAddress,
    closed_port: int,
    spoil: Callable[[StoreAddress, int], StoreAddress],
    error: type[StorageError],
) -> None:
    spoiled = ObjectStore(spoil(address, closed_port))
    with pytest.raises(error):
        spoiled.check_bucket()
    spoiled.close()


def test_a_store_that_never_answers_is_given_up_on(address: StoreAddress, mute_port: int) -> None:
    mute = ObjectStore(
        replace(address, endpoint_url=f"http://127.0.0.1:{mute_port}"), timeout_seconds=0.3
    )
    began = time.monotonic()
    with pytest.raises(StorageUnavailable):
        mute.exists("inputs/a")
    assert time.monotonic() - began <= PROMISED_SECONDS
    mute.close()
