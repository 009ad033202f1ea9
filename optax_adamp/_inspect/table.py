"""A table that prints as aligned text and shows as HTML in a notebook."""

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, SupportsIndex, TypeVar, overload

from optax_adamp._trees import printable

Row = TypeVar("Row")


class Table(Sequence[Row]):
    """Rows of plain data, with notes below.

    A sequence of its rows, which are named tuples of one type. `print` gives aligned
    text, a notebook an HTML table; booleans, numbers and strings stay as they are in
    the rows. What cannot be printed is shown escaped, so that no name breaks a line.

    Attributes:
      rows: The rows.
      columns: The attributes of a row that are shown, with their headings. A column
        that has nothing in any row is not shown.
      notes: What stands below the table; may have several lines.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        columns: Mapping[str, str],
        notes: Sequence[str] = (),
    ):
        """Makes a table.

        Args:
          rows: The rows.
          columns: The attributes of a row that are shown, with their headings.
          notes: Sentences to stand below.
        """
        self.rows = tuple(rows)
        self.columns = dict(columns)
        self.notes = tuple(notes)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Row, ...]: ...

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __str__(self) -> str:
        columns = [_align(column) for column in _filled_columns(self)]
        lines = ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]
        return "\n".join([*lines, *_printable_notes(self)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        def row(cells: Sequence[str], tag: str) -> str:
            inner = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
            return f"<tr>{inner}</tr>"

        columns = [[column.heading, *column.cells] for column in _filled_columns(self)]
        head, *body = zip(*columns, strict=True)
        rows = "".join(row(cells, "td") for cells in body)
        # Line breaks and indents are part of a note.
        notes = "".join(
            f"<pre>{html.escape(note)}</pre>" for note in _printable_notes(self)
        )
        return (
            f"<table><thead>{row(head, 'th')}</thead><tbody>{rows}</tbody></table>"
            f"{notes}"
        )


class _Column(NamedTuple):
    heading: str
    cells: list[str]
    is_numeric: bool


def _filled_columns(table: Table[Any]) -> list[_Column]:
    """The columns of a table; of a table without rows, all of them."""
    columns: list[_Column] = []
    for attribute, heading in table.columns.items():
        values = [getattr(row, attribute) for row in table]
        cells = [_format(value) for value in values]
        if any(cells) or not cells:
            numeric = all(value is None or _is_number(value) for value in values)
            columns.append(_Column(heading, cells, numeric))
    return columns


def _align(column: _Column) -> list[str]:
    """The heading and the cells, padded to one width; numbers end below each other."""
    lines = [column.heading, *column.cells]
    width = max(map(len, lines))
    return [
        line.rjust(width) if column.is_numeric else line.ljust(width) for line in lines
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _format(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}"
    return printable(str(value))


def _printable_notes(table: Table[Any]) -> list[str]:
    """The notes, with the lines that they are made of."""
    return ["\n".join(map(printable, note.split("\n"))) for note in table.notes]
