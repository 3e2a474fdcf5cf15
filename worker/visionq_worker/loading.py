"""From the `[model]` settings to a running engine: resolves what is `auto`, loads, warms."""

from __future__ import annotations

import importlib.util
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from visionq.settings import ModelSettings
from visionq_worker.engine.request import Engine, EngineError
from visionq_worker.errors import StartError
from visionq_worker.model.errors import ModelError

log = logging.getLogger(__name__)

TINY = "tiny"
"""A model source: random weights made on the spot, for tests and for looking around."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The settings with every `auto` decided."""

    source: str
    revision: str | None
    device: str
    dtype: str
    attention: str


def load_engine(settings: ModelSettings) -> Engine:
    """The engine, warmed up. Raises `StartError`. Takes seconds to minutes, and imports torch."""
    from transformers.utils import logging as transformers_logging

    from visionq_worker.engine.reference import ReferenceEngine
    from visionq_worker.model.weights import load_model

    # transformers would draw progress bars into the log.
    transformers_logging.disable_progress_bar()
    choice = choose(settings)
    began = perf_counter()
    try:
        loaded = load_model(
            choice.source,
            revision=choice.revision,
            device=choice.device,
            dtype=choice.dtype,
            attention=choice.attention,
        )
    except ModelError as exc:
        raise StartError(f"model: {exc}") from exc
    engine = ReferenceEngine(
        loaded, model_name=settings.source, max_context_tokens=settings.max_context_tokens
    )
    try:
        engine.warm_up()
    except EngineError as exc:
        engine.close()
        cause = str(exc.__cause__).partition("\n")[0]
        raise StartError(f"model: the first request failed: {cause}") from exc
    log.info(
        "model %s ready in %.1f s on %s, %s, %s",
        settings.source,
        perf_counter() - began,
        choice.device,
        choice.dtype,
        choice.attention,
    )
    return engine


def choose(settings: ModelSettings) -> Choice:
    """Decide what is `auto`: CUDA, bfloat16 and flash-attn where they are there."""
    import torch

    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = settings.dtype
    if dtype == "auto":
        dtype = "bfloat16" if device.startswith("cuda") else "float32"
    attention = settings.attention
    if attention == "auto":
        flash = device.startswith("cuda") and importlib.util.find_spec("flash_attn") is not None
        attention = "flash_attention_2" if flash else "sdpa"
    source = str(tiny_folder()) if settings.source == TINY else settings.source
    return Choice(
        source=source, revision=settings.revision, device=device, dtype=dtype, attention=attention
    )


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
