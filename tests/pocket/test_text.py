"""The pocket model's tokens: they say any answer, and phrases are one each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visionq_worker.model.small import NUM_TEXT_TOKENS, special_id
from visionq_worker.pocket.text import PHRASES, answer_ids, tokenizer
from visionq_worker.pocket.world.samples import SORTS, sample


def said(ids: list[int]) -> str:
    text: str = tokenizer().decode(ids, skip_special_tokens=True)
    return text


@pytest.mark.parametrize("sort", SORTS)
def test_every_answer_is_said_exactly_by_its_tokens(sort: str) -> None:
    for seed in range(60):
        answer = sample(sort, seed).answer
        assert said(answer_ids(answer)) == answer


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0▁"), min_size=1, max_size=40))
def test_any_text_is_said_but_for_spaces_before_it(text: str) -> None:
    assert said(answer_ids(text)).lstrip(" ") == text.lstrip(" ")


@pytest.mark.parametrize("phrase", PHRASES)
def test_a_phrase_is_one_token(phrase: str) -> None:
    assert len(answer_ids(phrase)) == 1


def test_letters_are_one_token_each_in_answers_and_prompts() -> None:
    assert len(answer_ids("Plonmag")) == 7
    assert tokenizer().encode("Plonmag", add_special_tokens=False).tokens == ["▁", *"Plonmag"]


def test_the_vocabulary_has_the_size_that_the_specials_stand_behind() -> None:
    assert tokenizer().get_vocab_size(with_added_tokens=False) == NUM_TEXT_TOKENS
    assert tokenizer().token_to_id("<|end|>") == special_id("end")


def test_a_boxed_scene_takes_few_tokens() -> None:
    drawn = [one for seed in range(20) if (one := sample("scene", seed)).kind == "detect"]
    for one in drawn:
        assert len(answer_ids(one.answer)) < 30 * len(one.value)
