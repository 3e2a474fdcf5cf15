"""What is read of an element of a queue: never an exception, and nothing of the sender's own."""

from __future__ import annotations

import base64
import bz2
import json
import lzma
import uuid
import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from celery import Celery, chain, chord, group, signature
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.mutations import CANVAS_QUEUE, messages
from visionq.errors import UnsupportedOption
from visionq_worker.canvas import MAX_DEPTH, MAX_SIGNATURES, forbidden_queue, read_canvas
from visionq_worker.incoming import Order, Refusal, Unreadable, read_element
from visionq_worker.transport import build_message
from visionq_worker.unpacking import Unpackable, unpack

NOW = 1_800_000_000.0
QUEUE = "visionq.interactive"
ID = str(uuid.uuid4())

Found = Order | Refusal | Unreadable


def read(element: bytes) -> Found:
    return read_element(element, now=NOW, canvas_queues={CANVAS_QUEUE}, default_queue=QUEUE)


def element(body: object = None, **headers: Any) -> bytes:
    content = json.dumps(body or [[], {"task": {"kind": "ocr"}}, {}])
    message = {
        "body": base64.b64encode(content.encode()).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"task": "visionq.run", "id": ID, **headers},
        "properties": {"body_encoding": "base64", "delivery_tag": "any"},
    }
    return json.dumps(message).encode()


def order(**headers: Any) -> Order:
    found = read(element(**headers))
    assert isinstance(found, Order), found
    return found


@given(st.binary(max_size=300))
def test_any_bytes_are_read_to_an_end(content: bytes) -> None:
    assert isinstance(read(content), Unreadable)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.sampled_from(
        ["eta", "expires", "timelimit", "group", "group_index", "root_id", "compression"]
    ),
    _JSON,
)
def test_any_value_of_a_header_is_read_to_an_end(name: str, value: Any) -> None:
    assert isinstance(read(element(**{name: value})), Order | Refusal)


@given(st.sampled_from(["callbacks", "errbacks", "chain", "chord"]), _JSON)
def test_any_canvas_is_read_to_an_end(name: str, value: Any) -> None:
    found = read(element([[], {"task": {}}, {name: value}]))
    assert isinstance(found, Order | Refusal)
    assert found.id == ID


def test_what_is_handed_on_is_ours_whatever_is_wrong() -> None:
    """Of a thousand mutated messages: what kombu and Celery look at is as they expect."""
    for one in messages(3, 1000, NOW):
        found = read(one)
        if isinstance(found, Unreadable):
            continue
        made = build_message(found, QUEUE, "tag#1.0")
        args, kwargs, embedded = json.loads(made["body"])
        assert args == []
        assert set(kwargs) <= {"task", "deadline", "delay_seconds", "lane", "refusal"}
        assert set(embedded) <= {"callbacks", "errbacks", "chain", "chord"}
        assert made["properties"]["delivery_info"] == {"exchange": "", "routing_key": QUEUE}
        assert made["headers"]["task"] == "visionq.run"
        assert uuid.UUID(made["headers"]["id"])


TIMES = {
    "2027-01-15T09:00:00": 1_800_003_600.0,
    "2027-01-15T09:00:00Z": 1_800_003_600.0,
    "2027-01-15T09:00:00+00:00": 1_800_003_600.0,
    "2027-01-15T11:30:00+02:30": 1_800_003_600.0,
    "2027-01-15T09:00:00.250000": 1_800_003_600.25,
    1_800_003_600: 1_800_003_600.0,
    1_800_003_600.5: 1_800_003_600.5,
}


@pytest.mark.parametrize("given_", TIMES)
def test_times_are_read_with_and_without_a_zone(given_: object) -> None:
    assert order(expires=given_).deadline == TIMES[given_]


@pytest.mark.parametrize("given_", ["", "soon", 30, -1, 1e99, True, [], {}, "x" * 10_000])
@pytest.mark.parametrize("name", ["expires", "eta"])
def test_what_is_no_time_is_refused_by_name(name: str, given_: object) -> None:
    found = read(element(**{name: given_}))
    assert isinstance(found, Refusal)
    assert found.code == "unsupported_option"
    assert found.reason.startswith(name)
    assert len(found.reason) < 200


def test_eta_is_a_delay_from_the_time_of_redis() -> None:
    in_a_minute = datetime.fromtimestamp(NOW + 60, timezone(timedelta(hours=-5)))
    assert order(eta=in_a_minute.isoformat()).delay_seconds == 60
    assert order(eta=datetime.fromtimestamp(NOW - 60, UTC).isoformat()).delay_seconds == 0


def test_time_limit_counts_from_the_start_and_the_earliest_end_counts() -> None:
    eta, expires = (datetime.fromtimestamp(NOW + s, UTC).isoformat() for s in (100, 130))
    assert order(timelimit=[60, 20]).deadline == NOW + 20
    assert order(timelimit=[60, None], eta=eta).deadline == NOW + 160
    assert order(timelimit=[60, None], eta=eta, expires=expires).deadline == NOW + 130
    assert order(timelimit=[None, None]).deadline is None


def test_deep_and_long_values_are_refused() -> None:
    deep: Any = 0
    for _ in range(120):
        deep = [deep]
    for body in ([[], {"task": deep}, {}], [[], {"task": [0] * 200_000}, {}]):
        found = read(element(body))
        assert isinstance(found, Refusal)
        assert found.code == "invalid_task"


@pytest.mark.parametrize("name", ["gzip", "bzip2", "lzma"])
def test_nothing_is_unpacked_beyond_the_limit(name: str) -> None:
    packers: dict[str, Callable[[bytes], bytes]]
    packers = {"gzip": zlib.compress, "bzip2": bz2.compress, "lzma": lzma.compress}
    pack = packers[name]
    content = b"x" * 1000
    assert unpack(pack(content), name, max_bytes=1000) == content
    for packed, limit in ((pack(content), 999), (pack(content)[:-5], 1000), (b"nothing", 1000)):
        with pytest.raises(Unpackable):
            unpack(packed, name, max_bytes=limit)


# Canvas: what real Celery makes of it is read as it is.


@pytest.fixture(scope="module")
def app() -> Celery:
    return Celery("other", broker="memory://", backend="cache+memory://", set_as_current=False)


def their(app: Celery, **options: Any) -> Any:
    return signature("their.task", args=[1], kwargs={"a": [None]}, app=app).set(
        queue=CANVAS_QUEUE, **options
    )


def canvases(app: Celery) -> dict[str, Any]:
    one = their(app)
    return {
        "plain": one,
        "options": their(app, countdown=5, expires=60.5, priority=3, ignore_result=True),
        "link": their(app).set(link=[their(app)], link_error=[their(app)]),
        "group": group(one, one, app=app),
        "chain": chain(one, one, app=app),
        "chord": chord(group(one, one, app=app), one, app=app),
        "chain of groups": chain(one, group(one, one), one, app=app),
        "group of chains": group(chain(one, one), chain(one, one), app=app),
        "frozen": _frozen(chain(one, group(one, one), one, app=app)),
    }


def _frozen(canvas: Any) -> Any:
    canvas.freeze()
    return canvas


@pytest.mark.parametrize(
    "name",
    [
        *("plain", "options", "link", "group", "chain", "chord"),
        *("chain of groups", "group of chains", "frozen"),
    ],
)
def test_canvas_of_celery_is_read_as_it_is(app: Celery, name: str) -> None:
    sent = json.loads(json.dumps({"callbacks": [canvases(app)[name]]}))
    canvas = read_canvas(sent)
    assert forbidden_queue(canvas, {CANVAS_QUEUE}, QUEUE) is None
    assert forbidden_queue(canvas, {"other"}, QUEUE) == CANVAS_QUEUE
    assert _plain(canvas.as_embedded()["callbacks"]) == _plain(sent["callbacks"])
    # Celery builds the same signatures from both.
    (made,) = canvas.as_embedded()["callbacks"]
    assert repr(signature(made, app=app)) == repr(signature(sent["callbacks"][0], app=app))


def _plain(value: Any) -> Any:
    """Without what says nothing."""
    if isinstance(value, dict):
        return {
            name: _plain(inner)
            for name, inner in value.items()
            if inner not in (None, [], {}) and name != "chord_size"
        }
    return [_plain(one) for one in value] if isinstance(value, list) else value


def test_canvas_that_is_too_deep_or_too_long_is_refused(app: Celery) -> None:
    deep = json.loads(json.dumps(their(app)))
    for _ in range(MAX_DEPTH):
        deep = {"task": "their.task", "options": {"queue": CANVAS_QUEUE, "link": [deep]}}
    long = [their(app)] * (MAX_SIGNATURES + 1)
    for callbacks in ([deep], json.loads(json.dumps(long))):
        with pytest.raises(UnsupportedOption):
            read_canvas({"callbacks": callbacks})


def test_those_who_wait_are_told_without_anything_published(app: Celery) -> None:
    step = json.loads(json.dumps(their(app, link=[their(app)], task_id=ID)))
    canvas = read_canvas({"callbacks": [step], "chain": [step], "chord": step}).waiting()
    assert canvas.callbacks == ()
    assert canvas.chord is not None
    for left in (*canvas.chain, canvas.chord):
        assert left["options"] == {"queue": CANVAS_QUEUE, "task_id": ID}
