"""Rows of any number of documents in the memory of a few: Arrow data in a temporary file that is mapped.

Knows values and columns. Knows neither files of documents nor labels.
"""

from __future__ import annotations

import errno
import mmap
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

BATCH = 1000  # most rows that are in memory at a time
_CHARACTERS = 2**24  # of their texts, at most about so many


@contextmanager
def _naming_full_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        reason = (
            f"The disk of {tempfile.gettempdir()!r}, where documents and their tokens are kept, is full. Free some "
        )
        raise OSError(error.errno, f"{reason}space, or set TMPDIR to a folder with more.") from error


class MappedFile:
    """Arrow batches in a temporary file that no name leads to: it goes away with the process, however that ends.

    Raises:
        OSError: If the disk is full.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - `read` closes it
        self._starts: list[int] = []

    def write(self, batch: pa.RecordBatch) -> None:
        """Add a batch; its columns may be others than those of the batches before."""
        import pyarrow as pa

        self._starts.append(self._file.tell())
        with _naming_full_disk(), pa.ipc.new_stream(self._file, batch.schema) as stream:
            stream.write_batch(batch)

    def read(self) -> list[pa.RecordBatch]:
        """Return all batches, in memory only where they are looked at. It is the end of the writing."""
        import pyarrow as pa

        with _naming_full_disk():
            self._file.flush()
        content = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ) if self._starts else b""
        self._file.close()
        buffer = pa.py_buffer(content)
        return [pa.ipc.open_stream(buffer[start:]).read_next_batch() for start in self._starts]


class Column(Sequence[Any]):
    """The values of a column, of whatever kinds they are.

    Args:
        parts: The values, in parts: Arrow arrays that `to_pylist` makes the very same values of, or lists.
    """

    def __init__(self, parts: Iterable[pa.Array | list[Any]]) -> None:
        self._parts = list(parts)

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __iter__(self) -> Iterator[Any]:
        for part in self._parts:
            for start in range(0, len(part), BATCH):
                values = part[start : start + BATCH]
                yield from (values if isinstance(values, list) else values.to_pylist())

    def __getitem__(self, key: Any) -> Any:
        return list(self)[key]

    def to_arrow(self, kind: pa.DataType | None = None) -> pa.ChunkedArray | None:
        """Return the values as Arrow data of a kind; without one, `None` where they are lists or of several kinds."""
        import pyarrow as pa

        if kind is None:
            kinds = {None if isinstance(part, list) or part.null_count else part.type for part in self._parts}
            return pa.chunked_array(self._parts) if len(kinds) == 1 and None not in kinds else None
        return pa.chunked_array([_as(part, kind) for part in self._parts], kind)


def _as(part: pa.Array | list[Any], kind: pa.DataType) -> pa.Array:
    import pyarrow as pa

    if isinstance(part, list):
        return pa.array(part, kind)
    return part if part.type == kind else part.cast(kind)


def read_columns(rows: Iterable[Mapping[str, Any]], columns: Iterable[str]) -> tuple[dict[str, Column], list[str], int]:
    """Take columns from rows; what a row does not have is `None`.

    Returns:
        The columns that some row has, the names of all columns, and the number of rows.
    """
    import pyarrow as pa

    file, count = MappedFile(), 0
    names: dict[str, None] = {}
    parts: dict[str, list[Any]] = {name: [] for name in columns}
    for batch in _batches(rows):
        count += len(batch)
        for row in batch:
            names.update(dict.fromkeys(row))
        for name, found in parts.items():
            values = [row.get(name) for row in batch]
            packed = _packed(values)
            found.append(values if packed is None else None)
            if packed is not None:
                file.write(pa.record_batch([packed], ["values"]))
    kept = iter(file.read())
    taken: dict[str, list[Any]] = {name: [] for name in parts}
    for group in zip(*parts.values(), strict=True):
        for found, part in zip(taken.values(), group, strict=True):
            found.append(next(kept).column(0) if part is None else part)
    return {name: Column(found) for name, found in taken.items() if name in names}, list(names), count


def _batches(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    batch: list[Mapping[str, Any]] = []
    characters = 0
    for row in rows:
        batch.append(row)
        characters += sum(len(value) for value in row.values() if isinstance(value, str))
        if len(batch) == BATCH or characters >= _CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _packed(values: list[Any]) -> pa.Array | None:
    """Texts, whole numbers or lists of one of these as Arrow data; `None` for other values, or several kinds."""
    import pyarrow as pa

    kinds = set(map(type, values)) - {type(None)}
    inner = {type(item) for value in values for item in value or ()} if kinds == {list} else kinds
    plain = {str: pa.string(), int: pa.int64()}
    if len(inner) != 1 or len(kinds) != 1 or not inner <= plain.keys():
        return None
    kind = plain[inner.pop()]
    try:
        return pa.array(values, pa.list_(kind) if kinds == {list} else kind)
    except (OverflowError, pa.ArrowInvalid):  # of a number with too many digits
        return None


def write_table(batches: Iterable[pa.RecordBatch]) -> pa.Table:
    """Write rows into a temporary file, and return them: in memory only where they are looked at."""
    import pyarrow as pa

    file = MappedFile()
    for batch in batches:
        file.write(batch)
    return pa.Table.from_batches(file.read())


def to_dataset(table: pa.Table) -> Dataset:
    """Return a table as a data set, without a fingerprint of its content, for which all of it would be read."""
    from datasets import Dataset
    from datasets.fingerprint import generate_random_fingerprint

    return Dataset(table, fingerprint=generate_random_fingerprint())


def taken(rows: Dataset, chosen: np.ndarray) -> Dataset:
    """Return some rows of a data set, as one that is read as fast.

    Args:
        rows: All rows.
        chosen: Row numbers in ascending order, int64.
    """
    import pyarrow as pa

    if not len(rows):
        return rows

    def batches() -> Iterator[pa.RecordBatch]:
        start, waiting = 0, []
        for batch in rows.with_format("arrow").iter(BATCH):
            first, last = np.searchsorted(chosen, [start, start + len(batch)])
            waiting.append(batch.take(chosen[first:last] - start))
            start += len(batch)
            if sum(map(len, waiting)) >= BATCH or start == len(rows):
                columns = pa.concat_tables(waiting).columns
                yield pa.record_batch([column.combine_chunks() for column in columns], rows.column_names)
                waiting = []

    return to_dataset(write_table(batches()))


def parts_of(rows: Dataset, *columns: str) -> Iterator[dict[str, list[Any]]]:
    """Yield the values of columns of a data set, some rows at a time."""
    chosen = rows.select_columns(list(columns)).with_format("arrow")
    for batch in chosen.iter(BATCH):
        yield batch.to_pydict()


def values_of(rows: Dataset, column: str) -> Iterator[Any]:
    """Yield the values of a column of a data set."""
    for part in parts_of(rows, column):
        yield from part[column]
