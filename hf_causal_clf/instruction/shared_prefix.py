"""Instruction-based training that runs the tokens all prompts of a batch start with only once.

Every prompt starts with the same instruction and label list. The decoder reads them as one row, its key-value cache is
repeated for all documents of the batch, and the documents are read on top of it; gradients flow back through the
cache. Loss and gradients are the ordinary ones. Both steps happen inside one call of the decoder, so everything around
it is TRL's: loss, its normalisation, metrics, evaluation, several processes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import parse_flag_from_env
from transformers import DynamicCache, PreTrainedModel, TrainingArguments
from trl import SFTTrainer

from ..backbone.context import takes_cache
from ..training.processes import sharding
from .weighting import WEIGHTS

if TYPE_CHECKING:
    from transformers.modeling_outputs import BaseModelOutputWithPast

MIN_PREFIX = 8  # tokens; a shorter prefix is not worth a second call of the decoder
_COLUMNS = {"input_ids", "attention_mask", "labels"}


class SharedPrefixSFTTrainer(SFTTrainer):
    """TRL's `SFTTrainer`, with the tokens that all rows of a batch start with run once.

    Takes what `SFTTrainer` takes. Batches must be padded on the right, as those of `VerbalizerCollator`; a batch that
    has no common prefix, a single row, or other columns than `input_ids`, `attention_mask`, `labels` and `weights` is
    computed the ordinary way. With dropout, the documents of a batch share the prefix's dropout masks: each document's
    expected gradient is the same, but their noise is correlated.

    Raises:
        ValueError: If the model or the arguments do not allow it (see `sharing_obstacle`).
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        obstacle = sharing_obstacle(self.model, self.args)
        if obstacle is not None:
            raise ValueError(f"The prefix of all prompts cannot be run once a batch: {obstacle}.")
        self._prefix = SharedPrefix(_decoder(self.model))

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Compute TRL's loss of a batch, its common prefix run once."""
        with self._prefix.of_length(common_prefix(inputs)):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)


class SharedPrefix:
    """Lets a decoder run the first columns of a batch as one row, for as long as `of_length` says so.

    Args:
        decoder: The model below the LM head. Its `forward` is replaced.
    """

    def __init__(self, decoder: PreTrainedModel) -> None:
        self._length = 0
        forward: Callable[..., BaseModelOutputWithPast] = decoder.forward

        @functools.wraps(forward)
        def shared(*args: Any, **kwargs: Any) -> BaseModelOutputWithPast:
            if not self._length:
                return forward(*args, **kwargs)
            return _run_shared(forward, self._length, *args, **kwargs)

        decoder.forward = shared

    @contextmanager
    def of_length(self, length: int) -> Iterator[None]:
        """Take the first `length` columns of every batch for the same in all rows; 0 for no sharing."""
        self._length = length
        try:
            yield
        finally:
            self._length = 0


def _run_shared(
    forward: Callable[..., BaseModelOutputWithPast],
    length: int,
    input_ids: torch.Tensor,
    *,
    attention_mask: torch.Tensor,
    **kwargs: Any,
) -> BaseModelOutputWithPast:
    """Run the first `length` columns once and the rest on their repeated cache; return the hidden states of all."""
    rows = len(input_ids)
    # No configuration: layers with a sliding window keep all keys too, and the mask leaves out those too far back
    cache = DynamicCache()
    kwargs |= {"past_key_values": cache, "use_cache": True}
    prefix = forward(input_ids=input_ids[:1, :length], attention_mask=attention_mask[:1, :length], **kwargs)
    for layer in cache.layers:
        layer.keys = layer.keys.expand(rows, -1, -1, -1)
        layer.values = layer.values.expand(rows, -1, -1, -1)
    outputs = forward(input_ids=input_ids[:, length:], attention_mask=attention_mask, **kwargs)
    before = prefix.last_hidden_state.expand(rows, -1, -1)
    outputs.last_hidden_state = torch.cat([before, outputs.last_hidden_state], dim=1)
    outputs.past_key_values = None
    return outputs


def common_prefix(inputs: dict[str, Any]) -> int:
    """Number of tokens that all rows of a batch start with and that can be run once; 0 if it is not worth it.

    None of them has a label or is padding, and each row has at least one token more.
    """
    if set(inputs) - {"use_cache", WEIGHTS} != _COLUMNS or len(inputs["input_ids"]) < 2:
        return 0
    input_ids, attention_mask = inputs["input_ids"], inputs["attention_mask"].bool()
    same = (input_ids == input_ids[:1]) & attention_mask & (inputs["labels"] == -100)
    length = torch.minimum(same.all(dim=0).cumprod(dim=0).sum(), attention_mask.sum(dim=1).min() - 1)
    found = int(length)
    return found if found >= MIN_PREFIX else 0


def sharing_obstacle(model: Any, arguments: TrainingArguments) -> str | None:
    """Say why a model cannot be trained with a shared prefix; `None` if it can.

    Args:
        model: Causal language model, also wrapped by PEFT.
        arguments: Training arguments, with TRL's `max_length`.
    """
    if arguments.activation_checkpointing:
        return "activation_checkpointing discards the key-value cache; set it to false, which takes more memory"
    if found := sharding(arguments):
        return f"{found} expects each layer to be called once a step"
    if arguments.parallelism_config is not None or parse_flag_from_env("ACCELERATE_USE_PARALLELISM_CONFIG"):
        return "with a parallelism_config, a process may see a part of each sequence only"
    for name in ("torch_compile", "activation_offloading"):
        if getattr(arguments, name, False):
            return f"it has not been tested with {name}"
    return _model_obstacle(model, arguments.max_length)


def _model_obstacle(model: Any, max_length: int | None) -> str | None:
    base, config = _base(model), model.config.get_text_config()
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        return "the adapter puts virtual tokens before the prompt"
    if not takes_cache(base) or _decoder(model) is base:
        return f"it has not been tested with the attention of {type(base).__name__} ({config._attn_implementation!r})"
    if getattr(config, "output_router_logits", False):
        return "the routing loss of a mixture of experts needs each row's tokens"
    window = getattr(config, "sliding_window", None)
    if "sliding_attention" not in (getattr(config, "layer_types", None) or ["sliding_attention"]):
        window = None
    if window is not None and (max_length is None or max_length > window):
        return f"the model's attention window of {window} tokens is shorter than max_length={max_length}"
    return None


def _base(model: Any) -> PreTrainedModel:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _decoder(model: Any) -> PreTrainedModel:
    return _base(model).base_model
