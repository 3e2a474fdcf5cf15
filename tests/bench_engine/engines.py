"""The engines of the bench, all with the tiny model's processor, and none that ends early.

Their one stop token is the image placeholder, which no engine ever chooses: every answer is as long
as was asked for, so that both sides of a comparison do the same work.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from transformers.utils import logging as transformers_logging

from tests.support.simulated import SimulatedRunner, simulated_engine
from tests.support.tiny import tiny_model
from visionq.settings import EngineSettings, ModelSettings
from visionq_worker.engine.options import EngineOptions
from visionq_worker.engine.reference import ReferenceEngine
from visionq_worker.engine.request import Engine
from visionq_worker.loading import build_engine
from visionq_worker.model.processor import Phi3VProcessor
from visionq_worker.model.weights import LoadedModel

EngineSort = Literal["ours", "reference", "simulated"]

SIMULATED_PAGES = 8192
"""Never the limit: 32 requests of a whole context each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """Which engine. Caches are off where a later round asks about the same pictures again."""

    sort: EngineSort
    max_running: int = 64
    step_seconds: float = 0.0
    has_caches: bool = True

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def build(spec: EngineSpec) -> Engine:
    """The engine, on the CPU. In a thread of its own, for the reason that `load_engine` gives."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(_build, spec).result()


def _build(spec: EngineSpec) -> Engine:
    loaded = endless_tiny()
    if spec.sort == "reference":
        return ReferenceEngine(loaded, model_name="tiny", max_context_tokens=16_384)
    if spec.sort == "simulated":
        runner = SimulatedRunner(
            step_seconds=spec.step_seconds,
            answer=range(300, 364),
            num_vocabulary=loaded.config.vocab_size,
            num_pages=SIMULATED_PAGES,
            image_token_id=loaded.config.image_token_id,
        )
        options = EngineOptions(max_running=spec.max_running, keeps_prefixes=spec.has_caches)
        return simulated_engine(runner, loaded.processor, options)
    caches = {} if spec.has_caches else {"prefix_cache": False, "feature_cache_bytes": 0}
    return build_engine(
        loaded,
        ModelSettings(source="tiny", device="cpu"),
        EngineSettings(max_running=spec.max_running, **caches),
    )


def endless_tiny() -> LoadedModel:
    """The tiny model, its answers never ending by themselves."""
    transformers_logging.disable_progress_bar()
    loaded = tiny_model()
    placeholder = loaded.config.image_token_id
    processor = Phi3VProcessor(
        loaded.processor.tokenizer, image_token_id=placeholder, stop_token_ids=[placeholder]
    )
    return replace(loaded, processor=processor)
