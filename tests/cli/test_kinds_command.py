"""`visionq kinds` says what may be asked, without a server."""

from __future__ import annotations

from pathlib import Path

from tests.cli.commands import json_lines, visionq
from visionq.kinds import BUILTIN_KINDS

SETTINGS = """
[limits]
free_questions = false
[kinds.cars]
prompt = "Count the cars. {question}"
version = 3
default_question = ""
max_images = 4
num_crops = 8
retries = [{temperature = 0.3}]
"""


def test_built_in_kinds_are_listed() -> None:
    listed = visionq({}, "kinds")
    assert listed.exit_code == 0
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in listed.stdout.splitlines()}
    assert list(lines) == list(BUILTIN_KINDS)
    assert lines["ask"] == "v1, 1-8 images, a question, 1000 tokens, text"
    assert lines["compare"] == "v1, 2-8 images, a question, or its own, 1000 tokens, text"
    assert lines["detect"] == "v2, 1 image, a question, or its own, 1000 tokens, boxes"


def test_kinds_of_the_settings_are_listed_with_all_parameters(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(SETTINGS)
    told = visionq({}, "--settings", file, "kinds").stdout
    assert "v3, 1-4 images, no question, 1000 tokens, text, 8 crops, 1 retries" in told
    kinds = {
        one["name"]: one for one in json_lines(visionq({}, "--settings", file, "kinds", "--json"))
    }
    assert kinds["cars"]["prompt"] == "Count the cars. {question}"
    assert kinds["cars"]["retries"] == [{"temperature": 0.3, "num_crops": None}]
    assert len(kinds["cars"]["digest"]) == 16
    assert not any(kind["takes_question"] for kind in kinds.values())


def test_bad_settings_are_named(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("[kinds.cars]\nmax_images = 0\n")
    refused = visionq({}, "--settings", file, "kinds")
    assert refused.exit_code == 2
    assert "kinds.cars" in refused.stderr
