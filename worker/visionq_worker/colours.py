"""Any mode that Pillow decodes to, as RGB: transparency on white, 16 bits as 8.

Works on a part of a picture as well as on the whole, pixel by pixel.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

WHITE = (255, 255, 255)

BYTES_PER_PIXEL = {
    **dict.fromkeys(("1", "L", "P"), 1),
    **dict.fromkeys(("I;16", "I;16L", "I;16B"), 2),
    **dict.fromkeys(("LA", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"), 4),
}
"""Of each mode that becomes RGB here, in Pillow's memory."""

NUM_BITS, WHITE_IS_ZERO = "visionq_num_bits", "visionq_white_is_zero"
"""Of 16-bit grey, entries of the picture's `info`, which its parts have, too. Without them it has
16 bits, and zero is black."""

KEYED_BYTES = 4 + 1
"""A pixel of what `make_transparent` takes beside the picture: the lower bytes, and an alpha."""
BAND_PX = 50_000


def flat_rgb(image: Image.Image) -> Image.Image:
    """The picture as RGB, a picture of its own or the same one; its mode is of the above."""
    eight_bit = _high_byte(image) if image.mode.startswith("I;16") else image
    if not eight_bit.has_transparency_data:
        return eight_bit if eight_bit.mode == "RGB" else eight_bit.convert("RGB")
    layer = eight_bit.convert("RGBA")
    flat = Image.new("RGB", layer.size, WHITE)
    flat.paste(layer, mask=layer.getchannel("A"))
    return flat


def make_transparent(high: Image.Image, low: Image.Image, key: tuple[int, int, int]) -> None:
    """Give an RGB picture an alpha: nothing where its 16-bit samples are those of `key`.

    `high` and `low` have the bytes of the samples; `high` becomes RGBA.
    """
    width, height = high.size
    alpha = Image.new("L", high.size)
    step = max(1, BAND_PX // width)
    for top in range(0, height, step):
        box = (0, top, width, min(height, top + step))
        is_key = np.asarray(high.crop(box)) == [sample >> 8 for sample in key]
        is_key &= np.asarray(low.crop(box)) == [sample & 0xFF for sample in key]
        alpha.paste(_opaque_where(~is_key.all(axis=2)), box)
    high.putalpha(alpha)


def _high_byte(image: Image.Image) -> Image.Image:
    """16-bit grey as 8-bit grey; Pillow's own conversion clips, which turns most of it white."""
    samples = np.asarray(image)
    high = (samples >> (image.info.get(NUM_BITS, 16) - 8)).astype(np.uint8)
    grey = Image.fromarray(~high if image.info.get(WHITE_IS_ZERO) else high)
    key = image.info.get("transparency")
    if key is not None:
        # By all of its bits: shades that are equal in 8 may differ in 16.
        grey = Image.merge("LA", (grey, _opaque_where(samples != key)))
    return grey


def _opaque_where(is_opaque: np.typing.NDArray[np.bool_]) -> Image.Image:
    return Image.fromarray(is_opaque.astype(np.uint8) * np.uint8(255))
