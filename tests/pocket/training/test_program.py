"""The trainer's command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from visionq_worker.model.config import Phi3VConfig
from visionq_worker.pocket import CHECKPOINT
from visionq_worker.pocket.network import is_unused, new_model, pocket_config, write_pocket
from visionq_worker.pocket.training import state
from visionq_worker.pocket.training.__main__ import main


def program(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "visionq_worker.pocket.training", *arguments],
        check=False,
        capture_output=True,
        text=True,
    )


def test_the_program_begins_keeps_and_writes(tmp_path: Path) -> None:
    folder, checkpoint = tmp_path / "state", tmp_path / "checkpoint"
    flags = ["--steps=1", "--singles=1", "--pairs=1", "--processes=0", "--device=cpu"]
    flags += ["--sorts=scene=1", "--rate=0.5", "--dtype=bfloat16", "--freeze-tower"]
    done = program(
        folder, *flags, f"--begin-from={CHECKPOINT}", "--level=3", f"--write={checkpoint}"
    )
    assert done.returncode == 0, done.stderr
    kept, facts = state.load(folder)
    assert (facts.steps, facts.level, facts.pictures) == (1, 3, 1 + 2)
    begun, written = (load_file(one / "model.safetensors") for one in (CHECKPOINT, checkpoint))
    left = {name for name in written if f"weights.{name_of(name)}" not in kept}
    assert left == {name for name in written if is_unused(name, Phi3VConfig(**pocket_config()))}
    for name in written.keys() - left:
        assert written[name].equal(kept[f"weights.{name_of(name)}"].bfloat16()), name
        if ".img_processor." in name:
            assert written[name].equal(begun[name]), name
        # A step of the warm-up does not go far from where it began.
        assert (written[name].float() - begun[name].float()).abs().max() < 0.05, name


def test_the_program_writes_the_mean_with_another_checkpoint(tmp_path: Path) -> None:
    folder, other, checkpoint = (tmp_path / name for name in ("state", "other", "checkpoint"))
    write_pocket(other, new_model(1).state_dict())
    flags = ["--steps=1", "--singles=1", "--pairs=1", "--processes=0", "--device=cpu"]
    flags += [f"--mean-with={other}", "--share=0.25"]
    done = program(folder, *flags, f"--begin-from={CHECKPOINT}", f"--write={checkpoint}")
    assert done.returncode == 0, done.stderr
    others, written = (load_file(one / "model.safetensors") for one in (other, checkpoint))
    kept, _ = state.load(folder)
    name = "model.layers.0.mlp.down_proj.weight"
    mean = 0.75 * others[name].float() + 0.25 * kept[f"weights.{name_of(name)}"]
    torch.testing.assert_close(written[name], mean.bfloat16())


def name_of(name: str) -> str:
    """In the state, which has the head for patches beside the model."""
    return f"model.{name}"


@pytest.mark.parametrize(
    ("flags", "trouble"),
    [
        ([], "say how long"),
        (["--steps=1", "--level=9"], "invalid choice: 9"),
        (["--steps=1", "--sorts=poem=1"], "'poem' is no sort of one picture: cover, "),
        (["--steps=1", "--sorts=cover=1,scene"], "scene needs a share"),
        (["--steps=1", "--sorts=cover=0"], "a share is a number above 0"),
        (["--steps=1", "--sorts=cover=nan"], "a share is a number above 0"),
        (["--steps=1", "--sorts=cover=1,cover=2"], "cover is there twice"),
        (["--steps=1", "--mean-with=there"], "--mean-with is of what --write writes"),
        (["--steps=1", "--mean-with=there", "--write=x"], "there has no model.safetensors"),
        (["--steps=1", "--share=0.3"], "--share is of a mean"),
        (["--steps=1", "--passes=0"], "--passes must be 1 at least"),
        (["--steps=1", "--rate=2"], "2 is not from 0 to 1"),
        (["--steps=1", "--easier=-1"], "-1 is not from 0 to 1"),
        (["--only-write"], "--only-write needs --write"),
        (["--only-write", "--write=there"], "--only-write needs --write, and a state"),
    ],
)
def test_the_program_says_what_is_missing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    trouble: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["training", str(tmp_path / "state"), *flags])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert trouble in capsys.readouterr().err
    assert not (tmp_path / "state").exists()
