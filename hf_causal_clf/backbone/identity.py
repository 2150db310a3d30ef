"""What documents, models and runs are, told by content: hashes of files, commits of repositories."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from huggingface_hub.constants import REGEX_COMMIT_OID
from transformers.utils.hub import extract_commit_hash, resolve_revision

from ..data.locations import is_url, mark_of
from ..runs.files import CLASSIFICATION_FILE, find_file, find_members, model_files
from ..runs.run import Run
from .loading import find_adapter, read_base

_COMMIT = "commit"


def identify_file(path: str | PathLike[str]) -> dict[str, str]:
    """Return the hash of a file by its name."""
    path = Path(path)
    return {path.name: _hash(path)}


def identify_files(files: Sequence[str]) -> dict[str, str]:
    """Say what is in files, each by its path below the folder that they share.

    A file on this machine has a hash of its bytes. One elsewhere has a hash of what its place says: the Hub's hash, or
    the size and the time of change.
    """
    paths = [file.partition("://")[2].partition("?")[0] if is_url(file) else file for file in files]
    top = os.path.commonpath([os.path.dirname(path) for path in paths])
    names = [os.path.relpath(path, top) for path in paths]
    marks = [_hash_text(mark_of(file)) if is_url(file) else _hash(Path(file)) for file in files]
    return dict(zip(names, marks, strict=True))


def identify_dataset(name: str, config: str | None = None, revision: str | None = None) -> dict[str, str]:
    """Return the hash of each file of a data set's folder, or the commit of a data set on the Hub.

    Raises:
        OSError: If there is none.
    """
    if os.path.isdir(name):
        folder = Path(name)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        names = {path: path.relative_to(folder) for path in files}
        return {
            str(name): _hash(path)
            for path, name in names.items()
            if not any(part.startswith(".") for part in name.parts)
        }
    from datasets import load_dataset_builder

    return {_COMMIT: str(load_dataset_builder(name, config, revision=revision).hash)}


def identify_run(source: str | PathLike[str], revision: str | None = None) -> dict[str, str]:
    """Return the hash of each file that predictions depend on, or the commit of a run on the Hub.

    The base model of an adapter or of a head on a frozen one is a part of it, in the same way; so are the members of a
    combination.

    Raises:
        FileNotFoundError: If its base model is not there.
        ValueError: If weights are missing or damaged.
    """
    adapter = find_adapter(source, revision=revision)
    found = {} if adapter is None else _identify_base(*read_base(adapter))
    run = Run.read(source, revision=revision)
    if run.approach == "frozen":
        found = _identify_base(str(run.base_model.name_or_path), run.base_model.revision)
    if run.members is not None:
        folder = find_members(source, revision=revision)
        for name in run.members:
            found |= {f"{name}: {part}": mark for part, mark in identify_run(folder / name).items()}
    if os.path.isdir(source):
        return found | _hash_run(Path(source), "")
    path = find_file(source, CLASSIFICATION_FILE, revision=revision)
    commit = extract_commit_hash(str(path), None)
    return found | ({} if commit is None else {_COMMIT: commit})


def pinned(identity: dict[str, str]) -> str | None:
    """Return the commit of a data set or run on the Hub, to load just that; `None` for files."""
    commit = identity.get(_COMMIT, "")
    return commit if REGEX_COMMIT_OID.match(commit) else None  # datasets has a hash of its own for a cached copy


def _identify_base(name: str, revision: str | None) -> dict[str, str]:
    if os.path.isdir(name):
        return _hash_run(Path(name), "base model: ")
    commit = resolve_revision(name, revision)
    return {"base model": str(getattr(commit, "resolved", commit))}


def _hash_run(folder: Path, prefix: str) -> dict[str, str]:
    return {f"{prefix}{path.name}": _hash(path) for path in model_files(folder)}


def _hash_text(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _hash(path: Path) -> str:
    status = path.stat()
    return f"sha256:{_digest(path, status.st_size, status.st_mtime_ns)}"


def fingerprint(content: Any) -> str:
    """SHA-256 of a JSON value, independent of the order of keys; a date or the like counts as its text."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def model_content(name_or_path: str) -> Any:
    """The name of a model on the Hub; of a folder its files by content, wherever it is."""
    folder = Path(name_or_path)
    if not folder.is_dir():
        return name_or_path
    return [[path.name, _hash(path)] for path in model_files(folder)]


@functools.cache
def _digest(path: Path, size: int, changed: int) -> str:
    """SHA-256 of a file; read again in this process only if its size or time of change is another."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
