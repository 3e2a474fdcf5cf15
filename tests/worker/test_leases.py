"""Messages under leases: taken once, held while renewed, given back when nobody holds them.

Time is moved by hand: a claim's score in the index is what the sweep looks at.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator
from time import monotonic, time
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
import redis
from redis.exceptions import NoScriptError

from tests.faults.proxy import HOST, Proxy
from tests.support.killing import kill_valkey, paused
from visionq import Lane
from visionq.connections import connect
from visionq.local import LocalServers, LocalUrls
from visionq.names import Names
from visionq_worker import lease_scripts
from visionq_worker.leases import Leases, Swept, claimed_at

MakeLeases = Callable[..., Leases]
MAX_ATTEMPTS = 3
LEASE_SECONDS = 60.0


def message(task_id: str | None = None, *, tag: str | None = None, **more: Any) -> str:
    """What a Celery producer pushes."""
    headers = {"id": task_id or str(uuid.uuid4()), "task": "visionq.run"}
    properties = {
        "delivery_tag": tag or str(uuid.uuid4()),
        "delivery_info": {"exchange": "", "routing_key": "any"},
    }
    return json.dumps({"body": "W10=", "headers": headers, "properties": properties, **more})


@pytest.fixture
def make_leases(urls: LocalUrls, names: Names) -> Iterator[MakeLeases]:
    clients = []

    def make(
        owner: str = "host:1",
        url: str = urls.broker_url,
        sort: type[Leases] = Leases,
        **more: Any,
    ) -> Leases:
        clients.append(connect(url, timeout_seconds=1))
        given = {
            "lease_seconds": LEASE_SECONDS,
            "max_attempts": MAX_ATTEMPTS,
            "record_ttl_seconds": 600,
        } | more
        leases = sort(clients[-1], names, owner=owner, **given)
        leases._sweeps_from = 0.0  # as if Redis had been up for long
        return leases

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def desk(make_leases: MakeLeases, raw: redis.Redis, names: Names) -> Iterator[Desk]:
    yield Desk(make_leases(), raw, names)
    # What is in somebody's hands has no TTL, and here nobody comes for it.
    raw.delete(names.unacked(), names.unacked_index(), names.leases())


class Desk:
    """A process's leases, and Redis to look at."""

    def __init__(self, leases: Leases, raw: redis.Redis, names: Names) -> None:
        self.leases = leases
        self.raw = raw
        self.names = names
        self.queues = [names.queue(lane) for lane in Lane]

    def push(self, text: str | bytes, lane: Lane = Lane.INTERACTIVE) -> None:
        self.raw.lpush(self.names.queue(lane), text)

    def claim(self, leases: Leases | None = None) -> tuple[str, str, str] | None:
        """Queue, message and claim, as the channel gets them."""
        of_whom = leases or self.leases
        try:
            taken: Any = self._send(*of_whom.claim_command(self.queues))
        except NoScriptError:
            of_whom.load_claim()
            taken = self._send(*of_whom.claim_command(self.queues))
        if taken:
            of_whom.took(taken[2], is_suspect=bool(taken[3]))
            return (taken[0], taken[1], taken[2])
        return None

    def _send(self, *command: Any) -> Any:
        return self.raw.execute_command(*command)  # type: ignore[no-untyped-call]

    def must_claim(self, leases: Leases | None = None) -> tuple[str, str]:
        """Message and claim."""
        taken = self.claim(leases)
        assert taken is not None, "there is a message"
        return taken[1], taken[2]

    def let_time_pass(self, seconds: float) -> None:
        """For all claims there are."""
        for claim in self.raw.zrange(self.names.unacked_index(), 0, -1):
            self.raw.zincrby(self.names.unacked_index(), -seconds, str(claim))

    def queued(self, lane: Lane = Lane.INTERACTIVE) -> list[str]:
        """Oldest first."""
        return [str(text) for text in self.raw.lrange(self.names.queue(lane), 0, -1)][::-1]

    def is_clean(self) -> bool:
        """Nothing is in anybody's hands."""
        names = self.names
        return not self.raw.exists(names.unacked(), names.unacked_index(), names.leases())

    def record(self, task_id: str) -> dict[str, str]:
        found: Any = self.raw.hgetall(self.names.record(task_id))
        return dict(found)


def test_claim_takes_the_oldest_message_and_notes_it(desk: Desk) -> None:
    old, young = message(), message()
    desk.push(old)
    desk.push(young)
    text, claim = desk.must_claim()
    assert text == old
    assert desk.queued() == [young]
    assert desk.leases.held == [claim]
    stored = desk.raw.hget(desk.names.unacked(), claim)
    assert isinstance(stored, str)
    assert json.loads(stored) == [json.loads(old), "", "any"], "as stock kombu stores it"


def test_empty_queues_give_nothing(desk: Desk) -> None:
    assert desk.claim() is None
    assert desk.leases.held == []


def test_queues_are_looked_at_in_the_order_given(desk: Desk) -> None:
    bulk, interactive = message(), message()
    desk.push(bulk, Lane.BULK)
    desk.push(interactive)
    assert desk.must_claim()[0] == interactive
    assert desk.must_claim()[0] == bulk


def test_acked_message_is_gone(desk: Desk) -> None:
    desk.push(message())
    _, claim = desk.must_claim()
    desk.leases.ack(claim)
    assert desk.is_clean()
    assert desk.leases.held == []
    assert desk.queued() == []


def test_message_given_back_is_the_next_one_taken(desk: Desk) -> None:
    first, second = message(), message()
    desk.push(first)
    desk.push(second)
    _, claim = desk.must_claim()
    desk.leases.give_back(claim)
    assert desk.is_clean()
    assert desk.queued() == [first, second]


def test_all_that_is_given_back_keeps_its_order(desk: Desk) -> None:
    texts = [message() for _ in range(3)]
    for text in texts:
        desk.push(text)
    for _ in texts:
        desk.must_claim()
    assert desk.leases.give_back_all() == 3
    assert sorted(desk.queued()) == sorted(texts)
    assert desk.is_clean()


def test_lease_that_is_not_renewed_ends(desk: Desk, make_leases: MakeLeases) -> None:
    text = message()
    desk.push(text)
    desk.must_claim()
    other = make_leases("host:2")
    desk.let_time_pass(LEASE_SECONDS - 5)
    assert other.sweep() == Swept(0, ())
    desk.let_time_pass(10)
    assert other.sweep() == Swept(1, ())
    assert desk.queued() == [text]
    assert desk.is_clean()


def test_lease_that_is_renewed_holds(desk: Desk, make_leases: MakeLeases) -> None:
    desk.push(message())
    desk.must_claim()
    for _ in range(3):
        desk.let_time_pass(LEASE_SECONDS - 5)
        assert desk.leases.renew() == []
    assert make_leases("host:2").sweep() == Swept(0, ())


def test_owner_of_a_lost_lease_hears_of_it(desk: Desk) -> None:
    desk.push(message())
    _, claim = desk.must_claim()
    desk.let_time_pass(2 * LEASE_SECONDS)
    desk.leases.sweep()
    assert desk.leases.renew() == [claim]
    assert desk.leases.held == []


class Raced(Leases):
    """Lets something happen while a renewal is on its way, or before it is known to be settled."""

    on_its_way: Callable[[], None] | None = None
    before_it_is_known: Callable[[], None] | None = None

    @property
    def held(self) -> list[str]:
        claims = super().held
        if self.on_its_way is not None:
            act, self.on_its_way = self.on_its_way, None
            act()
        return claims

    def _let_go(self, claim: str) -> None:
        if self.before_it_is_known is not None:
            act, self.before_it_is_known = self.before_it_is_known, None
            act()
        super()._let_go(claim)


SETTLED_BY: dict[str, Callable[[Leases, str, str], None]] = {
    "ack": lambda leases, claim, _: leases.ack(claim),
    "ack_with_result": lambda leases, claim, key: leases.ack_with_result(claim, key, "{}", 60),
    "give_back": lambda leases, claim, _: leases.give_back(claim),
    "strike": lambda leases, claim, _: leases.strike(claim, "it broke down"),
    "put_aside": lambda leases, claim, _: leases.put_aside(claim, "it cannot be read"),
}


@pytest.mark.parametrize("how", SETTLED_BY)
def test_message_settled_while_a_renewal_is_on_its_way_is_not_lost(
    desk: Desk, make_leases: MakeLeases, names: Names, how: str
) -> None:
    leases = make_leases(sort=Raced)
    assert isinstance(leases, Raced)
    desk.push(message())
    _, claim = desk.must_claim(leases)
    leases.on_its_way = lambda: SETTLED_BY[how](leases, claim, names.record("celery"))
    assert leases.renew() == []
    assert desk.is_clean()
    assert leases.held == []


@pytest.mark.parametrize("how", SETTLED_BY)
def test_message_whose_settling_is_not_known_yet_is_not_lost(
    desk: Desk, make_leases: MakeLeases, names: Names, how: str
) -> None:
    """Redis has carried it out; the thread that waits for the reply is slower than the renewal."""
    leases = make_leases(sort=Raced)
    assert isinstance(leases, Raced)
    desk.push(message())
    _, claim = desk.must_claim(leases)
    lost: list[list[str]] = []
    leases.before_it_is_known = lambda: lost.append(leases.renew())
    SETTLED_BY[how](leases, claim, names.record("celery"))
    assert lost == [[]]
    assert leases.held == []


def test_message_settled_by_a_command_whose_reply_is_lost_is_not_lost(
    desk: Desk, make_leases: MakeLeases, urls: LocalUrls, names: Names
) -> None:
    parts = urlsplit(urls.broker_url)
    assert parts.port is not None
    with Proxy(parts.port) as proxy:
        user = parts.netloc.rpartition("@")[0]
        url = urlunsplit(parts._replace(netloc=f"{user}@{HOST}:{proxy.port}"))
        leases = make_leases(url=url)
        desk.push(message())
        _, claim = desk.must_claim(leases)
        key = names.record("celery")
        proxy.swallow_replies_to(key.encode())
        with pytest.raises(redis.RedisError):
            leases.ack_with_result(claim, key, "{}", 60)
        assert desk.raw.get(key) == "{}"
        proxy.passing()
        assert leases.renew() == []
        leases.ack(claim)
    assert leases.held == []


def test_who_lost_its_lease_cannot_settle_the_message_for_its_successor(
    desk: Desk, make_leases: MakeLeases
) -> None:
    desk.push(message())
    _, stale = desk.must_claim()
    desk.let_time_pass(2 * LEASE_SECONDS)
    other = make_leases("host:2")
    other.sweep()
    _, fresh = desk.must_claim(other)
    assert fresh != stale
    desk.leases.ack(stale)
    desk.leases.give_back(stale)
    assert desk.queued() == []
    assert other.renew() == [], "the successor still holds it"


def test_copy_of_a_task_that_somebody_holds_is_dropped(desk: Desk) -> None:
    task_id = str(uuid.uuid4())
    desk.push(message(task_id))
    desk.push(message(task_id))
    _, claim = desk.must_claim()
    assert desk.claim() is None
    assert desk.queued() == []
    desk.leases.ack(claim)
    assert desk.is_clean()


def test_copy_is_taken_when_the_holder_has_let_go(desk: Desk) -> None:
    task_id = str(uuid.uuid4())
    desk.push(message(task_id))
    _, claim = desk.must_claim()
    desk.leases.ack(claim)
    desk.push(message(task_id))
    assert desk.claim() is not None


def test_task_is_put_aside_when_too_many_workers_were_lost_with_it(desk: Desk) -> None:
    task_id = str(uuid.uuid4())
    desk.push(message(task_id))
    for number in range(1, MAX_ATTEMPTS + 1):
        text, _ = desk.must_claim()
        desk.let_time_pass(2 * LEASE_SECONDS)
        swept = desk.leases.sweep()
        desk.leases.renew()  # the process learns that its hands are empty
        assert desk.record(task_id)["strikes"] == str(number)
        assert swept == (Swept(1, ()) if number < MAX_ATTEMPTS else Swept(0, (task_id,)))
    assert desk.queued() == []
    assert desk.record(task_id)["dead"] == "3 workers were lost while they had it"
    assert desk.raw.hget(desk.names.dead_messages(), task_id) == text
    assert desk.raw.zscore(desk.names.open(), task_id) is not None, "the reconciler is told"


def _suspect(desk: Desk) -> str:
    """A message that two workers were lost with."""
    text = message(str(uuid.uuid4()))
    desk.push(text)
    for _ in range(2):
        _, claim = desk.must_claim()
        desk.leases.strike(claim, "it broke down")
    return text


def test_task_with_two_strikes_waits_in_a_line_of_its_own(desk: Desk) -> None:
    text = _suspect(desk)
    assert desk.queued() == []
    (entry,) = desk.raw.lrange(desk.names.suspects(), 0, -1)
    assert entry == f"{desk.names.queue('interactive')}\n{text}"


def _holds_suspect(desk: Desk) -> bool:
    return desk.leases.holds_suspect


def test_suspect_is_taken_by_a_worker_with_empty_hands_and_alone(desk: Desk) -> None:
    text, other = _suspect(desk), message()
    desk.push(other)
    taken = desk.claim()
    assert taken is not None
    queue, suspect, claim = taken
    assert (queue, suspect) == (desk.names.queue("interactive"), text)
    assert _holds_suspect(desk)
    desk.leases.ack(claim)
    assert not _holds_suspect(desk)
    assert desk.must_claim()[0] == other


def test_worker_with_full_hands_empties_them_first_while_another_goes_on(
    desk: Desk, make_leases: MakeLeases
) -> None:
    desk.push(message())
    _, busy_claim = desk.must_claim()
    text = message(str(uuid.uuid4()))
    desk.raw.hset(desk.names.record(json.loads(text)["headers"]["id"]), "strikes", 2)
    desk.raw.expire(desk.names.record(json.loads(text)["headers"]["id"]), 60)
    desk.raw.lpush(desk.names.suspects(), f"{desk.names.queue('interactive')}\n{text}")
    other = message()
    desk.push(other)
    assert desk.claim() is None, "it makes itself empty"
    assert desk.must_claim(make_leases("host:2"))[0] == other
    desk.leases.ack(busy_claim)
    assert desk.must_claim()[0] == text


def test_giving_back_is_not_held_against_a_task(desk: Desk) -> None:
    task_id = str(uuid.uuid4())
    desk.push(message(task_id))
    for _ in range(MAX_ATTEMPTS + 2):
        _, claim = desk.must_claim()
        desk.leases.give_back(claim)
    assert "strikes" not in desk.record(task_id)


def test_task_is_put_aside_when_too_many_workers_broke_down_with_it(desk: Desk) -> None:
    task_id = str(uuid.uuid4())
    desk.push(message(task_id))
    for _ in range(MAX_ATTEMPTS):
        text, claim = desk.must_claim()
        desk.leases.strike(claim, "a step took too long")
    assert desk.queued() == []
    assert desk.is_clean()
    reason = "3 workers broke down while they had it, the last because: a step took too long"
    assert desk.record(task_id)["dead"] == reason
    assert desk.raw.hget(desk.names.dead_messages(), task_id) == text


def test_ended_task_is_not_put_aside(desk: Desk) -> None:
    task_id = str(uuid.uuid4())
    desk.raw.hset(desk.names.record(task_id), mapping={"state": "SUCCESS"})
    desk.push(message(task_id))
    for _ in range(MAX_ATTEMPTS + 1):
        desk.must_claim()
        desk.let_time_pass(2 * LEASE_SECONDS)
        assert desk.leases.sweep() == Swept(1, ())
    desk.raw.expire(desk.names.record(task_id), 60)


@pytest.mark.parametrize("state", ["STARTED", "PROGRESS"])
def test_status_of_a_task_that_lost_its_worker_does_not_say_that_it_runs(
    desk: Desk, state: str
) -> None:
    task_id = str(uuid.uuid4())
    desk.push(message(task_id))
    desk.must_claim()
    desk.raw.hset(desk.names.record(task_id), "state", state)
    desk.let_time_pass(2 * LEASE_SECONDS)
    desk.leases.sweep()
    assert desk.record(task_id)["state"] == "RETRY"


@pytest.mark.parametrize(
    "text",
    [
        '{"headers": 3, "body": "", "properties": {"delivery_tag": "a"}}',
        '{"headers": {"id": "x"}}',
        "{not JSON}",
        '{"a": "\\ud800"}',
    ],
)
def test_what_is_no_message_is_claimed_under_a_name_of_ours(desk: Desk, text: str) -> None:
    """The worker says what is wrong with it."""
    desk.push(text)
    taken, claim = desk.must_claim()
    assert taken == text
    assert re.fullmatch(r"(unread|untagged|a)#\d+\.\d+", claim)
    assert claimed_at(claim) == pytest.approx(time(), abs=60)
    desk.leases.put_aside(claim, "it cannot be read")
    assert desk.is_clean()
    assert desk.raw.hvals(desk.names.dead_messages()) == [text]


@pytest.mark.parametrize("tag", ["x" * 101, "a#b", "a\nb", "\u00e9", ""])
def test_no_claim_is_named_by_a_senders_text(desk: Desk, tag: str) -> None:
    desk.push(message(tag=tag or None))
    _, claim = desk.must_claim()
    assert re.fullmatch(r"[\w.-]{1,100}#\d+\.\d+", claim, re.ASCII)
    desk.leases.ack(claim)
    assert desk.is_clean()


@pytest.mark.parametrize("text", [b"not JSON", b"[1, 2]", b'[{"a": 1}]', b"{}", b"\xff\xfe", b""])
def test_what_is_no_object_is_put_aside_and_the_next_one_taken(desk: Desk, text: bytes) -> None:
    good = message()
    desk.push(text)
    desk.push(good)
    assert desk.must_claim()[0] == good
    assert desk.raw.hlen(desk.names.dead()) == 1


def test_message_of_too_many_bytes_is_put_aside_and_the_next_one_taken(desk: Desk) -> None:
    good = message()
    desk.push(b" " * (lease_scripts.MAX_ELEMENT_BYTES + 1))
    desk.push(good)
    assert desk.must_claim()[0] == good
    assert desk.raw.hlen(desk.names.dead()) == 1
    desk.raw.delete(desk.names.dead_messages())


def test_letter_is_found_by_its_tasks_id_and_overwrites_none(desk: Desk) -> None:
    task_id = str(uuid.uuid4())
    for reason in ("first", "second"):
        desk.push(message(task_id))
        _, claim = desk.must_claim()
        desk.leases.put_aside(claim, reason, task_id)
    entries = [json.loads(str(entry)) for entry in desk.raw.hvals(desk.names.dead())]
    assert {entry["reason"] for entry in entries} == {"first", "second"}
    assert [entry["reason"] for entry in entries if entry["id"] == task_id] == ["first"]


def test_id_that_is_no_uuid_gets_no_record(desk: Desk) -> None:
    desk.push(message("../../etc/passwd"))
    _, claim = desk.must_claim()
    desk.leases.ack(claim)
    assert list(desk.raw.scan_iter(match=desk.names.record("*"))) == []


def test_newest_dead_messages_are_kept(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, make_leases: MakeLeases
) -> None:
    monkeypatch.setattr("visionq_worker.leases.MAX_DEAD", 2)
    leases = make_leases()
    for number in range(4):
        desk.push(f"bad {number}")
    assert desk.claim(leases) is None
    kept = desk.raw.hvals(desk.names.dead_messages())
    assert sorted(kept) == ["bad 2", "bad 3"]
    assert desk.raw.zcard(desk.names.dead_index()) == desk.raw.hlen(desk.names.dead()) == 2


def test_message_that_cannot_be_run_is_put_aside_with_the_reason(desk: Desk) -> None:
    text = message()
    desk.push(text)
    _, claim = desk.must_claim()
    desk.leases.put_aside(claim, "its body is no list")
    assert desk.is_clean()
    (entry,) = desk.raw.hvals(desk.names.dead())
    assert json.loads(str(entry))["reason"] == "its body is no list"
    assert desk.raw.hvals(desk.names.dead_messages()) == [text]


# Outages.


@pytest.fixture(scope="module")
def own_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServers]:
    with LocalServers(tmp_path_factory.mktemp("leases")) as servers:
        yield servers


@pytest.fixture
def own_desk(own_servers: LocalServers, make_leases: MakeLeases, names: Names) -> Iterator[Desk]:
    with redis.Redis.from_url(own_servers.urls.broker_url, decode_responses=True) as raw:
        raw.flushdb()
        yield Desk(make_leases(url=own_servers.urls.broker_url), raw, names)


@pytest.mark.parametrize(("how", "num_queued"), [("ack", 0), ("give_back", 1)])
def test_what_redis_did_not_hear_is_said_again(
    own_servers: LocalServers, own_desk: Desk, how: str, num_queued: int
) -> None:
    own_desk.push(message())
    _, claim = own_desk.must_claim()
    kill_valkey(own_servers)
    getattr(own_desk.leases, how)(claim)
    own_desk.leases.retry()
    assert own_desk.leases.held == [claim], "until Redis has heard"
    own_servers.restart("valkey")
    own_desk.leases.retry()
    assert own_desk.is_clean()
    assert own_desk.leases.held == []
    assert len(own_desk.queued()) == num_queued


def test_silent_redis_costs_the_retry_one_time_out_and_not_one_for_each_message(
    own_servers: LocalServers, own_desk: Desk
) -> None:
    claims = []
    for _ in range(8):
        own_desk.push(message())
        claims.append(own_desk.must_claim()[1])
    kill_valkey(own_servers)
    for claim in claims:
        own_desk.leases.ack(claim)
    own_servers.restart("valkey")
    with paused(own_servers.pid("valkey")):
        began = monotonic()
        own_desk.leases.retry()
        assert monotonic() - began < 4, "a time-out is a second, and a command is tried twice"
    assert sorted(own_desk.leases.held) == sorted(claims)
    own_desk.leases.retry()
    assert own_desk.is_clean()
    assert own_desk.leases.held == []


def test_after_an_outage_others_have_a_lease_to_come_back(
    own_servers: LocalServers, own_desk: Desk
) -> None:
    own_desk.push(message())
    own_desk.must_claim()
    kill_valkey(own_servers)
    with pytest.raises(redis.RedisError):
        own_desk.leases.renew()
    own_servers.restart("valkey")
    own_desk.let_time_pass(2 * LEASE_SECONDS)
    assert own_desk.leases.sweep() == Swept(0, ()), "it looks abandoned, but nobody could renew"
    own_desk.leases._sweeps_from = 0.0  # a lease later
    assert own_desk.leases.sweep() == Swept(1, ())


def test_new_worker_gives_others_time_when_redis_has_just_started(
    own_servers: LocalServers, own_desk: Desk
) -> None:
    own_desk.push(message())
    own_desk.must_claim()
    own_desk.let_time_pass(2 * LEASE_SECONDS)
    own_servers.kill("valkey")
    own_servers.restart("valkey")
    own_desk.leases._sweeps_from = None
    assert own_desk.leases.sweep() == Swept(0, ())
