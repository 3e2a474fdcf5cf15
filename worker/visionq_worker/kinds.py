"""From a task to the prompt the model is given.

The chat form is the model's own: image tags first, then the text, all in one user turn.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from visionq.contract import FailureCode, Task
from visionq.kinds import Kind, at_most, schema_text
from visionq_worker.errors import TaskError
from visionq_worker.model.tags import TAG


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


def render(task: Task, kind: Kind, max_num_crops: int | None = None) -> Prompt:
    """The prompt of a task of this kind, for a model that takes so many crops of an image at most.

    Raises `TaskError` for a question or a schema that contains the model's own tags: they would end
    the turn or address images that are not there. Other control tokens, such as `</s>`, are text
    (`model.processor`).
    """
    options = task.options
    question = task.question if task.question is not None else kind.default_question or ""
    _refuse_tags("question", question)
    if options.schema is not None:
        _refuse_tags("schema", schema_text(options.schema))
    return Prompt(
        text=chat(len(task.images), kind.words(task.question, options.schema)),
        num_crops=at_most(options.num_crops or kind.crops(len(task.images)), max_num_crops),
        max_new_tokens=options.max_new_tokens or kind.max_new_tokens,
        is_max_chosen=options.max_new_tokens is not None,
    )


def chat(num_images: int, words: str) -> str:
    """One turn of a user, with so many images."""
    tags = "".join(f"<|image_{number}|>\n" for number in range(1, num_images + 1))
    return f"<|user|>\n{tags}{words}<|end|>\n<|assistant|>\n"


def _refuse_tags(what: str, text: str) -> None:
    if TAG.search(text):
        raise TaskError(FailureCode.PROMPT_TAGS, f"the {what} contains a tag such as <|end|>")
