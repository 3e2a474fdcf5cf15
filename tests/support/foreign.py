"""Somebody else's Celery application."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from celery import Celery
from kombu import pools


@contextmanager
def foreign_app(url: str) -> Iterator[Celery]:
    """One with broker and results at this URL; all that Celery leaves open is closed."""
    app = Celery("other", broker=url, backend=url, set_as_current=False)
    # A result that is forgotten would unsubscribe, and connect once more for it.
    app.backend.remove_pending_result = lambda result: result
    yield app
    app.backend.result_consumer.stop()
    app.backend.client.connection_pool.disconnect()
    app.close()
    pools.reset()
