"""The files of a run: where they are, and reading and writing them whole.

Knows file names and the schema version; the content belongs to the modules that make it.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers.utils import logging

from .sources import check_source

logger = logging.get_logger(__name__)

CLASSIFICATION_FILE = "classification.json"
METRICS_FILE = "metrics.json"
PREDICTIONS_FILE = "predictions.parquet"
FIGURES_FOLDER = "figures"
CONFIG_FOLDER = "config"  # beside an adapter, a config.json would make it look like a whole model
CARD_FILE = "README.md"
MANIFEST_FILE = "manifest.json"  # the files that a run wrote, and what makes it another run than the next
UNFINISHED_FOLDER = ".unfinished"  # is there while a run goes on, and holds what is saved of it until it is whole
SCHEMA_VERSION = 1
_COMMON = ("approach", "label_space", "truncation", "temperature", "thresholds", "base_model")
_OWN = {"embedding": ("pooling",), "instruction": ("prompt_template", "verbalizer")}  # of each approach

STATE_FILE = "trainer_state.json"  # the last file of a checkpoint that a trainer writes
_CHECKPOINT = re.compile(r"checkpoint-[0-9]+")
_FULL = 2**16  # free bytes; a file of this size is not worth an error of its own
_locks: dict[Path, Any] = {}


def write_json(path: str | PathLike[str], data: dict[str, Any]) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: str | PathLike[str], text: str) -> None:
    """Write a file atomically: a reader sees the old file or the new one, never half of one."""
    with written_aside(Path(path)) as aside, open(aside, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Give a path beside a file to write to; it takes the file's place when that is done, or goes away."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield aside
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def lock_folder(folder: str | PathLike[str]) -> None:
    """Keep other processes from writing into an output folder for as long as this process lives.

    The lock file is beside the folder. It is the operating system's lock that counts, which ends with the process
    however that ends; a file that is left over means nothing.

    Raises:
        OSError: If files cannot be written there.
        ValueError: If another process has it, or it is a file.
    """
    from filelock import FileLock, Timeout

    folder = Path(folder).resolve()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{str(folder)!r} is a file, not a folder. Choose another output_dir.")
    lock = FileLock(folder.with_name(f".{folder.name}.lock"), is_singleton=True, blocking=False)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        if folder.exists():
            tempfile.TemporaryFile(dir=folder).close()
    except Timeout:
        if not Path(lock.lock_file).exists():  # filelock takes a file that cannot be made for one that is held
            raise OSError(
                errno.EACCES, f"Nothing can be written into {str(folder.parent)!r}. Choose another output_dir."
            ) from None
        raise ValueError(
            f"Another process is writing into {str(folder)!r}: what is left of an earlier start, perhaps. Wait for it "
            "or stop it, or choose another output_dir."
        ) from None
    except OSError as error:
        reason = f"Nothing can be written into {str(folder)!r} ({error.strerror}). Choose another output_dir."
        raise OSError(error.errno, reason) from error
    _locks[folder] = lock  # or it would be given back with the object


def how_to_go_on() -> str:
    """Say what to type to go on with a training that this process was stopped in."""
    started = any(next(folder.glob("checkpoint-*/trainer_state.json"), None) for folder in _locks)
    again = "start the same command again"
    return f"{again} with --resume_from_checkpoint true: it has checkpoints" if started else again


@contextmanager
def naming_full_disk(folder: str | PathLike[str]) -> Iterator[None]:
    """Say so where a full disk is why something could not be written into a folder; libraries do not always.

    Raises:
        OSError: If the disk is full.
    """
    try:
        yield
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        existing = next(path for path in (Path(folder).resolve(), *Path(folder).resolve().parents) if path.exists())
        if not full and shutil.disk_usage(existing).free >= _FULL:
            raise
        reason = (
            f"The disk of {str(folder)!r} is full. What was finished before is as it was. Free some space, and start "
            "the same command again: a training goes on from its last whole checkpoint with "
            "--resume_from_checkpoint true, a prediction or a comparison from what is there."
        )
        raise OSError(errno.ENOSPC, reason) from error


def is_checkpoint_name(name: str) -> bool:
    """Whether a trainer calls its checkpoints so: `checkpoint-<number>`."""
    return _CHECKPOINT.fullmatch(name) is not None


def checkpoints(folder: str | PathLike[str]) -> list[Path]:
    """Return the folders called `checkpoint-<number>`, as a trainer calls them, by number; whole or not."""
    found = [path for path in Path(folder).glob("checkpoint-*") if path.is_dir() and is_checkpoint_name(path.name)]
    return sorted(found, key=checkpoint_step)


def checkpoint_step(path: Path) -> int:
    """Return the number of a checkpoint: after how many steps it was saved."""
    return int(path.name.rpartition("-")[2])


def whole_checkpoints(folder: str | PathLike[str]) -> list[Path]:
    """Return a trainer's checkpoints that it can go on from, oldest first; what is passed over is named in the log."""
    whole = []
    for checkpoint in checkpoints(folder):
        try:
            read_json(checkpoint / STATE_FILE)
        except (OSError, ValueError):
            logger.warning_once(f"{checkpoint} is passed over: it has no whole {STATE_FILE}, which is saved last.")
        else:
            whole.append(checkpoint)
    for other in sorted(set(Path(folder).glob("checkpoint-*")) - set(checkpoints(folder))):
        logger.warning_once(f"{other} is passed over: a checkpoint of a run is called checkpoint-<number>.")
    return whole


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint; of a link to one, the link."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path)


def remove_traces(folder: str | PathLike[str]) -> None:
    """Remove what a run leaves while it goes on: its checkpoints, and what is saved of it but not whole."""
    for checkpoint in checkpoints(folder):
        remove_checkpoint(checkpoint)
    shutil.rmtree(Path(folder) / UNFINISHED_FOLDER, ignore_errors=True)


def find_file(source: str | PathLike[str], name: str, **hub_kwargs: Any) -> Path | None:
    """Return the local path of a file of a run folder or Hub repository, or `None` if it has no such file."""
    from transformers.utils import cached_file

    found = cached_file(str(source), name, _raise_exceptions_for_missing_entries=False, **hub_kwargs)
    return None if found is None else Path(found)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: If the file is not a JSON object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is not valid JSON ({error}). The file is damaged: train or download it again."
        ) from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} must contain a JSON object, found {type(data).__name__}.")
    return data


def read_run(source: str | PathLike[str], **hub_kwargs: Any) -> dict[str, Any]:
    """Read `classification.json` of a run folder or Hub repository.

    Raises:
        FileNotFoundError: If there is none.
        OSError: If there is no such folder or repository, or the Hub cannot be reached.
        ValueError: If it is damaged, of another schema version, or lacks an entry.
    """
    check_source(str(source), CLASSIFICATION_FILE, **hub_kwargs)
    try:
        path = find_file(source, CLASSIFICATION_FILE, **hub_kwargs)
    except OSError as error:
        raise OSError(f"{str(source)!r} cannot be read. {error}") from error
    if path is None:
        raise FileNotFoundError(
            f"{str(source)!r} has no {CLASSIFICATION_FILE}, so its labels are unknown. Give the output_dir of a "
            "finished run of recipes/embed.py or recipes/instruct.py, or a repository pushed from one; for a model of "
            "your own Trainer, call hf_causal_clf.finishing.save_description(folder, model, encoder) first."
        )
    data = read_json(path)
    if data.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(
            f"{path} has schema version {data.get('schema_version')!r}, but this version of hf_causal_clf reads "
            f"{SCHEMA_VERSION}. Install the version of hf_causal_clf that wrote it."
        )
    approach = data.get("approach")
    if approach not in _OWN:
        raise ValueError(f"{path} has the approach {approach!r}; known are {list(_OWN)}. Train or download it again.")
    missing = [name for name in (*_COMMON, *_OWN[approach]) if name not in data]
    if missing:
        raise ValueError(
            f"{path} lacks {missing}, which a run of approach {approach!r} has. Train or download it again."
        )
    return data
