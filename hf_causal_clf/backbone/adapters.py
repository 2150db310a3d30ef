"""Adapters in float32 beside weights in bfloat16: kept precisely, computed as quickly as what they are added to."""

from __future__ import annotations

import torch
from torch import nn


class BFloat16Linear(nn.Linear):
    """A linear layer that computes in bfloat16 where its input is, whatever its weights are kept in."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the layer's output, in the data type that it computes in."""
        if input.dtype == torch.bfloat16:
            bias = None if self.bias is None else self.bias.to(input.dtype)
            return nn.functional.linear(input, self.weight.to(input.dtype), bias)
        return super().forward(input.to(self.weight.dtype))


def compute_in_bfloat16(model: nn.Module) -> None:
    """Let the LoRA adapters of a model compute in bfloat16 where the layers that they adapt do.

    PEFT casts all that such a layer reads to float32, computes the adapter there, and casts the sum back. Here the
    adapter's weights are cast, which are few. They and their gradients stay float32, as in mixed precision
    (Micikevicius et al., 2018, arXiv 1710.03740). Adapters with more than the two matrices, such as DoRA's, and other
    data types stay as they are.
    """
    from peft.tuners.lora import LoraLayer

    for layer in model.modules():
        if not isinstance(layer, LoraLayer) or layer.lora_variant:
            continue
        parts = [*layer.lora_A.values(), *layer.lora_B.values()]
        if parts and all(type(part) in (nn.Linear, BFloat16Linear) for part in parts):
            layer.cast_input_dtype_enabled = False
            for part in parts:
                part.__class__ = BFloat16Linear
