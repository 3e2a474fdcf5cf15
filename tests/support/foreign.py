"""Somebody else's Celery application, with nothing of ours in it but documented settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from celery import Celery
from kombu import pools

from visionq.local import LocalUrls
from visionq.names import DEFAULT_NAMESPACE


def foreign_app(
    urls: LocalUrls, namespace: str = DEFAULT_NAMESPACE, *, hash_tag: bool = False
) -> Celery:
    """As `docs/senders.md` has it; the default namespace needs no settings."""
    app = Celery("other", broker=urls.broker_url, backend=urls.broker_url, set_as_current=False)
    prefix = f"{{{namespace}}}" if hash_tag else namespace
    if prefix != DEFAULT_NAMESPACE:
        app.conf.update(
            result_backend_transport_options={"global_keyprefix": f"{prefix}:"},
            control_exchange=f"{prefix}:celery",
            event_exchange=f"{prefix}:celeryev",
        )
    if hash_tag:
        # kombu notes when such queues expire under a key of another slot.
        app.conf.update(control_queue_expires=None, event_queue_expires=None)
    return app


@contextmanager
def opened_foreign_app(
    urls: LocalUrls, namespace: str = DEFAULT_NAMESPACE, *, hash_tag: bool = False
) -> Iterator[Celery]:
    """The same; all that Celery leaves open is closed at the end."""
    app = foreign_app(urls, namespace, hash_tag=hash_tag)
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
