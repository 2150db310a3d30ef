"""Answers by plain greedy generation, for comparison with label scoring."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from ..backbone.batching import pad, padding_id, prediction_batches
from ..task.prompts import PromptEncoder
from ..task.verbalizer import ParsedAnswer
from .label_sets import room_after


def generate_answers(
    model: PreTrainedModel, encoder: PromptEncoder, texts: Sequence[str], *, batch_size: int = 16
) -> list[ParsedAnswer]:
    """Answer by plain greedy generation and parse the answers, the way that label scoring does without.

    An answer that has not ended after as many tokens as the longest valid one, or as the model can read, is malformed.
    """
    prompts = [encoder.prompt_ids(text) for text in texts]
    answers = [ParsedAnswer(()) for _ in texts]
    tokenizer = encoder.tokenizer
    lengths = [len(prompt) for prompt in prompts]
    for indices in prediction_batches(model, lengths, batch_size, description="Generating answers"):
        batch = pad([prompts[index] for index in indices], padding_id(tokenizer), side="left")
        limit = int(min(encoder.longest_answer, room_after(model, batch["input_ids"][0])))
        generated = model.generate(
            **{name: tensor.to(model.device) for name, tensor in batch.items()},
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
