"""Somebody else's Celery application, with nothing of ours in it but documented settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from celery import Celery
from kombu import pools

from visionq.local import LocalUrls
from visionq.names import DEFAULT_NAMESPACE


def foreign_app(urls: LocalUrls, namespace: str = DEFAULT_NAMESPACE) -> Celery:
    """As `docs/senders.md` has it; the default namespace needs no settings."""
    app = Celery("other", broker=urls.broker_url, backend=urls.broker_url, set_as_current=False)
    if namespace != DEFAULT_NAMESPACE:
        app.conf.update(
            result_backend_transport_options={"global_keyprefix": f"{namespace}:"},
            control_exchange=f"{namespace}:celery",
            event_exchange=f"{namespace}:celeryev",
        )
    return app


@contextmanager
def opened_foreign_app(urls: LocalUrls, namespace: str = DEFAULT_NAMESPACE) -> Iterator[Celery]:
    """The same; all that Celery leaves open is closed at the end."""
    app = foreign_app(urls, namespace)
    # A result that is forgotten would unsubscribe, and connect once more for it.
    app.backend.remove_pending_result = lambda result: result
    try:
        yield app
    finally:
        # Its subscription, its clients, its producers' connections.
        app.backend.result_consumer.stop()
        app.backend.client.connection_pool.disconnect()
        app.close()
        pools.reset()
