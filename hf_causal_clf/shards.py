"""Prediction over any number of documents: Parquet shards, shared out over processes, resumable.

Documents are cut into shards by their row number alone, so a run may go on with another number of processes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

from pyarrow import compute, parquet
from transformers.utils import logging

from .batches import BatchClassifier, OnError
from .classifier import TextClassifier
from .data.pieces import Piece, PieceReader
from .runs.disk import lock_folder, write_json
from .runs.files import read_json
from .shard_writer import ShardRows, ShardWriter, check_shard, shard_path
from .task.labels import LabelSpace
from .task.texts import Empty

NOTE_FILE = "_prediction.json"  # what reads a folder of Parquet passes over names that begin with _
_EARLIER_FILE = "prediction.json"
_SHARDS = "shard-*.parquet"
_ERRORS = "_errors-*.jsonl"
_LISTED = 10  # labels in a summary


@dataclass(frozen=True)
class Summary:
    """What a finished folder holds.

    Attributes:
        rows: Number of documents.
        labels: Number of documents that have each label.
        unlabelled: Documents that have none of the labels (multi-label).
        unanswered: Documents whose answer is null: those without text, and those that could not be predicted.
        failed: Those that could not be predicted.
    """

    rows: int
    labels: Counter[str]
    unlabelled: int
    unanswered: int
    failed: int = 0

    def __str__(self) -> str:
        counts = [f"{name} {number:,}" for name, number in self.labels.most_common(_LISTED)]
        if len(self.labels) > _LISTED:
            rest = sum(number for _, number in self.labels.most_common()[_LISTED:])
            counts.append(f"{len(self.labels) - _LISTED} other labels {rest:,}")
        if self.unlabelled:
            counts.append(f"without any label {self.unlabelled:,}")
        if self.unanswered > self.failed:
            counts.append(f"without text, their answer null, {self.unanswered - self.failed:,}")
        if self.failed:
            counts.append(f"not predicted, for the reasons in {_ERRORS}, {self.failed:,}")
        return ", ".join(counts)


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
        there = sorted(each.name for kind in (_SHARDS, _ERRORS) for each in output.glob(kind))
        if there:
            raise ValueError(f"{output} has {there[0]} but no {NOTE_FILE}. Choose another output_dir.")
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
    for left in output.glob(f".{_SHARDS}.*"):
        left.unlink(missing_ok=True)  # half a shard, of a process that was killed


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


def progress(output: Path, total: int | None, shard_size: int, firsts: Sequence[int] | None = None) -> str | None:
    """Say where a prediction goes on; `None` if nothing is there.

    Args:
        output: Folder of the shards.
        total: Number of documents, if that is known.
        shard_size: Documents a shard.
        firsts: First row of each shard, where some are smaller: those at the end of one of several files.
    """
    if firsts is None and total is not None:
        firsts = range(0, total, shard_size)
    there = {path.name for path in output.glob(_SHARDS)}
    if not there:
        return None
    first = next(index for index in count() if shard_path(output, index).name not in there)
    shards = f"{len(there):,}" if firsts is None else f"{len(there):,} of {len(firsts):,}"
    if firsts is not None and first >= len(firsts):
        return f"{shards} shards are there: nothing is left to predict"
    return f"{shards} shards are there: going on at row {first * shard_size if firsts is None else firsts[first]:,}"


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
    failed = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in output.glob(_ERRORS))
    summary = Summary(sum(rows.number for rows in shards), labels, unlabelled, unanswered, failed)
    note = {**read_json(output / NOTE_FILE), "rows": summary.rows, "unanswered": unanswered, "finished": True}
    write_json(output / NOTE_FILE, note)
    return summary


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
    on_error: OnError = "stop",
) -> list[ShardRows]:
    """Predict this process's shards of documents that come in a stream, which every process reads.

    No more than one shard of documents is held in memory.

    Args:
        load: Returns the classifier; called when there is something to predict.
        rows: Id and text of each document, in an order that is always the same.
        output: Folder of the shards, as `ShardWriter` writes them.
        shard_size: Documents a shard.
        process: Number of this process; it works on every `processes`-th shard.
        processes: Number of processes.
        total: Number of documents, for the progress bar.
        empty: As for `BatchClassifier`.
        abstain: As for `BatchClassifier`.
        explain: As for `BatchClassifier`.
        on_error: As for `BatchClassifier`.

    Returns:
        The rows of all shards, of every process.

    Raises:
        ValueError: As `ShardWriter.settle`.
    """
    options: dict[str, Any] = {"empty": empty, "abstain": abstain, "explain": explain, "on_error": on_error}
    writer = ShardWriter(lambda: BatchClassifier(load(), **options), output)
    shards: list[ShardRows] = []
    seen = 0
    sizes = {} if total is None else _sizes(total, shard_size, process, processes)
    with progress_bar(output, sizes, process) as bar:
        for index, shard in enumerate(_shards(rows, shard_size)):
            if index % processes == process:
                new = not shard_path(output, index).is_file()
                shards.append(writer.settle(index, seen, shard))
                bar.update(len(shard) if new else 0)
            else:
                shards.append(writer.identify(seen, [identifier for identifier, _ in shard]))
            seen += len(shard)
    return shards


def predict_pieces(
    load: Callable[[], BatchClassifier],
    pieces: Sequence[Piece],
    read: PieceReader,
    output: Path,
    *,
    id_type: type,
    process: int = 0,
    processes: int = 1,
) -> dict[int, ShardRows]:
    """Predict this process's shards of files, reading no more of them than their format asks for.

    Args:
        load: As for `ShardWriter`.
        pieces: A piece for each shard.
        read: Reads them.
        output: Folder of the shards.
        id_type: Type of the documents' ids.
        process: Number of this process; it works on every `processes`-th shard.
        processes: Number of processes.

    Returns:
        The rows of this process's shards, by number.

    Raises:
        ValueError: As `ShardWriter.settle`; or if a file has changed.
    """
    writer = ShardWriter(load, output, id_type)
    found: dict[int, ShardRows] = {}
    own = pieces[process::processes]
    with progress_bar(output, {piece.index: piece.rows for piece in own}, process) as bar:
        for piece in own:
            if shard_path(output, piece.index).is_file():
                found[piece.index] = writer.check(piece.index, piece.first, read.ids(piece))
            else:
                found[piece.index] = writer.write(piece.index, piece.first, read(piece))
                bar.update(piece.rows)
    return found


def progress_bar(output: Path, sizes: dict[int, int], process: int = 0) -> Any:
    """A progress bar of shards of these sizes; what is there already is not part of the rate."""
    done = sum(size for index, size in sizes.items() if shard_path(output, index).is_file())
    options = {"total": sum(sizes.values()) or None, "initial": done, "disable": process > 0 or None}
    return logging.tqdm(desc="Predicting", unit="doc", **options)


def _shards(rows: Iterable[tuple[Any, Any]], size: int) -> Iterator[list[tuple[Any, Any]]]:
    iterator = iter(rows)
    for _ in count():
        shard = list(islice(iterator, size))
        if not shard:
            return
        yield shard


def _sizes(total: int, shard_size: int, process: int, processes: int) -> dict[int, int]:
    """Number of documents of each shard of a process."""
    sizes = {index: min(shard_size, total - start) for index, start in enumerate(range(0, total, shard_size))}
    return {index: size for index, size in sizes.items() if index % processes == process}
