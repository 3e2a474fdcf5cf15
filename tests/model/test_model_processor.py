"""Prompt and images to model inputs, on the tiny checkpoint's tokenizer."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer

from visionq_worker.model.config import HUB_IMAGE_TOKEN_ID, HUB_STOP_TOKEN_IDS
from visionq_worker.model.errors import ImageShapeError, PromptError
from visionq_worker.model.geometry import num_image_tokens
from visionq_worker.model.pixels import Picture
from visionq_worker.model.processor import NUM_CACHED_TEXTS, Phi3VProcessor

if TYPE_CHECKING:
    from pathlib import Path

    from visionq_worker.model.weights import LoadedModel

RED = Image.new("RGB", (336, 336), (255, 0, 0))
WIDE_BLUE = Image.new("RGB", (800, 200), (0, 0, 255))
RED_TOKENS, WIDE_TOKENS = 757, 745  # at 4 crops, from the published rule


@pytest.fixture(scope="module")
def processor(tiny: LoadedModel) -> Phi3VProcessor:
    return tiny.processor


def test_prompt_without_images_is_only_text(processor: Phi3VProcessor) -> None:
    inputs = processor("<|user|>\nthe chart<|end|>\n<|assistant|>\n", [], 4)

    assert inputs.pixel_values is None
    assert inputs.image_sizes is None
    assert inputs.num_image_tokens == 0
    assert inputs.num_tokens == inputs.input_ids.shape[1]
    start, user = inputs.input_ids[0, :2].tolist()
    assert (start, user) == (1, processor.tokenizer.token_to_id("<|user|>"))


def test_each_text_between_images_begins_with_its_own_start_token(
    processor: Phi3VProcessor,
) -> None:
    inputs = processor("<|user|>\n<|image_1|>\n<|image_2|>", [RED, WIDE_BLUE], 4)

    ids = inputs.input_ids[0].tolist()
    runs = split_at(ids, processor.image_token_id)
    newline = processor.tokenizer.encode("\n").ids
    assert [len(run) for run in runs] == [len(runs[0]), RED_TOKENS, 3, WIDE_TOKENS, 1]
    assert runs[2] == newline
    assert newline[0] == 1
    assert runs[4] == [1]
    assert inputs.num_image_tokens == RED_TOKENS + WIDE_TOKENS


def test_images_come_in_the_order_of_their_tags(processor: Phi3VProcessor) -> None:
    inputs = processor("<|image_2|> and <|image_1|>", [RED, WIDE_BLUE], 4)

    assert inputs.image_order == (1, 0)
    assert inputs.image_sizes is not None
    assert inputs.image_sizes.tolist() == [[336, 1344], [672, 672]]
    runs = split_at(inputs.input_ids[0].tolist(), processor.image_token_id)
    assert [len(runs[1]), len(runs[3])] == [WIDE_TOKENS, RED_TOKENS]


def test_repeated_tag_shows_its_image_again(processor: Phi3VProcessor) -> None:
    inputs = processor("<|image_1|>, <|image_2|>, <|image_1|>", [RED, WIDE_BLUE], 4)

    assert inputs.image_order == (0, 1, 0)
    assert inputs.pixel_values is not None
    assert inputs.pixel_values.shape == (3, 5, 3, 336, 336)
    assert torch.equal(inputs.pixel_values[0], inputs.pixel_values[2])
    assert inputs.num_image_tokens == 2 * RED_TOKENS + WIDE_TOKENS


@pytest.mark.parametrize(
    ("prompt", "num_images"),
    [
        ("no tag at all", 1),
        ("<|image_1|>", 0),
        ("<|image_1|>", 2),
        ("<|image_1|> <|image_2|>", 1),
        ("<|image_1|> <|image_3|>", 2),
        ("<|image_2|>", 1),
        ("<|image_0|> <|image_1|>", 1),
        ("<|image_999999|>", 1),
        ("<|image_" + "9" * 5000 + "|>", 1),
        ("the placeholder itself: <|image|>", 0),
        ("<|image_1|> and <|image|>", 1),
    ],
)
def test_tags_that_do_not_fit_the_images_are_refused(
    processor: Phi3VProcessor, prompt: str, num_images: int
) -> None:
    with pytest.raises(PromptError):
        processor(prompt, [RED] * num_images, 4)
    with pytest.raises(PromptError):
        processor.num_prompt_tokens(prompt, [(336, 336)] * num_images, 4)


def test_prompt_error_does_not_repeat_the_prompt(processor: Phi3VProcessor) -> None:
    with pytest.raises(PromptError) as caught:
        processor("my secret <|image_7|>", [RED], 4)
    assert "secret" not in str(caught.value)


def test_image_without_a_grid_is_refused(processor: Phi3VProcessor) -> None:
    with pytest.raises(ImageShapeError):
        processor("<|image_1|>", [Image.new("RGB", (6000, 1))], 4)


@given(st.lists(st.tuples(st.integers(1, 500), st.integers(1, 500)), max_size=2), st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_token_counts_from_headers_equal_the_prepared_prompt(
    tiny: LoadedModel, sizes: list[tuple[int, int]], num_crops: int
) -> None:
    prompt = "".join(f"<|image_{number}|>\n" for number in range(1, len(sizes) + 1)) + "the chart"
    images = [Image.new("RGB", size) for size in sizes]
    try:
        counted = tiny.processor.num_prompt_tokens(prompt, sizes, num_crops)
    except ImageShapeError:
        with pytest.raises(ImageShapeError):
            tiny.processor(prompt, images, num_crops)
        return

    inputs = tiny.processor(prompt, images, num_crops)

    placeholders = int((inputs.input_ids == tiny.processor.image_token_id).sum())
    assert inputs.num_tokens == counted
    assert inputs.num_image_tokens == placeholders
    assert placeholders == sum(num_image_tokens(w, h, num_crops) for w, h in sizes)
    if inputs.image_sizes is not None:
        for (height, width), image in zip(inputs.image_sizes.tolist(), images, strict=True):
            assert Picture.of(image, num_crops).pixels.shape == (height, width, 3)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16", "F"])
def test_image_of_any_mode_is_prepared(processor: Phi3VProcessor, mode: str) -> None:
    inputs = processor("<|image_1|>", [Image.new(mode, (40, 30))], 1)

    assert inputs.pixel_values is not None
    assert bool(inputs.pixel_values.isfinite().all())


def test_upright_image_is_padded_left_and_right_with_white() -> None:
    padded = Picture.of(Image.new("RGB", (49, 300)), 3).pixels

    # 1008 / (300/49) is 164.6, truncated to 164: 172 columns of white, 86 on each side.
    assert padded.shape == (1008, 336, 3)
    assert padded[:, :86].min() == 255
    assert padded[:, 86:250].max() == 0
    assert padded[:, 250:].min() == 255


def test_decoded_text_has_no_special_tokens(processor: Phi3VProcessor) -> None:
    text = "the chart shows two lines."
    ids = processor.tokenizer.encode(text).ids
    ends = processor.tokenizer.encode("<|end|><|endoftext|></s>", add_special_tokens=False).ids

    assert len(ends) == 3
    assert processor.decode([*ids, *ends]) == text


def test_rows_of_the_head_without_a_token_decode_to_nothing(tiny: LoadedModel) -> None:
    unused = tiny.config.vocab_size - 1
    assert tiny.processor.tokenizer.id_to_token(unused) is None
    assert tiny.processor.decode([unused]) == ""


def test_default_crops_come_from_the_checkpoint(processor: Phi3VProcessor) -> None:
    assert processor.default_num_crops == 4
    assert processor.max_num_crops is None, "the tiny one takes any number"


def test_published_tokenizer_writes_the_documented_example(published_tokenizer: Path) -> None:
    processor = Phi3VProcessor(
        Tokenizer.from_file(str(published_tokenizer)),
        image_token_id=HUB_IMAGE_TOKEN_ID,
        stop_token_ids=HUB_STOP_TOKEN_IDS,
    )

    inputs = processor("<|user|>\n<|image_1|>\nHello<|end|>\n<|assistant|>\n", [RED], 4)

    runs = split_at(inputs.input_ids[0].tolist(), HUB_IMAGE_TOKEN_ID)
    assert runs[0] == [1, 32010, 29871, 13]
    assert runs[2][:3] == [1, 29871, 13]
    assert runs[2][-4:] == [32007, 29871, 13, 32001]
    assert processor.decode([15043, 32007, 2]) == "Hello"


def split_at(ids: list[int], placeholder: int) -> list[list[int]]:
    """Runs of ids: text, placeholders, text, placeholders, ..."""
    runs: list[list[int]] = [[]]
    for token in ids:
        if runs[-1] and (token == placeholder) != (runs[-1][-1] == placeholder):
            runs.append([])
        runs[-1].append(token)
    return runs


class Mallinfo2(ctypes.Structure):
    """glibc's figures of its heap, in bytes."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33")
def test_tokenizer_does_not_keep_every_question(processor: Phi3VProcessor) -> None:
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = Mallinfo2

    def heap_of(texts: range) -> int:
        for number in texts:
            processor.num_prompt_tokens(f"\nWhat is this? Number {number}.<|end|>\n", [], 1)
        return int(mallinfo2().uordblks)

    full = heap_of(range(NUM_CACHED_TEXTS))
    # 1.3 KB for each text that is kept.
    assert heap_of(range(10_000, 12_000)) - full < 500_000
