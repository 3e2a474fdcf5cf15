"""What a forked worker does with its life: the real application around a device that is not."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from celery import signals
from PIL.Image import Image

from tests.faults.disk import fill_disk
from tests.faults.journal import Writer
from tests.faults.newer import NEW_OPTION
from tests.faults.spec import (
    DIE_AFTER_PUT_ONCE,
    GORGE,
    HANG_ONCE,
    POISON,
    SPOIL_ONCE,
    WorkerSpec,
)
from tests.faults.stock import stock_app
from tests.support.simulated import SimulatedRunner, simulated_engine
from visionq.names import RESULT_FOLDER
from visionq.objects import ObjectStore
from visionq.settings import Settings, load_settings
from visionq_worker.app import GIVE_BACK_SECONDS, build_app, leave_broken
from visionq_worker.cli import _set_up_logging
from visionq_worker.engine.batching import BatchingEngine
from visionq_worker.engine.options import EngineOptions
from visionq_worker.engine.request import EngineInfo, Handle, LogitMask, Request
from visionq_worker.engine.scheduler import Chunk
from visionq_worker.errors import Postponed, StartError
from visionq_worker.executor import Executor
from visionq_worker.loading import tiny_folder
from visionq_worker.model.pixels import Picture
from visionq_worker.model.processor import ModelInputs, Phi3VProcessor
from visionq_worker.model.tiny import tiny_config

ANSWER = range(300, 364)
NUM_PAGES = 8192
MOUTHFUL_BYTES = 8_000_000
NUM_MOUTHFULS = 60
"""More than any row lets a worker have, and little enough if nobody ends it."""


@cache
def endless_processor() -> Phi3VProcessor:
    """The tiny model's, but no answer ends by itself: it is as long as the task asks for."""
    tiny = Phi3VProcessor.from_pretrained(tiny_folder())
    return Phi3VProcessor(
        tiny.tokenizer, image_token_id=tiny.image_token_id, stop_token_ids=[tiny.image_token_id]
    )


def get_ready() -> None:
    """In the nursery: all that its children shall find done."""
    # The store imports boto3 late.
    import boto3  # noqa: F401

    import visionq.signed
    import visionq.watch  # noqa: F401

    endless_processor()


def live(spec: WorkerSpec) -> None:
    """In the child: be that worker, until it is told to stop or dies."""
    if spec.skew_seconds:
        shift_clock(spec.skew_seconds)
    journal = Writer(Path(spec.folder, "journal"))
    if spec.is_disk_full:
        journal.write_through_a_pipe()
        fill_disk(os.getpid())
    settings = load_settings()
    _set_up_logging(settings)
    signals.worker_ready.connect(lambda **_: journal.write("up"), weak=False)
    if spec.sort == "stock":
        app = stock_app(settings, spec, journal)
    else:
        app = our_app(settings, spec, journal)
    worker = app.Worker(
        hostname=f"worker-{os.getpid()}@test",
        pool="threads",
        concurrency=settings.worker.concurrency,
        loglevel=settings.worker.log_level,
        quiet=True,
        redirect_stdouts=False,
        without_gossip=True,
        without_mingle=True,
    )
    worker.start()
    sys.exit(worker.exitcode or 0)


def our_app(settings: Settings, spec: WorkerSpec, journal: Writer) -> Any:
    running = threading.local()
    _write_down_tasks(journal, running)
    _die_after_put(Path(spec.folder))

    def load() -> Engine:
        if not spec.can_load:
            raise StartError("model: a fault of the test's")
        return Engine(settings, spec, journal, running)

    return build_app(settings, load)


def shift_clock(seconds: float) -> None:
    """`time.time` of this process, wherever a module holds it already, runs ahead."""
    real = time.time

    def shifted() -> float:
        return real() + seconds

    for module in list(sys.modules.values()):
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is real:
                with suppress(AttributeError, TypeError):
                    setattr(module, name, shifted)


class Engine:
    """The real engine around the simulated device, with words that do harm to it.

    It keeps the interface of `visionq_worker.engine.request.Engine`.
    """

    def __init__(
        self, settings: Settings, spec: WorkerSpec, journal: Writer, running: threading.local
    ) -> None:
        self._folder = Path(spec.folder)
        self._journal = journal
        self._running = running
        processor = endless_processor()
        self._runner = Runner(
            fits_at_most=spec.fits_at_most,
            step_seconds=spec.step_seconds,
            answer=ANSWER,
            num_vocabulary=tiny_config()["vocab_size"],
            num_pages=NUM_PAGES,
            image_token_id=processor.image_token_id,
        )
        seconds = settings.worker.retry_seconds + GIVE_BACK_SECONDS
        self._inner: BatchingEngine = simulated_engine(
            self._runner,
            processor,
            EngineOptions(max_running=spec.max_running, hang_seconds=spec.hang_seconds),
            on_broken=lambda: leave_broken(seconds),
        )
        self.info: EngineInfo = self._inner.info

    def encode(self, prompt: str, images: Sequence[Image | Picture], num_crops: int) -> ModelInputs:
        if POISON in prompt:
            os.kill(os.getpid(), signal.SIGKILL)
        if GORGE in prompt:
            gorge()
        if HANG_ONCE in prompt and self._is_first(HANG_ONCE):
            self._runner.gate.clear()
        if SPOIL_ONCE in prompt and self._is_first(SPOIL_ONCE):
            self._lose_device()
        return self._inner.encode(prompt, images, num_crops)

    def mask(self, schema: Mapping[str, Any]) -> LogitMask:
        return self._inner.mask(schema)

    def submit(self, request: Request) -> Handle:
        handle = self._inner.submit(request)
        self._journal.write("run", getattr(self._running, "task_id", ""))
        return handle

    def decode(self, token_ids: Iterable[int]) -> str:
        return self._inner.decode(token_ids)

    def stalled_seconds(self) -> float:
        return self._inner.stalled_seconds()

    def close(self) -> None:
        self._inner.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def _is_first(self, word: str) -> bool:
        return mark(self._folder / word)

    def _lose_device(self) -> None:
        """As CUDA does it: a step fails, and so does whatever comes after."""
        self._inner.info = replace(self._inner.info, device="cuda")
        torch.cuda.synchronize = _fail_on_device  # type: ignore[assignment]
        self._runner.is_lost = True


def gorge() -> None:
    """Take memory step by step, each one written to, and have it for a while."""
    eaten = []
    for _ in range(NUM_MOUTHFULS):
        eaten.append(b"\xff" * MOUTHFUL_BYTES)
        time.sleep(0.01)
    time.sleep(2.0)


class Runner(SimulatedRunner):
    """A device with memory for so many sequences in one step, that can be lost."""

    def __init__(self, *, fits_at_most: int | None, **more: Any) -> None:
        super().__init__(**more)
        self._fits_at_most = fits_at_most
        self.is_lost = False

    def run(self, chunks: Sequence[Chunk]) -> torch.Tensor:
        if self.is_lost:
            _fail_on_device()
        if self._fits_at_most is not None and len(chunks) > self._fits_at_most:
            raise torch.OutOfMemoryError("a fault of the test's")
        logits = super().run(chunks)
        self.steps.clear()  # a test that runs for long would keep them all
        return logits


def _fail_on_device(*_: object) -> None:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def mark(path: Path) -> bool:
    """Whether this is the first process to come by."""
    try:
        path.open("xb").close()
    except FileExistsError:
        return False
    return True


def _write_down_tasks(journal: Writer, running: threading.local) -> None:
    real: Callable[..., Any] = Executor.execute

    def execute(self: Executor, task: Any, *args: Any, **more: Any) -> Any:
        journal.write("take", task.id)
        if getattr(task.options, NEW_OPTION, None) is not None:
            journal.write("newer", task.id)
        running.task_id = task.id
        try:
            return real(self, task, *args, **more)
        except Postponed:
            journal.write("later", task.id)
            raise
        finally:
            journal.write("done", task.id)

    Executor.execute = execute  # type: ignore[method-assign]


def _die_after_put(folder: Path) -> None:
    real = ObjectStore.put

    def put(self: ObjectStore, key: str, content: bytes, *more: Any) -> None:
        real(self, key, content, *more)
        is_meant = key.startswith(RESULT_FOLDER) and DIE_AFTER_PUT_ONCE.encode() in content
        if is_meant and mark(folder / f"died-{Path(key).stem}"):
            os.kill(os.getpid(), signal.SIGKILL)

    ObjectStore.put = put  # type: ignore[assignment, method-assign]
