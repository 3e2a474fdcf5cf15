"""From bytes to an RGB picture. The only door to Pillow's decoders on the service's side."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Collection
from dataclasses import dataclass

from PIL import ExifTags, Image, UnidentifiedImageError

from visionq.contract import FailureCode
from visionq_worker.errors import TaskError

WHITE = (255, 255, 255)

UPRIGHT = 1
_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF orientation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLimits:
    """What may be decoded. Formats are Pillow's names; the content decides, not the file name."""

    max_pixels: int
    formats: Collection[str]

    def unknown_formats(self) -> list[str]:
        """Those that Pillow cannot read."""
        Image.init()
        return [name for name in self.formats if name.upper() not in Image.OPEN]


def silence_pillow() -> None:
    """Our own limit of pixels counts; Pillow's lower one would only fill the log.

    Once for the process: setting a filter around each call is not safe in threads.
    """
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def decode(content: bytes, limits: ImageLimits) -> Image.Image:
    """The picture, upright, RGB, transparency on white.

    Raises `TaskError`. The pixel count is read from the header, before anything is decoded.
    """
    try:
        image = Image.open(io.BytesIO(content), formats=tuple(limits.formats))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        message = "an input image has too many pixels"
        raise TaskError(FailureCode.IMAGE_TOO_LARGE, message) from exc
    except UnidentifiedImageError as exc:
        message = f"an input is no image of these kinds: {', '.join(sorted(limits.formats))}"
        raise TaskError(FailureCode.NOT_AN_IMAGE, message) from exc
    except (OSError, ValueError) as exc:  # of a known kind, but its header breaks off
        raise _damaged() from exc
    width, height = image.size
    if width * height > limits.max_pixels:
        message = f"{width} x {height} pixels are more than {limits.max_pixels}"
        raise TaskError(FailureCode.IMAGE_TOO_LARGE, message)
    try:
        return _flat_rgb(_upright(image))
    except (OSError, ValueError, SyntaxError, EOFError) as exc:
        raise _damaged() from exc


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF says.

    Not by `ImageOps.exif_transpose`: that also writes the EXIF block anew, and fails on the odd
    values that cameras put there.
    """
    image.load()
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
    except (SyntaxError, ValueError, struct.error):
        return image  # the pixels are good, whatever the EXIF block is
    turn = _TO_UPRIGHT.get(orientation)
    return image if turn is None else image.transpose(turn)


def _flat_rgb(image: Image.Image) -> Image.Image:
    eight_bit = _high_byte(image) if image.mode == "I;16" else image
    if not eight_bit.has_transparency_data:
        return eight_bit if eight_bit.mode == "RGB" else eight_bit.convert("RGB")
    layer = eight_bit.convert("RGBA")
    flat = Image.new("RGB", layer.size, WHITE)
    flat.paste(layer, mask=layer.getchannel("A"))
    return flat


def _high_byte(image: Image.Image) -> Image.Image:
    """16-bit grey as 8-bit grey; Pillow's own conversion clips, which turns most of it white."""
    grey = image.point(lambda value: value / 256).convert("L")
    if "transparency" in grey.info:
        grey.info["transparency"] //= 256
    return grey


def _damaged() -> TaskError:
    return TaskError(FailureCode.IMAGE_TRUNCATED, "an input image is damaged or incomplete")
