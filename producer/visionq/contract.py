"""The wire between the two sides: what travels in the queue and what lies in the store.

Plain frozen dataclasses; pydantic checks whatever arrives from outside (`read_task`,
`read_result`) and is only imported then, so that a web process that merely submits does not pay
for it. Ranges are checked where a value is built, on both sides. The worker imports this module,
never the reverse.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from enum import StrEnum
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, cast

from visionq.errors import InvalidTask, UnsupportedVersion
from visionq.kinds import MAX_CROPS, MAX_IMAGES, MAX_NEW_TOKENS
from visionq.names import result_key
from visionq.schemas import strict_schema
from visionq.terminal import one_line

if TYPE_CHECKING:
    from pydantic import TypeAdapter

CONTRACT_VERSION = 1
"""The newest version of the contract that is read and written here."""
MAX_CONTRACT_VERSION = 1000
"""Beyond every version to come: what is above it is no version."""
FIELD_VERSIONS: Mapping[str, int] = MappingProxyType({})
"""The contract version that brought a field of `Task`, `Options` or `ImageRef`, by its name
("Options.reuse"). What does not stand here came with version 1. A new field stands here, has a
default, and with it raises `CONTRACT_VERSION`: so tasks that do not use it run on older workers."""
DEFAULT_TENANT = "default"

MAX_QUESTION_CHARS = 8_000
MAX_LABELS = 16
MAX_LABEL_CHARS = 100
MAX_PAGE = 1_000_000
MAX_KEY_BYTES = 1024
"""Of an object's key in UTF-8. Otherwise it may hold any character, as S3 has it."""
MAX_NAME_CHARS = 80
"""Of an unknown field's name, in the message that refuses it."""
MAX_TASK_BYTES = 64 * 1024
"""Above this a task is refused at both ends: large values belong into the store."""

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_KIND = re.compile(r"[a-z][a-z0-9_-]{0,39}")
_TENANT = re.compile(r"[a-z0-9-]{1,40}")
_URL = re.compile(r"https://[^\s/]\S{0,1000}")
_S3_BUCKET = re.compile(r"s3://[^\s/]+/")
# A scheme that is not ours, or a path of the file system, would otherwise pass for a key.
_NO_KEY = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]*://|/")
_SURROGATE = re.compile("[\ud800-\udfff]")
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_FORBID_UNKNOWN: dict[str, str] = {"extra": "forbid"}


class State(StrEnum):
    """Where a task is, in Celery's words, with EXPIRED and UNKNOWN added."""

    PENDING = "PENDING"
    STARTED = "STARTED"
    PROGRESS = "PROGRESS"
    RETRY = "RETRY"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    REVOKED = "REVOKED"
    EXPIRED = "EXPIRED"
    UNKNOWN = "UNKNOWN"

    @property
    def is_final(self) -> bool:
        return self in FINAL_STATES


FINAL_STATES = frozenset({State.SUCCESS, State.FAILURE, State.REVOKED, State.EXPIRED})


class Lane(StrEnum):
    """Which queue a task waits in; the interactive one is served first."""

    INTERACTIVE = "interactive"
    BULK = "bulk"


class FailureCode(StrEnum):
    """Why a task failed. Codes are stable: programs may branch on them."""

    INVALID_TASK = "invalid_task"
    UNKNOWN_KIND = "unknown_kind"
    UNSUPPORTED_OPTION = "unsupported_option"
    UNSUPPORTED_VERSION = "unsupported_version"
    SCHEMA_UNSUPPORTED = "schema_unsupported"
    IMAGE_COUNT = "image_count"
    QUESTION_NOT_ALLOWED = "question_not_allowed"
    INPUT_MISSING = "input_missing"
    INPUT_NOT_ALLOWED = "input_not_allowed"
    INPUT_TOO_LARGE = "input_too_large"
    INPUT_UNAVAILABLE = "input_unavailable"
    INPUT_CORRUPT = "input_corrupt"
    NOT_AN_IMAGE = "not_an_image"
    IMAGE_TRUNCATED = "image_truncated"
    IMAGE_TOO_LARGE = "image_too_large"
    IMAGE_SHAPE = "image_shape"
    PAGE_MISSING = "page_missing"
    PDF_ENCRYPTED = "pdf_encrypted"
    PROMPT_TAGS = "prompt_tags"
    PROMPT_TOO_LONG = "prompt_too_long"
    MODEL_ERROR = "model_error"
    STORAGE_UNAVAILABLE = "storage_unavailable"
    WORKER_LOST = "worker_lost"
    REVOKED = "revoked"
    EXPIRED = "expired"
    INTERNAL = "internal"


def is_task_id(text: object) -> bool:
    """Whether `text` is a lower-case UUID; only those become part of a key."""
    return isinstance(text, str) and _UUID.fullmatch(text) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRef:
    """Where an image lies: a key of the service's bucket, an `s3://` URL, or an `https://` URL.

    Keys are taken as they are, white space, `#`, `+` and `%20` included, also in `s3://` URLs; one
    that begins with `/` or `word://` needs that form. No segment is `..`. Bytes never travel in a
    message. `page`: of a PDF, counted from 1; None is the first one.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_UNKNOWN

    ref: str
    page: int | None = None

    def __post_init__(self) -> None:
        if not _is_text(self.ref) or not _is_reference(self.ref):
            name = str(self.ref)[:80]
            raise InvalidTask(
                f"image reference {name!r} is no key, s3:// or https:// URL; a key has 1 to "
                f"{MAX_KEY_BYTES} bytes, and needs the s3:// form if it begins with / or a scheme"
            )
        _require(".." not in self.ref.split("/"), "an image reference may not contain '..'")
        _require_int("page", self.page, 1, MAX_PAGE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the answer is generated. None means: as the kind says.

    `schema`: the answer is a JSON document that fits it; what it may say stands in `schemas`.
    `reuse`: the answer of a task that asked the same may be this one's, at temperature 0.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_UNKNOWN

    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    num_crops: int | None = None
    schema: dict[str, Any] | None = None
    reuse: bool = True

    def __post_init__(self) -> None:
        _require_int("max_new_tokens", self.max_new_tokens, 1, MAX_NEW_TOKENS)
        _require_int("num_crops", self.num_crops, 1, MAX_CROPS)
        _require_int("seed", self.seed, 0, 2**63 - 1)
        _require_number("temperature", self.temperature, 0.0, 2.0)
        _require_number("top_p", self.top_p, 0.0, 1.0)
        _require(self.top_p > 0, "top_p must be above 0")
        _require(isinstance(self.reuse, bool), "reuse must be true or false")
        if self.schema is not None:
            strict_schema(self.schema)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One image question, as it travels. `deadline` is seconds since the epoch.

    `version` is the lowest contract version that has all the fields it uses, whatever is given.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_UNKNOWN

    id: str
    kind: str
    images: tuple[ImageRef, ...]
    question: str | None = None
    options: Options = field(default_factory=Options)
    lane: Lane = Lane.INTERACTIVE
    deadline: float | None = None
    tenant: str = DEFAULT_TENANT
    labels: dict[str, str] = field(default_factory=dict)
    notify: str | None = None
    version: int = 1

    def __post_init__(self) -> None:
        if not is_task_id(self.id):
            raise InvalidTask(f"task id {str(self.id)[:80]!r} is not a lower-case UUID")
        _require_match("kind", _KIND, self.kind)
        _require_match("tenant", _TENANT, self.tenant)
        images: object = self.images
        are_references = isinstance(images, tuple) and all(isinstance(i, ImageRef) for i in images)
        _require(are_references, "images must be a tuple of image references")
        _require(len(self.images) <= MAX_IMAGES, f"more than {MAX_IMAGES} images")
        _require(isinstance(self.options, Options), "options must be of the type Options")
        _require(isinstance(self.lane, Lane), f"lane must be of {', '.join(Lane)}")
        _require(self.notify is None or _is_text(self.notify), "notify must be a string")
        _require(self.version is not None, "version must be a number")
        _require_int("version", self.version, 1, CONTRACT_VERSION)
        if self.question is not None:
            _require(_is_text(self.question), "question must be a string of whole characters")
            _require(
                len(self.question) <= MAX_QUESTION_CHARS,
                f"the question is longer than {MAX_QUESTION_CHARS} characters",
            )
        if self.deadline is not None:
            _require_number("deadline", self.deadline, 0, 2**53)
        _require_labels(self.labels)
        object.__setattr__(self, "version", _lowest_version(self))

    @property
    def result_key(self) -> str:
        return result_key(self.id)


Outcome = Literal["ok", "degraded", "rejected"]
FinishReason = Literal["stop", "length", "loop", "cancelled", "expired"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether the answer can be relied on, and if not, why."""

    outcome: Outcome
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """One generation of several, where the kind has retries: how it was made, what came of it."""

    temperature: float
    num_crops: int
    finish_reason: FinishReason
    verdict: Verdict
    completion_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens. `prompt_tokens` includes `image_tokens`."""

    prompt_tokens: int
    image_tokens: int
    completion_tokens: int

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Seconds by phase. A phase that was not reached is None.

    Storing comes after the result is written and so stands in the record (`Status`), not here.
    """

    queue_seconds: float | None = None
    fetch_seconds: float | None = None
    prepare_seconds: float | None = None
    prefill_seconds: float | None = None
    decode_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What made the answer: enough to say why it differs from yesterday's."""

    input_digests: tuple[str, ...] = ()
    input_pages: tuple[int | None, ...] = ()  # empty where none is a PDF
    kind_version: int | None = None
    kind_digest: str | None = None
    prompt_digest: str | None = None
    model: str | None = None
    model_revision: str | None = None
    dtype: str | None = None
    device: str | None = None
    attention: str | None = None
    seed: int | None = None
    num_crops: int | None = None
    decoding: str | None = None  # of the images: exact or fast
    schema_digest: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    worker: str | None = None
    attempt: int | None = None
    reused_from: str | None = None  # id of the task whose answer this is


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why there is no answer: a stable code and a sentence that is safe to show."""

    code: str
    message: str
    retryable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What lies under `results/<task id>.json`: the answer, or the failure.

    `tries` has more than one element when the kind's retries were needed; the best one's answer,
    usage and timings stand here.
    """

    task_id: str
    kind: str
    state: State
    finished_at: float
    text: str | None = None
    value: Any = None
    finish_reason: FinishReason | None = None
    verdict: Verdict | None = None
    tries: tuple[Try, ...] = ()
    usage: Usage | None = None
    timings: Timings = field(default_factory=Timings)
    provenance: Provenance = field(default_factory=Provenance)
    failure: Failure | None = None
    tenant: str = DEFAULT_TENANT
    labels: dict[str, str] = field(default_factory=dict)
    version: int = CONTRACT_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What is known of a task right now. Times are seconds since the epoch, by Redis's clock.

    `position` counts the tasks of the same lane that were submitted before this one and have not
    started; it is an upper bound, since cancelled ones are still counted, and None once started, or
    while the task is not to be started yet. `retry_of`: the task before it with its idempotency
    key, which had ended without an answer. `has_workers`: whether any worker has reported within
    the last 20 seconds; None once the task has ended, and of an unknown one. `source`: where this
    is known from, the task's record or, where that is gone, its result object in the store; None of
    an unknown one.
    """

    id: str
    state: State
    kind: str | None = None
    lane: Lane | None = None
    attempt: int = 0
    position: int | None = None
    generated_tokens: int = 0
    max_new_tokens: int | None = None
    is_cancel_requested: bool = False
    submitted_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    store_seconds: float | None = None
    failure: Failure | None = None
    result_key: str | None = None
    retry_of: str | None = None
    has_workers: bool | None = None
    tenant: str | None = None
    source: Literal["record", "store"] | None = None

    @property
    def is_done(self) -> bool:
        return self.state.is_final

    @property
    def is_known(self) -> bool:
        return self.state is not State.UNKNOWN


def dump(value: Any) -> dict[str, Any]:
    """A contract value as JSON-ready data, without the fields that have their default value."""
    compact: dict[str, Any] = {}
    for name, default in _defaults(cast("Hashable", type(value))):
        current = getattr(value, name)
        if current is not default and current != default:
            compact[name] = _plain(current)
    return compact


def dump_result(result: Result) -> bytes:
    """The bytes of the result object: every field, UTF-8 JSON, stable order."""
    from pydantic_core import to_json

    # The standard library indents in Python, for 0.1 ms: a quarter of what a task costs the worker.
    return to_json(result, indent=1, inf_nan_mode="constants")


def read_task(data: object, *, task_id: str | None = None) -> Task:
    """Check what arrived in a message. `task_id` is the message's id, not to be contradicted.

    Raises `InvalidTask`, naming the field.
    """
    if not isinstance(data, Mapping):
        raise InvalidTask("the task is not a JSON object")
    # Before anything else: a newer contract may have fields that are unknown here.
    if (version := _newer_version(data)) is not None:
        if version > MAX_CONTRACT_VERSION:
            raise InvalidTask(f"version must be a whole number, 1 to {MAX_CONTRACT_VERSION}")
        raise UnsupportedVersion(
            f"this side reads contract version {CONTRACT_VERSION}, not {version}", version
        )
    if task_id is not None:
        if data.get("id", task_id) != task_id:
            raise InvalidTask("the task's id differs from the message's id")
        data = {**data, "id": task_id}
    text = json.dumps(data, separators=(",", ":"))
    if len(text) > 4 * MAX_TASK_BYTES:  # as ASCII a character takes up to three times its bytes
        raise InvalidTask(f"the task is larger than {MAX_TASK_BYTES} bytes")
    task = _validated(Task, text)
    encode_new(task)
    return task


def read_newer_task(data: object, *, task_id: str) -> Task:
    """What can be told here of a task of a newer version, for its end: nothing of it can be run.

    Raises `InvalidTask` where that cannot be read either.
    """
    told = data if isinstance(data, Mapping) else {}
    kept = {name: told[name] for name in ("kind", "lane", "tenant", "labels") if name in told}
    return _validated(Task, json.dumps({**kept, "id": task_id, "images": []}))


def encode_task(task: Task) -> str:
    """Compact JSON, as the record has it."""
    return _ENCODER.encode(dump(task))


def encode_new(task: Task) -> str:
    """The same. Raises `InvalidTask` for one that is too large to be accepted."""
    text = encode_task(task)
    size = len(text.encode())
    if size > MAX_TASK_BYTES:
        raise InvalidTask(f"the task takes {size} bytes as JSON, the limit is {MAX_TASK_BYTES}")
    return text


def read_result(content: bytes) -> Result:
    """The result object's bytes as a `Result`. Raises `InvalidTask` when they are none.

    A newer version's is read as far as it is known here.
    """
    try:
        return _validated(Result, content)
    except InvalidTask:
        _refuse_newer(content)
        raise


def _refuse_newer(content: bytes) -> None:
    """Raise `UnsupportedVersion` where that is why it cannot be read."""
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        return
    version = _newer_version(data) if isinstance(data, dict) else None
    if version is not None:
        raise UnsupportedVersion(
            f"it is of contract version {version}, and visionq here reads {CONTRACT_VERSION}",
            version,
        )


def read_newer_result(content: bytes) -> Result:
    """As `read_result`; of a newer version's that it cannot read, what ends its task.

    The rest of it is left out. Raises `InvalidTask` where that cannot be read either.
    """
    try:
        return read_result(content)
    except UnsupportedVersion:
        told = json.loads(content)
        kept = {name: told[name] for name in _OF_AN_END if name in told}
        return _validated(Result, json.dumps(kept))


_OF_AN_END = ("task_id", "kind", "state", "finished_at", "text", "failure", "tenant", "labels")


def _newer_version(data: Mapping[str, Any]) -> int | None:
    """The version that the data says to be of, where it is above the one here."""
    version = data.get("version")
    return version if isinstance(version, int) and version > CONTRACT_VERSION else None


def _lowest_version(task: Task) -> int:
    parts = (task, task.options, *task.images) if FIELD_VERSIONS else ()
    used = [
        version
        for part in parts
        for name, default, version in _later_fields(cast("Hashable", type(part)))
        if getattr(part, name) != default
    ]
    return max(used, default=1)


T = TypeVar("T")


def _validated(cls: type[T], text: str | bytes) -> T:
    """Strictly: "5" is no number. From JSON, where lists may be tuples and strings enums."""
    from pydantic import ValidationError

    try:
        return cast("T", _adapter(cast("Hashable", cls)).validate_json(text, strict=True))
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        # It may be a field's name of the sender's own.
        where = one_line(".".join(map(str, first["loc"]))[:MAX_NAME_CHARS]) or cls.__name__
        raise InvalidTask(f"{where}: {first['msg']}") from exc


@cache
def _adapter(cls: Hashable) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(cast("type[Any]", cls))


@cache
def _defaults(cls: Hashable) -> tuple[tuple[str, Any], ...]:
    """Name and default of each field; MISSING, which equals nothing, where it is always written."""
    return tuple(
        (item.name, MISSING if item.name == "version" else _default(item))
        for item in fields(cast("Any", cls))
    )


@cache
def _later_fields(cls: Hashable) -> tuple[tuple[str, Any, int], ...]:
    """Name, default and version of each field that came after version 1."""
    name_of_class = cast("type[Any]", cls).__name__
    found = ((item, FIELD_VERSIONS.get(f"{name_of_class}.{item.name}")) for item in fields(cls))  # type: ignore[arg-type]
    return tuple((item.name, _default(item), since) for item, since in found if since)


def _default(item: Field[Any]) -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()


def _plain(value: Any) -> Any:
    if isinstance(value, str):  # most are, and every submit comes by here
        return value
    if is_dataclass(value):
        return dump(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InvalidTask(message)


def _is_reference(text: str) -> bool:
    if text.startswith("https://"):
        return _URL.fullmatch(text) is not None
    if bucket := _S3_BUCKET.match(text):
        key = text[bucket.end() :]
    else:
        key = "" if _NO_KEY.match(text) else text
    return 0 < len(key.encode()) <= MAX_KEY_BYTES


def _is_text(value: object) -> bool:
    """Whether `value` is a string that UTF-8 can hold: half a surrogate pair it cannot."""
    return isinstance(value, str) and _SURROGATE.search(value) is None


def _require_match(name: str, pattern: re.Pattern[str], value: object) -> None:
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        raise InvalidTask(f"{name} {str(value)[:80]!r} does not match {pattern.pattern}")


def _require_int(name: str, value: Any, low: int, high: int) -> None:
    if value is None:
        return
    is_int = isinstance(value, int) and not isinstance(value, bool)
    if not is_int or not low <= value <= high:
        raise InvalidTask(f"{name} must be a whole number, {low} to {high}")


def _require_number(name: str, value: Any, low: float, high: float) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:
        raise InvalidTask(f"{name} must be a number, {low} to {high}")


def _require_labels(labels: object) -> None:
    _require(isinstance(labels, dict), "labels must be a mapping")
    assert isinstance(labels, dict)
    _require(len(labels) <= MAX_LABELS, f"more than {MAX_LABELS} labels")
    for key, value in labels.items():
        _require(
            _is_text(key)
            and _is_text(value)
            and len(key) <= MAX_LABEL_CHARS
            and len(value) <= MAX_LABEL_CHARS,
            f"labels are strings of up to {MAX_LABEL_CHARS} characters",
        )
