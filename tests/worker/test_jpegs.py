"""JPEGs that are damaged inside are told from whole ones, whoever decodes them and how small."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

import pytest
from PIL import Image

from tests.worker.photographs import jpeg, photograph
from tests.worker.picture_bytes import encoded
from visionq.contract import FailureCode
from visionq_worker import jpegs
from visionq_worker.developing import develop_exactly, develop_fast
from visionq_worker.errors import TaskError
from visionq_worker.images import ImageLimits, Opened, open_image

LIMITS = ImageLimits(max_pixels=40_000_000, formats=("JPEG",))
SIZE = (160, 120)
END = b"\xff\xd9"

SCENE = photograph(SIZE)
WHOLE: dict[str, bytes] = {
    "baseline": jpeg(SCENE),
    "progressive": jpeg(SCENE, progressive=True),
    "4:4:4": jpeg(SCENE, subsampling=0),
    "4:2:2": jpeg(SCENE, subsampling=1),
    "grey": jpeg(SCENE.convert("L")),
    "grey, progressive": jpeg(SCENE.convert("L"), progressive=True),
    "CMYK": jpeg(SCENE.convert("CMYK")),
    "CMYK, progressive": jpeg(SCENE.convert("CMYK"), progressive=True),
    "stored as RGB": jpeg(SCENE, keep_rgb=True),
    "restart markers": jpeg(SCENE, restart_marker_blocks=20),
    "restart markers, progressive": jpeg(SCENE, restart_marker_blocks=20, progressive=True),
    "two pictures": encoded(SCENE, "MPO", save_all=True, append_images=[SCENE]),
}


def scan(content: bytes) -> tuple[int, int]:
    """Where the compressed data of the file's first scan begins, and where its picture ends."""
    begin = content.index(b"\xff\xda")
    begin += 2 + int.from_bytes(content[begin + 2 : begin + 4])
    return begin, content.index(END, begin)


def cut(content: bytes) -> bytes:
    begin, end = scan(content)
    return content[: (begin + end) // 2] + content[end:]


def zeroed(content: bytes) -> bytes:
    begin, end = scan(content)
    half = (begin + end) // 2
    return content[:half] + bytes(end - half) + content[end:]


def torn(content: bytes) -> bytes:
    """Some bytes are missing from the middle."""
    begin, end = scan(content)
    half = (begin + end) // 2
    return content[:half] + content[half + (end - begin) // 7 :]


def overlong(content: bytes) -> bytes:
    """Compressed data is left when the picture is complete."""
    _, end = scan(content)
    return content[:end] + random.Random(1).randbytes(200).replace(b"\xff", b"\0") + content[end:]


def truncated(content: bytes) -> bytes:
    begin, end = scan(content)
    return content[: (begin + end) // 2]


DAMAGE: tuple[Callable[[bytes], bytes], ...] = (cut, zeroed, torn, overlong, truncated)


def exact(opened: Opened) -> object:
    return develop_exactly(opened, 1)


def by_pillow(opened: Opened) -> object:
    return develop_fast(opened, 1, has_fast_decoder=False)


def by_simplejpeg(opened: Opened) -> object:
    return develop_fast(opened, 1, has_fast_decoder=True)


def halved(opened: Opened) -> object:
    return opened.load(reduction=2)


WAYS: tuple[Callable[[Opened], object], ...] = (exact, by_pillow, by_simplejpeg, halved)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("damaged", DAMAGE)
@pytest.mark.parametrize("kind", WHOLE)
def test_damage_inside_is_image_truncated(
    kind: str, damaged: Callable[[bytes], bytes], way: Callable[[Opened], object]
) -> None:
    content = damaged(WHOLE[kind])
    with pytest.raises(TaskError) as caught:
        way(open_image(content, LIMITS))
    assert caught.value.code is FailureCode.IMAGE_TRUNCATED


@pytest.mark.parametrize("kind", ["baseline", "progressive", "restart markers", "grey"])
@pytest.mark.parametrize("marker", [0x04, 0xC4, 0xC8, 0xCE, 0xDA, 0xE5, 0xFE])
def test_marker_that_stands_in_the_compressed_data_is_damage(kind: str, marker: int) -> None:
    """Of a segment that is no part of the picture, or of one that contradicts it."""
    begin, end = scan(WHOLE[kind])
    for length in (2, 60, 0xFFFF):
        stray = bytes([0xFF, marker, *length.to_bytes(2)])
        half = (begin + end) // 2
        content = WHOLE[kind][:half] + stray + WHOLE[kind][half:]
        assert not jpegs.is_whole(content, SIZE)


@pytest.mark.parametrize("progressive", [False, True])
def test_restart_marker_out_of_order_is_damage(progressive: bool) -> None:
    content = jpeg(SCENE, restart_marker_blocks=20, progressive=progressive)
    begin, _ = scan(content)
    third = [match.start() for match in re.finditer(rb"\xff[\xd0-\xd7]", content[begin:])][
        2
    ] + begin
    for other in (b"", b"\xff\xd6", b"\xff\xd0"):
        changed = content[:third] + other + content[third + 2 :]
        assert not jpegs.is_whole(changed, SIZE)


@pytest.mark.parametrize("factor", [2, 4])
def test_damage_in_a_photograph_that_is_reduced_is_noticed(factor: int) -> None:
    content = zeroed(jpeg(photograph((2400, 1800))))
    for has_fast_decoder in (False, True):
        opened = open_image(content, LIMITS)
        with pytest.raises(TaskError):
            develop_fast(opened, 4 if factor == 2 else 1, has_fast_decoder=has_fast_decoder)


def between(first: bytes, stray: bytes) -> Callable[[bytes], bytes]:
    """A change that puts stray bytes before the first such segment."""
    return lambda content: content.replace(first, stray + first, 1)


def with_sequential_scan_of_no_coefficients(content: bytes) -> bytes:
    """As some old encoders write it."""
    begin, _ = scan(content)
    return content[: begin - 3] + bytes(3) + content[begin:]


ODD: dict[str, Callable[[bytes], bytes]] = {
    "bytes behind its end": lambda content: content + b"written by a camera" * 40,
    "zeros behind its end": lambda content: content + bytes(5000),
    "stray bytes before the tables": between(b"\xff\xdb", b"\x01\x02"),
    "stray bytes before the codes": between(b"\xff\xc4", b"\0" * 9),
    "stray bytes before the data": between(b"\xff\xda", b"\x01\x02\x03"),
    "fillers before the data": between(b"\xff\xda", b"\xff\xff\xff"),
    "a comment": between(b"\xff\xdb", b"\xff\xfe\x00\x06abcd"),
    "a comment that holds a whole JPEG": between(
        b"\xff\xdb",
        b"\xff\xfe"
        + (2 + len(jpeg(SCENE.resize((9, 9))))).to_bytes(2)
        + jpeg(SCENE.resize((9, 9))),
    ),
    "a thousand comments": between(b"\xff\xdb", b"\xff\xfe\x00\x02" * 1000),
    "an unknown revision of JFIF": lambda content: content.replace(b"JFIF\0\1", b"JFIF\0\7", 1),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("kind", ["baseline", "progressive", "grey", "restart markers", "4:4:4"])
def test_what_is_odd_beside_the_compressed_data_is_no_damage(
    kind: str, odd: str, way: Callable[[Opened], object]
) -> None:
    content = ODD[odd](WHOLE[kind])
    assert content != WHOLE[kind]
    assert way(open_image(content, LIMITS)) is not None
    # And damage is still seen behind it.
    with pytest.raises(TaskError):
        way(open_image(ODD[odd](cut(WHOLE[kind])), LIMITS))


def test_sequential_scan_without_a_range_of_coefficients_is_read() -> None:
    content = with_sequential_scan_of_no_coefficients(WHOLE["baseline"])
    assert jpegs.is_whole(content, SIZE)
    assert not jpegs.is_whole(cut(content), SIZE)


@pytest.mark.parametrize("kind", WHOLE)
def test_whole_pictures_are_read(kind: str) -> None:
    for way in WAYS:
        assert way(open_image(WHOLE[kind], LIMITS)) is not None


def test_pictures_of_every_size_are_whole() -> None:
    for side in (*range(1, 34), 255, 256, 257):
        for options in ({}, {"progressive": True}, {"subsampling": 0}):
            image = Image.effect_noise((side, 35 - side % 34), 90)
            content = jpeg(image.convert("RGB"), **options)
            assert jpegs.is_whole(content, image.size)


def test_file_with_more_segments_than_any_camera_writes_is_not_read_twice() -> None:
    stray = b"\x01" + b"\xff\xfe\x00\x02" * (jpegs.MAX_SEGMENTS + 1)
    assert not jpegs.is_whole(between(b"\xff\xdb", stray)(WHOLE["baseline"]), SIZE)
    # Without stray bytes there is nothing to be read twice for.
    assert jpegs.is_whole(between(b"\xff\xdb", stray[1:])(WHOLE["baseline"]), SIZE)
