"""The tiny model, loaded for tests that want the model itself and not a worker around it."""

from __future__ import annotations

from functools import cache

from visionq_worker.loading import tiny_folder
from visionq_worker.model.weights import LoadedModel, load_model


@cache
def tiny_model() -> LoadedModel:
    """On the CPU, in float32; one for the whole run, so nobody may change it."""
    return load_model(
        str(tiny_folder()), revision=None, device="cpu", dtype="float32", attention="sdpa"
    )
