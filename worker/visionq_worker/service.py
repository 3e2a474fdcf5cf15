"""Everything a worker process holds, built in one place and closed in reverse order."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import socket
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from redis import RedisError

from visionq.broker import Publisher
from visionq.contract import CONTRACT_VERSION, Lane
from visionq.fleet import Fleets, WorkerReport
from visionq.objects import ObjectStore
from visionq.records import QueueLimits, Records
from visionq.replication import Replicas
from visionq.settings import Settings
from visionq_worker.broker_checks import check_broker, connected
from visionq_worker.bucket_checks import check_bucket
from visionq_worker.control import ControlChannel, revoking
from visionq_worker.cpu import num_cores
from visionq_worker.executor import Executor
from visionq_worker.fetching import Fetcher, UrlRules
from visionq_worker.findings import require
from visionq_worker.gate import StoreGate
from visionq_worker.health import Health, Pulse, stuck_seconds
from visionq_worker.images import ImageLimits, set_up_pillow
from visionq_worker.jpegs import FAST_DECODER, has_fast_decoder
from visionq_worker.keeper import Keeper
from visionq_worker.leases import Leases
from visionq_worker.malloc import set_up_malloc
from visionq_worker.monitor import Monitor
from visionq_worker.outage_log import OutageLog
from visionq_worker.preparation import Preparation
from visionq_worker.reconciler import Reconciler
from visionq_worker.sources import Sources
from visionq_worker.throughput import Throughput
from visionq_worker.waker import BLOCK_SECONDS, Waker
from visionq_worker.write_check import check_write

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from redis import Redis

    from visionq_worker.control import Answer
    from visionq_worker.engine.request import Engine, EngineInfo

log = logging.getLogger(__name__)

MARGIN_SECONDS = 10.0
"""Beyond `engine.hang_seconds`, in which a worker that hangs should have left."""
REPORTED_PACKAGES = (
    "visionq-worker",
    "transformers",
    "torch",
    "llguidance",
    "pillow",
    "celery",
    "kombu",
)


class Service:
    """A worker's engine, connections and executor. `open` before use, `close` at the end.

    `load` makes the engine; tests hand in another one than `load_engine`.
    """

    def __init__(
        self,
        settings: Settings,
        load: Callable[[], Engine],
        on_stuck: Callable[[Health, str], None] | None = None,
    ) -> None:
        """Connects nothing yet. Raises `StartError` for a broker URL that is none.

        `on_stuck` is called, from a thread, with the reason why this process is to end.
        """
        self.settings = settings
        self._load = load
        self._on_stuck = on_stuck
        self._owner = f"{socket.gethostname()[:40]}:{os.getpid()}"
        self._redis = connected(settings, settings.broker.timeout_seconds)
        self.leases = _leases(self._redis, settings, self._owner)
        self.waker = _waker(settings)
        self.store_gate = StoreGate()
        self.pulse = Pulse()
        self.claim_outage = OutageLog(
            log,
            "claiming messages",
            "it is tried again every second, and the messages stay in their queues; act if Redis"
            " is full, or its access rules forbid it",
        )
        self.connect_outage = OutageLog(
            log,
            "connecting to Redis for messages",
            "it is tried again every two seconds, and the messages stay in their queues; act if"
            " Redis does not come back by itself",
            quiet_seconds=0.0,
        )
        self.celery_outage = OutageLog(
            log,
            "storing Celery's results",
            "it is tried again for half a minute for each task, whose own record and result object"
            " are right; act if Redis is full",
        )
        self.throughput = Throughput()
        self._is_stopping = False
        self._closing = ExitStack()
        self._executor: Executor | None = None
        self._records: Records | None = None

    @property
    def executor(self) -> Executor:
        assert self._executor is not None, "the service is opened before the consumer starts"
        return self._executor

    def open(self) -> None:
        """Connect, check broker and bucket, load and warm the model. Raises `StartError`."""
        with ExitStack() as undo:
            self._executor = self._build(undo)
            self._closing = undo.pop_all()

    def may_claim(self) -> bool:
        """Whether more tasks may be taken out of the queue now."""
        is_ready = self._executor is not None and self.store_gate.is_open
        return is_ready and not self._is_stopping and not self.leases.holds_suspect

    def _monitor(self, is_engine_well: Callable[[], bool]) -> Monitor:
        full = self.settings.worker.concurrency
        patience = stuck_seconds(self.settings.broker.timeout_seconds)

        def look() -> Health:
            num_in_hand = len(self.leases.held)
            return self.pulse.health(
                num_in_hand=num_in_hand,
                may_claim=self.may_claim(),
                is_full=num_in_hand >= full,
                is_engine_well=is_engine_well(),
                stuck_seconds=patience,
            )

        return Monitor(
            self.pulse,
            look,
            self._write_freshly,
            file=self.settings.worker.health_file,
            on_stuck=self._on_stuck,
        )

    def _write(self) -> None:
        """Over the connection of the leases."""
        check_write(self._redis, self.settings.broker.names(), self._owner)

    def _write_freshly(self) -> None:
        """Over a connection that nobody had before, to where the address leads now."""
        with closing(connected(self.settings, self.settings.broker.timeout_seconds)) as client:
            check_write(client, self.settings.broker.names(), self._owner)

    def _teller(self, undo: ExitStack, info: EngineInfo) -> Callable[[], None]:
        """Tells clients what this worker can do, and how fast it was lately."""
        broker, concurrency = self.settings.broker, self.settings.worker.concurrency
        urls_allowed = self.settings.urls.allowed
        client = connected(self.settings, broker.timeout_seconds)
        undo.callback(client.close)
        fleets = Fleets(client, broker.names())

        def tell() -> None:
            per_second, seconds = self.throughput.measured() or (None, None)
            report = WorkerReport(
                model=info.model,
                model_revision=info.revision,
                max_context_tokens=info.max_context_tokens,
                max_num_crops=info.max_num_crops,
                concurrency=concurrency,
                tasks_per_second=per_second,
                seconds_per_task=seconds,
                urls_allowed=urls_allowed,
                contract_version=CONTRACT_VERSION,
            )
            fleets.tell(self._owner, report)

        return tell

    def listen(self, node: str, answers: Mapping[str, Answer]) -> None:
        """Take Celery's control commands, once the service is open. `node`: the worker's name."""
        assert self._records is not None, "the service is open"
        timeout = self.settings.broker.timeout_seconds
        client = connected(self.settings, timeout, gives_text=False)
        names = self.settings.broker.names()
        commands = {**answers, "revoke": revoking(self._records.cancel)}
        channel = ControlChannel(client, names, node=node, answers=commands)
        channel.start()
        self._closing.callback(channel.stop)

    def stop(self) -> int:
        """Claim no more. Returns how many messages are in hand."""
        self._is_stopping = True
        return len(self.leases.held)

    def leave(self, code: int = 0) -> None:
        """Give back what is in hand and end the process, by a way that waits for nobody."""
        try:
            log.warning(
                "%d tasks are given back unfinished, and others take them; nothing to do, unless"
                " worker.grace_seconds is too short for yours",
                self.leases.give_back_all(),
            )
        except (RedisError, OSError) as error:
            log.warning(
                "%d tasks could not be given back: %s; others take them when their leases of %g s"
                " are over, so there is nothing to do",
                len(self.leases.held),
                error,
                self.leases.lease_seconds,
            )
        os._exit(code)

    def close(self) -> None:
        self._closing.close()
        self._executor = None

    def _build(self, undo: ExitStack) -> Executor:
        settings = self.settings
        log.debug("the C library is told what to keep: %s", set_up_malloc())
        set_up_pillow(settings.limits.image_formats)
        require(check_broker(settings))
        records = self._records = _records(settings)
        undo.callback(records.close)
        store = build_store(settings)
        undo.callback(store.close)
        bucket = check_bucket(store)
        require(bucket.findings)
        engine = self._load()
        undo.callback(engine.close)
        executor = Executor(
            engine=engine,
            records=records,
            store=store,
            sources=Sources(
                store,
                records,
                image_prefixes=settings.storage.image_prefixes,
                allowed_buckets=settings.storage.allowed_buckets,
                max_bytes=settings.limits.max_image_bytes,
                fetcher=_fetcher(settings),
            ),
            kinds=settings.kinds,
            preparation=build_preparation(settings, engine),
            owner=self._owner,
            versions=installed_versions(),
            progress_seconds=settings.worker.progress_seconds,
            retry_seconds=settings.worker.retry_seconds,
            store_gate=self.store_gate,
            keeps_results=bucket.keeps_results,
            reuses=settings.worker.reuse,
        )
        self._start_housekeeping(undo, engine, executor, records, store)
        return executor

    def _start_housekeeping(
        self,
        undo: ExitStack,
        engine: Engine,
        executor: Executor,
        records: Records,
        store: ObjectStore,
    ) -> None:
        broker = self.settings.broker
        publisher = Publisher(
            broker.address(),
            broker.names(),
            timeout_seconds=broker.timeout_seconds,
        )
        undo.callback(publisher.close)
        # The watchdog has ended the process by then, unless that hangs, too.
        longest = self.settings.engine.hang_seconds + MARGIN_SECONDS

        def is_engine_well() -> bool:
            return engine.stalled_seconds() < longest

        keeper = Keeper(
            self.leases,
            self.pulse,
            is_engine_well,
            self._write,
            self._teller(undo, engine.info),
        )
        reconciler = Reconciler(
            records=records,
            publisher=publisher,
            executor=executor,
            store=store,
            store_gate=self.store_gate,
            retry_seconds=self.settings.worker.retry_seconds,
        )
        # The event loop has not begun yet, and has as long for it as between two of its turns.
        self.pulse.loop_turned()
        self.pulse.claim_accepted()
        for part in (keeper, reconciler, self._monitor(is_engine_well)):
            part.start()
            undo.callback(part.stop)
        self.waker.start()
        undo.callback(self.waker.stop)


def _leases(client: Redis, settings: Settings, owner: str) -> Leases:
    broker = settings.broker
    return Leases(
        client,
        broker.names(),
        owner=owner,
        lease_seconds=broker.lease_seconds,
        max_attempts=broker.max_attempts,
        record_ttl_seconds=broker.record_ttl_seconds,
    )


def _waker(settings: Settings) -> Waker:
    names = settings.broker.names()
    client = connected(settings, BLOCK_SECONDS + settings.broker.timeout_seconds)
    return Waker(client, [names.queue(lane) for lane in Lane])


def build_preparation(settings: Settings, engine: Engine) -> Preparation:
    """What makes the engine's inputs of images, as the settings limit it."""
    given = settings.limits
    return Preparation(
        engine,
        ImageLimits.of(given),
        decoding=given.decoding,
        has_fast_decoder=has_fast_decoder(),
        max_bytes=given.max_decode_bytes,
        max_at_once=settings.worker.preparing or num_cores(),
    )


def _records(settings: Settings) -> Records:
    return Records(
        connected(settings, settings.broker.timeout_seconds),
        settings.broker.names(),
        ttl_seconds=settings.broker.record_ttl_seconds,
        # What a worker has to write down is accepted already.
        limits=QueueLimits(max_waiting=2**53),
        replicas=Replicas(
            num=settings.broker.replicas_to_confirm,
            timeout_seconds=settings.broker.timeout_seconds,
        ),
    )


def build_store(settings: Settings) -> ObjectStore:
    """Asks nothing of the store yet."""
    return ObjectStore(
        settings.storage.address(),
        timeout_seconds=settings.storage.timeout_seconds,
        max_connections=max(10, settings.worker.concurrency * 2),
    )


def _fetcher(settings: Settings) -> Fetcher | None:
    given = settings.urls
    if not given.allowed:
        return None
    return Fetcher(
        UrlRules(
            hosts=given.hosts,
            ports=given.ports,
            max_bytes=settings.limits.max_image_bytes,
            max_redirects=given.max_redirects,
            total_seconds=given.timeout_seconds,
        )
    )


def installed_versions() -> dict[str, str]:
    """Of the packages that shape an answer, for its provenance."""
    versions = {name: importlib.metadata.version(name) for name in REPORTED_PACKAGES}
    if has_fast_decoder():
        versions[FAST_DECODER] = importlib.metadata.version(FAST_DECODER)
    return versions
