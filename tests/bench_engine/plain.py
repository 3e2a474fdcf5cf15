"""From a file to the model's pixels the plain way: what the published image processor does.

Decode, resize and pad with PIL, then float32 throughout: normalise, the global view, tiles, and
empty tiles up to 17. Written after `processing_phi3_v.py` of microsoft/Phi-3.5-vision-instruct.
"""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from visionq_worker.model.geometry import TILE_PX, resized_size
from visionq_worker.model.pixels import CHANNEL_MEAN, CHANNEL_STD


def plain_pixels(content: bytes, num_crops: int) -> torch.Tensor:
    """Views of a lying picture, (num_crops + 1, 3, 336, 336) float32."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    width, height = resized_size(image.width, image.height, num_crops)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    padded = Image.new("RGB", (width, height + -height % TILE_PX), "white")
    padded.paste(resized, (0, -height % TILE_PX // 2))
    pixels = torch.from_numpy(np.array(padded)).permute(2, 0, 1).contiguous().float().div(255)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CHANNEL_MEAN, CHANNEL_STD))
    pixels = pixels.sub_(mean).div_(std)
    overview = functional.interpolate(pixels[None], size=(TILE_PX, TILE_PX), mode="bicubic")
    rows, columns = pixels.shape[1] // TILE_PX, pixels.shape[2] // TILE_PX
    laid = pixels.reshape(3, rows, TILE_PX, columns, TILE_PX).permute(1, 3, 0, 2, 4)
    views = torch.cat([overview, laid.reshape(-1, 3, TILE_PX, TILE_PX)])
    return torch.cat([views, views.new_zeros(num_crops + 1 - len(views), 3, TILE_PX, TILE_PX)])
