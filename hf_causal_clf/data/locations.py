"""Where files lie: on this machine, in a bucket, on the Hub. Lists and opens them; knows nothing of what is in them."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Collection
from os import PathLike
from pathlib import PurePosixPath
from typing import Any, BinaryIO, TextIO

_ARROWS_OWN = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs")  # fsspec would need a package for each
_PATTERN = "*?["
_BUFFER = 2**20


def find_files(source: str, endings: Collection[str]) -> list[str]:
    """List files of documents, sorted by path: the order of their rows.

    Args:
        source: A file, a folder (all files in it and below with a known ending, but for names that begin with `_` or
            `.`) or a pattern (`*`, `**`, `?`, `[…]`), on this machine or as a URL: `s3://` (options of Arrow after a
            `?`), `gs://`, `hf://` and what else Arrow and fsspec open.
        endings: The endings that are known.

    Returns:
        Absolute paths, or URLs.

    Raises:
        ValueError: If there are none, or one has an unknown ending.
        OSError: If the place cannot be reached.
    """
    system, path, name_again = _locate(source)
    try:
        if any(sign in path for sign in _PATTERN) and not system.exists(path):
            found = [name for name in system.glob(path) if system.isfile(name)]
        elif system.isdir(path):
            inside = len(path.rstrip("/")) + 1
            found = [name for name in system.find(path) if _is_document(name[inside:], endings)]
        else:
            found = [path] if system.isfile(path) else []
    except Exception as error:  # each kind of place has errors of its own
        raise OSError(f"{source!r} cannot be read: {error}") from error
    if not found:
        kind = "There are no files" if any(sign in path for sign in _PATTERN) else "There is no file"
        kind = f"There is no document ({', '.join(endings)}) in" if system.isdir(path) else kind
        raise ValueError(f"{kind} {source!r}. Check test_file.")
    unknown = [name for name in found if ending(name) not in endings]
    if unknown:
        name = source if system.isfile(path) else name_again(unknown[0])
        raise ValueError(f"{name!r} has an unknown ending; known are {', '.join(endings)}.")
    return [name_again(name) for name in sorted(found)]


def open_binary(location: str | PathLike[str]) -> BinaryIO:
    """Open a file for reading bytes; it can be sought in."""
    if not is_url(location):
        return open(location, "rb")
    system, path, _ = _locate(str(location))
    opened = system.fs.open_input_file(path) if _scheme(location) in _ARROWS_OWN else system.open(path, "rb")
    return io.BufferedReader(opened, _BUFFER)  # Arrow's own files have no lines


def open_text(location: str | PathLike[str], encoding: str, newline: str | None = None) -> TextIO:
    """Open a file for reading text."""
    return io.TextIOWrapper(open_binary(location), encoding=encoding, newline=newline)


def ending(location: str | PathLike[str]) -> str:
    """Return the ending of a file's name, with its dot."""
    return PurePosixPath(str(location).partition("?")[0] if is_url(location) else location).suffix


def mark_of(url: str) -> str:
    """Return what the place of a file says of its content: the Hub's hash, or its size and time of change."""
    system, path, _ = _locate(url)
    system.invalidate_cache()
    found = system.info(path)
    return str(found.get("blob_id") or found.get("ETag") or f"{found.get('size')} bytes, {found.get('mtime')}")


def is_url(location: str | PathLike[str]) -> bool:
    """Whether it is a URL, not a path on this machine."""
    return "://" in str(location)


def _is_document(name: str, endings: Collection[str]) -> bool:
    parts = PurePosixPath(name).parts
    return ending(name) in endings and not any(part.startswith((".", "_")) for part in parts)


def _scheme(location: str | PathLike[str]) -> str:
    return str(location).partition("://")[0]


def _locate(source: str) -> tuple[Any, str, Callable[[str], str]]:
    """Return the file system of a path or URL, the path in it, and what makes a URL of such a path again."""
    import fsspec

    if not is_url(source):
        return fsspec.filesystem("file"), os.path.abspath(source), str
    scheme, rest = _scheme(source), source.partition("://")[2]
    try:
        if scheme not in _ARROWS_OWN:
            system, path = fsspec.core.url_to_fs(source)
            return system, path, lambda name: f"{scheme}://{name}"
        from fsspec.implementations.arrow import ArrowFSWrapper
        from pyarrow.fs import FileSystem

        path, mark, options = rest.partition("?")
        system, _ = FileSystem.from_uri(f"{scheme}://{path.partition('/')[0]}{mark}{options}")
        return ArrowFSWrapper(system), path, lambda name: f"{scheme}://{name}{mark}{options}"
    except (ImportError, ValueError, OSError) as error:
        raise OSError(f"{source!r} cannot be reached: {error}") from error
