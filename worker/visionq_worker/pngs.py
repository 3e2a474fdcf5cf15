"""A PNG without what stands beside its pixels, in one pass over its chunks.

Texts, profiles, gamma and times are not used, yet Pillow reads them all, and refuses the file where
one is too long, too short or has a wrong checksum. So it is given a file of the chunks that make
the pixels, and of those that say how to turn them. Of an animation, the first frame is left.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

SIGNATURE = b"\x89PNG\r\n\x1a\n"

MAX_TEXT_BYTES = 1024 * 1024
"""Of a text that may hold an orientation, unpacked; they have some kilobytes. It is Pillow's limit,
above which it gives up the whole file."""
MAX_TEXTS = 3
"""Of one keyword that are tried, from the end of the file: unpacking them takes time."""
MAX_CHUNKS = 100_000
"""The pixels of a file come in some thousands, of 8 KB or more."""

Colour = tuple[int, int, int]

_HEAD = struct.Struct(">I4s")
_CHECKSUM = struct.Struct(">I")
_HEADER = struct.Struct(">IIBBBBB")
_ANCILLARY = 0x20
"""This bit of a chunk's first letter says that the image can be read without it."""
_SHALLOW, _DEEP = (1, 2, 4, 8), 16
"""Bits of a sample."""
_NUM_SAMPLES = {0: 1, 2: 3}
"""Of a pixel, by colour type: grey and RGB, of which one colour may be transparent."""
_PALETTE = 3

_MAY_TURN = frozenset({b"eXIf", b"tEXt", b"zTXt", b"iTXt"})
_TURNING = (b"Raw profile type exif", b"XML:com.adobe.xmp")
"""Keywords of the texts that Pillow takes an orientation from."""


class Broken(ValueError):
    """A chunk that the pixels depend on is damaged, missing or in a wrong place."""


class Headless(Broken):
    """Not even the first chunk is as it has to be: it is no PNG, whatever its first bytes are."""


@dataclass(frozen=True, slots=True)
class Plain:
    """A PNG as Pillow is to see it.

    `deep_key`: the transparent colour of a file with 16 bits for each of red, green and blue.
    Pillow keeps 8 of them, which do not tell it from its neighbours; so the file does not name it.
    """

    file: io.BytesIO
    deep_key: Colour | None


@dataclass(slots=True)
class _Writer:
    """Collects the chunks that are kept. `data` are the pixels, as the one chunk of theirs."""

    file: io.BytesIO = field(default_factory=io.BytesIO)
    names: set[bytes] = field(default_factory=set)
    bits: int = 0
    colour_type: int = 0
    deep_key: Colour | None = None
    data_begin: int = 0
    data_checksum: int = 0
    turning: dict[bytes, deque[tuple[bytes, memoryview]]] = field(default_factory=dict)

    def take(self, name: bytes, body: memoryview) -> None:
        """A chunk, in the order of the file. Raises `Broken`."""
        is_first = name not in self.names
        match name:
            case b"IHDR" if not self.names and len(body) == _HEADER.size:
                self.file.write(SIGNATURE)
                _, _, self.bits, self.colour_type, *_ = _HEADER.unpack(body)
                self._write(name, body)
            case b"PLTE" if is_first and b"IHDR" in self.names and b"IDAT" not in self.names:
                self._write(name, body)
            case b"IDAT" if b"IHDR" in self.names:
                self._add_data(body)
            case b"tRNS":
                if is_first and b"IDAT" not in self.names:
                    self._take_transparency(body)
            case b"IEND" if b"IDAT" in self.names:
                self._finish()
            case _:
                raise Broken(f"a chunk {name!r} in a place where it cannot be")
        self.names.add(name)

    def keep_turning(self, name: bytes, body: memoryview) -> None:
        """A chunk that may hold an orientation; of several of a kind, the last sound one counts."""
        keyword = _turning_keyword(name, body)
        if keyword is not None:
            self.turning.setdefault(keyword, deque(maxlen=MAX_TEXTS)).append((name, body))

    def _write(self, name: bytes, body: bytes | memoryview) -> None:
        self.file.write(_HEAD.pack(len(body), name))
        self.file.write(body)
        self.file.write(_CHECKSUM.pack(zlib.crc32(body, zlib.crc32(name))))

    def _add_data(self, body: memoryview) -> None:
        if not self.data_begin:
            self.file.write(_HEAD.pack(0, b"IDAT"))  # how long it is will be known at the end
            self.data_begin = self.file.tell()
            self.data_checksum = zlib.crc32(b"IDAT")
        self.data_checksum = zlib.crc32(body, self.data_checksum)
        self.file.write(body)

    def _take_transparency(self, body: memoryview) -> None:
        """The transparent colour on the scale of the pixels that Pillow makes."""
        if self.colour_type == _PALETTE:
            self._write(b"tRNS", body)
        count = _NUM_SAMPLES.get(self.colour_type)
        if count is None:
            return
        if len(body) < 2 * count:
            raise Broken("a transparent colour that breaks off")
        samples = struct.unpack_from(f">{count}H", body)
        if self.bits == _DEEP and count == 3:
            self.deep_key = samples
            return
        if self.bits in _SHALLOW:
            most = (1 << self.bits) - 1  # what is above is not to be looked at
            samples = tuple((sample & most) * (255 // most) for sample in samples)
        self._write(b"tRNS", struct.pack(f">{count}H", *samples))

    def _finish(self) -> None:
        end = self.file.tell()
        self.file.seek(self.data_begin - _HEAD.size)
        self.file.write(_HEAD.pack(end - self.data_begin, b"IDAT"))
        self.file.seek(end)
        self.file.write(_CHECKSUM.pack(self.data_checksum))
        for kept in self.turning.values():
            sound = (chunk for chunk in reversed(kept) if _can_be_unpacked(*chunk))
            for name, body in islice(sound, 1):
                self._write(name, body)
        self._write(b"IEND", b"")
        self.file.seek(0)


def without_extras(content: bytes) -> Plain:
    """The same picture, of a file that begins as a PNG does. Raises `Broken`."""
    writer = _Writer()
    try:
        return _copied(content, writer)
    except Broken as exc:
        if writer.names:
            raise
        raise Headless("a header that is damaged") from exc


def _copied(content: bytes, writer: _Writer) -> Plain:
    view = memoryview(content)
    for name, begin, end in _chunks(content):
        is_beside = name[0] & _ANCILLARY and name != b"tRNS"
        if is_beside and name not in _MAY_TURN:
            continue
        body = view[begin:end]
        is_intact = _CHECKSUM.unpack_from(content, end)[0] == zlib.crc32(body, zlib.crc32(name))
        if is_beside:
            if is_intact:
                writer.keep_turning(name, body)
            continue
        if not is_intact:
            raise Broken(f"a wrong checksum in {name!r}")
        writer.take(name, body)
        if name == b"IEND":
            return Plain(writer.file, writer.deep_key)
    raise AssertionError("chunks go on up to the end of the image, or break off")


def _chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name of each chunk, and where its content begins and ends. Raises `Broken` at the last."""
    at = len(SIGNATURE)
    last = len(content) - _HEAD.size - _CHECKSUM.size
    for _ in range(MAX_CHUNKS):
        if at > last:
            break
        length, name = _HEAD.unpack_from(content, at)
        begin = at + _HEAD.size
        end = begin + length
        at = end + _CHECKSUM.size
        if at > len(content) or not name.isalpha():
            break
        yield name, begin, end
    else:
        raise Broken(f"more than {MAX_CHUNKS} chunks")
    raise Broken("a chunk breaks off")


def _turning_keyword(name: bytes, body: memoryview) -> bytes | None:
    """Which text it is, of those that may hold an orientation and are not too long for Pillow."""
    if name == b"eXIf":
        return name
    if len(body) > MAX_TEXT_BYTES:
        return None
    return next((word for word in _TURNING if body[: len(word) + 1] == word + b"\0"), None)


def _can_be_unpacked(name: bytes, body: memoryview) -> bool:
    """Whether Pillow can read such a chunk: it gives up the file over one that it cannot."""
    rest, packed = bytes(body).partition(b"\0")[2], b""
    if name == b"zTXt":
        packed = rest[1:]
    elif name == b"iTXt" and rest[:1] == b"\x01":
        packed = rest[2:].split(b"\0", 2)[-1]
    unpacker = zlib.decompressobj()
    try:
        unpacker.decompress(packed, MAX_TEXT_BYTES)
    except zlib.error:
        return False
    return not unpacker.unconsumed_tail
