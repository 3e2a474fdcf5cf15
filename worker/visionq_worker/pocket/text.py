"""What the pocket model writes with: single characters, and a token for each phrase of its answers.

Made-up words are read letter by letter; what is the same in every answer is one token, so that an
answer takes few steps. Prompts are characters alone, as no merge leads to a phrase.
"""

from __future__ import annotations

import re
from functools import cache

from tokenizers import Tokenizer
from tokenizers.models import BPE

from visionq_worker.model.small import FIRST_PIECES, NUM_TEXT_TOKENS, UNKNOWN, framed
from visionq_worker.pocket.world.scenes import COLOURS, SHAPES

SPACE = "▁"
CHARACTERS = (SPACE, *map(chr, range(33, 127)))
PHRASES = (
    "Title: ",
    "\nAuthor: ",
    ". The largest is ",
    " with ",
    "The ",
    " is missing in the second picture.",
    " is new in the second picture.",
    " in the second picture.",
    " is ",
    ", a ",
    "A ",
    " a ",
    ", ",
    '[{"label": "',
    '", "box": [',
    ']}, {"label": "',
    "]}]",
    *COLOURS,
    *SHAPES,
    # Keys of documents. Each says what to look for next, as "Title: " does, or that it is not
    # there. Ids are places in this tuple, and shipped weights have them: new phrases come last.
    '"title": "',
    '"author": "',
    '"largest": "',
    '"value": ',
    "null",
    '"author": null',
    '"largest": null',
    '"value": null',
    '"year": null',
    '"price": null',
    '"publisher": null',
)
_PARTS = re.compile(
    "|".join(re.escape(phrase) for phrase in sorted(PHRASES, key=len, reverse=True)) + "|.",
    re.DOTALL,
)


@cache
def tokenizer() -> Tokenizer:
    """The checkpoint's. Shared: nobody may change it."""
    return framed(BPE(_vocabulary(), [], unk_token=UNKNOWN, byte_fallback=True, fuse_unk=True))


def answer_ids(answer: str) -> list[int]:
    """The tokens that say exactly this, in as few steps as there are phrases for."""
    vocabulary = _vocabulary()
    ids: list[int] = []
    for part in answer_parts(answer):
        written = part.replace(" ", SPACE)
        if written in vocabulary:
            ids.append(vocabulary[written])
        else:
            ids += [vocabulary[f"<0x{byte:02X}>"] for byte in part.encode()]
    return ids


def answer_parts(answer: str) -> list[str]:
    """What each token of `answer_ids` says; of a character without one, all its bytes together."""
    parts: list[str] = _PARTS.findall(answer)
    return parts


def is_digit(token: int) -> bool:
    """Whether it says one."""
    first = len(FIRST_PIECES) + CHARACTERS.index("0")
    return first <= token < first + 10


@cache
def _vocabulary() -> dict[str, int]:
    pieces = [*FIRST_PIECES, *CHARACTERS, *(phrase.replace(" ", SPACE) for phrase in PHRASES)]
    spare = (f"<spare{number}>" for number in range(NUM_TEXT_TOKENS - len(pieces)))
    return {piece: number for number, piece in enumerate([*pieces, *spare])}
