"""What an engine may use: plain values, already checked."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """Limits of one engine. Sizes in tokens unless their names say otherwise."""

    max_context_tokens: int = 16_384  # prompt and answer of one request
    max_running: int = 64  # requests generated together
    step_tokens: int = 2_048  # computed in one step, over all requests
    page_tokens: int = 256
    keeps_prefixes: bool = True
    cache_bytes: int | None = None  # of keys and values; None: what the device has left
    memory_fraction: float = 0.9  # of the device's memory, when cache_bytes is None
    feature_cache_bytes: int = GIB
    uses_graphs: bool = True  # CUDA graphs for decode, where the attention allows it
    hang_seconds: float = 120.0  # a step that lasts longer means that the device hangs
