"""The journal's reader: what a worker is still writing is not taken for a line."""

from __future__ import annotations

import json
from pathlib import Path

from tests.faults.journal import Reader


def test_half_a_line_waits_for_its_other_half(tmp_path: Path) -> None:
    reader = Reader(tmp_path / "journal")
    line = json.dumps({"at": 1.0, "pid": 7, "what": "done", "task_id": "a"}).encode() + b"\n"
    with (tmp_path / "journal").open("ab", buffering=0) as journal:
        for part in (line[:9], line[9:-1]):
            journal.write(part)
            assert reader.lines() == ()
        journal.write(line[-1:] + line)
    assert reader.count("done", pid=7) == 2
    reader.close()
