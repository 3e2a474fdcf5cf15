"""With a hash tag every name has the slot of the namespace, by redis-py's own count of slots."""

from __future__ import annotations

import pytest
from redis.crc import key_slot

from visionq.broker_urls import BrokerAddress
from visionq.errors import SettingsError
from visionq.names import Names
from visionq.settings import load_settings

TASK_ID = "4be5e5a8-6f1e-4c4b-9d43-0c2f8f1c7a55"
TAGGED = Names(hash_tag=True)


def all_names(names: Names) -> dict[str, str]:
    """What each method gives, by its name; with `kombu`'s endings of a queue's name, too."""
    own = {"lane": "bulk", "queue": "interactive", "known": "f00", "binding": names.queue("bulk")}
    found = {}
    for name in sorted(vars(Names)):
        method = getattr(names, name)
        if name.startswith("_") or not callable(method) or name == "share_slot_with":
            continue
        if name == "control_topic":
            found[name] = names.control_topic(0)
        elif name == "event_topic":
            found[name] = names.event_topic(0, "worker.heartbeat")
        else:
            arguments = method.__code__.co_argcount - 1
            found[name] = method(*[own.get(name, TASK_ID)] * arguments)
    found["line"] = f"{names.lane('bulk')}:line"
    found["priority"] = f"{names.queue('bulk')}\x06\x163"
    found["bindings of answers"] = names.binding(names.control_reply_exchange())
    return found


@pytest.mark.parametrize("namespace", ["visionq", "staging", "a.b-c"])
def test_every_name_has_the_slot_of_the_namespace(namespace: str) -> None:
    found = all_names(Names(namespace, hash_tag=True))
    assert len(found) > 25
    slots = {name: key_slot(text.encode()) for name, text in found.items()}
    assert set(slots.values()) == {key_slot(namespace.encode())}, slots


def test_two_namespaces_have_slots_of_their_own() -> None:
    first, second = (key_slot(Names(n, hash_tag=True).open().encode()) for n in ("one", "two"))
    assert first != second


def test_names_with_a_hash_tag_never_change() -> None:
    assert TAGGED.queue("interactive") == "{visionq}.interactive"
    assert TAGGED.record(TASK_ID) == f"{{visionq}}:task:{TASK_ID}"
    assert TAGGED.events(TASK_ID) == f"{{visionq}}:events:{TASK_ID}"
    assert TAGGED.celery_result(TASK_ID) == f"{{visionq}}:celery-task-meta-{TASK_ID}"
    assert TAGGED.control_exchange() == "{visionq}:celery"
    assert TAGGED.control_reply_queue(TASK_ID) == f"{TASK_ID}.reply.{{visionq}}:celery.pidbox"
    assert TAGGED.event_exchange() == "{visionq}:celeryev"
    assert TAGGED.binding(TAGGED.queue("bulk")) == "_kombu.binding.{visionq}.bulk"


def test_without_a_hash_tag_no_name_has_braces() -> None:
    assert not any(set("{}") & set(text) for text in all_names(Names()).values())


@pytest.mark.parametrize(
    ("key", "shares"),
    [
        ("{visionq}.archive", True),
        ("jobs.{visionq}.after", True),
        ("archive", False),
        ("visionq.archive", False),
        ("{other}.{visionq}", False),
        ("{}{visionq}", False),
        ("{visionq", False),
    ],
)
def test_a_queue_shares_the_slot_as_redis_has_it(key: str, shares: bool) -> None:
    assert TAGGED.share_slot_with(key) is shares
    assert (key_slot(key.encode()) == key_slot(b"visionq")) is shares
    assert not Names().share_slot_with(key)


def test_a_cluster_has_one_database() -> None:
    for url in ("redis://h:1", "redis://h:1/", "redis://h:1/0", "redis://h:1/00"):
        assert BrokerAddress(url, hash_tag=True).hash_tag
    for number in (1, 10):
        with pytest.raises(SettingsError, match="database 0"):
            BrokerAddress(f"redis://h:1/{number}", hash_tag=True)
        assert not BrokerAddress(f"redis://h:1/{number}").hash_tag


def test_the_settings_say_so_too() -> None:
    settings = load_settings(broker={"hash_tag": True, "namespace": "staging"})
    assert settings.broker.address().hash_tag
    assert settings.broker.names() == Names("staging", hash_tag=True)
    assert not load_settings().broker.address().hash_tag
    assert load_settings().broker.names() == Names()
    with pytest.raises(SettingsError, match="database 0"):
        load_settings(broker={"hash_tag": True, "url": "redis://h:1/2"})
    with pytest.raises(SettingsError, match="hash_tag"):
        BrokerAddress("redis://h:1/0", hash_tag="yes")  # type: ignore[arg-type]


def test_queues_for_canvases_have_to_share_the_slot() -> None:
    queues = {"canvas_queues": ["{visionq}.archive", "jobs.{visionq}"]}
    settings = load_settings(broker={"hash_tag": True}, worker=queues)
    assert settings.worker.canvas_queues == ("{visionq}.archive", "jobs.{visionq}")
    with pytest.raises(SettingsError, match=r"archive has another slot.*begin with \{visionq\}"):
        load_settings(broker={"hash_tag": True}, worker={"canvas_queues": ["archive"]})
    assert load_settings(worker={"canvas_queues": ["archive"]})


def test_several_nodes_may_be_named() -> None:
    address = BrokerAddress(
        "rediss://user:a,b%2F@h:1,[::1]:2,third/0?ssl_cert_reqs=none", hash_tag=True
    )
    assert address.server_urls == (
        "rediss://user:a,b%2F@h:1/0?ssl_cert_reqs=none",
        "rediss://user:a,b%2F@[::1]:2/0?ssl_cert_reqs=none",
        "rediss://user:a,b%2F@third/0?ssl_cert_reqs=none",
    )
    assert "a,b" not in repr(address)
    assert BrokerAddress("redis://h:1/0", hash_tag=True).server_urls == ("redis://h:1/0",)


@pytest.mark.parametrize("hosts", ["h:1,h:0", "h:1,h:x", "h:1,h:99999", ",..", "h:1/0,h:2"])
def test_each_of_them_is_looked_at(hosts: str) -> None:
    with pytest.raises(SettingsError, match="url is not redis://"):
        BrokerAddress(f"redis://{hosts}", hash_tag=True)


def test_only_a_cluster_has_several_nodes() -> None:
    with pytest.raises(SettingsError, match="url is not redis://"):
        BrokerAddress("redis://h:1,h:2/0")
    with pytest.raises(SettingsError, match="url is not"):
        BrokerAddress(None, hash_tag=True)  # type: ignore[arg-type]
