"""What a step cannot be faster than: bytes that must be read, operations that must be done.

The formulas of shared/research/phi3v.md, section 7, from a model's configuration alone. Decode
reads all weights once and the keys and values of every token of every sequence; prefill multiplies.
"""

from __future__ import annotations

from dataclasses import dataclass

from visionq_worker.model.config import Phi3VConfig

VIEW_TOKENS = 577
"""Of the vision tower: 24 x 24 patches and the class token."""
ELEMENT_BYTES = 2
"""bfloat16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What a prompt is made of. `num_views`: tiles and the global view."""

    num_text: int
    num_image: int
    num_views: int

    @property
    def num_tokens(self) -> int:
        return self.num_text + self.num_image


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Of a device: bytes moved and operations done per second."""

    bytes_per_second: float
    flops: float


class Floors:
    """The floors of one model."""

    def __init__(self, config: Phi3VConfig) -> None:
        tower = config.tower
        self._num_layers: int = config.num_hidden_layers
        self._hidden: int = config.hidden_size
        # Weights of a decoder layer's matrices: qkv, output, gate and up, down.
        layer = 4 * config.hidden_size**2 + 3 * config.hidden_size * config.intermediate_size
        self._layers = config.num_hidden_layers * layer
        self._head = config.vocab_size * config.hidden_size
        self._num_tower_layers = tower.num_hidden_layers - 1  # the last one is never run
        self._tower_width = tower.hidden_size
        self._tower_layer = 4 * tower.hidden_size**2 + 2 * tower.hidden_size * (
            tower.intermediate_size
        )
        self._projection = 4 * tower.hidden_size * config.hidden_size + config.hidden_size**2

    def decode_bytes(self, num_cached: int) -> int:
        """That a step reads: the weights, and the cache of `num_cached` tokens, over all rows."""
        per_token = 2 * self._num_layers * self._hidden * ELEMENT_BYTES
        return (self._layers + self._head) * ELEMENT_BYTES + num_cached * per_token

    def prefill_flops(self, prompt: Prompt) -> float:
        """That a prompt takes: decoder, its causal attention, vision tower and projection."""
        decoder = 2.0 * self._layers * prompt.num_tokens
        attention = 2.0 * prompt.num_tokens**2 * self._hidden * self._num_layers
        tower = 2.0 * self._tower_layer * VIEW_TOKENS + 4.0 * VIEW_TOKENS**2 * self._tower_width
        projection = 2.0 * self._projection * prompt.num_image
        return decoder + attention + prompt.num_views * self._num_tower_layers * tower + projection

    def decode_seconds(self, num_cached: int, rates: Rates) -> float:
        return self.decode_bytes(num_cached) / rates.bytes_per_second

    def prefill_seconds(self, prompt: Prompt, rates: Rates) -> float:
        return self.prefill_flops(prompt) / rates.flops

    def images_per_second(
        self, prompt: Prompt, rates: Rates, *, num_new: int, in_flight: int
    ) -> float:
        """With so many requests of `num_new` tokens in flight, their prefill included."""
        num_cached = in_flight * (prompt.num_tokens + num_new // 2)
        decode = num_new * self.decode_seconds(num_cached, rates) / in_flight
        return 1 / (self.prefill_seconds(prompt, rates) + decode)
