"""The batching engine against the figures of the original code (golden/phi3v/README.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from visionq_worker.engine.batching import BatchingEngine
from visionq_worker.engine.options import EngineOptions
from visionq_worker.engine.request import EngineInfo, Request
from visionq_worker.engine.runner import ModelRunner
from visionq_worker.model.attention import SdpaAttention
from visionq_worker.model.config import HUB_IMAGE_TOKEN_ID
from visionq_worker.model.pixels import Picture
from visionq_worker.model.processor import ModelInputs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.model.conftest import GoldenCase
    from visionq_worker.engine.scheduler import Chunk
    from visionq_worker.model.phi3v import Phi3VForCausalLM

LOGIT_ATOL = 1e-5  # float32, another order of additions than the reference's
NUM_NEW = 24
PAGE_TOKENS = 256


class FirstLogits(ModelRunner):
    """Keeps the scores of each request's first token, by the length of its prompt."""

    first: dict[int, torch.Tensor]

    def run(self, chunks: Sequence[Chunk]) -> torch.Tensor:
        logits = super().run(chunks)
        for chunk, row in zip([chunk for chunk in chunks if chunk.is_last], logits, strict=True):
            self.first.setdefault(chunk.sequence.num_prompt, row.clone())
        return logits


@pytest.fixture(scope="module")
def runner(golden_models: dict[str, Phi3VForCausalLM]) -> FirstLogits:
    options = EngineOptions(step_tokens=2_000, page_tokens=PAGE_TOKENS)
    runner = FirstLogits(golden_models["sdpa"], SdpaAttention(PAGE_TOKENS), options)
    runner.first = {}
    return runner


@pytest.fixture(scope="module")
def engine(runner: FirstLogits) -> Iterator[BatchingEngine]:
    info = EngineInfo(
        model="golden",
        revision=None,
        dtype="float32",
        device="cpu",
        attention="sdpa",
        max_context_tokens=16_384,
    )
    built = BatchingEngine(
        runner,
        None,  # type: ignore[arg-type]  # prompts come as ids
        info,
        EngineOptions(step_tokens=2_000, page_tokens=PAGE_TOKENS),
        num_vocabulary=32_064,
        checks_every_step=True,
    )
    yield built
    built.close()


def inputs_of(case: GoldenCase) -> ModelInputs:
    ids = case.model_inputs["input_ids"]
    is_image = (ids[0] == HUB_IMAGE_TOKEN_ID).tolist()
    starts = [i for i, here in enumerate(is_image) if here and not is_image[i - 1]]
    return ModelInputs(
        input_ids=ids,
        pictures=tuple(Picture.of(image, case.num_crops) for image in case.images),
        image_starts=tuple(starts),
        num_image_tokens=sum(is_image),
        num_crops=case.num_crops,
    )


def test_all_cases_at_once_equal_the_reference(
    engine: BatchingEngine, runner: FirstLogits, golden_cases: dict[str, GoldenCase]
) -> None:
    """One batch of texts and images, short and long: tokens equal, scores within 1e-5."""
    handles = {}
    for name, case in golden_cases.items():
        request = Request(
            inputs=inputs_of(case), max_new_tokens=NUM_NEW, stop_token_ids=frozenset()
        )
        handles[name] = engine.submit(request)
    assert len(handles) == 5
    for name, handle in handles.items():
        case = golden_cases[name]
        assert handle.result().token_ids == tuple(case.figures["generated"].tolist()), name
        torch.testing.assert_close(
            runner.first[inputs_of(case).num_tokens],
            case.figures["logits_last2"][-1],
            rtol=0,
            atol=LOGIT_ATOL,
        )
    assert engine.metrics().num_running == 0
