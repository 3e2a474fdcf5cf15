"""Which answers hold a table, in the forms that chat models give it, and what its CSV is."""

from __future__ import annotations

import csv
import io
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from visionq_worker.outputs import parse
from visionq_worker.tables import Lines, as_csv, read_table
from visionq_worker.verdict import judge

SALES = [["Year", "Sales"], ["2020", "38"]]
MARKDOWN = "| Year | Sales |\n|------|-------|\n| 2020 | 38 |"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(MARKDOWN, id="Markdown"),
        pytest.param("Year | Sales\n:--- | ---:\n2020 | 38", id="Markdown without outer pipes"),
        pytest.param("|Year|Sales|\n|-|-|\n|2020|38|", id="short rule"),
        pytest.param("| Year | Sales |\n| 2020 | 38 |", id="Markdown without a rule"),
        pytest.param(
            "|---|---|\n| Year | Sales |\n|---|---|\n| 2020 | 38 |\n|---|---|", id="frame"
        ),
        pytest.param(" Year | Sales \n------+-------\n 2020 |    38", id="as psql draws it"),
        pytest.param(
            "+------+-------+\n| Year | Sales |\n+======+=======+\n| 2020 | 38 |\n+------+-------+",
            id="grid",
        ),
        pytest.param("Year,Sales\n----,-----\n2020,38", id="CSV with a rule"),
        pytest.param("Year,Sales\n----------\n2020,38", id="CSV with a rule of one piece"),
        pytest.param("Year\tSales\n2020\t38", id="tabs"),
        pytest.param("Year;Sales\n2020;38", id="semicolons"),
        pytest.param("Year,Sales\n\n2020,38", id="empty line below the header"),
        pytest.param("```csv\nYear,Sales\n2020,38\n```", id="fence"),
        pytest.param("```\nYear,Sales\n2020,38\n```", id="fence without a language"),
        pytest.param("~~~text\nYear,Sales\n2020,38\n~~~", id="fence of tildes"),
        pytest.param("````md\n" + MARKDOWN + "\n````", id="Markdown in a long fence"),
        pytest.param("```csv\nYear,Sales\n2020,38", id="fence that is not closed"),
        pytest.param("```csv\nYear,Sales\n2020,38```", id="fence closed on the last line"),
        pytest.param("```Year,Sales\n2020,38```", id="fence on the lines of the table"),
        pytest.param(
            "Here you are:\n\n```csv\nYear,Sales\n2020,38\n```\n\nSales are in millions.",
            id="sentences around a fence",
        ),
        pytest.param(f"Here is the table:\n\n{MARKDOWN}\n\nTotal: 38", id="lines around Markdown"),
        pytest.param(f"Table 1\n{MARKDOWN}", id="title of a Markdown table"),
        pytest.param("Here is the table:\nYear,Sales\n2020,38", id="a sentence before"),
        pytest.param("Here it is, as you asked:\nYear,Sales\n2020,38", id="a comma in it"),
        pytest.param("Here it is, as you asked:\n\nYear, Sales\n2020, 38", id="spaces on commas"),
        pytest.param("Sales by year\n\nYear,Sales\n2020,38", id="a title"),
        pytest.param("# Sales\nYear,Sales\n2020,38", id="a heading"),
        pytest.param("**Sales**\nYear,Sales\n2020,38", id="a bold line"),
        pytest.param("以下是表格：\nYear,Sales\n2020,38", id="a sentence without words"),
        pytest.param("Year,Sales\n2020,38\n\nLet me know if I can help!", id="a sentence behind"),
        pytest.param("Year,Sales\n2020,38\nNote that these, too, are rounded.", id="commas in it"),
        pytest.param("Year,Sales\n2020,38\n\nSource: annual report 2020", id="a source"),
        pytest.param("Year, Sales\n2020, 38\n\nSales are rounded, as said.", id="apart"),
        pytest.param('Here is "Sales", the table:\nYear,Sales\n2020,38', id="quotes in a sentence"),
    ],
)
def test_table_is_taken_out_of_what_is_written_around_it(text: str) -> None:
    assert read_table(text) == SALES


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ("| a \\| b | c |\n|---|---|\n| 1, 2 | |", [["a | b", "c"], ["1, 2", ""]]),
        ("| Item |\n|------|\n| Pen |", [["Item"], ["Pen"]]),
        ("| a | b |\n|---|---|\n| - | - |", [["a", "b"], ["-", "-"]]),
        ("Item\nPen\nInk", [["Item"], ["Pen"], ["Ink"]]),
        ("Item\nThe Lord of the Rings", [["Item"], ["The Lord of the Rings"]]),
        ('Item\n"Pen, red"', [["Item"], ["Pen, red"]]),
        ("a,b\n-,-", [["a", "b"], ["-", "-"]]),
        ("Jahr;Umsatz\n2020;38,5", [["Jahr", "Umsatz"], ["2020", "38,5"]]),
        ('Id, "Last, First"\n1, "Roe, Jo"', [["Id", "Last, First"], ["1", "Roe, Jo"]]),
        ("a,b\n\n1,2\n\n3,4", [["a", "b"], ["1", "2"], ["3", "4"]]),
        ("Year, Note\n2020, Sales fell.\n2021, Sales rose.", None),
        ("Name,Why did you come?\nJo,To see it all.", None),
    ],
)
def test_cells_are_what_was_written(text: str, table: Lines | None) -> None:
    expected = table or [re.split(", ?", line) for line in text.splitlines()]
    assert read_table(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("I cannot see a table.\nPlease try again.", id="prose"),
        pytest.param("There is no table\nin this picture", id="prose without full stops"),
        pytest.param("Sales rose, then fell.\nIn 2021, they rose.", id="prose with commas"),
        pytest.param(
            "The table lists years, and it\nshows sales, in millions.", id="wrapped prose"
        ),
        pytest.param("Sales were 38 in 2020, 40 in 2021\nand 45 in 2022, as shown", id="no stop"),
        pytest.param("Sales of 10,000 pens in 2020,\n12,000 in 2021, fell.", id="numbers in prose"),
        pytest.param("Pens (red, blue)\nand ink (black, red)", id="brackets around a comma"),
        pytest.param("Here is the table:\n\nYear\n2020", id="one column behind a sentence"),
        pytest.param("Sales fell\n\nCosts rose", id="paragraphs"),
        pytest.param("- Pen\n- Ink", id="a list"),
        pytest.param("1. Pen\n2. Ink", id="a numbered list"),
        pytest.param("- Pen, 3\n- Ink, 4", id="a list with commas"),
        pytest.param("Year: 2020\nSales: 38", id="names and values"),
        pytest.param("# Sales\n## 2020", id="headings"),
        pytest.param("Year: 2020, Sales: 38\nYear: 2021, Sales: 40", id="names, values, commas"),
        pytest.param("Year: 2020 | Sales: 38\nYear: 2021 | Sales: 40", id="names and pipes"),
        pytest.param('{"Year": 2020, "n": 38}\n{"Year": 2021, "n": 40}', id="JSON lines"),
        pytest.param('["Year", "Sales"]\n["2020", "38"]', id="arrays"),
        pytest.param("('Year', 'Sales')\n('2020', '38')", id="tuples"),
        pytest.param("Year,Sales\n2020,38\n...", id="rows left out"),
        pytest.param("Year\n----\n2020", id="a rule below one column"),
        pytest.param("<table>\n<tr><td>Year</td></tr>\n</table>", id="HTML"),
        pytest.param("<tr><td>a, b</td></tr>\n<tr><td>1, 2</td></tr>", id="HTML with commas"),
        pytest.param("Year & Sales \\\\\n2020 & 38 \\\\", id="LaTeX"),
        pytest.param("│ Year │ Sales │\n├──────┼───────┤\n│ 2020 │ 38 │", id="drawn with boxes"),
        pytest.param('```json\n[{"Year": 2020}]\n```', id="JSON"),
        pytest.param('[\n{"Year": 2020}\n]', id="JSON on several lines"),
        pytest.param("```csv\nI cannot read the table.\nSorry.\n```", id="prose in a fence"),
        pytest.param("```\na,b\n1,2\n```\n```\nc,d\n3,4\n```", id="two fences"),
        pytest.param(f"{MARKDOWN}\n\n{MARKDOWN}", id="two Markdown tables"),
        pytest.param(f"{MARKDOWN}\nand\n{MARKDOWN}", id="a line between two Markdown tables"),
        pytest.param("a,b\n1,2\n\nc,d\n3,4", id="two CSV tables"),
        pytest.param("| a | b |\n|---|---|", id="a header and a rule"),
        pytest.param("| a | b |\n|---|---|\n| 1 |", id="a short row"),
        pytest.param("| a | b |\n|---|---|\n| 1 | 2 | 3 |", id="a long row"),
        pytest.param("| a | b | c |\n|---|---|\n| 1 | 2 | 3 |", id="a short rule"),
        pytest.param(f"{MARKDOWN}\nTotal", id="a row without pipes"),
        pytest.param(
            "+---+\n| a |\n+---+\n| 1 |\n| 2 |\n+---+\n| 3 |\n+---+", id="rows of two lines"
        ),
        pytest.param("| Roe, Jo | 3 |\n| Doe, Al | 4 |", id="pipes and commas"),
        pytest.param("Jahr;Umsatz, Mio\n2020;38,5", id="semicolons and commas"),
        pytest.param("Region,Sales\nNorth,1,234\nSouth,2,345", id="commas in numbers"),
        pytest.param(
            "Year, Sales\n2020, 38\nPlease note, all are rounded.", id="a row or a remark"
        ),
        pytest.param("Here is, in short, the table:\na, b, c\n1, 2, 3", id="a header or a remark"),
    ],
)
def test_what_cannot_be_told_from_other_text_is_unparsed(text: str) -> None:
    assert parse(text, "table", (1, 1)) is None
    verdict = judge(text, None, finish_reason="stop", parser="table")
    assert (verdict.outcome, verdict.reasons) == ("degraded", ("unparsed",))


CELL = st.text(st.sampled_from('ab1 ,;\t|\\"\n.:-=+'), max_size=6).map(str.strip)
TABLES = st.integers(2, 4).flatmap(
    lambda width: st.lists(st.lists(CELL, min_size=width, max_size=width), min_size=2, max_size=4)
)


def written(table: Lines) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows(table)
    return text.getvalue()


def is_rule(row: list[str]) -> bool:
    return all(re.fullmatch(r":?(-{3,}|={3,}):?", cell) for cell in row)


@given(table=TABLES, fence=st.sampled_from(["{}", "```csv\n{}```", "~~~\n{}", "Here it is:\n{}"]))
@example(table=[["a", "b"], ["x | y\n---|---\n1 | 2", "c"]], fence="{}")
@example(table=[["a,\nb.", "c"], ["It is\nso. ", "d, e f g."]], fence="Here it is:\n{}")
@example(table=[["a;b", "c"], ["1;2", "3"]], fence="{}")
@example(table=[["- 1", ""], ["- 1", ""]], fence="{}")
def test_csv_in_quotes_keeps_its_cells(table: Lines, fence: str) -> None:
    text = fence.format(written(table))
    if not is_rule(table[1]):
        found = read_table(text)
        # Of two readings none is taken.
        assert found == [[cell.strip() for cell in row] for row in table] or (
            found is None and is_ambiguous(table)
        )


WORDS = ["Pen", "2020", "1,234", 'say "hi"', "a | b", "two\nlines", "", "-5", "Mr. Roe", "it is so"]


@given(
    table=st.integers(2, 4).flatmap(
        lambda width: st.lists(
            st.lists(st.sampled_from(WORDS), min_size=width, max_size=width), min_size=2, max_size=5
        )
    )
)
def test_plain_csv_keeps_its_cells(table: Lines) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(table)
    assert read_table(text.getvalue()) == table


def is_ambiguous(table: Lines) -> bool:
    lines = written(table).splitlines()
    return any(all(mark in line for line in lines) for mark in ";\t")


@given(table=TABLES, outer=st.booleans())
@example(table=[["-", "-"], ["-", "-"]], outer=False)
@example(table=[[":", "==="], ["", ""], ["", ""]], outer=False)
@example(table=[["", ';"'], ["", '"'], ["", ";"]], outer=False)
def test_markdown_keeps_its_cells(table: Lines, outer: bool) -> None:
    cells = [[" ".join(cell.replace("\\", "").split()) or "x" for cell in row] for row in table]
    header, *rows = (" | ".join(cell.replace("|", "\\|") for cell in row) for row in cells)
    lines = [header, " | ".join("---" for _ in cells[0]), *rows]
    text = "\n".join(f"| {line} |" if outer else line for line in lines)
    found = read_table(text)
    # With separators and quotes in the cells, the lines may be CSV as well.
    assert found == cells or (found is None and (any(map(is_drawn, cells)) or '"' in text))


def is_drawn(row: list[str]) -> bool:
    """Whether the row looks like a rule."""
    return re.fullmatch("[-=+: |]+", " ".join(row)) is not None


@given(text=st.text(st.sampled_from('ab1 ,;\t|\\"\n.:-=+`~#*<>/tr'), max_size=60))
def test_no_answer_yields_a_rule_as_its_first_row(text: str) -> None:
    table = read_table(text)
    assert table is None or not is_rule(table[1]) or is_rule(table[0])


def test_reading_takes_time_in_proportion_to_the_text() -> None:
    sentence = "In this year, as in others, sales rose.\n"
    for text in (sentence * 4_000, "It is so.\n" * 10_000, "|-" * 50_000, "```\n" * 20_000):
        assert read_table(text) is None


@pytest.mark.parametrize(
    "cell",
    [
        *("=1+1", "@SUM(A1)", "+cmd|' /C calc'!A0", "-2+3", "-", "--", "+49 30 1234", "-inf"),
        *("=", "-1-2", "+1,2345.6", "-5 km", "\uff1d1+1", "\uff0bA1", "\uff0dA1", "\uff20A1"),
        *("'=1+1", "''-x", "-5\n", "\t=1"),
    ],
)
def test_formula_is_guarded_in_the_csv(cell: str) -> None:
    guarded = as_csv([["a", cell], [cell, "b"]])
    assert list(csv.reader(io.StringIO(guarded, newline=""))) == [
        ["a", f"'{cell}"],
        [f"'{cell}", "b"],
    ]


@pytest.mark.parametrize(
    "cell",
    [
        *("-5", "+3.2", "-1,234.5", "-1.234,5", "-12%", "-12.5 %", "+.5", "-1e-3", "-1 234 567"),
        *(
            "-1\u202f234,5",
            "-1'234.50",
            "-0,5",
            "5",
            "",
            "a=b",
            "'quoted'",
            "\u22125",
            "1-2",
            "a@b",
        ),
    ],
)
def test_other_cells_stay_as_they_are(cell: str) -> None:
    read = csv.reader(io.StringIO(as_csv([["a", "b"], [cell, "c"]])))
    assert list(read) == [["a", "b"], [cell, "c"]]


@given(
    table=st.lists(st.lists(st.text(st.sampled_from("'=+-@1.\uff1da,\""), max_size=5), min_size=1))
)
def test_guard_can_be_taken_off_again(table: Lines) -> None:
    read = list(csv.reader(io.StringIO(as_csv(table), newline="")))
    guard = re.compile("'(?='*[=+\\-@\t\r\uff1d\uff0b\uff0d\uff20])")
    assert [
        [guard.sub("", cell, count=1) if guard.match(cell) else cell for cell in row]
        for row in read
    ] == table


def test_value_of_a_table_is_not_guarded() -> None:
    value = parse("Name,Price\n=1+1,-5", "table", (1, 1))
    assert value == {
        "header": ["Name", "Price"],
        "rows": [["=1+1", "-5"]],
        "csv": "Name,Price\n'=1+1,-5\n",
    }


def test_return_in_a_cell_ends_no_row() -> None:
    assert as_csv([["a", "b"], ["1\r2", "3\r\n4"]]) == 'a,b\n"1\n2","3\n4"\n'
