"""A checkpoint as a model that is ready to answer: read, checked, placed.

safetensors only, never remote code, no tensor missing and none left over. Whatever goes wrong is
one ModelLoadError with one line that says what to do; the cause is chained to it.
"""

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers.generation.configuration_utils import GenerationConfig

from visionq_worker.model.checkpoint import find_checkpoint
from visionq_worker.model.config import Phi3VConfig
from visionq_worker.model.errors import ModelLoadError
from visionq_worker.model.phi3v import Phi3VForCausalLM
from visionq_worker.model.processor import Phi3VProcessor

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ATTENTIONS = ("sdpa", "eager", "flash_attention_2")

# What transformers raises for files that are absent, damaged or of another model.
_READ_ERRORS = (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError)


@dataclass(frozen=True)
class LoadedModel:
    """A model in place, and where it came from."""

    model: Phi3VForCausalLM = field(repr=False)
    processor: Phi3VProcessor = field(repr=False)
    config: Phi3VConfig = field(repr=False)
    model_id: str
    revision: str | None  # commit on the hub; None for a local folder
    dtype: str
    device: str
    attention: str
    num_parameters: int


def load_model(
    source: str, *, revision: str | None, device: str, dtype: str, attention: str
) -> LoadedModel:
    """The model of a hub id or local folder, in evaluation mode; raises ModelLoadError.

    device: "cpu", "cuda" or "cuda:N"; dtype: a key of DTYPES; attention: one of ATTENTIONS.
    """
    place = _checked_device(device)
    torch_dtype = _checked_dtype(dtype)
    _check_attention(attention, place, torch_dtype)
    checkpoint = find_checkpoint(source, revision)
    processor = Phi3VProcessor.from_pretrained(checkpoint.folder)
    model = _read_weights(checkpoint.folder, torch_dtype, attention)
    return LoadedModel(
        model=_placed(model, place),
        processor=processor,
        config=model.config,
        model_id=checkpoint.model_id,
        revision=checkpoint.revision,
        dtype=dtype,
        device=device,
        attention=attention,
        num_parameters=sum(tensor.numel() for tensor in model.parameters()),
    )


def _checked_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ModelLoadError(f"unknown device {name!r}: use cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise ModelLoadError(f"unknown device {name!r}: use cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelLoadError(
            f"device {name} is not there: install a CUDA build of torch and a driver, or use cpu"
        )
    return device


def _checked_dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise ModelLoadError(f"unknown dtype {name!r}: use one of {', '.join(DTYPES)}")
    return DTYPES[name]


def _check_attention(name: str, device: torch.device, dtype: torch.dtype) -> None:
    if name not in ATTENTIONS:
        raise ModelLoadError(f"unknown attention {name!r}: use one of {', '.join(ATTENTIONS)}")
    if name != "flash_attention_2":
        return
    if find_spec("flash_attn") is None:
        raise ModelLoadError(
            "flash_attention_2 needs the package flash-attn: install it, or use sdpa"
        )
    if device.type != "cuda" or dtype == torch.float32:
        raise ModelLoadError("flash_attention_2 needs a CUDA device and a 16 bit dtype: use sdpa")


def _read_weights(folder: Path, dtype: torch.dtype, attention: str) -> Phi3VForCausalLM:
    """The model on the CPU with every tensor accounted for."""
    try:
        loaded: Any = Phi3VForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except _READ_ERRORS as error:
        reason = str(error).strip().partition("\n")[0]
        raise ModelLoadError(f"{folder}: cannot read the weights: {reason}") from error
    model: Phi3VForCausalLM
    model, report = loaded
    _check_names(folder, report)
    model.generation_config = _chat_generation(model)
    return model


def _check_names(folder: Path, report: dict[str, Any]) -> None:
    for trouble in ("missing", "unexpected", "mismatched"):
        if names := sorted(str(name) for name in report[f"{trouble}_keys"]):
            raise ModelLoadError(
                f"{folder}: {len(names)} {trouble} tensors, first {names[0]}: "
                "this is another model or an incomplete copy; fetch it again"
            )


def _chat_generation(model: Phi3VForCausalLM) -> GenerationConfig:
    """The checkpoint's generation settings, with ends that a chat can reach.

    The published file stops only at `</s>`. The placeholder is never a reply: written by chance, it
    would later be taken for one of the prompt's when Phi3 recomputes its cache.
    """
    settings = model.generation_config
    settings.eos_token_id = sorted(model.config.stop_token_ids)
    settings.pad_token_id = model.config.pad_token_id
    settings.suppress_tokens = [model.config.image_token_id]
    return settings


def _placed(model: Phi3VForCausalLM, device: torch.device) -> Phi3VForCausalLM:
    try:
        torch.nn.Module.to(model, device)  # in place, and typed
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise ModelLoadError(f"the model does not fit on {device}: {reason}") from error
    return model
