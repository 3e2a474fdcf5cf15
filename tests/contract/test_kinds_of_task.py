"""Kinds: how many images and whether a question; what each is called."""

import pytest

from visionq.errors import InvalidTask, UnknownKind, WrongImageCount
from visionq.kinds import BUILTIN_KINDS, Kind, find_kind


def test_the_built_in_kinds_are_these_seven() -> None:
    assert sorted(BUILTIN_KINDS) == [
        "analyze",
        "ask",
        "compare",
        "describe",
        "detect",
        "ocr",
        "table",
    ]


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("analyze", 1, 1),
        ("ocr", 1, 1),
        ("compare", 2, 8),
        ("describe", 1, 1),
        ("table", 1, 1),
        ("detect", 1, 1),
        ("ask", 1, 8),
    ],
)
def test_a_kind_takes_its_number_of_images_and_no_other(name: str, least: int, most: int) -> None:
    kind = BUILTIN_KINDS[name]
    kind.check(name, least, "What?")
    kind.check(name, most, "What?")
    for wrong in (0, least - 1, most + 1):
        with pytest.raises(WrongImageCount, match=rf"{name}.*got {wrong}"):
            kind.check(name, wrong, "What?")


def test_the_refusal_says_how_many_images_are_wanted() -> None:
    with pytest.raises(WrongImageCount, match=r"'ocr' takes 1 image\(s\), got 2"):
        BUILTIN_KINDS["ocr"].check("ocr", 2, None)
    with pytest.raises(WrongImageCount, match=r"'compare' takes 2 to 8 image\(s\), got 1"):
        BUILTIN_KINDS["compare"].check("compare", 1, None)


def test_only_ask_needs_a_question() -> None:
    for name, kind in BUILTIN_KINDS.items():
        if name != "ask":
            kind.check(name, kind.min_images, None)
    with pytest.raises(InvalidTask, match="'ask' needs a question"):
        BUILTIN_KINDS["ask"].check("ask", 1, None)


def test_a_kind_whose_prompt_has_no_place_for_a_question_needs_none() -> None:
    Kind(prompt="Count the people.").check("count", 1, None)


def test_a_kind_is_found_by_its_name() -> None:
    assert find_kind(BUILTIN_KINDS, "table").parser == "table"


def test_an_unknown_kind_is_refused_with_a_list_of_what_there_is() -> None:
    with pytest.raises(UnknownKind, match="no kind 'poem'; there are count, invoice"):
        find_kind({"invoice": Kind(), "count": Kind()}, "poem")


def test_the_digest_follows_the_wording_and_nothing_else() -> None:
    # sha256(b"Read it.\0") and sha256(b"{question}\0All of it?"), first 16 digits
    assert Kind(prompt="Read it.").digest() == "b02891bd59b9e579"
    assert Kind(default_question="All of it?").digest() == "97a067b840e44e89"
    assert (
        Kind(prompt="Read it.", version=7, max_images=3, max_new_tokens=5).digest()
        == "b02891bd59b9e579"
    )


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        ({"max_images": 0}, "max_images"),
        ({"min_images": 0}, "min_images"),
        ({"min_images": 3, "max_images": 2}, "min_images"),
        ({"max_images": 65}, "max_images"),
        ({"num_crops": 0}, "num_crops"),
        ({"num_crops": 17}, "num_crops"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
    ],
)
def test_a_kind_with_limits_no_task_could_keep_is_refused(
    limits: dict[str, int], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        Kind(**limits)  # type: ignore[arg-type]
