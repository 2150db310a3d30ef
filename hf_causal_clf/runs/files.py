"""The files of a run: their names, and finding and reading them."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers.utils import logging

from ..cli.sources import check_source

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

ADAPTER_CONFIG_FILE = "adapter_config.json"


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


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a Hub id: `name` or `owner/name`."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True
