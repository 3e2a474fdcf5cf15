"""Which page of the cache holds what: allocation, sharing and the prefix cache. Numbers only.

A page is free, held by one or more sequences, or idle: held by none, but still with tokens that a
later prompt may share. Idle pages are given away, least recently used first, when free ones run
out. Not thread-safe; belongs to the engine's thread.
"""

from __future__ import annotations

from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from hashlib import blake2b

FREE, TAKEN = b"\x01", b"\x00"

PageKey = bytes
"""Names the tokens of a full page and all before it; equal keys, equal keys and values."""


class OutOfPages(Exception):
    """There are fewer free and idle pages than asked for."""


class PagePool:
    """Pages 0 to num_pages - 1, of page_tokens tokens each."""

    def __init__(self, num_pages: int, page_tokens: int, *, keeps_prefixes: bool = True) -> None:
        self.num_pages = num_pages
        self.page_tokens = page_tokens
        self.keeps_prefixes = keeps_prefixes
        self._free = bytearray(FREE * num_pages)  # FREE or TAKEN
        self._num_free = num_pages
        self._holders = [0] * num_pages
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._page_of: dict[PageKey, int] = {}
        self._key_of: dict[int, PageKey] = {}

    @property
    def num_available(self) -> int:
        """Pages that may be allocated: free or idle."""
        return self._num_free + len(self._idle)

    def pages_for(self, num_tokens: int) -> int:
        """Pages that hold so many tokens."""
        return -(-num_tokens // self.page_tokens)

    def match(self, keys: Iterable[PageKey]) -> list[int]:
        """The pages of the longest known beginning of a prompt; they are not held yet."""
        pages = []
        for key in keys:
            page = self._page_of.get(key)
            if page is None:
                break
            pages.append(page)
        return pages

    def num_idle(self, pages: Sequence[int]) -> int:
        """How many of these would no longer be available if they were held."""
        return sum(page in self._idle for page in pages)

    def hold(self, pages: Iterable[int]) -> None:
        """One more holder for pages that `match` gave."""
        for page in pages:
            self._holders[page] += 1
            self._idle.pop(page, None)

    def allocate(self, count: int, *, after: int | None = None) -> list[int]:
        """New pages, held once. Raises `OutOfPages` and then takes none.

        Neighbours where there are any, because a CPU reads them where they are: right behind the
        page `after` when it can be, otherwise lowest first.
        """
        if count > self.num_available:
            raise OutOfPages
        start = self._run(count, after)
        pages = range(start, start + count) if start >= 0 else [self._take() for _ in range(count)]
        for page in pages:
            self._holders[page] = 1
        if start >= 0:
            self._free[start : start + count] = TAKEN * count
            self._num_free -= count
        return list(pages)

    def release(self, pages: Sequence[int], *, forget: bool = False) -> None:
        """One holder fewer for each. `forget`: what these pages hold is not to be trusted.

        The last become idle first, and are given away first: a beginning is shared more often.
        """
        for page in reversed(pages):
            assert self._holders[page] > 0, "only held pages are released"
            self._holders[page] -= 1
            if forget:
                self._forget(page)
            if self._holders[page]:
                continue
            if page in self._key_of:
                self._idle[page] = None
            else:
                self._free[page : page + 1] = FREE
                self._num_free += 1

    def register(self, page: int, key: PageKey) -> None:
        """Let later prompts share a page that has been filled. The first page of a key counts."""
        assert self.keeps_prefixes
        if key not in self._page_of:
            assert page not in self._key_of, "a page is filled once"
            self._page_of[key], self._key_of[page] = page, key

    def check(self, tables: Iterable[Sequence[int]]) -> None:
        """Assert that the books agree with each other and with the sequences' page tables."""
        held = Counter(page for table in tables for page in table)
        for page in range(self.num_pages):
            assert self._holders[page] == held[page], f"page {page}: holders"
        free = {page for page in range(self.num_pages) if self._free[page : page + 1] == FREE}
        idle = set(self._idle)
        assert len(free) == self._num_free, "free pages are counted"
        assert not free & idle, "free pages are not idle"
        unheld = {page for page in range(self.num_pages) if not held[page]}
        assert free | idle == unheld, "an unheld page is free or idle"
        assert self._page_of == {key: page for page, key in self._key_of.items()}, "keys and pages"
        assert idle <= set(self._key_of), "idle pages are known by their keys"
        assert not free & set(self._key_of), "free pages hold nothing"

    def _run(self, count: int, after: int | None) -> int:
        """The first of so many free neighbours; -1 when there are none."""
        if after is not None and self._free.startswith(FREE * count, after + 1):
            return after + 1
        return self._free.find(FREE * count)

    def _take(self) -> int:
        """Any page: the lowest free one, or the idle one used longest ago."""
        page = self._free.find(FREE)
        if page >= 0:
            self._free[page : page + 1] = TAKEN
            self._num_free -= 1
            return page
        page, _ = self._idle.popitem(last=False)
        self._forget(page)
        return page

    def _forget(self, page: int) -> None:
        key = self._key_of.pop(page, None)
        if key is not None:
            del self._page_of[key]


def page_key(
    previous: PageKey, token_ids: Sequence[int], images: Iterable[tuple[int, bytes]]
) -> PageKey:
    """The key of a full page.

    images: for each image with placeholders in the page, where it starts, counted from the page's
    first token (negative when it began before), and its digest. Placeholders all look alike, so
    without these one image's page would serve for another's.
    """
    digest = blake2b(previous, digest_size=16)
    digest.update(array("q", token_ids))
    for start, image in images:
        digest.update(array("q", [start]))
        digest.update(image)
    return digest.digest()
