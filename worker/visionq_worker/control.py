"""Celery's control channel as far as it is safe: cancelling tasks, and questions about the worker.

Celery's own panel is off: it can stop the worker, change what it consumes and acknowledge messages
behind their records' backs, and a message that it cannot unpack ends the worker. Here a thread with
connections of its own listens. `revoke` is our cancel. Questions are answered without the arguments
of tasks and without settings that may hold a secret (`inspection`). What else Celery knows is
refused by its name.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

from redis import ConnectionError as RedisConnectionError
from redis import Redis, RedisError

from visionq.contract import is_task_id
from visionq.errors import BrokerUnavailable
from visionq.names import Names
from visionq.refusals import ADVICE, is_for_good
from visionq_worker.control_messages import BadCommand, Command, read_command, write_reply
from visionq_worker.outage_log import OutageLog

log = logging.getLogger(__name__)

TURN_SECONDS = 1.0
"""How long one wait for a message lasts, and so how long the thread takes to stop."""
PING_SECONDS = 10.0
"""After such a silence the connection is asked whether it lives, and after two it is replaced."""
PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
"""Between tries to subscribe."""
REPLY_TTL_SECONDS = 60
"""Of a reply that nobody fetches."""
MAX_IDS = 1000
"""Of one revoke: each is a round trip, and others wait for their answers meanwhile."""
MAX_LOGGED_IDS = 20
SEND_AGAIN = "; send the command again"
"""For what may pass."""

Answer = Callable[[Mapping[str, Any]], object]


class Refused(Exception):
    """A command that is not carried out; the text is the answer."""


class ControlChannel:
    """Listens between `start` and `stop`. Nothing that is sent to it ends the worker.

    `answers`: what each command that is carried out says; they run in this channel's thread.
    """

    def __init__(
        self, client: Redis, names: Names, *, node: str, answers: Mapping[str, Answer]
    ) -> None:
        """`client` gives bytes, and is closed at the end. `node`: the worker's name in Celery."""
        self._redis = client
        self._names = names
        self._node = node
        self._answers = answers
        self._topic = names.control_topic(client.connection_pool.connection_kwargs.get("db") or 0)
        self._outage = OutageLog(
            log,
            "listening to Celery's control commands",
            f"it is tried again within {LONGEST_PAUSE_SECONDS:g} s, tasks go on, and commands sent"
            " meanwhile are lost; act if Redis does not come back by itself",
            quiet_seconds=0.0,
        )
        self._is_forbidden = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """The thread ends with its current wait, and is not waited for."""
        self._stopping.set()

    def _run(self) -> None:
        # Only here: redis-py does not bear that a connection is closed under a reader.
        with contextlib.closing(self._redis):
            self._listen_on()

    def _listen_on(self) -> None:
        pause = PAUSE_SECONDS
        while not self._stopping.is_set():
            began = monotonic()
            try:
                with contextlib.closing(self._subscription()) as subscription:
                    subscription.subscribe(self._topic)
                    self._outage.worked()
                    self._listen(subscription)
            except (RedisError, OSError) as error:
                if self._stopping.is_set():
                    return
                if is_for_good(error):
                    self._wait_until_allowed(error)
                    continue
                if monotonic() - began > LONGEST_PAUSE_SECONDS:
                    pause = PAUSE_SECONDS
                self._outage.failed(error)
                self._stopping.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _wait_until_allowed(self, error: Exception) -> None:
        """Somebody may change the access rules; until then one line in the log is enough."""
        if not self._is_forbidden:
            log.error("Celery's control commands are not taken: %s; %s", error, ADVICE)
        self._is_forbidden = True
        self._stopping.wait(LONGEST_PAUSE_SECONDS)

    def _subscription(self) -> Any:
        return self._redis.pubsub()  # type: ignore[no-untyped-call]

    def _listen(self, subscription: Any) -> None:
        """Until told to stop, or until another server is the primary."""
        heard_at, is_asked = monotonic(), False
        while not self._stopping.is_set() and not subscription.connection.is_outdated:
            message = subscription.get_message(timeout=TURN_SECONDS)
            if message is not None:
                heard_at, is_asked = monotonic(), False
                self._is_forbidden = False
                if message["type"] == "message":
                    self.handle(message["data"])
            elif monotonic() - heard_at > 2 * PING_SECONDS:
                raise RedisConnectionError("it is silent")
            elif monotonic() - heard_at > PING_SECONDS and not is_asked:
                subscription.ping()
                is_asked = True

    def handle(self, data: bytes) -> None:
        """Carry out what a message says, and answer. Raises nothing."""
        try:
            command = read_command(data, self._node, self._names)
            if command is not None:
                self._reply(command, self._carried_out(command))
        except BadCommand as error:
            log.warning(
                "a message on Celery's control channel is no command: %s; it is ignored: find out"
                " who sends it if it happens again and again",
                error,
            )
        except Exception:
            log.exception(
                "unexpected error over a message on Celery's control channel; it is ignored, and"
                " tasks go on: report this as a bug"
            )

    def _carried_out(self, command: Command) -> object:
        answer = self._answers.get(command.method)
        try:
            if answer is None:
                raise Refused(f"visionq refuses the control command {command.method[:80]!r}")
            return answer(command.arguments)
        except Refused as error:
            log.warning(
                "a control command is not carried out: %s; whoever sent it is told: nothing to do",
                error,
            )
            return {"error": str(error)}
        except (BrokerUnavailable, RedisError, OSError) as error:
            log.warning(
                "the control command %s failed: %s; whoever sent it is told: nothing to do",
                command.method,
                error,
            )
            reason = error.__cause__ if isinstance(error, BrokerUnavailable) else error
            advice = "" if isinstance(reason, Exception) and is_for_good(reason) else SEND_AGAIN
            return {"error": f"Redis cannot be reached, or refuses{advice}"}

    def _reply(self, command: Command, answer: object) -> None:
        if command.reply_queue is None:
            return
        with self._redis.pipeline() as pipe:
            pipe.lpush(command.reply_queue, write_reply(command, self._node, answer, self._names))
            pipe.expire(command.reply_queue, REPLY_TTL_SECONDS)
            pipe.execute()


def revoking(cancel: Callable[[str], object]) -> Answer:
    """The answer to `revoke`, of one id or many: our cancel of each.

    `terminate` and `signal` change nothing: a running task leaves the engine between two tokens,
    and no thread is killed.
    """

    def revoke(arguments: Mapping[str, Any]) -> object:
        given = arguments.get("task_id")
        ids = given if isinstance(given, list) else [given]
        if len(ids) > MAX_IDS:
            raise Refused(f"{len(ids)} ids at once, {MAX_IDS} are allowed")
        right = [one for one in ids if isinstance(one, str) and is_task_id(one)]
        for task_id in dict.fromkeys(right):
            cancel(task_id)
        log.info("Celery's revoke of %d tasks: %s", len(right), ", ".join(right[:MAX_LOGGED_IDS]))
        if len(right) < len(ids):
            raise Refused(f"{len(ids) - len(right)} of {len(ids)} ids are no lower-case UUIDs")
        return {"ok": f"cancel of {len(ids)} tasks noted"}

    return revoke
