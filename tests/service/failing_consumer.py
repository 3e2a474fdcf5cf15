"""A worker in which Celery fails at some messages: `python -m tests.service.failing_consumer IDS`.

Between claim and pool, at the ids given (comma-separated), as a bug of Celery's or ours would. All
else is real but the model. Settings come from the environment.
"""

from __future__ import annotations

import sys
from typing import Any

from celery import bootsteps

from tests.support.scripted import ScriptedEngine
from visionq.settings import load_settings
from visionq_worker.app import build_app


class FailingStep(bootsteps.StartStopStep):  # type: ignore[misc]
    requires = ("celery.worker.consumer:Tasks",)

    def create(self, consumer: Any) -> None:
        consumer.on_task_message.add(fail)


def fail(request: Any) -> None:
    if request.id in sys.argv[1].split(","):
        raise TypeError("a failure of the test's")


if __name__ == "__main__":
    app = build_app(load_settings(), ScriptedEngine)
    app.steps["consumer"].add(FailingStep)
    worker = app.Worker(pool="threads", concurrency=2, loglevel="INFO", quiet=True)
    worker.start()
    sys.exit(worker.exitcode)
