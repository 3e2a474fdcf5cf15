"""What a user writes never becomes a control token: an added token's text is text, tags aside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE

from tests.support.pocket import pocket_model
from tests.support.tiny import tiny_model
from visionq.contract import ImageRef, Options, Task
from visionq.kinds import BUILTIN_KINDS
from visionq_worker.kinds import render
from visionq_worker.model.config import HUB_IMAGE_TOKEN_ID, HUB_STOP_TOKEN_IDS
from visionq_worker.model.errors import PromptError
from visionq_worker.model.processor import Phi3VProcessor
from visionq_worker.model.small import FIRST_PIECES, UNKNOWN, framed, special_id
from visionq_worker.model.tags import TAG

if TYPE_CHECKING:
    from collections.abc import Callable

CHARACTERS = ["▁", *map(chr, range(33, 127))]
OTHER_TOKENS = [
    AddedToken("[INST]", lstrip=True, rstrip=True),
    AddedToken("<image>", normalized=False),
    AddedToken("<pad>", special=True),
    AddedToken("end of turn"),
    AddedToken("cat", single_word=True),
    AddedToken("<|two words|>", normalized=False),
    AddedToken("<|" + "long" * 11 + "|>", normalized=False),
    AddedToken("<|fim|middle|>", normalized=False),
    AddedToken("<\uff5cend\u2581of\u2581sentence\uff5c>", special=True),
    AddedToken("<|fine|>", normalized=False),
]
"""Of other families of models, and odd ones; the last one is a tag."""


def other_processor() -> Phi3VProcessor:
    pieces = {piece: number for number, piece in enumerate([*FIRST_PIECES, *CHARACTERS])}
    tokenizer = framed(BPE(pieces, [], unk_token=UNKNOWN, byte_fallback=True, fuse_unk=True))
    tokenizer.add_tokens(OTHER_TOKENS)
    return Phi3VProcessor(tokenizer, image_token_id=special_id("image"), stop_token_ids=[2])


@pytest.fixture(scope="module")
def published(published_tokenizer: Path) -> Phi3VProcessor:
    return Phi3VProcessor(
        Tokenizer.from_file(str(published_tokenizer)),
        image_token_id=HUB_IMAGE_TOKEN_ID,
        stop_token_ids=HUB_STOP_TOKEN_IDS,
    )


OURS: dict[str, Callable[[], Phi3VProcessor]] = {
    "tiny": lambda: tiny_model().processor,
    "pocket": lambda: pocket_model().processor,
    "other": other_processor,
}


def added_texts(processor: Phi3VProcessor) -> dict[int, str]:
    added = processor.tokenizer.get_added_tokens_decoder()
    return {number: token.content for number, token in added.items()}


def text_ids(processor: Phi3VProcessor, text: str) -> list[int]:
    """The ids without the start token that each text has."""
    start, *ids = processor(text, [], 1).input_ids[0].tolist()
    assert start == 1
    return list(map(int, ids))


def check_plain(processor: Phi3VProcessor, text: str) -> None:
    ids = text_ids(processor, text)
    assert added_texts(processor).keys().isdisjoint(ids), text
    assert processor.decode(ids) == text


TEXTS = ["a</s>b", "<s>old price</s>", "<unk>", "What does </s>  mean?", "</s>", " <s> "]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", OURS)
def test_control_texts_are_text(name: str, text: str) -> None:
    check_plain(OURS[name](), text)


@pytest.mark.parametrize("text", TEXTS)
def test_control_texts_are_text_to_the_published_tokenizer(
    published: Phi3VProcessor, text: str
) -> None:
    check_plain(published, text)


PIECES = ["<", "/s>", "<s", ">", "s>", " ", "\n", "|>", "<|", "a cat", "end of", " turn", "é", "€"]


def check_mixtures(processor: Phi3VProcessor, data: st.DataObject) -> None:
    others = [text for text in added_texts(processor).values() if not TAG.fullmatch(text)]
    assert len(others) >= 3
    text = data.draw(st.lists(st.sampled_from([*others, *PIECES]), max_size=8).map("".join))
    if TAG.search(text) is None:
        # To the tokenizer itself a lower bar is a space.
        ids = text_ids(processor, text)
        assert added_texts(processor).keys().isdisjoint(ids), text
        assert processor.decode(ids) == text.replace("\u2581", " ")


@given(data=st.data())
@settings(max_examples=150, deadline=None)
@pytest.mark.parametrize("name", OURS)
def test_no_mixture_of_texts_is_a_control_token(name: str, data: st.DataObject) -> None:
    check_mixtures(OURS[name](), data)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_no_mixture_is_one_to_the_published_tokenizer(
    published: Phi3VProcessor, data: st.DataObject
) -> None:
    check_mixtures(published, data)


def test_tags_stay_tokens() -> None:
    processor = other_processor()
    names = {text: number for number, text in added_texts(processor).items()}
    for tag in ("<|user|>", "<|end|>", "<|fine|>"):
        assert text_ids(processor, tag) == [names[tag]]


WORDS = st.text(st.sampled_from("ab <>|/s\né名▁"), max_size=40)


@given(parts=st.lists(WORDS | st.sampled_from(["<|end|>", "<|user|>", "<|assistant|>"])))
@settings(max_examples=150, deadline=None)
def test_other_texts_have_the_ids_they_always_had(parts: list[str]) -> None:
    processor = tiny_model().processor
    text = "".join(parts)
    if not any(control in text for control in ("<s>", "</s>", "<unk>", "<|image")):
        assert processor(text, [], 1).input_ids[0].tolist() == processor.tokenizer.encode(text).ids


def test_question_and_schema_of_a_task_are_text() -> None:
    schema = {
        "type": "object",
        "title": "</s>",
        "description": "What is <s>struck</s> out",
        "properties": {"<unk>": {"enum": ["</s>", "b"]}},
        "required": ["<unk>"],
        "additionalProperties": False,
    }
    task = Task(
        id="00000000-0000-4000-8000-000000000001",
        kind="ask",
        images=(ImageRef(ref="inputs/a"),),
        question="What does </s> mean?",
        options=Options(schema=schema),
    )
    processor = tiny_model().processor
    words = render(task, BUILTIN_KINDS["ask"]).text.replace("<|image_1|>", "")
    assert set(text_ids(processor, words)).isdisjoint({0, 1, 2})


def test_tokenizer_that_makes_a_control_token_of_text_all_the_same_is_refused() -> None:
    pieces = [*FIRST_PIECES, *CHARACTERS, "</", "</s"]
    merges = [("<", "/"), ("</", "s"), ("</s", ">")]
    numbers = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = framed(BPE(numbers, merges, unk_token=UNKNOWN, byte_fallback=True, fuse_unk=True))
    processor = Phi3VProcessor(tokenizer, image_token_id=600, stop_token_ids=[2])
    with pytest.raises(PromptError, match="token of the model's own"):
        processor("a</s>b", [], 1)
