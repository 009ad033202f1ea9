"""The table that `describe` returns: text, HTML and plain rows."""

import xml.etree.ElementTree as ElementTree
from typing import NamedTuple

import pytest

from optax_adamp._inspect.table import Table


class Row(NamedTuple):
    name: str
    size: int | None
    share: float | None = None
    hidden: str = "never shown"

    @property
    def loud(self):
        return self.name.upper()


ROWS = [Row("first", 5, 0.25), Row("second <b>", 1234, None), Row("", None, 1 / 3)]
COLUMNS = {"name": "the name", "size": "size", "share": "share", "loud": "LOUD"}


def test_text_is_aligned():
    text = str(Table(ROWS, COLUMNS, ["Two notes,\n  one of two lines.", "The other."]))

    assert text.splitlines() == [
        "the name    size  share  LOUD",
        "first          5   0.25  FIRST",
        "second <b>  1234         SECOND <B>",
        "                  0.333",
        "Two notes,",
        "  one of two lines.",
        "The other.",
    ]


def test_columns_with_nothing_in_them_are_left_out():
    table = Table(ROWS[1:2], COLUMNS)

    assert str(table).splitlines()[0].split() == ["the", "name", "size", "LOUD"]
    assert "share" not in table._repr_html_()


def test_zero_and_false_are_something():
    table = Table([Row("a", 0, False)], {"size": "size", "share": "share"})

    assert str(table).splitlines() == ["size  share", "   0  False"]


def test_headings_stay_without_rows():
    assert str(Table([], COLUMNS)) == "the name  size  share  LOUD"


def test_html_has_the_same_cells_and_escapes_them():
    notes = ["a < b\n  & c"]
    page = Table(ROWS, COLUMNS, notes)._repr_html_()

    root = ElementTree.fromstring(f"<div>{page}</div>")
    cells = [[cell.text or "" for cell in row] for row in root.iter("tr")]
    assert cells == [
        ["the name", "size", "share", "LOUD"],
        ["first", "5", "0.25", "FIRST"],
        ["second <b>", "1234", "", "SECOND <B>"],
        ["", "", "0.333", ""],
    ]
    assert [note.text for note in root.iter("pre")] == notes


def test_html_to_the_letter():
    rows = [Row("a", 1), Row("b", 2)]
    table = Table(rows, {"name": "the name", "size": "size"}, ["x < y", "z"])

    assert table._repr_html_() == (
        "<table><thead><tr><th>the name</th><th>size</th></tr></thead>"
        "<tbody><tr><td>a</td><td>1</td></tr><tr><td>b</td><td>2</td></tr></tbody>"
        "</table><pre>x &lt; y</pre><pre>z</pre>"
    )


def test_what_cannot_be_printed_is_escaped():
    table = Table([Row("a\nb\x1b[0m", 1), Row("ö\u202e\xa0", 2)], COLUMNS, ["\r\nc\t"])

    assert str(table).split("\n") == [
        "the name     size  LOUD",
        r"a\nb\x1b[0m     1  A\nB\x1b[0M",
        r"ö\u202e\xa0     2  Ö\u202e\xa0",
        r"\r",
        r"c\t",
    ]
    page = table._repr_html_()
    assert r"<td>a\nb\x1b[0m</td>" in page
    assert "<pre>\\r\nc\\t</pre>" in page
    assert table[0].name == "a\nb\x1b[0m"


def test_what_it_was_made_of_may_change():
    rows, columns, notes = [Row("a", 1)], {"name": "the name"}, ["note"]
    table = Table(rows, columns, notes)
    rows.append(Row("b", 2))
    columns.clear()
    notes.clear()

    assert str(table) == "the name\na\nnote"


def test_rows_stay_plain_data():
    table = Table(ROWS, COLUMNS)

    assert list(table) == ROWS
    assert len(table) == 3
    assert table[0] is ROWS[0]
    assert table[-1].share == pytest.approx(1 / 3)
    assert table[1:] == tuple(ROWS[1:])
    assert repr(table) == str(table)
