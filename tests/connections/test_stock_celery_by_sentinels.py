"""A stock Celery application beside ours, with the sentinels that `docs/failover.md` names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from uuid import uuid4

import pytest
from celery import Celery
from celery.states import SUCCESS
from kombu import pools

from tests.support.guarded import NAME, Guarded, guarded
from visionq.contract import is_task_id
from visionq.settings import load_settings
from visionq_worker.app import build_app

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:kombu"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:celery"),
]


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with guarded(tmp_path_factory.mktemp("guarded")) as running:
        yield running


def test_it_sends_to_our_queue_and_reads_our_results(group: Guarded) -> None:
    sentinels = ";".join(
        f"sentinel://:{group.password}@127.0.0.1:{port}/0" for port in group.sentinels
    )
    options = {
        "master_name": NAME,
        "sentinel_kwargs": {"password": group.sentinel_password},
    }
    stock = Celery("other", broker=sentinels, backend=sentinels, set_as_current=False)
    stock.conf.update(broker_transport_options=options, result_backend_transport_options=options)
    sent = stock.send_task("visionq.run", kwargs={"task": {}}, queue="visionq.interactive")
    with group.raw() as primary:
        message = json.loads(primary.lpop("visionq.interactive"))  # type: ignore[arg-type]
    assert message["headers"]["id"] == sent.id
    assert is_task_id(sent.id)
    ours = build_app(
        load_settings(
            broker={"url": group.url, "sentinel_password": group.sentinel_password},
        )
    )
    ours.backend.store_result(sent.id, {"text": "read"}, SUCCESS)
    assert stock.AsyncResult(sent.id).get(timeout=10) == {"text": "read"}
    assert stock.AsyncResult(str(uuid4())).state == "PENDING"
    ours.close()
    stock.backend.result_consumer.stop()
    stock.backend.client.connection_pool.disconnect()
    stock.close()
    pools.reset()
