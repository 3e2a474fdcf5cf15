"""What checkpoints of few parameters share: the files beside the weights, the tokenizer's frame.

Same files, same layout of special tokens behind the vocabulary as published; the pieces of text are
the caller's. Nothing here depends on the machine: equal arguments give equal bytes.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, processors
from tokenizers.models import BPE

UNKNOWN, START, END_OF_TEXT = "<unk>", "<s>", "<|endoftext|>"
BYTES = [f"<0x{value:02X}>" for value in range(256)]
FIRST_PIECES = [UNKNOWN, START, "</s>", *BYTES]
"""Ids 0 to 258, as published; pieces of text come behind."""
ROPE_THETA = 10_000.0  # as published
NUM_TEXT_TOKENS = 512  # published: 32000
# As published: 45 special tokens behind the text tokens, most of them nameless, in 64 rows.
NUM_SPECIALS = 45
NUM_SPECIAL_ROWS = 64
SPECIAL_OFFSETS = {"endoftext": 0, "assistant": 1, "system": 6, "end": 7, "user": 10, "image": 44}
KEEPS_SPACE = ("endoftext", "system", "end", "user")  # the others swallow white space after them
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)


def write_checkpoint(
    folder: Path,
    config: dict[str, Any],
    tensors: Mapping[str, torch.Tensor],
    tokenizer: Tokenizer,
    *,
    num_crops: dict[str, int],
) -> None:
    """All files of a checkpoint, into a folder that is made if needed.

    `num_crops`: what its preprocessor_config.json says of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = save(dict(tensors), metadata={"format": "pt"})
    (folder / "model.safetensors").write_bytes(content)
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, description in _descriptions(config, num_crops).items():
        text = json.dumps(description, indent=2, sort_keys=True) + "\n"
        (folder / name).write_text(text, encoding="utf-8")


def small_config(
    *,
    head_dim: int,
    num_heads: int,
    inner: int,
    num_layers: int,
    dtype: str,
    factors: tuple[Sequence[float], Sequence[float]],
    tower: dict[str, int],
) -> dict[str, Any]:
    """What goes into config.json: the published keys, and the optional ones for small models.

    `factors`: LongRoPE's short and long ones, head_dim / 2 each. `tower`: what its CLIP differs in.
    """
    short, long = factors
    return {
        "architectures": ["Phi3VForCausalLM"],
        "model_type": "phi3_v",
        "hidden_size": num_heads * head_dim,
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_heads,
        "intermediate_size": inner,
        "num_hidden_layers": num_layers,
        "rms_norm_eps": 1e-5,
        "rope_theta": ROPE_THETA,
        "rope_scaling": {"type": "su", "short_factor": [*short], "long_factor": [*long]},
        "max_position_embeddings": 131072,
        "original_max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "torch_dtype": dtype,
        **_token_keys(),
        "vision_config": tower,
    }


def _token_keys() -> dict[str, Any]:
    """The keys of config.json that name tokens, and the size of the vocabulary."""
    return {
        "vocab_size": NUM_TEXT_TOKENS + NUM_SPECIAL_ROWS,
        "bos_token_id": 1,
        "eos_token_id": [2, special_id("endoftext"), special_id("end")],
        "pad_token_id": special_id("endoftext"),
        "image_token_id": special_id("image"),
    }


def special_id(name: str) -> int:
    return NUM_TEXT_TOKENS + SPECIAL_OFFSETS[name]


def framed(pieces: BPE) -> Tokenizer:
    """A tokenizer with the published one's rules around these pieces of text."""
    tokenizer = Tokenizer(pieces)
    tokenizer.normalizer = normalizer()
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", pair=f"{START} $A {START} $B", special_tokens=[(START, 1)]
    )
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in (UNKNOWN, START)])
    # As published, `</s>` is an added token but not a special one.
    tokenizer.add_tokens([AddedToken("</s>", rstrip=True, normalized=False)])
    tokenizer.add_special_tokens(_specials())
    return tokenizer


def normalizer() -> normalizers.Normalizer:
    """White space as the pieces have it."""
    return normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])


def _specials() -> list[AddedToken]:
    names = {offset: name for name, offset in SPECIAL_OFFSETS.items()}
    texts = [names.get(offset, f"placeholder{offset}") for offset in range(NUM_SPECIALS)]
    return [
        AddedToken(f"<|{text}|>", rstrip=text not in KEEPS_SPACE, normalized=False)
        for text in texts
    ]


def _descriptions(config: dict[str, Any], num_crops: dict[str, int]) -> dict[str, dict[str, Any]]:
    """The JSON files beside the weights and the tokenizer."""
    return {
        "config.json": config,
        "generation_config.json": {
            key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")
        },
        "preprocessor_config.json": {
            "image_processor_type": "Phi3VImageProcessor",
            "processor_class": "Phi3VProcessor",
            **num_crops,
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": START,
            "eos_token": END_OF_TEXT,
            "pad_token": END_OF_TEXT,
            "unk_token": UNKNOWN,
            "chat_template": CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "model_max_length": config["max_position_embeddings"],
        },
    }
