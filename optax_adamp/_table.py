"""A table that prints as aligned text and shows as HTML in a notebook."""

import html
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple


class Table(Sequence):
    """Rows of plain data, with notes below.

    A sequence of its rows, which are named tuples of one type. `print` gives aligned
    text, a notebook an HTML table; booleans, numbers and strings stay as they are in
    the rows.

    Attributes:
      rows: The rows.
      notes: Sentences that stand below the table.
    """

    def __init__(
        self,
        rows: Sequence[NamedTuple],
        columns: dict[str, str],
        notes: Sequence[str] = (),
    ):
        """Makes a table.

        Args:
          rows: The rows.
          columns: The fields of a row that are shown, with their headings.
          notes: Sentences to stand below.
        """
        self.rows = tuple(rows)
        self.notes = tuple(notes)
        self._columns = dict(columns)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows)

    def _cells(self) -> list[list[str]]:
        return [
            [_format(getattr(row, field)) for field in self._columns]
            for row in self.rows
        ]

    def __str__(self) -> str:
        lines = [list(self._columns.values()), *self._cells()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = [
            "  ".join(
                cell.ljust(width) for cell, width in zip(line, widths, strict=True)
            ).rstrip()
            for line in lines
        ]
        return "\n".join([*text, *self.notes])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        def row(cells: Sequence[str], tag: str) -> str:
            inner = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
            return f"<tr>{inner}</tr>"

        head = row(list(self._columns.values()), "th")
        body = "".join(row(cells, "td") for cells in self._cells())
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
        return f"<table><thead>{head}</thead><tbody>{body}</tbody></table>{notes}"


def _format(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value)
