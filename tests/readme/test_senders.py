"""The page for senders in other languages: its message, pushed as it stands there, is answered."""

from __future__ import annotations

import base64
import json
import re
import uuid
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import redis

from tests.conftest import POCKET_NAMESPACE
from tests.support.examples import COVER, COVER_ANSWER
from tests.support.waiting import wait_until
from visionq import Client, State
from visionq.errors import ObjectMissing
from visionq.names import Names, input_key
from visionq.objects import ObjectStore

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "senders.md").read_text("utf-8")
SECONDS = 60.0
NAMES = Names(POCKET_NAMESPACE)


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def _message() -> dict[str, Any]:
    """The page's, with ids of its own."""
    message: dict[str, Any] = json.loads(_blocks("json")[0])
    task_id = str(uuid.uuid4())
    message["headers"]["id"] = message["properties"]["correlation_id"] = task_id
    message["properties"]["delivery_tag"] = str(uuid.uuid4())
    return message


def _stored(store: ObjectStore, task_id: str) -> Any:
    try:
        return json.loads(store.get(f"results/{task_id}.json"))
    except ObjectMissing:
        return None


def test_its_message_pushed_with_plain_redis_is_answered(
    pocket: Client, raw: redis.Redis, store: ObjectStore, pictures: Path
) -> None:
    """`pocket` is a worker beside which nothing of ours sends anything."""
    picture = (pictures / COVER).read_bytes()
    store.put(input_key(picture), picture)
    message = _message()
    task_id = message["headers"]["id"]
    raw.lpush(f"{POCKET_NAMESPACE}.interactive", json.dumps(message))
    result = wait_until(lambda: _stored(store, task_id), seconds=SECONDS)
    schema = json.loads((ROOT / "docs" / "result.schema.json").read_text("utf-8"))
    jsonschema.validate(result, schema)
    assert (result["state"], result["text"]) == ("SUCCESS", COVER_ANSWER)
    wait_until(
        lambda: raw.hget(f"{POCKET_NAMESPACE}:task:{task_id}", "state") == "SUCCESS",
        seconds=SECONDS,
    )
    celery = wait_until(
        lambda: raw.get(f"{POCKET_NAMESPACE}:celery-task-meta-{task_id}"), seconds=SECONDS
    )
    assert json.loads(str(celery))["result"]["text"] == COVER_ANSWER


def test_its_message_that_was_cancelled_before_is_not_run(
    pocket: Client, raw: redis.Redis, store: ObjectStore
) -> None:
    message = _message()
    task_id = message["headers"]["id"]
    assert pocket.cancel(task_id) is State.UNKNOWN
    raw.lpush(f"{POCKET_NAMESPACE}.interactive", json.dumps(message))
    result = wait_until(lambda: _stored(store, task_id), seconds=SECONDS)
    assert (result["state"], result["text"]) == ("REVOKED", None)


def test_the_deadline_of_its_task_is_carried_out(
    pocket: Client, raw: redis.Redis, store: ObjectStore
) -> None:
    message = _message()
    body = json.loads(base64.b64decode(message["body"]))
    now: Any = raw.time()
    body[1]["task"]["deadline"] = now[0] - 1
    message["body"] = base64.b64encode(json.dumps(body).encode()).decode()
    raw.lpush(f"{POCKET_NAMESPACE}.interactive", json.dumps(message))
    result = wait_until(lambda: _stored(store, message["headers"]["id"]), seconds=SECONDS)
    assert (result["state"], result["failure"]["code"]) == ("EXPIRED", "expired")


def test_the_body_is_the_one_that_is_shown_and_fits_the_schema() -> None:
    envelope, body = map(json.loads, _blocks("json"))
    assert json.loads(base64.b64decode(envelope["body"])) == body
    args, kwargs, embedded = body
    assert (args, list(kwargs), embedded) == ([], ["task"], {})
    schema = json.loads((ROOT / "docs" / "task.schema.json").read_text("utf-8"))
    jsonschema.validate(kwargs["task"], schema)
    picture = (ROOT / "examples" / "pictures" / COVER).read_bytes()
    assert kwargs["task"]["images"] == [{"ref": input_key(picture)}]


def test_the_names_are_those_that_are_used() -> None:
    for namespace in ("visionq", "staging"):
        names = Names(namespace)
        expected = [
            names.queue("interactive"),
            names.queue("bulk"),
            names.record("<id>"),
            names.events("<id>"),
            names.celery_result("<id>"),
            names.control_topic(0),
            names.control_reply_queue("<uuid>"),
            f"/0.{names.event_exchange()}/...",
        ]
        assert [name for name in expected if f"`{name}`" not in PAGE] == []


@pytest.mark.parametrize("source", _blocks("python"))
def test_its_python_is_python(source: str) -> None:
    compile(source, "senders.md", "exec")


def test_its_links_lead_somewhere() -> None:
    headings = {
        re.sub(r"[^a-z0-9 -]", "", text.lower()).replace(" ", "-")
        for text in re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        assert target[1:] in headings if target[0] == "#" else (ROOT / "docs" / target).exists()
