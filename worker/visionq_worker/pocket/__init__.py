"""A small checkpoint of the published architecture that reads the pictures drawn here.

`world` draws pictures of a few sorts, endless and seeded, each with the true answer and with what
each of its places shows; `text` has the tokens, `network` the shape, `training` what made the
weights; `checkpoint` holds them, with their card. Importing this package loads nothing heavy.
"""

from functools import cache
from hashlib import sha256
from pathlib import Path

CHECKPOINT = Path(__file__).parent / "checkpoint"
"""The folder of the trained weights, as any checkpoint's."""


@cache
def revision() -> str:
    """Of the weights: another one, another digest."""
    return sha256((CHECKPOINT / "model.safetensors").read_bytes()).hexdigest()[:12]
