"""Our worker's application around a model that answers at once and a store in memory."""

from __future__ import annotations

from celery import Celery

from tests.bench.memory_store import MemoryStore
from tests.bench.sample import picture, picture_key
from tests.support.scripted import ScriptedEngine
from visionq.objects import ObjectStore
from visionq.settings import Settings
from visionq_worker import service
from visionq_worker.app import build_app
from visionq_worker.cli import _set_up_logging


def our_app(settings: Settings) -> Celery:
    """Set up as `visionq-worker run` does it. The store holds the sample's picture."""
    store = MemoryStore()
    store.put(picture_key(), picture())

    def open_store(settings: Settings) -> ObjectStore:
        return store

    service.open_store = open_store
    _set_up_logging(settings)
    return build_app(settings, ScriptedEngine)
