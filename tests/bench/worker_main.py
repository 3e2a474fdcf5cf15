"""A worker process for the bench: `python -m tests.bench.worker_main ours|bare|bare-like-ours`.

Settings (broker, namespace, concurrency) come from the environment, for the bare worker too; its
queue is named after the namespace.
"""

from __future__ import annotations

import sys
from typing import Any

from celery import Celery, signals

from tests.bench.bare import bare_app
from visionq.settings import Settings, load_settings

READY = "worker-ready"
"""What is written once the worker consumes."""


def main() -> None:
    sort = sys.argv[1]
    settings = load_settings()
    signals.worker_ready.connect(_say_ready)
    _app(settings, sort).Worker(
        pool="threads",
        concurrency=settings.worker.concurrency,
        loglevel="WARNING" if sort == "bare" else settings.worker.log_level,
        quiet=True,
        redirect_stdouts=False,
        without_gossip=True,
        without_mingle=True,
    ).start()


def _app(settings: Settings, sort: str) -> Celery:
    if sort == "ours":
        # With torch and all of ours, which a bare worker does not carry.
        from tests.bench.our_app import our_app

        return our_app(settings)
    url = settings.broker.url.get_secret_value()
    return bare_app(url, settings.broker.namespace, is_like_ours=sort == "bare-like-ours")


def _say_ready(**_: Any) -> None:
    print(READY, flush=True)


if __name__ == "__main__":
    main()
