"""Draws the pictures that the demo shows to the pocket model: `python examples/draw_world.py`.

They are of the world that model was trained in, by seeds that it was not trained on. The faces of
the extra `visionq-worker[pocket]` are needed to draw the same again.
"""

from __future__ import annotations

import sys
from pathlib import Path

from visionq_worker.pocket.world.samples import Sample, sample

FOLDER = Path(__file__).parent / "pictures"

QUALITY = 90
"""Of JPEG: as PNG, the noise in these pictures takes a megabyte."""
# Chosen among the first sixty for their questions; how often such pictures are read rightly is in
# the model's card.
SEEDS = {"chart": 3009, "cover": 3000, "pair": 3004}
"""By sort. Each file is called `world_SORT.jpg`, the second one of a pair `world_pair_2.jpg`."""


def main() -> None:
    """Write the pictures into the folder named on the command line, or into `pictures/`."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for sort in SEEDS:
        for number, canvas in enumerate(drawn(sort).canvases, 1):
            canvas.image.save(folder / file_name(sort, number), quality=QUALITY)


def drawn(sort: str) -> Sample:
    """With its true answer."""
    return sample(sort, SEEDS[sort])


def file_name(sort: str, number: int) -> str:
    return f"world_{sort}.jpg" if number == 1 else f"world_{sort}_{number}.jpg"


if __name__ == "__main__":
    main()
