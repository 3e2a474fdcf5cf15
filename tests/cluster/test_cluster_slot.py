"""Who has a slot, by what nodes say: each case as Redis words it, and no connection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import redis
from redis.crc import key_slot
from redis.exceptions import NoPermissionError

from visionq.cluster_slot import ClusterSlot, read_view
from visionq.primaries import Place

A, B, C, D = (("node", port) for port in (1, 2, 3, 4))
SLOT = key_slot(b"visionq")
REFUSED = redis.ConnectionError("Connection refused")


def says(owner: Place, *others: Place, replica: Place | None = None, is_well: bool = True) -> Any:
    """Replies to CLUSTER INFO and SLOTS: the slot is the owner's, the next ones the others'."""
    replicas = [[*replica, "id", []]] if replica else []
    ranges: list[Any] = [[SLOT, SLOT, [*owner, "id", []], *replicas]]
    for number, other in enumerate(others):
        ranges.append([SLOT + 1 + number, SLOT + 1 + number, [*other, "id", []]])
    state = "ok" if is_well else "fail"
    return f"cluster_state:{state}\r\ncluster_slots_assigned:3\r\n".encode(), ranges


class Nodes:
    """What each node says now, or raises; and who was asked."""

    def __init__(self, replies: Mapping[Place, Any]) -> None:
        self.replies = dict(replies)
        self.asked: list[Place] = []

    def ask(self, place: Place) -> Any:
        self.asked.append(place)
        reply = self.replies.get(place, REFUSED)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def slot(self, *seeds: Place) -> ClusterSlot:
        return ClusterSlot(seeds, "visionq", self.ask)


def first(slot: ClusterSlot) -> Place | None:
    return next(slot.candidates())


def test_any_node_says_who_has_the_slot() -> None:
    nodes = Nodes({A: says(B, A, C)})
    assert first(nodes.slot(A)) == B
    assert nodes.asked == [A]


def test_the_next_seed_is_asked_when_one_is_down() -> None:
    assert first(Nodes({B: says(C, B)}).slot(A, B)) == C


def test_nodes_that_were_named_once_are_asked_when_all_seeds_are_down() -> None:
    nodes = Nodes({A: says(B, A, C, replica=D)})
    slot = nodes.slot(A)
    assert first(slot) == B
    nodes.replies = {D: says(D, A, C)}
    assert first(slot) == D


def test_seeds_are_asked_when_all_that_were_named_are_down() -> None:
    nodes = Nodes({A: says(B)})
    slot = nodes.slot(A, C)
    assert first(slot) == B
    nodes.replies = {C: says(D)}
    assert first(slot) == D


def test_the_one_that_answered_is_asked_again() -> None:
    nodes = Nodes({A: says(B, A, C), C: says(B, A, C)})
    slot = nodes.slot(D, C, A)
    for _ in range(3):
        assert first(slot) == B
    assert nodes.asked == [D, C, C, C]


def test_the_view_of_another_node_counts_when_the_owner_cannot_be_reached() -> None:
    nodes = Nodes({A: says(B, A, C, D), C: says(D, A, C), D: says(D, A, C)})
    assert list(nodes.slot(A).candidates()) == [B]
    assert list(nodes.slot(A, C).candidates()) == [B, D]


def test_a_node_that_is_cut_off_is_believed_last() -> None:
    """It still names the owner that it knew, perhaps itself."""
    nodes = Nodes({A: says(A, B, is_well=False), B: says(C, A, B)})
    assert list(nodes.slot(A, B).candidates()) == [C, A]
    nodes.replies.pop(B)
    assert list(nodes.slot(A, B).candidates()) == [A]


def test_an_owner_that_did_not_answer_is_not_named() -> None:
    """Each try could cost a time-out."""
    with pytest.raises(redis.ConnectionError, match=f"slot {SLOT}: Connection refused"):
        list(Nodes({B: says(A, B)}).slot(A, B).candidates())


def test_why_no_node_answers_is_said() -> None:
    with pytest.raises(redis.ConnectionError, match=f"slot {SLOT}: Connection refused"):
        first(Nodes({}).slot(A, B))


def test_a_slot_of_nobody_s_is_an_error() -> None:
    with pytest.raises(redis.ConnectionError, match="no node of the Redis Cluster leads to"):
        first(Nodes({A: (b"cluster_state:fail", [[SLOT + 1, 16383, [*B, "id", []]]])}).slot(A))


def test_whom_another_node_has_named_is_asked_first() -> None:
    nodes = Nodes({A: says(A, B), B: says(B, A)})
    slot = nodes.slot(A)
    assert first(slot) == A
    slot.moved_to(B)
    assert first(slot) == B


@pytest.mark.parametrize("host", [None, "", "?", b""])
def test_a_node_without_a_name_of_its_own_is_where_it_was_asked(host: Any) -> None:
    view = read_view(b"", [[0, 16383, [host, 6379, "id", []]]], SLOT, ("asked", 1))
    assert view.owner == ("asked", 6379)
    named = [[0, 16383, [host, 6379, b"id", [b"ip", b"10.0.0.1"]]]]
    assert read_view("", named, SLOT, ("asked", 1)).owner == ("10.0.0.1", 6379)


def test_a_redis_that_is_no_cluster_has_all_slots() -> None:
    nodes = Nodes({A: redis.ResponseError("This instance has cluster support disabled")})
    assert list(nodes.slot(A).candidates()) == [A]


def test_a_user_who_may_not_ask_is_told_what_to_allow() -> None:
    nodes = Nodes({A: NoPermissionError("this user has no permissions")})
    with pytest.raises(redis.ConnectionError, match=r"\+cluster\|slots"):
        first(nodes.slot(A))
