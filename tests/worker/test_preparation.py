"""From a task's files to the engine's inputs: in order, one by one, and within the memory given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from threading import Lock

import pytest
from PIL import Image

from tests.support.scripted import ScriptedEngine
from tests.worker.pdf_bytes import A4, filled, pdf
from tests.worker.photographs import jpeg
from tests.worker.picture_bytes import encoded, exif
from visionq.contract import FailureCode, ImageRef, State, Task
from visionq.records import Attempt
from visionq_worker.errors import TaskError
from visionq_worker.footprint import Decoding
from visionq_worker.images import ImageLimits
from visionq_worker.kinds import Prompt
from visionq_worker.model.pixels import Picture
from visionq_worker.model.processor import ModelInputs
from visionq_worker.preparation import LARGE_BYTES, Preparation
from visionq_worker.results import Run
from visionq_worker.sources import Source

SECONDS = 20.0


class Listener(ScriptedEngine):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[Sequence[Image.Image | Picture]] = []

    def encode(
        self, prompt: str, images: Sequence[Image.Image | Picture], _num_crops: int
    ) -> ModelInputs:
        self.given.append(images)
        return super().encode(prompt, images, _num_crops)


def preparation(
    engine: ScriptedEngine | None = None,
    *,
    decoding: Decoding = "fast",
    max_bytes: int = 200_000_000,
    max_at_once: int = 2,
    reads_pdf: bool = False,
) -> Preparation:
    return Preparation(
        engine or ScriptedEngine(),
        ImageLimits(max_pixels=40_000_000, formats=("JPEG", "PNG", "WEBP"), pdf=reads_pdf),
        decoding=decoding,
        has_fast_decoder=False,
        max_bytes=max_bytes,
        max_at_once=max_at_once,
    )


def run_of(*contents: bytes, num_crops: int = 1) -> Run:
    task = Task(
        id="7d3c0d2a-9a5f-4f6e-8f43-4b0c8a7be912", kind="ask", images=(ImageRef(ref="inputs/x"),)
    )
    run = Run(
        task=task,
        attempt=Attempt(state=State.STARTED, number=1, fence=1, now=0.0, submitted_at=0.0),
    )
    run.sources = tuple(Source(content, "digest") for content in contents)
    run.prompt = Prompt(text="?", num_crops=num_crops, max_new_tokens=1, is_max_chosen=False)
    return run


def test_page_of_a_pdf_is_a_picture_and_measured_in_points() -> None:
    engine = Listener()
    run = run_of(pdf(b"", filled((1, 0, 0), (0, 0, *A4))))
    run.sources = (replace(run.sources[0], page=2),)
    preparation(engine, reads_pdf=True).prepare(run)
    ((picture,),) = engine.given
    assert isinstance(picture, Picture)
    assert tuple(picture.pixels[168, 168]) == (255, 0, 0)
    assert run.sizes == (A4,)


def test_pdf_is_no_image_where_pages_are_not_allowed() -> None:
    run = run_of(pdf(b""))
    run.sources = (replace(run.sources[0], page=1),)
    with pytest.raises(TaskError) as caught:
        preparation().prepare(run)
    assert caught.value.code is FailureCode.NOT_AN_IMAGE


def test_page_is_allowed_the_memory_there_is() -> None:
    run = run_of(pdf(filled((1, 0, 0), (0, 0, 300, 300)) * 300_000))
    run.sources = (replace(run.sources[0], page=1),)
    with pytest.raises(TaskError, match="more than 40 MB"):
        preparation(max_bytes=40_000_000, reads_pdf=True).prepare(run)


def test_engine_is_given_the_pictures_in_the_order_of_the_files() -> None:
    engine = Listener()
    run = run_of(*(encoded(Image.new("RGB", (32, 16), name), "PNG") for name in ("red", "blue")))
    preparation(engine).prepare(run)
    (pictures,) = engine.given
    colours = []
    for picture in pictures:
        assert isinstance(picture, Picture)
        colours.append(tuple(picture.pixels[168, 168].tolist()))
    assert colours == [(255, 0, 0), (0, 0, 255)]
    assert run.inputs is not None
    assert run.seconds["prepare"] > 0


def test_sizes_are_those_of_the_upright_pictures() -> None:
    run = run_of(jpeg(Image.new("RGB", (64, 48)), exif=exif(6)), encoded(DOT, "PNG"))
    preparation().prepare(run)
    assert run.sizes == ((48, 64), (1, 1))


@pytest.mark.parametrize("decoding", ["exact", "fast"])
def test_picture_that_takes_more_than_is_allowed_is_refused_with_the_numbers(
    decoding: Decoding,
) -> None:
    run = run_of(encoded(Image.new("RGB", (3000, 2000)), "WEBP", method=0))
    with pytest.raises(TaskError) as caught:
        preparation(decoding=decoding, max_bytes=99_000_000).prepare(run)
    assert caught.value.code is FailureCode.IMAGE_TOO_LARGE
    assert not caught.value.retryable
    # Six megapixels of 16 bytes, and 4 MB besides.
    message = "a WEBP of 3000 x 2000 pixels takes 100 MB to decode; 99 MB are allowed"
    assert caught.value.message == message


def test_jpeg_that_is_too_large_for_exact_pixels_can_be_answered_fast() -> None:
    run = run_of(jpeg(Image.new("RGB", (4000, 3000))))
    with pytest.raises(TaskError, match="to decode; 40 MB are allowed"):
        preparation(decoding="exact", max_bytes=40_000_000).prepare(run)
    preparation(decoding="fast", max_bytes=40_000_000).prepare(run)
    assert run.sizes == ((4000, 3000),)


def test_picture_too_narrow_for_tiles_is_image_shape() -> None:
    run = run_of(encoded(Image.new("RGB", (4000, 1)), "PNG"))
    with pytest.raises(TaskError) as caught:
        preparation().prepare(run)
    assert caught.value.code is FailureCode.IMAGE_SHAPE


def test_pictures_of_many_tasks_never_take_more_than_is_allowed_together() -> None:
    """Bytes are counted as they are taken and given back; half of these fit at the same time."""
    prepared = preparation(max_bytes=70_000_000, max_at_once=4)
    budget, lock = prepared._budget, Lock()
    held = most = num_most = num_held = 0
    take = budget.take

    @contextmanager
    def counting(num_bytes: int) -> Iterator[None]:
        nonlocal held, most, num_held, num_most
        with take(num_bytes):
            with lock:
                held, num_held = held + num_bytes, num_held + 1
                most, num_most = max(most, held), max(num_most, num_held)
            yield
            with lock:
                held, num_held = held - num_bytes, num_held - 1

    budget.take = counting  # type: ignore[method-assign]
    large = encoded(Image.new("RGBA", (3400, 2600)), "PNG", compress_level=1)
    small = encoded(Image.new("RGB", (900, 700)), "PNG", compress_level=1)
    runs = [run_of(small, large) if number % 3 else run_of(small, small) for number in range(12)]
    with ThreadPoolExecutor(12) as pool:
        for done in [pool.submit(prepared.prepare, run) for run in runs]:
            done.result(SECONDS)
    assert all(run.inputs is not None for run in runs)
    assert most <= 70_000_000
    assert 2 <= num_most <= 4
    assert held == 0


def test_large_picture_has_what_small_ones_left_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[str] = []
    monkeypatch.setattr("visionq_worker.preparation.give_back", lambda: given.append("back"))
    small = encoded(Image.new("RGB", (900, 700)), "PNG", compress_level=1)
    large = encoded(Image.new("RGB", (4100, 4100)), "PNG", compress_level=1)
    assert LARGE_BYTES < 4 * 4100 * 4100
    preparation().prepare(run_of(small))
    assert given == []
    preparation().prepare(run_of(large))
    assert given == ["back"]


DOT = Image.new("RGB", (1, 1), "red")
