"""Prediction over any number of documents: Parquet shards, shared out over processes, resumable.

Documents are cut into shards by their row number alone, so a run may go on with another number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet
from transformers.utils import logging

from .classifier import TextClassifier
from .prediction_tables import answer_column, probability_column
from .run_files import lock_folder, naming_full_disk, read_json, write_json, written_aside

PREDICTION_FILE = "prediction.json"
_ID_TYPES = {int: pa.int64(), str: pa.string()}


def shard_path(output: Path, index: int) -> Path:
    """Path of a shard's file."""
    return output / f"shard-{index:06d}.parquet"


def start_prediction(output: Path, settings: dict[str, Any]) -> None:
    """Note what is predicted, or check that it is what the folder was started with.

    Raises:
        ValueError: If the folder has predictions of another classifier, input or shard size, or is in use.
    """
    lock_folder(output)
    output.mkdir(parents=True, exist_ok=True)
    path = output / PREDICTION_FILE
    if not path.is_file():
        if any(output.glob("shard-*.parquet")):
            raise ValueError(f"{output} has shards but no {PREDICTION_FILE}. Choose another output_dir.")
        write_json(path, {**settings, "finished": False})
        return
    found = read_json(path)
    changed = [name for name, value in settings.items() if found.get(name) != value]
    if changed:
        was = {name: found.get(name) for name in changed}
        now = {name: settings[name] for name in changed}
        raise ValueError(
            f"{output} has predictions with other settings: {was}, now {now}. Choose another output_dir, or remove it."
        )


def finish_prediction(output: Path, rows: int, shard_size: int) -> None:
    """Check that every shard is there, and note that the folder is complete.

    Raises:
        FileNotFoundError: If a shard is missing.
    """
    missing = [index for index in range(-(-rows // shard_size)) if not shard_path(output, index).is_file()]
    if missing:
        raise FileNotFoundError(f"{output}: the shards {missing[:5]} are missing. Start the prediction again.")
    write_json(output / PREDICTION_FILE, {**read_json(output / PREDICTION_FILE), "rows": rows, "finished": True})


def predict_shards(
    load: Callable[[], TextClassifier],
    rows: Iterable[tuple[Any, Any]],
    output: Path,
    *,
    shard_size: int,
    process: int = 0,
    processes: int = 1,
    total: int | None = None,
) -> int:
    """Predict this process's shards that are not there yet, and write each as a whole.

    No more than one shard of documents is held in memory.

    Args:
        load: Returns the classifier; called when there is something to predict.
        rows: Id and text of each document, in an order that is always the same.
        output: Folder of the shards: Parquet with `id`, `predicted` and `probabilities`.
        shard_size: Documents a shard.
        process: Number of this process; it works on every `processes`-th shard.
        processes: Number of processes.
        total: Number of documents, for the progress bar.

    Returns:
        The number of documents of all shards.

    Raises:
        ValueError: If a document has no text, or its id is of another type than the first one's.
    """
    classifier: TextClassifier | None = None
    seen, id_type = 0, type(None)
    sizes = {} if total is None else _sizes(total, shard_size, process, processes)
    done = sum(size for index, size in sizes.items() if shard_path(output, index).is_file())  # not part of the rate
    options = {"total": sum(sizes.values()) or None, "initial": done, "disable": process > 0 or None}
    with logging.tqdm(desc="Predicting", unit="doc", **options) as bar:
        for index, shard in enumerate(_shards(rows, shard_size)):
            id_type = type(shard[0][0]) if index == 0 else id_type
            _check(shard, seen, id_type)
            seen += len(shard)
            if index % processes != process:
                continue
            path = shard_path(output, index)
            if path.is_file():
                continue
            classifier = classifier or load()
            _write(path, classifier, shard, id_type)
            bar.update(len(shard))
    return seen


def _shards(rows: Iterable[tuple[Any, Any]], size: int) -> Iterator[list[tuple[Any, Any]]]:
    iterator = iter(rows)
    for _ in count():
        shard = list(islice(iterator, size))
        if not shard:
            return
        yield shard


def _check(shard: list[tuple[Any, Any]], first: int, id_type: type) -> None:
    for row, (identifier, text) in enumerate(shard, start=first):
        if type(identifier) is not id_type or id_type not in _ID_TYPES:
            raise ValueError(
                f"Row {row}, counted from 0, has the id {identifier!r}. Ids have to be all texts or all whole numbers: "
                "correct it, or leave out id_column, which takes the row number."
            )
        if isinstance(identifier, int) and not -(2**63) <= identifier < 2**63:
            raise ValueError(f"Row {row}, counted from 0, has the id {identifier}, over 64 bits. Make ids texts.")
        if not isinstance(text, str) or not text.strip():
            raise ValueError(
                f"Row {row} (id {identifier!r}), counted from 0, has no text: {text!r}. Fill it in or remove it; the "
                "shards that are finished are kept."
            )


def _write(path: Path, classifier: TextClassifier, shard: list[tuple[Any, Any]], id_type: type) -> None:
    probabilities = classifier.predict_proba([text for _, text in shard])
    columns = {
        "id": pa.array([identifier for identifier, _ in shard], _ID_TYPES[id_type]),
        "predicted": answer_column(classifier.decide(probabilities), classifier.label_space),
        "probabilities": probability_column(probabilities),
    }
    with naming_full_disk(path.parent), written_aside(path) as aside:
        parquet.write_table(pa.table(columns), aside)


def _sizes(total: int, shard_size: int, process: int, processes: int) -> dict[int, int]:
    """Number of documents of each shard of a process."""
    sizes = {index: min(shard_size, total - start) for index, start in enumerate(range(0, total, shard_size))}
    return {index: size for index, size in sizes.items() if index % processes == process}
