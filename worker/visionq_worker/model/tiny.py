"""A checkpoint of random weights, for tests: the published architecture, small, within seconds.

Same files and tensor names as published (`small`); only the numbers are small and the tokenizer is
trained on sentences made here. The same seed gives byte-identical files. It answers nothing
sensible: its words are real, their order is noise.

    python -m visionq_worker.model.tiny FOLDER
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from visionq_worker.model.config import Phi3VConfig
from visionq_worker.model.phi3v import Phi3VForCausalLM
from visionq_worker.model.small import (
    BYTES,
    FIRST_PIECES,
    NUM_TEXT_TOKENS,
    UNKNOWN,
    framed,
    normalizer,
    small_config,
    write_checkpoint,
)

NUM_CROPS = 4
HEAD_DIM = 96  # the published one, so that the same attention kernels are exercised
# Sharp attention with a quiet voice: without it the many alike image tokens decide every answer.
GAINS = {"qkv_proj": 2.0, "o_proj": 0.25}

SUBJECTS = ("the chart", "this picture", "a table", "the title", "one bar", "the author", "a stock")
VERBS = ("shows", "lists", "compares", "has", "names", "rises to", "falls below", "is next to")
OBJECTS = ("two lines", "the price", "a red square", "ten percent", "the year", "no text", "a book")


def make_tiny(folder: str | Path, seed: int = 0) -> Path:
    """Write the checkpoint into a folder (made if needed) and return the folder."""
    target, config = Path(folder), tiny_config()
    tokenizer = framed(_trained_pieces())
    write_checkpoint(
        target, config, _weights(config, seed), tokenizer, num_crops={"num_crops": NUM_CROPS}
    )
    return target


def tiny_config() -> dict[str, Any]:
    """What goes into config.json."""
    half = range(HEAD_DIM // 2)
    return small_config(
        head_dim=HEAD_DIM,
        num_heads=2,
        inner=256,
        num_layers=2,
        dtype="float32",
        factors=([1.0 + index / HEAD_DIM for index in half], [1.0 + index for index in half]),
        tower={
            "hidden_size": 64,
            "num_attention_heads": 2,
            "intermediate_size": 128,
            "num_hidden_layers": 2,  # the last one is never run
        },
    )


def main() -> None:
    """Make the checkpoint in the folder named on the command line."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m visionq_worker.model.tiny FOLDER")
    make_tiny(sys.argv[1])


def _weights(config: dict[str, Any], seed: int) -> dict[str, torch.Tensor]:
    """Random tensors under the published names."""
    with torch.device("meta"):
        empty = Phi3VForCausalLM(Phi3VConfig(**config)).state_dict()
    rng = np.random.default_rng(seed)
    weights = {name: _tensor(name, empty[name].shape, rng) for name in sorted(empty)}
    head = weights["lm_head.weight"]  # (vocabulary, hidden)
    # Replies are mostly words: bytes and special tokens are unlikely, the placeholder is never one.
    head[: 3 + len(BYTES)] *= 0.5
    head[NUM_TEXT_TOKENS:] *= 0.5
    head[config["image_token_id"]] = 0
    return weights


def _tensor(name: str, shape: torch.Size, rng: np.random.Generator) -> torch.Tensor:
    """Norms near 1, biases near 0, matrices that keep the variance of what they multiply.

    Uniform numbers: unlike normal ones, their bits do not depend on the machine's maths library.
    """
    noise = torch.from_numpy(2 * rng.random(shape.numel(), dtype=np.float32) - 1).view(shape)
    module, kind = name.split(".")[-2:]
    if "norm" in module and kind == "weight":
        return 1 + 0.1 * noise
    if kind == "bias":
        return 0.05 * noise
    is_table = "embed" in module and module != "patch_embedding"
    fan_in = 1 if is_table else shape[1:].numel()
    gain = GAINS.get(module, 1.0) * (3 / fan_in) ** 0.5  # uniform in +-1 has variance 1/3
    return noise.mul_(gain)


def _trained_pieces() -> BPE:
    """Vocabulary and merges; ids 0 to 258 are <unk>, <s>, </s> and the bytes."""
    learner = Tokenizer(BPE())
    learner.normalizer = normalizer()
    trainer = BpeTrainer(
        vocab_size=NUM_TEXT_TOKENS, special_tokens=FIRST_PIECES, show_progress=False
    )
    learner.train_from_iterator(_sentences(), trainer)
    learnt = json.loads(learner.to_str())["model"]
    assert len(learnt["vocab"]) == NUM_TEXT_TOKENS, "too few sentences for the vocabulary"
    merges = [(left, right) for left, right in learnt["merges"]]
    # The trainer would have made the bytes special tokens, so they are added to a fresh model.
    return BPE(learnt["vocab"], merges, unk_token=UNKNOWN, byte_fallback=True, fuse_unk=True)


def _sentences() -> list[str]:
    """All sentences of subject, verb and object, and the digits besides."""
    sentences = [f"{a} {b} {c}." for a in SUBJECTS for b in VERBS for c in OBJECTS]
    return [*sentences, *(text.capitalize() for text in sentences), "0 1 2 3 4 5 6 7 8 9 , : ( ) %"]


if __name__ == "__main__":
    main()
