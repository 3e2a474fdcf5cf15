"""The task that is submitted everywhere: one picture by its key and a question of 80 characters."""

from __future__ import annotations

import io
from functools import cache

from visionq.names import input_key

KIND = "ocr"
QUESTION = "What was the revenue of the third quarter, and how does it compare to last year?"
ENDLESS_QUESTION = "What comes after that?"
"""The bench's engine never answers it: who runs this task has its hands full."""


@cache
def picture() -> bytes:
    """A PNG of 8 x 8 pixels: decoding it costs next to nothing, and is not what is measured."""
    from PIL import Image

    content = io.BytesIO()
    Image.new("RGB", (8, 8), (90, 120, 200)).save(content, format="PNG")
    return content.getvalue()


@cache
def picture_key() -> str:
    return input_key(picture())


def message() -> dict[str, object]:
    """The same task as the keyword argument of a bare Celery message."""
    return {
        "id": "00000000-0000-4000-8000-000000000000",
        "kind": KIND,
        "images": [{"ref": picture_key()}],
        "question": QUESTION,
        "version": 1,
    }
