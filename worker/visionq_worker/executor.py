"""One task from start to finish: fetch, prepare, generate, parse, store, report.

The order at the end is the promise: first the result object, then the record, and only when
`execute` has returned does the queue's message go. Nothing here knows Celery.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from threading import BoundedSemaphore
from time import monotonic, perf_counter, sleep
from typing import NoReturn

from visionq.contract import (
    Failure,
    FailureCode,
    Result,
    State,
    Task,
    dump_result,
    read_result,
)
from visionq.errors import BrokerUnavailable, InvalidTask, ObjectMissing, StorageError
from visionq.kinds import Kind, find_kind
from visionq.names import result_key
from visionq.objects import ObjectStore
from visionq.records import Attempt, Records
from visionq_worker.engine.errors import (
    EngineBroken,
    EngineClosed,
    EngineError,
    RequestTooLong,
)
from visionq_worker.engine.request import Engine, Handle, Request
from visionq_worker.errors import Postponed, TaskError
from visionq_worker.gate import StoreGate
from visionq_worker.images import ImageLimits, decode
from visionq_worker.kinds import render
from visionq_worker.model.errors import ImageShapeError, InputError
from visionq_worker.outputs import parse
from visionq_worker.results import Maker, Run, answer, failure, reused
from visionq_worker.sharing import Flight, Flights, work_key
from visionq_worker.sources import Sources
from visionq_worker.verdict import judge

log = logging.getLogger(__name__)

OWNED_EVERY = 6
"""Of so many tries to store a result, one first asks whether the task is still ours."""
LONGEST_PAUSE = 12
"""Pauses of a postponed task double up to so many `retry_seconds`."""
REPORT_TRIES = 12
"""How often a finished task is reported to a Redis that does not answer, `retry_seconds` apart."""


class _TakenOver(Exception):
    """Another attempt owns the task, or has ended it: nothing of this one may be stored."""


class Executor:
    """Runs tasks. One instance serves all threads of a worker; it keeps no state of a task."""

    def __init__(
        self,
        *,
        engine: Engine,
        records: Records,
        store: ObjectStore,
        sources: Sources,
        kinds: Mapping[str, Kind],
        limits: ImageLimits,
        owner: str,
        versions: Mapping[str, str],
        progress_seconds: float,
        retry_seconds: float,
        max_preparing: int,
        store_gate: StoreGate,
        keeps_results: bool = False,
        reuses: bool = True,
    ) -> None:
        """`max_preparing`: how many tasks may decode and resize images at the same time.

        `keeps_results`: the store honours `put_new`. `reuses`: identical tasks share one
        generation, unless they say otherwise.
        """
        self._engine = engine
        self._records = records
        self._store = store
        self._sources = sources
        self._kinds = kinds
        self._limits = limits
        self._maker = Maker(engine=engine.info, versions=versions, worker=owner)
        self._progress_seconds = progress_seconds
        self._retry_seconds = retry_seconds
        # Pixels of decoded images are what takes memory, and more threads than cores gain nothing.
        self._preparing = BoundedSemaphore(max_preparing)
        self._store_gate = store_gate
        self._keeps_results = keeps_results
        self._reuses = reuses
        self._flights = Flights()

    def execute(self, task: Task) -> Result | State:
        """Answer the task and commit the result; its state when another attempt's word counts.

        Raises `Postponed` when the task has to go back into the queue through no fault of its own.
        """
        attempt = self._start(task)
        if attempt.state.is_final:
            return attempt.state
        run = Run(task=task, attempt=attempt)
        try:
            if left := self._left_by_another(run):
                return left if self._report(run, left) else self._give_way(run)
            result = self._answer(run)
        except _TakenOver:
            return self._give_way(run)
        except Postponed:
            raise
        except TaskError as error:
            log.info("task %s cannot be answered: %s (%r)", task.id, error.code, error.__cause__)
            result = failure(run, self._maker, error)
        except StorageError as error:
            raise self._store_is_away(run, error) from error
        except Exception as error:  # the task boundary: whatever it is, it must not kill the worker
            log.exception("task %s failed for a reason nobody foresaw", task.id)
            result = failure(run, self._maker, _internal(error))
        return self._commit(run, result) or self._give_way(run)

    def refuse(self, task_id: str, error: InvalidTask) -> Result | State:
        """Commit the failure of a message that carries no readable task."""
        stub = Task(id=task_id, kind="invalid", images=())
        return self.end(stub, TaskError(FailureCode(error.code), str(error)))

    def end(self, task: Task, error: TaskError) -> Result | State:
        """Commit the failure of a task that is not to be run."""
        attempt = self._start(task)
        if attempt.state.is_final:
            return attempt.state
        run = Run(task=task, attempt=attempt)
        result = failure(run, self._maker, error)
        return self._commit(run, result) or self._give_way(run)

    def write_revoked(self, task: Task, now: float) -> None:
        """Store the result of a task that was cancelled before it was started."""
        attempt = Attempt(state=State.REVOKED, number=0, fence=0, now=now, submitted_at=now)
        error = TaskError(FailureCode.REVOKED, "cancelled before it was started")
        result = failure(Run(task=task, attempt=attempt), self._maker, error)
        if not self._store.exists(task.result_key):
            self._store.put(task.result_key, dump_result(result), "application/json")

    def stored_result(self, task_id: str) -> Result:
        """What a finished task has left in the store. Raises `StorageError`."""
        return read_result(self._store.get(result_key(task_id)))

    def _start(self, task: Task) -> Attempt:
        kind = self._kinds.get(task.kind)
        max_new_tokens = task.options.max_new_tokens or (kind.max_new_tokens if kind else 0)
        try:
            return self._records.start(
                task, owner=self._maker.worker, max_new_tokens=max_new_tokens
            )
        except BrokerUnavailable as error:
            raise Postponed(str(error)) from error

    def _answer(self, run: Run) -> Result:
        self._check(run)
        self._fetch(run)
        assert run.kind is not None
        run.prompt = render(run.task, run.kind)
        key = work_key(run, self._engine.info) if self._reuses else None
        if known := self._known(run, key):
            return known
        self._generate(run, key)
        result = self._parse(run)
        run.work_key = key
        return result

    def _known(self, run: Run, key: str | None) -> Result | None:
        """The answer of an earlier task that asked the same, as this one's."""
        if key is None:
            return None
        try:
            task_id = self._records.recall(key)
            earlier = read_result(self._store.get(result_key(task_id))) if task_id else None
        except (BrokerUnavailable, StorageError, InvalidTask):
            return None  # nothing is lost but time
        if earlier is None or earlier.state is not State.SUCCESS:
            return None
        return reused(run, self._maker, earlier)

    def _left_by_another(self, run: Run) -> Result | None:
        """The result of an attempt that stored it and died before it was reported."""
        if run.attempt.number == 1:
            return None
        if left := self._stored_before(run):
            log.info("task %s was answered by an earlier attempt", run.task.id)
            run.seconds["store"] = 0.0
        return left

    def _stored_before(self, run: Run) -> Result | None:
        """The task's result object, unless it is the failure of a dead letter that is replayed."""
        try:
            stored = read_result(self._store.get(run.task.result_key))
        except (ObjectMissing, InvalidTask):
            return None
        code = stored.failure.code if stored.failure else None
        return None if code == FailureCode.WORKER_LOST else stored

    def _check(self, run: Run) -> None:
        """What other senders than our own client may have got wrong."""
        task = run.task
        run.seconds["queue"] = max(0.0, run.attempt.now - run.attempt.submitted_at)
        if run.is_overdue():
            raise TaskError(FailureCode.EXPIRED, "the deadline passed before the task was started")
        if task.options.schema is not None or task.notify is not None:
            raise TaskError(FailureCode.UNSUPPORTED_OPTION, "schema and notify are not carried out")
        try:
            run.kind = find_kind(self._kinds, task.kind)
            run.kind.check(task.kind, len(task.images), task.question)
        except InvalidTask as error:
            raise TaskError(FailureCode(error.code), str(error)) from error

    def _fetch(self, run: Run) -> None:
        began = perf_counter()
        run.sources = tuple(self._sources.fetch(image) for image in run.task.images)
        run.seconds["fetch"] = perf_counter() - began

    def _generate(self, run: Run, key: str | None) -> None:
        """Alone, or on the request of another task that asks the same at this moment."""
        while run.completion is None:
            flight, is_first = self._flights.board(key)
            try:
                if is_first:
                    self._prepare(run)
                    assert run.inputs is not None
                    flight.take_off(run.inputs, self._submit(run, has_deadline=key is None))
                if flight.has_taken_off():
                    self._ride(run, key, flight)
            finally:
                self._flights.leave(key, flight)

    def _prepare(self, run: Run) -> None:
        assert run.prompt is not None
        began = perf_counter()
        try:
            with self._preparing:
                images = [decode(source.content, self._limits) for source in run.sources]
                run.inputs = self._engine.encode(run.prompt.text, images, run.prompt.num_crops)
        except ImageShapeError as error:
            raise TaskError(FailureCode.IMAGE_SHAPE, str(error)) from error
        except InputError as error:
            raise TaskError(FailureCode.PROMPT_TAGS, str(error)) from error
        run.seconds["prepare"] = perf_counter() - began

    def _submit(self, run: Run, *, has_deadline: bool) -> Handle:
        assert run.inputs is not None
        options = run.task.options
        request = Request(
            inputs=run.inputs,
            max_new_tokens=self._fitting_tokens(run),
            temperature=options.temperature,
            top_p=options.top_p,
            seed=options.seed,
            # Riders may have different ones, and each looks at its own.
            deadline=run.deadline() if has_deadline else None,
        )
        with self._engine_errors(run):
            return self._engine.submit(request)

    def _ride(self, run: Run, key: str | None, flight: Flight) -> None:
        """Wait for the completion. None is left when the others, and not this one, gave it up."""
        assert flight.handle is not None
        run.inputs = flight.inputs
        is_ours_to_end = self._attend(run, key, flight)
        with self._engine_errors(run):
            completion = flight.handle.result()
        if completion.finish_reason == "cancelled" and not is_ours_to_end:
            return
        if completion.finish_reason == "cancelled" and run.is_overdue():
            completion = replace(completion, finish_reason="expired")
        run.completion = completion

    @contextmanager
    def _engine_errors(self, run: Run) -> Iterator[None]:
        """The engine's errors as the task's."""
        try:
            yield
        except RequestTooLong as error:
            raise TaskError(FailureCode.PROMPT_TOO_LONG, str(error)) from error
        except EngineClosed as error:
            code, message = FailureCode.MODEL_ERROR, "waiting for another worker"
            raise self._postponed(run, error, code, message) from error
        except EngineBroken as error:
            raise self._struck(run, error) from error
        except EngineError as error:
            raise TaskError(
                FailureCode.MODEL_ERROR, str(error), retryable=error.is_transient
            ) from error

    def _fitting_tokens(self, run: Run) -> int:
        """How much may be generated; what the task itself asked for must fit."""
        assert run.inputs is not None
        assert run.prompt is not None
        context = self._engine.info.max_context_tokens
        left = context - run.inputs.num_tokens
        wanted = run.prompt.max_new_tokens
        if left < 1 or (run.prompt.is_max_chosen and wanted > left):
            message = (
                f"prompt and images take {run.inputs.num_tokens} tokens; with {wanted} new ones "
                f"they do not fit into {context}"
            )
            raise TaskError(FailureCode.PROMPT_TOO_LONG, message)
        return min(wanted, left)

    def _attend(self, run: Run, key: str | None, flight: Flight) -> bool:
        """Wait for the engine; meanwhile report tokens, and look for a cancel or the deadline.

        Whether this task has ended the request before its time. Raises `_TakenOver`, once the
        engine has let go, and `TaskError` for a task that leaves the request to the others.
        """
        handle = flight.handle
        assert handle is not None
        answer = "run"
        while not handle.wait(self._until_next_look(run)):
            if answer in ("run", "cancel"):
                answer = self._tell_progress(run, handle.num_tokens)
            if answer == "run" and run.is_overdue():
                answer = "expire"
            if answer == "run":
                continue
            if not self._flights.is_alone(key, flight):
                self._get_off(answer, handle.num_tokens)
            handle.cancel()
        if answer == "lost":
            raise _TakenOver
        return answer != "run"

    def _until_next_look(self, run: Run) -> float:
        deadline = run.deadline()
        if deadline is None:
            return self._progress_seconds
        return min(self._progress_seconds, max(0.001, deadline - monotonic()))

    def _get_off(self, answer: str, num_tokens: int) -> NoReturn:
        """The others go on; for this task it is over."""
        if answer == "lost":
            raise _TakenOver
        code = FailureCode.REVOKED if answer == "cancel" else FailureCode.EXPIRED
        raise TaskError(code, f"ended after {num_tokens} tokens")

    def _tell_progress(self, run: Run, num_tokens: int) -> str:
        fence = run.attempt.fence
        try:
            return self._records.progress(run.task.id, fence=fence, generated_tokens=num_tokens)
        except BrokerUnavailable:
            return "run"  # progress is a courtesy; the result will be reported until it is heard

    def _parse(self, run: Run) -> Result:
        completion, kind = run.completion, run.kind
        assert completion is not None
        assert kind is not None
        reason = completion.finish_reason
        ended = f"ended after {len(completion.token_ids)} tokens"
        if reason == "cancelled":
            raise TaskError(FailureCode.REVOKED, ended)
        if reason == "expired":
            raise TaskError(FailureCode.EXPIRED, ended)
        text = self._engine.decode(completion.token_ids).strip()
        value = parse(text, kind.parser)
        verdict = judge(text, value, finish_reason=reason, parser=kind.parser)
        return answer(run, self._maker, text=text, value=value, verdict=verdict)

    def _commit(self, run: Run, result: Result) -> Result | None:
        """Store and report. Returns what is stored now, None when the task was taken over."""
        began = perf_counter()
        if run.has_lasted(self._progress_seconds) and self._is_lost(run):
            return None
        stored = self._put(run, result)
        run.seconds["store"] = perf_counter() - began
        if stored is None or not self._report(run, stored):
            return None
        self._remember(run)
        _log_finished(run, stored)
        return stored

    def _remember(self, run: Run) -> None:
        if run.work_key is None:
            return
        try:
            self._records.remember(run.work_key, run.task.id)
        except BrokerUnavailable:
            log.info("task %s cannot be reused: Redis did not answer", run.task.id)

    def _is_lost(self, run: Run) -> bool:
        """Whether another attempt owns the task: its object must not be overwritten by ours.

        Asked only of a task that has taken long enough for that to have happened.
        """
        num_tokens = len(run.completion.token_ids) if run.completion else 0
        return self._tell_progress(run, num_tokens) == "lost"

    def _put(self, run: Run, result: Result) -> Result | None:
        """Store the result, through an outage if need be: the answer has cost GPU time.

        Returns what is stored then, which is another attempt's if that was first; None when
        another attempt owns the task by then.
        """
        content = dump_result(result)
        for number in count(1):
            try:
                return self._put_once(run, result, content)
            except StorageError as error:
                self._store_gate.shut()
                log.warning("task %s cannot be stored yet: %s", run.task.id, error)
                sleep(self._retry_seconds)
                if number % OWNED_EVERY == 0 and self._is_lost(run):
                    return None
        raise AssertionError("there is always another try")

    def _put_once(self, run: Run, result: Result, content: bytes) -> Result:
        key, content_type = run.task.result_key, "application/json"
        if not self._keeps_results:
            self._store.put(key, content, content_type)
        elif not self._store.put_new(key, content, content_type):
            # Perhaps our own, of a try whose reply was lost.
            if left := self._stored_before(run):
                return left
            self._store.put(key, content, content_type)
        return result

    def _report(self, run: Run, result: Result) -> bool:
        """Bring the record to its end, through an outage of Redis if need be."""
        more = {"store": f"{run.seconds['store']:.6f}"}
        if result.usage is not None:
            more["tokens"] = str(result.usage.completion_tokens)
        if result.failure is not None:
            more |= _failure_fields(result.failure)
        for _ in range(REPORT_TRIES):
            try:
                return self._records.move(
                    run.task.id, result.state, fence=run.attempt.fence, **more
                ) or self._is_heard(run, result)
            except BrokerUnavailable as error:
                log.warning("task %s is stored but cannot be reported: %s", run.task.id, error)
                sleep(self._retry_seconds)
        raise Postponed("the result is stored; Redis did not answer")

    def _is_heard(self, run: Run, result: Result) -> bool:
        """Whether an earlier try got through, and only its reply was lost."""
        held = self._records.status(run.task.id)
        return held.attempt == run.attempt.number and held.state is result.state

    def _give_way(self, run: Run) -> State:
        """The state of a task that another attempt owns, or has ended."""
        try:
            state = self._records.status(run.task.id).state
        except BrokerUnavailable as error:
            raise Postponed(str(error)) from error
        if state is State.UNKNOWN:
            raise Postponed("the record is gone; the task starts anew")
        log.warning("task %s was taken over by another attempt", run.task.id)
        return state

    def _store_is_away(self, run: Run, error: StorageError) -> Postponed:
        self._store_gate.shut()
        code, message = FailureCode.STORAGE_UNAVAILABLE, "waiting for the object store"
        return self._postponed(run, error, code, message)

    def _postponed(self, run: Run, error: Exception, code: FailureCode, message: str) -> Postponed:
        log.warning("task %s is postponed: %s", run.task.id, error)
        try:
            self._records.postpone(
                run.task.id,
                Failure(code=str(code), message=message, retryable=True),
                fence=run.attempt.fence,
                first_seconds=self._retry_seconds,
                longest_seconds=self._retry_seconds * LONGEST_PAUSE,
            )
        except BrokerUnavailable:
            log.warning("task %s: the record could not be set to RETRY", run.task.id)
            return Postponed(str(error))
        # Refused or not, the record knows what becomes of the task, and the message is in the way.
        return Postponed(str(error), is_noted=True)

    def _struck(self, run: Run, error: EngineBroken) -> Postponed:
        """The engine may have broken on this task: its message goes back, and that is counted."""
        log.warning("task %s is given back: %s", run.task.id, error)
        message = "waiting for a worker whose device works"
        reason = Failure(code=str(FailureCode.MODEL_ERROR), message=message, retryable=True)
        try:
            self._records.move(
                run.task.id, State.RETRY, fence=run.attempt.fence, **_failure_fields(reason)
            )
        except BrokerUnavailable:
            log.warning("task %s: the record could not be set to RETRY", run.task.id)
        return Postponed(str(error), is_strike=True)


def _failure_fields(reason: Failure) -> dict[str, str]:
    return {
        "code": reason.code,
        "message": reason.message,
        "retryable": "1" if reason.retryable else "0",
    }


def _internal(error: Exception) -> TaskError:
    unforeseen = TaskError(FailureCode.INTERNAL, "the worker failed on this task", retryable=True)
    unforeseen.__cause__ = error
    return unforeseen


def _log_finished(run: Run, result: Result) -> None:
    seconds = monotonic() - run.started
    tokens = result.usage.completion_tokens if result.usage else 0
    log.info(
        "task %s %s %s in %.3f s, %d tokens",
        run.task.id,
        run.task.kind,
        result.state,
        seconds,
        tokens,
        extra={
            "task_id": run.task.id,
            "kind": run.task.kind,
            "state": str(result.state),
            "code": result.failure.code if result.failure else None,
            "seconds": seconds,
            "completion_tokens": tokens,
        },
    )
