"""The kinds of task: which prompt is put, how many images it takes, how its answer is read.

A kind is data. The built-in ones stand here; `[kinds.*]` in settings.toml changes them or adds
others. Rendering and parsing happen in the worker.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from visionq.errors import (
    InvalidTask,
    PromptTags,
    QuestionNotAllowed,
    SettingsError,
    UnknownKind,
    WrongImageCount,
)

Parser = Literal["text", "table", "boxes"]
LOOP_TOKENS = 200
MAX_LOOP_TOKENS = 2**31
MAX_RETRIES = 5
BOX_SCALE = 1000
"""Edges of boxes are asked for in these parts of the picture's width and height."""

MAX_IMAGES = 64
MAX_CROPS = 16
MAX_NEW_TOKENS = 32_000

CROPS_FOR_ONE_IMAGE = 16
CROPS_FOR_SEVERAL = 4
"""Both from the model's card: 16 for single images, 4 for multi-frame."""

SCHEMA_INSTRUCTION = (
    "Answer with one JSON document that fits this JSON Schema, and with nothing else:\n{schema}"
)

_MODEL_TAG = re.compile(r"<\|[^\s|>]{1,40}\|>")
"""As workers know the model's tags: what holds one is refused there, too."""

DESCRIBE_QUESTION = "Describe this picture: what it shows, and the details that matter."
TABLE_PROMPT = (
    "Copy the table in this picture as comma-separated values, the header row first. "
    "Put a cell that contains a comma in double quotes. Write nothing else. {question}"
)
DETECT_PROMPT = (
    "List the objects in this picture as a JSON array. Each element has the keys "
    '"label" and "box", the box being [left, top, right, bottom], each from 0 to 1000 '
    "across the picture. Write nothing else. {question}"
)


def _require(low: int, number: object, high: int, message: str) -> None:
    if isinstance(number, bool) or not isinstance(number, int) or not low <= number <= high:
        raise SettingsError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """What another try at a bad answer does differently; None: as the task says."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    temperature: float | None = None
    num_crops: int | None = None

    def __post_init__(self) -> None:
        """Raise `SettingsError` for what no model could do, or would do alike."""
        given = self.temperature
        if given is None and self.num_crops is None:
            raise SettingsError("a retry needs another temperature or num_crops")
        is_number = isinstance(given, int | float) and not isinstance(given, bool)
        if given is not None and not (is_number and 0 <= given <= 2):
            raise SettingsError("temperature must be 0 to 2")
        if self.num_crops is not None:
            _require(1, self.num_crops, MAX_CROPS, f"num_crops must be 1 to {MAX_CROPS}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One named way of asking about images.

    `prompt` is the text put after the image tags; `{question}` in it is replaced by the task's
    question, or by `default_question` when the task has none. `version` names the wording: raise
    it with every change, results carry it. `num_crops` None means 16 for one image and 4 for
    several, as the model's card advises. `max_new_tokens` is used when the task sets none.
    `takes_question`: whether tasks may bring a question of their own. An answer that has repeated
    itself for `loop_tokens` is ended. `retries` are gone through, one after the other, while the
    answer is not good; one that must say the same as an earlier try is passed over.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    prompt: str = "{question}"
    version: int = 1
    default_question: str | None = None
    min_images: int = 1
    max_images: int = 1
    num_crops: int | None = None
    max_new_tokens: int = 1000
    parser: Parser = "text"
    takes_question: bool = True
    loop_tokens: int = LOOP_TOKENS
    retries: tuple[Retry, ...] = ()

    def __post_init__(self) -> None:
        """Raise `SettingsError` for what no task could keep or the contract does not allow."""
        self._check_types()
        in_order = f"min_images and max_images must be 1 to {MAX_IMAGES}, in this order"
        _require(1, self.max_images, MAX_IMAGES, in_order)
        _require(1, self.min_images, self.max_images, in_order)
        if self.num_crops is not None:
            _require(1, self.num_crops, MAX_CROPS, f"num_crops must be 1 to {MAX_CROPS}")
        most = f"max_new_tokens must be 1 to {MAX_NEW_TOKENS}"
        _require(1, self.max_new_tokens, MAX_NEW_TOKENS, most)
        _require(1, self.loop_tokens, MAX_LOOP_TOKENS, "loop_tokens must be 1 at least")
        if len(self.retries) > MAX_RETRIES:
            raise SettingsError(f"there may be {MAX_RETRIES} retries at most")

    def _check_types(self) -> None:
        """Where it comes from the settings, pydantic has done so already."""
        default: object = self.default_question
        if not isinstance(self.prompt, str) or not isinstance(default, str | None):
            raise SettingsError("prompt and default_question must be strings")
        if not isinstance(self.version, int) or not isinstance(self.takes_question, bool):
            raise SettingsError("version must be a number, takes_question true or false")
        if self.parser not in get_args(Parser):
            raise SettingsError(f"parser must be of {', '.join(get_args(Parser))}")
        retries: object = self.retries
        if not isinstance(retries, tuple) or not all(isinstance(one, Retry) for one in retries):
            raise SettingsError("retries must be a tuple of Retry objects")

    def check(self, name: str, num_images: int, question: str | None) -> None:
        """Raise what is wrong with a task of this kind before anything is stored or run."""
        if not self.min_images <= num_images <= self.max_images:
            wanted = (
                f"{self.min_images}"
                if self.min_images == self.max_images
                else f"{self.min_images} to {self.max_images}"
            )
            raise WrongImageCount(f"kind {name!r} takes {wanted} image(s), got {num_images}")
        if question is not None and not self.takes_question:
            raise QuestionNotAllowed(f"kind {name!r} takes no question of the task's own")
        if question is None and self.default_question is None and "{question}" in self.prompt:
            raise InvalidTask(f"kind {name!r} needs a question")

    def check_tags(self, question: str | None, schema: dict[str, Any] | None) -> None:
        """Raise `PromptTags` for words that would end the turn, or address other images."""
        told = schema_text(schema) if schema is not None else ""
        asked = question if question is not None else self.default_question or ""
        for what, text in (("question", asked), ("schema", told)):
            if _MODEL_TAG.search(text):
                raise PromptTags(f"the {what} contains a tag such as <|end|>")

    def words(self, question: str | None, schema: dict[str, Any] | None = None) -> str:
        """What a prompt says below its images: what is asked, and the schema as it was given."""
        asked = question if question is not None else self.default_question or ""
        text = self.prompt.replace("{question}", asked).strip()
        if schema is None:
            return text
        return f"{text}\n{SCHEMA_INSTRUCTION.replace('{schema}', schema_text(schema))}".lstrip()

    def crops(self, num_images: int) -> int:
        """Tiles per image, at most, where the task does not say it."""
        if self.num_crops is not None:
            return self.num_crops
        return CROPS_FOR_SEVERAL if num_images > 1 else CROPS_FOR_ONE_IMAGE

    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of what the model is told by this kind."""
        told = f"{self.prompt}\0{self.default_question or ''}"
        return hashlib.sha256(told.encode()).hexdigest()[:16]


BUILTIN_KINDS: Mapping[str, Kind] = {
    "analyze": Kind(default_question="What does this picture show? Give the main figures."),
    "ocr": Kind(default_question="Read all text in this picture, line by line."),
    "compare": Kind(
        default_question="What is different between these pictures?", min_images=2, max_images=8
    ),
    "describe": Kind(default_question=DESCRIBE_QUESTION, max_new_tokens=300),
    "table": Kind(prompt=TABLE_PROMPT, default_question="", parser="table"),
    "detect": Kind(prompt=DETECT_PROMPT, version=2, default_question="", parser="boxes"),
    "ask": Kind(max_images=8),
}


def at_most(num_crops: int, max_num_crops: int | None) -> int:
    """What is asked for, or what a model was trained for where that is less. None: any number."""
    return num_crops if max_num_crops is None else min(num_crops, max_num_crops)


def find_kind(kinds: Mapping[str, Kind], name: str) -> Kind:
    """The kind of that name. Raises `UnknownKind`, listing what there is."""
    try:
        return kinds[name]
    except (KeyError, TypeError):  # what is no string may have no hash
        given = str(name)[:80]
        raise UnknownKind(f"no kind {given!r}; there are {', '.join(sorted(kinds))}") from None


def schema_text(schema: dict[str, Any]) -> str:
    """A schema as the model is shown it, and as its digest is taken of it."""
    return json.dumps(schema, ensure_ascii=False)
