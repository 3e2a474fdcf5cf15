"""`visionq estimate`: the same for people and for programs."""

from __future__ import annotations

from pathlib import Path

from tests.cli.commands import json_of, visionq

Env = dict[str, str]


def test_figures_are_printed_one_by_one(idle: Env, pictures: Path) -> None:
    images = [pictures / "shelf_before.png", pictures / "shelf_after.png"]
    told = visionq(idle, "estimate", "compare", *images, "--max-new-tokens=50")
    assert (told.exit_code, told.stderr) == (0, "")
    figures = dict(line.split(maxsplit=1) for line in told.stdout.splitlines())
    assert figures == {
        "image_tokens": "757 + 757",
        "max_prompt_tokens": "1594",
        "max_new_tokens": "50",
        "max_context_tokens": "unknown",
        "fits": "unknown",
        "position": "0",
        "seconds": "unknown",
    }
    assert visionq(idle, "ls").stdout == ""


def test_json_has_every_field(idle: Env, pictures: Path) -> None:
    cover = pictures / "book_cover.jpg"
    visionq(idle, "submit", "ocr", "inputs/a", "--lane=bulk")
    told = visionq(
        idle, "estimate", "ocr", cover, "--num-crops=4", "--field=title", "--lane=bulk", "--json"
    )
    found = json_of(told)
    assert found["image_tokens"] == [757]
    assert (found["fits"], found["position"]) == (None, 1)


def test_an_image_that_has_no_size_exits_2(idle: Env, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("Dear Sir or Madam,")
    told = visionq(idle, "estimate", "ocr", tmp_path / "letter.txt", "--json")
    assert (told.exit_code, json_of(told)["code"]) == (2, "not_an_image")
