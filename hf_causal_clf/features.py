"""What a frozen model says of documents, computed once: pooled hidden states, and a cache by content."""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import PreTrainedModel
from transformers.utils import logging

from .collators import DocumentEncoder, length_batches, pad
from .configuration import POOLINGS
from .modeling import pool
from .presets import base_revision, quantization_settings
from .run_files import written_aside
from .scoring import evaluation_mode

if TYPE_CHECKING:
    from trl import ModelConfig


def pooled_features(
    backbone: PreTrainedModel, encoder: DocumentEncoder, texts: Sequence[str], *, batch_size: int
) -> dict[str, np.ndarray]:
    """Return the pooled last hidden states of documents, float32 `(n, hidden)` for each pooling."""
    encoded = [encoder.encode(text) for text in texts]
    width = backbone.config.get_text_config().hidden_size
    features = {pooling: np.empty((len(texts), width), dtype=np.float32) for pooling in POOLINGS}
    with evaluation_mode(backbone), logging.tqdm(total=len(texts), desc="Computing features", unit="doc") as bar:
        for rows in length_batches([len(ids) for ids in encoded], batch_size):
            batch = {
                name: tensor.to(backbone.device) for name, tensor in pad([encoded[row] for row in rows], 0).items()
            }
            hidden = backbone(**batch, use_cache=False).last_hidden_state
            for pooling, matrix in features.items():
                matrix[rows] = pool(hidden, batch["attention_mask"], pooling).float().cpu().numpy()
            bar.update(len(rows))
    return features


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


def fingerprint(content: Any) -> str:
    """SHA-256 of a JSON value, independent of the order of keys; a date or the like counts as its text."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def model_content(name_or_path: str) -> Any:
    """The name of a model on the Hub; of a folder its files by content, wherever it is."""
    folder = Path(name_or_path)
    if not folder.is_dir():
        return name_or_path
    files = [path for path in sorted(folder.glob("*")) if path.is_file() and not path.name.startswith(".")]
    return [[path.name, _digest(path, path.stat().st_size, path.stat().st_mtime_ns)] for path in files]


@functools.cache
def _digest(path: Path, size: int, changed: int) -> str:
    """SHA-256 of a file; read again in this process only if its size or time of change is another."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def model_identity(arguments: ModelConfig) -> dict[str, Any]:
    """What tells a base model from another: its name and commit, for a folder its files, and how it is loaded."""
    return {
        "model": model_content(arguments.model_name_or_path),
        "revision": base_revision(arguments),
        "dtype": arguments.dtype,
        "quantization": quantization_settings(arguments),
    }
