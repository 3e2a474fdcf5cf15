"""Scores to tokens: against a plain numpy reading of the same rules, and by the frequencies."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from visionq_worker.engine import sampler
from visionq_worker.engine.sampler import Choice, Pick, choose, uniform

NEVER = 9
"""The last of ten tokens: nobody may choose it."""

INF, NAN = float("inf"), float("nan")
LARGEST_DRAW = 1 - 2**-53
"""The float just below 1. In float32 it would be 1."""


def pick(
    temperature: float = 0.0,
    top_p: float = 1.0,
    *,
    seed: int = 0,
    position: int = 0,
    wants_logprob: bool = False,
    allowed: set[int] | None = None,
) -> Pick:
    mask = None if allowed is None else torch.tensor([token in allowed for token in range(10)])
    return Pick(
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        position=position,
        wants_logprob=wants_logprob,
        allowed=mask,
    )


def scores(**at: float) -> list[float]:
    """Ten scores, 0 where nothing is said: `scores(t3=5.0)`."""
    row = [0.0] * 10
    for token, score in at.items():
        row[int(token[1:])] = score
    return row


def chosen(rows: list[list[float]], *picks: Pick) -> list[int | None]:
    choices = choose(torch.tensor(rows), picks, never=NEVER)
    return [choice.token_id for choice in choices]


def set_draw(monkeypatch: pytest.MonkeyPatch, draw: float) -> None:
    monkeypatch.setattr(sampler, "uniform", lambda _seed, _position: draw)


# Greedy.


def test_greedy_takes_the_highest_score() -> None:
    assert chosen([scores(t3=5.0), scores(t0=-1.0, t8=0.5)], pick(), pick()) == [3, 8]


def test_greedy_takes_the_first_of_equal_scores() -> None:
    assert chosen([scores(t4=2.0, t2=2.0, t7=2.0)], pick()) == [2]


def test_forbidden_token_is_never_taken_however_high_its_score() -> None:
    assert chosen([scores(t9=50.0, t4=1.0)] * 2, pick(), pick(temperature=0.01)) == [4, 4]


def test_mask_leaves_only_what_is_allowed() -> None:
    row = scores(t1=9.0, t4=3.0, t6=2.0)
    assert chosen([row] * 3, pick(), pick(allowed={4, 6}), pick(allowed={6})) == [1, 4, 6]


def test_mask_of_one_row_does_not_touch_its_neighbours() -> None:
    row = scores(t1=9.0)
    assert chosen([row] * 3, pick(), pick(allowed={2}), pick()) == [1, 2, 1]


def test_mask_cannot_allow_the_forbidden_token() -> None:
    assert chosen([scores(t9=50.0, t4=1.0)], pick(allowed={9, 4})) == [4]


def test_mask_that_allows_one_token_decides_a_draw_too() -> None:
    rows = [scores(t1=9.0)] * 50
    picks = [pick(temperature=2.0, position=at, allowed={7}) for at in range(50)]
    assert chosen(rows, *picks) == [7] * 50


# Drawn: against a plain reading of the rules.


def numpy_draw(row: NDArray[np.float64], one: Pick) -> int | None:
    """The token that the rules give; None where the draw falls too near a border to tell."""
    row = row.copy()
    row[NEVER] = -INF
    if one.allowed is not None:
        row[~one.allowed.numpy()] = -INF
    scaled = row / one.temperature
    chances = np.exp(scaled - scaled.max())
    chances /= chances.sum()
    order = np.argsort(-chances, kind="stable")
    kept: list[int] = []
    share = 0.0
    for token in order:
        if share >= one.top_p:
            break
        if abs(share + chances[token] - one.top_p) < 1e-5 < one.top_p < 1:
            return None
        kept.append(int(token))
        share += chances[token]
    reached = 0.0
    target = uniform(one.seed, one.position) * share
    for token in kept:
        reached += chances[token]
        if abs(reached - target) < 1e-5:
            return None
        if reached > target:
            return token
    return kept[-1]


@pytest.mark.parametrize("temperature", [0.2, 0.7, 1.0, 2.0])
@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 1.0])
def test_draws_are_those_of_a_plain_reading_of_the_rules(temperature: float, top_p: float) -> None:
    dice = np.random.default_rng(3)
    rows = dice.normal(scale=2.0, size=(300, 10)).astype(np.float32)
    picks = [
        pick(
            temperature,
            top_p,
            seed=index % 7,
            position=index,
            allowed=set(range(index % 5, 10)) if index % 3 == 0 else None,
        )
        for index in range(300)
    ]
    expected = [numpy_draw(row, one) for row, one in zip(rows.astype(float), picks, strict=True)]
    got = [choice.token_id for choice in choose(torch.tensor(rows), picks, never=NEVER)]
    told = [index for index, token in enumerate(expected) if token is not None]
    assert len(told) > 290
    assert [got[index] for index in told] == [expected[index] for index in told]


@pytest.mark.parametrize("top_p", [1e-3, 1e-30, 1e-46])
def test_tiny_top_p_is_greedy(top_p: float) -> None:
    rows = np.random.default_rng(4).normal(size=(100, 10)).astype(np.float32)
    picks = [pick(1.0, top_p, position=at) for at in range(100)]
    assert chosen(rows.tolist(), *picks) == rows[:, :NEVER].argmax(axis=1).tolist()


@pytest.mark.parametrize("temperature", [1e-2, 1e-20, 1e-38, 1e-40, 1e-46])
def test_tiny_temperature_is_greedy(temperature: float) -> None:
    # What does not fit into float32 when it is divided by that must not lead to another token.
    rows = np.random.default_rng(4).permuted(np.tile(np.arange(10.0), (100, 1)), axis=1) - 4
    picks = [pick(temperature, position=at) for at in range(100)]
    assert chosen(rows.tolist(), *picks) == rows[:, :NEVER].argmax(axis=1).tolist()


@pytest.mark.parametrize("temperature", [1e3, 1e30, 1e39, 1e300])
def test_huge_temperature_draws_evenly_from_what_is_allowed(temperature: float) -> None:
    rows = [scores(t1=5.0, t9=50.0)] * 400
    picks = [pick(temperature, position=at, allowed={1, 2, 9}) for at in range(400)]
    counts = Counter(chosen(rows, *picks))
    assert set(counts) == {1, 2}
    assert 150 < counts[1] < 250


def test_top_p_keeps_the_token_that_reaches_it_and_none_after_it() -> None:
    # Chances 0.5, 0.3, 0.2: two tokens are needed to reach 0.6.
    row = np.log([0.5, 0.3, 0.2, *[1e-30] * 7]).tolist()
    picks = [pick(1.0, 0.6, position=at) for at in range(500)]
    assert set(chosen([row] * 500, *picks)) == {0, 1}


def test_top_p_does_not_change_the_other_rows() -> None:
    row = np.log([0.5, 0.3, 0.2, *[1e-30] * 7]).tolist()
    plain = [pick(1.0, position=at) for at in range(20)]
    narrow = [pick(1.0, 0.4, position=at) for at in range(20)]
    alone = chosen([row] * 20, *plain)
    mixed = chosen([row] * 40, *(one for pair in zip(plain, narrow, strict=True) for one in pair))
    assert mixed[0::2] == alone
    assert set(mixed[1::2]) == {0}


# The ends of the draw.


def test_smallest_draw_takes_the_likeliest_token(monkeypatch: pytest.MonkeyPatch) -> None:
    set_draw(monkeypatch, 0.0)
    assert chosen([scores(t3=1.0)], pick(1.0)) == [3]


def test_largest_draw_takes_the_least_likely_token(monkeypatch: pytest.MonkeyPatch) -> None:
    set_draw(monkeypatch, LARGEST_DRAW)
    assert chosen([scores(t3=-1.0, t9=-2.0)], pick(1.0)) == [3]


def test_largest_draw_stays_within_top_p(monkeypatch: pytest.MonkeyPatch) -> None:
    set_draw(monkeypatch, LARGEST_DRAW)
    row = np.log([0.5, 0.3, 0.2, *[1e-30] * 7]).tolist()
    assert chosen([row], pick(1.0, 0.6)) == [1]


def test_largest_draw_stays_within_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    set_draw(monkeypatch, LARGEST_DRAW)
    assert chosen([scores(t2=1.0)], pick(1.0, allowed={2, 5})) == [5]


# Frequencies, with fixed seeds: the same at every run.


@pytest.mark.parametrize(
    ("temperature", "top_p", "expected"),
    [
        (1.0, 1.0, [0.5, 0.3, 0.15, 0.05]),
        (1.0, 0.7, [0.625, 0.375, 0.0, 0.0]),  # 0.5 and 0.3, of 0.8
        (1.0, 0.9, [0.5263, 0.3158, 0.1579, 0.0]),  # of 0.95
        (0.5, 1.0, [0.6849, 0.2466, 0.0616, 0.0068]),  # squares, of 0.365
    ],
)
def test_tokens_come_as_often_as_their_chances(
    temperature: float, top_p: float, expected: list[float]
) -> None:
    num_draws = 20_000
    row = [*np.log([0.5, 0.3, 0.15, 0.05]).tolist(), *[-INF] * 6]
    picks = [pick(temperature, top_p, seed=5, position=at) for at in range(num_draws)]
    counts = Counter(chosen([row] * num_draws, *picks))
    # Four standard deviations of a share are at most 0.014.
    assert [counts[token] / num_draws for token in range(4)] == pytest.approx(expected, abs=0.014)
    assert sum(counts[token] for token in range(4)) == num_draws


# Whatever else is in the batch.


def _mixed_batch() -> tuple[torch.Tensor, list[Pick]]:
    rows = torch.tensor(np.random.default_rng(6).normal(size=(24, 10)), dtype=torch.float32)
    picks = [
        pick(
            (0.0, 0.7, 1.3)[index % 3],
            (1.0, 0.8)[index % 2],
            seed=index,
            position=index * 3,
            wants_logprob=index % 4 == 0,
            allowed={0, 2, 4, 6, 8} if index % 5 == 0 else None,
        )
        for index in range(24)
    ]
    return rows, picks


def test_row_is_chosen_the_same_alone_and_in_any_order() -> None:
    rows, picks = _mixed_batch()
    together = choose(rows.clone(), picks, never=NEVER)
    alone = [choose(rows[at : at + 1].clone(), [picks[at]], never=NEVER)[0] for at in range(24)]
    assert alone == together
    order = np.random.default_rng(1).permutation(24).tolist()
    mixed = choose(rows[order], [picks[at] for at in order], never=NEVER)
    assert mixed == [together[at] for at in order]


def test_other_seeds_and_other_positions_draw_otherwise() -> None:
    rows = [scores()] * 60
    of_seeds = [
        chosen(rows, *(pick(1.0, seed=seed, position=at) for at in range(60))) for seed in range(3)
    ]
    assert len({tuple(drawn) for drawn in of_seeds}) == 3
    assert all(len(set(drawn)) == 9 for drawn in of_seeds), "each allowed token comes up"


def test_equal_seeds_and_positions_draw_the_same() -> None:
    rows = [scores()] * 40
    assert len(set(chosen(rows, *[pick(1.0, seed=8, position=4)] * 40))) == 1


# Rows that cannot be chosen from.


@pytest.mark.parametrize(
    "spoilt",
    [
        [NAN] * 10,
        scores(t3=NAN),
        scores(t3=INF),
        [INF] * 10,
        [-INF] * 10,
        scores(t3=INF, t4=-INF, t5=NAN),
    ],
    ids=["all NaN", "one NaN", "one infinite", "all infinite", "all minus infinite", "a mix"],
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_row_without_finite_scores_gives_no_token_and_leaves_the_others_alone(
    spoilt: list[float], temperature: float
) -> None:
    good = scores(t4=3.0)
    picks = [pick(temperature, position=at, wants_logprob=True) for at in range(3)]
    alone = choose(torch.tensor([good, good]), [picks[0], picks[2]], never=NEVER)
    first, bad, last = choose(torch.tensor([good, spoilt, good]), picks, never=NEVER)
    assert bad == Choice(None)
    assert [first, last] == alone
    assert None not in (first.token_id, last.token_id)


def test_mask_that_allows_nothing_gives_no_token() -> None:
    picks = [pick(allowed=set()), pick(1.0, allowed=set()), pick()]
    assert chosen([scores(t4=3.0)] * 3, *picks) == [None, None, 4]


def test_spoilt_score_of_a_token_that_cannot_come_does_no_harm() -> None:
    assert chosen([scores(t9=NAN, t4=1.0)], pick()) == [4]
    assert chosen([scores(t1=NAN, t4=1.0)], pick(allowed={4, 5})) == [4]


# Log-probabilities.


def test_logprob_is_of_the_masked_scores_before_temperature_and_top_p() -> None:
    # Of chances 0.4, 0.3, 0.2 and 0.1, the mask leaves the first two, the forbidden one aside.
    row = [*np.log([0.4, 0.3, 0.2]).tolist(), *[-INF] * 6, np.log(0.1)]
    choices = choose(
        torch.tensor([row] * 3),
        [
            pick(wants_logprob=True),
            pick(wants_logprob=True, allowed={1, 2}),
            pick(0.001, 0.5, wants_logprob=True, allowed={0, 1}),
        ],
        never=NEVER,
    )
    assert [choice.token_id for choice in choices] == [0, 1, 0]
    expected = [np.log(0.4 / 0.9), np.log(0.3 / 0.5), np.log(0.4 / 0.7)]
    assert [choice.logprob for choice in choices] == pytest.approx(expected, abs=1e-6)


def test_logprob_of_a_drawn_token_is_that_tokens() -> None:
    row = np.log([0.4, 0.3, 0.2, 0.1, *[1e-30] * 6])
    picks = [pick(1.5, position=at, wants_logprob=True) for at in range(40)]
    choices = choose(torch.tensor([row.tolist()] * 40), picks, never=NEVER)
    assert len({choice.token_id for choice in choices}) > 1
    for choice in choices:
        assert choice.token_id is not None
        assert choice.logprob == pytest.approx(row[choice.token_id], abs=1e-6)


def test_only_those_who_want_logprobs_get_them() -> None:
    rows = torch.tensor([scores(t4=3.0)] * 2)
    asked, silent = choose(rows, [pick(wants_logprob=True), pick()], never=NEVER)
    assert asked.logprob is not None
    assert silent == Choice(4)


def test_token_ids_of_a_large_vocabulary_are_exact() -> None:
    rows = torch.zeros(2, 200_003)
    rows[0, 200_001] = rows[1, 131_071] = 1
    picks = [pick(), pick(1e-3)]
    assert choose(rows, picks, never=NEVER) == [Choice(200_001), Choice(131_071)]


# The draw itself.


@pytest.mark.parametrize(
    ("seed", "position", "draw"),
    [
        (0, 0, 0.833688526974050),
        (0, 1, 0.945916535704685),
        (1, 0, 0.321436441261149),
        (7, 123, 0.228539977104155),
        (2**64 - 1, 5, 0.814805155913836),
    ],
)
def test_draw_of_a_seed_and_a_position_never_changes(seed: int, position: int, draw: float) -> None:
    assert uniform(seed, position) == pytest.approx(draw, abs=1e-12)


def test_draws_lie_between_0_and_1_evenly() -> None:
    draws = np.array([uniform(seed, at) for seed in range(10) for at in range(1_000)])
    assert draws.min() >= 0
    assert draws.max() < 1
    counts, _ = np.histogram(draws, bins=10, range=(0, 1))
    assert counts.min() > 880, "1000 each; four standard deviations are 120"
    assert counts.max() < 1_120


def test_largest_digest_is_a_draw_below_1(monkeypatch: pytest.MonkeyPatch) -> None:
    digest = SimpleNamespace(digest=lambda: b"\xff" * 8)
    monkeypatch.setattr(sampler, "blake2b", lambda *_, **__: digest)
    assert uniform(0, 0) < 1


def test_seed_and_position_are_kept_apart() -> None:
    assert uniform(1, 23) != uniform(12, 3)
