"""Tokens that a model has seen, with their key-value cache, and what it reads on top of them.

A 4-D mask says by position what each token sees, so the rows of a batch may go on from different places, and sliding
windows reach as far as they would without a cache. Knows token ids and models; neither labels nor prompts.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from .attention import PLAIN_ATTENTION
from .batching import pad

_MASKABLE_LAYERS = {"full_attention", "sliding_attention"}


@dataclass
class Context:
    """Tokens that a model has seen, one row a sequence, with their key-value cache.

    Attributes:
        ids: Token ids of each row.
        layers: Keys and values of each layer, `(rows, heads, length, head size)`; empty where caching is not possible.
        positions: Position of each cached token, int64 `(rows, length)`.
        visible: Which cached tokens are real, bool `(rows, length)`.
    """

    ids: list[list[int]]
    layers: list[tuple[torch.Tensor, torch.Tensor]]
    positions: torch.Tensor
    visible: torch.Tensor

    @classmethod
    def empty(cls, device: torch.device) -> Context:
        """Return one row in which nothing has been seen."""
        positions = torch.zeros((1, 0), dtype=torch.int64, device=device)
        return cls([[]], [], positions, positions.bool())

    def select(self, rows: Sequence[int]) -> Context:
        """Return the context of some rows, in any order and number; a single row is repeated without a copy."""
        if list(rows) == list(range(len(self.ids))):
            return self
        ids = [self.ids[row] for row in rows]
        index = torch.tensor(list(rows))

        def take(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.expand(len(rows), *tensor.shape[1:]) if len(self.ids) == 1 else tensor[index]

        layers = [(take(keys), take(values)) for keys, values in self.layers]
        return Context(ids, layers, take(self.positions), take(self.visible))

    def shortened(self, lengths: Sequence[int]) -> Context:
        """Return the context in which only the first so many tokens of each row have been seen."""
        limits = torch.tensor(list(lengths), device=self.positions.device).unsqueeze(1)
        visible = self.visible & (self.positions < limits)
        columns = visible.any(dim=0).nonzero()
        span = slice(int(columns[0]), int(columns[-1]) + 1) if len(columns) else slice(0, 0)
        layers = [(keys[:, :, span], values[:, :, span]) for keys, values in self.layers]
        ids = [row[:length] for row, length in zip(self.ids, lengths, strict=True)]
        return Context(ids, layers if len(columns) else [], self.positions[:, span], visible[:, span])


@dataclass
class Branches:
    """What follows each row's chain in ways that do not see one another: the nodes of a tree.

    Attributes:
        tokens: Token ids, int64 `(rows, nodes)`.
        depths: Distance from the end of the chain, 0 for what follows it directly, int64 `(rows, nodes)`.
        masks: Entry `[row, i, j]` says that node `i` sees node `j`, bool `(rows, nodes, nodes)`.
    """

    tokens: torch.Tensor
    depths: torch.Tensor
    masks: torch.Tensor

    @classmethod
    def none(cls, rows: int) -> Branches:
        """Return no nodes."""
        nothing = torch.zeros((rows, 0), dtype=torch.int64)
        return cls(nothing, nothing, torch.zeros((rows, 0, 0), dtype=torch.bool))


def read_on(
    model: PreTrainedModel,
    context: Context,
    chains: Sequence[Sequence[int]],
    branches: Branches | None = None,
    **arguments: Any,
) -> tuple[Any, Context]:
    """Read a chain of tokens on top of each row of a context, and branches after it.

    Args:
        model: Causal language model or decoder that `takes_cache`, also wrapped by PEFT.
        context: What the model has seen, with as many rows as there are chains.
        chains: Token ids; they are padded on the left, so that all end in the same place.
        branches: What comes after the chains; it is not part of the new context.
        arguments: More arguments of the model.

    Returns:
        The model's outputs for chains and branches, and the context with the chains appended.
    """
    device = model.device
    branches = Branches.none(len(chains)) if branches is None else branches
    padded = pad(chains, 0, side="left")
    real = padded["attention_mask"].bool().to(device)
    width = real.shape[1]
    start = context.visible.sum(dim=1, keepdim=True)
    positions = (start + real.cumsum(dim=1) - 1).clamp(min=0)
    depths = start + real.sum(dim=1, keepdim=True) + branches.depths.to(device)
    positions = torch.cat([positions, depths], dim=1)
    visible = _visible(context.visible, real, branches.masks.to(device))
    cache = DynamicCache(ddp_cache_data=context.layers or None)
    outputs = model(
        input_ids=torch.cat([padded["input_ids"], branches.tokens], dim=1).to(device),
        attention_mask=_mask(model, visible, positions, torch.cat([context.positions, positions], dim=1)),
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        **arguments,
    )
    length = context.positions.shape[1] + width
    layers = [(layer.keys[:, :, :length], layer.values[:, :, :length]) for layer in cache.layers]
    ids = [[*seen, *chain] for seen, chain in zip(context.ids, chains, strict=True)]
    positions = torch.cat([context.positions, positions[:, :width]], dim=1)
    return outputs, Context(ids, layers, positions, torch.cat([context.visible, real], dim=1))


def takes_cache(model: PreTrainedModel) -> bool:
    """Whether a causal language model or decoder reads tokens on top of any key-value cache, masked by position.

    True for full and sliding-window attention in `eager`, `sdpa` and its plain form; not for ALiBi, recurrent layers
    and flash attention, nor where a token sees those after it.
    """
    config = model.config.get_text_config()
    return sees_backward_only(model) and (
        {"position_ids", "past_key_values", "attention_mask"} <= set(inspect.signature(type(model).forward).parameters)
        and config._attn_implementation in ("eager", "sdpa", PLAIN_ATTENTION)
        and set(getattr(config, "layer_types", None) or ["full_attention"]) <= _MASKABLE_LAYERS
        and not getattr(config, "alibi", False)
        and not model._is_stateful  # recurrent layers
        and "local" not in getattr(config, "attention_layers", ())  # GPT-Neo masks by index
    )


def sees_backward_only(model: PreTrainedModel) -> bool:
    """Whether no token sees those after it, unlike in some models that were made for embeddings (EmbeddingGemma)."""
    config = model.config.get_text_config()
    both_ways = getattr(config, "use_bidirectional_attention", None) in (True, "all")
    return not both_ways and getattr(config, "is_causal", None) is not False


def _visible(seen: torch.Tensor, real: torch.Tensor, tree: torch.Tensor) -> torch.Tensor:
    """Boolean `(rows, queries, keys)`: queries are chain and nodes, keys are context, chain and nodes."""
    rows, width = real.shape
    nodes = tree.shape[-1]
    causal = torch.ones(width, width, dtype=torch.bool, device=real.device).tril()
    chain_sees = torch.cat([causal & real.unsqueeze(1), real.new_zeros(rows, width, nodes)], dim=2)
    node_sees = torch.cat([real.unsqueeze(1).expand(-1, nodes, -1), tree], dim=2)
    own = torch.cat([chain_sees, node_sees], dim=1)
    itself = torch.eye(width + nodes, dtype=torch.bool, device=real.device)  # padding sees itself: no empty softmax
    return torch.cat([seen.unsqueeze(1).expand(-1, width + nodes, -1), own | itself], dim=2)


def _mask(
    model: PreTrainedModel, visible: torch.Tensor, positions: torch.Tensor, key_positions: torch.Tensor
) -> torch.Tensor | dict[str, torch.Tensor]:
    config = model.config.get_text_config()
    layer_types = getattr(config, "layer_types", None)
    mixed = layer_types is not None and "sliding_attention" in layer_types
    window = getattr(config, "sliding_window", None) if mixed or layer_types is None else None
    full = _format(model, visible)
    if window is None:
        return full
    near = positions.unsqueeze(2) - key_positions.unsqueeze(1) < window
    sliding = _format(model, visible & near)
    return {"full_attention": full, "sliding_attention": sliding} if mixed else sliding


def _format(model: PreTrainedModel, visible: torch.Tensor) -> torch.Tensor:
    mask = visible.unsqueeze(1)
    if model.config.get_text_config()._attn_implementation == "sdpa":
        return mask
    zeros = torch.zeros_like(mask, dtype=model.dtype)
    return zeros.masked_fill(~mask, torch.finfo(model.dtype).min)
