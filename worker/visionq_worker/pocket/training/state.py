"""What a slice of training leaves for the next: weights, how far they are, Adam's second moments.

In files of hardly more than 15 MB, so that they can travel anywhere. The second moments are kept in
bfloat16; the first ones not at all, since they look back ten steps only.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

MAX_FILE_BYTES = 15_000_000
"""Of tensors; names come on top of it."""
FACTS = "facts.json"
WEIGHTS, MOMENTS = "weights.", "moments."
"""What names begin with."""


@dataclass(slots=True, kw_only=True)
class Facts:
    """How far training is. `seconds` of work, by device."""

    steps: int = 0
    pictures: int = 0
    level: int = 0
    next_seed: int = 0
    seconds: dict[str, float] = field(default_factory=dict)


def save(folder: Path, tensors: Mapping[str, torch.Tensor], facts: Facts) -> None:
    """Write the state, in place of the one that is there.

    Killed at any moment, it leaves one of the two whole.
    """
    making, old = (folder.with_name(f"{folder.name}.{end}") for end in ("new", "old"))
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    for number, part in enumerate(_parts(tensors)):
        save_file(part, making / f"state-{number:03d}.safetensors")
    (making / FACTS).write_text(json.dumps(asdict(facts), indent=1) + "\n", encoding="utf-8")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    making.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def is_there(folder: Path) -> bool:
    """Whether there is a state to go on from; one that was put aside and not replaced is back."""
    old = folder.with_name(f"{folder.name}.old")
    if not folder.exists() and (old / FACTS).exists():
        old.rename(folder)
    return (folder / FACTS).exists()


def load(folder: Path) -> tuple[dict[str, torch.Tensor], Facts]:
    """The state of a folder. Raises `FileNotFoundError` where there is none."""
    facts = Facts(**json.loads((folder / FACTS).read_text(encoding="utf-8")))
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("state-*.safetensors")):
        tensors |= load_file(file)
    return tensors, facts


def _parts(tensors: Mapping[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    part: dict[str, torch.Tensor] = {}
    num_bytes = 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        if part and num_bytes + size > MAX_FILE_BYTES:
            yield part
            part, num_bytes = {}, 0
        part[name] = tensor.detach().cpu().contiguous()
        num_bytes += size
    yield part
