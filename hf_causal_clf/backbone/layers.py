"""The layers of a decoder: where they are, and which of them get an adapter."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel


def decoder_of(model: Any) -> PreTrainedModel:
    """The decoder below the head of a model, which may be in a PEFT model."""
    return (model.get_base_model() if hasattr(model, "get_base_model") else model).base_model


def decoder_layers(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """Return the layers of a model, and what their list is called, such as `"layers"` or `"h"`.

    Raises:
        ValueError: If there is no such list.
    """
    count = layer_count(model.config)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return name.rpartition(".")[2], module
    raise ValueError(
        f"lora_layers needs a model with a list of its {count} layers, which {type(model).__name__} does not have. "
        "Leave it out."
    )


def layer_count(config: PreTrainedConfig) -> int:
    """Number of layers of a decoder."""
    return int(config.get_text_config().num_hidden_layers)


def first_adapted_layer(lora_layers: float | None, count: int) -> int:
    """Return the number of layers below the first one that gets an adapter.

    Args:
        lora_layers: How many of the last layers get one, or, below 1, which share of all; `None` for all.
        count: Number of layers.

    Raises:
        ValueError: If there are not so many.
    """
    if lora_layers is None:
        return 0
    adapted = max(1, round(lora_layers * count)) if lora_layers < 1 else int(lora_layers)
    if adapted > count:
        raise ValueError(f"lora_layers is {adapted}, but the model has {count} layers. Give at most {count}.")
    return count - adapted


def check_lora_layers(lora_layers: float | None, config: PreTrainedConfig, *, cached: bool = False) -> None:
    """Check `lora_layers` against a model's configuration, before its weights are loaded.

    Args:
        lora_layers: As for `first_adapted_layer`.
        config: Configuration of the model.
        cached: Whether the layers below are to be run once.

    Raises:
        ValueError: If the model has fewer layers, or if none is left to be run once.
    """
    if lora_layers is not None and first_adapted_layer(lora_layers, layer_count(config)) == 0 and cached:
        raise ValueError(
            f"cache_frozen_layers keeps what the layers below the adapters give, but lora_layers {lora_layers:g} puts "
            f"an adapter into all {layer_count(config)}. Lower lora_layers, or leave cache_frozen_layers out."
        )
