"""Where a checkpoint's files lie: a folder that is given, or one downloaded from the hub.

The only file that knows huggingface_hub (it comes with transformers). Only JSON and safetensors
files are fetched: no code and no pickles ever reach the machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from visionq_worker.model.errors import ModelLoadError

DESCRIPTIONS = ("*.json",)
EVERYTHING = ("*.json", "*.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """A folder of model files and what it is called."""

    model_id: str
    revision: str | None  # commit on the hub; None for a folder that was given
    folder: Path


def find_checkpoint(
    source: str, revision: str | None, files: Sequence[str] = EVERYTHING
) -> Checkpoint:
    """The checkpoint behind a local folder or a hub id; downloads those files that are not here.

    A revision means nothing for a folder and is then left out. Raises ModelLoadError.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return Checkpoint(source, None, folder)
    if folder.is_absolute() or source.startswith((".", "~")):
        raise ModelLoadError(f"no model folder at {source}: correct the path or use a hub id")
    snapshot = _download(source, revision, files)
    return Checkpoint(source, snapshot.name, snapshot)  # a snapshot's folder is named by its commit


def _download(model_id: str, revision: str | None, files: Sequence[str]) -> Path:
    at = f"{model_id} (revision {revision or 'main'})"
    try:
        return Path(snapshot_download(model_id, revision=revision, allow_patterns=list(files)))
    except HFValidationError as error:
        raise ModelLoadError(f"{model_id!r} is neither a folder nor a hub id") from error
    except GatedRepoError as error:
        raise ModelLoadError(
            f"{at} needs accepted terms and a token: run `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelLoadError(f"{at} is not on the hub: correct the id, or log in") from error
    except RevisionNotFoundError as error:
        raise ModelLoadError(f"{at} does not exist: name another revision") from error
    except LocalEntryNotFoundError as error:
        raise ModelLoadError(
            f"{at} is not in the local cache and the hub cannot be reached: "
            "connect once, or give a local folder"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise ModelLoadError(f"{at} could not be downloaded: {type(error).__name__}") from error
