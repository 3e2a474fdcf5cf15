"""Which node of a Redis Cluster has the slot of a hash tag.

Any node that can be reached is asked, at each connect; the one that answered last comes first, and
the nodes that it names are asked when it is gone, so the address that a client was given need not
live for ever. A node that is cut off from the rest still believes what it knew; it says that its
cluster is down, and is believed only where nobody says better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import redis
from redis.connection import parse_url
from redis.crc import key_slot
from redis.exceptions import NoPermissionError

from visionq.broker_urls import BrokerAddress
from visionq.primaries import NoPrimary, Place
from visionq.questions import ask
from visionq.tls import tls_advice

PORT = 6379
ASK_SECONDS = 2.0
"""To connect to a node, and to wait for each reply."""
QUESTIONS = (("CLUSTER", "INFO"), ("CLUSTER", "SLOTS"))

Ask = Callable[[Place], Sequence[Any]]
"""That node's replies to `QUESTIONS`. Raises redis-py's errors, `OSError` among them."""

NO_CLUSTER = "cluster support disabled"
"""Part of what a Redis says that is none. With all keys in one slot it is as good."""
UNKNOWN_HOSTS = ("", "?")
"""Announced by a node that does not know its own address: it is where it was asked."""


@dataclass(frozen=True, slots=True)
class View:
    """What one node says: who has the slot, if anybody, and all nodes with slots and replicas.

    `is_well`: whether it sees enough of its cluster to serve.
    """

    owner: Place | None
    nodes: tuple[Place, ...]
    is_well: bool


class ClusterSlot:
    """A `Locator`. What it remembers is replaced as a whole, so it needs no lock."""

    is_instant = False

    def __init__(self, seeds: Sequence[Place], tag: str, ask: Ask) -> None:
        self._seeds = tuple(seeds)
        self._nodes = self._seeds
        self._slot = key_slot(tag.encode())
        self._ask = ask

    def candidates(self) -> Iterator[Place | None]:
        """Where the slot is, in the eyes of one node after the other, the ones that are well first.

        Raises `NoPrimary` when none can be reached, or none knows an owner.
        """
        done: set[Place] = set()  # named, or not to be reached
        num_named, why = 0, None
        last: list[Place] = []
        for node in self._nodes:
            try:
                view = self._view_of(node)
            except (redis.RedisError, OSError) as error:
                done.add(node)
                why = error
                continue
            if not view.is_well:
                last += [view.owner] if view.owner else []
                continue
            self._remember(view, node)
            if view.owner is not None and view.owner not in done:
                done.add(view.owner)
                num_named += 1
                yield view.owner
        for owner in dict.fromkeys(last):
            if owner not in done:
                num_named += 1
                yield owner
        if num_named == 0:
            raise NoPrimary(self._explained(why)) from why

    def moved_to(self, place: Place) -> None:
        """A node says so: that one is asked first."""
        self._nodes = (place, *(node for node in self._nodes if node != place))

    def _view_of(self, node: Place) -> View:
        try:
            info, slots = self._ask(node)
        except redis.ResponseError as error:
            if NO_CLUSTER in str(error):
                return View(node, (node,), is_well=True)
            raise
        return read_view(info, slots, self._slot, node)

    def _remember(self, view: View, asked: Place) -> None:
        self._nodes = tuple(dict.fromkeys((asked, *view.nodes, *self._seeds)))

    def _explained(self, why: Exception | None) -> str:
        if isinstance(why, NoPermissionError):
            return (
                "this user may not ask a Redis Cluster who has the keys: allow it "
                "+cluster|info and +cluster|slots"
            )
        said = f": {str(why).rstrip('.')}" if why else ""
        advice = tls_advice(why) if why else None
        return "; ".join(
            filter(None, (f"no node of the Redis Cluster leads to slot {self._slot}{said}", advice))
        )


def cluster_slot(address: BrokerAddress) -> ClusterSlot:
    """The locator of an address with a hash tag."""
    seeds: list[dict[str, Any]] = [
        parse_url(url)  # type: ignore[no-untyped-call]
        for url in address.server_urls
    ]
    user = (seeds[0].get("username"), seeds[0].get("password"))
    asking = partial(ask, questions=QUESTIONS, tls=address.tls, user=user, seconds=ASK_SECONDS)
    places = [(seed.get("host", "localhost"), seed.get("port", PORT)) for seed in seeds]
    return ClusterSlot(places, address.slot_of, asking)


def read_view(info: Any, slots: Any, slot: int, asked: Place) -> View:
    """The replies to CLUSTER INFO, and to CLUSTER SLOTS: ranges, each with its owner and the
    replicas of that."""
    owner: Place | None = None
    nodes: dict[Place, None] = {}
    for first, last, *servers in slots:
        places = [_place(server, asked) for server in servers]
        nodes.update(dict.fromkeys(places))
        if first <= slot <= last and places:
            owner = places[0]
    return View(owner, tuple(nodes), is_well="cluster_state:ok" in _text(info))


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
