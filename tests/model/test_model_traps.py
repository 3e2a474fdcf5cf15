"""What goes wrong with this model on transformers 5 unless care is taken, each with a test."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from math import log, sqrt
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoProcessor,
    AutoTokenizer,
    Phi3Config,
)

from visionq_worker.model.auto import Phi3VImageProcessor, register
from visionq_worker.model.config import Phi3VConfig
from visionq_worker.model.errors import PromptError
from visionq_worker.model.phi3v import Phi3VForCausalLM
from visionq_worker.model.processor import ModelInputs, Phi3VProcessor

if TYPE_CHECKING:
    from pathlib import Path

    from visionq_worker.model.weights import LoadedModel

SWITCH = 4096  # tokens; one more and the long rotary factors apply
QUESTION = "<|user|>\n<|image_1|>\nthe chart{}<|end|>\n<|assistant|>\n"


def picture(width: int, height: int) -> Image.Image:
    return Image.linear_gradient("L").resize((width, height))


def arguments(inputs: ModelInputs) -> dict[str, Any]:
    named = {
        "input_ids": inputs.input_ids,
        "pixel_values": inputs.pixel_values,
        "image_sizes": inputs.image_sizes,
    }
    return {name: tensor for name, tensor in named.items() if tensor is not None}


def test_published_rope_name_loads_as_long_rope(golden_index: dict[str, Any]) -> None:
    published = golden_index["config"]
    with pytest.raises(KeyError, match="original_max_position_embeddings"):
        Phi3Config(**published)  # the trap

    config = Phi3VConfig(**published)

    rope: Any = config.rope_parameters
    assert rope["rope_type"] == "longrope"
    assert rope["short_factor"] == published["rope_scaling"]["short_factor"]
    with torch.device("meta"):
        rotary = Phi3VForCausalLM(config).model.rotary_emb
    expected = sqrt(1 + log(131072 / 4096) / log(4096))
    assert rotary.attention_scaling == pytest.approx(expected, rel=1e-12)
    assert expected == pytest.approx(1.190238, abs=1e-6)


def test_published_attention_choice_is_left_to_the_caller(golden_index: dict[str, Any]) -> None:
    published = {**golden_index["config"], "_attn_implementation": "flash_attention_2"}
    with torch.device("meta"):
        model = Phi3VForCausalLM(Phi3VConfig(**published))

    assert model.config._attn_implementation == "sdpa"


def test_published_sliding_window_and_stop_ids_are_corrected(golden_index: dict[str, Any]) -> None:
    config = Phi3VConfig(**golden_index["config"])

    assert config.sliding_window is None
    assert config.stop_token_ids == {2, 32000, 32007}
    assert config.image_token_id == 32044


@pytest.mark.parametrize(
    "change",
    [
        {"embd_layer": {"hd_transform_order": "glb_sub"}},
        {"vision_config": {"patch_size": 32}},
        {"vision_config": {"image_size": 224}},
    ],
)
def test_layout_that_is_not_built_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Phi3VConfig(**change)


def test_reply_that_crosses_the_rope_switch_equals_fresh_forwards(tiny: LoadedModel) -> None:
    inputs = long_prompt(tiny, SWITCH - 2)
    model: Any = tiny.model

    reply = model.generate(
        **arguments(inputs),
        max_new_tokens=6,
        min_new_tokens=6,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )

    for step, logits in enumerate(reply.logits):
        ids = reply.sequences[:, : inputs.num_tokens + step]
        fresh = last_logits(tiny, {**arguments(inputs), "input_ids": ids})
        torch.testing.assert_close(logits[0], fresh, rtol=0, atol=1e-4)
    # The check is sharp: without its image the long prompt gives quite other logits.
    blind = last_logits(tiny, {"input_ids": reply.sequences[:, :-1]})
    assert float((reply.logits[-1][0] - blind).abs().max()) > 0.1


def test_static_cache_gives_the_same_reply(tiny: LoadedModel) -> None:
    inputs = arguments(tiny.processor(QUESTION.format(""), [picture(300, 300)], 1))
    model: Any = tiny.model

    dynamic = model.generate(**inputs, max_new_tokens=16, do_sample=False)
    static = model.generate(
        **inputs, max_new_tokens=16, do_sample=False, cache_implementation="static"
    )

    assert torch.equal(dynamic, static)


def test_prompt_in_a_left_padded_batch_gets_the_same_reply(tiny: LoadedModel) -> None:
    images = [picture(300, 300), picture(200, 500)]
    alone = [tiny.processor(QUESTION.format(" a" * 7 * i), [im], 2) for i, im in enumerate(images)]
    pad = 512  # <|endoftext|>
    longest = max(inputs.num_tokens for inputs in alone)
    rows = [
        torch.nn.functional.pad(inputs.input_ids[0], (longest - inputs.num_tokens, 0), value=pad)
        for inputs in alone
    ]
    ids = torch.stack(rows)
    model: Any = tiny.model
    limits = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}

    together = model.generate(
        input_ids=ids,
        attention_mask=(ids != pad).long(),
        pixel_values=torch.cat([arguments(inputs)["pixel_values"] for inputs in alone]),
        image_sizes=torch.cat([arguments(inputs)["image_sizes"] for inputs in alone]),
        **limits,
    )

    for row, inputs in zip(together, alone, strict=True):
        single = model.generate(**arguments(inputs), **limits)
        assert torch.equal(row[-12:], single[0, -12:])


def test_generate_takes_the_image_arguments_and_refuses_misspelt_ones(tiny: LoadedModel) -> None:
    inputs = arguments(tiny.processor(QUESTION.format(""), [picture(300, 300)], 1))
    model: Any = tiny.model
    mask = torch.ones_like(inputs["input_ids"])

    ids = model.generate(**inputs, attention_mask=mask, max_new_tokens=2, min_new_tokens=2)

    assert ids.shape[1] == inputs["input_ids"].shape[1] + 2
    with pytest.raises(ValueError, match="pixel_value"):
        model.generate(inputs["input_ids"], pixel_value=inputs["pixel_values"], max_new_tokens=2)


def test_padding_tiles_never_reach_the_tower(tiny: LoadedModel) -> None:
    inputs = arguments(tiny.processor(QUESTION.format(""), [picture(336, 336)], 5))
    assert inputs["pixel_values"].shape[1] == 6  # room for 5 tiles; 2 x 2 are used
    expected = last_logits(tiny, inputs)

    inputs["pixel_values"] = inputs["pixel_values"].clone()
    inputs["pixel_values"][:, 5:] = float("nan")

    assert torch.equal(last_logits(tiny, inputs), expected)


def test_placeholders_that_no_image_fills_are_refused(tiny: LoadedModel) -> None:
    inputs = arguments(tiny.processor(QUESTION.format(""), [picture(300, 300)], 1))
    inputs["input_ids"] = inputs["input_ids"][:, 10:]

    with pytest.raises(PromptError, match="placeholders"):
        last_logits(tiny, inputs)


def test_tags_in_another_order_mean_their_own_images(tiny: LoadedModel) -> None:
    first, second = picture(300, 300), picture(200, 500)
    swapped = tiny.processor("<|image_2|> and <|image_1|>", [second, first], 2)
    plain = tiny.processor("<|image_1|> and <|image_2|>", [first, second], 2)

    assert torch.equal(last_logits(tiny, arguments(swapped)), last_logits(tiny, arguments(plain)))


def test_loss_reaches_the_vision_tower(tiny: LoadedModel) -> None:
    inputs = arguments(tiny.processor(QUESTION.format(""), [picture(300, 300)], 1))
    tower = tiny.model.model.vision_embed_tokens.img_processor.vision_model

    loss = tiny.model(**inputs, labels=inputs["input_ids"]).loss
    (gradient,) = torch.autograd.grad(loss, tower.embeddings.patch_embedding.weight)

    assert float(gradient.abs().max()) > 0


def test_auto_classes_use_local_code_though_the_files_name_remote_code(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = with_auto_map(tiny_folder, tmp_path / "published")
    monkeypatch.setattr("builtins.input", no_questions)
    register()
    register()  # again does no harm

    expected: dict[Any, type] = {
        AutoConfig: Phi3VConfig,
        AutoModelForCausalLM: Phi3VForCausalLM,
        AutoProcessor: Phi3VProcessor,
        AutoImageProcessor: Phi3VImageProcessor,
    }
    loaded = {auto: auto.from_pretrained(folder, trust_remote_code=False) for auto in expected}

    assert {auto: type(thing) for auto, thing in loaded.items()} == expected
    assert loaded[AutoImageProcessor].num_crops == 4
    prompt = "<|user|>\nthe chart 7!<|end|>\n<|assistant|>\n"
    for keywords in ({}, {"trust_remote_code": False}):
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, **keywords)
        ids = loaded[AutoProcessor].tokenizer.encode(prompt).ids
        assert tokenizer(prompt)["input_ids"] == ids


def test_auto_image_processor_gives_the_processor_s_pixels(tiny: LoadedModel) -> None:
    images = [picture(300, 300), picture(200, 500)]
    expected = tiny.processor("<|image_1|><|image_2|>", images, 4)

    batch = Phi3VImageProcessor(num_crops=16).preprocess(images, num_crops=4)

    assert torch.equal(batch["pixel_values"], arguments(expected)["pixel_values"])
    assert torch.equal(batch["image_sizes"], arguments(expected)["image_sizes"])
    assert sum(batch["num_img_tokens"]) == expected.num_image_tokens


def long_prompt(tiny: LoadedModel, num_tokens: int) -> ModelInputs:
    """An image at 16 crops and so much text that the prompt has num_tokens."""
    inputs = tiny.processor(QUESTION.format(""), [picture(336, 336)], 16)
    filler = torch.arange(num_tokens - inputs.num_tokens) % 250 + 260  # ids of words
    ids = torch.cat([inputs.input_ids, filler[None]], dim=1)
    return replace(inputs, input_ids=ids)


def last_logits(tiny: LoadedModel, inputs: dict[str, Any]) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = tiny.model(**inputs, logits_to_keep=1).logits[0, -1]
    return logits


def with_auto_map(source: Path, target: Path) -> Path:
    """A copy of the folder whose files point to remote code, as the published ones do."""
    shutil.copytree(source, target)
    pointers = {
        "config.json": {
            "AutoConfig": "configuration_phi3_v.Phi3VConfig",
            "AutoModelForCausalLM": "modeling_phi3_v.Phi3VForCausalLM",
        },
        "preprocessor_config.json": {
            "AutoImageProcessor": "image_processing_phi3_v.Phi3VImageProcessor",
            "AutoProcessor": "processing_phi3_v.Phi3VProcessor",
        },
    }
    for name, auto_map in pointers.items():
        content = json.loads((target / name).read_text())
        (target / name).write_text(json.dumps({**content, "auto_map": auto_map}))
    return target


def no_questions(prompt: str = "") -> str:
    raise AssertionError("asked on stdin")
