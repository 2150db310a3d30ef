"""Corrections of labels taken back into a training file, which is never changed itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..data.arguments import DataArguments
from ..data.files import stream_file
from ..data.reading import load_splits, read_rows
from ..data.splits import ClassificationData
from ..runs.disk import written_aside


def write_fixed(data_args: DataArguments, data: ClassificationData, fixed_file: str, output: Path) -> tuple[Path, int]:
    """Write a training file again with corrected labels, as JSON lines with all of its columns.

    Labels are written by name; those that are not corrected stay as they are read.

    Args:
        data_args: Where the training file is.
        data: Its documents, for their labels.
        fixed_file: File of the corrections, with the columns `id` and `label`: a name, or a list of names. A document
            that it does not have is not corrected.
        output: Folder that the new file is written into.

    Returns:
        The new file, and the number of documents whose label is another now.

    Raises:
        ValueError: If the corrections cannot be read, have a document that is not there, twice or without a label, or
            the new file would take the place of one that is read.
    """
    train = Path(str(data_args.train_file))
    target = output / f"{train.stem}.fixed.jsonl"
    if target.exists():
        raise ValueError(f"There is a file {str(target)!r} already. Move it away, or choose another output_dir.")
    loaded, found = load_splits(data_args)
    rows = read_rows(loaded["train"], "train", found, data_args)
    ids, labels = list(map(str, rows["id"][:])), rows["label"][:]
    fixed = _corrections(Path(fixed_file), data, data_args.label_delimiter)
    unknown = sorted(set(fixed) - set(ids))
    if unknown:
        raise ValueError(
            f"{fixed_file!r} corrects {len(unknown)} documents that {str(train)!r} does not have; the first have the "
            f"ids {unknown[:3]}. Give the id_column that the audit had, and correct one file at a time."
        )
    changed = 0
    output.mkdir(parents=True, exist_ok=True)
    columns = [str(name) for name in (found.text_column, found.label_column, found.id_column) if name]
    with written_aside(target) as aside, open(aside, "w", encoding="utf-8") as file:
        for row, id_, label in zip(stream_file(train, columns), ids, labels, strict=True):
            right = fixed.get(id_, label)
            changed += sorted(right) != sorted(label) if isinstance(label, list) else right != label
            value = data_args.label_delimiter.join(right) if data_args.label_delimiter else right
            file.write(json.dumps({**row, str(found.label_column): value}, ensure_ascii=False, default=str) + "\n")
    return target, changed


def _corrections(path: Path, data: ClassificationData, delimiter: str | None) -> dict[str, Any]:
    """Right labels by id as text: names, or lists of names."""
    space = data.label_space
    found: dict[str, Any] = {}
    for number, row in enumerate(stream_file(path, ["id", "label"])):
        missing = [name for name in ("id", "label") if row.get(name) is None]
        if missing:
            raise ValueError(
                f"Row {number} of {str(path)!r}, counted from 0, has no {' and no '.join(missing)}. Give each row "
                "both, and leave documents out whose label is right."
            )
        label = row["label"]
        if space.multi_label and isinstance(label, str):
            label = [part.strip() for part in label.split(delimiter)] if delimiter else [label]
        try:
            label = space.decode(space.encode(label))
        except ValueError as error:
            raise ValueError(f"Row {number} of {str(path)!r}, counted from 0: {error}") from error
        if found.setdefault(str(row["id"]), label) != label:
            raise ValueError(f"{str(path)!r} has two labels for the document {row['id']!r}. Keep the right one.")
    return found
