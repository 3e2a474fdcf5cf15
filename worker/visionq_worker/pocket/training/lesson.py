"""What a batch teaches: the answers' tokens, and what each patch shows.

The second is asked of the vision tower's features through a head of its own, which the checkpoint
does not have. Without it, a model that sees pages of words from the start learns how long words are
and, for a long time, not one letter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from visionq_worker.model.geometry import TILE_PX
from visionq_worker.model.phi3v import Phi3VForCausalLM
from visionq_worker.model.pixels import CHANNEL_MEAN, CHANNEL_STD
from visionq_worker.pocket.network import GRID
from visionq_worker.pocket.training.batches import Batch
from visionq_worker.pocket.training.examples import NOTHING, NUM_CLASSES

NOTHING_WEIGHT = 0.1
"""Of a patch that shows nothing beside one that shows something: most show nothing."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one batch. `right`: per task, whether every token of its answer was the likeliest.

    Generation that takes the likeliest token writes the whole answer exactly then, but for what is
    not judged: edges of boxes, and the form of documents, which the engine holds it to.
    `token_errors` is the share of the judged tokens, `patch_errors` that of the patches which show
    something.
    """

    answer_loss: torch.Tensor
    patch_loss: torch.Tensor
    right: torch.Tensor
    token_errors: torch.Tensor
    patch_errors: torch.Tensor


class Lesson(nn.Module):
    """The model with the head for patches."""

    def __init__(self, model: Phi3VForCausalLM) -> None:
        super().__init__()
        self.model = model
        self.patch_head = nn.Linear(model.config.tower.hidden_size, NUM_CLASSES)
        weights = torch.ones(NUM_CLASSES)
        weights[NOTHING] = NOTHING_WEIGHT
        self.class_weights: torch.Tensor
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, batch: Batch) -> Outcome:
        """Nothing here waits for the device: its next steps are queued while it works."""
        decoder = self.model.model
        vision = decoder.vision_embed_tokens
        features = self.features(batch)
        classes = self.patch_head(features).float()  # (views, 576, classes)
        blocks = vision.merged(features).unflatten(0, (batch.num_pictures, GRID.num_tiles))
        images = vision.img_projection(vision.arranged(blocks, GRID))  # (pictures, 757, hidden)
        text = decoder.embed_tokens(batch.prefixes)  # (examples, tokens, hidden)
        placeholders = batch.prefixes == self.model.config.image_token_id
        known = [_Known() for _ in decoder.layers]
        self._decoded(text.masked_scatter(placeholders[..., None], images), known)
        scores = []
        for asked in batch.asked:
            before = [layer.of(asked.of) for layer in known]
            hidden = self._decoded(decoder.embed_tokens(asked.ids), before)
            hidden = decoder.norm(hidden).flatten(0, 1).index_select(0, asked.before)
            scores.append(self.model.lm_head(hidden).float())
        return self.outcome(torch.cat(scores), classes, batch)

    def features(self, batch: Batch) -> torch.Tensor:
        """What the tower sees: (views, 576, width)."""
        if batch.features is not None:
            return batch.features
        vision = self.model.model.vision_embed_tokens
        pixels = views(batch.pixels).to(vision.glb_GN)
        features: torch.Tensor = vision.img_processor.vision_model.features(pixels)
        return features

    def _decoded(self, hidden: torch.Tensor, known: Sequence[_Known]) -> torch.Tensor:
        """As Phi3Model.forward with a cache, which wants one of its own kind."""
        decoder = self.model.model
        begin, length = known[0].length, hidden.shape[1]
        places = torch.arange(begin, begin + length, device=hidden.device)
        rotations = decoder.rotary_emb(hidden, position_ids=places[None])
        mask = None  # then sdpa is causal
        if begin:
            sees = torch.arange(begin + length, device=hidden.device)
            mask = (sees <= places[:, None])[None, None]
        for layer, one in zip(decoder.layers, known, strict=True):
            hidden = layer(
                hidden, attention_mask=mask, position_embeddings=rotations, past_key_values=one
            )
        return hidden

    def outcome(self, scores: torch.Tensor, classes: torch.Tensor, batch: Batch) -> Outcome:
        """Scores (answers' tokens, vocabulary), classes (views, 576, classes)."""
        answers, tasks, weights = (
            torch.cat([getattr(asked, name) for asked in batch.asked])
            for name in ("answers", "tasks", "weights")
        )
        is_judged = (weights == 1).float()  # no edge of a box, and no form of a document
        shown, classes = batch.shown.flatten(), classes.flatten(0, 1)
        is_wrong = (scores.argmax(dim=1) != answers).float() * is_judged
        num_wrong = is_wrong.new_zeros(len(batch.sorts)).index_add(0, tasks, is_wrong)
        is_shown = (shown != NOTHING).float()
        is_misread = (classes.argmax(dim=1) != shown).float()
        losses = functional.cross_entropy(scores, answers, reduction="none")
        return Outcome(
            answer_loss=(losses * weights).sum() / weights.sum(),
            patch_loss=functional.cross_entropy(classes, shown, self.class_weights.float()),
            right=num_wrong == 0,
            token_errors=is_wrong.sum() / is_judged.sum(),
            patch_errors=(is_misread * is_shown).sum() / is_shown.sum(),
        )


class _Known:
    """A layer's keys and values of the tokens before, as attention asks for them.

    Each (rows, heads, tokens, size).
    """

    def __init__(self, before: tuple[torch.Tensor, torch.Tensor] | None = None) -> None:
        self._before = self._all = before

    @property
    def length(self) -> int:
        """Tokens before."""
        return self._before[0].shape[2] if self._before else 0

    def of(self, rows: torch.Tensor) -> _Known:
        """What has been seen in those rows, for what comes after it."""
        assert self._all is not None, "it has been through its layer"
        keys, values = self._all
        return _Known((keys[rows], values[rows]))

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, *_: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """All of them: those before, then these."""
        if self._before:
            keys, values = (
                torch.cat([before, new], dim=2)
                for before, new in zip(self._before, (keys, values), strict=True)
            )
        self._all = (keys, values)
        return keys, values


def views(pixels: torch.Tensor) -> torch.Tensor:
    """As `model.pixels.views_of`, for pictures of one size: (5 pictures, 3, 336, 336) float32."""
    mean, std = (
        torch.tensor(numbers, device=pixels.device).view(3, 1, 1)
        for numbers in (CHANNEL_MEAN, CHANNEL_STD)
    )
    values = pixels.permute(0, 3, 1, 2).contiguous().float().div_(255).sub_(mean).div_(std)
    size = (TILE_PX, TILE_PX)
    overview = functional.interpolate(values, size=size, mode="bicubic")
    tiles = values.view(len(values), 3, GRID.rows, TILE_PX, GRID.columns, TILE_PX)
    tiles = tiles.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)  # (pictures, 4, 3, 336, 336)
    return torch.cat([overview[:, None], tiles], dim=1).view(-1, 3, *size)
