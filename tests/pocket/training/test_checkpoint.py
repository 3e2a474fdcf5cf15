"""The shipped checkpoint: of the shape that is trained, loaded as any, named by what it says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from visionq_worker.model.config import Phi3VConfig
from visionq_worker.model.weights import load_model
from visionq_worker.pocket import CHECKPOINT, revision, revision_of
from visionq_worker.pocket.network import NUM_CROPS, new_model, pocket_config, write_pocket


def test_a_cast_of_the_whole_model_changes_no_angle() -> None:
    """A frequency that is rounded in training and exact in use is a radian after 1,000 tokens."""
    exact = new_model(0).model.rotary_emb.inv_freq
    cast = new_model(0).bfloat16().model.rotary_emb.inv_freq.float()
    assert (1500 * (exact - cast)).abs().max() < 1e-3


def test_the_shipped_checkpoint_is_of_the_shape_that_is_trained() -> None:
    config = Phi3VConfig(**json.loads((CHECKPOINT / "config.json").read_text()))
    assert config.to_dict() == Phi3VConfig(**pocket_config()).to_dict()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_whatever_changes_answers_changes_the_revision(tmp_path: Path, name: str) -> None:
    """Results are reused by it."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(CHECKPOINT, folder)
    assert revision_of(folder) == revision()
    (folder / "README.md").write_text("another card")
    assert revision_of(folder) == revision()
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    assert revision_of(folder) != revision()


def test_a_checkpoint_is_loaded_by_the_code_that_loads_any(tmp_path: Path) -> None:
    model = new_model(0)
    write_pocket(tmp_path, model.state_dict())
    loaded = load_model(
        str(tmp_path), revision=None, device="cpu", dtype="bfloat16", attention="sdpa"
    )
    assert (tmp_path / "model.safetensors").stat().st_size <= 20_000_000
    assert loaded.processor.max_num_crops == NUM_CROPS
    for name, weights in model.state_dict().items():
        assert loaded.model.state_dict()[name].equal(weights.bfloat16())
