"""Which node of a Redis Cluster has the slot of a hash tag.

Any node that can be reached is asked (`CLUSTER SLOTS`), at each connect, and each time another one:
one that is cut off from the rest still believes what it knew. The nodes that one names are asked
later, so the address that a client was given need not live for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import redis
from redis.crc import key_slot
from redis.exceptions import NoPermissionError

from visionq.primaries import Place

Ask = Callable[[Place], Any]
"""The reply of that node to CLUSTER SLOTS. Raises redis-py's errors, `OSError` among them."""

NO_CLUSTER = "cluster support disabled"
"""Part of what a Redis says that is none. With all keys in one slot it is as good."""
UNKNOWN_HOSTS = ("", "?")
"""Announced by a node that does not know its own address: it is where it was asked."""


@dataclass(frozen=True, slots=True)
class View:
    """What one node says: who has the slot, if anybody, and all nodes with slots and replicas."""

    owner: Place | None
    nodes: tuple[Place, ...]


class ClusterSlot:
    """A `Locator`. What it remembers is replaced as a whole, so it needs no lock."""

    is_instant = False

    def __init__(self, seeds: Sequence[Place], tag: str, ask: Ask) -> None:
        self._seeds = tuple(seeds)
        self._nodes = self._seeds
        self._slot = key_slot(tag.encode())
        self._ask = ask

    def candidates(self) -> Iterator[Place | None]:
        """Where the slot is, in the eyes of one node after the other.

        Raises `redis.ConnectionError` when none can be reached, or none knows an owner.
        """
        tried: set[Place] = set()
        why: Exception | None = None
        num_named = 0
        for node in self._nodes:
            try:
                view = self._view_of(node)
            except (redis.RedisError, OSError) as error:
                tried.add(node)
                why = error
                continue
            self._remember(view, node)
            if view.owner is not None and view.owner not in tried:
                tried.add(view.owner)
                num_named += 1
                yield view.owner
        if num_named == 0:
            raise redis.ConnectionError(self._explained(why)) from why

    def moved_to(self, owner: Place) -> None:
        """A node says so: that one is asked first."""
        self._nodes = (owner, *(node for node in self._nodes if node != owner))

    def _view_of(self, node: Place) -> View:
        try:
            reply = self._ask(node)
        except redis.ResponseError as error:
            if NO_CLUSTER in str(error):
                return View(node, (node,))
            raise
        return read_slots(reply, self._slot, node)

    def _remember(self, view: View, asked: Place) -> None:
        """The one that was asked now is asked last the next time; the seeds stay in any case."""
        known = dict.fromkeys((*view.nodes, *self._seeds))
        known.pop(asked, None)
        self._nodes = (*known, asked)

    def _explained(self, why: Exception | None) -> str:
        if isinstance(why, NoPermissionError):
            return "this user may not ask who has the keys: allow it CLUSTER SLOTS (+cluster|slots)"
        said = f": {why}" if why else ""
        return f"no node of the Redis Cluster leads to slot {self._slot}{said}"


def read_slots(reply: Any, slot: int, asked: Place) -> View:
    """The reply to CLUSTER SLOTS: ranges, each with its owner and the replicas of that."""
    owner: Place | None = None
    nodes: dict[Place, None] = {}
    for first, last, *servers in reply:
        places = [_place(server, asked) for server in servers]
        nodes.update(dict.fromkeys(places))
        if first <= slot <= last and places:
            owner = places[0]
    return View(owner, tuple(nodes))


def _place(server: Sequence[Any], asked: Place) -> Place:
    """Of one node: host (perhaps none), port, id, and perhaps other names of the host."""
    host = _text(server[0])
    if host in UNKNOWN_HOSTS:
        host = _other_names(server[3] if len(server) > 3 else ()).get("ip", asked[0])
    return host, int(server[1])


def _other_names(names: Any) -> dict[str, str]:
    texts = [_text(name) for name in names]
    found = dict(zip(texts[::2], texts[1::2], strict=False))
    return {name: value for name, value in found.items() if value not in UNKNOWN_HOSTS}


def _text(value: object) -> str:
    if value is None:
        return ""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
