"""The prompt that the model would get for a task, and how many tokens it takes.

Asks the tokenizer and the images themselves: no weights, no device, no queue, no store. Importing
this brings torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from visionq.contract import FailureCode, ImageRef
from visionq.inputs import read_content, split_page
from visionq.kinds import find_kind
from visionq.submissions import draft
from visionq_worker.developing import Upright
from visionq_worker.errors import StartError, TaskError
from visionq_worker.images import ImageLimits, open_image, set_up_pillow
from visionq_worker.kinds import render
from visionq_worker.loading import choose
from visionq_worker.model.checkpoint import DESCRIPTIONS, find_checkpoint
from visionq_worker.model.errors import ImageShapeError, InputError, ModelLoadError
from visionq_worker.model.geometry import Size, num_image_tokens
from visionq_worker.model.processor import Phi3VProcessor
from visionq_worker.pdf_pages import MAX_PAGE_BYTES, render_page
from visionq_worker.sources import page_meant

if TYPE_CHECKING:
    from visionq.settings import ModelSettings, Settings
    from visionq.submissions import Submission

_SIZE = re.compile(r"([0-9]{1,6})x([0-9]{1,6})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """A prompt and its figures. `digest` is the one that a result's provenance would carry."""

    text: str
    num_tokens: int  # of the whole prompt
    image_tokens: tuple[int, ...]  # per image
    num_crops: int
    max_new_tokens: int
    kind: str
    version: int
    digest: str


def render_submission(
    submission: Submission, images: Sequence[str], settings: Settings
) -> Rendering:
    """What a worker would make of a submission about these images: files, or `WIDTHxHEIGHT`.

    Raises `InvalidTask` and `TaskError` as a submit or a worker would, and `StartError` where there
    is no tokenizer.
    """
    kind = find_kind(settings.kinds, submission.kind)
    kind.check(submission.kind, len(images), submission.question)
    # Where they would lie in the store is of no account here.
    places = tuple(ImageRef(ref=f"inputs/{number}") for number in range(len(images)))
    processor = _processor(settings.model)
    prompt = render(draft(submission, places), kind, processor.max_num_crops)
    limits = ImageLimits.of(settings.limits)
    set_up_pillow(limits.formats)
    sizes = [_size(image, limits, prompt.num_crops) for image in images]
    try:
        image_tokens = tuple(num_image_tokens(*size, prompt.num_crops) for size in sizes)
        num_tokens = processor.num_prompt_tokens(prompt.text, sizes, prompt.num_crops)
    except ImageShapeError as error:
        raise TaskError(FailureCode.IMAGE_SHAPE, str(error)) from error
    except InputError as error:
        raise TaskError(FailureCode.PROMPT_TAGS, str(error)) from error
    return Rendering(
        text=prompt.text,
        num_tokens=num_tokens,
        image_tokens=image_tokens,
        num_crops=prompt.num_crops,
        max_new_tokens=prompt.max_new_tokens,
        kind=submission.kind,
        version=kind.version,
        digest=prompt.digest(),
    )


def _size(image: str, limits: ImageLimits, num_crops: int) -> Size:
    """Upright, in pixels, or as a page is measured."""
    if match := _SIZE.fullmatch(image):
        return Size(int(match[1]), int(match[2]))
    file, asked = split_page(image)
    content = read_content(file)
    page = page_meant(content, asked)
    if page is not None and limits.pdf:
        return render_page(content, page, num_crops, max_bytes=MAX_PAGE_BYTES).shape
    return Upright(open_image(content, limits).load()).size


def _processor(settings: ModelSettings) -> Phi3VProcessor:
    choice = choose(settings)
    try:
        checkpoint = find_checkpoint(choice.source, choice.revision, DESCRIPTIONS)
        return Phi3VProcessor.from_pretrained(checkpoint.folder)
    except ModelLoadError as exc:
        raise StartError(f"model: {exc}") from exc
