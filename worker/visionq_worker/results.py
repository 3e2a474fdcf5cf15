"""One attempt at a task, and the result that becomes of it: pure data, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeAlias

from visionq.contract import (
    FailureCode,
    Provenance,
    Result,
    State,
    Task,
    Timings,
    Try,
    Usage,
    Verdict,
)
from visionq.kinds import Kind, Retry, at_most
from visionq.records import Attempt
from visionq_worker.documents import schema_digest
from visionq_worker.engine.request import Completion, EngineInfo
from visionq_worker.errors import TaskError
from visionq_worker.kinds import Prompt
from visionq_worker.sources import Source

if TYPE_CHECKING:
    from visionq_worker.model.processor import ModelInputs

Sizes: TypeAlias = tuple[tuple[int, int], ...]
"""Width and height of a task's images, upright: in pixels, and of a PDF's page in points."""

_END_STATES = {FailureCode.REVOKED: State.REVOKED, FailureCode.EXPIRED: State.EXPIRED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How one try at a task is generated."""

    temperature: float
    top_p: float
    seed: int | None


@dataclass(slots=True, kw_only=True)
class Run:
    """One attempt at one task, filled in step by step."""

    task: Task
    attempt: Attempt
    started: float = field(default_factory=monotonic)
    waits_for_replicas: bool = True  # with its end, until enough of them have it
    kind: Kind | None = None
    prompt: Prompt | None = None
    sources: tuple[Source, ...] = ()
    inputs: ModelInputs | None = None
    completion: Completion | None = None
    sampling: Sampling | None = None
    sizes: Sizes = ()
    input_reasons: tuple[str, ...] = ()  # for the verdict: what is wrong with the images
    work_key: str | None = None  # what later tasks that ask the same may find this one by
    seconds: dict[str, float] = field(default_factory=dict)

    def now(self) -> float:
        """Seconds since the epoch by the clock of Redis; this machine's may be wrong."""
        return self.attempt.now + (monotonic() - self.started)

    def deadline(self) -> float | None:
        """The task's deadline by this process's monotonic clock."""
        if self.task.deadline is None:
            return None
        return self.started + (self.task.deadline - self.attempt.now)

    def is_overdue(self) -> bool:
        """Whether the task's deadline has passed."""
        return self.task.deadline is not None and self.now() > self.task.deadline


@dataclass(frozen=True, slots=True, kw_only=True)
class Maker:
    """What every result says of the worker that made it."""

    engine: EngineInfo
    decoding: str
    versions: Mapping[str, str]
    worker: str


def how_to_try(
    run: Run, retry: Retry | None, number: int, max_num_crops: int | None
) -> tuple[Sampling, int]:
    """Of the first try, or of the kind's retry of that number: how it is sampled, and its crops.

    A retry that is sampled has a seed, so that the same task gets the same answer again.
    """
    assert run.prompt is not None
    options, crops = run.task.options, run.prompt.num_crops
    sampling = Sampling(temperature=options.temperature, top_p=options.top_p, seed=options.seed)
    if retry is None:
        return sampling, crops
    if retry.num_crops is not None:
        crops = at_most(retry.num_crops, max_num_crops)
    if retry.temperature is not None:
        seed = (options.seed or 0) + number
        sampling = replace(sampling, temperature=retry.temperature, seed=seed)
    return sampling, crops


def says_the_same(how: tuple[Sampling, int], other: tuple[Sampling, int]) -> bool:
    """Whether two tries of a task must come to the same answer.

    As those do that differ in crops alone, where both have been cut to the model's most.
    """
    (one, crops), (two, other_crops) = how, other
    if crops != other_crops or one.temperature != two.temperature:
        return False
    is_sampled = one.temperature > 0
    return not is_sampled or (one == two and one.seed is not None)


def begin_try(run: Run, sampling: Sampling, num_crops: int) -> None:
    """Set the run up for it: nothing is left of the try before."""
    assert run.prompt is not None
    run.completion = None
    run.sampling = sampling
    run.prompt = replace(run.prompt, num_crops=num_crops)


def as_try(run: Run, result: Result) -> Try:
    """What a result that has been judged says of its try."""
    assert run.sampling is not None
    assert run.prompt is not None
    assert run.completion is not None
    assert result.verdict is not None
    assert result.finish_reason is not None
    return Try(
        temperature=run.sampling.temperature,
        num_crops=run.prompt.num_crops,
        finish_reason=result.finish_reason,
        verdict=result.verdict,
        completion_tokens=len(run.completion.token_ids),
    )


def answer(run: Run, maker: Maker, *, text: str, value: Any, verdict: Verdict) -> Result:
    """The result of a run whose completion ended by itself."""
    assert run.completion is not None
    assert run.completion.finish_reason not in ("cancelled", "expired")
    return _result(
        run,
        maker,
        State.SUCCESS,
        text=text,
        value=value,
        verdict=verdict,
        finish_reason=run.completion.finish_reason,
    )


def reused(run: Run, maker: Maker, earlier: Result) -> Result:
    """The answer of an earlier task as this run's result; what it took is the earlier one's."""
    made = _result(
        run,
        maker,
        State.SUCCESS,
        text=earlier.text,
        value=earlier.value,
        verdict=earlier.verdict,
        finish_reason=earlier.finish_reason,
    )
    first = earlier.provenance.reused_from or earlier.task_id
    provenance = replace(made.provenance, reused_from=first, seed=earlier.provenance.seed)
    return replace(made, usage=earlier.usage, tries=earlier.tries, provenance=provenance)


def failure(run: Run, maker: Maker, error: TaskError) -> Result:
    """The result of a run that ended otherwise: FAILURE, REVOKED or EXPIRED."""
    state = _END_STATES.get(error.code, State.FAILURE)
    return _result(run, maker, state, failure=error.as_failure())


def _result(run: Run, maker: Maker, state: State, **outcome: Any) -> Result:
    completion = run.completion
    return Result(
        task_id=run.task.id,
        kind=run.task.kind,
        state=state,
        finished_at=run.now(),
        usage=_usage(run),
        timings=Timings(
            queue_seconds=run.seconds.get("queue"),
            fetch_seconds=run.seconds.get("fetch"),
            prepare_seconds=run.seconds.get("prepare"),
            prefill_seconds=completion.prefill_seconds if completion else None,
            decode_seconds=completion.decode_seconds if completion else None,
        ),
        provenance=_provenance(run, maker),
        tenant=run.task.tenant,
        labels=run.task.labels,
        **outcome,
    )


def _usage(run: Run) -> Usage | None:
    if run.inputs is None:
        return None
    return Usage(
        prompt_tokens=run.inputs.num_tokens,
        image_tokens=run.inputs.num_image_tokens,
        completion_tokens=len(run.completion.token_ids) if run.completion else 0,
    )


def _provenance(run: Run, maker: Maker) -> Provenance:
    pages = tuple(source.page for source in run.sources)
    return Provenance(
        input_digests=tuple(source.digest for source in run.sources),
        input_pages=pages if any(pages) else (),
        kind_version=run.kind.version if run.kind else None,
        kind_digest=run.kind.digest() if run.kind else None,
        prompt_digest=run.prompt.digest() if run.prompt else None,
        model=maker.engine.model,
        model_revision=maker.engine.revision,
        dtype=maker.engine.dtype,
        device=maker.engine.device,
        attention=maker.engine.attention,
        seed=run.sampling.seed if run.sampling else run.task.options.seed,
        num_crops=run.prompt.num_crops if run.prompt else None,
        decoding=maker.decoding,
        schema_digest=schema_digest(run.task.options.schema),
        versions=dict(maker.versions),
        worker=maker.worker,
        attempt=run.attempt.number,
    )
