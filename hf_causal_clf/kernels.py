"""Which kernels a model runs on, where the default is slow or wrong: attention, and NF4 layers on CPUs."""

from __future__ import annotations

import torch
from torch import nn


def keep_exact_gradients(model: nn.Module) -> None:
    """Keep NF4 layers trainable after an evaluation on a CPU with AVX512-BF16.

    There, one evaluation-mode forward makes bitsandbytes repack the weights of `Linear4bit` for a kernel that has no
    gradient; layers below it stop learning with no more than a warning. Seen with bitsandbytes 0.50.2.
    """
    for module in model.modules():
        if getattr(module, "support_avx512bf16_for_cpu", False):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010


def attention_implementation(dtype: str | torch.dtype | None, max_length: int | None) -> str | None:
    """The attention to take where none is asked for: `"eager"` where it is the fastest, else `None`, transformers' own.

    In bfloat16 on a CPU, torch's fused kernel takes two to six times as long as plain matrix products for sequences of
    up to 256 tokens, forwards and backwards (seen with torch 2.13 and AVX512-BF16).
    """
    short = max_length is not None and max_length <= 256
    bfloat16 = str(dtype).removeprefix("torch.") == "bfloat16"
    return "eager" if short and bfloat16 and not torch.accelerator.is_available() else None
