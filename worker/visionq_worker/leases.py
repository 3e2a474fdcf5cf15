"""The messages in this process's hands: claimed, held by leases, settled. Thread-safe.

A claim holds for `lease_seconds` by the clock of Redis and is renewed while the process is well; a
claim that was not renewed is found by any worker's `sweep`, and its message goes back into its
queue. Everything here goes over a connection of its own, which outlives the channel that has
delivered a message.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any, cast

from redis import Redis, RedisError
from redis.exceptions import ResponseError

from visionq.contract import CONTRACT_VERSION
from visionq.names import Names
from visionq.refusals import is_for_good
from visionq.scripts import evaluate
from visionq_worker import lease_scripts
from visionq_worker.clock_steps import ClockSteps
from visionq_worker.outage_log import OutageLog

log = logging.getLogger(__name__)

MAX_DEAD = 10_000
DEAD_TTL_SECONDS = 30 * 24 * 3600
MAX_SWEPT = 500
"""Claims looked at in one script: Redis does nothing else meanwhile."""


def claimed_at(claim: str) -> float:
    """When the claim was made, in seconds since the epoch by the clock of Redis."""
    return float(claim.rpartition("#")[2])


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep has found: messages given back, and the ids of tasks put aside."""

    num_back: int
    put_aside: tuple[str, ...]


class Leases:
    """One instance serves the whole process, across reconnects.

    What Redis does not hear of `ack`, `give_back`, `defer`, `strike` and `put_aside` is kept and
    said again by `retry`; until then the claim is held. The others raise redis-py's errors.
    """

    def __init__(
        self,
        client: Redis,
        names: Names,
        *,
        owner: str,
        lease_seconds: float,
        max_attempts: int,
        record_ttl_seconds: int,
    ) -> None:
        """`max_attempts`: workers that may be lost with a task before it is put aside."""
        self.lease_seconds = lease_seconds
        self._redis = client
        self._owner = owner
        self._max_attempts = max_attempts
        self._keys = (
            names.unacked(),
            names.unacked_index(),
            names.leases(),
            names.dead(),
            names.dead_messages(),
            names.dead_index(),
            names.open(),
            names.suspects(),
            names.draining(),
        )
        self._newer = names.newer("")
        self._args = (names.record(""), record_ttl_seconds, DEAD_TTL_SECONDS, MAX_DEAD)
        self._claim = client.register_script(lease_scripts.CLAIM)
        self._renew = client.register_script(lease_scripts.RENEW)
        self._ack = client.register_script(lease_scripts.ACK)
        self._ack_with_result = client.register_script(lease_scripts.ACK_WITH_RESULT)
        self._give_back = client.register_script(lease_scripts.GIVE_BACK)
        self._defer = client.register_script(lease_scripts.DEFER)
        self._put_aside = client.register_script(lease_scripts.PUT_ASIDE)
        self._sweep = client.register_script(lease_scripts.SWEEP)
        self._strike = client.register_script(lease_scripts.STRIKE)
        self._lock = threading.Lock()
        self._held: set[str] = set()
        # Those of them that this process is done with. Until the reply to a settling command has
        # come, nobody here knows whether Redis has carried it out: that such a claim is gone from
        # Redis says nothing about its lease.
        self._settling: set[str] = set()
        self._suspect: str | None = None
        self._unheard: deque[tuple[str, Callable[[], Any]]] = deque()
        self._outage = OutageLog(
            log,
            "settling messages",
            "it is tried again every second, and this worker holds them meanwhile; act if Redis"
            " does not come back by itself",
        )
        self._steps = ClockSteps()
        self._sweeps_from: float | None = None  # monotonic; None: to be found out
        self._is_claim_lost = False

    def claim_command(self, queues: Sequence[str]) -> tuple[Any, ...]:
        """The command whose reply is queue, message, claim and whether it is a suspect, or nothing.

        As words to send, because the channel waits for the reply in an event loop. `load_claim`
        has to be called when the reply is a `NoScriptError`; then the command is to be sent again.
        """
        keys = (*self._keys, *queues)
        # Redis takes whole seconds; a worker asks every second, if it can.
        seconds = max(2, round(self.lease_seconds))
        words = (*self._args, self._owner, len(self.held), seconds, self._newer, CONTRACT_VERSION)
        if self._is_claim_lost:
            self._is_claim_lost = False
            return ("EVAL", lease_scripts.CLAIM, len(keys), *keys, *words)
        return ("EVALSHA", self._claim.sha, len(keys), *keys, *words)

    def load_claim(self) -> None:
        """Have the next claim take its script along, for a Redis that has lost it.

        Not by SCRIPT LOAD, which a user of Redis may be denied who may run scripts.
        """
        self._is_claim_lost = True

    def took(self, claim: str, *, is_suspect: bool = False) -> None:
        """The claim was made for this process, which has to settle it."""
        with self._lock:
            self._held.add(claim)
            if is_suspect:
                self._suspect = claim

    @property
    def holds_suspect(self) -> bool:
        """Whether nothing else is to be claimed: what is in hand may take the process down."""
        with self._lock:
            return self._suspect in self._held

    @property
    def held(self) -> list[str]:
        with self._lock:
            return list(self._held)

    def ack(self, claim: str) -> None:
        """The message is done with. Nothing to do when it is settled already."""
        with self._lock:
            is_held = claim in self._held
        if is_held:
            words = (*self._keys[:3], claim)
            self._say(claim, partial(self._evaluate, self._ack, 3, words))

    def ack_with_result(self, claim: str, key: str, value: str, ttl_seconds: int) -> None:
        """The same, with Celery's result in one step. Raises redis-py's errors.

        A Redis that refuses the result has settled nothing either.
        """
        words = (*self._keys[:3], key, claim, value, ttl_seconds)
        self._settle(claim)
        self._evaluate(self._ack_with_result, 4, words)
        self._let_go(claim)

    def may_settle(self) -> bool:
        """Whether access rules let this worker settle messages. Changes nothing."""
        try:
            self._redis.hdel(self._keys[0], "no claim")
        except (RedisError, OSError) as error:
            return not is_for_good(error)
        return True

    def give_back(self, claim: str) -> None:
        """Put the message back, to be the next one taken from its queue."""
        self._say(claim, partial(self._run, self._give_back, claim))

    def defer(self, claim: str, version: int, task: str, options: str) -> None:
        """Leave the message to a worker that reads this version of the contract.

        `task`, `options`: what of it belongs in the record, as JSON, if there is none yet.
        """
        words = (self._newer, version, task, options)
        self._say(claim, partial(self._run, self._defer, claim, *words))

    def strike(self, claim: str, reason: str) -> None:
        """As `give_back`, after the worker broke down: it may have been the task's doing.

        At `max_attempts` such ends the task is put aside.
        """
        told = f"{self._max_attempts} workers broke down while they had it, the last because: "
        words = (self._max_attempts, told + reason[:300])
        self._say(claim, partial(self._run, self._strike, claim, *words))

    def put_aside(self, claim: str, reason: str, task_id: str = "") -> None:
        """The message cannot be run by anybody. With a task's id, the letter is found by it."""
        self._say(claim, partial(self._run, self._put_aside, claim, reason[:500], task_id))

    def retry(self) -> None:
        """Send again what Redis has not confirmed, until it does not answer.

        A Redis that is silent costs one time-out, and not one for each message.
        """
        for _ in range(len(self._unheard)):
            claim, command = self._unheard.popleft()
            if not self._say(claim, command):
                return

    def renew(self) -> list[str]:
        """Hold what is held for another `lease_seconds`. Returns the claims that are lost.

        Lost is what this process still works on and others may have by now. What was settled while
        the renewal was on its way, or is being settled, is not.
        """
        held = self.held
        try:
            gone = cast("list[str]", self._run(self._renew, *held)) if held else []
        except (RedisError, OSError):
            # Nobody could renew while Redis was away. Before others' claims are taken for
            # abandoned, their owners have the time to come back.
            self._sweeps_from = monotonic() + self.lease_seconds
            raise
        with self._lock:
            lost = [claim for claim in gone if claim in self._held - self._settling]
            self._held.difference_update(gone)
            self._settling.difference_update(gone)
        return lost

    def sweep(self) -> Swept:
        """Give back what other processes hold no longer."""
        if self._sweeps_from is None:
            # A Redis whose clock was set back may say that it was started in the future.
            uptime = max(0.0, self._uptime())
            self._sweeps_from = monotonic() + max(0.0, self.lease_seconds - uptime)
        if monotonic() < self._sweeps_from:
            return Swept(0, ())
        try:
            asked_at, latest = self._steps.asks()
            words = (MAX_SWEPT, "" if latest is None else f"{latest:.6f}")
            num_back, now, *aside = self._run(
                self._sweep, self.lease_seconds, self._max_attempts, *words
            )
            self._steps.saw(float(now), asked_at)
        except (RedisError, OSError):
            self._sweeps_from = monotonic() + self.lease_seconds
            raise
        return Swept(int(num_back), tuple(aside))

    def give_back_all(self) -> int:
        """Before the process ends without finishing: others take over at once."""
        held = self.held
        self._settle(*held)
        if held:
            self._run(self._give_back, *held)
        return len(held)

    def _uptime(self) -> float:
        """Seconds for which Redis has been up; 0, the worst, where it does not say.

        Common access rules (`-@dangerous`) forbid INFO, and a proxy may answer it in part.
        """
        try:
            return float(self._redis.info("server")["uptime_in_seconds"])
        except (ResponseError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, ResponseError) and not is_for_good(error):
                raise
            log.warning(
                "INFO does not say how long Redis has been up (%s): tasks of lost workers are "
                "given back from %g s from now on; nothing to do (+info in SECURITY.md's rules)",
                error,
                self.lease_seconds,
            )
            return 0.0

    def _say(self, claim: str, command: Callable[[], Any]) -> bool:
        """Whether Redis has answered, be it that it refuses."""
        self._settle(claim)
        try:
            command()
        except (RedisError, OSError) as error:
            self._outage.failed(error)
            self._unheard.append((claim, command))
            return isinstance(error, ResponseError)
        self._outage.worked()
        self._let_go(claim)
        return True

    def _settle(self, *claims: str) -> None:
        """What becomes of these is decided: Redis is about to be told."""
        with self._lock:
            self._settling |= self._held.intersection(claims)

    def _let_go(self, claim: str) -> None:
        with self._lock:
            self._held.discard(claim)
            self._settling.discard(claim)

    def _run(self, script: Any, *args: str | float) -> Any:
        return self._evaluate(script, len(self._keys), (*self._keys, *self._args, *args))

    def _evaluate(self, script: Any, num_keys: int, words: Sequence[str | float]) -> Any:
        return evaluate(self._redis, script, words[:num_keys], words[num_keys:])
