"""Any mode that Pillow decodes to, as RGB: transparency on white, 16 bits as 8.

Works on a part of a picture as well as on the whole, pixel by pixel.
"""

from __future__ import annotations

from PIL import Image

WHITE = (255, 255, 255)

BYTES_PER_PIXEL = {
    **dict.fromkeys(("1", "L", "P"), 1),
    **dict.fromkeys(("I;16", "I;16L", "I;16B"), 2),
    **dict.fromkeys(("LA", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "I", "F"), 4),
}
"""Of each mode that becomes RGB here, in Pillow's memory."""


def flat_rgb(image: Image.Image) -> Image.Image:
    """The picture as RGB, a picture of its own or the same one; its mode is of the above."""
    eight_bit = _high_byte(image) if image.mode.startswith("I;16") else image
    if not eight_bit.has_transparency_data:
        return eight_bit if eight_bit.mode == "RGB" else eight_bit.convert("RGB")
    layer = eight_bit.convert("RGBA")
    flat = Image.new("RGB", layer.size, WHITE)
    flat.paste(layer, mask=layer.getchannel("A"))
    return flat


def _high_byte(image: Image.Image) -> Image.Image:
    """16-bit grey as 8-bit grey; Pillow's own conversion clips, which turns most of it white."""
    # Pillow computes on one order of bytes only.
    ordered = image if image.mode == "I;16" else image.convert("I")
    grey = ordered.point(lambda value: value / 256).convert("L")
    if "transparency" in grey.info:
        grey.info["transparency"] //= 256
    return grey
