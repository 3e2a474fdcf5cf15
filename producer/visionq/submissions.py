"""What is submitted, and the task that becomes of it: arguments checked, nothing touched."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, cast

from visionq.contract import ImageRef, Lane, Options, Task
from visionq.errors import InvalidTask, UnsupportedOption
from visionq.fields import FieldType, schema_of_fields
from visionq.inputs import ImageArgument, Page, split_page
from visionq.models import as_model, as_schema

if TYPE_CHECKING:
    from pydantic import BaseModel

Images: TypeAlias = ImageArgument | Sequence[ImageArgument]

MAX_SECONDS = 10 * 365 * 24 * 3600
"""Of any duration: far beyond every use, and no further than a deadline can be written."""
MAX_DELAY_SECONDS = 24 * 3600
"""Of a delayed start: well within the life of the record, which is all that keeps the task."""

ID_NAMESPACE = uuid.UUID("6f3c1b0e-6d0a-5c8e-9a55-0e4f7d1c2b3a")
"""Of the UUIDv5 made from tenant and idempotency key. Never change it: retries rely on it."""


class SubmitOptions(TypedDict, total=False):
    """What every submitting method takes beside kind, images and question.

    `expires_in_seconds`: no answer is wanted after that. `start_in_seconds`: the task is not
    started before that. `idempotency_key`: the same key of the same tenant is the same task,
    however often it is submitted, and a new one only after an end without an answer; with other
    content it is an `IdempotencyConflict`. `reuse`: an answer to a task that asked the same will
    do.
    `schema`: JSON Schema, or a pydantic model, that the answer has to fit. `fields`: instead of it,
    names and types of what is to be read; each is None where the picture does not say it.
    """

    max_new_tokens: int | None
    temperature: float
    top_p: float
    seed: int | None
    num_crops: int | None
    schema: dict[str, Any] | type[BaseModel] | None
    fields: Mapping[str, FieldType] | None
    reuse: bool
    lane: Lane | str
    expires_in_seconds: float | None
    start_in_seconds: float | None
    tenant: str
    labels: Mapping[str, str]
    notify: str | None
    idempotency_key: str | None


@dataclass(frozen=True, slots=True)
class Submission:
    """One element of `submit_many`."""

    kind: str
    images: Images
    question: str | None = None
    options: SubmitOptions | None = None

    def __post_init__(self) -> None:
        """Raise `InvalidTask` for options that are no mapping by name."""
        options: object = self.options
        if options is None:
            return
        if not isinstance(options, Mapping) or not all(isinstance(name, str) for name in options):
            raise InvalidTask("options must be a mapping, or None; its keys are names of options")

    @property
    def delay_seconds(self) -> float:
        """From submit to the earliest start. Raises `InvalidTask`."""
        given = self.options or {}
        delay = _seconds("start_in_seconds", given.get("start_in_seconds")) or 0.0
        expiry = self.expiry_seconds
        if expiry is not None and delay >= expiry:
            raise InvalidTask("start_in_seconds must be less than expires_in_seconds")
        if delay > MAX_DELAY_SECONDS:
            raise InvalidTask(f"start_in_seconds must be {MAX_DELAY_SECONDS} at most")
        return delay

    @property
    def expiry_seconds(self) -> float | None:
        """From submit to the deadline; None without one. Raises `InvalidTask`."""
        given = (self.options or {}).get("expires_in_seconds")
        return _seconds("expires_in_seconds", given)

    @property
    def is_idempotent(self) -> bool:
        return bool(self.options and self.options.get("idempotency_key"))

    @property
    def model(self) -> type[BaseModel] | None:
        """What the answer's value is to be an instance of."""
        return as_model((self.options or {}).get("schema"))


def draft(submission: Submission, images: tuple[ImageRef, ...]) -> Task:
    """The task of a submission, with those of its images that are stored already, and no deadline.

    Raises `InvalidTask`: made before the others are uploaded, and before Redis is asked for its
    time, by which the deadline goes.
    """
    submission.delay_seconds  # noqa: B018  # which looks at the times
    return _build(submission.kind, images, submission.question, **(submission.options or {}))


def _build(
    kind: str,
    images: tuple[ImageRef, ...],
    question: str | None,
    /,
    *,
    lane: Lane | str = Lane.INTERACTIVE,
    expires_in_seconds: float | None = None,  # noqa: ARG001  # from when on, Redis's clock says
    start_in_seconds: float | None = None,  # noqa: ARG001  # the record's, not the task's
    tenant: str = "default",
    labels: Mapping[str, str] | None = None,
    notify: str | None = None,
    idempotency_key: str | None = None,
    **options: Any,
) -> Task:
    if notify is not None:
        raise UnsupportedOption("notify: webhooks are not carried out by this version")
    return Task(
        id=_task_id(tenant, idempotency_key),
        kind=kind,
        images=images,
        question=question,
        options=_options(options),
        lane=_lane(lane),
        tenant=tenant,
        labels=_labels(labels),
    )


def as_submissions(given: object) -> list[Submission]:
    """What `submit_many` was given. Raises `InvalidTask` unless all are submissions."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise InvalidTask(f"submit_many takes Submission objects in a list, not {_kind_of(given)}")
    submissions = list(given)
    for number, one in enumerate(submissions):
        if not isinstance(one, Submission):
            raise InvalidTask(
                "submit_many takes Submission(kind, images, ...) objects; "
                f"the one at {number} is {_kind_of(one)}"
            )
    return submissions


def _kind_of(given: object) -> str:
    return f"a {type(given).__name__}"


def as_list(images: Images) -> list[ImageArgument]:
    """One image argument or several, as a list."""
    if isinstance(images, list | tuple):
        return list(images)
    return [cast("ImageArgument", images)]


async def read_uploads(submission: Submission, *, rewinds: bool = False) -> Submission:
    """The submission with FastAPI's upload objects replaced by their bytes.

    With `rewinds`, they can be read once more from their beginning, if they have a `seek`.
    """
    images: list[Any] = []
    for image in as_list(submission.images):
        file, page = split_page(image)
        read, seek = getattr(file, "read", None), getattr(file, "seek", None)
        if not inspect.iscoroutinefunction(read):
            images.append(image)
            continue
        content = await read()
        images.append(content if page is None else Page(content, page))
        if rewinds and seek is not None:
            await seek(0)
    return replace(submission, images=images)


def _task_id(tenant: str, idempotency_key: str | None) -> str:
    if idempotency_key is None:
        return str(uuid.uuid4())
    if not isinstance(idempotency_key, str):
        raise InvalidTask(f"an idempotency_key is a string, not {_kind_of(idempotency_key)}")
    if not idempotency_key:
        raise InvalidTask("an idempotency_key may not be empty: all such tasks would be one")
    try:
        return str(uuid.uuid5(ID_NAMESPACE, f"{tenant}\0{idempotency_key}"))
    except UnicodeEncodeError as exc:
        raise InvalidTask("tenant and idempotency_key must be of whole characters") from exc


def _lane(lane: Lane | str) -> Lane:
    try:
        return Lane(lane)
    except ValueError:
        given = str(lane)[:80]
        raise InvalidTask(f"no lane {given!r}; there are {', '.join(Lane)}") from None


def _seconds(name: str, given: Any) -> float | None:
    if given is None:
        return None
    is_number = isinstance(given, int | float) and not isinstance(given, bool)
    if not is_number or not 0 < given <= MAX_SECONDS:
        raise InvalidTask(f"{name} must be a number above 0, and {MAX_SECONDS} at most")
    return float(given)


def _labels(given: object) -> dict[str, str]:
    if not isinstance(given, Mapping | None):
        raise InvalidTask("labels must be a mapping")
    return dict(given or {})


def _options(given: dict[str, Any]) -> Options:
    fields, schema = given.pop("fields", None), given.get("schema")
    if fields is not None and schema is not None:
        raise InvalidTask("give either fields or a schema")
    if fields is not None:
        given["schema"] = schema_of_fields(fields)
    elif schema is not None:
        given["schema"] = as_schema(schema)
    try:
        return Options(**given)
    except TypeError as exc:
        raise InvalidTask(f"no such option: {exc}") from exc
