"""The next version's code: this one with a raised contract.

`visionq` is copied into a folder, where the contract gets one more option. Processes that find the
folder first on their path are of the next version; all else they run is this version's code.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

NEW_OPTION = "accent"
NEWER = "NEWER"
"""A question with this word is asked with the new option."""
_CHANGES = {
    "CONTRACT_VERSION = 1\n": "CONTRACT_VERSION = 2\n",
    "= MappingProxyType({})\n": f'= MappingProxyType({{"Options.{NEW_OPTION}": 2}})\n',
    "    reuse: bool = True\n": f"    reuse: bool = True\n    {NEW_OPTION}: str | None = None\n",
}


def next_version(folder: Path) -> Path:
    """Make the code of the next version there."""
    import visionq

    code = folder / "next-version"
    shutil.copytree(Path(visionq.__file__).parent, code / "visionq")
    contract = code / "visionq" / "contract.py"
    text = contract.read_text()
    for old, new in _CHANGES.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    contract.write_text(text)
    return code


def with_code(code: Path) -> dict[str, str]:
    """What makes a process find that code first."""
    before = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join([str(code), *filter(None, [before])])}
