"""Loading a checkpoint: strict, safetensors only, one typed error for all that can go wrong."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file

from visionq_worker.model.errors import ModelLoadError
from visionq_worker.model.phi3v import Phi3VForCausalLM
from visionq_worker.model.weights import LoadedModel, load_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CPU = {"device": "cpu", "dtype": "float32", "attention": "sdpa"}


def load(source: Path | str, **changes: str) -> LoadedModel:
    return load_model(str(source), revision=None, **{**CPU, **changes})


@pytest.fixture
def copy(tiny_folder: Path, tmp_path: Path) -> Path:
    """A checkpoint to spoil."""
    folder: Path = shutil.copytree(tiny_folder, tmp_path / "copy")
    return folder


def test_loaded_model_says_what_it_is(tiny: LoadedModel, tiny_folder: Path) -> None:
    assert tiny.model_id == str(tiny_folder)
    assert tiny.revision is None
    assert (tiny.device, tiny.dtype, tiny.attention) == ("cpu", "float32", "sdpa")
    stored = load_file(tiny_folder / "model.safetensors")
    assert tiny.num_parameters == sum(tensor.numel() for tensor in stored.values())
    assert not tiny.model.training


def test_loaded_model_stops_where_a_chat_ends(tiny: LoadedModel) -> None:
    settings: Any = tiny.model.generation_config
    assert set(settings.eos_token_id) == tiny.config.stop_token_ids
    assert settings.pad_token_id == tiny.config.pad_token_id
    assert settings.suppress_tokens == [tiny.config.image_token_id]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_dtype_and_attention_loads(tiny_folder: Path, dtype: str, attention: str) -> None:
    loaded = load(tiny_folder, dtype=dtype, attention=attention)

    assert {tensor.dtype for tensor in loaded.model.parameters()} == {getattr(torch, dtype)}
    assert loaded.model.config._attn_implementation == attention
    assert loaded.config.tower._attn_implementation == attention


def test_saved_model_has_the_published_names_and_loads_again(
    tiny: LoadedModel, tiny_folder: Path, tmp_path: Path
) -> None:
    tiny.model.save_pretrained(tmp_path, max_shard_size="1MB")

    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    original = load_file(tiny_folder / "model.safetensors")
    assert sorted(index["weight_map"]) == sorted(original)
    for name in ("tokenizer.json", "preprocessor_config.json"):
        shutil.copy(tiny_folder / name, tmp_path)
    again = load(tmp_path)
    for name, tensor in again.model.state_dict().items():
        assert torch.equal(tensor, original[name]), name
    assert again.config.to_diff_dict() == tiny.config.to_diff_dict()


def test_published_style_generation_file_does_not_hide_the_ends(copy: Path) -> None:
    (copy / "generation_config.json").write_text('{"eos_token_id": 2, "bos_token_id": 1}')
    settings: Any = load(copy).model.generation_config
    assert set(settings.eos_token_id) == {2, 512, 519}


def without_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.vision_embed_tokens.glb_GN"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def with_one_more_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.vision_embed_tokens.wte.weight"] = torch.zeros(3)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def with_another_shape(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = torch.zeros(7, 192)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def cut_short(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def without_a_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 4096)


def empty(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def only_pickles(folder: Path) -> None:
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def removed(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def damaged(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).write_text('{"half": ')

    return spoil


def of_another_model(folder: Path) -> None:
    change_config(folder, model_type="phi3")


def without_the_placeholder(folder: Path) -> None:
    change_config(folder, image_token_id=32044)


def with_a_short_rope(folder: Path) -> None:
    rope = {"type": "su", "short_factor": [1.0], "long_factor": [1.0]}
    change_config(folder, rope_scaling=rope)


def change_config(folder: Path, **changes: Any) -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, **changes}))


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (without_a_tensor, "missing"),
        (with_one_more_tensor, "unexpected"),
        (with_another_shape, "weights"),
        (cut_short, "weights"),
        (without_a_header, "weights"),
        (empty, "weights"),
        (only_pickles, "weights"),
        (removed("config.json"), "config.json"),
        (damaged("config.json"), "config.json"),
        (of_another_model, "phi3_v"),
        (with_a_short_rope, "config.json"),
        (removed("tokenizer.json"), "tokenizer.json"),
        (damaged("tokenizer.json"), "tokenizer.json"),
        (without_the_placeholder, "image_token_id"),
        (removed("preprocessor_config.json"), "preprocessor_config.json"),
        (damaged("preprocessor_config.json"), "preprocessor_config.json"),
    ],
)
def test_spoilt_checkpoint_is_refused_in_one_line(
    copy: Path, spoil: Callable[[Path], None], word: str
) -> None:
    spoil(copy)

    with pytest.raises(ModelLoadError, match=word) as caught:
        load(copy)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"dtype": "float8"}, "float32, bfloat16, float16"),
        ({"device": "toaster"}, "cpu, cuda"),
        ({"device": "meta"}, "cpu, cuda"),
        ({"device": "cuda:99"}, "not there"),
        ({"attention": "magic"}, "sdpa, eager, flash_attention_2"),
        ({"attention": "flash_attention_2"}, "sdpa"),
    ],
)
def test_impossible_wish_is_refused_with_what_is_possible(
    tiny_folder: Path, change: dict[str, str], hint: str
) -> None:
    with pytest.raises(ModelLoadError, match=hint):
        load(tiny_folder, **change)


@pytest.mark.skipif(find_spec("flash_attn") is not None, reason="flash-attn is installed")
def test_flash_attention_that_is_not_installed_is_named(tiny_folder: Path) -> None:
    with pytest.raises(ModelLoadError, match="flash-attn"):
        load(tiny_folder, attention="flash_attention_2")


@pytest.mark.parametrize("source", ["./no/such/folder", "/no/such/folder", "a/b/c", "not an id"])
def test_source_that_is_neither_folder_nor_hub_id_is_refused(source: str) -> None:
    with pytest.raises(ModelLoadError, match="hub id"):
        load(source)


def test_model_that_is_not_cached_needs_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelLoadError, match="cannot be reached"):
        load("someone/some-model")


def test_cached_model_loads_without_the_network_at_its_commit(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "models--someone--some-model"
    shutil.copytree(tiny_folder, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))

    loaded = load("someone/some-model")

    assert (loaded.model_id, loaded.revision) == ("someone/some-model", commit)
    assert type(loaded.model) is Phi3VForCausalLM
