"""One forward pass over a prompt and a trie of its continuations.

The trie's nodes follow the prompt in the input; a 4-D mask lets each node see the prompt and its own ancestors only,
and `position_ids` put it at its depth, so every continuation is scored as if it stood there alone. Models whose
attention cannot be masked so (ALiBi, recurrent layers, flash attention) are run one continuation at a time instead.
Knows token ids and models; neither labels nor prompts.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.utils import logging

from ..backbone.attention import PLAIN_ATTENTION
from ..backbone.batching import pad
from .trie import LabelTrie

logger = logging.get_logger(__name__)

MAX_LOGIT_ROWS = 1024  # rows of vocabulary-sized logits held at once
_CACHED_ROWS = 8
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


class TreeForward:
    """Scores tries of continuations with a causal language model.

    Args:
        model: Causal language model, also wrapped by PEFT.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        config = model.config.get_text_config()
        layer_types = getattr(config, "layer_types", None)
        self._window = getattr(config, "sliding_window", None)
        self._mixed = layer_types is not None and "sliding_attention" in layer_types
        if layer_types is not None and not self._mixed:
            self._window = None
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._keeps_logits = "logits_to_keep" in inspect.signature(type(base).forward).parameters
        self.one_pass = takes_cache(base)
        if not self.one_pass:
            logger.warning_once(
                f"{type(base).__name__} with {config._attn_implementation!r} attention cannot score all labels in one "
                "forward pass; it is run once for each label."
            )

    def start(self, ids: list[int]) -> Context:
        """Run the tokens that all rows start with, once."""
        device = self.model.device
        empty = torch.zeros((1, 0), dtype=torch.int64, device=device)
        context = Context([[]], [], empty, empty.bool())
        if not self.one_pass or not ids:
            context.ids = [list(ids)]
            return context
        return self(context, [list(ids)], LabelTrie([[ids[-1]]]))[1]

    def __call__(self, context: Context, chains: Sequence[list[int]], trie: LabelTrie) -> tuple[torch.Tensor, Context]:
        """Extend each row of a context by a chain of tokens and score a trie of continuations after it.

        Args:
            context: What the model has seen, with as many rows as there are chains.
            chains: Token ids to append, none empty unless the context is not empty.
            trie: Continuations, the same for all rows.

        Returns:
            Log-probabilities of the trie's edges, float32 `(rows, edges)`, and the context with the chains appended.
        """
        extended = [[*seen, *chain] for seen, chain in zip(context.ids, chains, strict=True)]
        with torch.no_grad():
            if self.one_pass:
                return self._one_pass(context, chains, trie, extended)
            return self._one_by_one(extended, trie), Context(extended, [], context.positions, context.visible)

    def branches(self, context: Context, tries: Sequence[LabelTrie]) -> list[torch.Tensor]:
        """Score a trie of continuations for each row of a context, in one pass.

        The predictions at the end of the context itself are not made again: edges from a trie's root get no meaningful
        value.

        Args:
            context: What the model has seen, with as many rows as there are tries. Only where `one_pass` is true.
            tries: Continuations of each row.

        Returns:
            Log-probabilities of the edges of each trie, float32 `(edges,)`.
        """
        with torch.no_grad():
            logits, _ = self._run(context, [[]] * len(tries), tries)
            return [_edge_log_probs(row, trie) for row, trie in zip(logits, tries, strict=True)]

    def _one_pass(
        self, context: Context, chains: Sequence[list[int]], trie: LabelTrie, extended: list[list[int]]
    ) -> tuple[torch.Tensor, Context]:
        logits, appended = self._run(context, chains, [trie] * len(chains))
        scores = torch.stack([_edge_log_probs(row, trie) for row in logits])
        return scores, Context(extended, *appended)

    def _run(
        self, context: Context, chains: Sequence[list[int]], tries: Sequence[LabelTrie]
    ) -> tuple[torch.Tensor, tuple[list[tuple[torch.Tensor, torch.Tensor]], torch.Tensor, torch.Tensor]]:
        """Logits `(rows, nodes + 1, vocabulary)`, and layers, positions and visibility of a context with the chains."""
        device = self.model.device
        padded = pad(chains, 0, side="left")
        real = padded["attention_mask"].bool().to(device)
        width = real.shape[1]
        start = context.visible.sum(dim=1, keepdim=True)
        positions = (start + real.cumsum(dim=1) - 1).clamp(min=0)
        nodes, depths, tree = _stack(tries)
        depths = start + real.sum(dim=1, keepdim=True) + depths.to(device)
        positions = torch.cat([positions, depths], dim=1)
        visible = _visible(context.visible, real, tree.to(device))
        cache = DynamicCache(ddp_cache_data=context.layers or None)
        count = nodes.shape[1]
        arguments = {"logits_to_keep": count + 1} if self._keeps_logits else {}
        outputs = self.model(
            input_ids=torch.cat([padded["input_ids"], nodes], dim=1).to(device),
            attention_mask=self._mask(visible, positions, torch.cat([context.positions, positions], dim=1)),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            **arguments,
        )
        logits = outputs.logits[:, -count - 1 :]
        if width == 0:  # nothing was run at the end of the context
            logits = torch.cat([torch.zeros_like(logits[:, :1]), logits], dim=1)
        length = context.positions.shape[1] + width
        layers = [(layer.keys[:, :, :length], layer.values[:, :, :length]) for layer in cache.layers]
        seen = torch.cat([context.visible, real], dim=1)
        return logits, (layers, torch.cat([context.positions, positions[:, :width]], dim=1), seen)

    def _mask(
        self, visible: torch.Tensor, positions: torch.Tensor, key_positions: torch.Tensor
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        full = self._format(visible)
        if self._window is None:
            return full
        near = positions.unsqueeze(2) - key_positions.unsqueeze(1) < self._window
        sliding = self._format(visible & near)
        return {"full_attention": full, "sliding_attention": sliding} if self._mixed else sliding

    def _format(self, visible: torch.Tensor) -> torch.Tensor:
        mask = visible.unsqueeze(1)
        if self.model.config.get_text_config()._attn_implementation == "sdpa":
            return mask
        zeros = torch.zeros_like(mask, dtype=self.model.dtype)
        return zeros.masked_fill(~mask, torch.finfo(self.model.dtype).min)

    def _one_by_one(self, prompts: list[list[int]], trie: LabelTrie) -> torch.Tensor:
        """One forward for each prompt and path of fed nodes: slower, right for every causal model."""
        scores = torch.empty(len(prompts), len(trie.edges))
        for row, prompt in enumerate(prompts):
            for path in trie.paths:
                tokens = [trie.edges[edge][1] for edge in path]
                input_ids = torch.tensor([[*prompt, *tokens[:-1]]], device=self.model.device)
                logits = self.model(input_ids=input_ids, use_cache=False).logits[0, len(prompt) - 1 :]
                picked = torch.tensor(tokens, device=logits.device).unsqueeze(1)
                scores[row, path] = logits.float().log_softmax(dim=-1).gather(1, picked).squeeze(1).cpu()
        return scores


def rows_at_once(nodes: int) -> int:
    """How many tries of so many nodes one forward may score, at least one, so that their logits stay few."""
    return max(1, MAX_LOGIT_ROWS // (nodes + 1))


def takes_cache(model: PreTrainedModel) -> bool:
    """Whether a causal language model reads tokens on top of any key-value cache, masked by position.

    True for full and sliding-window attention in `eager`, `sdpa` and its plain form; not for ALiBi, recurrent layers
    and flash attention.
    """
    config = model.config.get_text_config()
    return (
        {"position_ids", "past_key_values", "attention_mask"} <= set(inspect.signature(type(model).forward).parameters)
        and config._attn_implementation in ("eager", "sdpa", PLAIN_ATTENTION)
        and set(getattr(config, "layer_types", None) or ["full_attention"]) <= _MASKABLE_LAYERS
        and not getattr(config, "alibi", False)
        and not model._is_stateful  # recurrent layers
        and "local" not in getattr(config, "attention_layers", ())  # GPT-Neo masks by index
    )


def _stack(tries: Sequence[LabelTrie]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens and depths, int64 `(rows, nodes)`, and masks, bool `(rows, nodes, nodes)`, of one trie a row."""
    if all(trie is tries[0] for trie in tries):
        rows = len(tries)
        tokens, depths = (torch.tensor(values, dtype=torch.int64) for values in (tries[0].tokens, tries[0].depths))
        return tokens.expand(rows, -1), depths.expand(rows, -1), torch.from_numpy(tries[0].mask()).expand(rows, -1, -1)
    count = max(map(len, tries))
    tree = torch.zeros(len(tries), count, count, dtype=torch.bool)
    for row, trie in enumerate(tries):
        tree[row, : len(trie), : len(trie)] = torch.from_numpy(trie.mask())
    return (
        pad([trie.tokens for trie in tries], 0)["input_ids"],
        pad([trie.depths for trie in tries], 0)["input_ids"],
        tree,
    )


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


def _edge_log_probs(logits: torch.Tensor, trie: LabelTrie) -> torch.Tensor:
    """Float32 `(edges,)` from one row's logits `(at least nodes + 1, vocabulary)`."""
    source = torch.tensor([row for row, _ in trie.edges], device=logits.device)
    token = torch.tensor([token for _, token in trie.edges], device=logits.device)
    parts = logits[: len(trie) + 1].split(_CACHED_ROWS)  # of more at once, float32 copies would leave the CPU's cache
    log_normalizers = torch.cat([part.float().logsumexp(dim=-1) for part in parts])
    return (logits[source, token].float() - log_normalizers[source]).cpu()
