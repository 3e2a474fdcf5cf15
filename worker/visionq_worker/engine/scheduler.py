"""Which tokens the next step computes: policy only, no tensors and no clock.

Every step first gives each running sequence its next token, then goes on with prompts that are
half computed, then admits new ones, until the step's budget of tokens is spent. When pages run
out, the youngest running sequence gives its pages back and is computed again later. Age is by
number: whoever was sent back is as old as before.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from dataclasses import dataclass
from itertools import pairwise, takewhile

from visionq_worker.engine.pages import PageKey, PagePool
from visionq_worker.engine.sequence import Sequence

RECOVERY_STEPS = 50
"""Good steps after which a budget that was halved for lack of memory is doubled again."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some tokens of one sequence: [start, start + num_tokens), all before it being computed."""

    sequence: Sequence
    start: int
    num_tokens: int

    @property
    def stop(self) -> int:
        return self.start + self.num_tokens

    @property
    def is_last(self) -> bool:
        """Whether the step brings the sequence's next token."""
        return self.stop == len(self.sequence)


class Scheduler:
    """Sequences that wait and sequences that run. Belongs to the engine's thread."""

    def __init__(
        self, pool: PagePool, *, max_running: int, step_tokens: int, num_short: int
    ) -> None:
        assert max_running > 0
        assert step_tokens > 0
        self.pool = pool
        self.waiting: deque[Sequence] = deque()  # oldest first
        self.running: list[Sequence] = []  # oldest first
        self.num_preemptions = 0
        self.num_long_restarts = 0
        self._max_running = max_running
        self._step_tokens = step_tokens
        self._num_short = num_short  # above so many tokens a sequence needs the long factors
        self._budget = step_tokens
        self._good_steps = 0

    @property
    def is_idle(self) -> bool:
        return not self.waiting and not self.running

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence, *, forget: bool = False) -> None:
        """It has ended: its pages are free. `forget`: nobody may share what it has computed."""
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)
        self.pool.release(sequence.pages, forget=forget)
        sequence.pages = []

    def plan(self) -> list[Chunk]:
        """The next step: sequences of one new token first. Empty when nothing can be done."""
        decodes = self._next_tokens()
        budget = self._budget - len(decodes)
        prefills: list[Chunk] = []
        planned = {chunk.sequence for chunk in decodes}
        for sequence in self.running:
            if budget > 0 and sequence not in planned and sequence.num_uncomputed:
                prefills.append(_chunk(sequence, budget))
                budget -= prefills[-1].num_tokens
        prefills += self._admissions(budget, prefills)
        # A prompt's last token alone is a decode to the kernels.
        return sorted(decodes + prefills, key=lambda chunk: chunk.num_tokens > 1)

    def advance(self, chunk: Chunk) -> None:
        """The chunk is computed: its full pages may be shared."""
        sequence, page_tokens = chunk.sequence, self.pool.page_tokens
        sequence.num_computed = chunk.stop
        first, last = chunk.start // page_tokens, chunk.stop // page_tokens
        if first < last and self.pool.keeps_prefixes:
            keys = sequence.keys(last)
            for index in range(first, last):
                self.pool.register(sequence.pages[index], keys[index])

    def shrink(self, num_tokens: int) -> None:
        """A step of so many tokens did not fit into memory: plan half of it for a while."""
        self._budget = max(1, min(self._budget, num_tokens) // 2)
        self._good_steps = 0

    def step_succeeded(self) -> None:
        """After enough of these a shrunken budget grows again."""
        if self._budget == self._step_tokens:
            return
        self._good_steps += 1
        if self._good_steps >= RECOVERY_STEPS:
            self._budget = min(2 * self._budget, self._step_tokens)
            self._good_steps = 0

    def check(self) -> None:
        """Assert that sequences and pages agree."""
        self.pool.check(sequence.pages for sequence in self.running)
        assert len(self.running) <= self._max_running
        assert not any(sequence.pages for sequence in self.waiting), "who waits holds nothing"
        for line in (self.running, self.waiting):
            assert all(a.number < b.number for a, b in pairwise(line)), "the oldest comes first"
        for sequence in self.running:
            needed = self.pool.pages_for(sequence.num_computed)
            assert needed <= len(sequence.pages), "what is computed lies in pages"
            assert sequence.num_uncomputed > 0, "who runs has something to compute"
            assert sequence.is_long or sequence.num_computed <= self._num_short, "factors"

    def _next_tokens(self) -> list[Chunk]:
        """One token for each running sequence that has all others computed."""
        chunks: list[Chunk] = []
        for sequence in list(self.running):
            if len(chunks) == self._budget:
                break
            if sequence.num_uncomputed != 1 or not sequence.pages:  # none: it was just sent back
                continue
            if self._needs_long(sequence):
                self._send_back(sequence)
            elif self._has_page_for_next(sequence):
                chunks.append(_chunk(sequence, 1))
        return chunks

    def _has_page_for_next(self, sequence: Sequence) -> bool:
        """Give it the page of its next token; False when it had to give up its own instead."""
        while len(sequence.pages) < self.pool.pages_for(len(sequence)):
            if self.pool.num_available:
                sequence.pages += self.pool.allocate(1, after=sequence.pages[-1])
                continue
            youngest = self.running[-1]
            self.num_preemptions += 1
            youngest.num_preemptions += 1
            self._send_back(youngest)
            if youngest is sequence:
                return False
        return True

    def _needs_long(self, sequence: Sequence) -> bool:
        """Whether it has outgrown the short factors that it was computed with."""
        return len(sequence) > self._num_short and not sequence.is_long

    def _send_back(self, sequence: Sequence) -> None:
        """It waits again, before all younger ones; what it has said stays said."""
        self.running.remove(sequence)
        self.pool.release(sequence.pages)
        self.num_long_restarts += self._needs_long(sequence)
        sequence.restart(is_long=sequence.is_long or self._needs_long(sequence))
        older = takewhile(lambda other: other.number < sequence.number, self.waiting)
        self.waiting.insert(sum(1 for _ in older), sequence)

    def _admissions(self, budget: int, underway: list[Chunk]) -> list[Chunk]:
        """Chunks of sequences that start now, in the order of their arrival.

        Passed over: those whose beginning another one is computing right now. They find it in the
        cache a step later.
        """
        if not self.waiting:
            return []
        chunks: list[Chunk] = []
        coming = {key for chunk in underway for key in self._keys_made_by(chunk)}
        passed_over: list[Sequence] = []
        while self.waiting and budget > 0 and len(self.running) < self._max_running:
            if len(passed_over) == self._max_running:
                break  # a long queue of alike requests is not looked through at every step
            sequence = self.waiting.popleft()
            # Never all of them: the last token has to be computed, for what comes after it.
            keys = self._keys(sequence, len(sequence) - 1)
            shared = self.pool.match(keys)
            if len(shared) < len(keys) and keys[len(shared)] in coming:
                passed_over.append(sequence)
                continue
            if not self._has_room(sequence, shared):
                self.waiting.appendleft(sequence)
                break
            chunks.append(self._admitted(sequence, shared, budget))
            budget -= chunks[-1].num_tokens
            coming.update(self._keys_made_by(chunks[-1]))
        self.waiting.extendleft(reversed(passed_over))
        return chunks

    def _has_room(self, sequence: Sequence, shared: list[int]) -> bool:
        """Whether it may start: its pages are there, and one for each that runs already."""
        missing = self.pool.pages_for(len(sequence)) - len(shared)
        available = self.pool.num_available - self.pool.num_idle(shared)
        return missing + len(self.running) <= available

    def _admitted(self, sequence: Sequence, shared: list[int], budget: int) -> Chunk:
        self.pool.hold(shared)
        num_missing = self.pool.pages_for(len(sequence)) - len(shared)
        last = shared[-1] if shared else None
        sequence.pages = shared + self.pool.allocate(num_missing, after=last)
        sequence.num_computed = len(shared) * self.pool.page_tokens
        if not sequence.num_preemptions and not sequence.num_generated:
            sequence.num_cached = sequence.num_computed
        insort(self.running, sequence, key=lambda other: other.number)
        return _chunk(sequence, budget)

    def _keys_made_by(self, chunk: Chunk) -> list[PageKey]:
        """Keys of the pages that a sequence is about to fill, not only in this step."""
        first = chunk.start // self.pool.page_tokens
        return self._keys(chunk.sequence, len(chunk.sequence))[first:]

    def _keys(self, sequence: Sequence, num_tokens: int) -> list[PageKey]:
        """Keys of the pages that its first tokens fill; none where prefixes are not kept."""
        num_pages = num_tokens // self.pool.page_tokens
        return sequence.keys(num_pages) if self.pool.keeps_prefixes else []


def _chunk(sequence: Sequence, budget: int) -> Chunk:
    return Chunk(sequence, sequence.num_computed, min(budget, sequence.num_uncomputed))
