"""The file `env` of a state folder: what `visionq up` tells other terminals, and Python in them.

Lines for a shell, which export settings: where the servers are, the model of the workers, and the
settings file. Only its user may read it: it holds the keys.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from visionq.local.folder import write_private

FILE_NAME = "env"


@contextmanager
def written(state_folder: Path, environment: Mapping[str, str]) -> Iterator[Path]:
    """The file with these variables, for as long as the block runs; yields its absolute path."""
    path = state_folder.absolute() / FILE_NAME
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in environment.items()]
    write_private(path, "".join(lines))
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def read(state_folder: Path) -> dict[str, str]:
    """The variables in it; none where there is no such file."""
    try:
        words = shlex.split((state_folder / FILE_NAME).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return dict(word.split("=", 1) for word in words if "=" in word)
