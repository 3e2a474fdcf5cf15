"""Unpacking the body of a message: kombu's compressions, with a bound on what comes out.

kombu's own decompressors have no bound: sixty kilobytes can hold a gigabyte of zeros.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, Final

MAX_DICTIONARY_BYTES = 80 * 1024 * 1024
"""Memory of an LZMA decoder: its highest preset asks for 65 MiB."""


class UnknownCompression(ValueError):
    """The body is compressed by what this worker cannot unpack; the text names it."""


class Unpackable(ValueError):
    """The body is not what its header says, or too large when unpacked."""


def unpack(content: bytes, compression: str, *, max_bytes: int) -> bytes:
    """The content unpacked, by the name in the message's header `compression`.

    Raises `UnknownCompression` and `Unpackable`.
    """
    start = _DECODERS.get(_ALIASES.get(compression, compression))
    if start is None:
        known = ", ".join(sorted(_ALIASES))
        raise UnknownCompression(f"compression {compression[:40]!r} is none of {known}")
    try:
        decoder = start()
        unpacked: bytes = decoder.decompress(content, max_bytes + 1)
        is_whole = decoder.eof
    except (zlib.error, OSError, EOFError, ValueError, lzma.LZMAError, MemoryError) as error:
        raise Unpackable(f"the body cannot be unpacked: {type(error).__name__}") from error
    if len(unpacked) > max_bytes:
        raise Unpackable(f"the unpacked body is larger than {max_bytes} bytes")
    if not is_whole:
        raise Unpackable("the packed body is cut off")
    return unpacked


def _lzma() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(memlimit=MAX_DICTIONARY_BYTES)


_DECODERS: Final[MappingProxyType[str, Callable[[], Any]]] = MappingProxyType(
    {
        # kombu's name says gzip; what it writes, and reads, is zlib's format.
        "application/x-gzip": zlib.decompressobj,
        "application/x-bz2": bz2.BZ2Decompressor,
        "application/x-lzma": _lzma,
    }
)
_ALIASES: Final[MappingProxyType[str, str]] = MappingProxyType(
    {
        "gzip": "application/x-gzip",
        "zlib": "application/x-gzip",
        "bzip2": "application/x-bz2",
        "bzip": "application/x-bz2",
        "lzma": "application/x-lzma",
        "xz": "application/x-lzma",
    }
)
