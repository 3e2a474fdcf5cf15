"""Whatever the public methods are given, only errors of ours come out, and nothing is accepted."""

from __future__ import annotations

import asyncio
import datetime as dt
import decimal
import inspect
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import certifi
import pytest

import visionq
from tests.client.hand_worker import HandWorker
from visionq import (
    AsyncClient,
    Client,
    ImageRef,
    InvalidArgument,
    InvalidTask,
    Kind,
    Options,
    Page,
    QueueLimits,
    SettingsError,
    State,
    StoreAddress,
    Submission,
    Task,
    TaskUnknown,
    VisionqError,
    WaitTimeout,
    errors,
)
from visionq.dead import DeadLetters, Where
from visionq.kinds import Retry
from visionq.local import LocalUrls
from visionq.settings import load_settings

IMAGE = "inputs/a"
NOBODY = "00000000-0000-4000-8000-000000000000"
HEADER = bytes.fromhex("89504e470d0a1a0a0000000d49484452000001000000010008020000")

WRONG: dict[str, Any] = {
    "an object": object(),
    "a class": int,
    "a function": len,
    "a set": {1},
    "a list of None": [None],
    "a list of lists": [[]],
    "a mapping of numbers": {1: 2},
    "nan": float("nan"),
    "minus infinity": -float("inf"),
    "bytes": b"5",
    "half a character": "\ud83d",
    "a timedelta": dt.timedelta(seconds=1),
    "a Decimal": decimal.Decimal(1),
    "a huge number": 10**400,
    "a negative fraction": -0.5,
}
"""Wrong for everything, but where `RIGHT` says so."""
RIGHT = {("images", "bytes"), ("timeout", "minus infinity"), ("timeout", "a negative fraction")}

SUBMIT_OPTIONS = tuple(visionq.SubmitOptions.__annotations__)

Call = Callable[[Any, Any], Any]
SUBMITTING: dict[str, Call] = {
    "kind": lambda client, wrong: client.submit(wrong, IMAGE),
    "images": lambda client, wrong: client.submit("ocr", wrong),
    "one of the images": lambda client, wrong: client.compare([IMAGE, [wrong]]),
    "page": lambda client, wrong: client.ocr(Page(IMAGE, wrong)),
    "question": lambda client, wrong: client.submit("ocr", IMAGE, wrong),
    "schema's type": lambda client, wrong: client.ocr(IMAGE, schema={"type": wrong}),
    "schema's properties": lambda client, wrong: client.ocr(
        IMAGE, schema={"type": "object", "properties": wrong}
    ),
    "type of a field": lambda client, wrong: client.ocr(IMAGE, fields={"a": [wrong]}),
    "label": lambda client, wrong: client.ocr(IMAGE, labels={"a": wrong}),
    "submissions": lambda client, wrong: client.submit_many(wrong),
    "a submission": lambda client, wrong: client.submit_many([Submission("ocr", IMAGE), wrong]),
    "a tuple": lambda client, wrong: client.submit_many([("ocr", wrong)]),
    "kind of a submission": lambda client, wrong: client.submit_many([Submission(wrong, IMAGE)]),
    "options of a submission": lambda client, wrong: client.submit_many(
        [Submission("ocr", IMAGE, None, wrong)]
    ),
}


def _with_option(name: str) -> dict[str, Call]:
    def many(client: Any, wrong: Any) -> Any:
        options: Any = {name: wrong}
        return client.submit_many([Submission("ocr", IMAGE, None, options)])

    return {
        name: lambda client, wrong: client.ocr(IMAGE, **{name: wrong}),
        f"{name} in a bulk": many,
        f"{name} of an estimate": lambda client, wrong: client.estimate(
            "ocr", HEADER, **{name: wrong}
        ),
    }


for _name in (*SUBMIT_OPTIONS, "beams"):
    SUBMITTING |= {f"option {name}": call for name, call in _with_option(_name).items()}
for _name in ("kind in a bulk", "images in a bulk", "question in a bulk"):
    SUBMITTING[f"option {_name}"] = _with_option(_name.split()[0])[_name]

LOOKING: dict[str, Call] = {
    "task": lambda client, wrong: client.task(wrong),
    "status": lambda client, wrong: client.status(wrong),
    "status_many": lambda client, wrong: client.status_many(wrong),
    "an id of status_many": lambda client, wrong: client.status_many([NOBODY, wrong]),
    "recent": lambda client, wrong: client.recent(wrong),
    "wait": lambda client, wrong: client.wait(wrong, 0),
    "result": lambda client, wrong: client.result(wrong, 0),
    "parsed": lambda client, wrong: client.parsed(wrong, Options, 0),
    "model": lambda client, wrong: client.parsed(NOBODY, wrong, 0),
    "cancel": lambda client, wrong: client.cancel(wrong),
    "timeout": lambda client, wrong: client.wait(NOBODY, wrong),
    "timeout of result": lambda client, wrong: client.result(NOBODY, wrong),
    "timeout of a handle": lambda client, wrong: client.task(NOBODY).wait(wrong),
    "from_settings": lambda client, wrong: type(client).from_settings(wrong),
}

BUILDING: dict[str, Callable[[Any], Any]] = {
    "reference": lambda wrong: ImageRef(ref=wrong),
    "page": lambda wrong: ImageRef(ref=IMAGE, page=wrong),
    "bucket": lambda wrong: StoreAddress(bucket=wrong) if wrong != "\ud83d" else _refuse(),
    "endpoint_url": lambda wrong: StoreAddress(bucket="b", endpoint_url=wrong),
    "max_waiting": lambda wrong: QueueLimits(max_waiting=wrong) if wrong != 10**400 else _refuse(),
    "retry": lambda wrong: Retry(temperature=wrong),
    "crops of a retry": lambda wrong: Retry(num_crops=wrong),
    "prompt": lambda wrong: Kind(prompt=wrong) if wrong != "\ud83d" else _refuse(),
    "options": lambda wrong: Submission("ocr", IMAGE, None, wrong),
    "age": lambda wrong: Where(older_than_seconds=wrong) if wrong != -0.5 else _refuse(),
    "settings": lambda wrong: load_settings(wrong) if not isinstance(wrong, int) else _refuse(),
    "a section": lambda wrong: load_settings(broker=wrong),
    "broker URL": Client,
    "store": lambda wrong: Client("redis://127.0.0.1:9", wrong),
}


def _building(build: Callable[..., Any], name: str, **more: Any) -> Callable[[Any], Any]:
    return lambda wrong: build(**(more | {name: wrong}))


for _name in Options.__slots__:
    BUILDING[f"Options {_name}"] = _building(Options, _name)
for _name in Task.__slots__:
    BUILDING[f"Task {_name}"] = _building(Task, _name, id=NOBODY, kind="ocr", images=())
for _name in ("namespace", "kinds", "record_ttl_seconds", "limits", "timeout_seconds"):
    BUILDING[f"Client {_name}"] = _building(Client, _name, broker_url="redis://127.0.0.1:9")


def _refuse() -> None:
    """Where the value is right after all."""
    raise VisionqError


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def async_client(
    urls: LocalUrls, address: StoreAddress, namespace: str, loop: asyncio.Runner
) -> Iterator[AsyncClient]:
    client = AsyncClient(urls.broker_url, address, namespace=namespace)
    yield client
    loop.run(client.close())


def _is_right(name: str, wrong: str) -> bool:
    return (name.split(" of ")[0], wrong) in RIGHT


@pytest.mark.parametrize("name", [*SUBMITTING, *LOOKING])
def test_wrong_arguments_are_refused_by_name_and_nothing_is_accepted(
    client: Client,
    async_client: AsyncClient,
    loop: asyncio.Runner,
    worker: HandWorker,
    name: str,
) -> None:
    call = SUBMITTING.get(name) or LOOKING[name]

    async def awaited(wrong: Any) -> None:
        answer = call(async_client, wrong)
        if inspect.isawaitable(answer):
            await answer

    for described, wrong in WRONG.items():
        if _is_right(name, described):
            continue
        with pytest.raises(VisionqError) as caught:
            call(client, wrong)
        assert not isinstance(caught.value, visionq.BrokerUnavailable), described
        assert str(caught.value).encode(), described
        assert len(str(caught.value)) < 500, described
        with pytest.raises(VisionqError) as same:
            loop.run(awaited(wrong))
        assert type(same.value) is type(caught.value), described
    assert [one for one in worker.keys() if ":lane:" not in one] == []  # noqa: SIM118


@pytest.mark.parametrize("name", BUILDING)
def test_what_cannot_be_built_is_refused_by_name(name: str, tmp_path: pathlib.Path) -> None:
    for described, wrong in WRONG.items():
        with pytest.raises(VisionqError) as caught:
            BUILDING[name](wrong)
        assert len(str(caught.value)) < 1000, described


def test_submissions_that_are_tuples_are_told_what_they_should_be(client: Client) -> None:
    with pytest.raises(InvalidTask, match=r"Submission\(kind, images.*the one at 0 is a tuple"):
        client.submit_many([("ocr", IMAGE)])  # type: ignore[list-item]


def test_times_to_wait(client: Client, key: str) -> None:
    handle = client.ocr(key)
    with pytest.raises(InvalidArgument, match=r"timeout must be a number of seconds.*'5'"):
        handle.wait("5")  # type: ignore[arg-type]
    for at_once in (0, -1, -0.5, -float("inf")):
        with pytest.raises(WaitTimeout):
            handle.wait(at_once)
    handle.cancel()
    for for_ever in (None, float("inf"), 10**400):
        assert handle.wait(for_ever).state is State.REVOKED


def test_ids_that_are_none_are_unknown_tasks(client: Client) -> None:
    with pytest.raises(TaskUnknown, match="None is not a task id"):
        client.status(None)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="in a list"):
        client.status_many(NOBODY)


DEAD: dict[str, Callable[[DeadLetters, Any], Any]] = {
    "limit": lambda letters, wrong: letters.list(wrong),
    "offset": lambda letters, wrong: letters.list(1, wrong),
    "where": lambda letters, wrong: letters.list(where=wrong),
    "an id to replay": lambda letters, wrong: letters.replay([wrong]),
    "ids to replay": lambda letters, wrong: letters.replay(wrong),
    "an id to purge": lambda letters, wrong: letters.purge([wrong]),
    "shown": lambda letters, wrong: letters.show(wrong),
}


@pytest.mark.parametrize("name", DEAD)
def test_wrong_arguments_about_dead_letters(worker: HandWorker, name: str) -> None:
    letters = DeadLetters(worker.records._redis, worker.names, ttl_seconds=60)
    for wrong in WRONG.values():
        with pytest.raises((InvalidArgument, TaskUnknown)):
            DEAD[name](letters, wrong)
    if name == "ids to replay":
        with pytest.raises(InvalidArgument):
            letters.replay(NOBODY)  # a string is no list of its characters


PASSWORD = "hunter2secret"
BROKERS = [
    f"redis://127.0.0.1:6379/0?password={PASSWORD}",
    "redis://127.0.0.1:6379/0?password=",
    f"redis://:{PASSWORD}@127.0.0.1:6379/0?foo=bar",
    f"redis://:{PASSWORD}@127.0.0.1:6379/0?socket_timeout=5",
    f"redis://:{PASSWORD}@127.0.0.1:6379/0?db=1",
    f"redis://:{PASSWORD}@127.0.0.1:6379/0?ssl_cert_reqs=none",
    f"rediss://:{PASSWORD}@127.0.0.1:6379/0?ssl_cert_reqs=bogus",
    f"redis://:{PASSWORD}@127.0.0.1:6379/x",
    f"redis://:{PASSWORD}@127.0.0.1:6379/0/1",
    f"redis://:{PASSWORD}@127.0.0.1:6379/-1",
    f"redis://:{PASSWORD}@127.0.0.1:port/0",
    f"redis://:{PASSWORD}@127.0.0.1:99999/0",
    f"redis://:{PASSWORD}@127.0.0.1:0/0",
    f"redis://:{PASSWORD}@[::1/0",
    f"redis://:{PASSWORD}#1@127.0.0.1:6379/0",
    f"redis://:{PASSWORD}@127.0.0.1:6379/0#x",
    f"redis://:{PASSWORD}@ho st/0",
    f"redis://:{PASSWORD}@ho\0st/0",
    f"redis://:{PASSWORD}@a..b/0",
    f"redis://:{PASSWORD}@{'a' * 70}/0",
    f" redis://:{PASSWORD}@127.0.0.1:6379/0",
    f"redis://:{PASSWORD}@127.0.0.1:6379/0\n",
    f"redis://:{PASSWORD}@127.0.0.1:6379/0;redis://other",
    f"redis://:{PASSWORD}\ud83d@127.0.0.1:6379/0",
    f"redis://:{PASSWORD}@\u2100/0",
    f"unix://:{PASSWORD}@redis.sock",
    f"unix://:{PASSWORD}@host/tmp/redis.sock",
    f"unix://:{PASSWORD}@/",
    f"unix://:{PASSWORD}@/tmp/",
    f"unix://:{PASSWORD}@/tmp/redis.sock?db=x",
    f"unix://:{PASSWORD}@/tmp/redis.sock?virtual_host=1",
    f"unix://:{PASSWORD}@/tmp/redis.sock?ssl_cert_reqs=none",
    f"unix://:{PASSWORD}@/tmp/redis.sock#1",
    f"unix://:{PASSWORD}@/{'a' * 108}",
    f"redis+socket://:{PASSWORD}@/tmp/redis.sock",
    f"sentinel://:{PASSWORD}@127.0.0.1",
    f"http://:{PASSWORD}@127.0.0.1",
    "redis",
    "",
]


@pytest.mark.parametrize("url", BROKERS)
def test_a_broker_s_url_that_is_wrong_is_refused_at_once_and_not_shown(url: str) -> None:
    for cls in (Client, AsyncClient):
        with pytest.raises(SettingsError) as caught:
            cls(url)
        assert "://user:password@host:port" in str(caught.value)
        assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1",
        "redis://127.0.0.1:6379",
        "redis://127.0.0.1:6379/",
        "redis://127.0.0.1:6379/15",
        "redis://user:p%40ss%23@redis.internal:6379/0",
        "redis://[::1]:6379/0",
        "rediss://user:password@redis.internal:6379/0?ssl_cert_reqs=required",
        f"rediss://redis.internal:6379/0?ssl_ca_certs={certifi.where()}",
        "unix:///run/redis/redis.sock",
        "unix://user:p%40ss%23@/run/redis/redis.sock?db=3",
    ],
)
def test_a_broker_s_url_of_the_usual_forms_is_taken(url: str) -> None:
    Client(url).close()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x",
        "http://",
        "http://:9",
        "http://127.0.0.1:port",
        "http://127.0.0.1:99999",
        "http://[::1",
        "ftp://127.0.0.1",
        "http://ho st",
        "http://a..b",
        "http://127.0.0.1?x=y",
        " http://127.0.0.1",
        "http://127.0.0.1\n",
        "http://ho\0st",
        "http://\u2100",
        "http://" + "a" * 300,
    ],
)
def test_an_endpoint_that_is_wrong_is_refused_before_anything_is_sent(
    urls: LocalUrls, worker: HandWorker, url: str
) -> None:
    with (
        pytest.raises(SettingsError, match="storage: "),
        Client(
            urls.broker_url,
            StoreAddress(bucket="b", endpoint_url=url),
            namespace=worker.names.namespace,
        ) as client,
    ):
        client.ocr(HEADER)
    assert worker.keys() == []


def test_everything_that_is_raised_is_exported() -> None:
    raised = {
        name
        for name, one in vars(errors).items()
        if isinstance(one, type) and issubclass(one, VisionqError)
    }
    assert raised <= set(visionq.__all__)
    assert all(getattr(visionq, name) is getattr(errors, name) for name in raised)


def test_every_error_that_a_docstring_names_is_exported() -> None:
    named: set[str] = set()
    for cls in (Client, AsyncClient, DeadLetters, Submission, Page, ImageRef, Options, Kind):
        for one in (cls, *vars(cls).values()):
            text = inspect.getdoc(getattr(one, "fget", one)) or ""
            raises = re.findall(r"[Rr]aises?\b[^.]*", text)
            named.update(name for part in raises for name in re.findall(r"`([A-Z]\w+)`", part))
    assert len(named) > 10
    assert named <= set(visionq.__all__)
