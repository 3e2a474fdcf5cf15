"""Drawn pictures as a producer would send them."""

from __future__ import annotations

import io

from visionq_worker.pocket.world.samples import Sample

NOT_TAUGHT = {"document"}
"""Sorts that are younger than the shipped weights."""


def png_files(drawn: Sample) -> list[bytes]:
    contents = []
    for canvas in drawn.canvases:
        content = io.BytesIO()
        canvas.image.save(content, "PNG")
        contents.append(content.getvalue())
    return contents
