"""A worker whose device hangs at its first step: `python -m tests.service.hanging_worker`.

All of it is real but the device. Settings come from the environment.
"""

from __future__ import annotations

import sys

from tests.support.simulated import SimulatedRunner, simulated_engine
from tests.support.tiny import tiny_model
from visionq.settings import load_settings
from visionq_worker.app import build_app, leave_broken
from visionq_worker.engine.options import EngineOptions
from visionq_worker.engine.request import Engine


def load() -> Engine:
    loaded = tiny_model()
    runner = SimulatedRunner(
        num_vocabulary=loaded.config.vocab_size, image_token_id=loaded.config.image_token_id
    )
    runner.gate.clear()
    return simulated_engine(
        runner,
        loaded.processor,
        EngineOptions(hang_seconds=0.5),
        on_broken=lambda: leave_broken(seconds=2.0),
    )


if __name__ == "__main__":
    app = build_app(load_settings(), load)
    worker = app.Worker(pool="threads", concurrency=4, loglevel="INFO", quiet=True)
    worker.start()
    sys.exit(worker.exitcode)
