"""A Redis Cluster on the loopback interface: nodes with slots, replicas, and what befalls them.

Made with the embedded Valkey and redis-py alone: MEET, ADDSLOTSRANGE, REPLICATE.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import redis
from redis.crc import key_slot

from tests.support.waiting import wait_until
from visionq.local.binaries import find_valkey
from visionq.local.commands import valkey_command
from visionq.local.folder import own
from visionq.local.ports import HOST, choose_port, is_free, propose_port
from visionq.local.process import ServerProcess

NUM_SLOTS = 16384
BUS_OFFSET = -8000
"""To a node's other port, for the cluster's own bus: below those from which connections go out."""
NODE_TIMEOUT_MS = 1000
"""Silence after which a node counts as failed; its replica stands for election soon after."""
READY_SECONDS = 30.0
WAIT_MS = 5000
BATCH = 100
"""Keys of one MIGRATE."""


class Cluster:
    """Nodes as long as the block runs: `num_primaries` with equal shares of the slots.

    Each has `num_replicas`. Nodes are named by their ports.
    """

    def __init__(self, folder: Path, *, num_primaries: int = 3, num_replicas: int = 0) -> None:
        self._folder = folder
        self._password = secrets.token_hex(16)
        self._servers: dict[int, ServerProcess] = {}
        self._clients: dict[int, redis.Redis] = {}
        ports = _choose_ports(num_primaries * (1 + num_replicas))
        self.primaries, self._replicas = ports[:num_primaries], ports[num_primaries:]
        self._closing = ExitStack()

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            lock = stack.enter_context(own(self._folder / "nodes"))
            # A server ends with the thread that has started it.
            spawner = stack.enter_context(ThreadPoolExecutor(1, "cluster"))
            for port in self.ports:
                process = ServerProcess(self._command(port), spawner=spawner, lock=lock)
                self._servers[port] = process
                stack.callback(process.kill)
                self._clients[port] = client = redis.Redis.from_url(
                    self.url(port), decode_responses=True
                )
                stack.callback(client.close)
                self.start(port)
            self._join()
            self._closing = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    @property
    def ports(self) -> list[int]:
        return [*self.primaries, *self._replicas]

    def url(self, *ports: int) -> str:
        """Of these nodes; of all when none is named."""
        hosts = ",".join(f"{HOST}:{port}" for port in ports or self.ports)
        return f"redis://:{self._password}@{hosts}/0"

    def node(self, port: int) -> redis.Redis:
        """A plain connection to one node."""
        return self._clients[port]

    def owner(self, tag: str) -> int:
        """Who has the tag's slot, as most of the others see it."""
        seen = [self.owner_seen_by(port, tag) for port in self.ports if self._is_alive(port)]
        return max(set(seen), key=seen.count)

    def owner_seen_by(self, port: int, tag: str) -> int:
        slot = key_slot(tag.encode())
        for first, last, (_, owner, *_), *_ in self._ask(port, "CLUSTER SLOTS"):
            if first <= slot <= last:
                return int(owner)
        return 0

    def replica_of(self, primary: int) -> int:
        """One that has all its primary has, as the primary says."""
        return self._online_replicas(primary)[0]

    def _online_replicas(self, primary: int) -> list[int]:
        found = self.node(primary).info("replication")
        return [
            int(each["port"])
            for name, each in found.items()
            if name.startswith("slave") and isinstance(each, dict) and each["state"] == "online"
        ]

    def kill(self, port: int) -> None:
        """SIGKILL; returns when the process is gone."""
        self._servers[port].kill()

    def pid(self, port: int) -> int:
        return self._servers[port].pid

    def start(self, port: int) -> None:
        self._servers[port].start()
        wait_until(lambda: self._is_alive(port), seconds=READY_SECONDS, what="a node to start")

    def start_dead(self) -> None:
        """Start those that were killed; returns when the cluster is whole again."""
        for port in self.ports:
            if not self._is_alive(port):
                self.start(port)
        self._wait_for_all(self._is_well)
        self._wait_for_all(self._is_in_sync)

    def fail_over(self, tag: str) -> tuple[int, int]:
        """As planned: a replica takes over, and the old owner follows it. Both, old one first."""
        old = self.owner(tag)
        new = self.replica_of(old)
        self._ask(new, "CLUSTER FAILOVER")
        self.wait_until_owned_by(new, tag)
        return old, new

    def other_primary(self, tag: str) -> int:
        """One that could have the slot, too."""
        owner = self.owner(tag)
        return next(port for port in self.num_keys() if port != owner)

    def wait_until_replicated(self, tag: str) -> None:
        """What the slot's owner has accepted so far is a replica's, too."""
        owner = self.owner(tag)
        wait_until(
            lambda: self._online_replicas(owner),
            seconds=READY_SECONDS,
            what="a replica to be in sync",
        )
        with self.node(owner).pipeline(transaction=False) as pipe:
            # WAIT is about the writes of its own connection; this one comes after all others'.
            pipe.set(f"{{{tag}}}:replicated", "", ex=60)
            pipe.wait(1, WAIT_MS)
            _, num_replicas = pipe.execute()
        assert num_replicas == 1, "nobody follows the owner"

    def wait_until_owned_by(self, port: int, tag: str) -> None:
        """In the eyes of all that live."""
        wait_until(
            lambda: all(
                self.owner_seen_by(each, tag) == port for each in self.ports if self._is_alive(each)
            ),
            seconds=READY_SECONDS,
            what="the slot to have its new owner",
        )

    def wait_until_taken_over(self, dead: int, tag: str) -> int:
        """Another one has the slot, and serves it. Returns who."""

        def successor() -> int:
            found = self.owner(tag)
            return found if found != dead and self._is_well(found) else 0

        return wait_until(successor, seconds=READY_SECONDS, what="a replica to take over")

    @contextmanager
    def moving(self, tag: str, target: int) -> Iterator[Moving]:
        """The tag's slot on its way to `target` by hand, its keys where `Moving` puts them.

        At the end of the block the rest is moved, and the slot is the target's.
        """
        source, slot = self.owner(tag), key_slot(tag.encode())
        ids = {port: str(self._ask(port, "CLUSTER MYID")) for port in (source, target)}
        self._ask(target, f"CLUSTER SETSLOT {slot} IMPORTING {ids[source]}")
        self._ask(source, f"CLUSTER SETSLOT {slot} MIGRATING {ids[target]}")
        moving = Moving(self.node(source), slot, target, self._password)
        yield moving
        while moving.move(BATCH):
            pass
        # The target first, so that the slot is never nobody's.
        for port in (target, source, *(one for one in self.ports if self._is_alive(one))):
            with suppress(redis.ResponseError):  # a replica by now
                self._ask(port, f"CLUSTER SETSLOT {slot} NODE {ids[target]}")
        self.wait_until_owned_by(target, tag)

    def migrate_at_once(self, tag: str, target: int) -> None:
        """The slot with its keys in one step, as Valkey 9 has it."""
        source, slot = self.owner(tag), key_slot(tag.encode())
        target_id = self._ask(target, "CLUSTER MYID")
        self._ask(source, f"CLUSTER MIGRATESLOTS SLOTSRANGE {slot} {slot} NODE {target_id}")
        self.wait_until_owned_by(target, tag)

    def num_keys(self) -> Mapping[int, int]:
        """How many keys each node has that is a primary now."""
        return {
            port: int(self._ask(port, "DBSIZE"))
            for port in self.ports
            if self._is_alive(port) and self.node(port).info("replication")["role"] == "master"
        }

    def num_keys_in_slot(self, tag: str) -> int:
        slot = key_slot(tag.encode())
        return int(self._ask(self.owner(tag), f"CLUSTER COUNTKEYSINSLOT {slot}"))

    def _join(self) -> None:
        first, *others = self.ports
        for port, (start, end) in zip(self.primaries, _shares(len(self.primaries)), strict=True):
            self._ask(port, f"CLUSTER ADDSLOTSRANGE {start} {end}")
        for port in others:
            self._ask(port, f"CLUSTER MEET {HOST} {first} {first + BUS_OFFSET}")
        self._wait_for_all(lambda port: self._num_known(port) == len(self.ports))
        for number, port in enumerate(self._replicas):
            primary = self.primaries[number % len(self.primaries)]
            self._ask(port, f"CLUSTER REPLICATE {self._ask(primary, 'CLUSTER MYID')}")
        self._wait_for_all(self._is_well)
        self._wait_for_all(self._is_in_sync)

    def _wait_for_all(self, condition: Any) -> None:
        wait_until(
            lambda: all(condition(port) for port in self.ports),
            seconds=READY_SECONDS,
            what="the cluster to come together",
        )

    def _num_known(self, port: int) -> int:
        return len(self._ask(port, "CLUSTER NODES"))

    def _is_in_sync(self, port: int) -> bool:
        found = self.node(port).info("replication")
        return found["role"] == "master" or found.get("master_link_status") == "up"

    def _is_well(self, port: int) -> bool:
        return bool(self._ask(port, "CLUSTER INFO")["cluster_state"] == "ok")

    def _is_alive(self, port: int) -> bool:
        with suppress(redis.RedisError, OSError):
            return bool(self.node(port).ping())
        return False

    def _ask(self, port: int, command: str) -> Any:
        return self.node(port).execute_command(*_words(command))  # type: ignore[no-untyped-call]

    def _command(self, port: int) -> Any:
        folder = self._folder / f"node-{port}"
        folder.mkdir()
        command = valkey_command(
            find_valkey(), port=port, password=self._password, state_folder=folder
        )
        more = (
            "cluster-enabled yes",
            f"cluster-port {port + BUS_OFFSET}",
            f"cluster-node-timeout {NODE_TIMEOUT_MS}",
            f"cluster-announce-ip {HOST}",
            f"masterauth {self._password}",
            "repl-diskless-sync-delay 0",
            # A replica that has not heard of its primary for longer does not stand for election.
            "cluster-replica-validity-factor 0",
        )
        return replace(command, stdin=command.stdin + "\n".join(more) + "\n")


@dataclass(frozen=True, slots=True)
class Moving:
    """A slot between two nodes."""

    source: redis.Redis
    slot: int
    target: int
    password: str

    def keys(self, count: int) -> list[str]:
        """Some that are still where they were."""
        command = ("CLUSTER", "GETKEYSINSLOT", self.slot, count)
        found: list[str] = self.source.execute_command(*command)  # type: ignore[no-untyped-call]
        return found

    def move(self, which: int | Iterable[str]) -> int:
        """So many keys, or those. Returns how many are gone."""
        keys = self.keys(which) if isinstance(which, int) else list(which)
        if not keys:
            return 0
        words = ("MIGRATE", HOST, self.target, "", 0, 5000, "AUTH", self.password, "KEYS", *keys)
        self.source.execute_command(*words)  # type: ignore[no-untyped-call]
        return len(keys)


def _words(command: str) -> list[str]:
    """redis-py knows some commands by two words."""
    words = command.split()
    return [" ".join(words[:2]), *words[2:]] if words[0] == "CLUSTER" else words


def _shares(count: int) -> list[tuple[int, int]]:
    bounds = [NUM_SLOTS * number // count for number in range(count + 1)]
    return [(first, last - 1) for first, last in pairwise(bounds)]


def _choose_ports(count: int) -> list[int]:
    found: list[int] = []
    while len(found) < count:
        port = choose_port(None, propose_port())
        if port not in found and is_free(port + BUS_OFFSET):
            found.append(port)
    return found
