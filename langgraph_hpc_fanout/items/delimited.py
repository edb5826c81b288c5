"""Items from CSV and its kin."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from typing import Any

from langgraph_hpc_fanout.items.files import MOST_BYTES, suffix_of
from langgraph_hpc_fanout.items.lines import LineFile, Lines, Mark
from langgraph_hpc_fanout.items.source import BadRow, SourceError


class Csv(LineFile):
    """Items from a file of delimited texts; its first row names the fields.

    Values are texts. Quoted ones may have line ends and doubled quotes in them. Blank lines are no
    items. A row with too many or too few values, with a stray quote, or not UTF-8, fails its item
    alone and is named; the next line is read as the next row.

    Args:
        path: The file: `.csv` or `.tsv`, maybe compressed: `.gz`, `.zst` (needs pyarrow).
        delimiter: What is between values; by default a tab in `.tsv`, otherwise a comma.

    Raises:
        ValueError: If the delimiter is not one character.

    Example:
        ```python
        screen = FanOutNode(Csv("molecules.csv", delimiter=";"), prompt, pool=pool)
        ```
    """

    kind = "csv"

    def __init__(self, path: str | os.PathLike[str], delimiter: str | None = None) -> None:
        if delimiter is None:
            delimiter = "\t" if suffix_of(os.fsdecode(path)) == ".tsv" else ","
        if len(delimiter) != 1 or delimiter in '\r\n"':
            raise ValueError(f"Csv(delimiter={delimiter!r}) must be one character, such as ';'.")
        super().__init__(path, delimiter=delimiter)
        self._delimiter = delimiter
        self._fields: tuple[str, ...] | None = None

    def fields(self) -> tuple[str, ...]:
        """The names in the file's first row.

        Raises:
            SourceError: If they cannot be read, one is empty, or two are the same.
        """
        if self._fields is None:
            with Lines(self.name, self.path, Mark()) as lines:
                self._fields = self._header(lines)
        return self._fields

    def _header(self, lines: Lines) -> tuple[str, ...]:
        try:
            rows = csv.reader(map(bytes.decode, lines), delimiter=self._delimiter, strict=True)
            names = next(filter(None, rows), [])
        except (UnicodeDecodeError, csv.Error) as error:
            raise SourceError(
                f"{self.name}, line {lines.line}: no names of fields can be read ({error}); save "
                "it as CSV in UTF-8."
            ) from error
        if not all(names):
            raise SourceError(
                f"{self.name}: field {names.index('') + 1} has no name; name it in the first row."
            )
        if twice := [name for name in names if names.count(name) > 1]:
            raise SourceError(f"{self.name}: two fields are named {twice[0]!r}; rename one.")
        return tuple(names)

    def _rows(self, lines: Lines) -> Iterator[list[str] | BadRow]:
        if not lines.offset:
            self._fields = self._header(lines)
        width = len(self.fields())
        row = _Row()
        while True:
            try:
                yield from self._rows_until_broken(lines, row, width)
            except csv.Error as error:
                # A stray quote may have run over good rows: all lines but its own come once more.
                lines.again(row.lines[1:])
                bad = self._bad(lines.line, f"{error}; is a quote missing or stray?")
            else:
                return
            yield bad
            row.clear()

    def _rows_until_broken(
        self, lines: Lines, row: _Row, width: int
    ) -> Iterator[list[str] | BadRow]:
        for values in csv.reader(row.texts(lines), delimiter=self._delimiter, strict=True):
            if len(values) == width and not row.fault:
                yield values
            elif values:
                fault = row.fault or f"{len(values)} values for {width} fields"
                yield self._bad(lines.line - len(row.lines) + 1, fault)
            row.clear()

    def _item(self, row: list[str] | BadRow, lines: Lines) -> Any:
        return row if isinstance(row, BadRow) else dict(zip(self.fields(), row, strict=True))

    def _bad(self, line: int, why: str) -> BadRow:
        return BadRow(f"{self.name}, line {line}: {why}")


class _Row:
    """The lines of the row that is being read, and what is wrong with them."""

    __slots__ = ("fault", "lines")

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.fault = ""

    def clear(self) -> None:
        self.lines.clear()
        self.fault = ""

    def texts(self, lines: Lines) -> Iterator[str]:
        """The lines as texts, each noted."""
        for line in lines:
            self.lines.append(line)
            if len(line) >= MOST_BYTES:
                self.fault = f"longer than {MOST_BYTES // 2**20} MB"
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                self.fault = f"not UTF-8 (byte {error.start + 1})"
                text = line.decode(errors="replace")
            yield text
