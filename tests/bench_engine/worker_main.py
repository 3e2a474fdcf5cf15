"""A worker of ours around an engine of the bench: `python -m tests.bench_engine.worker_main SPEC`.

SPEC is an `EngineSpec` as JSON; the settings come from the environment. Everything but the engine
is as `visionq-worker run` sets it up: executor, records, store, thread pool.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from celery import signals

from tests.bench.worker_main import READY
from tests.bench_engine.engines import EngineSpec, build
from visionq.settings import load_settings
from visionq_worker.app import build_app
from visionq_worker.cli import _set_up_logging


def main() -> None:
    spec = EngineSpec(**json.loads(sys.argv[1]))
    settings = load_settings()
    _set_up_logging(settings)
    signals.worker_ready.connect(_say_ready)
    build_app(settings, lambda: build(spec)).Worker(
        pool="threads",
        concurrency=settings.worker.concurrency,
        loglevel=settings.worker.log_level,
        quiet=True,
        redirect_stdouts=False,
        without_gossip=True,
        without_mingle=True,
    ).start()


def _say_ready(**_: Any) -> None:
    print(READY, flush=True)


if __name__ == "__main__":
    main()
