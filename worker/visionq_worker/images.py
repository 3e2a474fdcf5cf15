"""From bytes to an RGB picture. The only door to Pillow's decoders on the service's side."""

from __future__ import annotations

import io
import warnings
from collections.abc import Collection
from dataclasses import dataclass

from PIL import Image, ImageOps, UnidentifiedImageError

from visionq.contract import FailureCode
from visionq_worker.errors import TaskError

WHITE = (255, 255, 255)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLimits:
    """What may be decoded. Formats are Pillow's names; the content decides, not the file name."""

    max_pixels: int
    formats: Collection[str]


def decode(content: bytes, limits: ImageLimits) -> Image.Image:
    """The picture, upright, RGB, transparency on white.

    Raises `TaskError`. The pixel count is read from the header, before anything is decoded.
    """
    try:
        with warnings.catch_warnings():
            # Our own limit is the one that counts; Pillow's would only warn.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=tuple(limits.formats))
    except (UnidentifiedImageError, Image.DecompressionBombError, ValueError, OSError) as exc:
        raise _refusal(exc, limits) from exc
    with image:
        width, height = image.size
        if width * height > limits.max_pixels:
            message = f"{width} x {height} pixels are more than {limits.max_pixels}"
            raise TaskError(FailureCode.IMAGE_TOO_LARGE, message)
        try:
            return _upright_rgb(image)
        except (OSError, ValueError, SyntaxError, EOFError) as exc:
            message = "an input image is damaged or incomplete"
            raise TaskError(FailureCode.IMAGE_TRUNCATED, message) from exc


def _upright_rgb(image: Image.Image) -> Image.Image:
    upright = ImageOps.exif_transpose(image)
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    layer = upright.convert("RGBA")
    flat = Image.new("RGB", layer.size, WHITE)
    flat.paste(layer, mask=layer.getchannel("A"))
    return flat


def _refusal(exc: Exception, limits: ImageLimits) -> TaskError:
    if isinstance(exc, Image.DecompressionBombError):
        return TaskError(FailureCode.IMAGE_TOO_LARGE, "an input image has too many pixels")
    formats = ", ".join(sorted(limits.formats))
    return TaskError(FailureCode.NOT_AN_IMAGE, f"an input is no image of these kinds: {formats}")
