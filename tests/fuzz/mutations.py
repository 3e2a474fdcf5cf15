"""Messages as foreign senders might push them, and everything that can be wrong with those.

Seeded and structure-aware: a real message of Celery's, with any of its options, is changed in its
parts, in its body, and in its bytes. Each has an id of its own.
"""

from __future__ import annotations

import base64
import bz2
import copy
import json
import lzma
import uuid
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from random import Random
from typing import Any

from tests.bench.sample import picture_key

CANVAS_QUEUE = "fuzz-canvas"
ALMOST_NOW_SECONDS = 0.2
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "application/x-gzip": zlib.compress,
    "application/x-bz2": bz2.compress,
    "application/x-lzma": partial(lzma.compress, preset=0),
}
CHARSETS = ["utf-8", "UTF-8", "utf8", "us-ascii", "latin-1", "binary", "utf-16", "utf-7", "idna"]
CONTENT_TYPES = [
    "application/json",
    "application/x-python-serialize",
    "application/x-yaml",
    "application/x-visionq+json",
    "application/data",
    "text/plain",
]
DIGITS = "7" * 100_000


class Verbatim(str):
    """JSON text to be written as it is; `json.dumps` has no way to write some of it."""

    __slots__ = ()


def messages(seed: int, count: int, now: float) -> Iterator[bytes]:
    """`count` elements for a queue. `now`: seconds since the epoch, for their options."""
    for number in range(count):
        yield Mutator(Random(f"{seed}/{number}"), now).element()


class Mutator:
    """Makes one element."""

    def __init__(self, random: Random, now: float) -> None:
        self._random = random
        self._now = now
        self._id = str(uuid.UUID(int=random.getrandbits(128), version=4))

    def element(self) -> bytes:
        random = self._random
        num_changes = random.choice([0, 1, 1, 1, 2, 3])
        kinds = [random.choice(["part", "body", "bytes", "codec"]) for _ in range(num_changes)]
        body = self._body()
        for _ in range(kinds.count("body")):
            body = self._changed(body)
        message = self._message(self._text(body), is_packed="codec" in kinds)
        for _ in range(kinds.count("part")):
            message = self._changed(message)
        element = self._text(message).encode("utf-8", "surrogatepass")
        for _ in range(kinds.count("bytes")):
            element = self._damaged(element)
        return element

    # The message as it should be.

    def _body(self) -> Any:
        task: dict[str, Any] = {"kind": "ocr", "images": [{"ref": picture_key()}]}
        random = self._random
        if random.random() < 0.3:
            task |= {"question": "What is this?", "labels": {"order": "17"}, "tenant": "theirs"}
        if random.random() < 0.1:
            task["deadline"] = self._now + random.choice([-10, 3600])
        embedded: dict[str, Any] = dict.fromkeys(("callbacks", "errbacks", "chain", "chord"))
        if random.random() < 0.2:
            name = random.choice(["callbacks", "errbacks", "chain"])
            embedded[name] = [self._signature() for _ in range(random.choice([1, 1, 3]))]
        if random.random() < 0.02:
            embedded["chord"] = self._signature()
        return [[], {"task": task}, embedded]

    def _signature(self, depth: int = 0) -> dict[str, Any]:
        random = self._random
        made: dict[str, Any] = {
            "task": "their.task",
            "args": [],
            "kwargs": {"any": {"__type__": "uuid", "__value__": "none"}},
            "options": {
                "queue": CANVAS_QUEUE,
                "task_id": str(uuid.UUID(int=random.getrandbits(128))),
            },
            "subtask_type": None,
            "immutable": False,
        }
        sort = random.choice(["plain", "plain", "plain", "link", "group", "chain", "chord"])
        if depth > 2 or sort == "plain":
            return made
        inner = [self._signature(depth + 1) for _ in range(2)]
        if sort == "link":
            made["options"]["link"] = inner
        else:
            parts: dict[str, Any] = {"tasks": inner}
            if sort == "chord":
                parts = {"header": inner, "body": self._signature(depth + 1), "kwargs": {}}
            made |= {"task": f"celery.{sort}", "kwargs": parts, "subtask_type": sort, "options": {}}
        return made

    def _message(self, body: str, *, is_packed: bool) -> Any:
        random = self._random
        content = body.encode("utf-8", "surrogatepass")
        headers = self._headers()
        properties: dict[str, Any] = {
            "correlation_id": self._id,
            "reply_to": str(uuid.UUID(int=1)),
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "any"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": self._id,
        }
        if is_packed:
            name = random.choice(sorted(PACKERS))
            headers["compression"] = random.choice([name, name, name, "zlib", "application/zstd"])
            content = PACKERS[name](content)
            if random.random() < 0.3:
                content = self._damaged(content)
        if random.random() < 0.05 and not is_packed:
            del properties["body_encoding"]
        else:
            body = base64.b64encode(content).decode()
        return {
            "body": body,
            "content-encoding": random.choice(["utf-8"] * 90 + CHARSETS),
            "content-type": random.choice(["application/json"] * 90 + CONTENT_TYPES),
            "headers": headers,
            "properties": properties,
        }

    def _headers(self) -> dict[str, Any]:
        random = self._random
        headers: dict[str, Any] = {
            "lang": "py",
            "task": "visionq.run",
            "id": self._id,
            "shadow": None,
            "eta": None,
            "expires": None,
            "group": None,
            "group_index": None,
            "retries": 0,
            "timelimit": [None, None],
            "root_id": self._id,
            "parent_id": None,
            "argsrepr": "()",
            "kwargsrepr": "{'task': {...}}",
            "origin": "gen1@host",
            "ignore_result": False,
            "replaced_task_nesting": 0,
            "stamped_headers": None,
            "stamps": {},
        }
        if random.random() < 0.2:
            name = random.choice(["eta", "expires", "timelimit", "group", "ignore_result", "task"])
            headers[name] = random.choice(self._given(name))
        if random.random() < 0.03:
            headers["id"] = random.choice([self._id.upper(), self._id[:-1], f"order-{self._id}", 7])
        return headers

    def _given(self, name: str) -> list[Any]:
        soon = self._now + ALMOST_NOW_SECONDS
        return {
            "eta": [_iso(soon), _iso(self._now - 5), _iso(self._now + 200_000), soon, "soon", 5],
            "expires": [
                _iso(self._now + 900),
                _iso(self._now - 5),
                self._now + 900,
                "late",
                30,
                [],
            ],
            "timelimit": [[300, 200], [None, 5], [5], "5", [0, 0], [-1, None]],
            "group": [str(uuid.UUID(int=5)), "any group", [], 5],
            "ignore_result": [True, "yes", 1],
            "task": ["visionq.rum", "celery.chord_unlock", "", 5, None, ["visionq.run"]],
        }[name]

    # What is wrong with it.

    def _changed(self, given: Any) -> Any:
        """A copy in which one part, wherever it lies, is another one, gone, or beside a new one."""
        made = copy.deepcopy(given)
        places = list(_places(made))
        if not places:
            return self._nasty()
        holder, key = self._random.choice(places)
        way = self._random.random()
        if way < 0.75:
            holder[key] = self._nasty()
        elif way < 0.9:
            del holder[key]
        elif isinstance(holder, dict):
            holder[self._random.choice(["__type__", "id", "", "\ud800", "x" * 500])] = self._nasty()
        else:
            holder.append(self._nasty())
        return made

    def _nasty(self) -> Any:
        random = self._random
        return random.choice(
            [
                *(None, True, False, 0, -1, 2**31, 2**63, 1e308, -0.0, 3.5),
                *("", "x", "\x00", "\ud800", "\udfff\ud800", "é\u202e\x1b[2J", "../../evil"),
                *("x" * 10_000, "null", "[]", "visionq.run", "celery.group", "celery", "group"),
                *(self._id.upper(), str(uuid.UUID(int=random.getrandbits(128))), "0" * 36),
                *(_iso(self._now - 1), "2026-02-30T00:00:00", "9999-12-31T23:59:59-23:59", "Z"),
                *([], {}, [[]], [{}], [5], ["x"], {"": ""}, [None] * 300, {"task": "x"}),
                *(Verbatim(text) for text in ("NaN", "-Infinity", "1e999", "-0", DIGITS)),
                Verbatim("[" * 90 + "]" * 90),
                Verbatim("[" * 300 + "]" * 300),
                Verbatim('{"a":' * 1500 + "1" + "}" * 1500),
                Verbatim('{"id":"a","id":"b"}'),
                {"__type__": "uuid", "__value__": "no uuid"},
                {"__type__": "datetime", "__value__": []},
                {"__type__": "nothing", "__value__": 1},
                {"exchange": "", "routing_key": [], "priority": {}},
                self._signature(),
                [self._signature()],
            ]
        )

    def _damaged(self, element: bytes) -> bytes:
        random = self._random
        place = random.randrange(len(element) + 1)
        tail = element[place:]
        ways: list[Callable[[], bytes]] = [
            lambda: element[:place] + bytes([random.randrange(256)]) + tail[1:],
            lambda: element[:place] + random.randbytes(random.choice([1, 4, 50])) + tail,
            lambda: element[:place],
            lambda: element[:place] + tail[random.choice([1, 2, 40]) :],
            lambda: element + element,
            lambda: b"\xef\xbb\xbf" + element,
            lambda: element.decode("latin-1").encode("utf-16"),
            lambda: element.replace(b'"', b"'", 1),
            lambda: element.replace(b"null", DIGITS.encode(), 1),
            lambda: element.replace(b"null", b"NaN", 1),
            lambda: element.replace(b"}", b',"headers":{},"id":"x"}', 1),
            lambda: element[:1] + b'"properties":{"delivery_tag":[]},' + element[1:],
            lambda: element.replace(b'"headers": {', b'"headers": {"id": "other", ', 1),
            lambda: b" " * random.choice([10, 100, 1_200_000]) + element,
            lambda: b"",
        ]
        return random.choice(ways)()

    def _text(self, value: Any) -> str:
        """As JSON, with what is verbatim in it."""
        found: list[str] = []

        def marked(one: Any) -> Any:
            if isinstance(one, Verbatim):
                found.append(one)
                return f"\x01{len(found) - 1}\x01"
            if isinstance(one, dict):
                return {name: marked(inner) for name, inner in one.items()}
            return [marked(inner) for inner in one] if isinstance(one, list) else one

        is_ascii = self._random.random() < 0.8
        text = json.dumps(marked(value), ensure_ascii=is_ascii)
        for number, verbatim in enumerate(found):
            text = text.replace(f'"\\u0001{number}\\u0001"', verbatim)
        return text


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each part of a JSON value, by what holds it and the key there."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, one in list(inner):
        yield value, key
        if isinstance(one, dict | list):
            yield from _places(one)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
