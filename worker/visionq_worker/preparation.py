"""From a task's files to the inputs of the model, within the memory a worker may take for that.

How long a picture waits for memory counts as preparing it.
"""

from __future__ import annotations

from threading import BoundedSemaphore, Lock
from time import perf_counter
from typing import TYPE_CHECKING

from visionq.contract import FailureCode
from visionq_worker.budget import Budget
from visionq_worker.errors import TaskError
from visionq_worker.footprint import Decoding, peak_bytes
from visionq_worker.images import Header, ImageLimits, open_image
from visionq_worker.malloc import give_back
from visionq_worker.model.errors import ImageShapeError, InputError
from visionq_worker.pdf_pages import MAX_PAGE_BYTES, render_page
from visionq_worker.verdict import FONT_MISSING

if TYPE_CHECKING:
    from visionq_worker.engine.request import Engine
    from visionq_worker.model.geometry import Size
    from visionq_worker.model.pixels import Picture
    from visionq_worker.results import Run
    from visionq_worker.sources import Source

MEGABYTE = 1_000_000

LARGE_BYTES = 64 * MEGABYTE
"""From here on, what smaller pictures have left in the heaps goes first: a large one's memory comes
from the system, and both together could be twice what is allowed."""


class Preparation:
    """Fills in the inputs of runs. Serves all threads of a worker."""

    def __init__(
        self,
        engine: Engine,
        limits: ImageLimits,
        *,
        decoding: Decoding,
        has_fast_decoder: bool,
        max_bytes: int,
        max_at_once: int,
    ) -> None:
        """`max_bytes`: of memory for all pictures that are being prepared.

        `max_at_once`: how many those are; more than cores gain nothing.
        """
        self._engine = engine
        self._limits = limits
        self.decoding = decoding
        self._has_fast_decoder = has_fast_decoder
        # Taken first, and never while memory is held: so nobody waits for one who waits for him.
        self._places = BoundedSemaphore(max_at_once)
        self._page_turn = Lock()
        self._budget = Budget(max_bytes)

    def prepare(self, run: Run) -> None:
        """Set `run.inputs`, `run.sizes` and `run.input_reasons`. Raises `TaskError`."""
        assert run.prompt is not None
        began = perf_counter()
        num_crops = run.prompt.num_crops
        try:
            developed = [self._develop(source, num_crops) for source in run.sources]
            pictures = [picture for picture, _, _ in developed]
            run.inputs = self._engine.encode(run.prompt.text, pictures, num_crops)
        except ImageShapeError as error:
            raise TaskError(FailureCode.IMAGE_SHAPE, str(error)) from error
        except InputError as error:
            raise TaskError(FailureCode.PROMPT_TAGS, str(error)) from error
        run.sizes = tuple(size for _, size, _ in developed)
        is_font_missing = any(has_undrawn_text for *_, has_undrawn_text in developed)
        run.input_reasons = (FONT_MISSING,) if is_font_missing else ()
        run.seconds["prepare"] = perf_counter() - began

    def _develop(self, source: Source, num_crops: int) -> tuple[Picture, Size, bool]:
        """One file's picture, as soon as there is memory for it, and whether text is missing."""
        from visionq_worker.developing import develop_exactly, develop_fast  # brings torch

        if source.page is not None and self._limits.pdf:
            return self._develop_page(source.content, source.page, num_crops)
        with self._places:
            opened = open_image(source.content, self._limits)
            needed = self._needed_bytes(opened.header, num_crops)
            with self._budget.take(needed):
                if needed >= LARGE_BYTES:
                    give_back()
                if self.decoding == "exact":
                    return (*develop_exactly(opened, num_crops), False)
                has_fast_decoder = self._has_fast_decoder
                return (*develop_fast(opened, num_crops, has_fast_decoder=has_fast_decoder), False)

    def _develop_page(
        self, content: bytes, page: int, num_crops: int
    ) -> tuple[Picture, Size, bool]:
        from visionq_worker.model.pixels import Picture  # brings torch

        max_bytes = min(MAX_PAGE_BYTES, self._budget.num_bytes)
        # One waits for memory at a time: behind several, all the small pictures would wait, too.
        with self._page_turn, self._places, self._budget.take(max_bytes):
            rendered = render_page(content, page, num_crops, max_bytes=max_bytes)
            picture = Picture.fitted(rendered.pixels)
            return picture, rendered.points, rendered.has_undrawn_text

    def _needed_bytes(self, header: Header, num_crops: int) -> int:
        needed, there = peak_bytes(header, num_crops, self.decoding), self._budget.num_bytes
        if needed > there:
            message = (
                f"a {header.form} of {header.width} x {header.height} pixels takes "
                f"{needed / MEGABYTE:.0f} MB to decode; {there / MEGABYTE:.0f} MB are allowed"
            )
            raise TaskError(FailureCode.IMAGE_TOO_LARGE, message)
        return needed
