"""What a frozen model says of documents, kept by content: arrays that no other process has to compute again.

A comparison names a folder that its runs share (`shared_by_runs`), and removes at its end what they have left there.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from transformers.utils import logging

from ..runs.disk import written_aside
from .identity import fingerprint

logger = logging.get_logger(__name__)

_VARIABLE = "HF_CAUSAL_CLF_SHARED"  # the folder, for the processes that a comparison starts
# Names of files there, in a folder those of frozen states; with a process's number, what was not written to the end
_OWN = re.compile(r"([0-9a-f]{16}/)?(\.[0-9a-f]{32}\.safetensors\.[0-9]+|[0-9a-f]{32}\.safetensors)")


def cached(
    folder: Path | None,
    content: dict[str, Any],
    load: Callable[[], Any],
    compute: Callable[[Any], dict[str, np.ndarray]],
) -> tuple[dict[str, np.ndarray], float]:
    """Return arrays from the cache, or compute and keep them.

    Args:
        folder: Folder of the cache; `None` for none.
        content: JSON of all that the arrays depend on; another content is another entry.
        load: Returns the model; called where something is missing.
        compute: Makes the arrays with the model.

    Returns:
        The arrays, and the seconds that computing them took when it was done, loading the model apart.
    """
    from safetensors.numpy import save_file

    path = None if folder is None else folder / f"{fingerprint(content)[:32]}.safetensors"
    known = None if path is None else _read(path)
    if known is not None:
        return known
    model = load()
    start = time.perf_counter()
    arrays = compute(model)
    seconds = time.perf_counter() - start
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(path) as aside:
            contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
            save_file(contiguous, aside, {"seconds": str(seconds)})
    return arrays, seconds


def _read(path: Path) -> tuple[dict[str, np.ndarray], float] | None:
    """Arrays of a file and their seconds; `None` where there is none, or it is damaged."""
    from safetensors import safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return arrays, float(file.metadata()["seconds"])
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        logger.warning(f"{path} is damaged ({error}): what it had is computed again.")
        return None


def shared_folder() -> Path | None:
    """Return the folder that the runs of a comparison share; `None` outside of one, or with several processes."""
    named = os.environ.get(_VARIABLE)
    return Path(named) if named and int(os.environ.get("WORLD_SIZE", "1")) == 1 else None


def computing_versions() -> dict[str, str]:
    """Return the versions of the packages that round: others may give other arrays."""
    return {name: version(name) for name in ("torch", "transformers", "scikit-learn")}


@contextmanager
def shared_by_runs(folder: Path) -> Iterator[None]:
    """Have the processes that are started from here share a folder; when all is done, it goes away.

    Where an error ends it, what is there stays for the next start. Files of others are never touched.
    """
    earlier = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = os.path.abspath(folder)
    try:
        yield
    finally:
        os.environ.pop(_VARIABLE)
        if earlier is not None:
            os.environ[_VARIABLE] = earlier
    remove_own(folder)


def remove_own(folder: Path) -> None:
    """Remove the files that runs have left in a folder that they share, and the folder if that was all."""
    for path in [*folder.glob("*"), *folder.glob("*/*")]:
        if _OWN.fullmatch(path.relative_to(folder).as_posix()):
            path.unlink(missing_ok=True)
    for part in [*folder.glob("*/"), folder]:
        with suppress(OSError):  # it is not empty, or not there
            part.rmdir()
