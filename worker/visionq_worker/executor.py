"""One task from start to finish: fetch, prepare, generate, parse; and its end (`commits`).

The order at the end is the promise: first the result object, then the record, and only when
`execute` has returned does the queue's message go. Nothing here knows Celery.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from time import perf_counter

from visionq.contract import FailureCode, Result, State, Task, Try, Verdict
from visionq.errors import BrokerUnavailable, InvalidTask, StorageError
from visionq.kinds import Kind, find_kind
from visionq.objects import ObjectStore
from visionq.records import Attempt, Records
from visionq.stored_results import stored_result
from visionq_worker.commits import Commits
from visionq_worker.documents import read_document
from visionq_worker.engine.request import Engine
from visionq_worker.errors import Postponed, TakenOver, TaskError
from visionq_worker.gate import StoreGate
from visionq_worker.generation import Generation
from visionq_worker.kinds import render
from visionq_worker.outputs import parse
from visionq_worker.postponing import Postponing
from visionq_worker.preparation import Preparation
from visionq_worker.results import (
    Maker,
    Run,
    Sampling,
    answer,
    as_try,
    begin_try,
    failure,
    how_to_try,
    reused,
    says_the_same,
)
from visionq_worker.sharing import work_key
from visionq_worker.sources import Sources
from visionq_worker.verdict import is_better, is_worth_another_try, judge, with_input_reasons

log = logging.getLogger(__name__)

STUB_KIND = "invalid"
"""Of a task that nobody could read, so that its failure has a record and a result."""


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
        preparation: Preparation,
        owner: str,
        versions: Mapping[str, str],
        progress_seconds: float,
        retry_seconds: float,
        store_gate: StoreGate,
        keeps_results: bool = False,
        reuses: bool = True,
    ) -> None:
        """`keeps_results`: the store honours `put_new`. `reuses`: identical tasks share one
        generation, unless they say otherwise.
        """
        self._engine = engine
        self._records = records
        self._store = store
        self._sources = sources
        self._kinds = kinds
        self._preparation = preparation
        self._maker = Maker(
            engine=engine.info, decoding=preparation.decoding, versions=versions, worker=owner
        )
        self._store_gate = store_gate
        self._reuses = reuses
        self._postponing = Postponing(records, retry_seconds=retry_seconds)
        self._generation = Generation(
            engine, records, self._postponing, progress_seconds=progress_seconds
        )
        self._commits = Commits(
            records,
            store,
            store_gate,
            keeps_results=keeps_results,
            retry_seconds=retry_seconds,
        )

    def execute(self, task: Task) -> Result | State:
        """Answer the task and commit the result; its state when another attempt's word counts.

        Raises `Postponed` when the task has to go back into the queue through no fault of its own.
        """
        attempt = self._start(task)
        if isinstance(attempt, Result):
            return attempt
        run = Run(task=task, attempt=attempt)
        if attempt.state.is_final:
            self._commits.confirm(run)
            return attempt.state
        try:
            if finished := self._finish_earlier(run):
                return finished
            return self._commits.commit(run, self._outcome(run))
        except TakenOver:
            return self._give_way(run)

    def refuse(self, task_id: str, error: InvalidTask) -> Result | State:
        """Commit the failure of a message that carries no readable task."""
        stub = Task(id=task_id, kind=STUB_KIND, images=())
        return self.end(stub, TaskError(FailureCode(error.code), str(error)))

    def end(
        self, task: Task, error: TaskError, *, waits_for_replicas: bool = True
    ) -> Result | State:
        """Commit the failure of a task that is not to be run, if it has not been answered yet.

        Whoever holds no message of the task need not wait for replicas: a primary that is new and
        knows nothing of its end has it among those that are looked at.
        """
        attempt = self._start(task)
        if isinstance(attempt, Result):
            return attempt
        run = Run(task=task, attempt=attempt, waits_for_replicas=waits_for_replicas)
        if attempt.state.is_final:
            self._commits.confirm(run)
            return attempt.state
        try:
            if finished := self._finish_earlier(run):
                return finished
            return self._commits.commit(run, failure(run, self._maker, error))
        except TakenOver:
            return self._give_way(run)

    def keep_options(self, task_id: str, options: str) -> None:
        """Note what its message says besides the task, for when it is sent again.

        Raises `Postponed`.
        """
        try:
            self._records.keep_options(task_id, options)
        except BrokerUnavailable as error:
            raise Postponed(str(error)) from error

    def delay(self, task: Task, seconds: float) -> Result | None:
        """Leave the task to its record until it may start. One that is there already counts.

        Returns the result of a task that has no record and has one in the store. Raises
        `Postponed`.
        """
        try:
            if not self._records.status(task.id).is_known and (left := self._restored(task)):
                return left
            self._records.create(task, delay_seconds=seconds)
            self._records.cancel_remembered(task.id)
        except BrokerUnavailable as error:
            raise Postponed(str(error)) from error
        return None

    def other_state(self, task_id: str) -> State:
        """The state of the task that has this id; UNKNOWN without one, and for a stub.

        That is a stub that has begun and not ended.

        Raises `Postponed`.
        """
        try:
            status = self._records.status(task_id)
        except BrokerUnavailable as error:
            raise Postponed(str(error)) from error
        is_begun_stub = status.kind == STUB_KIND and not status.state.is_final
        return State.UNKNOWN if is_begun_stub else status.state

    def write_revoked(self, task: Task, tell: Callable[[], None] = lambda: None) -> None:
        """Store the result of a task that was cancelled before it was started, then `tell`.

        What fails is done again. Raises `StorageError`, `BrokerUnavailable` and `Postponed`.
        """
        held = self._records.status(task.id)
        now = held.finished_at or 0.0
        at = held.submitted_at or now
        attempt = Attempt(state=State.REVOKED, number=0, fence=0, now=now, submitted_at=at)
        error = TaskError(FailureCode.REVOKED, "cancelled before it was started")
        run = Run(task=task, attempt=attempt)
        self._commits.pay(run, failure(run, self._maker, error), tell)

    def stored_result(self, task_id: str) -> Result:
        """What a finished task has left in the store. Raises `StorageError` and `InvalidTask`."""
        return stored_result(self._store, task_id)

    def _start(self, task: Task) -> Attempt | Result:
        """A new attempt; without a record the result, if the store has one. Raises `Postponed`."""
        kind = self._kinds.get(task.kind)
        most = task.options.max_new_tokens or (kind.max_new_tokens if kind else 0)
        owner = self._maker.worker
        try:
            attempt = self._records.start_known(task, owner=owner, max_new_tokens=most)
            if attempt is not None:
                return attempt
            left = self._restored(task)
            return left or self._records.start(task, owner=owner, max_new_tokens=most)
        except BrokerUnavailable as error:
            raise Postponed(str(error)) from error

    def _restored(self, task: Task) -> Result | None:
        """As `Commits.restore`. Raises `Postponed` while the store is away."""
        try:
            return self._commits.restore(task)
        except StorageError as error:
            self._store_gate.shut_if_away(error, self._store)
            raise Postponed(f"without a record the store has to be asked: {error}") from error

    def _finish_earlier(self, run: Run) -> Result | None:
        try:
            return self._commits.finish_earlier(run)
        except StorageError as error:
            raise self._store_is_away(run, error) from error

    def _outcome(self, run: Run) -> Result:
        """An answer or a failure: whatever the task ends with."""
        try:
            return self._answer(run)
        except (Postponed, TakenOver):
            raise
        except TaskError as error:
            log.info(
                "task %s cannot be answered: %s (%r)", run.task.id, error.code, error.__cause__
            )
            return failure(run, self._maker, error)
        except StorageError as error:
            raise self._store_is_away(run, error) from error
        except Exception as error:  # the task boundary: whatever it is, it must not kill the worker
            log.exception(
                "unexpected error in task %s: it fails with code internal, and may be submitted"
                " again; report this as a bug",
                run.task.id,
            )
            return failure(run, self._maker, _internal(error))

    def _answer(self, run: Run) -> Result:
        self._check(run)
        self._fetch(run)
        assert run.kind is not None
        run.prompt = render(run.task, run.kind, self._maker.engine.max_num_crops)
        key = work_key(run, self._maker) if self._reuses else None
        if known := self._known(run, key):
            return known
        result = self._generate(run, key)
        # Of a page without its font, the next worker may make more.
        run.work_key = None if run.input_reasons else key
        return result

    def _generate(self, run: Run, key: str | None) -> Result:
        """The first good answer, or the best one that the kind's retries lead to."""
        assert run.kind is not None
        best: Result | None = None
        tries: list[Try] = []
        tried: list[tuple[Sampling, int]] = []
        for number, retry in enumerate((None, *run.kind.retries)):
            how = how_to_try(run, retry, number, self._maker.engine.max_num_crops)
            if any(says_the_same(how, earlier) for earlier in tried):
                continue
            tried.append(how)
            begin_try(run, *how)
            try:
                self._generation.complete(run, key and f"{key}:{number}", self._preparation.prepare)
                result = self._parse(run)
            except TaskError as error:
                if best is None or error.code in (FailureCode.REVOKED, FailureCode.EXPIRED):
                    raise
                break  # more crops may not fit where fewer did
            tries.append(as_try(run, result))
            if best is None or is_better(_verdict(result), _verdict(best)):
                best = result
            if not is_worth_another_try(_verdict(result)):
                break
        assert best is not None
        return replace(best, tries=tuple(tries))

    def _check(self, run: Run) -> None:
        """What other senders than our own client may have got wrong."""
        task = run.task
        run.seconds["queue"] = max(0.0, run.attempt.now - run.attempt.submitted_at)
        if run.is_overdue():
            raise TaskError(FailureCode.EXPIRED, "the deadline passed before the task was started")
        if task.notify is not None:
            raise TaskError(FailureCode.UNSUPPORTED_OPTION, "notify is not carried out")
        try:
            run.kind = find_kind(self._kinds, task.kind)
            run.kind.check(task.kind, len(task.images), task.question)
        except InvalidTask as error:
            raise TaskError(FailureCode(error.code), str(error)) from error

    def _fetch(self, run: Run) -> None:
        began = perf_counter()
        task = run.task
        try:
            run.sources = tuple(
                self._sources.fetch(task.id, number, image)
                for number, image in enumerate(task.images)
            )
        except BrokerUnavailable as error:
            raise Postponed(str(error)) from error
        run.seconds["fetch"] = perf_counter() - began

    def _known(self, run: Run, key: str | None) -> Result | None:
        """The answer of an earlier task that asked the same, as this one's."""
        if key is None:
            return None
        try:
            task_id = self._records.recall(key)
            earlier = stored_result(self._store, task_id) if task_id else None
        except (BrokerUnavailable, StorageError, InvalidTask):
            return None  # nothing is lost but time
        if earlier is None or earlier.state is not State.SUCCESS:
            return None
        return reused(run, self._maker, earlier)

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
        is_loop = reason == "loop"
        kept = len(completion.token_ids) - (completion.num_repeated if is_loop else 0)
        text = self._engine.decode(completion.token_ids[:kept]).strip()
        if schema := run.task.options.schema:
            value, verdict = read_document(text, schema, finish_reason=reason)
        else:
            value = parse(text, kind.parser, run.sizes[0])
            verdict = judge(text, value, finish_reason=reason, parser=kind.parser)
        verdict = with_input_reasons(verdict, run.input_reasons)
        return answer(run, self._maker, text=text, value=value, verdict=verdict)

    def _give_way(self, run: Run) -> State:
        """The state of a task that another attempt owns, or has ended."""
        try:
            state = self._records.status(run.task.id).state
        except BrokerUnavailable as error:
            raise Postponed(str(error)) from error
        if state is State.UNKNOWN:
            raise Postponed("the record is gone; the task starts anew")
        log.warning(
            "task %s was taken over by another attempt, whose result counts; what was made of it"
            " here is dropped: nothing to do",
            run.task.id,
        )
        return state

    def _store_is_away(self, run: Run, error: StorageError) -> Postponed:
        self._store_gate.shut_if_away(error, self._store)
        code, message = FailureCode.STORAGE_UNAVAILABLE, "waiting for the object store"
        return self._postponing.pause(run, error, code, message)


def _verdict(result: Result) -> Verdict:
    assert result.verdict is not None, "an answer has been judged"
    return result.verdict


def _internal(error: Exception) -> TaskError:
    unforeseen = TaskError(FailureCode.INTERNAL, "the worker failed on this task", retryable=True)
    unforeseen.__cause__ = error
    return unforeseen
