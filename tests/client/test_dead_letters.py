"""Dead letters: what workers have put aside is listed, shown, replayed and purged."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.client.hand_worker import HandWorker
from tests.support.scripted import ScriptedEngine
from tests.support.waiting import wait_until
from tests.worker.workbench import DOT_KEY, Workbench, workbench
from visionq import BrokerUnavailable, Client, State, TaskUnknown
from visionq.broker import Publisher
from visionq.connections import connect
from visionq.contract import Result, dump_result
from visionq.dead import DeadLetter, DeadLetters, Outcome, Replayed, Where
from visionq.local import LocalUrls
from visionq.names import Names
from visionq.objects import ObjectStore
from visionq.records import Records
from visionq_worker.leases import Leases
from visionq_worker.reconciler import Reconciler

LOST = "1 workers were lost while they had it"
GARBAGE = b'{"half": \xff\xfe'


class Undertaker:
    """The part of the workers that puts messages aside, with the real scripts."""

    def __init__(self, client: redis.Redis, names: Names) -> None:
        self.raw = client
        self.names = names
        self.leases = Leases(
            client,
            names,
            owner="hand",
            lease_seconds=0.01,
            max_attempts=1,
            record_ttl_seconds=600,
        )
        self.leases.load_claim()

    def claim(self) -> str | None:
        """Take the next message that can be run. Returns its claim."""
        queues = [self.names.queue(lane) for lane in ("interactive", "bulk")]
        reply: Any = self.raw.execute_command(*self.leases.claim_command(queues))  # type: ignore[no-untyped-call]
        return reply[2] if reply else None

    def lose(self) -> str:
        """Claim a task and be lost with it. Returns the id under which it is put aside."""
        assert self.claim() is not None
        return self.sweep()

    def sweep(self) -> str:
        """Find the one worker that was lost."""
        (task_id,) = wait_until(lambda: self.leases.sweep().put_aside, what="a lost worker")
        return task_id

    def spoil(self, message: bytes = GARBAGE, lane: str = "interactive") -> str:
        """Put a message aside that nobody can read. Returns its letter's id."""
        self.raw.lpush(self.names.queue(lane), message)
        assert self.claim() is None
        (newest,) = self.raw.zrange(self.names.dead_index(), -1, -1)
        return str(newest)


@pytest.fixture
def letters(urls: LocalUrls, names: Names) -> Iterator[DeadLetters]:
    client = connect(urls.broker_url, timeout_seconds=2)
    with DeadLetters(client, names, ttl_seconds=600) as opened:
        yield opened


@pytest.fixture
def undertaker(raw: redis.Redis, names: Names) -> Undertaker:
    return Undertaker(raw, names)


@pytest.fixture
def dead_task(client: Client, key: str, undertaker: Undertaker) -> str:
    """The id of a task that was put aside and that no worker has ended yet."""
    client.ocr(key)
    return undertaker.lose()


@pytest.fixture
def kept(raw: redis.Redis, names: Names) -> Callable[[str], Any]:
    """All that a replay of a letter could change, to be compared before and after."""

    def look(letter_id: str) -> Any:
        return (
            raw.hgetall(names.record(letter_id)),
            raw.zscore(names.open(), letter_id),
            raw.hget(names.dead(), letter_id),
            raw.hget(names.dead_messages(), letter_id),
            raw.zscore(names.dead_index(), letter_id),
            raw.lrange(names.queue("interactive"), 0, -1),
            raw.hgetall(names.lane("interactive")),
        )

    return look


def outcome(replayed: tuple[Replayed, ...]) -> tuple[Outcome, State]:
    (one,) = replayed
    return one.outcome, one.state


# Looking at them.


def test_a_task_that_was_put_aside_is_listed_with_reason_queue_and_size(
    client: Client, key: str, undertaker: Undertaker, letters: DeadLetters, raw: redis.Redis
) -> None:
    task = client.ocr(key)
    (message,) = raw.lrange(undertaker.names.queue("interactive"), 0, -1)
    seconds, _ = raw.time()
    undertaker.lose()
    (letter,) = letters.list()
    assert seconds <= letter.at < seconds + 10
    assert letter == DeadLetter(
        id=task.id,
        task_id=task.id,
        at=letter.at,
        reason=LOST,
        queue=undertaker.names.queue("interactive"),
        size=len(message),
    )


def test_a_message_nobody_can_read_is_shown_with_what_is_no_text_replaced(
    undertaker: Undertaker, letters: DeadLetters
) -> None:
    opened = letters.show(undertaker.spoil())
    assert opened.letter.task_id is None
    assert (opened.letter.reason, opened.letter.size) == ("it is not a JSON object", len(GARBAGE))
    assert opened.text == '{"half": \N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}'
    assert (opened.state, opened.task) == (State.UNKNOWN, None)


def test_the_letter_of_a_task_shows_its_message_and_what_its_record_says(
    dead_task: str, key: str, letters: DeadLetters
) -> None:
    opened = letters.show(dead_task)
    assert json.loads(opened.text)["headers"]["id"] == dead_task
    assert opened.state is State.PENDING
    assert opened.task is not None
    assert (opened.task["kind"], opened.task["images"]) == ("ocr", [{"ref": key}])


def test_a_letter_that_is_not_there_is_not_shown(letters: DeadLetters) -> None:
    with pytest.raises(TaskUnknown, match="no dead letter m1"):
        letters.show("m1")
    assert letters.list() == ()


def test_letters_are_listed_newest_first_in_pages(
    undertaker: Undertaker, letters: DeadLetters
) -> None:
    ids = [undertaker.spoil() for _ in range(4)]
    assert [letter.id for letter in letters.list()] == ids[::-1]
    assert [letter.id for letter in letters.list(2)] == [ids[3], ids[2]]
    assert [letter.id for letter in letters.list(2, 3)] == [ids[0]]


def test_letters_are_found_by_reason_queue_and_age(
    undertaker: Undertaker, letters: DeadLetters, raw: redis.Redis
) -> None:
    nonsense, bulk = undertaker.spoil(), undertaker.spoil(lane="bulk")
    nameless = undertaker.spoil(b"{}")
    raw.zincrby(undertaker.names.dead_index(), -3600, nameless)

    def found(**filters: Any) -> list[str]:
        return [letter.id for letter in letters.list(where=Where(**filters))]

    assert found(reason="no task id") == [nameless]
    assert found(queue=undertaker.names.queue("bulk")) == [bulk]
    assert found(older_than_seconds=3000) == [nameless]
    assert found(older_than_seconds=4000) == []
    assert found(reason="JSON", queue=undertaker.names.queue("interactive")) == [nonsense]


# Replaying tasks.


@pytest.fixture
def bench(records: Records, bucket: ObjectStore) -> Workbench:
    """A real executor whose engine answers at once: "a scripted answer"."""
    return workbench(ScriptedEngine(), records, bucket)


@pytest.fixture
def reconcile(bench: Workbench, urls: LocalUrls, names: Names) -> Iterator[Callable[[], None]]:
    """One turn of a real reconciler."""
    publisher = Publisher(urls.broker_url, names, timeout_seconds=2)
    reconciler = Reconciler(
        records=bench.records,
        publisher=publisher,
        executor=bench.executor,
        store=bench.store,
        store_gate=bench.store_gate,
        retry_seconds=0.1,
    )
    yield reconciler._turn
    publisher.close()


def test_a_task_that_was_buried_is_replayed_and_answered_under_its_id(
    client: Client,
    bench: Workbench,
    undertaker: Undertaker,
    worker: HandWorker,
    reconcile: Callable[[], None],
    letters: DeadLetters,
) -> None:
    handle = client.ocr(DOT_KEY)
    undertaker.lose()
    reconcile()
    task, buried = worker.task(handle.id), handle.status()
    assert (buried.state, buried.attempt) == (State.FAILURE, 1)
    assert buried.failure is not None
    assert buried.failure.code == "worker_lost"
    failure = bench.stored(task)
    assert failure is not None
    assert failure.state is State.FAILURE

    assert outcome(letters.replay([handle.id])) == (Outcome.REPLAYED, State.FAILURE)
    waiting = handle.status()
    assert (waiting.state, waiting.attempt, waiting.position) == (State.PENDING, 1, 0)
    assert (waiting.failure, waiting.started_at, waiting.finished_at) == (None, None, None)
    assert waiting.submitted_at == buried.submitted_at
    assert letters.list() == ()
    assert bench.stored(task) == failure

    claim = undertaker.claim()
    assert claim is not None
    undertaker.leases.took(claim)
    answer = bench.executor.execute(task)
    undertaker.leases.ack(claim)
    assert isinstance(answer, Result)
    assert (answer.state, answer.text) == (State.SUCCESS, "a scripted answer")
    assert handle.result(timeout=5) == answer
    assert handle.status().attempt == 2
    reconcile()
    # Left is the message that was to tell Celery of the failure; it finds the task answered.
    assert worker.message_ids() == [handle.id]
    assert bench.executor.execute(task) is State.SUCCESS
    assert handle.status().attempt == 2


def test_a_task_is_replayed_before_a_worker_has_ended_it(
    dead_task: str, letters: DeadLetters, worker: HandWorker, raw: redis.Redis
) -> None:
    before = raw.hgetall(worker.names.record(dead_task))
    assert before["dead"] == LOST
    assert outcome(letters.replay([dead_task])) == (Outcome.REPLAYED, State.PENDING)
    assert worker.message_ids() == [dead_task]
    seconds, _ = raw.time()
    look: Any = raw.zscore(worker.names.open(), dead_task)
    assert seconds + 5 < look < seconds + 15
    assert worker.records.due(10).tasks == []
    after = raw.hgetall(worker.names.record(dead_task))
    assert not {"dead", "strikes"} & after.keys()
    assert (after["state"], after["task"]) == ("PENDING", before["task"])
    assert int(after["seq"]) > int(before["seq"])


def test_a_task_that_a_worker_is_about_to_end_is_left_to_it(
    dead_task: str, letters: DeadLetters, records: Records, kept: Callable[[str], Any]
) -> None:
    (due,) = records.due(10).tasks
    assert due.verdict == "bury"
    before = kept(dead_task)
    (one,) = letters.replay([dead_task])
    assert (one.outcome, one.is_refused) == (Outcome.ENDING, True)
    assert kept(dead_task) == before


@pytest.mark.parametrize("final", [State.SUCCESS, State.REVOKED, State.EXPIRED])
def test_what_has_been_committed_is_never_replayed(
    client: Client,
    key: str,
    undertaker: Undertaker,
    worker: HandWorker,
    letters: DeadLetters,
    kept: Callable[[str], Any],
    final: State,
) -> None:
    """Its worker was taken for lost, and ends the task after all."""
    handle = client.ocr(key)
    claim = undertaker.claim()
    assert claim is not None
    attempt = worker.start(handle.id)
    assert undertaker.sweep() == handle.id
    assert worker.records.move(handle.id, final, fence=attempt.fence)
    before = kept(handle.id)
    (one,) = letters.replay([handle.id])
    assert (one.outcome, one.state, one.is_refused) == (Outcome.FINAL, final, True)
    assert one.message == f"the task has ended as {final}, which stays"
    assert kept(handle.id) == before
    assert [letter.id for letter in letters.list()] == [handle.id]


def test_a_failure_of_another_kind_is_not_replayed(
    dead_task: str,
    letters: DeadLetters,
    worker: HandWorker,
    raw: redis.Redis,
    kept: Callable[[str], Any],
) -> None:
    raw.hdel(worker.names.record(dead_task), "dead")
    worker.end(dead_task, State.FAILURE, code="not_an_image", message="it is none")
    before = kept(dead_task)
    assert outcome(letters.replay([dead_task])) == (Outcome.FINAL, State.FAILURE)
    assert kept(dead_task) == before


def test_a_task_that_was_submitted_again_meanwhile_is_not_replayed(
    dead_task: str,
    letters: DeadLetters,
    worker: HandWorker,
    raw: redis.Redis,
    kept: Callable[[str], Any],
) -> None:
    task = worker.task(dead_task)
    raw.delete(worker.names.record(dead_task))
    worker.records.create(task)
    before = kept(dead_task)
    (one,) = letters.replay([dead_task])
    assert (one.outcome, one.state) == (Outcome.ALIVE, State.PENDING)
    assert one.message == "the task is PENDING: it waits or runs already"
    assert kept(dead_task) == before


def test_a_worker_from_before_the_replay_may_write_no_more(
    client: Client, key: str, undertaker: Undertaker, worker: HandWorker, letters: DeadLetters
) -> None:
    handle = client.ocr(key)
    assert undertaker.claim() is not None
    stale = worker.start(handle.id)
    undertaker.sweep()
    assert outcome(letters.replay([handle.id])) == (Outcome.REPLAYED, State.STARTED)
    records = worker.records
    assert records.progress(handle.id, fence=stale.fence, generated_tokens=3) == "lost"
    assert not records.move(handle.id, State.SUCCESS, fence=stale.fence)
    assert handle.status().state is State.PENDING
    fresh = worker.start(handle.id)
    assert fresh.number == 2
    assert fresh.fence > stale.fence
    assert records.move(handle.id, State.SUCCESS, fence=fresh.fence)


def test_no_fence_is_given_twice_where_a_record_is_lost_before_each_replay(
    client: Client,
    key: str,
    undertaker: Undertaker,
    worker: HandWorker,
    letters: DeadLetters,
    raw: redis.Redis,
    names: Names,
) -> None:
    handle, fences = client.ocr(key), set()
    for number in range(3):
        assert undertaker.claim() is not None
        fences.add(worker.start(handle.id).fence)
        undertaker.sweep()
        raw.delete(names.record(handle.id))
        assert [one.outcome for one in letters.replay([handle.id])] == [Outcome.REPLAYED]
        assert len(fences) == number + 1


def test_a_replayed_task_waits_its_turn_and_counts_among_those_that_wait(
    client: Client,
    key: str,
    undertaker: Undertaker,
    worker: HandWorker,
    letters: DeadLetters,
    raw: redis.Redis,
) -> None:
    handle = client.ocr(key)
    assert undertaker.claim() is not None
    worker.start(handle.id)
    undertaker.sweep()
    other = client.ocr(key)
    letters.replay([handle.id])
    assert worker.message_ids() == [other.id, handle.id]
    assert handle.status().position == 1
    lane = worker.names.lane("interactive")
    assert raw.hmget(lane, "waiting", "waiting:default") == ["2", "2"]
    worker.start(handle.id)
    assert raw.hmget(lane, "waiting", "waiting:default") == ["1", "1"]


def test_a_task_that_never_started_is_not_counted_twice(
    dead_task: str, letters: DeadLetters, worker: HandWorker, raw: redis.Redis
) -> None:
    letters.replay([dead_task])
    assert raw.hget(worker.names.lane("interactive"), "waiting") == "1"


def test_a_replayed_bulk_task_goes_back_into_its_own_lane(
    client: Client, key: str, undertaker: Undertaker, letters: DeadLetters, worker: HandWorker
) -> None:
    handle = client.ocr(key, lane="bulk")
    assert undertaker.claim() is not None
    worker.start(handle.id)
    undertaker.sweep()
    letters.replay([handle.id])
    assert (worker.message_ids("bulk"), worker.message_ids()) == ([handle.id], [])
    assert handle.status().position == 0
    assert worker.raw.hget(worker.names.lane("bulk"), "submitted") == "2"


def test_a_replayed_task_can_be_cancelled(
    client: Client, dead_task: str, letters: DeadLetters
) -> None:
    letters.replay([dead_task])
    assert client.cancel(dead_task) is State.REVOKED


def test_a_replayed_task_that_is_lost_again_is_put_aside_again(
    dead_task: str, undertaker: Undertaker, letters: DeadLetters, raw: redis.Redis
) -> None:
    letters.replay([dead_task])
    assert undertaker.lose() == dead_task
    assert raw.hget(undertaker.names.record(dead_task), "strikes") == "1"
    assert [letter.id for letter in letters.list()] == [dead_task]


def test_a_task_whose_record_is_gone_gets_one_that_says_it_was_started_before(
    dead_task: str, letters: DeadLetters, worker: HandWorker, raw: redis.Redis
) -> None:
    task = worker.task(dead_task)
    raw.delete(worker.names.record(dead_task))
    assert outcome(letters.replay([dead_task])) == (Outcome.REPLAYED, State.UNKNOWN)
    assert worker.task(dead_task) == task
    status = worker.records.status(dead_task)
    assert (status.state, status.attempt, status.position) == (State.PENDING, 1, 1)
    assert status.submitted_at is not None
    assert raw.zscore(worker.names.open(), dead_task) is not None


def test_an_answer_in_the_store_outlives_a_replay_after_its_record_is_gone(
    client: Client,
    undertaker: Undertaker,
    bench: Workbench,
    worker: HandWorker,
    letters: DeadLetters,
) -> None:
    handle = client.ocr(DOT_KEY)
    assert undertaker.claim() is not None
    task = worker.task(handle.id)
    attempt = worker.start(handle.id)
    undertaker.sweep()
    answer = Result(
        task_id=task.id, kind="ocr", state=State.SUCCESS, finished_at=0.0, text="the first answer"
    )
    bench.store.put(task.result_key, dump_result(answer))
    assert worker.records.move(task.id, State.SUCCESS, fence=attempt.fence)
    worker.raw.delete(worker.names.record(task.id))
    letters.replay([task.id])
    bench.executor.execute(task)
    assert bench.stored(task) == answer
    assert handle.result(timeout=5) == answer


@pytest.mark.parametrize(
    "body",
    ["nothing", [[], {}, {}], [[], {"task": {"kind": "ocr", "images": 3}}, {}]],
    ids=["no list", "no task", "no readable task"],
)
def test_a_foreign_message_without_a_readable_task_goes_back_and_gets_no_record(
    undertaker: Undertaker, letters: DeadLetters, raw: redis.Redis, body: object
) -> None:
    task_id, names = str(uuid.uuid4()), undertaker.names
    message = json.dumps(
        {
            "body": base64.b64encode(json.dumps(body).encode()).decode(),
            "headers": {"id": task_id, "task": "visionq.run"},
            "properties": {"delivery_tag": "t"},
        }
    )
    raw.lpush(names.queue("interactive"), message)
    assert undertaker.lose() == task_id
    raw.delete(names.record(task_id))
    assert outcome(letters.replay([task_id])) == (Outcome.REPLAYED, State.UNKNOWN)
    assert raw.lrange(names.queue("interactive"), 0, -1) == [message]
    assert raw.exists(names.record(task_id)) == 0
    assert letters.list() == ()


# Replaying anything.


def test_a_message_nobody_can_read_goes_back_byte_for_byte(
    undertaker: Undertaker, letters: DeadLetters, urls: LocalUrls
) -> None:
    letter_id = undertaker.spoil()
    assert outcome(letters.replay([letter_id])) == (Outcome.REPLAYED, State.UNKNOWN)
    with redis.Redis.from_url(urls.broker_url) as undecoded:
        assert undecoded.lrange(undertaker.names.queue("interactive"), 0, -1) == [GARBAGE]
    assert letters.list() == ()
    assert undertaker.claim() is None
    (again,) = letters.list()
    assert again.id != letter_id


def test_a_letter_that_is_not_there_is_unknown_and_makes_nothing(
    letters: DeadLetters, worker: HandWorker
) -> None:
    nobody = str(uuid.uuid4())
    (one,) = letters.replay([nobody])
    assert (one.outcome, one.is_refused) == (Outcome.UNKNOWN, False)
    assert letters.purge([nobody]) == ()
    assert letters.purge([]) == ()
    assert worker.keys() == []


def test_letters_that_fit_are_replayed_oldest_first_and_the_others_stay(
    client: Client, key: str, undertaker: Undertaker, letters: DeadLetters, worker: HandWorker
) -> None:
    lost = []
    for _ in range(3):
        client.ocr(key)
        lost.append(undertaker.lose())
    garbage = undertaker.spoil()
    replayed = letters.replay(Where(reason="workers were lost"))
    assert [one.id for one in replayed] == lost
    assert worker.message_ids() == lost
    assert [letter.id for letter in letters.list()] == [garbage]


def test_everything_is_replayed(
    dead_task: str, undertaker: Undertaker, letters: DeadLetters, raw: redis.Redis
) -> None:
    garbage = undertaker.spoil()
    assert [one.id for one in letters.replay(Where())] == [dead_task, garbage]
    assert raw.llen(undertaker.names.queue("interactive")) == 2
    assert raw.exists(undertaker.names.dead(), undertaker.names.dead_messages()) == 0
    assert raw.exists(undertaker.names.dead_index()) == 0


def test_operators_who_replay_the_same_letters_at_once_send_each_message_once(
    client: Client, key: str, undertaker: Undertaker, letters: DeadLetters, worker: HandWorker
) -> None:
    lost = []
    for _ in range(20):
        client.ocr(key)
        lost.append(undertaker.lose())
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(letters.replay, [*lost, lost[0]]) for _ in range(4)]
        outcomes = [one.outcome for call in calls for one in call.result()]
    assert outcomes.count(Outcome.REPLAYED) == 20
    assert outcomes.count(Outcome.UNKNOWN) == 60
    assert sorted(worker.message_ids()) == sorted(lost)


# Throwing away.


def test_purging_a_letter_leaves_the_record_and_the_other_letters(
    dead_task: str, undertaker: Undertaker, letters: DeadLetters, raw: redis.Redis
) -> None:
    garbage, names = undertaker.spoil(), undertaker.names
    record = raw.hgetall(names.record(dead_task))
    assert letters.purge([dead_task, "m1"]) == (dead_task,)
    assert raw.hgetall(names.record(dead_task)) == record
    assert [letter.id for letter in letters.list()] == [garbage]
    assert raw.hkeys(names.dead_messages()) == [garbage]
    assert raw.zrange(names.dead_index(), 0, -1) == [garbage]


def test_letters_that_fit_are_purged_and_then_everything(
    undertaker: Undertaker, letters: DeadLetters, raw: redis.Redis
) -> None:
    old, bulk, young = undertaker.spoil(), undertaker.spoil(lane="bulk"), undertaker.spoil()
    raw.zincrby(undertaker.names.dead_index(), -3600, old)
    assert letters.purge(Where(older_than_seconds=3000)) == (old,)
    assert letters.purge(Where(queue=undertaker.names.queue("bulk"))) == (bulk,)
    assert letters.purge(Where()) == (young,)
    assert raw.exists(undertaker.names.dead(), undertaker.names.dead_messages()) == 0


def test_more_letters_than_one_round_trip_takes_are_all_dealt_with(
    undertaker: Undertaker, letters: DeadLetters, raw: redis.Redis
) -> None:
    ids = [undertaker.spoil() for _ in range(1001)]
    assert [letter.id for letter in letters.list(5000)] == ids[::-1]
    assert letters.purge(Where()) == tuple(ids)
    assert letters.list() == ()


# When Redis does not do what it is asked.


def test_a_redis_that_is_full_leaves_everything_as_it_was(
    own_client: Client, own_raw: redis.Redis, own_urls: LocalUrls, key: str
) -> None:
    names = Names()
    own_client.ocr(key)
    task_id = Undertaker(own_raw, names).lose()
    record = own_raw.hgetall(names.record(task_id))
    with DeadLetters(
        connect(own_urls.broker_url, timeout_seconds=2), names, ttl_seconds=600
    ) as letters:
        own_raw.config_set("maxmemory", "1")
        try:
            with pytest.raises(BrokerUnavailable):
                letters.replay([task_id])
        finally:
            own_raw.config_set("maxmemory", "0")
        assert own_raw.hgetall(names.record(task_id)) == record
        assert own_raw.llen(names.queue("interactive")) == 0
        assert [letter.id for letter in letters.list()] == [task_id]
        assert outcome(letters.replay([task_id])) == (Outcome.REPLAYED, State.PENDING)


def test_a_redis_that_is_away_is_said_to_be(closed_port: int, names: Names) -> None:
    client = connect(f"redis://127.0.0.1:{closed_port}/0", timeout_seconds=0.5)
    with DeadLetters(client, names, ttl_seconds=600) as letters:
        for call in (letters.list, lambda: letters.replay(["m1"]), lambda: letters.purge(Where())):
            with pytest.raises(BrokerUnavailable):
                call()


def test_settings_lead_to_the_letters_of_their_namespace(
    undertaker: Undertaker, urls: LocalUrls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    garbage = undertaker.spoil()
    monkeypatch.chdir(tmp_path)  # without a settings.toml
    monkeypatch.setenv("VISIONQ_BROKER__URL", urls.broker_url)
    monkeypatch.setenv("VISIONQ_BROKER__NAMESPACE", undertaker.names.namespace)
    with DeadLetters.from_settings() as letters:
        assert [letter.id for letter in letters.list()] == [garbage]
