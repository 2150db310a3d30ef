"""Answers by plain greedy generation, for comparison with label scoring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from ..backbone.batching import evaluation_mode, pad, padding_id, prediction_batches
from ..backbone.context import takes_cache
from ..task.prompts import PromptEncoder
from ..task.verbalizer import ParsedAnswer
from .label_sets import room_after

MIN_PREFIX = 8  # tokens; a shorter prefix is not worth a call of its own


def generate_answers(
    model: PreTrainedModel,
    encoder: PromptEncoder,
    texts: Sequence[str],
    *,
    batch_size: int = 16,
    share_prefix: bool = True,
) -> list[ParsedAnswer]:
    """Answer by plain greedy generation and parse the answers, the way that label scoring does without.

    An answer that has not ended after as many tokens as the longest valid one, or as the model can read, is malformed.

    Args:
        model: Causal language model, also wrapped by PEFT.
        encoder: Its prompt encoder.
        texts: Documents; a long one is cut.
        batch_size: Documents per forward pass.
        share_prefix: Whether the tokens that all prompts start with are run once, and not for each document, where the
            model allows it. The answers are the same, up to the rounding of the model's data type.

    Returns:
        An answer for each text.
    """
    prompts = [encoder.prompt_ids(text) for text in texts]
    answers = [ParsedAnswer(()) for _ in texts]
    tokenizer = encoder.tokenizer
    lengths = [len(prompt) for prompt in prompts]
    prefix = None
    if share_prefix and prompts and can_share(model, encoder, max(lengths)):
        prefix = _run_prefix(model, encoder.prefix_ids)
    for indices in prediction_batches(model, lengths, batch_size, description="Generating answers"):
        batch, cache = _batch([prompts[index] for index in indices], prefix, encoder)
        limit = int(min(encoder.longest_answer, room_after(model, prompts[indices[0]])))
        generated = model.generate(
            **{name: tensor.to(model.device) for name, tensor in batch.items()},
            **cache,
            max_new_tokens=limit,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,  # a checkpoint's own would punish the answers, which the prompt lists
            no_repeat_ngram_size=0,
            eos_token_id=encoder.end_id,
            pad_token_id=padding_id(tokenizer),
        )[:, batch["input_ids"].shape[1] :].tolist()
        for index, ids in zip(indices, generated, strict=True):
            if encoder.end_id in ids:
                text = tokenizer.decode(ids[: ids.index(encoder.end_id)])
                answers[index] = encoder.verbalizer.parse(text)
            else:
                answers[index] = ParsedAnswer((), f"no end after {limit} tokens")
    return answers


def can_share(model: PreTrainedModel, encoder: PromptEncoder, longest: int) -> bool:
    """Whether the prompts' common tokens can be run once, with padding between them and the documents.

    Args:
        model: Causal language model, also wrapped by PEFT.
        encoder: Its prompt encoder.
        longest: Number of tokens of the longest prompt.
    """
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        return False  # virtual tokens come before the prompt
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
    window = getattr(base.config.get_text_config(), "sliding_window", None)
    if window is not None and longest + encoder.longest_answer > window:
        return False  # masks count padding into the distance of two tokens
    return len(encoder.prefix_ids) >= MIN_PREFIX and takes_cache(base)


def _run_prefix(model: PreTrainedModel, ids: list[int]) -> DynamicCache:
    """Run the tokens that all prompts start with, as one row."""
    cache = DynamicCache()  # no configuration: layers with a sliding window keep all keys too
    with evaluation_mode(model):
        model(input_ids=torch.tensor([ids], device=model.device), past_key_values=cache, use_cache=True)
    return cache


def _batch(
    prompts: Sequence[list[int]], prefix: DynamicCache | None, encoder: PromptEncoder
) -> tuple[dict[str, torch.Tensor], dict[str, DynamicCache]]:
    """Padded prompts, `input_ids` and `attention_mask`, and what is known of the columns that they all start with."""
    fill, length = padding_id(encoder.tokenizer), len(encoder.prefix_ids)
    if prefix is None or min(map(len, prompts)) == length:
        return pad(prompts, fill, side="left"), {}
    batch = pad([prompt[length:] for prompt in prompts], fill, side="left")
    shared = torch.tensor([encoder.prefix_ids] * len(prompts))
    batch["input_ids"] = torch.cat([shared, batch["input_ids"]], dim=1)
    batch["attention_mask"] = torch.cat([torch.ones_like(shared), batch["attention_mask"]], dim=1)
    rows = [
        tuple(part.expand(len(prompts), -1, -1, -1) for part in (layer.keys, layer.values)) for layer in prefix.layers
    ]
    return batch, {"past_key_values": DynamicCache(ddp_cache_data=rows)}
