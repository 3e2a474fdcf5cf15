"""From a prompt to its completion: on a request of the task's own, or on that of another task.

While the engine works, progress is reported, and a cancel or the deadline ends the request. A task
that leaves a request which others ride on ends alone; the last one to leave takes the request with
it, so that the device is free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Literal, NoReturn

from visionq.contract import FailureCode
from visionq.errors import BrokerUnavailable
from visionq.schemas import strict_schema
from visionq_worker.engine.errors import (
    EngineBroken,
    EngineClosed,
    EngineError,
    RequestInvalid,
    RequestTooLong,
)
from visionq_worker.engine.request import Request
from visionq_worker.errors import TakenOver, TaskError
from visionq_worker.sharing import Flight, Flights

if TYPE_CHECKING:
    from visionq.records import Records
    from visionq_worker.engine.request import Engine, Handle, LogitMask
    from visionq_worker.postponing import Postponing
    from visionq_worker.results import Run

Answer = Literal["run", "cancel", "expire", "lost"]
"""What is to become of a task that is being generated."""


class Generation:
    """Fills in the completions of runs. Serves all threads of a worker."""

    def __init__(
        self, engine: Engine, records: Records, postponing: Postponing, *, progress_seconds: float
    ) -> None:
        self._engine = engine
        self._records = records
        self._postponing = postponing
        self._progress_seconds = progress_seconds
        self._flights = Flights()

    def complete(self, run: Run, key: str | None, prepare: Callable[[Run], None]) -> None:
        """Set `run.completion`. `prepare` sets `run.inputs`, if no other task has the same `key`.

        Raises `TaskError`, `Postponed` and `TakenOver`.
        """
        while run.completion is None:
            flight, is_first = self._flights.board(key)
            try:
                if is_first:
                    prepare(run)
                    assert run.inputs is not None
                    handle = self._submit(run, has_deadline=key is None)
                    flight.take_off(run, handle)
                if flight.has_taken_off():
                    self._ride(run, key, flight)
            finally:
                self._flights.leave(key, flight)

    def _submit(self, run: Run, *, has_deadline: bool) -> Handle:
        assert run.inputs is not None
        assert run.sampling is not None
        assert run.kind is not None
        request = Request(
            inputs=run.inputs,
            max_new_tokens=self._fitting_tokens(run),
            temperature=run.sampling.temperature,
            top_p=run.sampling.top_p,
            seed=run.sampling.seed,
            # A document may say the same again, and its schema gives it an end.
            loop_tokens=None if run.task.options.schema else run.kind.loop_tokens,
            # Riders may have different ones, and each looks at its own.
            deadline=run.deadline() if has_deadline else None,
            logit_mask=self._mask(run),
        )
        with self._engine_errors(run):
            return self._engine.submit(request)

    def _mask(self, run: Run) -> LogitMask | None:
        """What holds the answer to the task's schema."""
        schema = run.task.options.schema
        if schema is None:
            return None
        try:
            return self._engine.mask(strict_schema(schema))
        except RequestInvalid as error:
            raise TaskError(FailureCode.SCHEMA_UNSUPPORTED, str(error)) from error

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

    def _ride(self, run: Run, key: str | None, flight: Flight) -> None:
        """Wait for the completion. None is left when the others, and not this one, gave it up."""
        assert flight.handle is not None
        run.inputs, run.sizes = flight.inputs, flight.sizes
        run.input_reasons = flight.input_reasons
        is_ours_to_end = self._attend(run, key, flight)
        with self._engine_errors(run):
            completion = flight.handle.result()
        if completion.finish_reason == "cancelled" and not is_ours_to_end:
            return
        if completion.finish_reason == "cancelled" and run.is_overdue():
            completion = replace(completion, finish_reason="expired")
        run.completion = completion

    def _attend(self, run: Run, key: str | None, flight: Flight) -> bool:
        """Wait for the engine; meanwhile report tokens, and look for a cancel or the deadline.

        Whether this task has ended the request before its time. Raises `TakenOver`, once the
        engine has let go, and `TaskError` for a task that leaves the request to the others.
        """
        handle = flight.handle
        assert handle is not None
        answer: Answer = "run"
        while not handle.wait(self._until_next_look(run)):
            if answer in ("run", "cancel"):
                answer = self._tell_progress(run, handle.num_tokens)
            if answer == "run" and run.is_overdue():
                answer = "expire"
            if answer == "run":
                continue
            if not self._flights.is_alone(key, flight):
                _get_off(answer, handle.num_tokens)
            handle.cancel()
        if answer == "lost":
            raise TakenOver
        return answer != "run"

    def _until_next_look(self, run: Run) -> float:
        deadline = run.deadline()
        if deadline is None:
            return self._progress_seconds
        return min(self._progress_seconds, max(0.001, deadline - monotonic()))

    def _tell_progress(self, run: Run, num_tokens: int) -> Answer:
        fence = run.attempt.fence
        try:
            return self._records.progress(run.task.id, fence=fence, generated_tokens=num_tokens)
        except BrokerUnavailable:
            return "run"  # progress is a courtesy; the result will be reported until it is heard

    @contextmanager
    def _engine_errors(self, run: Run) -> Iterator[None]:
        """The engine's errors as the task's."""
        try:
            yield
        except RequestTooLong as error:
            raise TaskError(FailureCode.PROMPT_TOO_LONG, str(error)) from error
        except EngineClosed as error:
            code, message = FailureCode.MODEL_ERROR, "waiting for another worker"
            raise self._postponing.pause(run, error, code, message) from error
        except EngineBroken as error:
            raise self._postponing.strike(run, error) from error
        except EngineError as error:
            raise TaskError(
                FailureCode.MODEL_ERROR, str(error), retryable=error.is_transient
            ) from error


def _get_off(answer: Answer, num_tokens: int) -> NoReturn:
    """The others go on; for this task it is over."""
    if answer == "lost":
        raise TakenOver
    code = FailureCode.REVOKED if answer == "cancel" else FailureCode.EXPIRED
    raise TaskError(code, f"ended after {num_tokens} tokens")
