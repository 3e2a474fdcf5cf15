"""What is played at which request, and how it is told."""

from __future__ import annotations

from tests.faults.__main__ import _arguments, _parts
from tests.faults.rows import ROWS
from tests.faults.tables import as_markdown, as_text

TABLE = [("row", "what"), ("1", "kill -9"), ("36", "-")]
CONTROL = ("stock", [2, 11, 16, 21])


def test_matrix_is_followed_by_its_control() -> None:
    assert list(_parts(_arguments(["--full"]))) == [("ours", list(ROWS)), CONTROL]


def test_control_can_be_played_alone() -> None:
    assert list(_parts(_arguments(["--stock"]))) == [CONTROL]


def test_chosen_rows_are_played_without_control() -> None:
    assert list(_parts(_arguments(["--rows", "2,22"]))) == [("ours", [2, 22])]
    assert list(_parts(_arguments(["--rows", "2", "--stock"]))) == [("stock", [2])]


def test_text_has_its_columns_aligned() -> None:
    assert as_text(TABLE) == "row  what\n1    kill -9\n36   -"


def test_markdown_has_a_line_below_its_headings() -> None:
    assert as_markdown(TABLE).splitlines() == [
        "| row | what |",
        "| --- | --- |",
        "| 1 | kill -9 |",
        "| 36 | - |",
    ]
