"""The world of one row: servers, a namespace, proxies, workers, a producer; and its end, judged."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Literal, TypeVar, cast
from urllib.parse import urlsplit, urlunsplit

import redis

from tests.faults import oracle
from tests.faults.crew import Crew
from tests.faults.events import Events
from tests.faults.gate import Gate, digest_of
from tests.faults.journal import Reader
from tests.faults.nursery import Nursery
from tests.faults.oracle import Report
from tests.faults.producing import Producer
from tests.faults.proxy import Proxy
from tests.faults.spec import Sort, WorkerSpec
from tests.support.waiting import wait_until
from tests.support.workers import environment
from tests.worker.picture_bytes import DOT
from visionq import BrokerAddress, Client, StoreAddress
from visionq.errors import BrokerUnavailable
from visionq.local import LocalServers, LocalUrls
from visionq.names import Names, input_key, result_key
from visionq.objects import ObjectStore
from visionq.records import LOOK_SECONDS

T = TypeVar("T")

Size = Literal["quick", "full"]
LEFTOVER_SECONDS = 15.0
"""How long after the last result its message may still be on its way out."""
NUM_LOG_LINES = 400
REPLICAS_VARIABLE = "VISIONQ_BROKER__REPLICAS_TO_CONFIRM"
"""Of a scene's settings, the one that its client has to have, too."""


def lease_env(seconds: float, *, max_attempts: int = 5) -> dict[str, str]:
    """The settings that say when the task of a dead worker goes to another one."""
    return {
        "VISIONQ_BROKER__LEASE_SECONDS": str(seconds),
        "VISIONQ_BROKER__MAX_ATTEMPTS": str(max_attempts),
    }


def grace_env(seconds: float) -> dict[str, str]:
    """The setting that says how long a worker that was told to stop may finish its tasks."""
    return {"VISIONQ_WORKER__GRACE_SECONDS": str(seconds)}


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What all rows of a run share."""

    servers: LocalServers
    nursery: Nursery
    folder: Path
    seed: int
    size: Size = "quick"
    sort: Sort = "ours"

    def as_stock(self) -> World:
        """The same with the workers of the negative control."""
        return replace(self, sort="stock")

    def pick(self, quick: T, full: T) -> T:
        return quick if self.size == "quick" else full

    @contextmanager
    def scene(
        self,
        name: str,
        *,
        lease_seconds: float = 2.0,
        concurrency: int = 8,
        tokens: tuple[int, int] = (10, 40),
        record_ttl_seconds: int = 3600,
        settings: Mapping[str, str] | None = None,
        broker_url: str | None = None,
        broker: BrokerAddress | None = None,
        hash_tag: bool = False,
    ) -> Iterator[Scene]:
        """An empty Redis, and whatever a row needs. `settings` are VISIONQ_ variables.

        `broker_url`: of a Redis of the row's own, in place of the world's. `broker`: what the
        producer is given, where it is no URL of one server. `hash_tag`: it is a cluster.
        """
        folder = self.folder / f"{name}-{self.sort}"
        folder.mkdir()
        with ExitStack() as stack:
            urls = self.servers.urls
            scene = Scene(
                self,
                folder,
                stack,
                urls=replace(urls, broker_url=broker_url) if broker_url else urls,
                lease_seconds=lease_seconds,
                tokens=tokens,
                record_ttl_seconds=record_ttl_seconds,
                hash_tag=hash_tag,
                settings={
                    "VISIONQ_WORKER__CONCURRENCY": str(concurrency),
                    "VISIONQ_BROKER__RECORD_TTL_SECONDS": str(record_ttl_seconds),
                    "VISIONQ_BROKER__HASH_TAG": str(hash_tag).lower(),
                    **(settings or {}),
                },
                broker=broker,
            )
            try:
                yield scene
            except AssertionError as error:
                raise CutShort(str(error), scene.cut_short(str(error))) from error


class CutShort(Exception):
    """A scene could not be played to its end, for which the row is red."""

    def __init__(self, reason: str, report: Report) -> None:
        super().__init__(reason)
        self.report = report


class Scene:
    """Everything of one row; closed in reverse order by `stack`."""

    def __init__(
        self,
        world: World,
        folder: Path,
        stack: ExitStack,
        *,
        urls: LocalUrls,
        lease_seconds: float,
        tokens: tuple[int, int],
        record_ttl_seconds: int,
        hash_tag: bool,
        settings: dict[str, str],
        broker: BrokerAddress | None,
    ) -> None:
        self.world = world
        self.servers = world.servers
        self.random = random.Random(world.seed)
        self.lease_seconds = lease_seconds
        self.names = Names(folder.name, hash_tag=hash_tag)
        self._folder = folder
        self._urls = urls
        self._settings = lease_env(lease_seconds) | settings
        self.raw = _raw_client(urls.broker_url, hash_tag=hash_tag)
        stack.callback(self.raw.close)
        self.raw.flushdb()
        self.events = Events()
        self.journal = Reader(folder / "journal")
        stack.callback(self.journal.close)
        self.gate = stack.enter_context(Gate(_port(urls.s3_endpoint), seed=world.seed))
        self.redis_of_workers = stack.enter_context(Proxy(_port(urls.broker_url)))
        self.redis_of_producer = stack.enter_context(Proxy(_port(urls.broker_url)))
        (self.image,) = self.upload(DOT)
        self.client = self._client(stack, urls, record_ttl_seconds, broker)
        self.producer = Producer(
            self.client, name=folder.name, image=self.image, seed=world.seed, tokens=tokens
        )
        self._settled: set[str] = set()
        # Last, so that workers end before what they talk to.
        self.crew = stack.enter_context(Crew(world.nursery, self.journal, self.events))

    def spec(self, *, through_proxy: bool = False) -> WorkerSpec:
        """A worker of this scene. `through_proxy`: to Redis, that is; to S3 it always is."""
        urls = self._urls
        seen = replace(urls, s3_endpoint=f"http://127.0.0.1:{self.gate.port}")
        if through_proxy:
            seen = replace(seen, broker_url=_with_port(urls.broker_url, self.redis_of_workers.port))
        return WorkerSpec(
            env=environment(seen, self.names.namespace, **self._settings),
            folder=str(self._folder),
            sort=self.world.sort,
            lease_seconds=self.lease_seconds,
        )

    def upload(self, *contents: bytes) -> list[str]:
        """Put inputs into the bucket, whatever they are worth; returns their keys."""
        keys = [input_key(content) for content in contents]
        store = ObjectStore(_address(self._urls))
        for key, content in zip(keys, contents, strict=True):
            store.put(key, content)
        store.close()
        return keys

    def lose_records(self, task_ids: Sequence[str]) -> None:
        """Delete the records of tasks. One that was settled stays so for the scene."""
        statuses = self.client.status_many(task_ids)
        settled = {one.id for one in statuses if one.is_done and self.gate.has(one.id)}
        if task_ids:
            self.raw.delete(*[self.names.record(task_id) for task_id in task_ids])
        self._settled.update(settled)

    def wait_until_idle(self, *, seconds: float = 30.0) -> None:
        """Everything accepted so far is settled."""
        wait_until(lambda: not self._unsettled(), seconds=seconds, what="the tasks to be done")

    def wait_until_running(self, task_id: str, *, seconds: float = 15.0) -> int:
        """The task is with the engine; of which process."""
        runs = wait_until(
            lambda: self.journal.of("run", task_id=task_id), seconds=seconds, what="a task to run"
        )
        return runs[-1].pid

    def drain(self, *, patience_seconds: float | None = None) -> None:
        """Wait until all is settled, or nothing more has been for so long."""
        patience = patience_seconds or self.lease_seconds * 3 + 4
        if self.world.sort == "ours":  # which looks for lost messages
            patience += LOOK_SECONDS
        began, last, seen_at = monotonic(), -1, monotonic()
        while unsettled := self._unsettled():
            if len(unsettled) != last:
                last, seen_at = len(unsettled), monotonic()
            if monotonic() - seen_at > patience:
                self.events.note(f"given up with {last} tasks unsettled")
                return
            sleep(0.05)
        self.events.note(f"drained in {monotonic() - began:.1f} s")

    def report(self, faults: str, *, patience_seconds: float | None = None) -> Report:
        """Drain, and compare what was accepted with what became of it."""
        self.drain(patience_seconds=patience_seconds)
        report = self.report_of_results(faults)
        if self.world.sort == "ours":
            statuses = self.client.status_many(sorted(set(self.producer.accepted)))
            vague = [each.id for each in statuses if not each.is_done]
            report.require(not vague, f"{len(vague)} records are not final")
        return report

    def report_of_results(self, faults: str) -> Report:
        """As `report`, of tasks that are done, and whose records may have expired."""
        leftovers = self._leftovers()
        report = self._look(faults, leftovers)
        report.require(not report.lost, f"{len(report.lost)} of {report.accepted} lost")
        report.require(not report.changed, f"{len(report.changed)} results were replaced")
        report.require(not leftovers, f"left over: {leftovers}")
        self._check_bytes(report)
        report.events = self._tell()
        return report

    def cut_short(self, reason: str) -> Report:
        """What is known when something has not happened that the row waited for."""
        report = self._look("not played to its end", {})
        report.complaints.append(reason)
        report.events = self._tell()
        return report

    def _look(self, faults: str, leftovers: dict[str, int]) -> Report:
        accepted, puts = sorted(set(self.producer.accepted)), self.gate.puts()
        lines, exits = self.journal.lines(), list(self.crew.exits)
        redeliveries, suspects = oracle.find_redeliveries(lines, exits)
        return Report(
            accepted=len(accepted),
            lost=oracle.find_lost(accepted, puts),
            changed=oracle.find_changed(puts),
            duplicates=oracle.count_duplicates(lines, self.crew.excused),
            redeliveries=redeliveries,
            suspects=suspects,
            own_exits=self.crew.own_exits(),
            leftovers=leftovers,
            faults=faults,
        )

    def _check_bytes(self, report: Report) -> None:
        """What lies in the bucket is what was put there first."""
        store = ObjectStore(_address(self._urls))
        try:
            for task_id, puts in self.gate.puts().items():
                if task_id not in report.changed:
                    held = store.get(result_key(task_id))
                    is_same = digest_of(held) == puts[0].digest
                    report.require(is_same, f"{task_id} has another result")
        finally:
            store.close()

    def _unsettled(self) -> list[str]:
        """Of what was accepted. What was once found settled stays so and is not looked at again."""
        accepted = sorted(set(self.producer.accepted) - self._settled)
        waiting = [task_id for task_id in accepted if not self.gate.has(task_id)]
        if self.world.sort == "stock":
            return waiting
        if len(waiting) > 200:  # no need to ask Redis about each
            return waiting
        try:
            statuses = self.client.status_many(accepted)
        except BrokerUnavailable:
            return accepted
        self._settled.update(
            each.id for each in statuses if each.is_done and self.gate.has(each.id)
        )
        return [task_id for task_id in accepted if task_id not in self._settled]

    def _leftovers(self) -> dict[str, int]:
        deadline = monotonic() + LEFTOVER_SECONDS
        while True:
            found = oracle.find_leftovers(self.raw, self.names, self.world.sort)
            if not found or monotonic() > deadline:
                return found
            sleep(0.05)

    def _tell(self) -> str:
        parts = [
            f"seed {self.world.seed}",
            self.events.text(self.journal.lines(), self.gate.puts()),
        ]
        for log in sorted(self._folder.glob("*.log")):
            tail = log.read_text(errors="replace").splitlines()[-NUM_LOG_LINES:]
            parts.append("\n".join([f"--- {log.name}", *tail]))
        return "\n".join(parts)

    def _client(
        self,
        stack: ExitStack,
        urls: LocalUrls,
        record_ttl_seconds: int,
        broker: BrokerAddress | None,
    ) -> Client:
        """Through the producer's own proxy, unless it has an address of its own."""
        return stack.enter_context(
            Client(
                broker
                or BrokerAddress(
                    _with_port(urls.broker_url, self.redis_of_producer.port),
                    hash_tag=self.names.hash_tag,
                ),
                _address(urls),
                namespace=self.names.namespace,
                record_ttl_seconds=record_ttl_seconds,
                replicas_to_confirm=int(self._settings.get(REPLICAS_VARIABLE, 0)),
            )
        )


def _raw_client(url: str, *, hash_tag: bool) -> redis.Redis:
    """redis-py's own, of a cluster redis-py's for clusters, which has the same commands."""
    if hash_tag:
        cluster: Any = redis.RedisCluster.from_url(url, decode_responses=True)
        return cast("redis.Redis", cluster)
    return redis.Redis.from_url(url, decode_responses=True)


def _address(urls: LocalUrls) -> StoreAddress:
    return StoreAddress(
        bucket=urls.s3_bucket,
        endpoint_url=urls.s3_endpoint,
        region=urls.s3_region,
        access_key=urls.s3_access_key,
        secret_key=urls.s3_secret_key,
    )


def _port(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port


def _with_port(url: str, port: int) -> str:
    parts = urlsplit(url)
    user = parts.netloc.rpartition("@")[0]
    return urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{port}"))
