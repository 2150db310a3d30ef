"""Writing to disk: files whole or not at all, one process per folder, a full disk named."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from .files import MANIFEST_FILE, read_json

_FULL = 2**16  # free bytes; a file of this size is not worth an error of its own
_locks: dict[Path, Any] = {}


def write_json(path: str | PathLike[str], data: dict[str, Any]) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def add_file(folder: Path, name: str) -> None:
    """List a file of a finished run that its manifest may lack; a run that is not whole yet has none."""
    if (folder / MANIFEST_FILE).is_file():
        manifest = read_json(folder / MANIFEST_FILE)
        write_json(folder / MANIFEST_FILE, {**manifest, "files": sorted({*manifest["files"], name})})


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


@contextmanager
def folder_written_aside(path: Path) -> Iterator[Path]:
    """Give a new folder beside one that is not there or empty; it takes its place when that is done, or goes away.

    What a killed process has left of it is removed first.
    """
    aside = path.with_name(f".{path.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        os.replace(aside, path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


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


def taken_names(folder: Path, names: Iterable[str], *, overwrite: bool) -> Iterator[str]:
    """Say which files of a folder would be replaced, in one sentence, unless that is what is wanted.

    They may have been worked on since: labels corrected, documents labelled.

    Args:
        folder: The folder.
        names: Names of the files that are to be written there.
        overwrite: `overwrite_output_dir`.
    """
    there = [name for name in names if (folder / name).exists()]
    if there and not overwrite:
        yield (
            f"output_dir {str(folder)!r} has {', '.join(there)}, which would be replaced. Choose another output_dir, "
            "or set overwrite_output_dir to true."
        )
