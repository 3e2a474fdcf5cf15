"""Prompt and images to what the model takes, and token ids back to text.

One prompt at a time, as the published processor does it, except for one fault of that: it fills
placeholders in the order of the images, whatever their tags say. Here a tag means the image of its
number, so tags may come in any order and may repeat. Left out: chat templates (a prompt arrives
rendered) and everything about pixels (`pixels`).
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from secrets import token_hex
from typing import NamedTuple, Self

import torch
from PIL import Image
from tokenizers import Tokenizer

from visionq_worker.model.checkpoint import DESCRIPTIONS, find_checkpoint
from visionq_worker.model.config import Phi3VConfig
from visionq_worker.model.errors import ModelLoadError, PromptError
from visionq_worker.model.geometry import num_image_tokens
from visionq_worker.model.pixels import Picture, with_empty_tiles
from visionq_worker.model.tags import IMAGE_TAG, TAG

NUM_CACHED_TEXTS = 256
"""Texts whose tokens the tokenizer keeps: a kind's prompt comes again, a question does not."""
HUB_NUM_CROPS = 16  # Phi-3's published default; Phi-3.5's file says 4


@dataclass(frozen=True, eq=False)
class ModelInputs:
    """One prompt, ready for the model. Images are in the order of the prompt's tags."""

    input_ids: torch.Tensor  # (1, tokens) int64
    pictures: tuple[Picture, ...] = ()  # one per tag; a tag that repeats brings its picture again
    image_starts: tuple[int, ...] = ()  # per picture, the token its placeholders begin at
    num_image_tokens: int = 0
    image_order: tuple[int, ...] = ()  # per picture, which of the given images it shows (from 0)
    num_crops: int = 1

    @property
    def num_tokens(self) -> int:
        """Length of the prompt, placeholders included."""
        return self.input_ids.shape[1]

    @cached_property
    def pixel_values(self) -> torch.Tensor | None:
        """What `generate` takes, on the CPU: (pictures, num_crops + 1, 3, 336, 336) float32."""
        if not self.pictures:
            return None
        num_slots = self.num_crops + 1
        return torch.stack([with_empty_tiles(one.views(), num_slots) for one in self.pictures])

    @cached_property
    def image_sizes(self) -> torch.Tensor | None:
        """Padded height and width of each picture: (pictures, 2) int64."""
        if not self.pictures:
            return None
        return torch.tensor([one.pixels.shape[:2] for one in self.pictures])


class Phi3VProcessor:
    """Tokenizer and image processor of one checkpoint. Stateless after construction: any thread."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        image_token_id: int,
        stop_token_ids: Iterable[int],
        default_num_crops: int = HUB_NUM_CROPS,
        max_num_crops: int | None = None,
    ) -> None:
        """`max_num_crops`: the most that the model was trained for, where it is few."""
        self.tokenizer = tokenizer
        self._prompt_tokenizer, self._control_ids = _without_control_texts(tokenizer)
        self.image_token_id = image_token_id
        self.stop_token_ids = frozenset(stop_token_ids)
        self.default_num_crops = default_num_crops
        self.max_num_crops = max_num_crops

    @classmethod
    def from_pretrained(cls, path: str | Path, *, revision: str | None = None, **_: object) -> Self:
        """The processor of a checkpoint folder, or of a hub id; raises ModelLoadError.

        Other keywords are accepted and ignored, because AutoProcessor passes its own.
        """
        folder = find_checkpoint(str(path), revision, DESCRIPTIONS).folder
        config, crops = _read_config(folder), _read_crops(folder)
        tokenizer = _read_tokenizer(folder)
        if tokenizer.id_to_token(config.image_token_id) is None:
            raise ModelLoadError(
                f"{folder}: tokenizer.json has no token {config.image_token_id}, "
                "the image_token_id of config.json: take both files from one checkpoint"
            )
        return cls(
            tokenizer,
            image_token_id=config.image_token_id,
            stop_token_ids=config.stop_token_ids,
            default_num_crops=crops.default,
            max_num_crops=crops.most,
        )

    def __call__(
        self, prompt: str, images: Sequence[Image.Image | Picture], num_crops: int
    ) -> ModelInputs:
        """Ids and pixels of a prompt with `<|image_1|>` ... tags; raises an InputError.

        A picture is an image that has been prepared already, for that many crops.
        """
        order = image_order(prompt, len(images))
        pictures = [
            image if isinstance(image, Picture) else Picture.of(image, num_crops)
            for image in images
        ]
        texts, runs = self._pieces(prompt, [picture.grid.num_tokens for picture in pictures])
        ids, starts = texts[0], []
        for run, text in zip(runs, texts[1:], strict=True):
            starts.append(len(ids))
            ids = ids + [self.image_token_id] * run + text
        return ModelInputs(
            input_ids=torch.tensor([ids], dtype=torch.long),
            pictures=tuple(pictures[index] for index in order),
            image_starts=tuple(starts),
            num_image_tokens=sum(runs),
            image_order=order,
            num_crops=num_crops,
        )

    def num_prompt_tokens(
        self, prompt: str, sizes: Sequence[tuple[int, int]], num_crops: int
    ) -> int:
        """Length of the prompt for images of these (width, height); raises an InputError."""
        costs = [num_image_tokens(width, height, num_crops) for width, height in sizes]
        texts, runs = self._pieces(prompt, costs)
        return sum(len(text) for text in texts) + sum(runs)

    def decode(self, token_ids: Iterable[int]) -> str:
        """Text of generated ids, special tokens left out."""
        # The tokenizer does not count </s> among its special tokens, so stop ids go first.
        text_ids = [token for token in token_ids if token not in self.stop_token_ids]
        return self.tokenizer.decode(text_ids, skip_special_tokens=True)

    def _pieces(self, prompt: str, costs: Sequence[int]) -> tuple[list[list[int]], list[int]]:
        """Ids of each text around the tags, and per tag the length of its run of placeholders.

        `costs` are the tokens of each image. Each text is tokenised on its own, so each gets its
        own `<s>`: odd, but it is what the model was served with.
        """
        order = image_order(prompt, len(costs))
        texts = [self._text_ids(text) for text in IMAGE_TAG.split(prompt)[::2]]
        return texts, [costs[index] for index in order]

    def _text_ids(self, text: str) -> list[int]:
        encoded = self._prompt_tokenizer.encode(text)
        ids: list[int] = encoded.ids
        if self.image_token_id in ids:
            raise PromptError("the prompt contains the image placeholder token itself")
        is_own = zip(ids, encoded.special_tokens_mask, strict=True)
        if any(token in self._control_ids and not is_frame for token, is_frame in is_own):
            raise PromptError("the prompt contains a token of the model's own, such as </s>")
        return ids


def image_order(prompt: str, num_images: int) -> tuple[int, ...]:
    """Per tag in the prompt, the index of its image (from 0).

    Raises PromptError unless the tags name each image, and no other, at least once.
    """
    named = [int(number) for number in IMAGE_TAG.findall(prompt)]
    if 0 in named:
        raise PromptError("image tags are numbered from 1: <|image_1|>")
    for number in range(1, num_images + 1):
        if number not in named:
            raise PromptError(f"{num_images} images were given, but no tag names image {number}")
    if max(named, default=0) > num_images:
        raise PromptError(f"a tag names image {max(named)}, but {num_images} images were given")
    return tuple(number - 1 for number in named)


def _read_config(folder: Path) -> Phi3VConfig:
    file = folder / "config.json"
    try:
        model_type = json.loads(file.read_text(encoding="utf-8")).get("model_type")
        config = Phi3VConfig.from_pretrained(folder)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelLoadError(f"{file} is missing or damaged: fetch it again") from error
    if model_type != Phi3VConfig.model_type:
        raise ModelLoadError(f"{file}: model_type is {model_type!r}: give a phi3_v checkpoint")
    return config


def _read_tokenizer(folder: Path) -> Tokenizer:
    file = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing more precise
        raise ModelLoadError(f"{file} is missing or damaged: fetch it again") from error
    return _bounded(tokenizer)


def _bounded(tokenizer: Tokenizer) -> Tokenizer:
    # Phi-3's splits no words, so that each text is an entry of its own, of some 1.5 KB; the library
    # would keep 10,000. Its file cannot say how many, and the constructor that can takes no file.
    tokenizer.model._resize_cache(NUM_CACHED_TEXTS)  # noqa: SLF001
    return tokenizer


def _without_control_texts(tokenizer: Tokenizer) -> tuple[Tokenizer, frozenset[int]]:
    """The tokenizer of prompts, and the ids that no text may have in it.

    Tags are tokens. Every other added token's text is text: `</s>`, which would end the answer, and
    `<s>`, which is HTML's as well. The unknown token stays what the pieces make of a character that
    they do not have.
    """
    description = json.loads(tokenizer.to_str())
    added, pieces = description["added_tokens"], description["model"]["vocab"]
    control = [token for token in added if not TAG.fullmatch(token["content"])]
    unknown = description["model"].get("unk_token")
    control_ids = frozenset(token["id"] for token in control if token["content"] != unknown)
    # Those that are no pieces keep their place, under names that nobody can guess: the library
    # numbers added tokens in their order.
    description["added_tokens"] = [
        token if token not in control else {**token, "content": f"\0{token_hex()}"}
        for token in added
        if token not in control or token["content"] not in pieces
    ]
    return _bounded(Tokenizer.from_str(json.dumps(description))), control_ids


class _Crops(NamedTuple):
    default: int
    most: int | None


def _read_crops(folder: Path) -> _Crops:
    """What preprocessor_config.json says of crops. `max_num_crops` is ours, and optional."""
    file = folder / "preprocessor_config.json"
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        most = told.get("max_num_crops")
        if most is not None and int(most) < 1:
            raise ModelLoadError(f"{file}: max_num_crops must be 1 at least, not {most}")
        return _Crops(
            default=int(told.get("num_crops", HUB_NUM_CROPS)),
            most=None if most is None else int(most),
        )
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ModelLoadError(f"{file} is missing or damaged: fetch it again") from error
