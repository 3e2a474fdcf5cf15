"""Many tasks at once: the same as one by one, in a handful of round trips."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.client.hand_worker import HandWorker
from visionq import Client, InvalidTask, Submission
from visionq.errors import UnknownKind, WrongImageCount


def test_2500_tasks_are_all_recorded_and_all_published(
    client: Client, key: str, worker: HandWorker
) -> None:
    submissions = [Submission("ocr", key, f"Question {number}?") for number in range(2500)]
    handles = client.submit_many(submissions)
    ids = [handle.id for handle in handles]
    assert len(set(ids)) == 2500
    assert worker.message_ids() == ids
    statuses = client.status_many(ids)
    assert {status.state.value for status in statuses} == {"PENDING"}
    assert [status.position for status in statuses] == list(range(2500))
    body = worker.messages()[2499]
    assert "Question 2499?" not in json.dumps(body["headers"])
    assert worker.task(ids[2499]).question == "Question 2499?"


def test_batching_is_really_on(client: Client) -> None:
    publisher = client._submitter._publisher
    with publisher._doors.use() as doors, doors.producers.acquire(block=True) as producer:
        assert producer.supports_batch_publish is True


def test_messages_travel_a_thousand_at_a_time(
    own_client: Client, own_worker: HandWorker, num_reads: Callable[[Callable[[], Any]], int]
) -> None:
    one = Submission("ocr", "inputs/a")
    own_client.submit_many([one])
    # Whether the scripts are known, the records, the messages; a pipeline may arrive in pieces.
    assert 3 <= num_reads(lambda: own_client.submit_many([one] * 20)) <= 12
    # About 4 MB, of which one read takes at least 16 KiB. One by one it would be 5,000 reads.
    assert num_reads(lambda: own_client.submit_many([one] * 2500)) <= 400
    assert len(own_worker.messages()) == 1 + 20 + 2500


def test_submissions_may_differ_in_everything(client: Client, key: str, worker: HandWorker) -> None:
    ocr, compare, ask = client.submit_many(
        iter(
            [
                Submission("ocr", key),
                Submission("compare", [key, key], options={"lane": "bulk", "seed": 3}),
                Submission("ask", key, "Why?", {"tenant": "acme"}),
            ]
        )
    )
    assert worker.message_ids("interactive") == [ocr.id, ask.id]
    assert worker.message_ids("bulk") == [compare.id]
    assert worker.task(compare.id).options.seed == 3
    assert worker.task(ask.id).tenant == "acme"


def test_an_image_given_as_bytes_is_uploaded_for_every_submission(
    client: Client, worker: HandWorker
) -> None:
    first, second = client.submit_many(
        [Submission("ocr", b"\xff\xd8one"), Submission("ocr", b"\xff\xd8two")]
    )
    assert worker.task(first.id).images != worker.task(second.id).images
    for handle in (first, second):
        assert worker.store.exists(worker.task(handle.id).images[0].ref)


def test_no_submissions_are_no_tasks(client: Client, worker: HandWorker) -> None:
    assert client.submit_many([]) == []
    assert worker.keys() == []


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (Submission("poem", "inputs/a"), UnknownKind),
        (Submission("ocr", []), WrongImageCount),
        (Submission("ask", "inputs/a"), InvalidTask),
        (Submission("ocr", "inputs/a", options={"lane": "fast"}), InvalidTask),
    ],
)
def test_one_bad_submission_refuses_all_and_nothing_is_sent(
    client: Client, worker: HandWorker, bad: Submission, error: type[InvalidTask]
) -> None:
    good = Submission("ocr", "inputs/a")
    with pytest.raises(error):
        client.submit_many([good, good, bad, good])
    assert worker.keys() == []
