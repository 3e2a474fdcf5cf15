"""What is read from and written to Celery's control channel: its messages, without a connection.

A command is a JSON object in kombu's envelope. Whoever can reach Redis can write one, so everything
about it is checked here, and a reply goes only to a queue that is named like a reply queue.
"""

from __future__ import annotations

import json
import uuid
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from visionq.contract import is_task_id
from visionq.names import Names

MAX_BYTES = 256 * 1024
"""Of a message: a thousand task ids, and more, in twice their Base64."""
MAX_NAME_LENGTH = 200
"""Of a command's name, a pattern and a ticket."""


class BadCommand(ValueError):
    """A message that is no control command; the text is the reason."""


@dataclass(frozen=True, slots=True)
class Command:
    """A control command for this worker. `reply_queue` is None where nobody waits for an answer."""

    method: str
    arguments: Mapping[str, Any]
    reply_queue: str | None = None
    routing_key: str = ""
    ticket: str | None = None


def read_command(data: bytes, node: str, names: Names) -> Command | None:
    """The command in a message; None for one that is meant for others. Raises `BadCommand`."""
    body = _body(data)
    if not _is_meant(body, node):
        return None
    method, arguments = body.get("method"), body.get("arguments") or {}
    if not isinstance(method, str) or len(method) > MAX_NAME_LENGTH:
        raise BadCommand("the method is no name")
    if not isinstance(arguments, dict):
        raise BadCommand("the arguments are no object")
    reply_to = body.get("reply_to")
    if not reply_to:
        return Command(method, arguments)
    key, ticket = _routing_key(reply_to, names), body.get("ticket")
    if ticket is not None and not (isinstance(ticket, str) and len(ticket) <= MAX_NAME_LENGTH):
        raise BadCommand("the ticket is no short text")
    return Command(method, arguments, names.control_reply_queue(key), key, ticket)


def write_reply(command: Command, node: str, answer: object, names: Names) -> str:
    """The message that `command.reply_queue` gets."""
    return json.dumps(
        {
            "body": b64encode(json.dumps({node: answer}).encode()).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            # Celery's logical clock: nobody's falls behind 0.
            "headers": {"ticket": command.ticket, "clock": 0},
            "properties": {
                "delivery_mode": 1,
                "delivery_info": {
                    "exchange": names.control_reply_exchange(),
                    "routing_key": command.routing_key,
                },
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": str(uuid.uuid4()),
            },
        }
    )


def _body(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_BYTES:
        raise BadCommand(f"it has {len(data)} bytes, {MAX_BYTES} are allowed")
    envelope = _object(data, "the message")
    headers = envelope.get("headers") or {}
    properties = envelope.get("properties") or {}
    text = envelope.get("body")
    if not isinstance(headers, dict) or not isinstance(properties, dict):
        raise BadCommand("the headers or properties are no object")
    if envelope.get("content-type") != "application/json" or headers.get("compression"):
        raise BadCommand("only JSON is accepted, and not compressed")
    if not isinstance(text, str):
        raise BadCommand("the body is no text")
    encoded = text.encode(errors="replace")
    if properties.get("body_encoding") != "base64":
        return _object(encoded, "the body")
    try:
        return _object(b64decode(encoded, validate=True), "the body")
    except ValueError as error:
        raise BadCommand(f"the body cannot be decoded: {error}") from error


def _object(data: bytes, what: str) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadCommand(f"{what} is no JSON") from error
    if not isinstance(found, dict):
        raise BadCommand(f"{what} is no object")
    return found


def _is_meant(body: Mapping[str, Any], node: str) -> bool:
    """Whether a command without a destination, or with this one, is for the worker of that name."""
    destination, pattern, matcher = (body.get(n) for n in ("destination", "pattern", "matcher"))
    if destination:
        return destination == node or (isinstance(destination, list) and node in destination)
    if not pattern:
        return True
    # Celery's other matcher would run the sender's regular expression, for as long as that takes.
    if matcher != "glob" or not isinstance(pattern, str) or len(pattern) > MAX_NAME_LENGTH:
        raise BadCommand("workers can be chosen by destination or by a short glob only")
    return fnmatchcase(node, pattern)


def _routing_key(reply_to: object, names: Names) -> str:
    """Of the sender's reply queue, which Celery names by a UUID."""
    found = reply_to if isinstance(reply_to, dict) else {}
    exchange, key = found.get("exchange"), found.get("routing_key")
    if exchange != names.control_reply_exchange() or not isinstance(key, str):
        raise BadCommand(f"an answer goes to the exchange {names.control_reply_exchange()} only")
    if not is_task_id(key):
        raise BadCommand("the reply's routing key is no lower-case UUID")
    return key
