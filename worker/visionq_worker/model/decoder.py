"""The decoder over packed tokens and a paged cache: what the engine runs.

Same weights and same mathematics as transformers' Phi3 (`phi3v`), laid out for many sequences at
once: no padding, no masks, keys and values in pages, each token with its own rotary row. Left out:
embeddings of images (`vision`), which pages belong to whom (the engine).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from visionq_worker.model.attention import Attention
from visionq_worker.model.errors import ModelLoadError
from visionq_worker.model.ops import Ops
from visionq_worker.model.phi3v import Phi3VForCausalLM
from visionq_worker.model.rope import RopeTable


@dataclass(frozen=True, slots=True, eq=False)
class Cache:
    """Keys and values in pages, per layer (pages, page_tokens, heads, head_dim)."""

    layers: Sequence[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """The rows of a pass that something is asked about: each the last new token of a sequence."""

    rows: torch.Tensor  # (rows,) int64, ascending
    plan: Any  # the attention's, for these tokens alone; not looked at when there are none


@dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """Where the tokens of one pass belong: (tokens,) int64 each."""

    rope_rows: torch.Tensor
    slots: torch.Tensor  # page * page_tokens + offset
    plan: Any  # the attention's
    wanted: Wanted | None = None  # None: all rows


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One layer's weights, as `functional.linear` takes them: (out, in)."""

    input_norm: torch.Tensor
    qkv: torch.Tensor
    out: torch.Tensor
    mlp_norm: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor


class PackedDecoder:
    """The decoder of a loaded model; shares its weights."""

    def __init__(
        self, model: Phi3VForCausalLM, *, rope: RopeTable, ops: Ops, attention: Attention
    ) -> None:
        config = model.config
        self.num_heads: int = config.num_attention_heads
        self.head_dim: int = config.hidden_size // self.num_heads
        if config.num_key_value_heads != self.num_heads:
            raise ModelLoadError(
                "the engine runs models with as many key heads as query heads, "
                f"not {config.num_key_value_heads} and {self.num_heads}"
            )
        if 2 * rope.cos.shape[1] != self.head_dim:
            raise ModelLoadError("the engine runs models whose rotary angles cover the whole head")
        if config.hidden_act != "silu":
            raise ModelLoadError(f"the engine runs models with silu, not {config.hidden_act}")
        self.ops = ops
        self.attention = attention
        self._rope = rope
        self._eps: float = config.rms_norm_eps
        self._embeddings = model.model.embed_tokens.weight
        self._layers = [_layer(layer) for layer in model.model.layers]
        self._norm = model.model.norm.weight
        self._head = model.lm_head.weight

    def new_cache(self, num_pages: int, page_tokens: int) -> Cache:
        """An empty cache on the device. Zeros: kernels may multiply what they mask by nothing."""
        sizes = (num_pages, page_tokens, self.num_heads, self.head_dim)
        order = self.attention.cache_order
        shape = (2, *(sizes[dim] for dim in order))
        back = [0, *(1 + order.index(dim) for dim in range(4))]
        layers = [self._embeddings.new_zeros(shape).permute(back) for _ in self._layers]
        return Cache([(layer[0], layer[1]) for layer in layers])

    def cache_bytes_per_token(self) -> int:
        """What a token takes in the cache: keys and values of all layers."""
        width = self.num_heads * self.head_dim
        element_bytes: int = self._embeddings.element_size()
        return 2 * len(self._layers) * width * element_bytes

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """(tokens,) to (tokens, hidden)."""
        return functional.embedding(ids, self._embeddings)

    def __call__(self, hidden: torch.Tensor, where: Pass, cache: Cache) -> torch.Tensor:
        """Embeddings (tokens, hidden) through all layers: (wanted rows, hidden), not normalised.

        Writes the tokens' keys and values into the cache. That is all that the last layer does for
        rows that nobody wants.
        """
        residual, ops, plan = None, self.ops, where.plan
        for layer, (keys, values) in zip(self._layers, cache.layers, strict=True):
            hidden, residual = ops.add_rms_norm(hidden, residual, layer.input_norm, self._eps)
            qkv = functional.linear(hidden, layer.qkv)  # (tokens, 3 hidden)
            queries = ops.rotate_and_store(
                qkv, self._rope.cos, self._rope.sin, where.rope_rows, where.slots, keys, values
            )  # (tokens, heads, head_dim)
            if where.wanted is not None and layer is self._layers[-1]:
                rows, plan = where.wanted.rows, where.wanted.plan
                queries, residual = queries[rows], residual[rows]
                if not len(rows):
                    return residual
            mixed = self.attention(queries, keys, values, plan)
            hidden = functional.linear(mixed.flatten(1), layer.out)  # (tokens, hidden)
            hidden, residual = ops.add_rms_norm(hidden, residual, layer.mlp_norm, self._eps)
            gate_up = functional.linear(hidden, layer.gate_up)  # (tokens, 2 inner)
            hidden = functional.linear(ops.silu_mul(gate_up), layer.down)  # (tokens, hidden)
        assert residual is not None, "a model has layers"
        return hidden + residual

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Rows of what a pass returned, as float32 scores of all tokens: (rows, vocabulary)."""
        normed, _ = self.ops.add_rms_norm(hidden, None, self._norm, self._eps)
        return functional.linear(normed, self._head).float()


def _layer(module: Any) -> Layer:
    return Layer(
        input_norm=module.input_layernorm.weight,
        qkv=module.self_attn.qkv_proj.weight,
        out=module.self_attn.o_proj.weight,
        mlp_norm=module.post_attention_layernorm.weight,
        gate_up=module.mlp.gate_up_proj.weight,
        down=module.mlp.down_proj.weight,
    )
