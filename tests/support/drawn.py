"""Drawn pictures as a producer would send them."""

from __future__ import annotations

import io

from visionq_worker.pocket.world.level import LEVELS
from visionq_worker.pocket.world.samples import Sample

EVALUATED = LEVELS[2]
"""What `make eval-pocket` and the tests of answers draw; the level after it is all of the world."""


def png_files(drawn: Sample) -> list[bytes]:
    contents = []
    for canvas in drawn.canvases:
        content = io.BytesIO()
        canvas.image.save(content, "PNG")
        contents.append(content.getvalue())
    return contents
