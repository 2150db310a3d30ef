"""What is left out, and that running once what variants share changes no probability."""

import itertools

import numpy as np
import pytest
import tiny
from test_invariance import KINDS, NAMES, make_model

from hf_causal_clf import LabelScorer, LabelSpace, PromptTemplate, TextClassifier, Verbalizer
from hf_causal_clf.embedding.scorer import HeadScorer
from hf_causal_clf.evaluation.calibration import Calibration
from hf_causal_clf.task.documents import DocumentEncoder

TEXTS = [
    "The football match won. Shares in the bank fell as markets kept busy! A new film about computers. The cat",
    "the prize in the bank",
    "Cat. A cat sat on a mat. Business in the middle east. Politics and phones won the prize for sport. A mat.",
]
SHARING = [kind for kind in KINDS if "mean" not in kind]


def classifier(kind, name, tokenizer, room=None, **settings):
    """A classifier whose documents have room for so many tokens."""
    model, labels = make_model(kind, name, tokenizer), LabelSpace(NAMES, multi_label="multi" in kind)
    if "label scoring" in kind:
        settings.pop("suffix", None)
        verbalizer = Verbalizer(labels)
        bare = PromptTemplate(max_length=200).bind(tokenizer, verbalizer)
        template = PromptTemplate(max_length=room and room + 200 - bare.document_budget, **settings)
        scorer = LabelScorer(model, tokenizer, template=template, verbalizer=verbalizer, batch_size=4)
    else:
        scorer = HeadScorer(model, tokenizer, DocumentEncoder(tokenizer, room, **settings), batch_size=4)
    return TextClassifier(scorer, labels, Calibration(1.5))


def naive_drops(made, explanation):
    text = explanation.text
    left = [text[:start] + text[end:] for start, end in explanation.spans]
    left[-1] = left[-1].rstrip()
    return made.predict_proba(text) - made.predict_proba(left)


def check(made, texts=TEXTS, **options):
    found = made.explain(texts, **options)
    for text, explanation in zip(texts, found, strict=True):
        assert "".join(explanation.parts()) == text
        np.testing.assert_allclose(explanation.drops, naive_drops(made, explanation), atol=1e-4)
        assert np.abs(explanation.drops).max() > 1e-3
    assert [explanation.predicted for explanation in found] == made.predict(texts)
    return found


def tokens_run(model):
    """Counts the tokens that run through a model's decoder, padding included."""
    counts = []
    model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: counts.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    return counts


@pytest.mark.parametrize("name", tiny.ARCHITECTURES)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_predictions_of_what_is_left(kind, name, tokenizer):
    found = check(classifier(kind, name, tokenizer))
    assert found[0].parts()[:2] == ["The football match won. ", "Shares in the bank fell as markets kept busy! "]
    assert set(found[1].parts()) >= {"bank"} or len(found[1].spans) < 5


@pytest.mark.parametrize(
    "settings",
    [
        *({"room": 16, "truncation": side} for side in ("tail", "head", "both", "head_tail")),
        {"room": 16, "long_documents": "chunks"},
        {"suffix": "\n\nTopic:"},
    ],
    ids=lambda settings: str(list(settings.values())),
)
@pytest.mark.parametrize("kind", SHARING)
def test_documents_that_are_cut_or_go_on(kind, settings, tokenizer):
    check(classifier(kind, "llama", tokenizer, **settings), unit="word")


def test_a_part_that_was_cut_off_changes_nothing(tokenizer):
    made = classifier("head", "llama", tokenizer, room=12)
    counts = tokens_run(made.scorer.model)
    [found] = made.explain(TEXTS[:1])
    assert (found.drops[2:] == 0).all()
    assert (found.drops[0] != 0).any()
    assert sum(counts) < 12 * 4


@pytest.mark.parametrize("kind", SHARING)
def test_half_of_the_tokens_are_run(kind, tokenizer):
    made = classifier(kind, "llama", tokenizer)
    text = " ".join(f"The {' '.join(words)} won." for words in itertools.permutations(("cat", "bank", "film", "mat")))
    counts = tokens_run(made.scorer.model)
    made.explain(text)
    shared = sum(counts)
    counts.clear()
    made.predict_proba([text, *(text.replace(part, "", 1) for part in text.split(". "))])
    assert shared < (0.6 if kind == "head" else 0.65) * sum(counts)
