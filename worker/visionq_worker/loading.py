"""From the `[model]` settings to a running engine: resolves what is `auto`, loads, warms."""

from __future__ import annotations

import logging
import os
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING

from visionq_worker.engine.errors import EngineError
from visionq_worker.engine.request import EngineInfo, Request
from visionq_worker.errors import StartError
from visionq_worker.model.errors import ModelError
from visionq_worker.pocket import CHECKPOINT
from visionq_worker.pocket import revision as pocket_revision

if TYPE_CHECKING:
    from collections.abc import Callable

    from visionq.settings import EngineSettings, ModelSettings
    from visionq_worker.engine.batching import BatchingEngine
    from visionq_worker.engine.request import Engine
    from visionq_worker.model.weights import LoadedModel

log = logging.getLogger(__name__)

POCKET = "pocket"
"""A model source: the small checkpoint that is part of this distribution."""
TINY = "tiny"
"""A model source: random weights made on the spot, for tests that want noise."""

WARM_UP_PROMPT = "<|user|>\n<|image_1|>\nWhat is this?<|end|>\n<|assistant|>\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The settings with every `auto` decided."""

    source: str
    revision: str | None
    device: str
    dtype: str


def load_engine(
    model: ModelSettings, engine: EngineSettings, *, on_broken: Callable[[], None]
) -> Engine:
    """The engine, warmed up. Raises `StartError`. Takes seconds to minutes, and imports torch.

    `on_broken` is called when the device is lost to this process.

    Loading has a thread of its own. On a CPU every thread that computes keeps a team of helpers as
    long as it lives, and where there are more of them than cores they all stop spinning: with a
    second team, the caller's, prefill of the tiny model took 1.5 times as long.
    """
    future: Future[Engine] = Future()

    def load() -> None:
        try:
            future.set_result(_load_engine(model, engine, on_broken))
        except BaseException as exc:  # the caller's to handle, whatever it is
            future.set_exception(exc)

    # A daemon, so that a worker which is told to stop meanwhile can leave at once.
    threading.Thread(target=load, name="visionq-loading", daemon=True).start()
    return future.result()


def _load_engine(
    model: ModelSettings, engine: EngineSettings, on_broken: Callable[[], None]
) -> Engine:
    from transformers.utils import logging as transformers_logging

    from visionq_worker.model.weights import load_model

    # transformers would draw progress bars into the log.
    transformers_logging.disable_progress_bar()
    choice = choose(model)
    began = perf_counter()
    try:
        loaded = load_model(
            choice.source,
            revision=choice.revision,
            device=choice.device,
            dtype=choice.dtype,
            attention="sdpa",  # of the vision tower; the decoder's is the engine's own
        )
        built = build_engine(loaded, model, engine, on_broken=on_broken)
    except ModelError as exc:
        raise StartError(f"model: {exc}") from exc
    try:
        warm_up(built)
    except EngineError as exc:
        built.close()
        cause = str(exc.__cause__).partition("\n")[0]
        raise StartError(f"model: the first request failed: {cause}") from exc
    log.info(
        "model %s ready in %.1f s on %s, %s, %s",
        model.source,
        perf_counter() - began,
        choice.device,
        choice.dtype,
        built.info.attention,
    )
    return built


def warm_up(engine: Engine) -> None:
    """Answer one small request, so that the first real one meets a ready device."""
    from PIL import Image

    engine.mask({"type": "null"})  # reads the vocabulary
    inputs = engine.encode(WARM_UP_PROMPT, [Image.new("RGB", (336, 336), "white")], 1)
    engine.submit(Request(inputs=inputs, max_new_tokens=2)).result()


def build_engine(
    loaded: LoadedModel,
    model: ModelSettings,
    engine: EngineSettings,
    *,
    on_broken: Callable[[], None] = lambda: None,
) -> BatchingEngine:
    """The engine around a model in place. Raises `ModelError`."""
    from visionq_worker.engine.batching import BatchingEngine
    from visionq_worker.engine.options import EngineOptions
    from visionq_worker.engine.runner import ModelRunner
    from visionq_worker.model.attention import choose_attention

    options = EngineOptions(
        max_context_tokens=model.max_context_tokens,
        max_running=engine.max_running,
        step_tokens=engine.step_tokens,
        page_tokens=engine.page_tokens,
        keeps_prefixes=engine.prefix_cache,
        cache_bytes=engine.cache_bytes,
        memory_fraction=engine.memory_fraction,
        feature_cache_bytes=engine.feature_cache_bytes,
        uses_graphs=engine.cuda_graphs,
        hang_seconds=engine.hang_seconds,
    )
    attention = choose_attention(
        model.attention,
        device=loaded.model.device,
        dtype=loaded.model.dtype,
        page_tokens=options.page_tokens,
    )
    info = EngineInfo(
        model=model.source,
        # Results are reused by this: a newer visionq may bring other weights.
        revision=pocket_revision() if model.source == POCKET else loaded.revision,
        dtype=loaded.dtype,
        device=loaded.device,
        attention=attention.name,
        max_context_tokens=model.max_context_tokens,
        max_num_crops=loaded.processor.max_num_crops,
    )
    return BatchingEngine(
        ModelRunner(loaded.model, attention, options),
        loaded.processor,
        info,
        options,
        num_vocabulary=loaded.config.vocab_size,
        on_broken=on_broken,
    )


def choose(settings: ModelSettings) -> Choice:
    """Decide what is `auto`: CUDA and bfloat16 where they are there."""
    import torch

    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = settings.dtype
    if dtype == "auto":
        dtype = "bfloat16" if device.startswith("cuda") else "float32"
    source = settings.source
    if source == POCKET:
        source = str(CHECKPOINT)
    elif source == TINY:
        source = str(tiny_folder())
    return Choice(source=source, revision=settings.revision, device=device, dtype=dtype)


def tiny_folder() -> Path:
    """The tiny checkpoint, made in the user's cache on first use."""
    from visionq_worker import __version__
    from visionq_worker.model.tiny import make_tiny

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "visionq" / f"tiny-{__version__}"
    if (folder / "config.json").exists():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Several workers may start at once: each makes its own, the first rename wins.
        with TemporaryDirectory(prefix=f"{folder.name}.", dir=folder.parent) as making:
            _rename_first(make_tiny(Path(making) / folder.name), folder)
    except OSError as exc:
        raise StartError(f"model: the tiny checkpoint cannot be made: {exc}") from exc
    return folder


def _rename_first(made: Path, folder: Path) -> None:
    try:
        made.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
        log.info("another process has made %s meanwhile", folder)
