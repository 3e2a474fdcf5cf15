"""The native model against figures of the original code (golden/phi3v/README.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from tokenizers import Tokenizer

from visionq_worker.model.config import HUB_IMAGE_TOKEN_ID, HUB_STOP_TOKEN_IDS, Phi3VConfig
from visionq_worker.model.geometry import num_image_tokens
from visionq_worker.model.phi3v import Phi3VForCausalLM
from visionq_worker.model.processor import Phi3VProcessor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.model.conftest import GoldenCase

WITH_IMAGES = ["portrait_4", "two_images_4", "landscape_16", "two_images_16_long_rope"]
ALL_CASES = ["text", *WITH_IMAGES]
END_TO_END = ["text", "portrait_4"]  # the others would run the wide tower a second time
LOGIT_ATOL = 1e-5  # float32, another order of additions than the reference's


@pytest.mark.parametrize("name", WITH_IMAGES)
def test_pixels_equal_the_reference_exactly(golden_cases: dict[str, GoldenCase], name: str) -> None:
    case = golden_cases[name]
    views = case.model_inputs["pixel_values"]

    patch = views[..., 100:108, 200:208]

    assert torch.equal(patch, case.figures["pixel_tile_patch"])
    # Sums of 338,688 doubles: their last bits depend on the order of additions, hence not 0.
    sums = views.double().sum(dim=(2, 3, 4))
    torch.testing.assert_close(sums, case.figures["pixel_tile_sums"], rtol=0, atol=1e-8)
    sums = views.double().abs().sum(dim=(2, 3, 4))
    torch.testing.assert_close(sums, case.figures["pixel_tile_abs_sums"], rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", WITH_IMAGES)
def test_image_sizes_equal_the_reference(golden_cases: dict[str, GoldenCase], name: str) -> None:
    case = golden_cases[name]
    assert torch.equal(case.model_inputs["image_sizes"].int(), case.figures["image_sizes"])


@pytest.mark.parametrize("name", WITH_IMAGES)
def test_token_counts_from_the_header_equal_the_reference(
    golden_cases: dict[str, GoldenCase], name: str
) -> None:
    case = golden_cases[name]
    for number, image in enumerate(case.images, start=1):
        placeholders = int((case.figures["input_ids"] == -number).sum())
        assert num_image_tokens(image.width, image.height, case.num_crops) == placeholders


@pytest.mark.parametrize("name", ALL_CASES)
def test_ids_equal_the_reference_with_the_published_tokenizer(
    golden_cases: dict[str, GoldenCase], published_tokenizer: Path, name: str
) -> None:
    case = golden_cases[name]
    processor = Phi3VProcessor(
        Tokenizer.from_file(str(published_tokenizer)),
        image_token_id=HUB_IMAGE_TOKEN_ID,
        stop_token_ids=HUB_STOP_TOKEN_IDS,
    )

    inputs = processor(case.prompt, case.images, case.num_crops)

    assert torch.equal(inputs.input_ids, case.model_inputs["input_ids"])
    sizes = [image.size for image in case.images]
    assert processor.num_prompt_tokens(case.prompt, sizes, case.num_crops) == inputs.num_tokens


def test_tensor_names_equal_the_published_checkpoint(
    golden_index: dict[str, Any], golden_models: dict[str, Phi3VForCausalLM]
) -> None:
    assert sorted(golden_models["sdpa"].state_dict()) == sorted(golden_index["tensor_names"])


def test_published_size_has_as_many_tensors_and_parameters_as_the_checkpoint(
    golden_index: dict[str, Any],
) -> None:
    published = {
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
    }
    with torch.device("meta"):
        model = Phi3VForCausalLM(Phi3VConfig(**{**golden_index["config"], **published}))

    # From the published index file: 592 names, total_size 8,293,242,880 bytes in bfloat16.
    assert len(model.state_dict()) == 592
    assert sum(tensor.numel() for tensor in model.parameters()) == 8_293_242_880 // 2


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ALL_CASES)
def test_logits_equal_the_reference(
    golden_cases: dict[str, GoldenCase],
    golden_models: dict[str, Phi3VForCausalLM],
    golden_embeddings: Callable[[GoldenCase], torch.Tensor],
    name: str,
    attention: str,
) -> None:
    case = golden_cases[name]

    with torch.inference_mode():
        logits = golden_models[attention](inputs_embeds=golden_embeddings(case)).logits[0]

    assert_logits(logits, case)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_from_pixels_equal_the_reference(
    golden_cases: dict[str, GoldenCase],
    golden_models: dict[str, Phi3VForCausalLM],
    attention: str,
) -> None:
    case = golden_cases["portrait_4"]

    with torch.inference_mode():
        logits = golden_models[attention](**case.model_inputs).logits[0]

    assert_logits(logits, case)


@pytest.mark.parametrize("name", ALL_CASES)
def test_greedy_reply_equals_the_reference(
    golden_cases: dict[str, GoldenCase],
    golden_models: dict[str, Phi3VForCausalLM],
    golden_embeddings: Callable[[GoldenCase], torch.Tensor],
    name: str,
) -> None:
    case = golden_cases[name]
    prompt = case.model_inputs if name in END_TO_END else {"inputs_embeds": golden_embeddings(case)}
    model: Any = golden_models["sdpa"]

    ids = model.generate(**prompt, max_new_tokens=24, do_sample=False)

    assert torch.equal(ids[0, -24:].int(), case.figures["generated"])


def assert_logits(logits: torch.Tensor, case: GoldenCase) -> None:
    """Compare (tokens, vocabulary) with what the figures keep of it."""
    last, sampled = case.figures["logits_last2"], case.figures["logits_every64_first512"]
    torch.testing.assert_close(logits[-2:], last, rtol=0, atol=LOGIT_ATOL)
    torch.testing.assert_close(logits[::64, :512], sampled, rtol=0, atol=LOGIT_ATOL)
