"""The language model's own loss on a document's answer, beside that of a head which reads the answer slot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F


@dataclass
class AnswerLoss:
    """The negative log-likelihood of the answers that stand behind the prompts of a batch.

    Attributes:
        output_embeddings: Weight of the LM head, `(vocabulary, hidden)`; it is not trained.
        weight: What the loss is multiplied by.
        text_config: Configuration of the backbone, which may scale its logits or cap them.
    """

    output_embeddings: torch.Tensor
    weight: float
    text_config: Any

    def __call__(self, states: torch.Tensor, input_ids: torch.Tensor, answer_tokens: torch.Tensor) -> torch.Tensor:
        """Return the loss of each document: the mean over its answer's tokens, float32 `(batch,)`.

        Args:
            states: Hidden states of each row's last tokens, `(batch, tokens, hidden)`; from the last one of the prompt
                on, at least.
            input_ids: Their token ids, int64 `(batch, tokens)`.
            answer_tokens: How many of them are the answer's, int64 `(batch,)`, 1 or more.
        """
        if self.output_embeddings.device != states.device:
            self.output_embeddings = self.output_embeddings.to(states.device)
        width = states.shape[1]
        rows, places = (torch.arange(width - 1, device=states.device) >= width - 1 - answer_tokens[:, None]).nonzero(
            as_tuple=True
        )
        logits = self._logits(states[rows, places])
        terms = F.cross_entropy(logits, input_ids[rows, places + 1], reduction="none") / answer_tokens[rows]
        return self.weight * torch.zeros_like(answer_tokens, dtype=torch.float32).index_add(0, rows, terms)

    def _logits(self, states: torch.Tensor) -> torch.Tensor:
        """The language model's logits, float32, as the families that scale or cap them do it."""
        logits = F.linear(states.to(self.output_embeddings.dtype), self.output_embeddings).float()
        logits = logits * (getattr(self.text_config, "logit_scale", None) or 1.0)  # Cohere
        logits = logits / (getattr(self.text_config, "logits_scaling", None) or 1.0)  # Granite
        cap = getattr(self.text_config, "final_logit_softcapping", None)  # Gemma
        return logits if cap is None else cap * torch.tanh(logits / cap)


def last_tokens(values: torch.Tensor, attention_mask: torch.Tensor, count: int) -> torch.Tensor:
    """Return what `values` `(batch, length, …)` has at each row's last tokens: `(batch, count, …)`.

    The mask may be padded at either side; of a row with fewer tokens, what stands before them is repeated.
    """
    length = attention_mask.shape[1]
    positions = torch.arange(length, device=values.device)
    last = (attention_mask.to(values.device).ne(0) * positions).argmax(dim=1)
    places = (last[:, None] + torch.arange(1 - count, 1, device=values.device)).clamp(min=0)
    return values[torch.arange(len(values), device=values.device)[:, None], places]
