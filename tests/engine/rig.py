"""An engine around the tiny model whose every score is kept, and what `generate` says instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from PIL import Image

from tests.support.tiny import tiny_model
from visionq_worker.engine.batching import BatchingEngine
from visionq_worker.engine.options import EngineOptions
from visionq_worker.engine.request import EngineInfo, Handle
from visionq_worker.engine.runner import ModelRunner
from visionq_worker.engine.scheduler import Chunk
from visionq_worker.model.attention import choose_attention
from visionq_worker.model.pixels import Picture
from visionq_worker.model.processor import ModelInputs
from visionq_worker.model.weights import LoadedModel

BYTES_PER_TOKEN = 2 * 2 * 192 * 4
"""Of the tiny model's cache: keys and values, 2 layers, 192 wide, float32."""


BeforeStep = Callable[[int, Sequence[Chunk]], None]


class KeepingRunner(ModelRunner):
    """Keeps the scores of each token of each request, and tells a test of each step before it.

    The test may raise there, change the scores afterwards, or look at what was freed.
    """

    def __init__(self, *given: Any, before_step: BeforeStep) -> None:
        super().__init__(*given)
        self.num_steps = 0
        self.num_freed = 0
        self.kept: dict[Handle, list[torch.Tensor]] = {}
        self._before_step = before_step

    def run(self, chunks: Sequence[Chunk]) -> torch.Tensor:
        step, self.num_steps = self.num_steps, self.num_steps + 1
        self._before_step(step, chunks)
        logits = super().run(chunks)
        with torch.inference_mode():
            self.spoil(chunks, logits)
        for chunk, row in zip([chunk for chunk in chunks if chunk.is_last], logits, strict=True):
            self.kept.setdefault(chunk.sequence.handle, []).append(row.clone())
        return logits

    def spoil(self, chunks: Sequence[Chunk], logits: torch.Tensor) -> None:
        """For tests to put something else in its place."""

    def free_memory(self) -> None:
        self.num_freed += 1
        super().free_memory()


@dataclass(eq=False)
class Rig:
    """The engine, its runner, and its model."""

    engine: BatchingEngine
    runner: KeepingRunner
    loaded: LoadedModel
    broken: list[str] = field(default_factory=list)

    def logits(self, handle: Handle) -> torch.Tensor:
        """(tokens, vocabulary) that the tokens of a request were chosen by."""
        return torch.stack(self.runner.kept[handle])


@contextmanager
def open_rig(
    *,
    num_pages: int | None = None,
    page_tokens: int = 64,
    before_step: BeforeStep = lambda _step, _chunks: None,
    survives: bool = True,
    loaded: LoadedModel | None = None,
    **options: Any,
) -> Iterator[Rig]:
    """An engine that checks its books after every step. Closed, and checked once more, at the end.

    `num_pages`: size of the cache; None: as many as the options say. `survives` False: a test of an
    engine that breaks.
    """
    loaded = loaded or tiny_model()
    if num_pages is not None:
        # One more: the page that nobody owns.
        options["cache_bytes"] = (num_pages + 1) * page_tokens * BYTES_PER_TOKEN
    chosen = EngineOptions(page_tokens=page_tokens, **options)
    attention = choose_attention(
        "auto", device=loaded.model.device, dtype=loaded.model.dtype, page_tokens=page_tokens
    )
    info = EngineInfo(
        model="tiny",
        revision=None,
        dtype=loaded.dtype,
        device=loaded.device,
        attention=attention.name,
        max_context_tokens=chosen.max_context_tokens,
    )
    broken: list[str] = []
    runner = KeepingRunner(loaded.model, attention, chosen, before_step=before_step)
    engine = BatchingEngine(
        runner,
        loaded.processor,
        info,
        chosen,
        num_vocabulary=loaded.config.vocab_size,
        on_broken=lambda: broken.append("broken"),
        checks_every_step=True,
    )
    try:
        yield Rig(engine, runner, loaded, broken)
    finally:
        engine.close(cancel=True)
    if not survives:
        return
    assert not broken
    metrics = engine.metrics()
    assert (metrics.num_waiting, metrics.num_running) == (0, 0)
    assert metrics.pages_free == metrics.pages_total
    engine.check()


@dataclass(frozen=True)
class Said:
    """What `generate` says, greedily, without an end."""

    token_ids: tuple[int, ...]
    logits: torch.Tensor  # (tokens, vocabulary)


def said_by_generate(loaded: LoadedModel, inputs: ModelInputs, num_tokens: int) -> Said:
    """The reference's answer, alone on the model."""
    images: dict[str, Any] = {}
    if inputs.pictures:
        images = {"pixel_values": inputs.pixel_values, "image_sizes": inputs.image_sizes}
    with torch.inference_mode():
        output = cast("Any", loaded.model).generate(
            input_ids=inputs.input_ids,
            attention_mask=torch.ones_like(inputs.input_ids),
            max_new_tokens=num_tokens,
            do_sample=False,
            eos_token_id=None,
            return_dict_in_generate=True,
            output_logits=True,
            **images,
        )
    token_ids = output.sequences[0, inputs.num_tokens :].tolist()
    return Said(tuple(token_ids), torch.cat(output.logits))


def text_inputs(loaded: LoadedModel, num_tokens: int, seed: int) -> ModelInputs:
    """Random words."""
    ids = np.random.default_rng(seed).integers(3, 500, num_tokens)
    return ModelInputs(input_ids=torch.from_numpy(ids)[None])


def image_inputs(
    loaded: LoadedModel,
    seeds: Sequence[int],
    *,
    sizes: Sequence[tuple[int, int]],
    num_crops: int,
    text_seed: int = 0,
    num_text: int = 12,
) -> ModelInputs:
    """Random words, and after some of them each picture's placeholders; then words again."""
    rng = np.random.default_rng(text_seed)
    image_id = loaded.config.image_token_id
    ids: list[int] = rng.integers(3, 500, 4).tolist()
    pictures, starts = [], []
    for seed, size in zip(seeds, sizes, strict=True):
        picture = Picture.of(noise(size, seed), num_crops)
        pictures.append(picture)
        starts.append(len(ids))
        ids += [image_id] * picture.grid.num_tokens + rng.integers(3, 500, 2).tolist()
    ids += rng.integers(3, 500, num_text).tolist()
    return ModelInputs(
        input_ids=torch.tensor([ids]),
        pictures=tuple(pictures),
        image_starts=tuple(starts),
        num_image_tokens=sum(picture.grid.num_tokens for picture in pictures),
        image_order=tuple(range(len(pictures))),
        num_crops=num_crops,
    )


def noise(size: tuple[int, int], seed: int) -> Image.Image:
    width, height = size
    shape = (height, width, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return Image.fromarray(pixels)
