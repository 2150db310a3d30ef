"""Reading documents from files and the Hub into rows of id, text and label names."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cli.mistakes import Mistakes, report
from .arguments import SPLITS, DataArguments
from .files import FORMATS, Table, load_file, open_dataset
from .wipo import read_wipo

if TYPE_CHECKING:
    from datasets import Dataset


def load_splits(arguments: DataArguments) -> dict[str, Table]:
    """Read the splits that arguments name, by split; a missing one is an error unless it is cut from training."""
    cut = arguments.validation_fraction is not None
    if arguments.dataset_name:
        available = open_dataset(arguments.dataset_name, arguments.dataset_config)
        columns = _columns(arguments)
        found = {split: Table.from_dataset(available[split], columns) for split in SPLITS if split in available}
        origin, names = f"The data set {arguments.dataset_name!r}", f" It has {sorted(available)}."
    else:
        files = {split: getattr(arguments, f"{split}_file") for split in SPLITS}
        found, mistakes = {}, Mistakes()
        for split, path in files.items():
            if path:
                with mistakes.noted():
                    found[split] = _load_file(Path(path), arguments)
        mistakes.report()
        origin, names = "The data", ""
    if cut and "validation" in found:
        raise ValueError(
            f"{origin} has a validation split, so validation_fraction={arguments.validation_fraction} has nothing to "
            "do. Leave one of them out."
        )
    for split in SPLITS:
        if split not in found and not (split == "validation" and cut):
            advice = f"Give {split}_file"
            if split == "validation":
                advice += ", or cut it from the training split with validation_fraction, such as 0.1"
            raise ValueError(f"{origin} has no {split} split, and no other is used in its place.{names} {advice}.")
    return found


def _columns(arguments: DataArguments) -> list[str]:
    named = (arguments.text_column, arguments.label_column, arguments.id_column)
    return list(dict.fromkeys(name for name in named if name is not None))


def _load_file(path: Path, arguments: DataArguments) -> Table:
    columns = _columns(arguments)
    if path.is_dir():
        return Table.from_rows(read_wipo(path, level=arguments.ipc_level, fields=arguments.ipc_fields), columns)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}. Check train_file, validation_file and test_file.")
    if path.suffix not in FORMATS:
        raise ValueError(f"{str(path)!r} has the ending {path.suffix!r}; known are {', '.join(FORMATS)}.")
    if path.stat().st_size == 0:
        raise ValueError(f"{str(path)!r} is empty.")
    table = load_file(path, columns)
    if not table.rows:
        raise ValueError(f"{str(path)!r} has no documents.")
    return table


def read_rows(raw: Table, split: str, arguments: DataArguments) -> Dataset:
    """Bring a split into the columns `id`, `text` and `label`, with labels as names."""
    from datasets import Dataset

    if not raw.rows:
        raise ValueError(f"The {split} split has no documents.")
    columns = {option: getattr(arguments, option) for option in ("text_column", "label_column", "id_column")}
    report(
        f"The {split} split has no column {column!r}; it has {list(raw.names)}. Set {option} to one of these."
        for option, column in columns.items()
        if column is not None and column not in raw.columns
    )
    texts = raw.columns[arguments.text_column]
    bad = [row for row, text in enumerate(texts) if not isinstance(text, str) or not text.strip()]
    if bad:
        raise ValueError(
            f"{len(bad)} documents of the {split} split have no text in {arguments.text_column!r} (empty, null or not "
            f"a string); the first are rows {bad[:5]}, counted from 0. Fill them in or remove them."
        )
    convert = _label_converter(raw.class_names.get(arguments.label_column), arguments)
    labels = []
    for row, value in enumerate(raw.columns[arguments.label_column]):
        try:
            labels.append(convert(value))
        except ValueError as error:
            raise ValueError(f"Row {row} of the {split} split, counted from 0: {error}") from error
    ids = raw.columns[arguments.id_column] if arguments.id_column else range(raw.rows)
    if len(set(ids)) < len(ids):
        raise ValueError(f"The ids in column {arguments.id_column!r} of the {split} split are not unique.")
    kinds = sorted({type(value).__name__ for value in ids})
    if len(kinds) > 1 or kinds == ["NoneType"]:
        raise ValueError(
            f"The ids in column {arguments.id_column!r} of the {split} split are of several kinds: {kinds}. Write all "
            "of them as texts; none may be empty."
        )
    return Dataset.from_dict({"id": list(ids), "text": texts, "label": labels})


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
