"""Loops of every period are found soon, and honest repetition is not taken for one."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Sequence
from itertools import cycle, islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.rig import open_rig, text_inputs
from tests.support.tiny import tiny_model
from visionq_worker.engine.loops import GRAM_TOKENS, MIN_ROUNDS, LoopWatch
from visionq_worker.engine.request import Request

LIMIT = 100


def first_alarm(token_ids: Sequence[int], limit: int = LIMIT) -> tuple[int, int] | None:
    """Tokens added until the alarm, and how many of them are said to repeat."""
    watch = LoopWatch(limit)
    for number, token_id in enumerate(token_ids, 1):
        if watch.add(token_id):
            return number, watch.num_repeated
    return None


@pytest.mark.parametrize("period", [*range(1, 41), 64, 99, 100, 101, 128, 200, 300])
def test_loop_of_any_period_is_found_at_once(period: int) -> None:
    chosen = random.Random(period)
    prefix = [chosen.randrange(10_000) for _ in range(50)]
    body = [10_000 + number for number in range(period)]
    alarm = first_alarm([*prefix, *islice(cycle(body), 4_000)])
    assert alarm is not None
    at, num_repeated = alarm
    wanted = max(LIMIT, MIN_ROUNDS * period)
    # One period to say it, a few tokens to suspect it, and as many as it takes.
    assert at <= len(prefix) + period + wanted + GRAM_TOKENS
    assert at - num_repeated >= len(prefix), "what was said before stays"
    assert num_repeated >= wanted


@given(
    prefix=st.lists(st.integers(0, 3), max_size=30),
    body=st.lists(st.integers(0, 3), min_size=1, max_size=60),
)
@settings(max_examples=300)
def test_loop_is_found_however_alike_its_parts_are(prefix: list[int], body: list[int]) -> None:
    alarm = first_alarm([*prefix, *islice(cycle(body), 3_000)])
    assert alarm is not None
    # Parts that are alike may lead astray for a round or a few.
    assert alarm[0] <= len(prefix) + 6 * len(body) + max(LIMIT, MIN_ROUNDS * len(body)) + 50


@given(st.lists(st.integers(0, 30_000), max_size=2_000, unique=True))
def test_text_without_repetition_is_no_loop(token_ids: list[int]) -> None:
    assert first_alarm(token_ids) is None


def as_tokens(text: str) -> list[int]:
    """One a byte: the hardest reading, since a model's tokens tell more apart."""
    return list(text.encode())


def tables() -> list[str]:
    """What honest answers look like that repeat themselves much."""
    made = []
    for header, rows in (
        (["no", "paid"], [[str(number), "yes"] for number in range(200)]),
        (["day", "rain", "snow"], [[f"{day} May", "0.0", "0.0"] for day in range(1, 32)]),
        (["item", "price"], [[f"Item {number}", "9.99"] for number in range(100)]),
        (["name", "a", "b", "c"], [[chr(97 + i % 26) * 3, "-", "-", "-"] for i in range(26)]),
    ):
        text = io.StringIO()
        csv.writer(text).writerows([header, *rows])
        made.append(text.getvalue())
        made.append("\n".join(f"| {' | '.join(row)} |" for row in [header, *rows]))
    made.append("\n".join(["a,b,c", *["0,0,0"] * 15]))
    made.append("Contents\n" + "\n".join(f"Chapter {n} {'.' * 60} {n * 7}" for n in range(1, 30)))
    made.append("=" * 90 + "\nTitle\n" + "=" * 90)
    return made


@pytest.mark.parametrize("text", tables())
def test_honest_table_is_no_loop(text: str) -> None:
    assert first_alarm(as_tokens(text)) is None


def test_engine_ends_an_answer_that_goes_round_in_circles() -> None:
    """The tiny model, told to say one token for ever."""
    inputs = text_inputs(tiny_model(), 20, 0)

    class Only:
        def allowed(self, token_ids: Sequence[int]) -> object:
            import torch

            mask = torch.zeros(tiny_model().config.vocab_size, dtype=torch.bool)
            mask[300 + len(token_ids) % 3] = True
            return mask

    def request(loop_tokens: int | None) -> Request:
        return Request(
            inputs=inputs,
            max_new_tokens=150,
            stop_token_ids=frozenset(),
            logit_mask=Only(),  # type: ignore[arg-type]
            loop_tokens=loop_tokens,
        )

    with open_rig(num_pages=20) as rig:
        watched, free = (rig.engine.submit(request(limit)).result() for limit in (30, None))
    assert (watched.finish_reason, len(watched.token_ids)) == ("loop", 3 + 30)
    assert watched.num_repeated == 30
    assert (free.finish_reason, len(free.token_ids), free.num_repeated) == ("length", 150, 0)
