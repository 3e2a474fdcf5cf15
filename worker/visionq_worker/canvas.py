"""Celery's canvas as it comes in a message: what is to be published when the task has ended.

Signatures of foreign senders, checked to the bottom and built anew from what was checked. A worker
publishes on their behalf, so each has to name a queue that the operator allows, and may set only
what this module lists. Pure data, no Celery.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeAlias

from visionq.contract import is_task_id
from visionq.errors import UnsupportedOption
from visionq.names import TASK_NAME

MAX_DEPTH = 8
MAX_SIGNATURES = 200
MAX_NAME_CHARS = 255
MAX_SECONDS = 1e9
NESTED = {"group": "celery.group", "chain": "celery.chain", "chord": "celery.chord"}
"""Kinds of signatures that hold others, and the task name that Celery gives them."""

Signature: TypeAlias = dict[str, Any]

_PARTS = frozenset({"callbacks", "errbacks", "chain", "chord"})
_TASK_NAME = re.compile(r"[A-Za-z_][\w.\-]{0,254}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Canvas:
    """What comes with a task: checked signatures. A chain's next step is its last element."""

    callbacks: tuple[Signature, ...] = ()
    errbacks: tuple[Signature, ...] = ()
    chain: tuple[Signature, ...] = ()
    chord: Signature | None = None

    @property
    def is_empty(self) -> bool:
        return not (self.callbacks or self.errbacks or self.chain or self.chord)

    def as_embedded(self) -> dict[str, Any]:
        """In the form of a message's body, third part."""
        if self is EMPTY:
            return {}
        return {
            "callbacks": list(self.callbacks) or None,
            "errbacks": list(self.errbacks) or None,
            "chain": list(self.chain) or None,
            "chord": self.chord,
        }

    def waiting(self) -> Canvas:
        """Only those whose senders wait for an end, and nothing that would be published.

        With it, Celery marks the rest of a chain and the end of a chord as failed, too.
        """
        chord = None if self.chord is None else _without_links(self.chord)
        return Canvas(chain=tuple(_without_links(step) for step in self.chain), chord=chord)


EMPTY = Canvas()


def read_canvas(embedded: Mapping[str, Any]) -> Canvas:
    """The canvas of a message's body. Raises `UnsupportedOption`, naming what is wrong and where.

    Which queues it goes to is not looked at: `forbidden_queue` says that.
    """
    unknown = embedded.keys() - _PARTS
    if unknown:
        name = _name(min(unknown))
        raise UnsupportedOption(f"{name} comes with the task and is not carried out")
    if not any(embedded.values()):
        return EMPTY
    reader = _Reader()
    chord = embedded.get("chord")
    return Canvas(
        callbacks=reader.signatures(embedded.get("callbacks"), "callbacks", 0),
        errbacks=reader.errbacks(embedded.get("errbacks"), "errbacks", 0),
        chain=reader.signatures(embedded.get("chain"), "chain", 0),
        chord=None if chord is None else reader.signature(chord, "chord", 0),
    )


def forbidden_queue(canvas: Canvas, allowed: Collection[str], default: str) -> str | None:
    """The name of a queue that the canvas would publish to and may not; None if there is none.

    `default` is where a signature goes that names none.
    """
    steps = [*canvas.callbacks, *canvas.errbacks, *canvas.chain]
    if canvas.chord is not None:
        steps.append(canvas.chord)
    for step in steps:
        for queue in _queues(step, default):
            if queue not in allowed:
                return queue
    return None


def _queues(signature: Signature, default: str) -> list[str]:
    options = signature["options"]
    queue = options.get("queue")
    found = [] if queue is None else [queue]
    if signature["subtask_type"] is None and queue is None:
        found.append(default)
    for inner in _inside(signature):
        found += _queues(inner, default)
    return found


def _inside(signature: Signature) -> list[Signature]:
    """All signatures that one holds, in its arguments and in its options."""
    options, inner = signature["options"], []
    for name in ("link", "link_error"):
        inner += options.get(name, [])
    if "chord" in options:
        inner.append(options["chord"])
    if signature["subtask_type"] in ("group", "chain"):
        inner += signature["kwargs"]["tasks"]
    if signature["subtask_type"] == "chord":
        header, body = signature["kwargs"]["header"], signature["kwargs"]["body"]
        inner += [*(header if isinstance(header, list) else [header]), body]
    return inner


def _without_links(signature: Signature) -> Signature:
    options = {
        name: _without_links(value) if name == "chord" else value
        for name, value in signature["options"].items()
        if name not in ("link", "link_error")
    }
    kwargs = signature["kwargs"]
    if signature["subtask_type"] == "chord":
        kwargs = {**kwargs, "body": _without_links(kwargs["body"])}
    return {**signature, "options": options, "kwargs": kwargs}


@dataclass(slots=True)
class _Reader:
    """Reads signatures and counts them."""

    num_read: int = field(default=0)

    def signatures(self, given: object, where: str, depth: int) -> tuple[Signature, ...]:
        if given is None:
            return ()
        if not isinstance(given, list):
            raise UnsupportedOption(f"{where} is no list of Celery signatures")
        return tuple(self.signature(one, f"{where}[{i}]", depth) for i, one in enumerate(given))

    def errbacks(self, given: object, where: str, depth: int) -> tuple[Signature, ...]:
        """Plain ones. Celery runs those whose task it knows at once, instead of publishing them."""
        made = self.signatures(given, where, depth)
        for one in made:
            if one["subtask_type"] is not None or one["task"] == TASK_NAME:
                raise UnsupportedOption(f"{where}: {one['task']} cannot be an errback")
        return made

    def signature(self, given: object, where: str, depth: int) -> Signature:
        self.num_read += 1
        if depth >= MAX_DEPTH:
            raise UnsupportedOption(f"{where} is nested deeper than {MAX_DEPTH}")
        if self.num_read > MAX_SIGNATURES:
            raise UnsupportedOption(f"more than {MAX_SIGNATURES} signatures come with the task")
        if not isinstance(given, dict) or not isinstance(given.get("task"), str):
            raise UnsupportedOption(f"{where} is no Celery signature")
        parts = ("task", "args", "kwargs", "options", "subtask_type", "immutable", "chord_size")
        _require_known(given, parts, where)
        args, kwargs, options = (given.get(name) for name in ("args", "kwargs", "options"))
        if not isinstance(args, list | None) or not isinstance(kwargs, dict | None):
            raise UnsupportedOption(f"{where} has no list of args, or no object of kwargs")
        if not isinstance(options, dict | None):
            raise UnsupportedOption(f"{where}.options is no object")
        sort = given.get("subtask_type")
        made = {
            "task": _task_name(given["task"], sort, where),
            "args": args or [],
            "kwargs": self._arguments(kwargs or {}, sort, where, depth),
            "options": self._options(options or {}, where, depth),
            "subtask_type": sort,
            "immutable": _flag(given.get("immutable"), f"{where}.immutable"),
        }
        if sort is not None and made["args"]:
            raise UnsupportedOption(f"{where}.args: a {sort} has none")
        return made

    def _arguments(
        self, kwargs: dict[str, Any], sort: str | None, where: str, depth: int
    ) -> dict[str, Any]:
        """Of a signature that holds others these, read in turn; any JSON of a plain one."""
        if sort is None:
            return kwargs
        if sort == "chord":
            _require_known(kwargs, ("header", "body", "kwargs"), f"{where}.kwargs")
            header = kwargs.get("header")
            if kwargs.get("kwargs"):
                raise UnsupportedOption(f"{where}.kwargs.kwargs is not carried out")
            read = self.signatures if isinstance(header, list) else self.signature
            made = read(header, f"{where}.header", depth + 1)
            body = self.signature(kwargs.get("body"), f"{where}.body", depth + 1)
            return {
                "header": list(made) if isinstance(made, tuple) else made,
                "body": body,
                "kwargs": {},
            }
        _require_known(kwargs, ("tasks",), f"{where}.kwargs")
        tasks = self.signatures(kwargs.get("tasks"), f"{where}.tasks", depth + 1)
        if not tasks:
            raise UnsupportedOption(f"{where}.tasks: there are none")
        return {"tasks": list(tasks)}

    def _options(self, options: dict[str, Any], where: str, depth: int) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for name, value in options.items():
            here = f"{where}.options.{_name(name)}"
            if name in ("link", "link_error"):
                given = [value] if isinstance(value, dict) else value
                read = self.signatures if name == "link" else self.errbacks
                made[name] = list(read(given, here, depth + 1))
            elif name == "chord":
                if value is not None:
                    made[name] = self.signature(value, here, depth + 1)
            elif name not in _OPTIONS:
                raise UnsupportedOption(f"{here} is not carried out")
            elif value is None:
                made[name] = None
            elif not _OPTIONS[name](value):
                raise UnsupportedOption(f"{here} is not what it should be")
            else:
                made[name] = value
        return made


def _task_name(name: str, sort: object, where: str) -> str:
    if sort is not None:
        if not isinstance(sort, str) or NESTED.get(sort) != name:
            raise UnsupportedOption(f"{where} is of a kind that is not carried out")
        return name
    # Celery's own tasks are known here, and would be run here, or in a way of their own.
    if _TASK_NAME.fullmatch(name) is None or name.startswith("celery."):
        raise UnsupportedOption(f"{where}.task {_name(name)} is no name of a task")
    return name


def _flag(value: object, where: str) -> bool:
    if not isinstance(value, bool | None):
        raise UnsupportedOption(f"{where} is neither true nor false")
    return bool(value)


def _require_known(given: Mapping[str, Any], known: Collection[str], where: str) -> None:
    for name in given:
        if name not in known:
            raise UnsupportedOption(f"{where}.{_name(name)} is not carried out")


def _name(text: str) -> str:
    """What a sender wrote, short enough for a sentence and without what terminals obey."""
    return repr(text[:40]).strip("'\"") if not text.isidentifier() else text[:40]


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_NAME_CHARS and value.isprintable()


def _is_seconds(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and 0 <= value <= MAX_SECONDS  # type: ignore[arg-type,operator]


def _is_time(value: object) -> bool:
    if not isinstance(value, str):
        return _is_seconds(value)
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True


def _is_index(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _is_id(value: object) -> bool:
    return isinstance(value, str) and is_task_id(value)


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


# Ids that Celery makes keys of are UUIDs; the others are passed on.
_OPTIONS: Mapping[str, Callable[[object], bool]] = {
    "task_id": _is_id,
    "group_id": _is_id,
    "root_id": _is_text,
    "parent_id": _is_text,
    "reply_to": _is_text,
    "queue": _is_text,
    "shadow": _is_text,
    "group_index": _is_index,
    "priority": _is_index,
    "countdown": _is_seconds,
    "eta": _is_time,
    "expires": _is_time,
    "time_limit": _is_seconds,
    "soft_time_limit": _is_seconds,
    "ignore_result": _is_bool,
}
