"""Reading documents from files and the Hub into rows of id, text and label names."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cli.mistakes import Mistakes, report
from ..cli.telling import tell
from .arguments import CUT_FRACTIONS, LABEL_NAMES, SPLITS, TEXT_NAMES, DataArguments
from .columns import LOOKED_AT, find_columns, plain_name
from .files import FORMATS, Table, first_look, load_file, open_dataset
from .rows import BATCH, Column, to_dataset, write_table
from .wipo import read_wipo

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset


def load_splits(arguments: DataArguments) -> tuple[dict[str, Table], DataArguments]:
    """Read the splits that arguments name.

    Returns:
        The splits that there are, by name; and the arguments, with the columns that were found.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If there is no training split, one is given and to be cut, or one or its columns cannot be read.
    """
    return _load_dataset(arguments) if arguments.dataset_name else _load_files(arguments)


def _load_dataset(arguments: DataArguments) -> tuple[dict[str, Table], DataArguments]:
    available = open_dataset(str(arguments.dataset_name), arguments.dataset_config)
    origin = f"The data set {arguments.dataset_name!r}"
    advice = f"It has {sorted(available)}. Choose a data set with training documents, or give train_file in its place."
    _check_splits(available, origin, advice, arguments)
    others = sorted(set(available) - set(SPLITS))
    if others and not set(SPLITS) <= set(available):
        tell(f"The data set has other splits, which are not used: {others}.")
    train = available["train"]
    if len(train):
        arguments = find_columns(arguments, train.column_names, list(train.select(range(min(LOOKED_AT, len(train))))))
    columns = _columns(arguments)
    return {name: Table.from_dataset(available[name], columns) for name in SPLITS if name in available}, arguments


def _load_files(arguments: DataArguments) -> tuple[dict[str, Table], DataArguments]:
    files = {split: Path(path) for split in SPLITS if (path := getattr(arguments, f"{split}_file"))}
    _check_splits(files, "The data", "Give train_file.", arguments)
    given, found, mistakes = arguments, {}, Mistakes()
    with mistakes.noted():
        arguments = _with_columns(files["train"], arguments)
    for split, path in files.items():
        if split == "train" and mistakes.errors:
            continue
        with mistakes.noted():
            found[split] = _load_file(path, arguments, given)
    mistakes.report()
    return found, arguments


def _check_splits(found: Container[str], origin: str, advice: str, arguments: DataArguments) -> None:
    if "train" not in found:
        raise ValueError(f"{origin} has no train split, and no other is used in its place. {advice}")
    for split in CUT_FRACTIONS:
        share = getattr(arguments, f"{split}_fraction")
        if share is not None and split in found:
            raise ValueError(
                f"{origin} has a {split} split, so {split}_fraction={share} has nothing to do. Leave one of them out."
            )


def _columns(arguments: DataArguments) -> list[str]:
    named = (arguments.text_column, arguments.label_column, arguments.id_column)
    return list(dict.fromkeys(name for name in named if name is not None))


def _with_columns(path: Path, arguments: DataArguments) -> DataArguments:
    """Find the columns that are not named in the file of the training documents."""
    if path.is_dir():
        text, label = arguments.text_column or "text", arguments.label_column or "label"
        return replace(arguments, text_column=text, label_column=label)
    if arguments.text_column and arguments.label_column:
        return arguments
    _check_file(path)
    names, rows = first_look(path, (*_columns(arguments), *TEXT_NAMES, *LABEL_NAMES), LOOKED_AT)
    if not rows:
        raise ValueError(f"{str(path)!r} has no documents.")
    return find_columns(arguments, names, rows)


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}. Check train_file, validation_file and test_file.")
    if path.suffix not in FORMATS:
        raise ValueError(f"{str(path)!r} has the ending {path.suffix!r}; known are {', '.join(FORMATS)}.")
    if path.stat().st_size == 0:
        raise ValueError(f"{str(path)!r} is empty.")


def _load_file(path: Path, arguments: DataArguments, given: DataArguments) -> Table:
    columns = _columns(arguments)
    if path.is_dir():
        return Table.from_rows(read_wipo(path, level=arguments.ipc_level, fields=arguments.ipc_fields), columns)
    _check_file(path)
    table = load_file(path, columns)
    if not table.rows:
        raise ValueError(f"{str(path)!r} has no documents.")
    renamed = _written_otherwise(table, arguments, given)
    if not renamed:
        return table
    table = load_file(path, [*columns, *renamed])
    return replace(
        table,
        columns={renamed.get(name, name): values for name, values in table.columns.items()},
        class_names={renamed.get(name, name): names for name, names in table.class_names.items()},
    )


def _written_otherwise(table: Table, arguments: DataArguments, given: DataArguments) -> dict[str, str]:
    """Map the names that columns have here to those that were found in the training documents, in another case."""
    renamed = {}
    for option in ("text_column", "label_column"):
        column = getattr(arguments, option)
        if column is None or getattr(given, option) or column in table.names:
            continue
        alike = [name for name in table.names if plain_name(name) == plain_name(column)]
        if len(alike) == 1 and alike[0] not in table.columns:
            renamed[alike[0]] = column
    return renamed


def read_rows(raw: Table, split: str, arguments: DataArguments, given: DataArguments | None = None) -> Dataset:
    """Bring a split into the columns `id`, `text` and `label`, with labels as names.

    Args:
        raw: The columns as they were read.
        split: Name of the split.
        arguments: With all columns named.
        given: Arguments as the user gave them. A column that they do not name was found in the training documents.

    Raises:
        ValueError: If a column is missing, a text is empty, a label is none, or ids are not unique.
    """
    import pyarrow as pa

    if not raw.rows:
        raise ValueError(f"The {split} split has no documents.")
    report(_missing_columns(raw, split, arguments, given or arguments))
    texts = raw.columns[str(arguments.text_column)]
    bad = [row for row, text in enumerate(texts) if not isinstance(text, str) or not text.strip()]
    if bad:
        raise ValueError(
            f"{len(bad)} documents of the {split} split have no text in {arguments.text_column!r} (empty, null or not "
            f"a string); the first are rows {bad[:5]}, counted from 0. Fill them in or remove them."
        )
    rows = write_table(_numbered_labels(raw, split, arguments))
    ids = _ids(raw.columns[arguments.id_column], split, arguments.id_column) if arguments.id_column else rows["id"]
    columns = {"id": ids, "text": texts.to_arrow(pa.string()), "label": rows["label"]}
    return to_dataset(pa.table(columns))


def _numbered_labels(raw: Table, split: str, arguments: DataArguments) -> Iterator[pa.RecordBatch]:
    """Yield the number of each row, and its label as a name or as a list of names."""
    import pyarrow as pa

    column = str(arguments.label_column)
    convert = _label_converter(raw.class_names.get(column), arguments)
    kind = pa.list_(pa.string()) if arguments.multi_label else pa.string()
    numbered = enumerate(raw.columns[column])
    while part := list(islice(numbered, BATCH)):
        labels = []
        for row, value in part:
            try:
                labels.append(convert(value))
            except ValueError as error:
                raise ValueError(f"Row {row} of the {split} split, counted from 0: {error}") from error
        yield pa.record_batch([pa.array([row for row, _ in part]), pa.array(labels, kind)], ["id", "label"])


def _ids(ids: Column, split: str, name: str) -> pa.ChunkedArray:
    """Return ids that were given.

    Raises:
        ValueError: If they are not unique, or of several kinds.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    packed = ids.to_arrow()
    if (len(set(ids)) if packed is None else pc.count_distinct(packed).as_py()) < len(ids):
        raise ValueError(f"The ids in column {name!r} of the {split} split are not unique.")
    kinds = sorted({type(value).__name__ for value in ids}) if packed is None else []
    if len(kinds) > 1 or kinds == ["NoneType"]:
        raise ValueError(
            f"The ids in column {name!r} of the {split} split are of several kinds: {kinds}. Write all "
            "of them as texts; none may be empty."
        )
    return pa.chunked_array([list(ids)]) if packed is None else packed


def _missing_columns(raw: Table, split: str, arguments: DataArguments, given: DataArguments) -> Iterator[str]:
    for option in ("text_column", "label_column", "id_column"):
        column = getattr(arguments, option)
        if column is None or column in raw.columns:
            continue
        has = f"it has {list(raw.names)}"
        if getattr(given, option):
            yield f"The {split} split has no column {column!r}; {has}. Set {option} to one of these."
        else:
            kind = option.removesuffix("_column")
            yield (
                f"The {split} split has no column {column!r}, which is the {kind} in the training documents; {has}. "
                f"Give the columns the same names in all splits."
            )


def _label_converter(own_names: Sequence[str] | None, arguments: DataArguments) -> Callable[[Any], Any]:
    """Return the function from a raw label value to a name, or to a list of names.

    A text is a name; an integer is an id where there are names for it.
    """
    if own_names and arguments.label_list and list(own_names) != list(arguments.label_list):
        raise ValueError(
            f"label_list={arguments.label_list} contradicts the data set's own names {list(own_names)}. Leave it out."
        )
    names = own_names or arguments.label_list

    def one(value: Any) -> str:
        """Turn a name or an id into a name."""
        if value is None or (isinstance(value, float) and math.isnan(value)):
            raise ValueError("the label is missing (null).")
        if isinstance(value, str):
            if not value.strip():
                raise ValueError("the label is empty.")
            return value.strip()
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value % 1 != 0:
            raise ValueError(f"the label {value!r} is neither a name nor an id.")
        if names is None:
            return str(int(value))
        if not 0 <= value < len(names):
            raise ValueError(f"the label id {value!r} is not one of the {len(names)} labels {list(names)}.")
        name, digits = names[int(value)], str(int(value))
        if not own_names and digits in names and digits != name:
            raise ValueError(
                f"the number {digits} may be the id of {name!r} or the name {digits!r} of label_list. Write the labels "
                "as texts if they are names; leave label_list out if numbers are all the names there are."
            )
        return name

    def many(value: Any) -> list[str]:
        """Turn the labels of a multi-label document into names."""
        if arguments.label_delimiter is not None and (value is None or isinstance(value, str)):
            value = [part for part in (value or "").split(arguments.label_delimiter) if part.strip()]
        if not isinstance(value, list):
            raise ValueError(f"the labels {value!r} are not a list. For one string, set label_delimiter.")
        labels = [one(item) for item in value]
        if len(set(labels)) < len(labels):
            raise ValueError(f"the labels {value!r} repeat one. Give names or ids; 0/1 vectors are not read.")
        return labels

    def single(value: Any) -> str:
        """Turn the label of a single-label document into a name."""
        if isinstance(value, list):
            raise ValueError(
                f"the label is the list {value!r}. For several labels a document, set multi_label to true."
            )
        return one(value)

    return many if arguments.multi_label else single
