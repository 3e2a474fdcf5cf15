"""Notices an answer that goes round in circles, as small models do until their last token."""

from __future__ import annotations

GRAM_TOKENS = 4
"""So many tokens that came before suggest a period."""
MIN_ROUNDS = 3
"""Tokens have to repeat for so many periods more, however long the period is."""


class LoopWatch:
    """Follows one answer token by token, in constant time.

    The latest place where the last few tokens stood before suggests a period; it holds while each
    token equals the one a period before it. Any exact loop is found so: within it, that place is a
    period back, or, where the period repeats itself in parts, the first token that tells the parts
    apart leads to it.
    """

    def __init__(self, limit_tokens: int) -> None:
        """`limit_tokens`: what repeats for less is no loop. A table may say the same for long."""
        self._limit_tokens = limit_tokens
        self._tokens: list[int] = []
        self._seen: dict[tuple[int, ...], int] = {}
        self._period = 0
        self.num_repeated = 0
        """Tokens at the end that have stood there before, a period back each."""

    def add(self, token_id: int) -> bool:
        """The next token. Whether the answer is in a loop."""
        tokens = self._tokens
        tokens.append(token_id)
        here = len(tokens) - 1
        gram = tuple(tokens[-GRAM_TOKENS:])
        before = self._seen.get(gram)
        self._seen[gram] = here
        if self._period and tokens[here - self._period] == token_id:
            self.num_repeated += 1
        elif before is not None and len(gram) == GRAM_TOKENS:
            self._period, self.num_repeated = here - before, GRAM_TOKENS
        else:
            self._period, self.num_repeated = 0, 0
        wanted = max(self._limit_tokens, MIN_ROUNDS * self._period)
        return self._period > 0 and self.num_repeated >= wanted
