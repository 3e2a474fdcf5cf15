"""HEIF, as phones store photographs (HEIC), where the extra `heif` is installed. Its only door."""

from __future__ import annotations

from importlib.util import find_spec

from visionq_worker.errors import StartError

HEIF = "HEIF"


def has_heif() -> bool:
    return find_spec("pillow_heif") is not None


def register() -> None:
    """Let Pillow read HEIF from now on. Raises `StartError` where the library is missing."""
    if not has_heif():
        raise StartError(
            "limits.image_formats: HEIF takes pillow-heif; pip install 'visionq-worker[heif]'"
        )
    from pillow_heif import register_heif_opener

    # Pictures are prepared by several threads as it is, and nothing but the picture is wanted.
    register_heif_opener(decode_threads=1, thumbnails=False, depth_images=False, aux_images=False)
