"""The masks of a step, computed beside the device's work.

What a mask depends on, the answer so far, is known before the step begins; so a thread of its own
asks for it while the engine's thread runs the model. On a CPU there is nothing to be beside: both
would share the cores, and a busy machine lets the engine wait for the second thread to be scheduled
(4.7 times a token without a mask was measured). There the engine's thread computes them itself.
Where no request has a mask, nothing happens.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias

import torch

from visionq_worker.engine.scheduler import Chunk
from visionq_worker.engine.sequence import Sequence

Found: TypeAlias = torch.Tensor | Exception | None


class Masks:
    """One thread, which first starts when there is a mask to compute; none with `is_inline`."""

    def __init__(self, *, is_inline: bool = False) -> None:
        self._is_inline = is_inline
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="visionq-masks")

    def begin(self, chunks: Iterable[Chunk]) -> StepMasks:
        """Start on the masks of the chunks that give a token."""
        asked = [chunk.sequence for chunk in chunks if chunk.is_last]
        asked = [sequence for sequence in asked if sequence.request.logit_mask is not None]
        if not asked:
            return StepMasks(None)
        if not self._is_inline:
            return StepMasks(self._thread.submit(_compute, asked))
        found: Future[dict[int, Found]] = Future()
        found.set_result(_compute(asked))
        return StepMasks(found)

    def close(self) -> None:
        self._thread.shutdown(wait=False)


class StepMasks:
    """What a step's masks will be."""

    def __init__(self, found: Future[dict[int, Found]] | None) -> None:
        self._found = found

    def of(self, sequence: Sequence) -> torch.Tensor | None:
        """The mask of its next token, waiting for it. Raises what the mask has raised."""
        if self._found is None:
            return None
        found = self._found.result().get(sequence.number)
        if isinstance(found, Exception):
            raise found
        return found


def _compute(sequences: Iterable[Sequence]) -> dict[int, Found]:
    return {sequence.number: _ask(sequence) for sequence in sequences}


def _ask(sequence: Sequence) -> Found:
    assert sequence.request.logit_mask is not None
    try:
        return sequence.request.logit_mask.allowed(sequence.answer)
    except Exception as error:  # a mask is a stranger's code
        return error
