"""What must not change a prediction, for every architecture and both approaches.

Batch size, order and company of the documents, side and amount of padding, and, but for rounding, the data type. The
same for training is in `test_invariance_training.py`, what the stock stack makes of it in `test_stock_stack.py`.
"""

import functools
import itertools

import numpy as np
import pytest
import tiny
import torch

from hf_causal_clf import (
    CausalLMForLastTokenClassification,
    CausalLMForLastTokenClassificationConfig,
    LabelScorer,
    LabelSpace,
    PromptTemplate,
    Verbalizer,
)
from hf_causal_clf.backbone import context
from hf_causal_clf.backbone.attention import take_plain_attention
from hf_causal_clf.backbone.batching import pad
from hf_causal_clf.embedding import scorer as head_scorer
from hf_causal_clf.embedding.scorer import HeadScorer
from hf_causal_clf.task.documents import DocumentEncoder

NAMES = ["politics", "politics in the middle east", "sport", "business and shares", "tech"]
TEXTS = [
    "the football match <|im_end|> won",
    "cat",
    "shares in the bank fell as markets kept busy, and the bank saw a new film about phones and computers",
    "the prize <|im_end|>",  # ends in the token that is padded with
    "a new film about computers",
    "football football football football football football football football football",
    "a mat and a cat sat on business",
]
KINDS = ["head", "head, mean, multi-label", "label scoring", "label scoring, multi-label"]


def make_model(kind, name, tokenizer):
    if "label scoring" in kind:
        return tiny.make_causal_lm(name, len(tokenizer))
    labels = LabelSpace(NAMES, multi_label="multi" in kind)
    config = CausalLMForLastTokenClassificationConfig.from_backbone(
        tiny.make_config(name, len(tokenizer)), labels, pooling="mean" if "mean" in kind else "last"
    )
    torch.manual_seed(0)
    model = CausalLMForLastTokenClassification(config).eval()
    torch.nn.init.normal_(model.score.weight, std=0.3)
    return model


def probabilities(kind, model, tokenizer, texts, batch_size=3):
    if "label scoring" in kind:
        verbalizer = Verbalizer(LabelSpace(NAMES, multi_label="multi" in kind))
        scorer = LabelScorer(model, tokenizer, template=PromptTemplate(), verbalizer=verbalizer, batch_size=batch_size)
    else:
        scorer = HeadScorer(model, tokenizer, DocumentEncoder(tokenizer, 64), batch_size=batch_size)
    return scorer.probabilities(texts)


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module", params=tiny.ARCHITECTURES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(kind, name, tokenizer):
    return make_model(kind, name, tokenizer)


@pytest.fixture(scope="module")
def alone(kind, model, tokenizer):
    """The probabilities of each document on its own; they differ, so that a mix-up is seen."""
    found = np.concatenate([probabilities(kind, model, tokenizer, [text]) for text in TEXTS])
    assert np.abs(found[:, None] - found).max(axis=2)[~np.eye(len(TEXTS), dtype=bool)].min() > 1e-3
    return found


@pytest.mark.parametrize("batch_size", [3, 16])
def test_batch_size_and_order(kind, model, tokenizer, alone, batch_size):
    for order in ([6, 5, 4, 3, 2, 1, 0], [3, 0, 6, 1, 5, 2, 4]):
        found = probabilities(kind, model, tokenizer, [TEXTS[row] for row in order], batch_size)
        np.testing.assert_allclose(found, alone[order], atol=1e-5)


def pad_more(extra):
    """`pad`, with more padding than the longest row asks for."""

    def padded(sequences, value, *, side="right"):
        found = pad([*sequences, [value] * (max(map(len, sequences)) + extra)], value, side=side)
        return {name: tensor[:-1] for name, tensor in found.items()}

    return padded


@pytest.mark.parametrize("extra", [1, 9, 40])
def test_side_and_amount_of_padding(kind, model, tokenizer, alone, extra, monkeypatch):
    def chains_more(sequences, value, *, side="right"):  # prompts are padded on the left, tries on the right
        return (pad_more(extra) if side == "left" else pad)(sequences, value, side=side)

    if "label scoring" in kind:  # the answers follow the prompts, so these are padded on the left only
        monkeypatch.setattr(context, "pad", chains_more)
        found = [probabilities(kind, model, tokenizer, TEXTS)]
    else:
        found = []
        for side in ("left", "right"):
            monkeypatch.setattr(head_scorer, "pad", functools.partial(pad_more(extra), side=side))
            found.append(probabilities(kind, model, tokenizer, TEXTS))
    for each in found:
        np.testing.assert_allclose(each, alone, atol=1e-5)


@pytest.mark.parametrize("attention", ["default", "plain"])
def test_bfloat16_is_close_to_float32(kind, name, tokenizer, alone, attention):
    """Eight bits of mantissa in weights that are ten times as large as a real model's; 0.036 is the most that was seen."""
    model = make_model(kind, name, tokenizer)
    (model if "label scoring" in kind else model.backbone).to(torch.bfloat16)
    if attention == "plain":
        take_plain_attention(model)
    found = probabilities(kind, model, tokenizer, TEXTS)
    np.testing.assert_allclose(found, alone, atol=0.06)
    assert np.corrcoef(found.ravel(), alone.ravel())[0, 1] > 0.998
    assert not np.array_equal(found, alone)


@pytest.fixture
def talkative(tokenizer):
    """A scorer of ten labels with a model that likes to name many of them, so that its search has to end early."""
    verbalizer = Verbalizer(LabelSpace(list("abcdefghij"), multi_label=True))
    model = tiny.make_causal_lm("llama", len(tokenizer))
    scorer = LabelScorer(
        model, tokenizer, template=PromptTemplate(), verbalizer=verbalizer, min_coverage=0.999, max_expansions=8
    )
    bias = torch.zeros(len(tokenizer))
    bias[[token for ids in (*scorer.encoder.joined_ids, *scorer.answer_ids) for token in ids]] = 8.0
    bias[scorer.encoder.joined_ids[1][0]] += 3.0  # between two labels
    model.lm_head.register_forward_hook(lambda module, args, output: output + bias)
    return scorer


def test_where_a_search_ends_does_not_depend_on_the_batch(talkative):
    texts = TEXTS * 3
    talkative.batch_size = 1
    alone, uncovered = talkative.marginals(texts)
    assert uncovered.max() > 0.1
    for talkative.batch_size in (4, 16):
        found = talkative.marginals(texts)
        np.testing.assert_allclose(found[0], alone, atol=1e-5)
        np.testing.assert_allclose(found[1], uncovered, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2"], indirect=True)
def test_answers_that_are_left_out_do_not_depend_on_the_batch(name, tokenizer):
    model = tiny.make_causal_lm(name, len(tokenizer))
    words = [word for word in " ".join(NAMES).split() if word != "and"]
    verbalizer = Verbalizer(LabelSpace(list(dict.fromkeys(map(" ".join, itertools.product(words, repeat=3))))))
    scorer = LabelScorer(model, tokenizer, template=PromptTemplate("Sort."), verbalizer=verbalizer, batch_size=1)
    alone = scorer.probabilities(TEXTS)
    assert alone.shape == (7, 729)
    for scorer.batch_size in (3, 16):
        np.testing.assert_allclose(scorer.probabilities(TEXTS), alone, atol=1e-5)
