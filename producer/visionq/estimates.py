"""What a task would cost and how long it would take, before it is submitted. No I/O.

The tokens of images are exact. Those of the text are bounded on both sides, since the tokenizer is
the model's and no web backend has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from visionq.errors import PromptTooLong
from visionq.image_tokens import MIN_IMAGE_TOKENS, max_image_tokens

if TYPE_CHECKING:
    from visionq.contract import Lane, Task
    from visionq.fleet import Fleet
    from visionq.kinds import Kind

CHAT_FRAME = "<|user|>\n<|end|>\n<|assistant|>\n"
"""What the worker puts around the images and the words. Its three tags are a token each."""
NUM_TAGS = 3
MAX_TOKEN_BYTES = 32
"""No token stands for more of a text; the longest of the published vocabulary is one of 27."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What is known of a task before it is submitted. What nobody has told is None.

    `image_tokens`: of each image, exactly. `max_prompt_tokens`: of these and the text, at most; the
    text counts a token for each of its bytes, where it has rather one for four.
    `max_context_tokens`: of the worker with the smallest context. `fits`: whether the prompt does,
    even so, beside the `max_new_tokens` that were asked for, or else beside one. `position`: tasks
    before it in its lane, cancelled ones included. `seconds`: until it is done, if what comes is
    like what the workers had lately. `has_workers`: whether there is any worker at this moment.
    """

    image_tokens: tuple[int, ...]
    max_prompt_tokens: int
    max_new_tokens: int
    max_context_tokens: int | None
    fits: bool | None
    position: int
    seconds: float | None
    has_workers: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a task asks of a context, images aside."""

    words: str
    num_images: int
    num_crops: int
    max_new_tokens: int
    is_max_chosen: bool
    """Whether the task named `max_new_tokens`; if not, what does not fit is left off."""

    @property
    def min_text_tokens(self) -> int:
        # White space aside: any amount of it may go with a special token.
        num_bytes = len("".join(self.words.split()).encode())
        return NUM_TAGS + self._num_pieces + num_bytes // MAX_TOKEN_BYTES

    @property
    def max_text_tokens(self) -> int:
        # Each piece has a start token and a space of its own, and each image a line of its own.
        num_bytes = len((CHAT_FRAME + self.words).encode()) + self.num_images
        return num_bytes + 2 * self._num_pieces

    @property
    def new_tokens(self) -> int:
        """For which there has to be room."""
        return self.max_new_tokens if self.is_max_chosen else 1

    @property
    def max_image_tokens(self) -> int:
        """Of all its images, whatever they are."""
        return self.num_images * max_image_tokens(self.num_crops)

    def check(self, image_tokens: Sequence[int | None], context: int) -> None:
        """Raise `PromptTooLong` for what cannot fit, whatever the images are that are None."""
        known = (MIN_IMAGE_TOKENS if one is None else one for one in image_tokens)
        least = sum(known) + self.min_text_tokens
        if least + self.new_tokens > context:
            raise PromptTooLong(
                f"prompt and images take {least} tokens at least; with {self.new_tokens} new ones "
                f"they do not fit into {context}"
            )

    @property
    def _num_pieces(self) -> int:
        """Texts between the images, each of which is tokenised on its own."""
        return self.num_images + 1


def demand(task: Task, kind: Kind, num_images: int) -> Demand:
    options = task.options
    return Demand(
        words=kind.words(task.question, options.schema),
        num_images=num_images,
        num_crops=options.num_crops or kind.crops(num_images),
        max_new_tokens=options.max_new_tokens or kind.max_new_tokens,
        is_max_chosen=options.max_new_tokens is not None,
    )


def estimate(asked: Demand, image_tokens: Sequence[int], fleet: Fleet, lane: Lane) -> Estimate:
    most = sum(image_tokens) + asked.max_text_tokens
    context = fleet.min_context_tokens
    return Estimate(
        image_tokens=tuple(image_tokens),
        max_prompt_tokens=most,
        max_new_tokens=asked.max_new_tokens,
        max_context_tokens=context,
        fits=None if context is None else most + asked.new_tokens <= context,
        position=fleet.waiting[lane],
        seconds=fleet.seconds_until_done(lane),
        has_workers=bool(fleet.workers),
    )
