"""Files of documents, cut into pieces that are read without what stands before them, where their format allows it.

JSON lines and CSV files in UTF-8 are sought by bytes, Parquet files by row groups. Of an array of objects, of UTF-16
and of files whose lines end in a carriage return alone, the rows before a piece are read and dropped.
"""

from __future__ import annotations

import codecs
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import TYPE_CHECKING, Any, BinaryIO

from .files import FORMATS, file_rows, find_form, naming_other_bytes, read_lines
from .locations import ending, open_binary

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

_BATCH = 1000  # rows of a Parquet file that are decoded at once


@dataclass(frozen=True)
class Piece:
    """Some rows of a file, one after the other.

    Attributes:
        index: Its number among all pieces of all files.
        file: Path or URL of the file.
        first: Number of its first row among the rows of all files.
        rows: How many there are.
        start: Where it starts: the byte, or where `header` is `None` the row of the file.
        delimiter: What is between the cells of a CSV file.
        header: Names of the columns of a CSV file that is sought by bytes; `()` for JSON.
    """

    index: int
    file: str
    first: int
    rows: int
    start: int
    delimiter: str | None = None
    header: tuple[str, ...] | None = None


@dataclass(frozen=True)
class FileIndex:
    """What there is in a file.

    Attributes:
        file: Path or URL.
        columns: Names of its columns; of JSON those of its first row.
        first_row: Its first row; `None` if there is none.
        rows: Their number.
        starts: The byte at which each piece starts; `None` where it is not sought by bytes.
        delimiter: Of a CSV file.
    """

    file: str
    columns: tuple[str, ...]
    first_row: dict[str, Any] | None
    rows: int
    starts: tuple[int, ...] | None = None
    delimiter: str | None = None


def index_file(file: str, size: int, columns: Sequence[str]) -> FileIndex:
    """Look through a file: all of it for JSON and CSV, at its metadata and first row for Parquet.

    Args:
        file: Path or URL.
        size: Rows of a piece.
        columns: Names to look for; they decide what is between the cells of a table.

    Raises:
        ValueError: If it cannot be read.
        OSError: If it is not there.
    """
    if FORMATS[ending(file)] == "parquet":
        return _index_parquet(file)
    encoding, delimiter = find_form(file, columns)
    if encoding != "utf-16":
        with suppress(_NotByBytes), open_binary(file) as opened, naming_other_bytes(file):
            return _index_lines(file, _Lines(opened), size, delimiter, columns)
    rows = file_rows(file, columns)
    first = next(rows, None)
    count = 0 if first is None else 1 + sum(1 for _ in rows)
    return FileIndex(file, tuple(first or ()), first, count, delimiter=delimiter)


def cut(indexes: Iterable[FileIndex], size: int) -> list[Piece]:
    """Cut files into pieces of `size` rows; the last of each file may be smaller."""
    pieces: list[Piece] = []
    rows = 0
    for found in indexes:
        header = None if found.starts is None else found.columns if found.delimiter else ()
        for number, row in enumerate(range(0, found.rows, size)):
            start = row if found.starts is None else found.starts[number]
            count = min(size, found.rows - row)
            pieces.append(Piece(len(pieces), found.file, rows + row, count, start, found.delimiter, header))
        rows += found.rows
    return pieces


class PieceReader:
    """Reads pieces, best in the order of their files.

    Args:
        text_column: Name of the text's column.
        id_column: Name of the ids' column; without one, a row has its number.
    """

    def __init__(self, text_column: str, id_column: str | None = None) -> None:
        self.text_column = text_column
        self.id_column = id_column
        self._columns = [text_column, *([] if id_column is None else [id_column])]
        self._opened: _Rows | None = None

    def __call__(self, piece: Piece) -> list[tuple[Any, Any]]:
        """Return id and text of each row.

        Raises:
            ValueError: If the file has changed so that it does not have these rows any more.
        """
        rows = self._by_bytes(piece) if piece.header is not None else self._by_rows(piece)
        if len(rows) != piece.rows:
            raise ValueError(f"{piece.file!r} has changed: {len(rows)} of {piece.rows} rows are at their place.")
        return [
            (piece.first + number if self.id_column is None else row.get(self.id_column), row.get(self.text_column))
            for number, row in enumerate(rows)
        ]

    def ids(self, piece: Piece) -> list[Any]:
        """Return the ids of the rows alone; nothing is read where they are the numbers of the rows."""
        if self.id_column is None:
            return list(range(piece.first, piece.first + piece.rows))
        return [identifier for identifier, _ in self(piece)]

    def _by_bytes(self, piece: Piece) -> list[dict[str, Any]]:
        with open_binary(piece.file) as opened, naming_other_bytes(piece.file):
            header = None if piece.start == 0 else piece.header  # it stands before the first row
            lines = _Lines(opened, piece.start)
            return list(islice(read_lines(piece.file, lines, piece.delimiter, self._columns, header), piece.rows))

    def _by_rows(self, piece: Piece) -> list[dict[str, Any]]:
        if self._opened is None or not self._opened.is_before(piece):
            parquet = FORMATS[ending(piece.file)] == "parquet"
            self._opened = (_ParquetRows if parquet else _Rows)(piece.file, self._columns)
        return self._opened.take(piece)


class _NotByBytes(Exception):
    """The rows of a file are not its lines."""


class _Lines:
    """The lines of a UTF-8 file from a byte on, and the byte where the last one that was taken ends."""

    def __init__(self, file: BinaryIO, start: int = 0) -> None:
        file.seek(start)
        self.end = start
        self._file = file

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._file.readline()
        if not line:
            raise StopIteration
        if b"\r" in line.rstrip(b"\r\n"):
            raise _NotByBytes
        start, self.end = self.end, self.end + len(line)
        return (line if start else line.removeprefix(codecs.BOM_UTF8)).decode()


def _index_lines(file: str, lines: _Lines, size: int, delimiter: str | None, columns: Sequence[str]) -> FileIndex:
    first, rows, starts, end = None, 0, [], 0
    for row in read_lines(file, lines, delimiter, columns):
        if lines.end == end:  # one of an array of objects
            raise _NotByBytes
        first = row if first is None else first
        if rows % size == 0:
            starts.append(end if rows else 0)
        rows, end = rows + 1, lines.end
    return FileIndex(file, tuple(first or ()), first, rows, tuple(starts), delimiter)


def _index_parquet(file: str) -> FileIndex:
    with _naming_no_parquet(file):
        opened = _open_parquet(file)
        batch = next(opened.iter_batches(batch_size=1), None)
        first = None if batch is None or not len(batch) else batch.to_pylist()[0]
        return FileIndex(file, tuple(opened.schema_arrow.names), first, opened.metadata.num_rows)


class _Rows:
    """The rows of a file from its beginning; what was taken does not come again."""

    def __init__(self, file: str, columns: Sequence[str]) -> None:
        self.file = file
        self._position = 0
        self._rows = iter(file_rows(file, columns))

    def is_before(self, piece: Piece) -> bool:
        """Whether the rows of a piece are still to come."""
        return piece.file == self.file and self._position <= piece.start

    def take(self, piece: Piece) -> list[dict[str, Any]]:
        """Return the rows of a piece."""
        for _ in islice(self._rows, piece.start - self._position):
            pass
        self._position = piece.start + piece.rows
        return list(islice(self._rows, piece.rows))


class _ParquetRows(_Rows):
    """The rows of a Parquet file; those of a row group that nothing is taken from are not decoded."""

    def __init__(self, file: str, columns: Sequence[str]) -> None:
        self.file = file
        with _naming_no_parquet(file):
            self._opened = _open_parquet(file)
        self._columns = columns
        sizes = [self._opened.metadata.row_group(group).num_rows for group in range(self._opened.num_row_groups)]
        self._groups = [0, *accumulate(sizes)]  # where each group starts
        self._left: Any = ()
        self._start_at(0)

    def is_before(self, piece: Piece) -> bool:
        """Whether it is another piece of this file: any group can be sought."""
        return piece.file == self.file

    def take(self, piece: Piece) -> list[dict[str, Any]]:
        """Return the rows of a piece."""
        group = min(bisect_right(self._groups, piece.start), len(self._groups) - 1) - 1
        if not self._groups[group] <= self._position <= piece.start:
            self._start_at(group)
        found: list[dict[str, Any]] = []
        with _naming_no_parquet(self.file):
            while len(found) < piece.rows:
                batch = self._left if len(self._left) else next(self._batches, None)
                if batch is None:
                    break
                skipped = min(piece.start + len(found) - self._position, len(batch))
                taken = min(piece.rows - len(found), len(batch) - skipped)
                found += batch.slice(skipped, taken).to_pylist()
                self._left = batch.slice(skipped + taken)
                self._position += skipped + taken
        return found

    def _start_at(self, group: int) -> None:
        groups = range(max(group, 0), self._opened.num_row_groups)
        self._position = self._groups[max(group, 0)]
        self._batches = self._opened.iter_batches(_BATCH, row_groups=groups, columns=self._columns)
        self._left = ()


def _open_parquet(file: str) -> ParquetFile:
    from pyarrow.parquet import ParquetFile

    return ParquetFile(open_binary(file))


@contextmanager
def _naming_no_parquet(file: str) -> Iterator[None]:
    from pyarrow import ArrowException

    try:
        yield
    except (ArrowException, OSError) as error:
        raise ValueError(f"{file!r} cannot be read as parquet: {error}") from error
