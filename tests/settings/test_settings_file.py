"""settings.toml lists every key there is, with the default that holds without it, and a comment."""

import re
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr

from visionq.kinds import Kind
from visionq.settings import Settings, load_settings

FILE = Path(__file__).parents[2] / "settings.toml"
SECTIONS = ["broker", "storage", "worker", "model", "engine", "limits", "urls"]
KEY_LINE = re.compile(r"(?P<unset># )?(?P<key>[a-z_]+) = (?P<value>.+?) +# (?P<comment>.+)")
TABLE_LINE = re.compile(r"(?:# )?\[(?P<table>[a-z.]+)\]")
EXAMPLE_KIND = "kinds.invoice"


def keys_in_file() -> dict[str, dict[str, re.Match[str]]]:
    """Each line with a key, set or commented out, by table and key."""
    found: dict[str, dict[str, re.Match[str]]] = {}
    table = ""
    for line in FILE.read_text("utf-8").splitlines():
        if heading := TABLE_LINE.fullmatch(line):
            table = heading["table"]
            found[table] = {}
        elif key := KEY_LINE.fullmatch(line):
            found[table][key["key"]] = key
    return found


def section_class(section: str) -> type[BaseModel]:
    annotation = Settings.model_fields[section].annotation
    assert isinstance(annotation, type)
    assert issubclass(annotation, BaseModel)
    return annotation


def default(section: str, key: str) -> Any:
    value = section_class(section).model_fields[key].default
    value = value.get_secret_value() if isinstance(value, SecretStr) else value
    return list(value) if isinstance(value, tuple) else value


def test_the_sections_of_the_file_are_those_of_the_code() -> None:
    assert list(keys_in_file()) == [*SECTIONS, EXAMPLE_KIND]
    assert [*SECTIONS, "kinds"] == list(Settings.model_fields)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_of_the_code_stands_in_the_file_and_no_other(section: str) -> None:
    assert list(keys_in_file()[section]) == list(section_class(section).model_fields)


def test_every_key_of_a_kind_stands_in_the_example_of_the_file() -> None:
    assert sorted(keys_in_file()[EXAMPLE_KIND]) == sorted(field.name for field in fields(Kind))


@pytest.mark.parametrize("section", SECTIONS)
def test_a_key_that_is_set_in_the_file_has_the_default_of_the_code(section: str) -> None:
    values = tomllib.loads(FILE.read_text("utf-8"))[section]
    assert values == {key: default(section, key) for key in values}


@pytest.mark.parametrize("section", SECTIONS)
def test_a_key_is_commented_out_exactly_when_it_has_no_default(section: str) -> None:
    commented_out = [key for key, line in keys_in_file()[section].items() if line["unset"]]
    assert commented_out == [
        key for key in section_class(section).model_fields if default(section, key) is None
    ]


def test_every_line_with_a_key_has_its_comment_on_the_same_line() -> None:
    lines = FILE.read_text("utf-8").splitlines()
    with_key = [line for line in lines if re.match(r"(# )?[a-z_]+ = ", line)]
    assert [line for line in with_key if not KEY_LINE.fullmatch(line)] == []
    assert len(with_key) == sum(len(keys) for keys in keys_in_file().values())


def test_times_and_sizes_carry_their_unit_in_the_name() -> None:
    for section in SECTIONS:
        for key, line in keys_in_file()[section].items():
            if line["comment"].startswith("seconds"):
                assert key.endswith("_seconds")
            if "bytes of" in line["comment"]:
                assert key.endswith("_bytes")


def test_the_file_as_it_is_changes_no_default() -> None:
    from_file = load_settings(FILE)
    for section in SECTIONS:
        assert getattr(from_file, section) == section_class(section)()


def test_the_file_with_everything_uncommented_is_still_valid(tmp_path: Path) -> None:
    text = FILE.read_text("utf-8")
    path = tmp_path / "settings.toml"
    path.write_text(re.sub(r"(?m)^# (\[[a-z.]+\]|[a-z_]+ = )", r"\1", text), "utf-8")
    settings = load_settings(path)
    assert settings.storage.endpoint_url == "http://127.0.0.1:8333"
    assert settings.kinds["invoice"].default_question == "Who bills whom, and how much?"
