"""S1 to S4: label scoring beside one forward a label, generation, a head, and itself with fewer labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from hf_causal_clf import DocumentEncoder, LabelScorer
from hf_causal_clf.backbone.batching import pad, padding_id
from hf_causal_clf.backbone.weights import BaseWeights
from hf_causal_clf.embedding.loading import load_with_head
from hf_causal_clf.embedding.scorer import HeadScorer

from .setting import Setting, articles, causal_lm, label_names, label_space, prompt, tokenizer
from .timing import interleave, row

UNLISTED = "Classify the document."
CUT, SHORT, LONG, FEW, MANY, NEW_TOKENS = 64, 96, 256, 20, 200, 8  # tokens and labels


def texts(setting: Setting, count: int) -> list[str]:
    """Return whole articles; the encoders cut them."""
    return [article["text"] for article in articles(setting, max(1, count))]


def label_scorer(
    setting: Setting,
    labels: int,
    document_tokens: int,
    *,
    stock: bool = False,
    instruction: str | None = None,
    model: Any = None,
) -> LabelScorer:
    """Return this package's label scorer of the untouched model; for the peers, of the model as it is by default."""
    template, verbalizer = prompt(setting, labels, document_tokens, instruction)
    model = model or causal_lm(setting, stock)
    return LabelScorer(
        model, tokenizer(setting), template=template, verbalizer=verbalizer, batch_size=setting.batch_size
    )


def describe(scorer: LabelScorer, documents: Sequence[str]) -> dict[str, Any]:
    """Say how much work there is."""
    answers = scorer.answer_ids
    beginnings = {tuple(ids[:end]) for ids in answers for end in range(1, len(ids))}
    return {
        "documents": len(documents),
        "labels": len(answers),
        "batch_size": scorer.batch_size,
        "prefix_tokens": len(scorer.encoder.prefix_ids),
        "document_tokens": sum(len(scorer.encoder.document_ids(text)) for text in documents),
        "answer_tokens": sum(map(len, answers)) / len(answers),
        "trie_tokens": len(beginnings),
    }


def forward_a_label(scorer: LabelScorer, documents: Sequence[str]) -> np.ndarray:
    """Log-probability of each label by one row of input a label, in batches of similar length, as harnesses do."""
    requests = [(prompt_ids, answer) for prompt_ids in scorer.prompt_ids(documents) for answer in scorer.answer_ids]
    order = sorted(range(len(requests)), key=lambda index: -sum(map(len, requests[index])))
    scores = np.empty(len(requests), dtype=np.float32)
    size = scorer.batch_size
    with torch.no_grad():
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            batch = pad([[*requests[index][0], *requests[index][1]][:-1] for index in rows], 0)
            device = scorer.model.device
            logits = scorer.model(**{name: tensor.to(device) for name, tensor in batch.items()}).logits
            for place, index in enumerate(rows):
                beginning, answer = requests[index]
                span = slice(len(beginning) - 1, len(beginning) - 1 + len(answer))
                target = torch.tensor(answer, device=device).unsqueeze(1)
                scores[index] = logits[place, span].float().log_softmax(dim=-1).gather(1, target).sum().item()
    return scores.reshape(len(documents), -1)


def generate(scorer: LabelScorer, documents: Sequence[str]) -> tuple[int, int]:
    """Generate greedily and parse; return the malformed answers and the tokens of the longest answer."""
    encode, malformed, longest = tokenizer_of(scorer), 0, 0
    prompts = sorted(scorer.prompt_ids(documents), key=len, reverse=True)
    for start in range(0, len(prompts), scorer.batch_size):
        batch = pad(prompts[start : start + scorer.batch_size], padding_id(encode), side="left")
        generated = scorer.model.generate(
            **{name: tensor.to(scorer.model.device) for name, tensor in batch.items()},
            min_new_tokens=NEW_TOKENS,
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            num_beams=1,
            eos_token_id=scorer.encoder.end_id,
            pad_token_id=padding_id(encode),
        )[:, batch["input_ids"].shape[1] :]
        longest = max(longest, generated.shape[1])
        answers = encode.batch_decode(generated, skip_special_tokens=True)
        malformed += sum(scorer.verbalizer.parse(answer).error is not None for answer in answers)
    return malformed, longest


def tokenizer_of(scorer: LabelScorer) -> Any:
    """Return the tokenizer that a scorer's prompts are made with."""
    return scorer.encoder.tokenizer


def one_forward_a_label(setting: Setting) -> dict[str, Any]:
    """S1."""
    documents = texts(setting, setting.documents)
    scorer, peer = label_scorer(setting, FEW, SHORT), label_scorer(setting, FEW, SHORT, stock=True)
    measurement = interleave(
        lambda pair: scorer.log_probs(documents if pair is not None else documents[:2]),
        lambda pair: forward_a_label(peer, documents if pair is not None else documents[:1]),
        setting.pairs,
    )
    few = documents[:2]
    difference = float(np.abs(scorer.probabilities(few) - _softmax(forward_a_label(peer, few))).max())
    return row("S1", measurement, **describe(scorer, documents), largest_difference=difference)


def greedy_generation(setting: Setting) -> dict[str, Any]:
    """S2."""
    documents = texts(setting, 2 * setting.documents)
    scorer, peer = label_scorer(setting, FEW, SHORT), label_scorer(setting, FEW, SHORT, stock=True)
    measurement = interleave(
        lambda pair: scorer.log_probs(documents), lambda pair: generate(peer, documents), setting.pairs
    )
    malformed, tokens = generate(peer, documents)
    return row("S2", measurement, **describe(scorer, documents), new_tokens=tokens, malformed=malformed)


def head_scorer(setting: Setting, document_tokens: int) -> HeadScorer:
    """Return this package's scorer with a head that was not trained, as fast as one that was."""
    torch.manual_seed(setting.seed)
    space = label_space(articles(setting, 10**4))
    model = load_with_head(setting.model, BaseWeights(setting.dtype), label_space=space, place=False)
    encoder = DocumentEncoder(tokenizer(setting), document_tokens)
    return HeadScorer(model, tokenizer(setting), encoder, batch_size=setting.batch_size)


def head(setting: Setting) -> dict[str, Any]:
    """S3: the instruction does not list the labels, as in S4."""
    documents = texts(setting, 4 * setting.documents)  # the instruction is run once for all
    scorer, peer = label_scorer(setting, FEW, LONG, instruction=UNLISTED), head_scorer(setting, LONG)
    measurement = interleave(
        lambda pair: scorer.log_probs(documents), lambda pair: peer.probabilities(documents), setting.pairs
    )
    return row("S3", measurement, **describe(scorer, documents))


def more_labels(setting: Setting) -> dict[str, Any]:
    """S4: a model that a minute of training has taught to answer with labels, without a list of them.

    The untouched model answers with anything but labels, so that nothing can be left out for an error of 1e-3.
    """
    documents = texts(setting, setting.documents)
    from .training import taught_model

    model = taught_model(setting)
    many, few = (label_scorer(setting, count, LONG, instruction=UNLISTED, model=model) for count in (MANY, FEW))
    measurement = interleave(
        lambda pair: many.probabilities(documents), lambda pair: few.probabilities(documents), setting.pairs
    )
    difference = float(np.abs(many.probabilities(documents) - _softmax(many.log_probs(documents))).max())
    work = {"ours": describe(many, documents), "other": describe(few, documents), "names": label_names(3)}
    return row("S4", measurement, **work, largest_error=many.max_error, largest_difference=difference)


def _softmax(scores: np.ndarray) -> np.ndarray:
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    return scores / scores.sum(axis=1, keepdims=True)
