"""What kind of worker is to be born: plain values that travel to the nursery as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

Sort = Literal["ours", "stock"]

# A question that holds one of these words does it to the worker that runs the task.
POISON = "POISON"
"""The process dies, each time."""
GORGE = "GORGE"
"""The process takes memory, more and more of it, each time."""
HANG_ONCE = "HANG-ONCE"
"""The device never finishes another step."""
SPOIL_ONCE = "SPOIL-ONCE"
"""The device is lost, as after a fatal CUDA error."""
DIE_AFTER_PUT_ONCE = "DIE-AFTER-PUT-ONCE"
"""The process dies when the result is stored, before anybody is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """One worker. `env` holds its settings; `folder` is the scene's, for journal, logs, marks."""

    env: Mapping[str, str] = field(repr=False)
    folder: str
    sort: Sort = "ours"
    log_name: str = "worker.log"
    step_seconds: float = 0.01
    max_running: int = 64
    hang_seconds: float = 60.0
    skew_seconds: float = 0.0
    fits_at_most: int | None = None
    can_load: bool = True
    is_disk_full: bool = False
    lease_seconds: float = 3.0

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> WorkerSpec:
        return cls(**json.loads(text))
