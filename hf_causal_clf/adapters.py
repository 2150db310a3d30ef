"""Adapters: finding one, and loading it into its base model whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from .checkpoints import ADAPTER_CONFIG_FILE, check_weights
from .run_files import find_file, read_json

ADAPTER_WEIGHTS_FILE = "adapter_model.safetensors"


def find_adapter(source: str | PathLike[str], **hub_kwargs: Any) -> Path | None:
    """Return the local path of an adapter's configuration, or `None` if `source` is not an adapter.

    Raises:
        ValueError: If the adapter's weights are missing or damaged.
    """
    config = find_file(source, ADAPTER_CONFIG_FILE, **hub_kwargs)
    if config is None:
        return None
    weights = find_file(source, ADAPTER_WEIGHTS_FILE, **hub_kwargs)
    if weights is None:
        raise ValueError(
            f"{str(source)!r} has an {ADAPTER_CONFIG_FILE} but no {ADAPTER_WEIGHTS_FILE}. Train or download it again."
        )
    check_weights(weights)
    return config


def read_base(config: Path) -> tuple[str, str | None]:
    """Return the base model's name or path and its revision from an adapter's configuration.

    Raises:
        FileNotFoundError: If it names a folder that is not there.
        ValueError: If it names none, or one whose weights are damaged.
    """
    data = read_json(config)
    base = data.get("base_model_name_or_path")
    if not base:
        raise ValueError(f"{config} does not name its base model (`base_model_name_or_path`). Write it in.")
    if os.path.isabs(base) and not os.path.isdir(base):
        raise FileNotFoundError(
            f"The base model {base!r} of {config} is not there. Put it back, or write its new folder or its Hub id "
            "into `base_model_name_or_path`."
        )
    check_weights(base)
    return base, data.get("revision")


def load_adapter(model: PreTrainedModel, source: str | PathLike[str], **hub_kwargs: Any) -> None:
    """Load an adapter into its base model, in evaluation mode and not merged.

    Raises:
        ValueError: If weights are missing or have other shapes than the base model asks for.
    """
    with misfit_named(source):
        found = model.load_adapter(str(source), adapter_kwargs=hub_kwargs)
    if found.missing_keys or found.mismatched_keys:
        names = sorted(map(str, [*found.missing_keys, *found.mismatched_keys]))
        raise ValueError(
            f"{ADAPTER_WEIGHTS_FILE} of {str(source)!r} does not fit its base model: {len(names)} weights are missing "
            f"or of another shape, such as {names[0]}. The file is damaged, or the base model is another one."
        )
    _restore_precision(model, source, **hub_kwargs)
    model.eval()


@contextmanager
def misfit_named(source: str | PathLike[str]) -> Iterator[None]:
    """Say what is wrong where PEFT and transformers refuse an adapter for a model: each has its own way."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"The adapter {str(source)!r} does not fit its base model: weights are of another shape, or for layers "
            f"that it does not have. {ADAPTER_WEIGHTS_FILE} is damaged, or base model or labels are not those of "
            "training."
        ) from error


def _restore_precision(model: PreTrainedModel, source: str | PathLike[str], **hub_kwargs: Any) -> None:
    """Put the saved weights back in float32, as PEFT does; transformers rounds them to the base model's data type."""
    weights = load_file(str(find_file(source, ADAPTER_WEIGHTS_FILE, **hub_kwargs)))
    for name, parameter in model.named_parameters():
        saved = weights.get(f"base_model.model.{name.replace('.default', '')}")
        if saved is not None:
            parameter.data = saved.float().to(parameter.device)
