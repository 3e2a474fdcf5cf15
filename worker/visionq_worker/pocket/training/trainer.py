"""Steps of training, and where they stand."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from visionq_worker.model.phi3v import Phi3VForCausalLM
from visionq_worker.pocket.network import is_unused
from visionq_worker.pocket.training import state
from visionq_worker.pocket.training.batches import Batch
from visionq_worker.pocket.training.lesson import Lesson, Outcome
from visionq_worker.pocket.world.level import LEVELS

PEAK_RATE = 1e-3
WARM_UP_STEPS = 300
BETAS = (0.9, 0.99)
"""The second looks back a hundred steps: batches on a CPU are small."""
WEIGHT_DECAY = 0.05
MAX_GRADIENT = 1.0
PATCH_WEIGHT = 1.0
"""Of the loss on patches beside the loss on answers."""
PAIR_WEIGHT = 0.5
"""Of a batch of pairs beside one of single pictures."""

LETTER_SORTS = frozenset({"cover", "chart", "line-chart", "table", "document"})
"""Sorts by whose answers the next level is judged."""
NUM_JUDGED = 1000
GOOD_ENOUGH = 0.5
"""Share of exact ones among the last judged answers at which the next level begins."""


@dataclass(slots=True)
class Score:
    """Answered exactly, of those asked."""

    right: int = 0
    asked: int = 0

    def __str__(self) -> str:
        return f"{self.right / max(1, self.asked):.1%} of {self.asked}"


class Curriculum:
    """Which level is drawn: the next one as soon as enough answers about fresh pictures are exact.

    A fresh picture has never been trained on when it is judged, so that this is a held-out score.
    """

    def __init__(self, level: int = 0) -> None:
        self.level = level
        self._last: deque[bool] = deque(maxlen=NUM_JUDGED)

    def judge(self, batch: Batch, right: list[bool]) -> None:
        for sort, level, is_right in zip(batch.sorts, batch.levels, right, strict=True):
            if level == self.level and sort in LETTER_SORTS:
                self._last.append(is_right)
        is_judged = len(self._last) == NUM_JUDGED
        if is_judged and sum(self._last) >= GOOD_ENOUGH * NUM_JUDGED:
            self.level = min(self.level + 1, len(LEVELS) - 1)
            self._last.clear()


class Trainer:
    """The lesson on its device in the working precision, and float32 masters of its weights.

    With `freezes_tower` the vision tower stays as it is, and with it the head for patches: what is
    left to learn late is to read, in the order that is asked for, what the tower sees.
    """

    def __init__(
        self,
        model: Phi3VForCausalLM,
        device: torch.device,
        *,
        dtype: torch.dtype = torch.float32,
        freezes_tower: bool = False,
    ) -> None:
        self.device = device
        self.freezes_tower = freezes_tower
        lesson = Lesson(model)
        self._masters = {
            name: torch.nn.Parameter(weights.detach().to(device).clone())
            for name, weights in lesson.named_parameters()
            if not is_unused(name, model.config)
        }
        self._learning = {
            name: master
            for name, master in self._masters.items()
            if not (freezes_tower and (".img_processor." in name or "patch_head" in name))
        }
        self.lesson = lesson.to(device, dtype)
        self._working = dict(self.lesson.named_parameters())
        for name, weights in self._working.items():
            weights.requires_grad_(name in self._learning)
        masters = self._learning.values()
        groups: list[dict[str, Any]] = [
            {"params": [one for one in masters if one.dim() > 1]},
            {"params": [one for one in masters if one.dim() <= 1], "weight_decay": 0.0},
        ]
        self._optimizer = torch.optim.AdamW(
            groups,
            lr=PEAK_RATE,
            betas=BETAS,
            weight_decay=WEIGHT_DECAY,
            fused=device.type == "cuda",
        )
        for master in masters:
            master.grad = torch.zeros_like(master)
        for master in self._masters.values():
            self._optimizer.state[master] = {
                "step": torch.zeros((), device=device if device.type == "cuda" else None),
                "exp_avg": torch.zeros_like(master),
                "exp_avg_sq": torch.zeros_like(master),
            }
        self.facts = state.Facts()

    def prepared(self, batch: Batch) -> Batch:
        """With what a frozen tower sees of it, so that it can be learnt from again for less."""
        if not self.freezes_tower:
            return batch
        with torch.no_grad():
            return batch.seen(self.lesson.features(batch))

    def learn(self, singles: Batch, pairs: Batch, rate: float) -> tuple[Outcome, Outcome]:
        """One step on both batches at a share of the peak rate."""
        outcomes = []
        for batch, weight in ((singles, 1.0), (pairs, PAIR_WEIGHT)):
            outcome: Outcome = self.lesson(batch)
            loss = outcome.answer_loss
            if not self.freezes_tower:
                loss = loss + PATCH_WEIGHT * outcome.patch_loss
            torch.autograd.backward(weight * loss)
            outcomes.append(outcome)
        warm = min(1.0, (self.facts.steps + 1) / WARM_UP_STEPS)
        for group in self._optimizer.param_groups:
            group["lr"] = PEAK_RATE * warm * rate
        self._take_gradients()
        torch.nn.utils.clip_grad_norm_(self._learning.values(), MAX_GRADIENT, foreach=True)
        self._optimizer.step()
        self._show_working()
        self.facts.steps += 1
        return outcomes[0], outcomes[1]

    def weights(self) -> dict[str, torch.Tensor]:
        """Of the model alone, float32, under the checkpoint's names."""
        found: dict[str, torch.Tensor] = {}
        for name, weights in self._working.items():
            if name.startswith("model."):
                kept = self._masters.get(name, weights).detach()
                found[name.removeprefix("model.")] = kept.float()
        return found

    def save(self, folder: Path) -> None:
        kept: dict[str, torch.Tensor] = {
            f"{state.WEIGHTS}{name}": master for name, master in self._masters.items()
        }
        for name, master in self._masters.items():
            moments: torch.Tensor = self._optimizer.state[master]["exp_avg_sq"]
            if moments.any():  # not of a tower that was never trained
                kept[f"{state.MOMENTS}{name}"] = moments.to(torch.bfloat16)
        state.save(folder, kept, self.facts)

    def load(self, folder: Path) -> None:
        """Go on from a state. Raises `FileNotFoundError` where there is none."""
        kept, self.facts = state.load(folder)
        with torch.no_grad():
            for name, master in self._masters.items():
                master.copy_(kept[f"{state.WEIGHTS}{name}"])
                if (found := kept.get(f"{state.MOMENTS}{name}")) is not None:
                    moments = self._optimizer.state[master]
                    moments["exp_avg_sq"].copy_(found)
                    moments["step"].fill_(self.facts.steps)
        self._show_working()

    def _take_gradients(self) -> None:
        """From the working weights to their masters."""
        pairs = [(master.grad, self._working[name].grad) for name, master in self._learning.items()]
        known = [(kept, found) for kept, found in pairs if kept is not None and found is not None]
        assert len(known) == len(pairs), "every master that learns has a gradient"
        torch._foreach_copy_([kept for kept, _ in known], [found for _, found in known])
        self.lesson.zero_grad(set_to_none=True)

    def _show_working(self) -> None:
        with torch.no_grad():
            names = list(self._masters)
            torch._foreach_copy_(
                [self._working[name] for name in names], [self._masters[name] for name in names]
            )


class Scores:
    """Exact answers by sort and kind, since the last report."""

    def __init__(self) -> None:
        self._scores: dict[str, Score] = defaultdict(Score)

    def add(self, batch: Batch, right: list[bool]) -> None:
        for sort, kind, is_right in zip(batch.sorts, batch.kinds, right, strict=True):
            score = self._scores[f"{sort}/{kind}"]
            score.asked += 1
            score.right += is_right

    def __str__(self) -> str:
        return ", ".join(f"{sort} {score}" for sort, score in sorted(self._scores.items()))
