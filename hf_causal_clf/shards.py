"""Prediction over any number of documents: Parquet shards, shared out over processes, resumable.

Documents are cut into shards by their row number alone, so a run may go on with another number of processes.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import compute, parquet
from transformers.utils import logging

from .classifier import TextClassifier
from .runs.disk import lock_folder, naming_full_disk, write_json, written_aside
from .runs.files import read_json
from .runs.tables import abstained_column, answer_column, explanation_column, named_probability_column
from .task.labels import LabelSpace
from .task.texts import Empty, is_empty

NOTE_FILE = "_prediction.json"  # what reads a folder of Parquet passes over names that begin with _
_EARLIER_FILE = "prediction.json"
_SHARDS = "shard-*.parquet"
_LISTED = 10  # labels in a summary
_ID_TYPES = {int: pa.int64(), str: pa.string()}


class ShardRows(NamedTuple):
    """What identifies the rows of a shard: their number, and a hash of their ids in order."""

    number: int
    ids: str


@dataclass(frozen=True)
class Summary:
    """What a finished folder holds.

    Attributes:
        rows: Number of documents.
        labels: Number of documents that have each label.
        unlabelled: Documents that have none of the labels (multi-label).
        unanswered: Documents without text, whose answer is null.
    """

    rows: int
    labels: Counter[str]
    unlabelled: int
    unanswered: int

    def __str__(self) -> str:
        counts = [f"{name} {number:,}" for name, number in self.labels.most_common(_LISTED)]
        if len(self.labels) > _LISTED:
            rest = sum(number for _, number in self.labels.most_common()[_LISTED:])
            counts.append(f"{len(self.labels) - _LISTED} other labels {rest:,}")
        if self.unlabelled:
            counts.append(f"without any label {self.unlabelled:,}")
        if self.unanswered:
            counts.append(f"without text, their answer null, {self.unanswered:,}")
        return ", ".join(counts)


def shard_path(output: Path, index: int) -> Path:
    """Path of a shard's file."""
    return output / f"shard-{index:06d}.parquet"


def start_prediction(
    output: Path, settings: dict[str, Any], content: dict[str, dict[str, str]], names: dict[str, Any] | None = None
) -> None:
    """Note what is predicted, or check that it is what the folder was started with.

    Args:
        output: Folder of the shards.
        settings: What was asked for, as far as rows depend on it.
        content: What identifies the documents and the classifier by content: a name and a hash or commit for each of
            their parts.
        names: Where they were, which is noted only: files may be moved.

    Raises:
        ValueError: If the folder has predictions of another classifier, input or shard size, or is in use.
    """
    lock_folder(output)
    output.mkdir(parents=True, exist_ok=True)
    path = output / NOTE_FILE
    if (output / _EARLIER_FILE).is_file():
        raise ValueError(
            f"{output} has predictions of an earlier version, which did not note the content of documents and "
            f"classifier ({_EARLIER_FILE}), so they cannot be gone on with. Choose another output_dir, or remove it."
        )
    if not path.is_file():
        if any(output.glob(_SHARDS)):
            raise ValueError(f"{output} has shards but no {NOTE_FILE}. Choose another output_dir.")
        write_json(path, {**(names or {}), **settings, "content": content, "finished": False})
        return
    found = read_json(path)
    changed = [name for name, value in settings.items() if found.get(name) != value]
    if changed:
        was = {name: found.get(name) for name in changed}
        now = {name: settings[name] for name in changed}
        raise ValueError(
            f"{output} has predictions with other settings: {was}, now {now}. Choose another output_dir, or remove it."
        )
    check_content(output, content)


def check_content(output: Path, content: dict[str, dict[str, str]]) -> None:
    """Check that documents and classifier are those that a folder was started with.

    Raises:
        ValueError: If they are not; it names what differs.
    """
    found = read_json(output / NOTE_FILE).get("content", {})
    for kind, now in content.items():
        was = found.get(kind, {})
        changes = [_change(name, was.get(name), now.get(name)) for name in sorted({*was, *now})]
        if any(changes):
            raise ValueError(
                f"{output} was started with {'other' if kind == 'documents' else 'another'} {kind}: "
                f"{'; '.join(filter(None, changes))}. Its rows would not fit together. Choose another output_dir, or "
                "give what it was started with (a commit as dataset_revision or model_revision)."
            )


def _change(name: str, was: str | None, now: str | None) -> str | None:
    if was == now:
        return None
    if was is None or now is None:
        return f"{name} is {'new' if was is None else 'missing'}"
    return f"{name} has changed" if now.startswith("sha256:") else f"{name} was {was}, now {now}"


def progress(output: Path, total: int | None, shard_size: int) -> str | None:
    """Say where a prediction goes on; `None` if nothing is there."""
    there = {path.name for path in output.glob(_SHARDS)}
    if not there:
        return None
    first = next(index for index in count() if shard_path(output, index).name not in there)
    shards = f"{len(there):,}" if total is None else f"{len(there):,} of {-(-total // shard_size):,}"
    if total is not None and first * shard_size >= total:
        return f"{shards} shards are there: nothing is left to predict"
    return f"{shards} shards are there: going on at row {first * shard_size:,}"


def finish_prediction(output: Path, shards: Sequence[ShardRows], label_space: LabelSpace) -> Summary:
    """Check that every row is there once, count what was predicted, and note that the folder is complete.

    Args:
        output: Folder of the shards.
        shards: The rows of all of them, as `predict_shards` read them.
        label_space: Labels of the classifier.

    Raises:
        FileNotFoundError: If a shard is missing.
        ValueError: If one has other rows, or there are more than documents.
    """
    paths = [shard_path(output, index) for index in range(len(shards))]
    missing = [index for index, path in enumerate(paths) if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"{output}: the shards {missing[:5]} are missing. Start the prediction again.")
    surplus = sorted({path.name for path in output.glob(_SHARDS)} - {path.name for path in paths})
    if surplus:
        raise ValueError(f"{output} has shards that no document belongs to: {surplus[:5]}. Remove them.")
    labels, unlabelled, unanswered = Counter(dict.fromkeys(label_space.names, 0)), 0, 0
    for path, rows in zip(paths, shards, strict=True):
        check_shard(path, rows)
        answers = parquet.read_table(path, columns=["predicted"])["predicted"]
        unanswered += answers.null_count
        if label_space.multi_label:
            unlabelled += compute.sum(compute.equal(compute.list_value_length(answers), 0)).as_py() or 0
            answers = compute.list_flatten(answers)
        labels.update(
            {pair["values"]: pair["counts"] for pair in compute.value_counts(answers.drop_null()).to_pylist()}
        )
    summary = Summary(sum(rows.number for rows in shards), labels, unlabelled, unanswered)
    note = {**read_json(output / NOTE_FILE), "rows": summary.rows, "unanswered": unanswered, "finished": True}
    write_json(output / NOTE_FILE, note)
    return summary


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


def predict_shards(
    load: Callable[[], TextClassifier],
    rows: Iterable[tuple[Any, Any]],
    output: Path,
    *,
    shard_size: int,
    process: int = 0,
    processes: int = 1,
    total: int | None = None,
    empty: Empty = "error",
    abstain: bool = False,
    explain: bool = False,
) -> list[ShardRows]:
    """Predict this process's shards that are not there yet, and write each as a whole.

    No more than one shard of documents is held in memory.

    Args:
        load: Returns the classifier; called when there is something to predict.
        rows: Id and text of each document, in an order that is always the same.
        output: Folder of the shards: Parquet with `id`, `predicted` and `probabilities`, the latter with a float32
            field for each label; and of a cascade `stage`, 1 or 2: which one answered.
        shard_size: Documents a shard.
        process: Number of this process; it works on every `processes`-th shard.
        processes: Number of processes.
        total: Number of documents, for the progress bar.
        empty: What a document without text is: an `"error"`, or a row with a null answer (`"keep"`).
        abstain: Whether there is a column `abstained` as well, which says where the run should not answer: true or
            false, or for a multi-label run a list of labels.
        explain: Whether there is a column `explanation` as well, which says how much the probability of the most
            probable label falls without each sentence: `start` and `end` in characters, and `drop`.

    Returns:
        The rows of all shards, of every process.

    Raises:
        ValueError: If a document's text is not a string or not allowed to be empty, its id is of another type than the
            first one's, or a shard that is there has other rows.
    """
    classifier: TextClassifier | None = None
    shards: list[ShardRows] = []
    seen, id_type = 0, type(None)
    sizes = {} if total is None else _sizes(total, shard_size, process, processes)
    done = sum(size for index, size in sizes.items() if shard_path(output, index).is_file())  # not part of the rate
    options = {"total": sum(sizes.values()) or None, "initial": done, "disable": process > 0 or None}
    with logging.tqdm(desc="Predicting", unit="doc", **options) as bar:
        for index, shard in enumerate(_shards(rows, shard_size)):
            id_type = type(shard[0][0]) if index == 0 else id_type
            _check(shard, seen, id_type, empty)
            shards.append(_rows_of([identifier for identifier, _ in shard]))
            seen += len(shard)
            if index % processes != process:
                continue
            path = shard_path(output, index)
            if path.is_file():
                check_shard(path, shards[-1])
                continue
            classifier = classifier or load()
            _write(path, classifier, shard, id_type, empty, abstain, explain)
            bar.update(len(shard))
    return shards


def _shards(rows: Iterable[tuple[Any, Any]], size: int) -> Iterator[list[tuple[Any, Any]]]:
    iterator = iter(rows)
    for _ in count():
        shard = list(islice(iterator, size))
        if not shard:
            return
        yield shard


def _rows_of(ids: list[Any]) -> ShardRows:
    return ShardRows(len(ids), hashlib.sha256(json.dumps(ids).encode()).hexdigest())


def _check(shard: list[tuple[Any, Any]], first: int, id_type: type, empty: Empty) -> None:
    for row, (identifier, text) in enumerate(shard, start=first):
        if type(identifier) is not id_type or id_type not in _ID_TYPES:
            raise ValueError(
                f"Row {row}, counted from 0, has the id {identifier!r}. Ids have to be all texts or all whole numbers: "
                "correct it, or leave out id_column, which takes the row number."
            )
        if isinstance(identifier, int) and not -(2**63) <= identifier < 2**63:
            raise ValueError(f"Row {row}, counted from 0, has the id {identifier}, over 64 bits. Make ids texts.")
        place = f"Row {row} (id {identifier!r}), counted from 0,"
        if is_empty(text):
            if empty == "error":
                raise ValueError(
                    f"{place} has no text: {text!r}. Fill it in, remove it, or set empty to keep; the shards that are "
                    "finished are kept."
                )
        elif not isinstance(text, str):
            raise ValueError(
                f"{place} has {text!r} of type {type(text).__name__} instead of a text. Choose another text_column, or "
                "write it as a text; the shards that are finished are kept."
            )


def _write(
    path: Path,
    classifier: TextClassifier,
    shard: list[tuple[Any, Any]],
    id_type: type,
    empty: Empty,
    abstain: bool,
    explain: bool,
) -> None:
    texts = [text for _, text in shard]
    probabilities, stages = classifier.score(texts, empty=empty)
    columns = {
        "id": pa.array([identifier for identifier, _ in shard], _ID_TYPES[id_type]),
        "predicted": answer_column(classifier.decide(probabilities, stages), classifier.label_space),
        "probabilities": named_probability_column(probabilities, classifier.label_space),
    }
    missing = np.isnan(probabilities).any(axis=1)
    if stages is not None:
        columns["stage"] = pa.array(stages, pa.int8(), mask=missing)
    if abstain:
        columns["abstained"] = abstained_column(classifier.sure(probabilities, stages), missing, classifier.label_space)
    if explain:
        columns["explanation"] = explanation_column(classifier.explain(texts, empty=empty))
    with naming_full_disk(path.parent), written_aside(path) as aside:
        parquet.write_table(pa.table(columns), aside, use_dictionary=False)


def _sizes(total: int, shard_size: int, process: int, processes: int) -> dict[int, int]:
    """Number of documents of each shard of a process."""
    sizes = {index: min(shard_size, total - start) for index, start in enumerate(range(0, total, shard_size))}
    return {index: size for index, size in sizes.items() if index % processes == process}
