"""Which kernels a model runs on, where the default is slow or wrong: attention, and NF4 layers, both on CPUs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

PLAIN_ATTENTION = "plain_bfloat16"
_MAX_WEIGHTS = 2**23  # attention weights at once: 16 MiB, a layer in training
_CACHED_WEIGHTS = 10**6  # of more at once, the softmax would leave the CPU's cache
_SPAN = 96  # queries at least that share a number of keys


def keep_exact_gradients(model: nn.Module) -> None:
    """Keep NF4 layers trainable after an evaluation on a CPU with AVX512-BF16.

    There, one evaluation-mode forward makes bitsandbytes repack the weights of `Linear4bit` for a kernel that has no
    gradient; layers below it stop learning with no more than a warning. Seen with bitsandbytes 0.50.2.
    """
    for module in model.modules():
        if getattr(module, "support_avx512bf16_for_cpu", False):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010


def take_plain_attention(model: PreTrainedModel) -> None:
    """Let a model on a CPU compute attention in bfloat16 by plain matrix products, where that is faster.

    In bfloat16 on a CPU, torch's fused kernel takes 1.5 to 6 times as long as matrix products and a softmax, forwards
    and backwards (seen with torch 2.13 and AVX512-BF16). Wherever a call is not of that kind (another data type or
    device, dropout, weights of more than 16 MiB) it is left to the fused kernel. Models that do not run
    on the fused kernel now, or were asked to run on another, are left as they are.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    decoder = model.base_model
    fused = decoder.config._attn_implementation == "sdpa" and not decoder.config.sub_configs
    if decoder.device.type == "cpu" and fused and decoder._supports_attention_backend:
        AttentionInterface.register(PLAIN_ATTENTION, plain_attention)
        AttentionMaskInterface.register(PLAIN_ATTENTION, sdpa_mask)
        decoder.set_attn_implementation(PLAIN_ATTENTION)


def plain_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention for transformers' `AttentionInterface`; masks are those of `"sdpa"`.

    Args:
        module: The attention layer.
        query: `(rows, heads, queries, head size)`.
        key: `(rows, key-value heads, keys, head size)`.
        value: As `key`.
        attention_mask: Bool or additive, `(rows or 1, heads or 1, queries, keys)`; `None` for the causal one.
        dropout: Share of the weights that is left out.
        scaling: Factor of the scores, by default one over the square root of the head size.
        kwargs: What the fused kernel takes.

    Returns:
        `(rows, queries, heads, head size)`, and no weights.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if dropout or not _is_plain(query, key, attention_mask, kwargs):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    queries, size = query.shape[2:]
    scaling = size**-0.5 if scaling is None else scaling
    bias = _bias(attention_mask, query, key, kwargs.get("is_causal", getattr(module, "is_causal", True)))
    if bias is None or torch.is_grad_enabled() or queries < 2 * _SPAN:  # gradients of slices cost more than is saved
        return _by_rows(query, key, value, bias, scaling), None
    parts = []
    for span, end in _spans(bias):
        part_bias = bias[:, :, span, :end]
        parts.append(_by_rows(query[:, :, span], key[:, :, :end], value[:, :, :end], part_bias, scaling))
    return torch.cat(parts, dim=1), None


def _is_plain(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, kwargs: dict[str, Any]) -> bool:
    if query.dtype != torch.bfloat16 or query.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    if any(kwargs.get(name) is not None for name in ("softcap", "position_bias", "cache", "s_aux")):
        return False
    rows, heads, queries, _ = query.shape
    keys = key.shape[2]
    if mask is None and queries not in (1, keys):
        return False
    weights = heads * queries * keys * (rows if torch.is_grad_enabled() else 1)
    return weights <= _MAX_WEIGHTS


def _bias(mask: torch.Tensor | None, query: torch.Tensor, key: torch.Tensor, causal: bool) -> torch.Tensor | None:
    """What is added to the scores, `(rows or 1, heads or 1, queries, keys)`."""
    queries, keys = query.shape[2], key.shape[2]
    if mask is None:
        if queries == 1 or not causal:
            return None
        mask = torch.ones(queries, keys, dtype=torch.bool).tril()[None, None]
    if mask.dtype != torch.bool:
        return mask.to(query.dtype)
    return torch.zeros(mask.shape, dtype=query.dtype).masked_fill_(~mask, torch.finfo(query.dtype).min)


def _spans(bias: torch.Tensor) -> list[tuple[slice, int]]:
    """Spans of queries, each with the number of keys up to the last one that any of its queries sees.

    Half of causal attention is masked; so what comes later is left out.
    """
    seen = bias.amax(dim=(0, 1)) > torch.finfo(bias.dtype).min  # by any row and head, (queries, keys)
    queries, keys = seen.shape
    count, spans = queries // _SPAN, []
    for index in range(count):
        span = slice(queries * index // count, queries * (index + 1) // count)
        columns = seen[span].any(dim=0).nonzero()
        spans.append((span, int(columns[-1]) + 1 if len(columns) else keys))
    return spans


def _by_rows(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None, scaling: float
) -> torch.Tensor:
    rows, heads, queries, _ = query.shape
    step = max(1, _CACHED_WEIGHTS // (heads * queries * key.shape[2]))
    parts = []
    for start in range(0, rows, step):
        part = slice(start, start + step)
        part_bias = bias if bias is None or bias.shape[0] == 1 else bias[part]
        parts.append(_attend(query[part], key[part], value[part], part_bias, scaling))
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None, scaling: float
) -> torch.Tensor:
    rows, heads, queries, size = query.shape
    key_heads, keys = key.shape[1], key.shape[2]
    shared = rows * key_heads, heads // key_heads * queries  # the queries of all heads that read the same keys
    scores = torch.baddbmm(
        query.new_zeros(1, 1, 1),
        query.reshape(*shared, size),
        key.reshape(shared[0], keys, size).transpose(1, 2),
        beta=0,
        alpha=scaling,
    ).view(rows, heads, queries, keys)
    if bias is not None:
        scores += bias
    weights = scores.softmax(dim=-1).view(*shared, keys)
    attended = torch.bmm(weights, value.reshape(shared[0], keys, -1))
    return attended.view(rows, heads, queries, -1).transpose(1, 2)
