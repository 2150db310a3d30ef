"""Loading a model with its head, as `backbone.loading` loads one without."""

from __future__ import annotations

from os import PathLike
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..backbone.loading import settle
from ..backbone.weights import AS_SAVED, BaseWeights
from ..task.labels import LabelSpace
from .model import CausalLMForLastTokenClassification


def load_with_head(
    source: str | PathLike[str],
    weights: BaseWeights = AS_SAVED,
    *,
    label_space: LabelSpace | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    place: bool = True,
    **kwargs: Any,
) -> CausalLMForLastTokenClassification:
    """Load a causal language model with a new head, or a saved model or adapter with its own.

    Args:
        source: As for `CausalLMForLastTokenClassification.from_pretrained`.
        weights: How the base model's weights are loaded.
        label_space: Labels of a new head.
        tokenizer: Its tokenizer, to check that the model has an embedding for each token.
        place: Whether to move it to this process's device; `False` leaves that to a trainer. Quantised weights, and
            those with a `device_map`, are where they stay.
        kwargs: `pooling`, `class_weights`, `label_smoothing` and `pos_weight` of a new head; `revision`, `token`,
            `cache_dir`, `local_files_only`, `force_download`.

    Returns:
        The model in evaluation mode; an adapter is loaded into it, not merged.

    Raises:
        FileNotFoundError: If an adapter's base model is not there.
        ValueError: If weights are missing or damaged, labels of a new head are missing, or labels, tokenizer, adapter
            and base model do not fit each other.
    """
    model = CausalLMForLastTokenClassification.from_pretrained(
        source, label_space=label_space, **weights.kwargs(), **kwargs
    )
    return settle(model, source, weights, tokenizer=tokenizer, place=place)
