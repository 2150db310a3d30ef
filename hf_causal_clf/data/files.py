"""Files and data sets of documents, opened as they are: text stays text, whatever it looks like. Knows no labels."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from transformers.utils import logging

from .locations import ending, open_binary, open_text
from .rows import Column, read_columns

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

Location = str | Path  # a URL, too
logger = logging.get_logger(__name__)

FORMATS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a vertical bar"}
ENCODINGS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
JSON_FORM = "Write one object a line, or one array of objects."
LONGEST_CELL = 2**31 - 1  # the largest limit that `csv` takes on every system; its own would refuse long documents


@dataclass(frozen=True)
class Table:
    """Columns of a split, as they were read.

    Attributes:
        columns: Values of the columns that were asked for and are there.
        names: Names of all columns.
        rows: Number of rows.
        class_names: Label names, in the order of their ids, of the `ClassLabel` columns.
    """

    columns: Mapping[str, Column]
    names: Sequence[str]
    rows: int
    class_names: Mapping[str, Sequence[str]]

    @classmethod
    def from_dataset(cls, data: Dataset, columns: Iterable[str]) -> Table:
        """Take columns from a data set, whose features say what is an id.

        Raises:
            ValueError: If one of them mixes texts and numbers, which `datasets` does not keep apart, or has texts that
                it makes dates of.
        """
        from datasets import Json

        found = [name for name in columns if name in data.column_names]
        mixed = [name for name in found if isinstance(data.features[name], Json)]
        if mixed:
            raise ValueError(f"The columns {mixed} mix texts with other values. Write all of them as texts.")
        dates = [name for name in found if str(getattr(data.features[name], "dtype", "")).startswith(("time", "date"))]
        if dates and data.info.builder_name == "json":
            raise ValueError(
                f"The columns {dates} hold texts that look like dates, which `datasets` makes dates of. Give the files "
                "themselves (train_file and the like), where they stay texts."
            )
        class_names = {name: _class_names(data.features[name]) for name in found}
        return cls(
            {name: Column(data.data.column(name).chunks) for name in found},
            data.column_names,
            len(data),
            {name: names for name, names in class_names.items() if names},
        )

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]], columns: Iterable[str]) -> Table:
        """Take columns from rows; what a row does not have is `None`."""
        return cls(*read_columns(rows, columns), {})


def load_file(path: Path, columns: Sequence[str]) -> Table:
    """Read columns of a CSV, JSON, JSONL or Parquet file.

    Args:
        path: The file; its ending says what it is.
        columns: Names of the columns that are needed.

    Raises:
        ValueError: If the file is not what its ending says, or not UTF-8.
    """
    if FORMATS[path.suffix] != "parquet":
        return Table.from_rows(file_rows(path, columns), columns)
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    try:
        return Table.from_dataset(load_dataset("parquet", data_files=str(path), split="train"), columns)
    except (DatasetGenerationError, ValueError) as error:
        if "corresponds to no data" in str(error):  # what `datasets` says of a table without rows
            return Table.from_rows((), columns)
        raise ValueError(f"{str(path)!r} cannot be read as parquet: {error.__cause__ or error}") from error


def first_look(path: Path, columns: Sequence[str], count: int) -> tuple[list[str], list[dict[str, Any]]]:
    """Read the names of all columns of a file, and its first rows.

    Args:
        path: The file.
        columns: Names to look for; they decide what is between the cells of a table.
        count: Number of rows.

    Returns:
        The names; and the rows, with those further down that are the first with one of the names.

    Raises:
        ValueError: As `load_file`.
    """
    if FORMATS[path.suffix] == "parquet":
        return _first_look_at_parquet(path, count)
    found = file_rows(path, columns)
    rows = list(islice(found, count))
    names = dict.fromkeys(name for row in rows for name in row)
    for row in found if FORMATS[path.suffix] == "json" else ():  # a table names all of its columns in its header
        if not row.keys() <= names.keys():
            rows.append(row)
            names.update(dict.fromkeys(row))
    return list(names), rows


def _first_look_at_parquet(path: Path, count: int) -> tuple[list[str], list[dict[str, Any]]]:
    from pyarrow import ArrowException, parquet

    try:
        file = parquet.ParquetFile(path)
        batch = next(file.iter_batches(batch_size=count), None)
    except (ArrowException, OSError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as parquet: {error}") from error
    return file.schema_arrow.names, [] if batch is None else batch.to_pylist()


def stream_file(path: Path, columns: Sequence[str]) -> IterableDataset:
    """Open a file as `load_file` does, row by row; rows have all of its columns.

    Raises:
        ValueError: As `load_file`; for what is wrong further down, while iterating.
    """
    from datasets import IterableDataset, load_dataset

    if FORMATS[path.suffix] == "parquet":
        return load_dataset("parquet", data_files=str(path), split="train", streaming=True)
    return IterableDataset.from_generator(file_rows, gen_kwargs={"path": path, "columns": tuple(columns)})


def open_dataset(
    name: str, config: str | None, *, revision: str | None = None, split: str | None = None, streaming: bool = False
) -> Any:
    """Open a data set on the Hub, or of its folder, with the cells of CSV files as text.

    A data set that declares its features is taken at its word.

    Args:
        name: Hub id, or path of the folder.
        config: Configuration of the data set.
        revision: Branch, tag or commit of the repository.
        split: The only split to open.
        streaming: Whether to read while iterating.

    Returns:
        The split, or a mapping of all splits.

    Raises:
        OSError: If it cannot be found.
        ValueError: If it cannot be read.
    """
    from datasets import Features, Value, load_dataset, load_dataset_builder
    from datasets.exceptions import DatasetGenerationError

    try:
        builder = load_dataset_builder(name, config, revision=revision)
        options: dict[str, Any] = {}
        if builder.name == "csv" and builder.info.features is None:
            opened = load_dataset(name, config, revision=revision, streaming=True)
            first: dict[str, Any] = next(iter(next(iter(opened.values()))), {})
            if "__index_level_0__" in first:  # pandas takes the first cell of longer rows for an index
                raise ValueError("the rows of a CSV file have more cells than its header.")
            texts = Features({column: Value("string") for column in first})
            options = {"features": texts, "keep_default_na": False, "na_values": [""]}
        return load_dataset(name, config, revision=revision, split=split, streaming=streaming, **options)
    except OSError as error:
        raise OSError(
            f"The data set {name!r} cannot be loaded. Give dataset_name a Hub id or the path of a folder. {error}"
        ) from error
    except (DatasetGenerationError, ValueError) as error:
        raise ValueError(f"The data set {name!r} cannot be read: {error.__cause__ or error}") from error


def _class_names(feature: Any) -> list[str] | None:
    """Label names of a `ClassLabel` column or of a list of them, in the order of their ids; `None` for others."""
    return getattr(getattr(feature, "feature", feature), "names", None)


def file_rows(path: Location, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a CSV or JSON file.

    Raises:
        ValueError: If it is not what its ending says, or not UTF-8.
    """
    encoding, delimiter = find_form(path, columns)
    with naming_other_bytes(path), open_text(path, encoding, None if delimiter is None else "") as file:
        yield from read_lines(path, file, delimiter, columns)


def find_form(path: Location, columns: Sequence[str]) -> tuple[str, str | None]:
    """Return the encoding of a CSV or JSON file, and of a CSV file the delimiter, else `None`."""
    with open_binary(path) as file:
        start = file.read(4)
    encoding = next((name for mark, name in ENCODINGS.items() if start.startswith(mark)), "utf-8")
    if encoding == "utf-16":
        logger.warning_once(f"{str(path)!r} is read as UTF-16, which its first bytes say it is.")
    with naming_other_bytes(path):
        return encoding, _delimiter(path, encoding, columns) if ending(path) == ".csv" else None


def read_lines(
    path: Location,
    lines: Iterable[str],
    delimiter: str | None,
    columns: Sequence[str],
    header: Sequence[str] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of the lines of a CSV or JSON file; no line is taken before its row is asked for.

    Args:
        path: The file, for messages.
        lines: Its lines, or those from a row on.
        delimiter: What is between the cells of a CSV file; `None` for JSON.
        columns: Names of the columns that are needed.
        header: Names of all columns of a CSV file, if the first of the lines are not they.

    Raises:
        ValueError: If they are not what the file's ending says.
    """
    if delimiter is None:
        return _json_rows(path, lines)
    return _csv_rows(path, lines, delimiter, columns, header)


@contextmanager
def naming_other_bytes(path: Location) -> Iterator[None]:
    """Say where a file has bytes of another encoding.

    Raises:
        ValueError: If it has.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        raise ValueError(_not_unicode(path, error)) from error


def _not_unicode(path: Location, error: UnicodeDecodeError) -> str:
    before = error.object[max(0, error.start - 20) : error.start].decode("cp1252", errors="replace")
    after = error.object[error.start : error.start + 20].decode("cp1252", errors="replace")
    name = Path(path)
    command = f"iconv -f cp1252 -t UTF-8 {quote(name.name)} > {quote(f'{name.stem}-utf8{name.suffix}')}"
    return (
        f"{str(path)!r} is not in {error.encoding.upper()}: it has the byte {error.object[error.start]:#04x}. In "
        f"cp1252, {(before.splitlines() or [''])[-1] + after.splitlines()[0]!r} would stand there; if that is right, "
        f"`{command}` writes it in UTF-8, and another encoding likewise."
    )


def _csv_rows(
    path: Location, lines: Iterable[str], delimiter: str, columns: Sequence[str], header: Sequence[str] | None
) -> Iterator[dict[str, str | None]]:
    """Yield the rows of a table; only an empty cell is `None`."""
    csv.field_size_limit(LONGEST_CELL)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = next(reader, []) if header is None else header
        twice = sorted({name for name in columns if header.count(name) > 1})
        if twice:
            raise ValueError(f"{str(path)!r} has these columns more than once: {twice}. Rename the others.")
        for cells in reader:
            if len(cells) == len(header):
                yield dict(zip(header, (cell or None for cell in cells), strict=True))
            elif cells:
                raise ValueError(
                    f"{str(path)!r} cannot be read as csv: the row that ends in line {reader.line_num} has "
                    f"{len(cells)} cells, the header {len(header)}. Put a cell with the delimiter {delimiter!r} or "
                    "a line break in it into double quotes."
                )
    except csv.Error as error:
        raise ValueError(
            f"{str(path)!r} cannot be read as csv: {error}, in line {reader.line_num}. Write a double quote within "
            "a quoted cell twice."
        ) from error


def _delimiter(path: Location, encoding: str, columns: Sequence[str]) -> str:
    """The delimiter with which the header has the most of the columns that are looked for, then the most columns.

    Case does not count. At a tie, it is a comma.
    """
    headers = {}
    for delimiter in DELIMITERS:
        with open_text(path, encoding, "") as file:
            headers[delimiter] = next(csv.reader(file, delimiter=delimiter), [])
    known = {name.casefold() for name in columns}
    hits = {key: sum(name.strip().casefold() in known for name in header) for key, header in headers.items()}
    best = max(headers, key=lambda key: (hits[key], len(headers[key])))
    if best != ",":
        logger.warning_once(f"{str(path)!r} is read with {DELIMITERS[best]} between its cells, as in its header.")
    return best


def _json_rows(path: Location, lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yield the objects of JSON lines, or of one array."""
    lines = iter(lines)
    numbered = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
    first = next(numbered, None)
    if first is not None and first[1].lstrip().startswith("["):
        found = _parse(path, first[1] + "".join(lines), first[0])
        yield from (_object(path, row, f"entry {index}, counted from 0,") for index, row in enumerate(found))
    elif first is not None:
        for number, line in chain([first], numbered):
            yield _object(path, _parse(path, line, number), f"line {number}")


def _parse(path: Location, text: str, line: int) -> Any:
    try:
        value = json.loads(text)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text
        return value
    except ValueError as error:
        reason = getattr(error, "msg", None) or str(error)
        where = line + getattr(error, "lineno", 1) - 1
        raise ValueError(f"{str(path)!r} cannot be read as json: {reason}, in line {where}. {JSON_FORM}") from error


def _object(path: Location, value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{str(path)!r} cannot be read as json: {where} is no object, but {value!r:.80}. {JSON_FORM}")
    return value
