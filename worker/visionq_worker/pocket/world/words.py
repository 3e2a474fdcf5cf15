"""Made-up words: they can be pronounced and not be guessed, so they have to be read."""

from __future__ import annotations

from random import Random

ONSETS = (
    "b", "br", "c", "ch", "d", "dr", "f", "fl", "g", "gr", "h", "j", "k", "l", "m", "n", "p", "pl",
    "qu", "r", "s", "sh", "st", "t", "th", "tr", "v", "w", "y", "z",
)  # fmt: skip
VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "oa")
CODAS = ("", "", "b", "ck", "d", "g", "ll", "m", "n", "nd", "p", "r", "s", "t", "x")


def word(choose: Random, max_syllables: int) -> str:
    """In small letters, of as many syllables at most."""
    syllables = choose.randint(1, max_syllables)
    return "".join(_syllable(choose) for _ in range(syllables))


def title(choose: Random, max_words: int, max_syllables: int) -> str:
    """Capitalised words."""
    count = choose.randint(1, max_words)
    return " ".join(word(choose, max_syllables).capitalize() for _ in range(count))


def name(choose: Random, max_syllables: int) -> str:
    """Of a person: first and last, or an initial and the last."""
    last = word(choose, max_syllables).capitalize()
    if choose.random() < 0.2:
        return f"{choose.choice('ABCDEFGHIJKLMNOPRSTW')}. {last}"
    return f"{word(choose, max_syllables).capitalize()} {last}"


def number(choose: Random, max_digits: int = 3) -> str:
    """A positive one, perhaps with one decimal."""
    whole = choose.randint(1, 10 ** choose.randint(1, max_digits) - 1)
    return f"{whole}.{choose.randint(0, 9)}" if choose.random() < 0.3 else str(whole)


def _syllable(choose: Random) -> str:
    return choose.choice(ONSETS) + choose.choice(VOWELS) + choose.choice(CODAS)
