"""The checkpoint for tests: same bytes from the same seed, quick, and not a bore."""

from __future__ import annotations

import subprocess
import sys
from time import perf_counter
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from visionq_worker.model.tiny import make_tiny

if TYPE_CHECKING:
    from pathlib import Path

    from visionq_worker.model.weights import LoadedModel

QUESTION = "<|user|>\n<|image_1|>\nWhat does the chart show?<|end|>\n<|assistant|>\n"
FILES = [
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
]


def reply(tiny: LoadedModel, image: Image.Image, num_tokens: int) -> list[int]:
    inputs = tiny.processor(QUESTION, [image], 4)
    model: Any = tiny.model
    ids = model.generate(
        input_ids=inputs.input_ids,
        pixel_values=inputs.pixel_values,
        image_sizes=inputs.image_sizes,
        max_new_tokens=num_tokens,
        min_new_tokens=num_tokens,
        do_sample=False,
    )
    new: list[int] = ids[0, inputs.num_tokens :].tolist()
    return new


def test_same_seed_gives_the_same_bytes_in_another_process(
    tiny_folder: Path, tmp_path: Path
) -> None:
    module = "visionq_worker.model.tiny"
    subprocess.run([sys.executable, "-m", module, str(tmp_path)], check=True, timeout=60)

    assert sorted(file.name for file in tmp_path.iterdir()) == FILES
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (tiny_folder / name).read_bytes(), name


def test_another_seed_gives_other_weights(tiny_folder: Path, tmp_path: Path) -> None:
    make_tiny(tmp_path, seed=1)

    first = load_file(tiny_folder / "model.safetensors")
    second = load_file(tmp_path / "model.safetensors")
    assert first.keys() == second.keys()
    assert not any(torch.equal(first[name], second[name]) for name in first)


def test_weights_are_finite(tiny: LoadedModel) -> None:
    assert all(bool(tensor.isfinite().all()) for tensor in tiny.model.parameters())


def test_special_tokens_lie_behind_the_vocabulary_as_published(tiny: LoadedModel) -> None:
    tokenizer, base = tiny.processor.tokenizer, 512
    # The published ids with 32000 text tokens in front of them.
    published = {
        "<|endoftext|>": 32000,
        "<|assistant|>": 32001,
        "<|system|>": 32006,
        "<|end|>": 32007,
        "<|user|>": 32010,
        "<|image|>": 32044,
    }
    for text, token in published.items():
        assert tokenizer.token_to_id(text) == token - 32000 + base
    assert [tokenizer.token_to_id(text) for text in ("<unk>", "<s>", "</s>")] == [0, 1, 2]
    assert tiny.config.vocab_size == 32064 - 32000 + base
    assert tiny.config.stop_token_ids == {2, 512, 519}


@pytest.mark.parametrize("text", ["the chart shows ten percent.", "Zoë: 名 €5\n\ttab"])
def test_any_text_survives_the_tokenizer(tiny: LoadedModel, text: str) -> None:
    ids = tiny.processor.tokenizer.encode(text).ids
    assert 0 not in ids
    assert tiny.processor.decode(ids) == text


def test_reply_is_quick_varied_and_depends_on_the_image(tiny: LoadedModel) -> None:
    gradient = Image.linear_gradient("L").resize((336, 336))
    reply(tiny, gradient, 2)  # first calls pay for lazy set-up

    started = perf_counter()
    first = reply(tiny, gradient, 64)
    seconds = perf_counter() - started
    second = reply(tiny, Image.radial_gradient("L").resize((336, 336)), 64)

    assert seconds < 10  # about 1 on two idle cores
    assert len(set(first)) > 20
    assert len(set(second)) > 20
    assert first != second
