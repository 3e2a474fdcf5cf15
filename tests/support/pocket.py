"""The pocket model, loaded for tests that want what it says and no worker around it."""

from __future__ import annotations

from functools import cache

from visionq.kinds import BUILTIN_KINDS
from visionq_worker.engine.grammar import Grammars
from visionq_worker.kinds import chat
from visionq_worker.model.pixels import Picture
from visionq_worker.model.processor import ModelInputs
from visionq_worker.model.small import special_id
from visionq_worker.model.weights import LoadedModel, load_model
from visionq_worker.pocket import CHECKPOINT
from visionq_worker.pocket.network import NUM_CROPS, pocket_config
from visionq_worker.pocket.text import tokenizer
from visionq_worker.pocket.world.samples import Sample


@cache
def pocket_model() -> LoadedModel:
    """On the CPU, in float32; one for the whole run, so nobody may change it."""
    return load_model(
        str(CHECKPOINT), revision=None, device="cpu", dtype="float32", attention="sdpa"
    )


@cache
def pocket_grammars() -> Grammars:
    """Over a tokenizer without merges."""
    return Grammars(
        tokenizer(),
        stop_token_ids=[special_id("end")],
        num_vocabulary=pocket_config()["vocab_size"],
    )


def inputs_of(drawn: Sample) -> ModelInputs:
    """As a worker would ask about it."""
    pictures = [Picture.of(canvas.image, NUM_CROPS) for canvas in drawn.canvases]
    words = BUILTIN_KINDS[drawn.kind].words(drawn.question, drawn.schema)
    return pocket_model().processor(chat(len(pictures), words), pictures, NUM_CROPS)
