"""The files of a run: their names, and finding and reading them."""

from __future__ import annotations

import json
import os
from os import PathLike
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

CLASSIFICATION_FILE = "classification.json"
METRICS_FILE = "metrics.json"
PREDICTIONS_FILE = "predictions.parquet"
OUT_OF_FOLD_FILE = "out_of_fold.parquet"
FIGURES_FOLDER = "figures"
CONFIG_FOLDER = "config"  # beside an adapter, a config.json would make it look like a whole model
MEMBERS_FOLDER = "members"  # of a combination or cascade: a folder for each run that it is made of
CARD_FILE = "README.md"
PAGE_FILE = "report.html"
MANIFEST_FILE = "manifest.json"  # the files that a run wrote, and what makes it another run than the next
UNFINISHED_FOLDER = ".unfinished"  # is there while a run goes on, and holds what is saved of it until it is whole
FIGURES = (
    *("reliability_diagram", "confusion_matrix", "label_f1", "thresholds", "training_curves", "risk_coverage"),
    "set_sizes",
)

ADAPTER_CONFIG_FILE = "adapter_config.json"
ADAPTER_WEIGHTS_FILE = "adapter_model.safetensors"

HEAD_FILE = "head.safetensors"  # of a baseline: linear, on a language model's hidden states or on TF-IDF
VOCABULARY_FILE = "vocabulary.json"  # of TF-IDF

# The files of a run, as patterns below its folder
_ADAPTER = (ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE)
_WHOLE_MODEL = (
    *("config.json", "generation_config.json"),
    *("model.safetensors", "model-*.safetensors", "model.safetensors.index.json"),
)
_TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "additional_chat_templates/*"),
    *("tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "merges.txt"),
)
NEEDED = (  # to load a run that has no members
    *(CLASSIFICATION_FILE, f"{CONFIG_FOLDER}/config.json"),
    *(*_ADAPTER, *_WHOLE_MODEL, *_TOKENIZER, HEAD_FILE, VOCABULARY_FILE),
)
PUBLISHED = (  # what others need: no predictions, which tell of documents, and nothing of how a folder was written
    *(*NEEDED, METRICS_FILE, CARD_FILE),
    *(f"{FIGURES_FOLDER}/{name}.*" for name in FIGURES),
    *(f"{MEMBERS_FOLDER}/*/{name}" for name in NEEDED),
    *(f"{MEMBERS_FOLDER}/*/{MEMBERS_FOLDER}/*/{name}" for name in NEEDED),  # of a combination in a cascade
)
RUN_FILES = (*PUBLISHED, PAGE_FILE, PREDICTIONS_FILE, OUT_OF_FOLD_FILE, MANIFEST_FILE)

# What any model or adapter may be loaded from, in whatever format it is
_LOADED = (
    *("*.safetensors", "pytorch_model*.bin", "*.gguf", "*.onnx", "*.onnx.data"),
    *("*.json", "*.jinja", "*.model", "vocab.txt", "merges.txt"),
)
_NOT_LOADED = (METRICS_FILE, MANIFEST_FILE)


def model_files(folder: Path) -> list[Path]:
    """Return the files of a model's or run's folder that its outputs depend on, sorted."""
    files = sorted(path for pattern in _LOADED for path in folder.glob(pattern))
    return [path for path in files if path.name not in _NOT_LOADED and path.name[0] not in "_."]


def find_file(source: str | PathLike[str], name: str, **hub_kwargs: Any) -> Path | None:
    """Return the local path of a file of a run folder or Hub repository, or `None` if it has no such file."""
    from transformers.utils import cached_file

    found = cached_file(str(source), name, _raise_exceptions_for_missing_entries=False, **hub_kwargs)
    return None if found is None else Path(found)


def with_members(folder: Path) -> list[Path]:
    """Return a run's folder and, where it has members, theirs, sorted."""
    members = sorted(path for path in folder.glob(f"{MEMBERS_FOLDER}/*") if path.is_dir())
    return [folder, *(part for member in members for part in with_members(member))]


def find_members(source: str | PathLike[str], **hub_kwargs: Any) -> Path:
    """Return the local folder of a run's members, from a folder or a Hub repository."""
    if os.path.isdir(source):
        return Path(source, MEMBERS_FOLDER)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(str(source), allow_patterns=f"{MEMBERS_FOLDER}/*", **hub_kwargs), MEMBERS_FOLDER)


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


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a Hub id: `name` or `owner/name`."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True
