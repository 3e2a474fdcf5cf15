"""A page of a PDF as a picture. The rendering itself is done by a process of its own (`pdfium`)."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from visionq.contract import FailureCode
from visionq_worker.errors import TaskError
from visionq_worker.model.geometry import Size

if TYPE_CHECKING:
    from visionq_worker.pdfium import Reply

log = logging.getLogger(__name__)

MEGABYTE = 1_000_000

MAX_PAGE_BYTES = 160 * MEGABYTE
"""Of memory for a page, the file aside: a scan of 35 megapixels in the costliest of usual forms, a
progressive JPEG, takes 157 MB."""
CPU_SECONDS = 10
"""For a page. Ordinary ones take 0.1."""
WALL_SECONDS = 60.0
"""The same on a machine that is very busy."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page as the model wants to see it."""

    pixels: NDArray[np.uint8]
    """RGB, (height, width, 3)."""
    points: Size
    """Of the page, rounded: the measure that is the same for any number of crops."""
    shape: Size
    """Of the page, in finer parts, by which its tiles are counted."""
    has_undrawn_text: bool = False
    """Whether letters are missing from the pixels, since there was no font for them."""


def render_page(content: bytes, number: int, num_crops: int, *, max_bytes: int) -> Page:
    """The page of that number, from 1, for so many crops. Raises `TaskError`."""
    head, _, pixels = _run(content, number, num_crops, max_bytes).partition(b"\n")
    try:
        reply: Reply = json.loads(head)
        if "refusal" in reply:
            raise _refused(reply, number)
        width, height = reply["pixels"]
        return Page(
            np.frombuffer(pixels, np.uint8).reshape(height, width, 3),
            points=Size(*reply["points"]),
            shape=Size(*reply["shape"]),
            has_undrawn_text=reply["has_undrawn_text"],
        )
    except (ValueError, LookupError) as error:  # a file that has outwitted the renderer
        raise _damaged() from error


def _run(content: bytes, number: int, num_crops: int, max_bytes: int) -> bytes:
    arguments = (number, num_crops, len(content), max_bytes + len(content), CPU_SECONDS)
    try:
        done = subprocess.run(  # noqa: S603  # our own command line
            # Without `site`, which takes longer than all else; so the path has to be handed down.
            [sys.executable, "-S", "-P", "-m", "visionq_worker.pdfium", *map(str, arguments)],
            input=content,
            capture_output=True,
            env={"PYTHONPATH": os.pathsep.join(sys.path)},
            timeout=WALL_SECONDS,
            start_new_session=True,  # the terminal's Ctrl-C is the worker's
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _too_much(f"more than {WALL_SECONDS:.0f} seconds") from error
    except OSError as error:
        raise _no_renderer() from error
    if done.returncode == 0:
        return done.stdout
    log.warning(
        "a PDF has ended the process that renders it, with code %d: its task fails, and the worker"
        " goes on, so there is nothing to do; it said: %s",
        done.returncode,
        done.stderr[-500:].decode(errors="replace"),
    )
    match done.returncode:
        case _Exits.TOO_MUCH:
            raise _too_much(f"more than {max_bytes / MEGABYTE:.0f} MB")
        case _Exits.TOO_LONG:
            raise _too_much(f"more than {CPU_SECONDS} seconds")
        case _Exits.PYTHON | _Exits.KILLED:
            raise _no_renderer()
        case _:
            raise _damaged()


class _Exits:
    """How a renderer may end, beside well and by a signal of its own making."""

    PYTHON = 1  # an exception: nothing to do with the file
    TOO_MUCH = 3  # `pdfium.EXIT_TOO_MUCH`, which is not imported: it brings PDFium
    TOO_LONG = -signal.SIGXCPU
    KILLED = -signal.SIGKILL  # by the system, say, that is short of memory


def _too_much(what: str) -> TaskError:
    return TaskError(FailureCode.IMAGE_TOO_LARGE, f"the page of an input PDF takes {what}")


def _damaged() -> TaskError:
    return TaskError(FailureCode.IMAGE_TRUNCATED, "an input PDF is damaged or incomplete")


def _no_renderer() -> TaskError:
    message = "the worker could not render the page of an input PDF"
    return TaskError(FailureCode.INTERNAL, message, retryable=True)


def _refused(reply: Reply, number: int) -> TaskError:
    match reply["refusal"]:
        case "encrypted":
            return TaskError(FailureCode.PDF_ENCRYPTED, "an input PDF asks for a password")
        case "no page":
            message = f"an input PDF has no page {number}: it has {reply['num_pages']}"
            return TaskError(FailureCode.PAGE_MISSING, message)
        case "no shape":
            width, height = reply["points"]
            message = f"a page of {width} x {height} points cannot be tiled"
            return TaskError(FailureCode.IMAGE_SHAPE, message)
        case "damaged":
            return _damaged()
