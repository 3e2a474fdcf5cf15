"""Image to pixel values, exactly as the model's published image processor computes them.

PIL and torch only, no torchvision. Two stages, so that the second may run on the accelerator:
`Picture` is uint8 on the CPU, `views_of` gives float views on the device that is to have them.
Left out: the resizing itself (`fitting`); decoding, size limits and EXIF rotation come before.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from visionq_worker.model.fitting import fit_exactly
from visionq_worker.model.geometry import TILE_PX, Grid, resized_size

CHANNEL_MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's
CHANNEL_STD = (0.26862954, 0.26130258, 0.27577711)
WHITE = 255


@dataclass(frozen=True, eq=False, slots=True)
class Picture:
    """One image as the device gets it: resized and padded, still bytes."""

    pixels: NDArray[np.uint8]  # (H, W, 3), H and W multiples of 336
    digest: bytes  # of shape and pixels: equal pictures have equal embeddings

    @classmethod
    def of(cls, image: Image.Image, num_crops: int) -> Self:
        """The image for that many tiles at most; raises ImageShapeError."""
        size = resized_size(image.width, image.height, num_crops)
        return cls.fitted(fit_exactly(image if image.mode == "RGB" else image.convert("RGB"), size))

    @classmethod
    def fitted(cls, pixels: NDArray[np.uint8]) -> Self:
        """Of an image (height, width, 3) that has its size already, but for the padding."""
        padded = pad(pixels)
        # A cryptographic digest: embeddings are shared by digest, across tenants too.
        digest = hashlib.sha256(str(padded.shape).encode())
        digest.update(padded.data)
        return cls(padded, digest.digest())

    @property
    def grid(self) -> Grid:
        height, width, _ = self.pixels.shape
        return Grid(rows=height // TILE_PX, columns=width // TILE_PX)

    def views(self, device: torch.device | str = "cpu") -> torch.Tensor:
        """Global view and tiles on the device, computed there: (1 + tiles, 3, 336, 336) float32."""
        return views_of([self], device)


def views_of(pictures: Sequence[Picture], device: torch.device | str = "cpu") -> torch.Tensor:
    """Views of all pictures, one picture after the other: (all their tiles, 3, 336, 336) float32.

    Pixels travel to the device as bytes.
    """
    counts = [picture.grid.num_tiles for picture in pictures]
    views = torch.empty(sum(counts), 3, TILE_PX, TILE_PX, device=device)
    for picture, part in zip(pictures, torch.split(views, counts), strict=True):
        _write_views(torch.from_numpy(picture.pixels).to(device), part)
    return views


def pad(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The shorter side padded with white, evenly, to a multiple of 336: (H, W, 3)."""
    height, width, _ = pixels.shape
    rows, columns = -height % TILE_PX, -width % TILE_PX
    top, left = rows // 2, columns // 2
    padded = np.full((height + rows, width + columns, 3), WHITE, np.uint8)
    padded[top : top + height, left : left + width] = pixels
    return padded


def pixel_values(image: Image.Image, num_crops: int) -> tuple[torch.Tensor, tuple[int, int]]:
    """Views of one image, zero-padded to (num_crops + 1, 3, 336, 336), and its padded (H, W).

    Raises ImageShapeError.
    """
    picture = Picture.of(image, num_crops)
    height, width, _ = picture.pixels.shape
    return with_empty_tiles(picture.views(), num_crops + 1), (height, width)


def with_empty_tiles(views: torch.Tensor, num_slots: int) -> torch.Tensor:
    """Views of one image, padded with zero tiles: (num_slots, 3, 336, 336)."""
    return torch.cat([views, views.new_zeros(num_slots - len(views), *views.shape[1:])])


def _write_views(padded: torch.Tensor, views: torch.Tensor) -> None:
    """Global view, then tiles row by row, of one padded uint8 image (H, W, 3) on views' device.

    The global view is made from the normalised and padded pixels (bicubic, not antialiased), not
    from the image.
    """
    mean = torch.tensor(CHANNEL_MEAN, device=padded.device).view(3, 1, 1)
    std = torch.tensor(CHANNEL_STD, device=padded.device).view(3, 1, 1)
    pixels = padded.permute(2, 0, 1).contiguous().float()  # (3, H, W)
    pixels.div_(255).sub_(mean).div_(std)
    overview, tiles = views[0], views[1:]
    if len(tiles) == 1:  # as large as the global view, which then has the same pixels
        overview.copy_(pixels)
    else:
        size = (TILE_PX, TILE_PX)
        overview.copy_(functional.interpolate(pixels[None], size=size, mode="bicubic")[0])
    rows, columns = pixels.shape[1] // TILE_PX, pixels.shape[2] // TILE_PX
    laid = pixels.view(3, rows, TILE_PX, columns, TILE_PX).permute(1, 3, 0, 2, 4)
    tiles.view(laid.shape).copy_(laid)  # (rows, columns, 3, 336, 336)
