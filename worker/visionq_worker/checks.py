"""What `visionq-worker check` looks at: one line each, what is wrong, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from visionq.redaction import redacted
from visionq.settings import Settings
from visionq_worker.broker_checks import check_broker
from visionq_worker.bucket_checks import check_bucket
from visionq_worker.errors import StartError
from visionq_worker.findings import Finding, fail, ok
from visionq_worker.loading import choose
from visionq_worker.model.errors import ModelError
from visionq_worker.service import build_store


def check_all(settings: Settings, *, is_quick: bool) -> Iterator[Finding]:
    """Broker and bucket; unless quick, device and model as well, which imports torch."""
    for finding in _check_all(settings, is_quick=is_quick):
        yield replace(finding, text=redacted(finding.text.replace("\n", " ")))


def _check_all(settings: Settings, *, is_quick: bool) -> Iterator[Finding]:
    yield from check_broker(settings)
    store = build_store(settings)
    try:
        yield from check_bucket(store).findings
    finally:
        store.close()
    if not is_quick:
        yield _finding("device", lambda: _check_device(settings))
        yield _finding("model", lambda: _check_model(settings))


def _finding(name: str, check: Callable[[], str]) -> Finding:
    try:
        return ok(name, check())
    except (StartError, ModelError) as exc:
        return fail(name, str(exc).removeprefix(f"{name}: "))


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
