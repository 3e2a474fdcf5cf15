"""The page pool and the keys of pages."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.engine.policy import IMAGE, PAGE_TOKENS, placement, sequence
from visionq_worker.engine.pages import FREE, TAKEN, OutOfPages, PageKey, PagePool, page_key

ROOT = b"short"
TOKENS = (1, 2, 3, 4)
KEYS = "keys and pages|both ways"


def pool_of(num_pages: int, *, keeps_prefixes: bool = True) -> PagePool:
    return PagePool(num_pages, PAGE_TOKENS, keeps_prefixes=keeps_prefixes)


def filled(pool: PagePool, *keys: PageKey) -> list[int]:
    """New pages, held once, each known by its key."""
    pages = pool.allocate(len(keys))
    for page, key in zip(pages, keys, strict=True):
        pool.register(page, key)
    return pages


# Allocation.


def test_low_pages_are_given_first_and_in_order() -> None:
    pool = pool_of(6)
    assert pool.allocate(2) == [0, 1]
    assert pool.allocate(3) == [2, 3, 4]
    assert pool.num_available == 1


def test_pages_that_came_back_are_given_again_lowest_first() -> None:
    pool = pool_of(6)
    pool.allocate(5)
    pool.release([3])
    pool.release([1])
    pool.check([[0, 2, 4]])
    assert pool.allocate(3) == [1, 3, 5]


def test_neighbours_are_given_where_there_are_any() -> None:
    pool = pool_of(8)
    pool.allocate(5)
    pool.release([1, 3])
    assert pool.allocate(2) == [5, 6], "1 and 3 are no neighbours"
    pool.check([[0, 2, 4, 5, 6]])
    assert pool.allocate(1) == [1]


def test_pieces_are_given_where_there_are_no_neighbours() -> None:
    pool = pool_of(5)
    pool.allocate(5)
    pool.release([1, 3])
    assert pool.allocate(2) == [1, 3]
    pool.check([[0, 1, 2, 3, 4]])


def test_pages_follow_the_page_that_they_should_follow() -> None:
    pool = pool_of(6)
    pool.allocate(3)
    pool.release([0])
    assert pool.allocate(2, after=2) == [3, 4]
    assert pool.allocate(1, after=2) == [0], "3 is taken"
    assert pool.allocate(1, after=5) == [5], "there is no page behind the last one"


def test_too_large_a_wish_takes_nothing() -> None:
    pool = pool_of(3)
    held = pool.allocate(1)
    with pytest.raises(OutOfPages):
        pool.allocate(3)
    pool.check([held])
    assert pool.allocate(2) == [1, 2]


def test_too_large_a_wish_evicts_nothing() -> None:
    pool = pool_of(3)
    pool.release(filled(pool, b"a", b"b"))
    with pytest.raises(OutOfPages):
        pool.allocate(4)
    assert pool.match([b"a", b"b"]) == [0, 1]


def test_no_pages_can_be_asked_for() -> None:
    pool = pool_of(1)
    pool.allocate(1)
    assert pool.allocate(0) == []


@pytest.mark.parametrize(
    ("num_tokens", "num_pages"), [(0, 0), (1, 1), (3, 1), (4, 1), (5, 2), (8, 2), (9, 3)]
)
def test_a_part_of_a_page_takes_the_whole_of_it(num_tokens: int, num_pages: int) -> None:
    assert pool_of(1).pages_for(num_tokens) == num_pages


# Sharing.


def test_page_stays_held_until_its_last_holder_lets_go() -> None:
    pool = pool_of(2)
    pages = filled(pool, b"a")
    pool.hold(pages)
    pool.check([pages, pages])
    pool.release(pages)
    pool.check([pages])
    assert pool.num_available == 1
    pool.release(pages)
    pool.check([])
    assert pool.num_available == 2


def test_page_without_a_key_is_free_once_it_is_released() -> None:
    pool = pool_of(2)
    pool.release(pool.allocate(1))
    pool.check([])
    assert pool.allocate(1) == [0], "a page that is kept would be given last"


def test_longest_known_beginning_is_found() -> None:
    pool = pool_of(5)
    filled(pool, b"a", b"b", b"c")
    assert pool.match([b"a", b"b", b"x"]) == [0, 1]
    assert pool.match([b"x", b"b", b"c"]) == []
    assert pool.match([]) == []


def test_beginning_is_found_while_it_is_held_and_while_it_is_idle() -> None:
    pool = pool_of(3)
    pages = filled(pool, b"a", b"b")
    assert pool.match([b"a", b"b"]) == pages
    pool.release(pages)
    assert pool.match([b"a", b"b"]) == pages


def test_idle_pages_are_no_longer_available_once_they_are_held_again() -> None:
    pool = pool_of(4)
    idle, held = filled(pool, b"a", b"b")
    pool.release([idle])
    assert pool.num_idle([idle, held]) == 1
    assert pool.num_available == 3
    pool.hold([idle, held])
    assert pool.num_idle([idle, held]) == 0
    assert pool.num_available == 2
    pool.check([[idle, held], [held]])


def test_first_page_of_a_key_counts() -> None:
    pool = pool_of(3)
    first, second = pool.allocate(2)
    pool.register(first, b"a")
    pool.register(second, b"a")
    pool.check([[first, second]])
    assert pool.match([b"a"]) == [first]
    pool.release([second])
    pool.check([[first]])
    assert pool.allocate(1) == [second], "the second one is free, not idle"


def test_registering_a_page_again_changes_nothing() -> None:
    pool = pool_of(2)
    (page,) = filled(pool, b"a")
    pool.register(page, b"a")
    pool.check([[page]])
    assert pool.match([b"a"]) == [page]


def test_page_that_has_a_key_gets_no_other() -> None:
    pool = pool_of(2)
    (page,) = filled(pool, b"a")
    with pytest.raises(AssertionError, match="filled once"):
        pool.register(page, b"b")


def test_page_that_nobody_holds_cannot_be_released() -> None:
    pool = pool_of(2)
    pages = pool.allocate(1)
    pool.release(pages)
    with pytest.raises(AssertionError, match="only held pages"):
        pool.release(pages)


def test_pool_that_keeps_no_prefixes_frees_at_once_and_takes_no_keys() -> None:
    pool = pool_of(2, keeps_prefixes=False)
    pages = pool.allocate(2)
    with pytest.raises(AssertionError):
        pool.register(pages[0], b"a")
    pool.release(pages)
    pool.check([])
    assert pool.allocate(2) == [0, 1]


# Eviction.


def test_free_pages_are_given_before_idle_ones() -> None:
    pool = pool_of(3)
    pool.release(filled(pool, b"a", b"b"))
    assert pool.allocate(1) == [2]
    assert pool.match([b"a", b"b"]) == [0, 1]


def test_idle_page_that_was_let_go_first_is_evicted_first() -> None:
    pool = pool_of(3)
    a, b, c = filled(pool, b"a", b"b", b"c")
    for page in (b, c, a):
        pool.release([page])
    assert pool.allocate(1) == [b]
    pool.check([[b]])
    assert pool.match([b"b"]) == []
    assert pool.allocate(1) == [c]
    assert pool.match([b"a"]) == [a]


def test_page_used_again_is_evicted_later() -> None:
    pool = pool_of(2)
    a, b = filled(pool, b"a", b"b")
    pool.release([a])
    pool.release([b])
    pool.hold([a])
    pool.release([a])
    assert pool.allocate(1) == [b]


def test_evicted_page_may_be_filled_with_something_else() -> None:
    pool = pool_of(1)
    pool.release(filled(pool, b"a"))
    (page,) = filled(pool, b"b")
    pool.check([[page]])
    assert pool.match([b"a"]) == []
    assert pool.match([b"b"]) == [page]


def test_end_of_a_prompt_is_evicted_before_its_beginning() -> None:
    # Without its beginning the rest is never found: it would fill the cache for nobody.
    pool = pool_of(3)
    pool.release(filled(pool, b"a", b"ab", b"abc"))
    pool.allocate(1)
    assert pool.match([b"a", b"ab", b"abc"]) == [0, 1]


# Forgetting.


def test_forgotten_pages_are_free_and_found_by_nobody() -> None:
    pool = pool_of(3)
    pages = filled(pool, b"a", b"b")
    pool.release(pages, forget=True)
    pool.check([])
    assert pool.match([b"a"]) == []
    assert pool.match([b"b"]) == []
    assert pool.allocate(1) == [0]


def test_forgotten_page_that_another_one_holds_is_free_after_that() -> None:
    pool = pool_of(3)
    pages = filled(pool, b"a")
    pool.hold(pages)
    pool.release(pages, forget=True)
    pool.check([pages])
    assert pool.match([b"a"]) == []
    pool.release(pages)
    pool.check([])
    assert pool.allocate(1) == [0]


def test_key_of_a_forgotten_page_may_be_given_to_another() -> None:
    pool = pool_of(3)
    old, other = pool.allocate(2)
    pool.register(old, b"a")
    pool.hold([old])
    pool.release([old], forget=True)
    pool.register(other, b"a")
    pool.check([[old, other]])
    pool.release([old])
    assert pool.match([b"a"]) == [other]


# The check.


def _hold_too_many(pool: PagePool) -> None:
    pool._holders[0] += 1


def _lose_a_holder(pool: PagePool) -> None:
    pool._holders[0] = 0


def _count_a_free_page_twice(pool: PagePool) -> None:
    pool._num_free += 1


def _free_and_idle(pool: PagePool) -> None:
    _free(pool, 2)


def _lose_a_free_page(pool: PagePool) -> None:
    pool._free[3:4] = TAKEN
    pool._num_free -= 1


def _free_a_held_page(pool: PagePool) -> None:
    _free(pool, 0)


def _free(pool: PagePool, page: int) -> None:
    pool._free[page : page + 1] = FREE
    pool._num_free += 1


def _idle_a_held_page(pool: PagePool) -> None:
    pool._idle[1] = None


def _key_without_a_page(pool: PagePool) -> None:
    del pool._key_of[1]


def _page_without_a_key(pool: PagePool) -> None:
    del pool._page_of[b"held"]


def _keys_changed_about(pool: PagePool) -> None:
    pool._page_of[b"held"], pool._page_of[b"idle"] = 2, 1


def _two_keys_of_one_page(pool: PagePool) -> None:
    pool._page_of[b"stale"] = 1


def _idle_page_that_holds_nothing(pool: PagePool) -> None:
    del pool._key_of[2], pool._page_of[b"idle"]


def _free_page_that_holds_something(pool: PagePool) -> None:
    pool._key_of[3], pool._page_of[b"free"] = b"free", 3


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (_hold_too_many, "page 0: holders"),
        (_lose_a_holder, "page 0: holders"),
        (_count_a_free_page_twice, "free pages are counted"),
        (_free_and_idle, "free pages are not idle"),
        (_lose_a_free_page, "an unheld page is free or idle"),
        (_free_a_held_page, "an unheld page is free or idle"),
        (_idle_a_held_page, "an unheld page is free or idle"),
        (_key_without_a_page, KEYS),
        (_page_without_a_key, KEYS),
        (_keys_changed_about, KEYS),
        (_two_keys_of_one_page, KEYS),
        (_idle_page_that_holds_nothing, "idle pages are known by their keys"),
        (_free_page_that_holds_something, "free pages hold nothing"),
    ],
)
def test_check_notices_books_that_disagree(
    spoil: Callable[[PagePool], None], complaint: str
) -> None:
    # Page 0 is held, 1 is held and known, 2 is idle, 3 is free.
    pool = pool_of(4)
    pool.allocate(1)
    filled(pool, b"held")
    pool.release(filled(pool, b"idle"))
    tables = [[0, 1]]
    pool.check(tables)
    spoil(pool)
    with pytest.raises(AssertionError, match=complaint):
        pool.check(tables)


def test_check_notices_a_table_that_the_pool_does_not_know_of() -> None:
    pool = pool_of(2)
    pages = pool.allocate(1)
    with pytest.raises(AssertionError, match="page 0: holders"):
        pool.check([pages, pages])
    with pytest.raises(AssertionError, match="page 0: holders"):
        pool.check([])


# Keys.


def test_equal_beginnings_have_equal_keys() -> None:
    assert page_key(ROOT, TOKENS, [(1, b"cat")]) == page_key(ROOT, list(TOKENS), [(1, b"cat")])


@pytest.mark.parametrize(
    "other",
    [
        page_key(ROOT, (1, 2, 3, 5), [(1, b"cat")]),
        page_key(ROOT, (1, 2, 4, 3), [(1, b"cat")]),
        page_key(b"long", TOKENS, [(1, b"cat")]),
        page_key(page_key(ROOT, TOKENS, []), TOKENS, [(1, b"cat")]),
        page_key(ROOT, TOKENS, [(1, b"dog")]),
        page_key(ROOT, TOKENS, [(2, b"cat")]),
        page_key(ROOT, TOKENS, [(-1, b"cat")]),
        page_key(ROOT, TOKENS, []),
        page_key(ROOT, TOKENS, [(1, b"cat"), (3, b"cat")]),
    ],
    ids=["token", "order", "root", "previous", "picture", "start", "earlier", "none", "two"],
)
def test_whatever_differs_gives_another_key(other: PageKey) -> None:
    assert page_key(ROOT, TOKENS, [(1, b"cat")]) != other


def test_key_names_all_that_came_before() -> None:
    one = page_key(page_key(ROOT, (1, 1, 1, 1), []), TOKENS, [])
    another = page_key(page_key(ROOT, (2, 2, 2, 2), []), TOKENS, [])
    assert one != another


def test_tokens_may_be_as_large_as_vocabularies_become() -> None:
    assert page_key(ROOT, (2**40,), []) != page_key(ROOT, (2**40 + 1,), [])


# Keys of sequences.


def test_sequences_of_equal_tokens_have_equal_keys() -> None:
    assert sequence(range(8)).keys(2) == sequence(range(8)).keys(2)
    assert sequence(range(8)).keys(1) == sequence(range(4)).keys(1)


def test_pages_after_a_difference_all_have_other_keys() -> None:
    one, other = sequence([1, *range(11)]).keys(3), sequence([2, *range(11)]).keys(3)
    assert not set(one) & set(other)


def test_keys_are_the_same_however_they_are_asked_for() -> None:
    whole, piecemeal = sequence(range(12)), sequence(range(12))
    assert [piecemeal.keys(count) for count in (1, 3, 2)] == [
        whole.keys(3)[:count] for count in (1, 3, 2)
    ]


def test_key_of_a_page_that_is_not_full_does_not_exist() -> None:
    with pytest.raises(AssertionError, match="only full pages"):
        sequence(range(7)).keys(2)


def test_answers_get_keys_as_if_they_had_been_prompts() -> None:
    grown = sequence(range(6))
    grown.keys(1)
    grown.token_ids += [6, 7]
    assert grown.keys(2) == sequence(range(8)).keys(2)


def test_pages_of_two_pictures_never_collide_though_their_placeholders_are_equal() -> None:
    prompt = [7] + [IMAGE] * 11
    cat = sequence(prompt, [placement("cat", 1, 11)]).keys(3)
    dog = sequence(prompt, [placement("dog", 1, 11)]).keys(3)
    assert not set(cat) & set(dog)


def test_page_before_a_picture_is_shared_and_every_one_from_it_on_is_not() -> None:
    prompt = [7] * 5 + [IMAGE] * 2 + [7] * 5
    cat = sequence(prompt, [placement("cat", 5, 2)]).keys(3)
    dog = sequence(prompt, [placement("dog", 5, 2)]).keys(3)
    assert [one == other for one, other in zip(cat, dog, strict=True)] == [True, False, False]


@pytest.mark.parametrize("order", [("cat", "dog"), ("dog", "dog"), ("cat", "cat")])
def test_pictures_in_another_order_have_other_keys(order: tuple[str, str]) -> None:
    prompt = [IMAGE] * 8
    first, second = order
    one = sequence(prompt, [placement("dog", 0, 4), placement("cat", 4, 4)]).keys(2)
    other = sequence(prompt, [placement(first, 0, 4), placement(second, 4, 4)]).keys(2)
    assert one[1] != other[1]
    assert (one[0] == other[0]) == (first == "dog")


def test_picture_that_begins_elsewhere_in_equal_placeholders_has_other_keys() -> None:
    # Of eight placeholders, the second page shows other parts of the same picture.
    prompt = [IMAGE] * 8
    early = sequence(prompt, [placement("dog", 0, 2), placement("cat", 2, 6)]).keys(2)
    late = sequence(prompt, [placement("dog", 0, 3), placement("cat", 3, 5)]).keys(2)
    assert not set(early) & set(late)


def test_long_factors_give_other_keys() -> None:
    short, long = sequence(range(8)), sequence(range(8), is_long=True)
    assert not set(short.keys(2)) & set(long.keys(2))


def test_sequence_that_becomes_long_forgets_its_short_keys() -> None:
    turned = sequence(range(8))
    turned.keys(2)
    turned.restart(is_long=True)
    assert turned.keys(2) == sequence(range(8), is_long=True).keys(2)
