"""PDFs as bytes, written by hand, for the tests of what renders them."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence

A4 = (595, 842)
"""Points."""

FILE_ID = bytes(range(16))
PADDING = bytes.fromhex("28BF4E5E4E758A4164004E56FFFA01082E2E00B6D0683E802F0CA9FE6453697A")
"""What the standard's older encryption fills passwords up with."""


def stream(content: bytes, entries: str = "", *, length: int | None = None) -> bytes:
    """A stream object; `length` is what it says of itself, if that is not the truth."""
    said = len(content) if length is None else length
    return b"<< %s /Length %d >>\nstream\n%s\nendstream" % (entries.encode(), said, content)


def deflated(content: bytes, entries: str = "") -> bytes:
    return stream(zlib.compress(content), f"/Filter /FlateDecode {entries}")


def written(objects: Mapping[int, bytes], trailer: str = "") -> bytes:
    """A file of these objects, by number; number 1 is the catalogue."""
    parts = [b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"]
    places: dict[int, int] = {}
    for number, content in objects.items():
        places[number] = sum(map(len, parts))
        parts.append(b"%d 0 obj\n%s\nendobj\n" % (number, content))
    begin = sum(map(len, parts))
    parts.append(b"xref\n0 1\n0000000000 65535 f \n")
    parts += [b"%d 1\n%010d 00000 n \n" % (number, place) for number, place in places.items()]
    size = max(objects) + 1
    parts.append(b"trailer\n<< /Size %d /Root 1 0 R %s >>\n" % (size, trailer.encode()))
    parts.append(b"startxref\n%d\n%%%%EOF\n" % begin)
    return b"".join(parts)


def pdf(
    *contents: bytes,
    size: tuple[float, float] = A4,
    page: str = "",
    resources: str = "",
    objects: Mapping[int, bytes] | None = None,
    trailer: str = "",
) -> bytes:
    """A page for each content stream. `page`: entries of each of them; `objects`: from 100 on."""
    first = 10
    numbers = [first + 2 * at for at in range(len(contents))]
    kids = " ".join(f"{number} 0 R" for number in numbers)
    made = {
        1: b"<< /Type /Catalog /Pages 2 0 R >>",
        2: f"<< /Type /Pages /Kids [{kids}] /Count {len(contents)} >>".encode(),
        3: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    }
    for number, content in zip(numbers, contents, strict=True):
        made[number] = (
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {size[0]} {size[1]}] "
            f"/Contents {number + 1} 0 R {page} "
            f"/Resources << /Font << /F 3 0 R >> {resources} >> >>"
        ).encode()
        made[number + 1] = stream(content)
    return written({**made, **(objects or {})}, trailer)


def filled(colour: Sequence[float], box: tuple[float, float, float, float]) -> bytes:
    """Content: a rectangle (left, bottom, width, height) in that RGB, 0 to 1."""
    red, green, blue = colour
    left, bottom, width, height = box
    return f"{red} {green} {blue} rg {left} {bottom} {width} {height} re f\n".encode()


def lettered(text: str, *, at: tuple[float, float] = (72, 720), points: float = 24) -> bytes:
    """Content: a line of text."""
    return f"BT /F {points} Tf {at[0]} {at[1]} Td ({text}) Tj ET\n".encode()


def pictured(image: bytes) -> bytes:
    """A page that an image object covers."""
    side = f"{A4[0]} 0 0 {A4[1]} 0 0 cm /I Do"
    return pdf(side.encode(), resources="/XObject << /I 100 0 R >>", objects={100: image})


def image_entries(width: int, height: int, more: str = "") -> str:
    return (
        f"/Type /XObject /Subtype /Image /Width {width} /Height {height} "
        f"/ColorSpace /DeviceRGB /BitsPerComponent 8 {more}"
    )


def encrypted(password: bytes) -> bytes:
    """A page that opens with that password alone: RC4 of 40 bits, the standard's oldest."""
    owner = _rc4(_owner_key(password), _padded(password))
    permissions = (-4).to_bytes(4, "little", signed=True)
    key = hashlib.md5(_padded(password) + owner + permissions + FILE_ID).digest()[:5]
    user = _rc4(key, PADDING)
    entries = f"/Filter /Standard /V 1 /R 2 /P -4 /O <{owner.hex()}> /U <{user.hex()}>"
    return pdf(
        filled((1, 0, 0), (0, 0, *A4)),
        objects={100: f"<< {entries} >>".encode()},
        trailer=f"/Encrypt 100 0 R /ID [<{FILE_ID.hex()}> <{FILE_ID.hex()}>]",
    )


def _owner_key(password: bytes) -> bytes:
    return hashlib.md5(_padded(password)).digest()[:5]


def _padded(password: bytes) -> bytes:
    return (password + PADDING)[:32]


def _rc4(key: bytes, content: bytes) -> bytes:
    box, at = list(range(256)), 0
    for i in range(256):
        at = (at + box[i] + key[i % len(key)]) % 256
        box[i], box[at] = box[at], box[i]
    i = at = 0
    out = bytearray()
    for byte in content:
        i = (i + 1) % 256
        at = (at + box[i]) % 256
        box[i], box[at] = box[at], box[i]
        out.append(byte ^ box[(box[i] + box[at]) % 256])
    return bytes(out)
