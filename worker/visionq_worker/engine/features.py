"""Pictures as embeddings: the vision tower over all new pictures of a step, and a cache.

Pictures are known by their digest, so the same one asked about again, by anybody, is not computed
again while it is in the cache. Normalising and tiling happen on the device, from bytes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator

import torch

from visionq_worker.model.pixels import Picture, views_of
from visionq_worker.model.vision import VisionEmbedding

TILES_PER_PASS = 64
"""Tiles in one pass of the tower, at most: bounds the memory of its activations."""


class FeatureCache:
    """Embeddings of the pictures used last, up to `max_bytes`."""

    def __init__(self, vision: VisionEmbedding, *, max_bytes: int) -> None:
        self.num_hits = 0
        self.num_misses = 0
        self._vision = vision
        self._max_bytes = max_bytes
        self._kept: OrderedDict[bytes, torch.Tensor] = OrderedDict()
        self._num_bytes = 0

    def embeddings(self, pictures: Iterable[Picture]) -> dict[bytes, torch.Tensor]:
        """By digest, (picture.grid.num_tokens, hidden) for each picture."""
        wanted = {picture.digest: picture for picture in pictures}
        found = {digest: self._kept[digest] for digest in wanted if digest in self._kept}
        for digest in found:
            self._kept.move_to_end(digest)
        missing = [picture for digest, picture in wanted.items() if digest not in found]
        self.num_hits += len(found)
        self.num_misses += len(missing)
        for group in _groups(missing):
            for picture, embedding in zip(group, self._compute(group), strict=True):
                found[picture.digest] = embedding
                self._keep(picture.digest, embedding)
        return found

    def measure(self, views: torch.Tensor) -> None:
        """Run the tower for nothing: what memory does a pass of so many tiles take?"""
        self._vision.merged_features(views)

    def clear(self) -> None:
        """Give the memory back."""
        self._kept.clear()
        self._num_bytes = 0

    def _compute(self, pictures: list[Picture]) -> list[torch.Tensor]:
        device = self._vision.glb_GN.device
        views = views_of(pictures, device)
        grids = [picture.grid for picture in pictures]
        together = self._vision(views, grids)  # (all their tokens, hidden)
        # Copies: a part of a tensor would keep the whole of it in memory.
        return [part.clone() for part in together.split([grid.num_tokens for grid in grids])]

    def _keep(self, digest: bytes, embedding: torch.Tensor) -> None:
        if embedding.nbytes > self._max_bytes:
            return
        self._kept[digest] = embedding
        self._num_bytes += embedding.nbytes
        while self._num_bytes > self._max_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._num_bytes -= oldest.nbytes


def _groups(pictures: list[Picture]) -> Iterator[list[Picture]]:
    """Pictures in groups of few enough tiles; a larger one alone."""
    group: list[Picture] = []
    num_tiles = 0
    for picture in pictures:
        if group and num_tiles + picture.grid.num_tiles > TILES_PER_PASS:
            yield group
            group, num_tiles = [], 0
        group.append(picture)
        num_tiles += picture.grid.num_tiles
    if group:
        yield group
