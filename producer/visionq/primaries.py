"""Where the primary of a Redis is now, and what this process knows of it.

A Redis that is replicated changes its primary: the old one dies, or lives on as a replica, which
refuses writes and answers questions with what it knew. All connections of a process to one address
share a `Primary`: what one of them finds out about its server, the others act on. No I/O here but a
locator's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from time import monotonic
from typing import Protocol, TypeAlias

import redis
from redis.exceptions import MovedError

Place: TypeAlias = tuple[str, int]
"""Host and port."""

ROLE_SECONDS = 2.0
"""A connection in use asks its server this often whether it is a primary still. A replica answers
whatever only reads, so nothing else would tell a client that asks for statuses only; and what it
answers is as old as its link to its primary."""

MAX_HISTORIES = 64
"""That are told apart: one more for each failover."""

_REASONS: Mapping[str, str] = {
    "READONLY": "it is a replica now",
    "MASTERDOWN": "it is a replica, and has lost its primary",
    "UNBLOCKED": "it has become a replica",
    "LOADING": "it is still loading its data set",
    "NOREPLICAS": "too few replicas follow it",
    "CLUSTERDOWN": "its cluster is down",
    "MOVED": "another node of its cluster serves these keys",
    "ASK": "these keys are moving to another node of its cluster",
    "TRYAGAIN": "these keys are moving to another node of its cluster",
}
"""By the code of an error reply: each says that another server may be asked, or this one later."""

_LATER = frozenset({"ASK", "TRYAGAIN"})
"""Of these: this one, later. It is the right one until the last key has moved."""

_OF_CLUSTERS = frozenset({"MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "CROSSSLOT"})

_OUT_OF_REACH = "ttempted to access a non local key in a cluster node"
"""As TRYAGAIN, of a script that has begun, since all the keys that it declares were there."""

_IN_SCRIPT = re.compile(r"Error running script.*?: -([A-Z]+) ", re.DOTALL)
"""Redis 6 and older put the code of an error within a script into a sentence."""


class WrongServer(redis.ConnectionError):
    """The server cannot do what only a primary does. The connection to it is closed already."""


class NoPrimary(redis.ConnectionError):
    """Nobody says where the primary is. The message is a sentence for users."""


class NoHashTag(redis.ResponseError):
    """The server is a node of a Redis Cluster, and the keys have many slots."""


class Locator(Protocol):
    """Tells where the primary is. Used by many threads and loops, and in forked children."""

    is_instant: bool
    """Whether `candidates` does no I/O; if it does, event loops run it in a thread."""

    def candidates(self) -> Iterator[Place | None]:
        """Where the primary may be; the next one is asked for when the one before was not it.

        None: where the connection's own options say. At least one, or raises
        `redis.ConnectionError`.
        """
        ...

    def moved_to(self, place: Place) -> None:
        """A node of a cluster says that the keys are there now."""
        ...


class FixedAddress:
    """One address that leads to the primary of the moment: its name is resolved at each connect."""

    is_instant = True

    def candidates(self) -> Iterator[Place | None]:
        yield None

    def moved_to(self, place: Place) -> None:
        """Only with a hash tag is a cluster followed."""


class Primary:
    """What a process has found out about one address. Without locks: a fork may come at any time.

    `epoch` counts the times a server turned out to be the wrong one. A connection of an earlier
    epoch is replaced before its next use: it may lead to that server, too.
    """

    def __init__(self, locator: Locator, *, has_hash_tag: bool = False) -> None:
        self.locator = locator
        self._has_hash_tag = has_hash_tag
        self.epoch = 0
        self.tells_history = True
        """Whether access rules allow INFO, as far as is known."""
        self._histories: set[str] = set()
        self._history: str | None = None
        self._place: Place | None = None
        self._question_due = 0.0

    def is_wrong(self, epoch: int) -> None:
        """A connection of that epoch leads to the wrong server."""
        self.epoch = max(self.epoch, epoch + 1)

    def is_question_due(self) -> bool:
        """Whether whoever sends next is to ask the locator again, for all connections.

        Sentinels name the new primary some ten seconds before they demote the old one, if that is
        alive: what it accepts meanwhile is lost.
        """
        if self.locator.is_instant or monotonic() < self._question_due:
            return False
        self._question_due = monotonic() + ROLE_SECONDS
        return True

    def is_named(self, place: Place | None, epoch: int) -> None:
        """The locator names this place, or a connection of that epoch found the primary there."""
        if place is None:
            return
        self._question_due = monotonic() + ROLE_SECONDS
        if self._place not in (None, place):
            self.is_wrong(epoch)
        self._place = place

    def require_named(self, place: Place) -> None:
        """Raise `WrongServer` for a connection to any other place than the one named last."""
        if self._place not in (None, place):
            raise WrongServer(f"Redis at {place[0]}:{place[1]} is not the primary any more")

    def refusal(self, error: redis.RedisError, epoch: int, place: str) -> redis.RedisError | None:
        """What an error reply over a connection of that epoch means, if it is the server's fault.

        After `WrongServer` the connection is of no more use.
        """
        code = wrong_code(error)
        if code in _OF_CLUSTERS and not self._has_hash_tag:
            return NoHashTag(
                f"Redis at {place} is a node of a Redis Cluster ({code}): keep all keys in one "
                "slot by broker.hash_tag = true, in Python BrokerAddress(url, hash_tag=True)"
            )
        if code is None or code not in _REASONS:
            return None
        if code not in _LATER:
            self.is_wrong(epoch)
        if isinstance(error, MovedError):
            # Without a host it is the same one.
            self.locator.moved_to((error.host or place.rpartition(":")[0], error.port))
        return wrong_server(code, place)

    def check(self, told: Mapping[str, str], epoch: int, place: str) -> int:
        """The epoch of a connection that began in `epoch`, by what its server says of itself.

        `told`: of INFO or HELLO. Raises `WrongServer` for a replica that takes no writes. A primary
        whose history was not seen before is a new one, even if the old one does not know yet.
        """
        is_replica = told.get("role") in ("slave", "replica")
        if is_replica and told.get("slave_read_only") != "0":
            self.is_wrong(epoch)
            raise wrong_server("READONLY", place)
        history = told.get("master_replid")
        if history is None:
            return epoch
        if history not in self._histories:
            if len(self._histories) >= MAX_HISTORIES:
                self._histories.clear()
            if self._histories:
                self.is_wrong(epoch)
            self._histories.add(history)
            self._history = history
        return self.epoch if history == self._history else epoch


def wrong_code(error: redis.RedisError) -> str | None:
    """The code of an error reply that may be the server's fault; None for any other error."""
    text = str(error)
    code = getattr(error, "status_code", None) or text.partition(" ")[0]
    if code in _REASONS or code in _OF_CLUSTERS:
        return str(code)
    if _OUT_OF_REACH in text:
        return "TRYAGAIN"
    found = _IN_SCRIPT.search(text)
    return found[1] if found and found[1] in _REASONS else None


def wrong_server(code: str, place: str) -> WrongServer:
    """In one sentence, without a full stop."""
    return WrongServer(f"Redis at {place} takes no commands: {_REASONS[code]} ({code})")


def read_info(text: str) -> dict[str, str]:
    """The reply to INFO as names and values."""
    lines = (line.partition(":") for line in text.splitlines())
    return {name: value for name, colon, value in lines if colon}
