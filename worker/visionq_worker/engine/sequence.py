"""A request on its way through the engine: its tokens, its pages, how far it is computed."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING

from visionq_worker.engine.loops import LoopWatch
from visionq_worker.engine.pages import PageKey, page_key
from visionq_worker.engine.request import Completion, FinishReason, Handle, Request

if TYPE_CHECKING:
    from visionq_worker.model.pixels import Picture


@dataclass(frozen=True, slots=True)
class Placement:
    """A picture and the tokens of the prompt that it fills: [start, stop)."""

    picture: Picture
    start: int
    stop: int


@dataclass(slots=True, eq=False, kw_only=True)
class Sequence:
    """Prompt and answer of one request. Belongs to the engine's thread once it is submitted."""

    number: int
    request: Request
    handle: Handle
    token_ids: list[int]  # prompt, then answer
    num_prompt: int
    placements: tuple[Placement, ...]
    stop_token_ids: frozenset[int]
    seed: int
    is_long: bool  # turned by the long rotary factors
    page_tokens: int
    pages: list[int] = field(default_factory=list)
    num_computed: int = 0  # tokens whose keys and values are in the pages
    num_cached: int = 0  # of the prompt, found in the prefix cache when it was first admitted
    num_preemptions: int = 0
    logprobs: list[float] = field(default_factory=list)
    submitted_at: float = field(default_factory=perf_counter)
    started_at: float | None = None
    first_token_at: float | None = None
    has_callback: bool = True  # until request.on_token raises
    loop_watch: LoopWatch | None = None
    _keys: list[PageKey] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def num_uncomputed(self) -> int:
        return len(self.token_ids) - self.num_computed

    @property
    def num_generated(self) -> int:
        return len(self.token_ids) - self.num_prompt

    @property
    def answer(self) -> list[int]:
        return self.token_ids[self.num_prompt :]

    def keys(self, num_pages: int) -> list[PageKey]:
        """Keys of its first pages, all of them full."""
        assert num_pages * self.page_tokens <= len(self), "only full pages have keys"
        while len(self._keys) < num_pages:
            self._keys.append(self._next_key())
        return self._keys[:num_pages]

    def restart(self, *, is_long: bool) -> None:
        """Compute everything again, with or without the long factors."""
        self.num_computed = 0
        self.pages = []
        if is_long != self.is_long:
            self.is_long = is_long
            self._keys = []

    def completion(self, reason: FinishReason) -> Completion:
        """What the request has come to, now."""
        now = perf_counter()
        started = self.started_at or now
        first = self.first_token_at or now
        return Completion(
            token_ids=tuple(self.answer),
            finish_reason=reason,
            prefill_seconds=first - started,
            decode_seconds=now - first,
            waiting_seconds=started - self.submitted_at,
            num_prompt_tokens=self.num_prompt,
            num_cached_tokens=self.num_cached,
            num_preemptions=self.num_preemptions,
            num_repeated=self.loop_watch.num_repeated if self.loop_watch else 0,
            logprobs=tuple(self.logprobs) if self.request.wants_logprobs else None,
        )

    def _next_key(self) -> PageKey:
        start = len(self._keys) * self.page_tokens
        stop = start + self.page_tokens
        root = b"long" if self.is_long else b"short"
        return page_key(
            self._keys[-1] if self._keys else root,
            self.token_ids[start:stop],
            [
                (place.start - start, place.picture.digest)
                for place in self.placements
                if place.start < stop and place.stop > start
            ],
        )
