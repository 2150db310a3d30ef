"""Adapters: finding one, and loading it into its base model whole or not at all."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers import PreTrainedModel

from .run_files import find_file, read_json

ADAPTER_CONFIG_FILE = "adapter_config.json"
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
        raise ValueError(f"{str(source)!r} has an {ADAPTER_CONFIG_FILE} but no {ADAPTER_WEIGHTS_FILE}.")
    try:
        with safe_open(weights, framework="pt") as file:
            file.keys()
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{weights} is damaged ({error}). Train the adapter or get it again.") from error
    return config


def read_base(config: Path) -> tuple[str, str | None]:
    """Return the base model's name or path and its revision from an adapter's configuration.

    Raises:
        ValueError: If it names none.
    """
    data = read_json(config)
    base = data.get("base_model_name_or_path")
    if not base:
        raise ValueError(f"{config} does not name its base model (`base_model_name_or_path`).")
    return base, data.get("revision")


def load_adapter(model: PreTrainedModel, source: str | PathLike[str], **hub_kwargs: Any) -> None:
    """Load an adapter into its base model, in evaluation mode and not merged.

    Raises:
        ValueError: If weights are missing or have other shapes than the base model asks for.
    """
    try:
        found = model.load_adapter(str(source), adapter_kwargs=hub_kwargs)
    except RuntimeError as error:
        raise ValueError(f"{ADAPTER_WEIGHTS_FILE} of {str(source)!r} does not fit its base model: {error}") from error
    if found.missing_keys or found.mismatched_keys:
        names = sorted(map(str, [*found.missing_keys, *found.mismatched_keys]))
        raise ValueError(
            f"{ADAPTER_WEIGHTS_FILE} of {str(source)!r} does not fit its base model: {len(names)} weights are missing "
            f"or of another shape, such as {names[0]}. The file is damaged, or the base model is another one."
        )
    _restore_precision(model, source, **hub_kwargs)
    model.eval()


def _restore_precision(model: PreTrainedModel, source: str | PathLike[str], **hub_kwargs: Any) -> None:
    """Put the saved weights back in float32, as PEFT does; transformers rounds them to the base model's data type."""
    weights = load_file(str(find_file(source, ADAPTER_WEIGHTS_FILE, **hub_kwargs)))
    for name, parameter in model.named_parameters():
        saved = weights.get(f"base_model.model.{name.replace('.default', '')}")
        if saved is not None:
            parameter.data = saved.float().to(parameter.device)
