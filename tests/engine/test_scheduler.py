"""The scheduler's policy, step by step. Pages hold four tokens; answers are 1001, 1002, ..."""

from __future__ import annotations

import pytest

from tests.engine.policy import IMAGE, Desk, Part, placement
from visionq_worker.engine.scheduler import RECOVERY_STEPS
from visionq_worker.engine.sequence import Sequence


def prompt(num_tokens: int, first: int = 1) -> range:
    """A prompt unlike those that begin with another token."""
    return range(100 * first, 100 * first + num_tokens)


# Which tokens.


def test_scheduler_without_requests_has_nothing_to_do() -> None:
    desk = Desk()
    assert desk.scheduler.is_idle
    assert desk.plan() == []


def test_prompt_is_computed_at_once_and_answers_come_one_by_one() -> None:
    desk = Desk()
    request = desk.submit(prompt(6))
    assert not desk.scheduler.is_idle
    assert desk.step() == [Part(0, 0, 6)]
    assert desk.step() == [Part(0, 6, 7)]
    assert desk.step() == [Part(0, 7, 8)]
    assert request.answer == [1001, 1002, 1003]


def test_whoever_waits_for_its_next_token_comes_before_prompts() -> None:
    desk = Desk(step_tokens=10)
    desk.submit(prompt(6))
    desk.step()
    desk.submit(prompt(30, first=2))
    # Nine of ten tokens are left for the prompt.
    assert desk.step() == [Part(0, 6, 7), Part(1, 0, 9)]
    assert desk.step() == [Part(0, 7, 8), Part(1, 9, 18)]


def test_long_prompt_is_computed_in_parts_until_its_next_token_comes() -> None:
    desk = Desk(step_tokens=8)
    request = desk.submit(prompt(20))
    assert desk.step() == [Part(0, 0, 8)]
    assert desk.step() == [Part(0, 8, 16)]
    assert request.answer == []
    assert desk.step() == [Part(0, 16, 20)]
    assert request.answer == [1001]
    assert desk.step() == [Part(0, 20, 21)]


def test_prompts_of_one_step_share_its_tokens_in_order_of_arrival() -> None:
    desk = Desk(step_tokens=10)
    for first in (1, 2, 3):
        desk.submit(prompt(6, first))
    assert desk.step() == [Part(0, 0, 6), Part(1, 0, 4)]
    # One that is half computed goes on before a new one starts.
    assert desk.step() == [Part(0, 6, 7), Part(1, 4, 6), Part(2, 0, 6)]
    assert desk.step() == [Part(0, 7, 8), Part(1, 6, 7), Part(2, 6, 7)]


def test_last_token_of_a_prompt_alone_is_among_those_of_one_token() -> None:
    desk = Desk(step_tokens=7)
    desk.submit(prompt(5))
    desk.step()
    desk.submit(prompt(7, first=2))
    desk.submit(prompt(1, first=3))
    assert desk.step() == [Part(0, 5, 6), Part(1, 0, 6)]
    assert desk.step() == [Part(0, 6, 7), Part(1, 6, 7), Part(2, 0, 1)]


def test_parts_of_one_token_come_first() -> None:
    desk = Desk(step_tokens=10)
    desk.submit(prompt(4, first=1))
    desk.submit(prompt(1, first=2))
    desk.submit(prompt(3, first=3))
    # The second one starts later and is yet laid out first: it is a decode to the kernels.
    assert desk.step() == [Part(1, 0, 1), Part(0, 0, 4), Part(2, 0, 3)]


def test_step_never_has_more_tokens_than_it_may_have() -> None:
    desk = Desk(step_tokens=2, num_pages=30)
    for first in (1, 2, 3):
        desk.submit(prompt(1, first))
    assert desk.step() == [Part(0, 0, 1), Part(1, 0, 1)]
    # The oldest first, where not even all next tokens fit.
    assert desk.step() == [Part(0, 1, 2), Part(1, 1, 2)]
    desk.scheduler.remove(desk.scheduler.running[0])
    assert desk.step() == [Part(1, 2, 3), Part(2, 0, 1)]


def test_only_a_part_that_ends_the_tokens_brings_the_next() -> None:
    desk = Desk(step_tokens=4)
    desk.submit(prompt(6))
    (first,) = desk.plan()
    assert (first.start, first.num_tokens, first.stop, first.is_last) == (0, 4, 4, False)
    desk.compute([first])
    (second,) = desk.plan()
    assert (second.start, second.num_tokens, second.stop, second.is_last) == (4, 2, 6, True)


def test_part_that_was_computed_in_half_is_taken_up_where_it_ended() -> None:
    # What the engine does when a lone part does not fit into memory.
    desk = Desk()
    desk.submit(prompt(12))
    (whole,) = desk.plan()
    half = type(whole)(whole.sequence, whole.start, 6)
    assert not half.is_last
    desk.compute([half])
    assert desk.step() == [Part(0, 6, 12)]


# Who runs.


def test_requests_join_and_leave_while_others_go_on() -> None:
    desk = Desk()
    first = desk.submit(prompt(3, first=1))
    desk.step()
    second = desk.submit(prompt(3, first=2))
    assert desk.step() == [Part(0, 3, 4), Part(1, 0, 3)]
    desk.scheduler.remove(first)
    assert desk.step() == [Part(1, 3, 4)]
    desk.submit(prompt(2, first=3))
    assert desk.step() == [Part(1, 4, 5), Part(2, 0, 2)]
    desk.scheduler.remove(second)
    assert desk.step() == [Part(2, 2, 3)]


def test_no_more_requests_run_than_may() -> None:
    desk = Desk(max_running=2)
    requests = [desk.submit(prompt(3, first)) for first in (1, 2, 3)]
    assert desk.step() == [Part(0, 0, 3), Part(1, 0, 3)]
    assert desk.step() == [Part(0, 3, 4), Part(1, 3, 4)]
    assert desk.waiting == [2]
    desk.scheduler.remove(requests[0])
    assert desk.step() == [Part(1, 4, 5), Part(2, 0, 3)]


def test_request_without_room_waits_and_those_behind_it_too() -> None:
    # Of seven pages three are taken; six and one for the first one's growth are not there.
    desk = Desk(num_pages=7)
    first = desk.submit(prompt(12, first=1))
    desk.submit(prompt(24, first=2))
    desk.submit(prompt(4, first=3))
    assert desk.step() == [Part(0, 0, 12)]
    assert desk.waiting == [1, 2]
    desk.scheduler.remove(first)
    assert desk.step() == [Part(1, 0, 24)]
    assert desk.waiting == [2], "its page is there, but none for the other one to grow"


def test_request_starts_only_where_each_that_runs_can_still_grow_by_a_page() -> None:
    desk = Desk(num_pages=5)
    desk.submit(prompt(4, first=1))
    desk.submit(prompt(4, first=2))
    desk.submit(prompt(4, first=3))
    # Pages 1 + 1, and two for growth: a third page would leave no two.
    assert desk.step() == [Part(0, 0, 4), Part(1, 0, 4), Part(2, 0, 4)]
    desk = Desk(num_pages=4)
    for first in (1, 2, 3):
        desk.submit(prompt(4, first))
    assert desk.step() == [Part(0, 0, 4), Part(1, 0, 4)]


def test_lone_request_may_take_every_page() -> None:
    desk = Desk(num_pages=3)
    request = desk.submit(prompt(9))
    assert desk.step() == [Part(0, 0, 9)]
    desk.run_until_length(request, 13)  # of which 12 are computed
    assert desk.pool.num_available == 0
    assert request.num_preemptions == 0


def test_ended_request_leaves_its_pages() -> None:
    desk = Desk(num_pages=10)
    request = desk.submit(prompt(9))
    desk.step()
    assert desk.pool.num_available == 7
    desk.scheduler.remove(request)
    desk.scheduler.check()
    assert desk.pool.num_available == 10
    assert request.pages == []
    assert desk.scheduler.is_idle


def test_request_that_waits_can_be_taken_away() -> None:
    desk = Desk(max_running=1)
    desk.submit(prompt(3, first=1))
    second = desk.submit(prompt(3, first=2))
    desk.submit(prompt(3, first=3))
    desk.step()
    desk.scheduler.remove(second)
    assert desk.waiting == [2]
    assert desk.running == [0]


def test_request_can_be_taken_away_half_computed() -> None:
    desk = Desk(step_tokens=6, num_pages=10)
    request = desk.submit(prompt(20))
    desk.step()
    desk.scheduler.remove(request)
    desk.scheduler.check()
    assert desk.pool.num_available == 10
    assert desk.plan() == []


# What prompts share.


def test_pages_of_a_lone_request_are_neighbours_as_it_grows() -> None:
    desk = Desk()
    old, young = desk.submit(prompt(6, first=1)), desk.submit(prompt(6, first=2))
    desk.step()
    desk.scheduler.remove(old)
    desk.run_until_length(young, 20)
    assert young.pages == [2, 3, 4, 5, 6], "though lower ones are free"


def test_known_beginning_is_not_computed_again() -> None:
    desk = Desk()
    desk.submit([1, 2, 3, 4, 5, 6, 7, 8, 9])
    desk.step()
    second = desk.submit([1, 2, 3, 4, 5, 6, 7, 8, 10, 11])
    assert desk.step() == [Part(0, 9, 10), Part(1, 8, 10)]
    assert second.num_cached == 8
    assert second.pages[:2] == [0, 1]
    assert second.pages[2] != 2, "the page that differs is its own"


def test_beginning_is_known_after_its_request_has_ended() -> None:
    desk = Desk()
    desk.scheduler.remove(_computed(desk, prompt(9)))
    assert desk.step() == []
    desk.submit(prompt(9))
    assert desk.step() == [Part(1, 8, 9)]


def test_last_token_is_always_computed() -> None:
    desk = Desk()
    _computed(desk, prompt(8))
    again = desk.submit(prompt(8))
    # Its second page is known as well, but what comes after its last token is not.
    assert desk.step() == [Part(0, 8, 9), Part(1, 4, 8)]
    assert again.num_cached == 4
    assert desk.step() == [Part(0, 9, 10), Part(1, 8, 9)]


def test_prompt_of_one_full_page_shares_nothing() -> None:
    desk = Desk()
    desk.scheduler.remove(_computed(desk, prompt(4)))
    assert _computed(desk, prompt(4)).num_cached == 0


def test_answer_serves_as_the_beginning_of_the_next_question() -> None:
    desk = Desk()
    first = desk.submit([1, 2, 3])
    desk.run_until_length(first, 10)  # 1, 2, 3, 1001, ..., 1007, of which nine are computed
    desk.scheduler.remove(first)
    second = desk.submit([1, 2, 3, 1001, 1002, 1003, 1004, 1005, 1006, 1007, 5])
    assert desk.step() == [Part(1, 8, 11)]
    assert second.num_cached == 8


def test_same_picture_is_shared_and_another_one_is_not() -> None:
    desk = Desk()
    ids = [7, *[IMAGE] * 9, 8, 9]
    desk.scheduler.remove(_computed(desk, ids, "cat"))
    same = desk.submit([*ids[:10], 5, 5], [placement("cat", 1, 9)])
    other = desk.submit(ids, [placement("dog", 1, 9)])
    assert desk.step() == [Part(1, 8, 12), Part(2, 0, 12)]
    assert (same.num_cached, other.num_cached) == (8, 0)


def test_half_computed_prompt_is_shared_as_far_as_it_is() -> None:
    desk = Desk(step_tokens=10)
    first = desk.submit(prompt(30))
    desk.step()
    desk.scheduler.remove(first)
    desk.submit(prompt(30))
    assert desk.step() == [Part(1, 8, 18)]


def test_without_a_prefix_cache_everything_is_computed() -> None:
    desk = Desk(keeps_prefixes=False)
    desk.submit(prompt(9))
    desk.submit(prompt(9))
    assert desk.step() == [Part(0, 0, 9), Part(1, 0, 9)]
    desk.submit(prompt(9))
    assert desk.step() == [Part(0, 9, 10), Part(1, 9, 10), Part(2, 0, 9)]


def test_what_a_failed_request_has_computed_is_shared_with_nobody() -> None:
    desk = Desk(num_pages=10)
    failed = _computed(desk, prompt(9))
    desk.scheduler.remove(failed, forget=True)
    desk.scheduler.check()
    desk.submit(prompt(9))
    assert desk.step() == [Part(1, 0, 9)]


def test_neighbour_that_shares_with_a_failed_request_keeps_its_pages() -> None:
    desk = Desk(num_pages=10)
    failed = _computed(desk, prompt(9))
    neighbour = desk.submit(prompt(9))
    desk.step()
    desk.scheduler.remove(failed, forget=True)
    desk.scheduler.check()
    assert desk.step() == [Part(1, 9, 10)]
    desk.scheduler.remove(neighbour)
    assert desk.pool.num_available == 10


# Alike requests.


def test_request_whose_beginning_is_being_computed_is_passed_over_for_a_step() -> None:
    desk = Desk()
    desk.submit([1, 2, 3, 4, 5])
    desk.submit([1, 2, 3, 4, 6])
    assert desk.step() == [Part(0, 0, 5)]
    assert desk.waiting == [1]
    assert desk.step() == [Part(0, 5, 6), Part(1, 4, 5)]


def test_others_overtake_those_that_are_passed_over_and_these_keep_their_order() -> None:
    desk = Desk()
    for ids in ([1, 2, 3, 4, 5], [1, 2, 3, 4, 6], [9, 9], [1, 2, 3, 4, 7], [8, 8]):
        desk.submit(ids)
    assert desk.step() == [Part(0, 0, 5), Part(2, 0, 2), Part(4, 0, 2)]
    assert desk.waiting == [1, 3]
    desk.submit([6, 6])
    going_on = [Part(0, 5, 6), Part(2, 2, 3), Part(4, 2, 3)]
    assert desk.step() == [*going_on, Part(1, 4, 5), Part(3, 4, 5), Part(5, 0, 2)]


def test_alike_request_waits_until_all_that_it_can_share_is_computed() -> None:
    desk = Desk(step_tokens=8)
    desk.submit(prompt(17))
    alike = desk.submit(prompt(17))
    assert desk.step() == [Part(0, 0, 8)]
    assert desk.step() == [Part(0, 8, 16)]
    assert desk.step() == [Part(0, 16, 17), Part(1, 16, 17)]
    assert alike.num_cached == 16


def test_alike_request_takes_over_when_the_first_one_is_cancelled() -> None:
    desk = Desk(step_tokens=8)
    first = desk.submit(prompt(30))
    desk.submit(prompt(30))
    desk.step()
    desk.scheduler.remove(first)
    assert desk.step() == [Part(1, 8, 16)]


def test_alike_request_takes_over_from_the_beginning_when_the_first_one_fails() -> None:
    desk = Desk(step_tokens=8)
    first = desk.submit(prompt(30))
    desk.submit(prompt(30))
    desk.step()
    desk.scheduler.remove(first, forget=True)
    assert desk.step() == [Part(1, 0, 8)]


def test_request_that_shares_the_next_page_of_one_admitted_in_the_same_step_is_passed_over() -> (
    None
):
    desk = Desk()
    desk.scheduler.remove(_computed(desk, prompt(5)))
    desk.submit(prompt(9))
    desk.submit(prompt(9))
    desk.submit([*prompt(4), 7, 7, 7, 7, 7])
    # The first page is known to all; the second one is common to two of them.
    assert desk.step() == [Part(1, 4, 9), Part(3, 4, 9)]
    assert desk.waiting == [2]


def test_pictures_that_differ_do_not_hold_each_other_up() -> None:
    desk = Desk()
    ids = [IMAGE] * 5
    desk.submit(ids, [placement("cat", 0, 5)])
    desk.submit(ids, [placement("dog", 0, 5)])
    assert desk.step() == [Part(0, 0, 5), Part(1, 0, 5)]


def test_long_queue_of_alike_requests_is_not_looked_through() -> None:
    desk = Desk(max_running=3)
    for last in range(5):
        desk.submit([1, 2, 3, 4, last])
    desk.submit([9, 9])
    # Three were passed over: as many as could run.
    assert desk.step() == [Part(0, 0, 5)]
    assert desk.waiting == [1, 2, 3, 4, 5]
    assert desk.step() == [Part(0, 5, 6), Part(1, 4, 5), Part(2, 4, 5)]
    assert desk.waiting == [3, 4, 5]


# Preemption.


def _full_desk() -> Desk:
    """Two requests of two pages each run, and a fifth page is free; both will need a third."""
    desk = Desk(num_pages=5)
    desk.submit(prompt(7, first=1))
    desk.submit(prompt(7, first=2))
    assert desk.step() == [Part(0, 0, 7), Part(1, 0, 7)]
    assert desk.step() == [Part(0, 7, 8), Part(1, 7, 8)]
    return desk


def test_youngest_gives_its_pages_back_when_they_run_out() -> None:
    desk = _full_desk()
    old, young = desk.scheduler.running
    assert desk.step() == [Part(0, 8, 9)]
    assert desk.running == [0]
    assert desk.waiting == [1]
    assert young.pages == []
    assert young.num_computed == 0
    assert (old.num_preemptions, young.num_preemptions) == (0, 1)
    assert desk.scheduler.num_preemptions == 1


def test_preempted_request_keeps_its_answer_and_its_place_at_the_front() -> None:
    desk = _full_desk()
    old, young = desk.scheduler.running
    desk.submit(prompt(1, first=3))
    desk.step()
    assert young.answer == [1001, 1002]
    assert desk.waiting == [1, 2], "though the other one would fit"
    desk.scheduler.remove(old)
    # Its first two pages are still known: only its last token is computed again.
    assert desk.step() == [Part(1, 8, 9), Part(2, 0, 1)]
    assert young.answer == [1001, 1002, 1003]


def test_preempted_request_whose_pages_are_gone_is_computed_again_as_a_prompt() -> None:
    desk = Desk(num_pages=5, keeps_prefixes=False)
    old, young = desk.submit(prompt(7, first=1)), desk.submit(prompt(7, first=2))
    desk.run_until_length(old, 10)
    assert desk.waiting == [1]
    desk.scheduler.remove(old)
    assert desk.step() == [Part(1, 0, 9)]
    assert desk.step() == [Part(1, 9, 10)]
    assert young.answer == [1001, 1002, 1003, 1004]


def test_recomputing_does_not_count_as_found_in_the_cache() -> None:
    desk = _full_desk()
    old, young = desk.scheduler.running
    desk.step()
    desk.scheduler.remove(old)
    desk.step()
    assert young.num_cached == 0


def test_page_for_an_old_request_costs_the_youngest_not_its_neighbour() -> None:
    desk = Desk(num_pages=8)
    for first in (1, 2, 3, 4):
        desk.submit(prompt(4, first))
    assert len(desk.step()) == 4
    assert desk.step() == [Part(number, 4, 5) for number in range(4)]
    assert desk.pool.num_available == 0
    for _ in range(3):
        desk.step()
    # Two pages of the youngest serve the two oldest; the third one gives way itself.
    assert desk.step() == [Part(0, 8, 9), Part(1, 8, 9)]
    assert desk.running == [0, 1]
    assert desk.waiting == [2, 3], "the older one is in front"
    assert [one.num_preemptions for one in desk.scheduler.waiting] == [1, 1]


def test_half_computed_prompt_gives_way_as_well() -> None:
    desk = Desk(num_pages=8, step_tokens=3)
    old = desk.submit(prompt(4, first=1))
    desk.run_until_length(old, 5)
    young = desk.submit(prompt(20, first=2))
    desk.run_until_length(old, 13)
    assert young.num_computed == 16
    assert desk.step() == [Part(0, 12, 13)]
    assert desk.waiting == [1]
    desk.scheduler.remove(old)
    assert desk.step() == [Part(1, 16, 19)], "what it had computed is still known"


def test_everyone_gets_through_however_few_pages_there_are() -> None:
    desk = Desk(num_pages=6)
    unfinished = [desk.submit(prompt(5, first)) for first in range(1, 9)]
    for _ in range(400):
        desk.step()
        for request in [one for one in unfinished if one.num_generated == 19]:
            desk.scheduler.remove(request)
            unfinished.remove(request)
            assert request.answer == list(range(1001, 1020))
        if not unfinished:
            break
    assert not unfinished
    assert desk.scheduler.num_preemptions > 0
    assert desk.pool.num_available == 6


# Long factors.


def test_request_that_outgrows_the_short_factors_starts_again_with_the_long_ones() -> None:
    desk = Desk(num_short=10)
    request = desk.submit(prompt(8))
    desk.run_until_length(request, 10)
    # The tenth token, at position 9, is the last one under the short factors.
    assert desk.step() == [Part(0, 9, 10)]
    assert len(request) == 11
    assert desk.scheduler.num_long_restarts == 0
    assert desk.step() == [Part(0, 0, 11)]
    assert request.is_long
    assert desk.step() == [Part(0, 11, 12)]
    assert request.answer == [1001, 1002, 1003, 1004, 1005]
    assert desk.scheduler.num_long_restarts == 1
    assert request.num_preemptions == 0


def test_request_that_ends_at_the_limit_is_never_restarted() -> None:
    desk = Desk(num_short=10)
    request = desk.submit(prompt(8))
    desk.run_until_length(request, 11)
    desk.scheduler.remove(request)
    assert desk.scheduler.num_long_restarts == 0


def test_prompt_at_the_limit_is_restarted_for_its_second_token() -> None:
    desk = Desk(num_short=10)
    request = desk.submit(prompt(10))
    assert desk.step() == [Part(0, 0, 10)]
    assert desk.step() == [Part(0, 0, 11)]
    assert request.is_long


def test_prompt_above_the_limit_is_long_from_the_start() -> None:
    desk = Desk(num_short=10)
    desk.submit(prompt(11))
    assert desk.step() == [Part(0, 0, 11)]
    assert desk.step() == [Part(0, 11, 12)]
    assert desk.scheduler.num_long_restarts == 0


def test_long_and_short_requests_share_nothing() -> None:
    desk = Desk(num_short=10)
    desk.scheduler.remove(_computed(desk, prompt(10)))
    assert _computed(desk, prompt(11)).num_cached == 0
    assert _computed(desk, prompt(12)).num_cached == 8, "two long ones do"


def test_restarted_request_goes_before_those_that_wait() -> None:
    desk = Desk(num_short=10, max_running=1)
    desk.submit(prompt(10, first=1))
    desk.submit(prompt(3, first=2))
    desk.step()
    assert desk.step() == [Part(0, 0, 11)]
    assert desk.waiting == [1]


def test_requests_restarted_in_one_step_keep_their_order() -> None:
    desk = Desk(num_short=10, step_tokens=30)
    for first in (1, 2, 3):
        desk.submit(prompt(10, first))
    desk.step()
    desk.submit(prompt(3, first=4))
    assert desk.step() == [Part(0, 0, 11), Part(1, 0, 11), Part(2, 0, 8)]
    assert desk.step() == [Part(0, 11, 12), Part(1, 11, 12), Part(2, 8, 11), Part(3, 0, 3)]
    assert desk.running == [0, 1, 2, 3]


def test_restarted_request_is_as_old_as_before() -> None:
    desk = Desk(num_pages=6, num_short=10)
    old = desk.submit(prompt(10, first=1))
    young = desk.submit(prompt(7, first=2))
    desk.step()
    assert Part(0, 0, 11) in desk.step()
    assert desk.running == [0, 1]
    desk.run_until_length(old, 14)
    assert (old.num_preemptions, young.num_preemptions) == (0, 1)


def _desk_with_one_preempted_as_it_outgrows() -> Desk:
    """The older one needs a page just when the younger one has its eleventh token."""
    desk = Desk(num_pages=5, num_short=10)
    old = desk.submit(prompt(6, first=1))
    desk.submit(prompt(8, first=2))
    desk.run_until_length(old, 9)
    assert desk.step() == [Part(0, 8, 9)]
    assert desk.waiting == [1]
    return desk


def test_request_preempted_at_the_moment_it_outgrows_the_short_factors_comes_back_long() -> None:
    desk = _desk_with_one_preempted_as_it_outgrows()
    (young,) = desk.scheduler.waiting
    assert young.answer == [1001, 1002, 1003]
    assert young.is_long
    desk.scheduler.remove(desk.scheduler.running[0])
    assert desk.step() == [Part(1, 0, 11)], "nothing of it is shared with its short past"
    assert desk.step() == [Part(1, 11, 12)]


def test_request_preempted_as_it_outgrows_the_short_factors_is_counted_as_both() -> None:
    scheduler = _desk_with_one_preempted_as_it_outgrows().scheduler
    assert (scheduler.num_preemptions, scheduler.num_long_restarts) == (1, 1)


def test_request_preempted_at_the_limit_comes_back_short_and_is_then_restarted() -> None:
    # One token earlier than above: what is missing of its ten is computed under the short factors.
    desk = Desk(num_pages=5, num_short=10)
    old = desk.submit(prompt(7, first=1))
    young = desk.submit(prompt(8, first=2))
    desk.run_until_length(old, 9)
    assert desk.step() == [Part(0, 8, 9)]
    assert (len(young), young.is_long) == (10, False)
    desk.scheduler.remove(old)
    assert desk.step() == [Part(1, 8, 10)]
    assert desk.step() == [Part(1, 0, 11)]


# Memory.


def test_step_that_did_not_fit_is_followed_by_half_of_it() -> None:
    desk = Desk(step_tokens=16)
    desk.submit(prompt(40))
    desk.step()
    desk.scheduler.shrink(16)
    assert desk.step() == [Part(0, 16, 24)]


def test_smaller_step_that_did_not_fit_halves_itself() -> None:
    desk = Desk(step_tokens=16)
    desk.submit(prompt(40))
    desk.scheduler.shrink(6)
    assert desk.step() == [Part(0, 0, 3)]


def test_larger_step_than_planned_halves_the_plan() -> None:
    desk = Desk(step_tokens=16)
    desk.submit(prompt(40))
    desk.scheduler.shrink(16)
    desk.scheduler.shrink(16)
    assert desk.step() == [Part(0, 0, 4)]


def test_step_never_shrinks_to_nothing() -> None:
    desk = Desk(step_tokens=16)
    desk.submit(prompt(40))
    for _ in range(3):
        desk.scheduler.shrink(1)
    assert desk.step() == [Part(0, 0, 1)]


def test_shrunken_steps_grow_again_after_enough_good_ones() -> None:
    desk = Desk(step_tokens=13)
    desk.scheduler.shrink(13)  # 6
    desk.scheduler.shrink(6)  # 3
    sizes = []
    for _ in range(3 * RECOVERY_STEPS + 1):
        request = desk.submit(prompt(40))
        (part,) = desk.step()
        sizes.append(part.stop - part.start)
        desk.scheduler.remove(request, forget=True)
    assert sizes == [size for size in (3, 6, 12) for _ in range(RECOVERY_STEPS)] + [13]


def test_another_failure_starts_the_count_of_good_steps_again() -> None:
    desk = Desk(step_tokens=16)
    desk.scheduler.shrink(16)  # 8
    for _ in range(RECOVERY_STEPS - 1):
        desk.scheduler.step_succeeded()
    desk.scheduler.shrink(8)  # 4
    desk.scheduler.step_succeeded()
    desk.submit(prompt(40))
    assert desk.step() == [Part(0, 0, 4)]


# The check.


def test_check_notices_more_requests_than_may_run() -> None:
    desk = Desk(max_running=2)
    desk.submit(prompt(3, first=1))
    desk.submit(prompt(3, first=2))
    desk.step()
    desk.scheduler._max_running = 1
    with pytest.raises(AssertionError):
        desk.scheduler.check()


def test_check_notices_pages_of_one_that_waits() -> None:
    desk = Desk()
    request = desk.submit(prompt(3))
    desk.step()
    desk.scheduler.waiting.append(request)
    with pytest.raises(AssertionError, match="who waits holds nothing"):
        desk.scheduler.check()


def test_check_notices_tokens_without_pages() -> None:
    desk = Desk()
    request = desk.submit(prompt(3))
    desk.step()
    request.num_computed = 5
    request.token_ids += [1, 2, 3]
    with pytest.raises(AssertionError, match="lies in pages"):
        desk.scheduler.check()


def test_check_notices_one_that_has_nothing_to_compute() -> None:
    desk = Desk()
    request = desk.submit(prompt(3))
    desk.step()
    request.token_ids.pop()
    with pytest.raises(AssertionError, match="something to compute"):
        desk.scheduler.check()


def test_check_notices_tokens_under_the_wrong_factors() -> None:
    desk = Desk(num_short=10)
    request = desk.submit(prompt(11))
    desk.step()
    request.is_long = False
    with pytest.raises(AssertionError, match="factors"):
        desk.scheduler.check()


def _computed(desk: Desk, ids: range | list[int], picture: str | None = None) -> Sequence:
    """A request whose prompt has just been computed; its picture is on tokens 1 to 9."""
    request = desk.submit(ids, [placement(picture, 1, 9)] if picture else [])
    desk.run_until_length(request, len(ids) + 1)
    return request
