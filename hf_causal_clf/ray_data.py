"""Prediction on a Ray cluster: shards of files, shared out by Ray Data over a pool of actors on any number of machines.

A shard is what an actor is given, and one file that it writes as a whole. So whatever is killed, only shards that were
not finished are predicted again: those of an actor or a machine by Ray, those of the driver by its next start.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers.utils import logging

from .batches import BatchClassifier
from .cli.logs import hide_by_name
from .data.pieces import Piece, PieceReader
from .shard_writer import ShardRows, ShardWriter
from .shards import progress_bar, shard_path

logger = logging.get_logger(__name__)

_LIVES = 5  # actors that die at the same shard until it is taken for the reason
_BLOCKS = 10_000  # of a data set, at the most
_CHECKED_AT_ONCE = 100
Given = TypeVar("Given")
Result = TypeVar("Result")


@dataclass(frozen=True)
class ActorPool:
    """What actors need, and how many there may be.

    Attributes:
        num_gpus: GPUs of each; `None` for one where the cluster has any.
        num_cpus: CPUs of each, which are its threads, too.
        min_actors: How many are asked for at the least.
        max_actors: How many there are at the most; `None` for as many as there is room for.
    """

    num_gpus: float | None = None
    num_cpus: float = 1
    min_actors: int = 1
    max_actors: int | None = None


@contextmanager
def connected(address: str | None = None) -> Iterator[None]:
    """Be part of a Ray cluster: that of an address or of `RAY_ADDRESS`, else this machine's, else a new one here.

    Raises:
        OSError: If it cannot be reached.
    """
    import ray

    try:
        ray.init(address=address, logging_level="WARNING")
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise OSError(f"There is no Ray cluster at {address!r}: {error} Check ray_address.") from error
    try:
        yield
    finally:
        ray.shutdown()


def map_on_ray(function: Callable[[Given], Result], given: Sequence[Given]) -> list[Result]:
    """Call a function with each of the items, on the machines of the cluster; results are in their order.

    A single item is not worth the start of a process.

    Raises:
        ValueError: With the message of a `ValueError` or `OSError` of the function.
    """
    import ray

    if len(given) == 1:
        return [function(given[0])]
    call = ray.remote(_called)
    results = []
    for result, error in ray.get([call.remote(function, item) for item in given]):
        if error is not None:
            raise ValueError(error)
        results.append(result)
    return results


def _called(function: Callable[[Given], Result], item: Given) -> tuple[Result | None, str | None]:
    """Return a result, or what is wrong: Ray's errors have tracebacks in the place of messages."""
    try:
        return function(item), None
    except (ValueError, OSError) as error:
        return None, str(error)


def predict_on_ray(
    model_name_or_path: str,
    pieces: Sequence[Piece],
    output: Path,
    *,
    text_column: str,
    id_column: str | None,
    id_type: type,
    pool: ActorPool,
    **options: Any,
) -> list[ShardRows]:
    """Predict the shards that are not there yet, and check those that are.

    Args:
        model_name_or_path: Finished run, which every machine sees.
        pieces: A piece of the documents for each shard.
        output: Folder of the shards, which every machine sees.
        text_column: Column of the texts.
        id_column: Column of the ids; `None` for the numbers of the rows.
        id_type: Type of the ids.
        pool: The actors.
        options: Of `BatchClassifier`.

    Returns:
        The rows of all shards.

    Raises:
        ValueError: As `ShardWriter`; if a file has changed, cannot be read or written; or if actors die of a shard.
    """
    output = output.resolve()
    for left in output.glob(_lives_path(output, 0).name.replace("000000", "*")):
        left.unlink()  # of a driver that was killed
    if os.path.isdir(model_name_or_path):
        model_name_or_path = os.path.abspath(model_name_or_path)
    step = _ShardStep(model_name_or_path, str(output), text_column, id_column, id_type, options)
    there = {piece.index for piece in pieces if shard_path(output, piece.index).is_file()}
    old = [piece for piece in pieces if piece.index in there]
    parts = [old[start : start + _CHECKED_AT_ONCE] for start in range(0, len(old), _CHECKED_AT_ONCE)]
    checked: list[dict[int, ShardRows]] = map_on_ray(step.check, parts)
    found = {index: rows for part in checked for index, rows in part.items()}
    wanted = [piece for piece in pieces if piece.index not in there]
    with progress_bar(output, {piece.index: piece.rows for piece in pieces}) as bar:
        for index, rows in _predicted(step, wanted, pool) if wanted else ():
            found[index] = rows
            bar.update(rows.number)
    return [found[piece.index] for piece in pieces]


@dataclass
class _ShardStep:
    model: str
    output: str
    text_column: str
    id_column: str | None
    id_type: type
    options: dict[str, Any]

    def reader(self) -> PieceReader:
        return PieceReader(self.text_column, self.id_column)

    def writer(self) -> ShardWriter:
        return ShardWriter(partial(BatchClassifier, self.model, **self.options), Path(self.output), self.id_type)

    def check(self, pieces: Sequence[Piece]) -> dict[int, ShardRows]:
        read, writer = self.reader(), self.writer()
        return {piece.index: writer.check(piece.index, piece.first, read.ids(piece)) for piece in pieces}


class _Actor:
    """Writes shards. The classifier is loaded with the first, so that its errors are told as those of a shard."""

    def __init__(self, step: _ShardStep, threads: int) -> None:
        hide_by_name()
        logging.disable_progress_bar()
        torch.set_num_threads(threads)
        self._read, self._write, self._output = step.reader(), step.writer().write, Path(step.output)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        done = [self._told(Piece(**json.loads(piece))) for piece in batch["piece"]]
        return {name: [each[name] for each in done] for name in done[0]}

    def _told(self, piece: Piece) -> dict[str, Any]:
        """Predict a shard. What a user can mend is told as a row: of an error, Ray Data passes on the text alone."""
        try:
            rows = self._predict(piece)
        except (ValueError, OSError) as error:
            return {"index": piece.index, "number": 0, "ids": "", "error": str(error)}
        return {"index": piece.index, "number": rows.number, "ids": rows.ids, "error": ""}

    def _predict(self, piece: Piece) -> ShardRows:
        """Predict a shard, unless several actors have died of it: Ray itself would try again for ever."""
        lives = _lives_path(self._output, piece.index)
        lost = lives.stat().st_size if lives.exists() else 0
        if lost >= _LIVES:
            raise ValueError(
                f"{lost} actors have died while they predicted rows {piece.first} to {piece.first + piece.rows - 1}, "
                f"counted from 0, in {piece.file!r}: of too little memory perhaps. Look for a "
                "very long document there, make per_device_eval_batch_size smaller, or give actors more; the shards "
                "that are finished are kept."
            )
        with lives.open("ab") as file:
            file.write(b".")
        try:
            rows = self._write(piece.index, piece.first, self._read(piece))
        except Exception:
            lives.unlink(missing_ok=True)  # it lives
            raise
        lives.unlink(missing_ok=True)
        return rows


def _lives_path(output: Path, index: int) -> Path:
    """Path of a file that has a byte for each actor that has begun a shard and not finished it."""
    return output / f".begun-{index:06d}"


def _predicted(step: _ShardStep, pieces: Sequence[Piece], pool: ActorPool) -> Iterator[tuple[int, ShardRows]]:
    """Yield the rows of each shard, as it is finished."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    DataContext.get_current().enable_progress_bars = False
    num_gpus = pool.num_gpus
    if num_gpus is None:
        num_gpus = 1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0
    _check_room({"GPU": num_gpus, "CPU": pool.num_cpus})
    items = [{"piece": json.dumps(asdict(piece))} for piece in pieces]
    shards = ray.data.from_items(items, override_num_blocks=min(len(items), _BLOCKS)).map_batches(
        _Actor,
        fn_constructor_args=(step, max(1, int(pool.num_cpus))),
        batch_size=1,
        # One shard is predicted, the next one waits: more would keep the last ones from actors that are idle
        compute=ActorPoolStrategy(min_size=pool.min_actors, max_size=pool.max_actors, max_tasks_in_flight_per_actor=2),
        num_gpus=num_gpus,
        num_cpus=pool.num_cpus,
    )
    for row in shards.iter_rows():
        if row["error"]:
            raise ValueError(row["error"])
        yield row["index"], ShardRows(row["number"], row["ids"])


def _check_room(needed: dict[str, float]) -> None:
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(machine.get(name, 0) >= number for name, number in needed.items()) for machine in machines):
        words = " and ".join(f"{number:g} {name}" for name, number in needed.items() if number)
        logger.warning(f"No machine of the Ray cluster has {words} for an actor. Waiting for one that has.")
