"""What `visionq-worker check` looks at: one line each, what is wrong and where."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from visionq.errors import BrokerUnavailable, StorageError
from visionq.redaction import redacted
from visionq.settings import Settings
from visionq_worker.errors import StartError
from visionq_worker.loading import choose
from visionq_worker.model.errors import ModelError
from visionq_worker.service import open_records, open_store, require_own_keys

PROBE_FOLDER = "probes"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    name: str
    is_ok: bool
    text: str


def check_all(settings: Settings, *, is_quick: bool) -> Iterator[Finding]:
    """Broker and bucket; unless quick, device and model as well, which imports torch."""
    yield _finding("broker", lambda: _check_broker(settings))
    if settings.broker.replicas_to_confirm:
        yield _finding("replicas", lambda: _check_replicas(settings))
    yield _finding("bucket", lambda: _check_bucket(settings))
    if not is_quick:
        yield _finding("device", lambda: _check_device(settings))
        yield _finding("model", lambda: _check_model(settings))


def _finding(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, redacted(check()))
    except (StartError, StorageError, ModelError) as exc:
        text = str(exc).removeprefix(f"{name}: ").replace("\n", " ")
        return Finding(name, False, redacted(text))


def _check_broker(settings: Settings) -> str:
    open_records(settings).close()
    if forbidden := require_own_keys(settings):
        raise StartError(
            f"this user may not write {', '.join(forbidden)}, where Celery's results and bindings"
            " lie: senders' AsyncResult stays PENDING"
        )
    return f"answers; namespace {settings.broker.namespace}"


def _check_replicas(settings: Settings) -> str:
    """As many as have to confirm each task do so."""
    num = settings.broker.replicas_to_confirm
    records = open_records(settings)
    try:
        records.confirm()
    except BrokerUnavailable as exc:
        raise StartError(
            f"{exc}: no task can be accepted; let replicas follow this Redis, or lower it"
        ) from exc
    finally:
        records.close()
    return f"{num} confirm{'s' if num == 1 else ''} writes"


def _check_bucket(settings: Settings) -> str:
    """A round trip: what can be listed can still refuse to be written."""
    store = open_store(settings)
    key = f"{PROBE_FOLDER}/{uuid.uuid4()}"
    try:
        store.put(key, b"visionq")
        if store.get(key) != b"visionq":
            raise StorageError("an object came back changed")
        store.delete(key)
    finally:
        store.close()
    return f"{settings.storage.bucket} can be written and read"


def _check_device(settings: Settings) -> str:
    import torch

    from visionq_worker.model.attention import choose_attention
    from visionq_worker.model.weights import DTYPES

    choice = choose(settings.model)
    try:
        device = torch.device(choice.device)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as exc:
        reason = str(exc).splitlines()[0]
        raise StartError(f"{choice.device} cannot be used: {reason}") from exc
    attention = choose_attention(
        settings.model.attention,
        device=device,
        dtype=DTYPES[choice.dtype],
        page_tokens=settings.engine.page_tokens,
    )
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU is used"
    return f"{choice.device} ({name}), {choice.dtype}, {attention.name}"


def _check_model(settings: Settings) -> str:
    """Descriptions and tokenizer. Weights are neither read nor fetched: that is what `run` does."""
    from visionq_worker.model.checkpoint import DESCRIPTIONS, find_checkpoint
    from visionq_worker.model.processor import Phi3VProcessor

    choice = choose(settings.model)
    checkpoint = find_checkpoint(choice.source, choice.revision, DESCRIPTIONS)
    Phi3VProcessor.from_pretrained(checkpoint.folder)
    name = f"{settings.model.source}{f' at {checkpoint.revision}' if checkpoint.revision else ''}"
    if any(checkpoint.folder.glob("*.safetensors")):
        return f"{name} is here"
    if checkpoint.revision is None:
        raise StartError(f"{checkpoint.folder} holds no weights (*.safetensors)")
    return f"{name} is known; its weights are downloaded when the worker first starts"
