"""Masks of a schema: what may come next, when it is computed, and what it leaves alone."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.engine.rig import open_rig, text_inputs
from tests.support.pocket import pocket_grammars
from tests.support.tiny import tiny_model
from visionq.schemas import strict_schema
from visionq_worker.engine.errors import RequestFailed, RequestInvalid
from visionq_worker.engine.grammar import GrammarFailed, Grammars, SchemaMask
from visionq_worker.engine.reference import ReferenceEngine
from visionq_worker.engine.request import Request
from visionq_worker.pocket.text import answer_ids

BOOK = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "maxLength": 30},
        "year": {"type": "integer", "minimum": 1000, "maximum": 2999},
    },
    "required": ["title", "year"],
}


def grammars() -> Grammars:
    loaded = tiny_model()
    return Grammars(
        loaded.processor.tokenizer,
        stop_token_ids=loaded.processor.stop_token_ids,
        num_vocabulary=loaded.config.vocab_size,
    )


def mask(schema: dict[str, Any]) -> SchemaMask:
    return grammars().mask(strict_schema(schema))


def byte_ids(text: str) -> list[int]:
    """One token per byte: ids 3 to 258."""
    return [byte + 3 for byte in text.encode()]


def stops(allowed: torch.Tensor) -> frozenset[int]:
    return tiny_model().processor.stop_token_ids & set(allowed.nonzero()[:, 0].tolist())


def test_a_stop_token_may_come_where_the_document_is_complete_and_only_there() -> None:
    followed = mask({"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]})
    ids = byte_ids('{"a": 1}')
    for length in range(len(ids)):
        assert not stops(followed.allowed(ids[:length]))
    allowed = followed.allowed(ids)
    assert stops(allowed) == tiny_model().processor.stop_token_ids
    assert int(allowed.sum()) == 3


def test_a_number_may_end_or_go_on() -> None:
    followed = mask({"type": "integer", "minimum": 0, "maximum": 99})
    allowed = followed.allowed(byte_ids("7"))
    assert stops(allowed)
    assert allowed[byte_ids("0")[0]]


@pytest.mark.parametrize("text", ["</s>", "<s>", "<unk>", "<|end|>", "<0x41>", "\x80"])
def test_text_that_looks_like_a_token_is_written_as_text(text: str) -> None:
    """The published `</s>` is a stop token, and its text is four characters like any others."""
    followed = mask({"const": text})
    processor = tiny_model().processor
    said: list[int] = []
    while not stops(allowed := followed.allowed(said)):
        said.append(int(allowed.nonzero()[0, 0]))
    assert processor.decode(said) == f'"{text}"'


def test_prescribed_text_has_the_tokens_of_a_prompt_where_the_tokenizer_has_merges() -> None:
    followed = mask(BOOK)
    prompt = tiny_model().processor.tokenizer.encode('{"title"', add_special_tokens=False).ids
    said: list[int] = []
    while (allowed := followed.allowed(said)).sum() == 1:
        said.append(int(allowed.nonzero()[0, 0]))
    assert tiny_model().processor.decode(said).startswith('{"title"')
    assert len(said) < len('{"title": "')
    assert set(said) & {one for one in prompt if one > 258}, "pieces of several letters"


def test_without_merges_the_model_chooses_among_letters_and_phrases() -> None:
    followed = pocket_grammars().mask(strict_schema(BOOK))
    (brace,) = answer_ids("{")
    allowed = followed.allowed([brace])
    assert allowed[answer_ids('"title": "')].all()
    assert allowed[answer_ids('"')].all()
    assert not allowed[answer_ids('"author": "')].any(), "it is not in the schema"


def test_a_schema_that_nothing_fits_is_refused_without_merges_too() -> None:
    with pytest.raises(RequestInvalid, match="the schema cannot be enforced"):
        pocket_grammars().mask({"type": "string", "minLength": 3, "maxLength": 2})


def test_asking_again_changes_nothing() -> None:
    followed = mask(BOOK)
    first = followed.allowed(byte_ids('{"title": "'))
    assert torch.equal(followed.allowed(byte_ids('{"title": "')), first)


def test_an_answer_that_leaves_the_grammar_is_an_error() -> None:
    with pytest.raises(GrammarFailed):
        mask(BOOK).allowed(byte_ids('{"author"'))


def test_a_schema_that_nothing_fits_is_refused() -> None:
    with pytest.raises(RequestInvalid, match="the schema cannot be enforced"):
        grammars().mask({"type": "string", "minLength": 3, "maxLength": 2})


def request(engine: Any, seed: int = 0, **more: Any) -> Request:
    given: dict[str, Any] = {"max_new_tokens": 60, "logit_mask": engine.mask(strict_schema(BOOK))}
    return Request(inputs=text_inputs(tiny_model(), 30, seed), **given | more)


def test_a_document_is_what_generate_says_under_the_same_mask() -> None:
    reference = ReferenceEngine(tiny_model(), model_name="tiny", max_context_tokens=4096)
    try:
        expected = reference.submit(request(reference)).result()
    finally:
        reference.close()
    with open_rig(num_pages=20) as rig:
        completion = rig.engine.submit(request(rig.engine)).result()
    assert completion.finish_reason == expected.finish_reason == "stop"
    assert completion.token_ids == expected.token_ids


def test_documents_and_free_answers_share_a_batch_and_change_nothing() -> None:
    with open_rig(num_pages=40) as rig:
        free = request(rig.engine, 1, logit_mask=None)
        alone = [rig.engine.submit(each).result().token_ids for each in (free, request(rig.engine))]
        handles = [rig.engine.submit(each) for each in (free, request(rig.engine), free)]
        together = [handle.result().token_ids for handle in handles]
    assert together == [alone[0], alone[1], alone[0]]


def test_a_document_survives_preemption() -> None:
    all_there = threading.Event()

    def hold(_step: int, _chunks: Any) -> None:
        all_there.wait(30)

    with open_rig(num_pages=40) as rig:
        alone = rig.engine.submit(request(rig.engine)).result().token_ids
    with open_rig(num_pages=8, page_tokens=16, before_step=hold) as rig:
        handles = [rig.engine.submit(request(rig.engine)) for _ in range(4)]
        all_there.set()
        completions = [handle.result() for handle in handles]
    assert all(completion.token_ids == alone for completion in completions)
    assert sum(completion.num_preemptions for completion in completions) > 0


def test_masks_are_computed_while_a_device_runs_the_model() -> None:
    """The step waits, before it runs, until the mask of this very step has been asked for."""
    asked = threading.Semaphore(0)
    threads: set[str] = set()

    class Noting:
        def allowed(self, token_ids: Sequence[int]) -> None:
            threads.add(threading.current_thread().name)
            asked.release()

    def wait_for_mask(_step: int, _chunks: Any) -> None:
        assert asked.acquire(timeout=30)

    # The engine takes the model for one on a GPU.
    loaded = replace(tiny_model(), device="cuda")
    with open_rig(num_pages=20, before_step=wait_for_mask, loaded=loaded) as rig:
        handle = rig.engine.submit(request(rig.engine, logit_mask=Noting(), max_new_tokens=5))
        assert len(handle.result().token_ids) == 5
    assert not asked.acquire(blocking=False)
    assert len(threads) == 1
    assert "visionq-engine" not in threads


def test_on_a_cpu_the_thread_that_runs_the_model_computes_the_masks() -> None:
    threads: list[str] = []

    class Noting:
        def allowed(self, token_ids: Sequence[int]) -> None:
            threads.append(threading.current_thread().name)

    with open_rig(num_pages=20) as rig:
        rig.engine.submit(request(rig.engine, logit_mask=Noting(), max_new_tokens=5)).result()
    assert threads == ["visionq-engine"] * 5


def test_without_masks_no_thread_is_started_for_them() -> None:
    before = {thread.name for thread in threading.enumerate()}
    with open_rig(num_pages=20) as rig:
        rig.engine.submit(request(rig.engine, logit_mask=None)).result()
        started = {thread.name for thread in threading.enumerate()} - before
    assert not any(name.startswith("visionq-masks") for name in started)


def test_a_mask_that_fails_ends_its_own_request_only() -> None:
    class Failing:
        def allowed(self, token_ids: Sequence[int]) -> torch.Tensor | None:
            if len(token_ids) == 3:
                raise GrammarFailed("too complex")
            return None

    with open_rig(num_pages=20) as rig:
        failing = rig.engine.submit(request(rig.engine, logit_mask=Failing()))
        other = rig.engine.submit(request(rig.engine))
        assert other.result().finish_reason == "stop"
        with pytest.raises(RequestFailed, match="logit mask"):
            failing.result()


def test_the_error_of_a_grammar_quotes_nothing_of_the_answer() -> None:
    with pytest.raises(GrammarFailed) as caught:
        mask(BOOK).allowed(byte_ids('{"secret"'))
    assert "secret" not in str(caught.value)
