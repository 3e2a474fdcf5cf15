"""From the settings to an engine: what `auto` means here, and the checkpoint made on the spot."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from visionq.settings import EngineSettings, ModelSettings
from visionq_worker import __version__, loading
from visionq_worker.engine.errors import EngineError
from visionq_worker.engine.request import Engine
from visionq_worker.errors import StartError
from visionq_worker.loading import Choice, choose, load_engine, tiny_folder
from visionq_worker.model.tiny import make_tiny

TINY_FILES = {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
}
MAKE_IN_TWO_PROCESSES = """
import os, sys
import visionq_worker.model.tiny
from visionq_worker.loading import tiny_folder

child = os.fork()
folder = tiny_folder()
if not child:
    os._exit(0 if (folder / "config.json").exists() else 1)
print(folder)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def settings(**given: Any) -> ModelSettings:
    return ModelSettings(**({"source": "some/model", "revision": "abc"} | given))


def load(**given: Any) -> Engine:
    return load_engine(settings(**given), EngineSettings(), on_broken=lambda: None)


@needs_no_gpu
def test_auto_without_a_gpu_is_float32_on_the_cpu() -> None:
    assert choose(settings()) == Choice(
        source="some/model", revision="abc", device="cpu", dtype="float32"
    )


def test_auto_on_a_named_gpu_is_bfloat16() -> None:
    choice = choose(settings(device="cuda:1"))
    assert (choice.device, choice.dtype) == ("cuda:1", "bfloat16")


def test_what_is_named_is_not_decided_anew() -> None:
    named = settings(device="cpu", dtype="bfloat16")
    assert choose(named) == Choice(
        source="some/model", revision="abc", device="cpu", dtype="bfloat16"
    )


def test_tiny_checkpoint_is_made_once_in_the_users_cache(cache: Path) -> None:
    folder = tiny_folder()
    assert folder == cache / "visionq" / f"tiny-{__version__}"
    assert {file.name for file in folder.iterdir()} == TINY_FILES
    made_at = (folder / "model.safetensors").stat().st_mtime_ns
    assert tiny_folder() == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == made_at
    assert list(folder.parent.iterdir()) == [folder]


def test_tiny_checkpoint_is_found_by_its_name(cache: Path) -> None:
    assert choose(settings(source="tiny")).source == str(cache / "visionq" / f"tiny-{__version__}")


def test_two_processes_at_once_share_one_tiny_checkpoint(cache: Path) -> None:
    command = [sys.executable, "-c", MAKE_IN_TWO_PROCESSES]
    made = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert made.returncode == 0, made.stderr
    folder = cache / "visionq" / f"tiny-{__version__}"
    assert made.stdout.strip() == str(folder)
    assert {file.name for file in folder.iterdir()} == TINY_FILES
    assert list(folder.parent.iterdir()) == [folder]


def test_tiny_checkpoint_that_another_process_finished_first_is_kept(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cache / "visionq" / f"tiny-{__version__}"

    def make_too_late(target: Path) -> Path:
        make_tiny(folder, seed=1)
        return make_tiny(target, seed=2)

    monkeypatch.setattr("visionq_worker.model.tiny.make_tiny", make_too_late)
    assert tiny_folder() == folder
    first = make_tiny(cache / "first", seed=1)
    kept, expected = (path / "model.safetensors" for path in (folder, first))
    assert kept.read_bytes() == expected.read_bytes()
    assert list(folder.parent.iterdir()) == [folder]


def test_cache_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(StartError, match=r"^model: the tiny checkpoint cannot be made: "):
        tiny_folder()


def test_missing_model_folder_is_named() -> None:
    with pytest.raises(StartError) as caught:
        load(source="./no-such-model", device="cpu")
    assert str(caught.value) == (
        "model: no model folder at ./no-such-model: correct the path or use a hub id"
    )


@needs_no_gpu
def test_missing_gpu_is_named() -> None:
    with pytest.raises(StartError, match=r"^model: device cuda is not there: "):
        load(source="tiny", device="cuda")


def test_model_that_cannot_answer_its_first_request_is_no_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_engine: Engine) -> None:
        raise EngineError("the model failed") from RuntimeError("no kernel image\nmore\n")

    monkeypatch.setattr(loading, "warm_up", fail)
    num_before = num_engine_threads()
    with pytest.raises(StartError) as caught:
        load(source="tiny", device="cpu")
    assert str(caught.value) == "model: the first request failed: no kernel image"
    assert num_engine_threads() == num_before


def num_engine_threads() -> int:
    return [thread.name for thread in threading.enumerate()].count("visionq-engine")
