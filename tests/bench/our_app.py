"""Our worker's application around a model that answers at once and a store in memory."""

from __future__ import annotations

from collections.abc import Sequence

from celery import Celery
from PIL import Image

from tests.bench.memory_store import MemoryStore
from tests.bench.sample import ENDLESS_QUESTION, picture, picture_key
from tests.support.scripted import ScriptedEngine
from visionq.objects import ObjectStore
from visionq.settings import Settings
from visionq_worker import service
from visionq_worker.app import build_app
from visionq_worker.cli import _set_up_logging
from visionq_worker.engine.request import Engine, Handle, Request
from visionq_worker.images import ImageLimits, open_image
from visionq_worker.model.pixels import Picture
from visionq_worker.model.processor import ModelInputs
from visionq_worker.preparation import Preparation
from visionq_worker.results import Run


class InstantEngine(ScriptedEngine):
    """The scripted engine, its inputs made beforehand: a tensor for each task is a model's cost."""

    def __init__(self) -> None:
        super().__init__()
        picture = Image.new("RGB", (8, 8))
        self._inputs = super().encode("one prompt for all", [picture], 16)
        self._endless = super().encode("and one for the endless", [picture], 16)

    def encode(
        self, prompt: str, images: Sequence[Image.Image | Picture], _num_crops: int
    ) -> ModelInputs:
        return self._endless if ENDLESS_QUESTION in prompt else self._inputs

    def submit(self, request: Request) -> Handle:
        return Handle() if request.inputs is self._endless else super().submit(request)


class Decoder(Preparation):
    """Decodes, and leaves it at that: resizing for the model is a part of the model's cost."""

    def prepare(self, run: Run) -> None:
        assert run.prompt is not None
        images = [open_image(source.content, self._limits).load() for source in run.sources]
        run.sizes = tuple(image.size for image in images)
        run.inputs = self._engine.encode(run.prompt.text, images, run.prompt.num_crops)


def our_app(settings: Settings) -> Celery:
    """Set up as `visionq-worker run` does it. The store holds the sample's picture."""
    store = MemoryStore()
    store.put(picture_key(), picture())

    def build_store(settings: Settings) -> ObjectStore:
        return store

    def build_preparation(settings: Settings, engine: Engine) -> Preparation:
        return Decoder(
            engine,
            ImageLimits(max_pixels=64, formats=("PNG",)),
            decoding="exact",
            has_fast_decoder=True,
            max_bytes=1_000_000,
            max_at_once=1,
        )

    service.build_store = build_store
    service.build_preparation = build_preparation
    _set_up_logging(settings)
    return build_app(settings, InstantEngine)
