"""Foreign bytes, read once: what becomes of an element of a queue.

An element is what anybody has pushed. It comes out as an `Order`, a `Refusal` or `Unreadable`, and
nothing of the sender's own objects is handed on: what kombu and Celery get is built from the fields
of these (`transport`). Pure data, no I/O, and no exception.

Celery's message protocol 2 in JSON is read, as stock Celery sends it: with any of its compressions,
with kombu's `__type__` values left as they are, with its options carried out or refused by name.
"""

from __future__ import annotations

import json
import math
import re
from base64 import b64decode
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from visionq.contract import MAX_TASK_BYTES, is_task_id
from visionq.errors import InvalidTask, UnsupportedOption
from visionq.names import TASK_NAME
from visionq.submissions import MAX_DELAY_SECONDS
from visionq_worker.canvas import EMPTY, Canvas, forbidden_queue, read_canvas
from visionq_worker.unpacking import UnknownCompression, Unpackable, unpack

MAX_MESSAGE_BYTES = 1024 * 1024
MAX_BODY_BYTES = 512 * 1024
"""A task may take twice `MAX_TASK_BYTES` as ASCII; the rest is for a canvas."""
MAX_DEPTH = 100
MAX_DIGITS = 300
"""Of a whole number in a body. Python reads 4,300; no field of a task has more than 19."""
MIN_EPOCH_SECONDS, MAX_EPOCH_SECONDS = 1e8, 1e11
"""A number of seconds between these is a time since the epoch (1973 to 5138)."""
CHARSETS = {
    "": "utf-8",
    "utf-8": "utf-8",
    "utf8": "utf-8",
    "binary": "utf-8",
    "ascii": "utf-8",
    "us-ascii": "utf-8",
    "latin-1": "latin-1",
    "latin1": "latin-1",
    "iso-8859-1": "latin-1",
}

assert 3 * MAX_TASK_BYTES < MAX_BODY_BYTES < MAX_MESSAGE_BYTES

_ANY_CASE_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A message that can be run.

    `task`: what is to be a Task, not looked at yet. `deadline`, in seconds since the epoch, and
    `delay_seconds` until it may start: as the message's options say, besides what the task says.
    """

    id: str
    task: Any
    root_id: str | None = None
    parent_id: str | None = None
    group: str | None = None
    group_index: int | None = None
    ignores_result: bool = False
    deadline: float | None = None
    delay_seconds: float = 0.0
    canvas: Canvas = EMPTY


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A message that cannot be run, from a sender who may wait for an end.

    `id`: a UUID; of lower case, unless `is_letter`. `is_letter`: no task of ours, to be
    dead-lettered besides. `canvas`: those who wait for an end, too.
    """

    id: str
    code: str
    reason: str
    is_letter: bool = False
    group: str | None = None
    group_index: int | None = None
    canvas: Canvas = EMPTY


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An element that nobody can be told of: it has no id that a key could be made of."""

    reason: str


def read_element(
    element: bytes, *, now: float, canvas_queues: Collection[str], default_queue: str
) -> Order | Refusal | Unreadable:
    """What becomes of the element. `now`: the time by Redis's clock."""
    try:
        message = _object(_read_json(element.decode("utf-8"), _FOR_AN_ID), "the message")
        headers = _object(message.get("headers") or {}, "the headers")
    except (ValueError, RecursionError, InvalidTask) as error:
        return Unreadable(f"{type(error).__name__}: {error}"[:300])
    task_id, task_name = headers.get("id"), headers.get("task")
    if task_id is None and task_name is None:
        return _first_protocol(message)
    if not isinstance(task_id, str) or _ANY_CASE_UUID.fullmatch(task_id) is None:
        return Unreadable(f"its id is {_shown(task_id)}, which is no UUID in lower case")
    if task_name != TASK_NAME:
        reason = f"the task is {_shown(task_name)}, not {TASK_NAME}"
        return Refusal(id=task_id, code="invalid_task", reason=reason, is_letter=True)
    if not is_task_id(task_id):
        reason = f"its id is {task_id}, which is no UUID in lower case"
        return Refusal(id=task_id, code="invalid_task", reason=reason, is_letter=True)
    if len(element) > MAX_MESSAGE_BYTES:
        reason = f"the message takes {len(element)} bytes, the limit is {MAX_MESSAGE_BYTES}"
        return Refusal(id=task_id, code="invalid_task", reason=reason)
    try:
        return _order(task_id, message, headers, now, canvas_queues, default_queue)
    except InvalidTask as error:
        return Refusal(id=task_id, code=error.code, reason=str(error))


def _order(
    task_id: str,
    message: dict[str, Any],
    headers: dict[str, Any],
    now: float,
    canvas_queues: Collection[str],
    default_queue: str,
) -> Order | Refusal:
    args, kwargs, embedded = _body(message, headers)
    group, group_index = _text(headers, "group"), _index(headers, "group_index")
    canvas = read_canvas(embedded)
    if canvas.chord is not None and not is_task_id(group or ""):
        raise UnsupportedOption("a chord's tasks have to be of a group whose id is a UUID")
    try:
        if args or kwargs.keys() != {"task"}:
            raise InvalidTask("the task is not the one keyword argument `task`")
        queue = forbidden_queue(canvas, canvas_queues, default_queue)
        if queue is not None:
            raise UnsupportedOption(
                f"its canvas goes to the queue {_shown(queue)}, which worker.canvas_queues"
                " does not allow"
            )
        delay = _delay_seconds(headers, now)
        return Order(
            id=task_id,
            task=kwargs["task"],
            root_id=_text(headers, "root_id"),
            parent_id=_text(headers, "parent_id"),
            group=group,
            group_index=group_index,
            ignores_result=_is_true(headers, "ignore_result"),
            deadline=_deadline(headers, now + delay),
            delay_seconds=delay,
            canvas=canvas,
        )
    except InvalidTask as error:
        return Refusal(
            id=task_id,
            code=error.code,
            reason=str(error),
            group=group,
            group_index=group_index,
            canvas=canvas.waiting(),
        )


def _body(
    message: dict[str, Any], headers: dict[str, Any]
) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    """Arguments, keyword arguments, embedded. Raises `InvalidTask`."""
    content_type = message.get("content-type")
    if content_type != "application/json":
        raise UnsupportedOption(f"the body is {_shown(content_type)}; only JSON is read")
    try:
        parts = _read_json(_body_text(message, headers), _STRICT)
    except (ValueError, RecursionError) as error:
        raise InvalidTask(f"the body cannot be read: {type(error).__name__}") from error
    if not isinstance(parts, list) or len(parts) != 3:
        raise InvalidTask("the body is not [args, kwargs, embedded] of Celery's protocol 2")
    args, kwargs, embedded = parts
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise InvalidTask("the arguments are no list, or the keyword arguments no object")
    return args, kwargs, _object(embedded or {}, "what is embedded in the body")


def _body_text(message: dict[str, Any], headers: dict[str, Any]) -> str:
    """Raises `ValueError`, and `InvalidTask` where the sender can be told more."""
    properties = _object(message.get("properties") or {}, "the properties")
    given, encoding = message.get("body"), properties.get("body_encoding")
    if not isinstance(given, str):
        raise InvalidTask("the body is no string")
    if encoding not in (None, "", "base64"):
        raise UnsupportedOption(f"body_encoding {_shown(encoding)} is not read")
    charset = message.get("content-encoding") or ""
    if not isinstance(charset, str) or charset.lower() not in CHARSETS:
        raise UnsupportedOption(f"content-encoding {_shown(charset)} is not read")
    compression = headers.get("compression")
    if not encoding and not compression:
        return given
    content = b64decode(given) if encoding else given.encode("latin-1")
    if compression:
        if not isinstance(compression, str):
            raise UnsupportedOption(f"compression {_shown(compression)} is not read")
        try:
            content = unpack(content, compression, max_bytes=MAX_BODY_BYTES)
        except UnknownCompression as error:
            raise UnsupportedOption(str(error)) from error
        except Unpackable as error:
            raise InvalidTask(str(error)) from error
    if len(content) > MAX_BODY_BYTES:
        raise InvalidTask(f"the body takes {len(content)} bytes, the limit is {MAX_BODY_BYTES}")
    return content.decode(CHARSETS[charset.lower()])


def _first_protocol(message: dict[str, Any]) -> Refusal | Unreadable:
    """A message of Celery's protocol 1, whose id stands in its body: it is told from others."""
    reason = "it has no task id in its headers, as Celery's protocol 2 has it"
    try:
        body = _read_json(_body_text(message, {}), _FOR_AN_ID)
    except (ValueError, RecursionError, InvalidTask):
        return Unreadable(reason)
    task_id = body.get("id") if isinstance(body, dict) else None
    if not isinstance(task_id, str) or _ANY_CASE_UUID.fullmatch(task_id) is None:
        return Unreadable(reason)
    return Refusal(
        id=task_id,
        code="unsupported_option",
        reason="it is of Celery's message protocol 1; send it with protocol 2",
        is_letter=True,
    )


def _delay_seconds(headers: dict[str, Any], now: float) -> float:
    """Seconds from now until the earliest start. Raises `UnsupportedOption`."""
    eta = _time(headers, "eta")
    delay = 0.0 if eta is None else max(0.0, eta - now)
    if delay > MAX_DELAY_SECONDS:
        raise UnsupportedOption(f"eta is more than {MAX_DELAY_SECONDS} s from now")
    return delay


def _deadline(headers: dict[str, Any], starts_at: float) -> float | None:
    """The earlier one of `expires` and of the time limit's end. Raises `UnsupportedOption`.

    Threads cannot be stopped, as a time limit of Celery's would have it; a deadline stops a task
    between two tokens.
    """
    limits = headers.get("timelimit") or [None, None]
    if not isinstance(limits, list) or not all(map(_is_limit, limits)):
        raise UnsupportedOption(f"timelimit {_shown(limits)} is no pair of seconds")
    given = [starts_at + limit for limit in limits if limit]
    expires = _time(headers, "expires")
    return min(given if expires is None else [*given, expires], default=None)


def _is_limit(value: object) -> bool:
    if value is None:
        return True
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 <= value <= MAX_EPOCH_SECONDS  # type: ignore[operator]


def _time(headers: dict[str, Any], name: str) -> float | None:
    """A time in ISO 8601, of UTC where it names no zone, or in seconds since the epoch."""
    given = headers.get(name)
    if given is None:
        return None
    if isinstance(given, int | float) and not isinstance(given, bool):
        # A few seconds from when, nobody can tell any more: Celery sends times.
        if MIN_EPOCH_SECONDS <= given < MAX_EPOCH_SECONDS:
            return float(given)
    elif isinstance(given, str) and len(given) <= 64:
        try:
            found = datetime.fromisoformat(given)
            seconds = (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            pass
        else:
            return max(0.0, seconds)
    raise UnsupportedOption(f"{name} {_shown(given)} is no time in ISO 8601")


def _text(headers: dict[str, Any], name: str) -> str | None:
    """An id that is passed on and no key is made of."""
    given = headers.get(name)
    if given is None:
        return None
    if not isinstance(given, str) or len(given) > 255 or not given.isprintable():
        raise InvalidTask(f"the header {name} is {_shown(given)}, which is no id")
    return given


def _index(headers: dict[str, Any], name: str) -> int | None:
    given = headers.get(name)
    if given is None:
        return None
    if not isinstance(given, int) or isinstance(given, bool) or not 0 <= given < 2**31:
        raise InvalidTask(f"the header {name} is {_shown(given)}, which is no count")
    return given


def _is_true(headers: dict[str, Any], name: str) -> bool:
    given = headers.get(name)
    if not isinstance(given, bool | None):
        raise UnsupportedOption(f"{name} {_shown(given)} is neither true nor false")
    return bool(given)


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidTask(f"{what} is no JSON object")
    return value


def _read_json(text: str, decoder: json.JSONDecoder) -> Any:
    """Raises `ValueError`, also where it is nested too deeply, and `RecursionError`."""
    found = decoder.decode(text)
    # Nothing can be nested more deeply than there are brackets.
    if text.count("{") + text.count("[") > MAX_DEPTH and _is_deeper(found, MAX_DEPTH):
        raise ValueError(f"it is nested deeper than {MAX_DEPTH}")
    return found


def _is_deeper(value: object, depth: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    if depth == 0:
        return True
    inner = value.values() if isinstance(value, dict) else value
    return any(_is_deeper(one, depth - 1) for one in inner)


def _any_int(text: str) -> float:
    return int(text) if len(text) <= MAX_DIGITS else math.inf


def _short_int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError("a number has too many digits")
    return int(text)


_STRICT = json.JSONDecoder(parse_int=_short_int)
_FOR_AN_ID = json.JSONDecoder(parse_int=_any_int)
"""Reads what a sender is to be told of, too: no id stands in a number that long."""


def _shown(value: object) -> str:
    """What a sender wrote, as a part of a sentence: short, and plain ASCII."""
    if isinstance(value, str):
        return ascii(value[:80])
    return str(value)[:80] if isinstance(value, int | float | None) else type(value).__name__
