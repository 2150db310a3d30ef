"""A cache by content for what a frozen model says of documents: its key, and reading and writing it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..backbone.identity import fingerprint
from ..runs.disk import written_aside


def cached(
    folder: Path, content: dict[str, Any], load: Callable[[], Any], compute: Callable[[Any], dict[str, np.ndarray]]
) -> tuple[dict[str, np.ndarray], float]:
    """Return arrays from the cache, or compute and keep them.

    Args:
        folder: Folder of the cache.
        content: JSON of all that the arrays depend on; another content is another entry.
        load: Returns the model; called where something is missing.
        compute: Makes the arrays with the model.

    Returns:
        The arrays, and the seconds that computing them took when it was done, loading the model apart.
    """
    from safetensors import safe_open
    from safetensors.numpy import save_file

    path = folder / f"{fingerprint(content)[:32]}.safetensors"
    if path.is_file():
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, float(file.metadata()["seconds"])  # noqa: SIM118
    model = load()
    start = time.perf_counter()
    arrays = compute(model)
    seconds = time.perf_counter() - start
    folder.mkdir(parents=True, exist_ok=True)
    with written_aside(path) as aside:
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        save_file(contiguous, aside, {"seconds": str(seconds)})
    return arrays, seconds
