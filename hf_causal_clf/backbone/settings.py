"""Which weights a base model is loaded with and which of them get an adapter, from TRL's model arguments."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from accelerate import PartialState
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from trl import ModelConfig, get_peft_config, get_quantization_config

if TYPE_CHECKING:
    from peft import PeftConfig
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def lora_target_modules(backbone: nn.Module) -> list[str]:
    """Names of the modules below a backbone that get an adapter: the seven projections, else all linear layers."""
    linear = {
        name.rsplit(".", 1)[-1] for name, module in backbone.named_modules() if isinstance(module, (nn.Linear, Conv1D))
    }
    return list(PROJECTIONS) if linear.issuperset(PROJECTIONS) else sorted(linear)


def peft_config(arguments: ModelConfig, model: PreTrainedModel) -> PeftConfig | None:
    """Return TRL's LoRA configuration for a model, with target modules filled in; `None` without `use_peft`."""
    config = get_peft_config(arguments)
    if config is not None:
        config.revision = base_revision(arguments)
        if config.target_modules is None:
            config.target_modules = set(lora_target_modules(model.base_model))
        elif arguments.lora_target_modules != ["all-linear"]:
            _check_targets(config.target_modules, model)
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


def loading_kwargs(arguments: ModelConfig) -> dict[str, Any]:
    """Return the keyword arguments of `from_pretrained` that the arguments ask for."""
    kwargs = {
        "revision": arguments.model_revision,
        "dtype": arguments.dtype,
        "attn_implementation": arguments.attn_implementation,
        "quantization_config": get_quantization_config(arguments),
    }
    if kwargs["quantization_config"] is not None:  # quantised where they stay, on this process's device
        kwargs["device_map"] = {"": PartialState().device}
    return kwargs


def quantization_settings(arguments: ModelConfig) -> dict[str, Any] | None:
    """Arguments of the `BitsAndBytesConfig` that the arguments ask for, as JSON; `None` without quantisation."""
    config = get_quantization_config(arguments)
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
