"""What TRL's model arguments ask for: how weights are loaded, which of them get an adapter, what tells models apart."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ..runs.run import BaseModel
from .identity import model_content
from .layers import decoder_layers, first_adapted_layer
from .weights import BaseWeights

if TYPE_CHECKING:
    from peft import PeftConfig
    from trl import ModelConfig

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def lora_target_modules(backbone: nn.Module) -> list[str]:
    """Names of the modules below a backbone that get an adapter: the seven projections, else all linear layers."""
    linear = {
        name.rsplit(".", 1)[-1] for name, module in backbone.named_modules() if isinstance(module, (nn.Linear, Conv1D))
    }
    return list(PROJECTIONS) if linear.issuperset(PROJECTIONS) else sorted(linear)


def peft_config(arguments: ModelConfig, model: PreTrainedModel, lora_layers: float | None = None) -> PeftConfig | None:
    """Return TRL's LoRA configuration for a model, with target modules and layers filled in; `None` without `use_peft`.

    Args:
        arguments: What TRL reads.
        model: The model.
        lora_layers: Which layers get an adapter, as for `layers.first_adapted_layer`.
    """
    from trl import get_peft_config

    config = get_peft_config(arguments)
    if config is not None:
        config.revision = base_revision(arguments)
        if config.target_modules is None:
            config.target_modules = set(lora_target_modules(model.base_model))
        elif arguments.lora_target_modules != ["all-linear"]:
            _check_targets(config.target_modules, model)
        if lora_layers is not None:
            name, layers = decoder_layers(model.base_model)
            config.layers_pattern = [name]
            config.layers_to_transform = list(range(first_adapted_layer(lora_layers, len(layers)), len(layers)))
    return config


def _check_targets(targets: Any, model: PreTrainedModel) -> None:
    """Raise a `ValueError` for names of modules that the model does not have, which PEFT passes over in silence."""
    names = [name for name, _ in model.named_modules()]
    missing = [
        target
        for target in ([] if isinstance(targets, str) else sorted(targets))
        if not any(name == target or name.endswith(f".{target}") for name in names)
    ]
    if missing:
        raise ValueError(
            f"lora_target_modules has {missing}, which the model does not have. It has "
            f"{lora_target_modules(model.base_model)}; or leave it out."
        )


def base_weights(arguments: ModelConfig) -> BaseWeights:
    """Return how the arguments want the base model's weights loaded."""
    from trl import get_quantization_config

    return BaseWeights(arguments.dtype, get_quantization_config(arguments), arguments.attn_implementation)


def model_identity(arguments: ModelConfig) -> dict[str, Any]:
    """What tells a base model from another: its name and commit, for a folder its files, and how it is loaded."""
    return {
        "model": model_content(arguments.model_name_or_path),
        "revision": base_revision(arguments),
        "dtype": arguments.dtype,
        "quantization": quantization_settings(arguments),
    }


def base_model_of(arguments: ModelConfig) -> BaseModel:
    """Return what a run keeps of its base model."""
    name, revision = arguments.model_name_or_path, base_revision(arguments)
    return BaseModel(name, revision, arguments.dtype, quantization_settings(arguments))


def quantization_settings(arguments: ModelConfig) -> dict[str, Any] | None:
    """Arguments of the `BitsAndBytesConfig` that the arguments ask for, as JSON; `None` without quantisation."""
    config = base_weights(arguments).quantization_config
    return None if config is None else bitsandbytes_settings(config)


def bitsandbytes_settings(config: BitsAndBytesConfig) -> dict[str, Any]:
    """Arguments of a `BitsAndBytesConfig`, as JSON."""
    return {name: value for name, value in config.to_diff_dict().items() if name != "quant_method"}


def base_revision(arguments: ModelConfig) -> str | None:
    """The commit that the base model's revision stands for; `None` for a folder."""
    return commit_of(arguments.model_name_or_path, arguments.model_revision)


def commit_of(name_or_path: str, revision: str | None) -> str | None:
    """The commit that a revision of a Hub model stands for; `None` for a folder or a model without a name."""
    from transformers.utils.hub import resolve_revision

    if not name_or_path or os.path.isdir(name_or_path):
        return None
    resolved = resolve_revision(name_or_path, revision)
    return getattr(resolved, "resolved", resolved)
