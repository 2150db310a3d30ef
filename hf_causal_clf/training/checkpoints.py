"""A trainer's checkpoints in an output folder: found, told from somebody else's, and removed."""

from __future__ import annotations

import re
import shutil
from os import PathLike
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ..runs.disk import write_json
from ..runs.files import UNFINISHED_FOLDER, read_json

logger = logging.get_logger(__name__)

STATE_FILE = "trainer_state.json"  # the last file of a checkpoint that a trainer writes
_SAVED_FILE = "saved.json"  # numbers of the checkpoints that starts in this folder saved, and their settings
_CHECKPOINT = re.compile(r"checkpoint-[0-9]+")


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


def note_checkpoint(folder: str | PathLike[str], step: int, settings: dict[str, Any] | None = None) -> None:
    """Note that a checkpoint is a run's own, before it is saved, and what the run is trained with, if that is known."""
    unfinished = Path(folder) / UNFINISHED_FOLDER
    unfinished.mkdir(parents=True, exist_ok=True)
    write_json(unfinished / _SAVED_FILE, {"steps": sorted({*_saved_steps(folder), step}), "settings": settings})


def noted_settings(folder: str | PathLike[str]) -> dict[str, Any] | None:
    """Return what the checkpoints of a run were trained with; `None` if that is not known."""
    path = Path(folder) / UNFINISHED_FOLDER / _SAVED_FILE
    return read_json(path).get("settings") if path.is_file() else None


def own_checkpoints(folder: str | PathLike[str]) -> list[Path]:
    """Return the checkpoints that starts in this folder have saved, by number; somebody else's may be beside them."""
    saved = _saved_steps(folder)
    return [path for path in checkpoints(folder) if checkpoint_step(path) in saved]


def _saved_steps(folder: str | PathLike[str]) -> set[int]:
    path = Path(folder) / UNFINISHED_FOLDER / _SAVED_FILE
    return set(read_json(path)["steps"]) if path.is_file() else set()


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint; of a link to one, the link."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path)


def remove_traces(folder: str | PathLike[str]) -> None:
    """Remove what a run leaves while it goes on: its own checkpoints, and what is saved of it but not whole."""
    for checkpoint in own_checkpoints(folder):
        remove_checkpoint(checkpoint)
    shutil.rmtree(Path(folder) / UNFINISHED_FOLDER, ignore_errors=True)
