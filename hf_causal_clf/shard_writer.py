"""One shard of a prediction: a Parquet file that is written as a whole, or checked if it is there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from pyarrow import parquet

from .batches import BatchClassifier
from .runs.disk import naming_full_disk, write_text, written_aside
from .task.texts import Empty, is_empty

_ID_TYPES = {int: pa.int64(), str: pa.string()}


class ShardRows(NamedTuple):
    """What identifies the rows of a shard: their number, and a hash of their ids in order."""

    number: int
    ids: str


def shard_path(output: Path, index: int) -> Path:
    """Path of a shard's file."""
    return output / f"shard-{index:06d}.parquet"


def error_path(output: Path, index: int) -> Path:
    """Path of the file of the documents of a shard that could not be predicted."""
    return output / f"_errors-{index:06d}.jsonl"


class ShardWriter:
    """Predicts shards that are not there yet, and writes each as a whole.

    Args:
        load: Returns the classifier; called when there is something to predict.
        output: Folder of the shards: Parquet with `id` and the columns of `BatchClassifier.answers`. What it could not
            predict, if it records that, goes to `_errors-….jsonl` beside the shard: `id`, `row` and `error`.
        id_type: Type of the documents' ids; by default that of the first.
    """

    def __init__(self, load: Callable[[], BatchClassifier], output: Path, id_type: type | None = None) -> None:
        self._load = load
        self._output = output
        self._id_type = id_type
        self._batches: BatchClassifier | None = None

    def settle(self, index: int, first: int, rows: Sequence[tuple[Any, Any]]) -> ShardRows:
        """Check a shard if it is there, else write it; see `check` and `write`."""
        there = shard_path(self._output, index).is_file()
        return self.check(index, first, [row[0] for row in rows]) if there else self.write(index, first, rows)

    def check(self, index: int, first: int, ids: Sequence[Any]) -> ShardRows:
        """Check a shard that is there.

        Args:
            index: Number of the shard.
            first: Number of its first row, for messages.
            ids: Ids of the documents that belong there.

        Raises:
            ValueError: If it has others, cannot be read, or an id is of another type than the first one's.
        """
        identity = self.identify(first, ids)
        check_shard(shard_path(self._output, index), identity)
        return identity

    def write(self, index: int, first: int, rows: Sequence[tuple[Any, Any]]) -> ShardRows:
        """Predict and write a shard.

        Args:
            index: Number of the shard.
            first: Number of its first row, for messages.
            rows: Id and text of each of its documents.

        Raises:
            ValueError: If an id is of another type than the first one's, or a text cannot be predicted.
            OSError: If the disk is full.
        """
        ids = [identifier for identifier, _ in rows]
        identity, path = self.identify(first, ids), shard_path(self._output, index)
        self._batches = self._batches or self._load()
        if self._batches.on_error == "stop":
            _check_texts(first, rows, self._batches.empty)
        columns = self._batches.answers([text for _, text in rows])
        errors = columns.pop("error", None)
        table = pa.table({"id": pa.array(ids, _ID_TYPES[type(ids[0])]), **columns})
        with naming_full_disk(path.parent):
            if errors is not None and errors.null_count < len(errors):
                found = zip(count(first), rows, errors.to_pylist(), strict=False)
                lines = [{"id": row[0], "row": number, "error": error} for number, row, error in found if error]
                write_text(error_path(self._output, index), "".join(f"{json.dumps(line)}\n" for line in lines))
            else:
                error_path(self._output, index).unlink(missing_ok=True)  # of a shard that was removed
            with written_aside(path) as aside:
                parquet.write_table(table, aside, use_dictionary=False)
        return identity

    def identify(self, first: int, ids: Sequence[Any]) -> ShardRows:
        """Return what identifies the rows of a shard by their ids.

        Raises:
            ValueError: If an id is of another type than the first one's.
        """
        self._id_type = self._id_type or type(ids[0])
        for row, identifier in enumerate(ids, start=first):
            if type(identifier) is not self._id_type or self._id_type not in _ID_TYPES:
                raise ValueError(
                    f"Row {row}, counted from 0, has the id {identifier!r}. Ids have to be all texts or all whole "
                    "numbers: correct it, or leave out id_column, which takes the row number."
                )
            if isinstance(identifier, int) and not -(2**63) <= identifier < 2**63:
                raise ValueError(f"Row {row}, counted from 0, has the id {identifier}, over 64 bits. Make ids texts.")
        return _rows_of(ids)


def check_shard(path: Path, rows: ShardRows) -> None:
    """Check that a shard has the rows that belong into it, by the ids that it holds.

    Raises:
        ValueError: If it cannot be read or has others.
    """
    try:
        ids = parquet.read_table(path, columns=["id"])["id"].to_pylist()
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} cannot be read ({error}). Remove it, and start the same command again.") from error
    if _rows_of(ids) != rows:
        raise ValueError(
            f"{path} has other rows than the documents at its place: {len(ids)} instead of {rows.number}, or other "
            "ids. Remove it, and start the same command again."
        )


def _check_texts(first: int, rows: Sequence[tuple[Any, Any]], empty: Empty) -> None:
    for row, (identifier, text) in enumerate(rows, start=first):
        place = f"Row {row} (id {identifier!r}), counted from 0,"
        if is_empty(text):
            if empty == "error":
                raise ValueError(
                    f"{place} has no text: {text!r}. Fill it in, remove it, or set empty to keep; the shards that are "
                    "finished are kept."
                )
        elif not isinstance(text, str):
            raise ValueError(
                f"{place} has {text!r} of type {type(text).__name__} instead of a text. Choose another text_column, "
                "write it as a text, or set on_error to record; the shards that are finished are kept."
            )


def _rows_of(ids: Sequence[Any]) -> ShardRows:
    return ShardRows(len(ids), hashlib.sha256(json.dumps(list(ids)).encode()).hexdigest())
