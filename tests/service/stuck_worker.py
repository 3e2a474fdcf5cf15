"""A worker whose connections lead to another Redis than new ones: `python -m ...stuck_worker`.

That is what is left when a worker's own way of finding the right server has failed, however it has.
All of it is real but the device, and it takes seconds where a worker takes half a minute. Settings
come from the environment, and `CHANNEL_URL`, where Celery's event loop takes messages from, and
`FRESH_URL`, where a new connection leads.
"""

from __future__ import annotations

import os
import sys
from contextlib import closing

from tests.support.scripted import ScriptedEngine
from visionq import BrokerAddress
from visionq.connections import connect
from visionq.names import Names
from visionq.settings import load_settings
from visionq_worker import health, keeper, monitor
from visionq_worker.app import build_app
from visionq_worker.write_check import check_write

MAX_AGE_SECONDS = 4.0
"""The event loop turns once a second."""


def main() -> None:
    health.MAX_AGE_SECONDS = health.MAX_WRITE_AGE_SECONDS = MAX_AGE_SECONDS
    keeper.WRITE_SECONDS = monitor.FRESH_SECONDS = 0.5
    health.STUCK_SECONDS = 3.0
    settings = load_settings()
    app = build_app(settings, ScriptedEngine)
    app.conf.broker_transport_options["broker"] = BrokerAddress(os.environ["CHANNEL_URL"])

    def write_freshly() -> None:
        with closing(connect(os.environ["FRESH_URL"], timeout_seconds=1)) as client:
            check_write(client, Names(settings.broker.namespace), "fresh")

    app.visionq_service._write_freshly = write_freshly
    worker = app.Worker(
        pool="threads", concurrency=4, loglevel="INFO", quiet=True, redirect_stdouts=False
    )
    worker.start()
    sys.exit(worker.exitcode or 0)


if __name__ == "__main__":
    main()
