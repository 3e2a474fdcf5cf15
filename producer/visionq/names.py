"""Every name that leaves the process: queues, Redis keys and channels, object keys.

String building only. The names are part of the contract and are never derived from module paths,
so that moving code is no migration.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

TASK_NAME = "visionq.run"
"""The Celery task that runs one image task."""

DEFAULT_NAMESPACE = "visionq"
INPUT_FOLDER = "inputs"
RESULT_FOLDER = "results"
_HASH_TAG = re.compile(r"[^{]*\{([^}]+)\}", re.DOTALL)
"""Of a key: what stands between the first `{` and the next `}`."""
_INPUT_KEY = re.compile(rf"{INPUT_FOLDER}/([0-9a-f]{{64}})")


@dataclass(frozen=True, slots=True)
class Names:
    """Queue names and Redis keys under one namespace, so that environments can share a Redis.

    With `hash_tag` each of them contains `{<namespace>}`, the first braces in it: of such a key a
    Redis Cluster takes the slot from what stands between them, so all of them have the same one.
    """

    namespace: str = DEFAULT_NAMESPACE
    hash_tag: bool = False

    @property
    def prefix(self) -> str:
        """What the names of queues and of our own keys begin with."""
        return f"{{{self.namespace}}}" if self.hash_tag else self.namespace

    def share_slot_with(self, key: str) -> bool:
        """Whether a Redis Cluster keeps that key where it keeps these."""
        tag = _HASH_TAG.match(key)
        return tag is not None and self.hash_tag and tag[1] == self.namespace

    def queue(self, lane: str) -> str:
        return f"{self.prefix}.{lane}"

    def record(self, task_id: str) -> str:
        return f"{self.prefix}:task:{task_id}"

    def lane(self, lane: str) -> str:
        """The hash with the lane's two counters, `submitted` and `started`."""
        return f"{self.prefix}:lane:{lane}"

    def events(self, task_id: str) -> str:
        """The channel on which a task's changes are announced."""
        return f"{self.prefix}:events:{task_id}"

    def open(self) -> str:
        """The sorted set of tasks that have not ended, by when to look at them next."""
        return f"{self.prefix}:open"

    def clock(self) -> str:
        """When open tasks were last looked at, and by how much Redis's clock was set back then."""
        return f"{self.prefix}:clock"

    def replicated(self) -> str:
        """Written before replicas are asked what they have; holds nothing."""
        return f"{self.prefix}:replicated"

    def known(self, work_key: str) -> str:
        """Holds the id of the task that was last answered for this work."""
        return f"{self.prefix}:known:{work_key}"

    def unacked(self) -> str:
        """The hash of messages that a worker has taken and not settled, by claim."""
        return f"{self.prefix}:unacked"

    def unacked_index(self) -> str:
        """The sorted set of those claims, by the time they were made or last renewed."""
        return f"{self.prefix}:unacked-index"

    def leases(self) -> str:
        """The hash that says of each claim who made it, from which queue, and of which task."""
        return f"{self.prefix}:leases"

    def suspects(self) -> str:
        """The list of messages that workers were lost with, each to be run with no other beside."""
        return f"{self.prefix}:suspects"

    def draining(self) -> str:
        """Names the worker that makes itself empty for the suspects."""
        return f"{self.prefix}:draining"

    def write_check(self) -> str:
        """What workers write to find out whether Redis takes writes."""
        return f"{self.prefix}:write-check"

    def workers(self) -> str:
        """The hash of what each worker tells of itself."""
        return f"{self.prefix}:workers"

    def newer(self, version_and_queue: str) -> str:
        """The sorted set of tasks that need this contract version, by when a worker found them.

        Workers that do not read it leave the messages that they took from the queue in the hash
        beside it. "<version>:absent" says since when no worker is alive that reads it.
        """
        return f"{self.prefix}:newer:{version_and_queue}"

    def dead(self) -> str:
        """The hash that says of each message that nobody will run why that is."""
        return f"{self.prefix}:dead"

    def dead_messages(self) -> str:
        """The hash of those messages themselves, byte for byte."""
        return f"{self.prefix}:dead-messages"

    def dead_index(self) -> str:
        """The sorted set of those, by the time they were put aside."""
        return f"{self.prefix}:dead-index"

    def cancelled(self) -> str:
        """The sorted set of ids that were cancelled while nobody knew them, by when that was."""
        return f"{self.prefix}:cancelled"

    def celery_prefix(self) -> str:
        """What stands before Celery's own names: nothing in the default namespace.

        There, Celery's tools and applications need no settings; of any other one, and of a hash
        tag, they are told by `result_backend_transport_options.global_keyprefix`,
        `control_exchange` and `event_exchange`.
        """
        is_plain = self.namespace == DEFAULT_NAMESPACE and not self.hash_tag
        return "" if is_plain else f"{self.prefix}:"

    def celery_result(self, task_id: str) -> str:
        """Celery's own result of a task, and the channel on which it is announced."""
        return f"{self.celery_prefix()}celery-task-meta-{task_id}"

    def binding(self, exchange: str) -> str:
        """The set in which kombu notes the queues of an exchange, such as a queue's own one."""
        return f"_kombu.binding.{exchange}"

    def control_exchange(self) -> str:
        """Where Celery's applications send control commands, such as revoke."""
        return f"{self.celery_prefix()}celery"

    def control_topic(self, database: int) -> str:
        """The channel on which control commands are published, as kombu names it."""
        return f"/{database}.{self.control_exchange()}.pidbox"

    def control_reply_exchange(self) -> str:
        """Where the answers to control commands go."""
        return f"reply.{self.control_exchange()}.pidbox"

    def control_reply_queue(self, routing_key: str) -> str:
        """The list in which one who has asked waits for answers."""
        return f"{routing_key}.{self.control_reply_exchange()}"

    def event_exchange(self) -> str:
        """Where workers send Celery's events, such as their heartbeats."""
        return f"{self.celery_prefix()}celeryev"

    def event_topic(self, database: int, routing_key: str) -> str:
        """The channel on which events of one sort are published, as kombu names it."""
        return f"/{database}.{self.event_exchange()}/{routing_key}"


def input_key(content: bytes) -> str:
    """The content-addressed key of an uploaded image: equal bytes share one object."""
    return f"{INPUT_FOLDER}/{hashlib.sha256(content).hexdigest()}"


def input_digest(key: str) -> str | None:
    """The SHA-256 that the object of such a key has to have; None of any other key."""
    match = _INPUT_KEY.fullmatch(key)
    return match[1] if match else None


def result_key(task_id: str) -> str:
    """Where a task's result will be; known before the task has run."""
    return f"{RESULT_FOLDER}/{task_id}.json"
