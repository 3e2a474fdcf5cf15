"""From a task to the prompt the model is given.

The chat form is the model's own: image tags first, then the text, all in one user turn.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from visionq.contract import FailureCode, Task
from visionq.kinds import Kind
from visionq_worker.documents import instruction
from visionq_worker.errors import TaskError

CROPS_FOR_ONE_IMAGE = 16
CROPS_FOR_SEVERAL = 4
"""Both from the model's card: 16 for single images, 4 for multi-frame."""

_MODEL_TAGS = re.compile(r"<\|[^\s|>]{1,40}\|>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A task as the model will see it."""

    text: str
    num_crops: int
    max_new_tokens: int
    is_max_chosen: bool
    """Whether the task named `max_new_tokens`; if not, what does not fit is left off."""

    def digest(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


def render(task: Task, kind: Kind) -> Prompt:
    """The prompt of a task of this kind.

    Raises `TaskError` for a question that contains the model's own tags: they would end the turn
    or address images that are not there.
    """
    question = task.question if task.question is not None else kind.default_question or ""
    if _MODEL_TAGS.search(question):
        raise TaskError(FailureCode.PROMPT_TAGS, "the question contains a tag such as <|end|>")
    text = kind.prompt.replace("{question}", question).strip()
    if task.options.schema is not None:
        text = f"{text}\n{instruction(task.options.schema)}".lstrip()
    tags = "".join(f"<|image_{number}|>\n" for number in range(1, len(task.images) + 1))
    several = len(task.images) > 1
    options = task.options
    return Prompt(
        text=f"<|user|>\n{tags}{text}<|end|>\n<|assistant|>\n",
        num_crops=options.num_crops
        or kind.num_crops
        or (CROPS_FOR_SEVERAL if several else CROPS_FOR_ONE_IMAGE),
        max_new_tokens=options.max_new_tokens or kind.max_new_tokens,
        is_max_chosen=options.max_new_tokens is not None,
    )
