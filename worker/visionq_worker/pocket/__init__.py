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
    """Of the checkpoint: of all its files that answers depend on."""
    return revision_of(CHECKPOINT)


def revision_of(folder: Path) -> str:
    """12 hex digits; the card counts for nothing."""
    files = sorted(one for one in folder.iterdir() if one.suffix in (".json", ".safetensors"))
    return sha256(b"".join(sha256(one.read_bytes()).digest() for one in files)).hexdigest()[:12]
