"""What is left out, and that running once what variants share changes no probability."""

import itertools

import numpy as np
import pytest
import tiny
import torch
from test_invariance import KINDS, NAMES, make_model

from hf_causal_clf import LabelScorer, LabelSpace, PromptTemplate, TextClassifier, Verbalizer
from hf_causal_clf.backbone.attention import take_plain_attention
from hf_causal_clf.cascade import Cascade
from hf_causal_clf.embedding.scorer import HeadScorer
from hf_causal_clf.evaluation.calibration import Calibration
from hf_causal_clf.explanation.faithfulness import deletion_curves
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


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *itertools.product(["head", "label scoring"], tiny.ARCHITECTURES),
        *(("label scoring, multi-label", name) for name in ("llama", "gemma3", "gpt2")),
        ("head, mean, multi-label", "llama"),
    ],
)
def test_equals_predictions_of_what_is_left(kind, name, tokenizer):
    found = check(classifier(kind, name, tokenizer))
    assert found[0].parts()[:2] == ["The football match won. ", "Shares in the bank fell as markets kept busy! "]


CUT = {
    **{side: {"room": 16, "truncation": side} for side in ("tail", "head", "both", "head_tail")},
    "chunks": {"room": 16, "long_documents": "chunks"},
    "suffix": {"suffix": "\n\nTopic:"},
}


@pytest.mark.parametrize(
    ("kind", "cut"),
    [
        *itertools.product(["head"], CUT),
        *itertools.product(["label scoring"], ["head", "chunks"]),
        ("label scoring, multi-label", "tail"),
    ],
)
def test_documents_that_are_cut_or_go_on(kind, cut, tokenizer):
    check(classifier(kind, "llama", tokenizer, **CUT[cut]), unit="word" if kind == "head" else "sentence")


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


@pytest.mark.parametrize("kind", ["head", "label scoring"])
def test_bfloat16_is_close_to_float32(kind, tokenizer):
    expected = classifier(kind, "llama", tokenizer).explain(TEXTS)
    made = classifier(kind, "llama", tokenizer)
    model = made.scorer.model if kind == "label scoring" else made.scorer.model.backbone
    take_plain_attention(model.to(torch.bfloat16))
    for found, exact in zip(made.explain(TEXTS), expected, strict=True):
        np.testing.assert_allclose(found.probabilities, exact.probabilities, atol=0.06)
    assert [len(found.spans) for found in made.explain(TEXTS[::2])] == [4, 5]


@pytest.mark.parametrize("batch_size", [1, 64])
@pytest.mark.parametrize("kind", ["head", "label scoring"])
def test_company_and_batch_size_do_not_matter(kind, batch_size, tokenizer):
    made = classifier(kind, "llama", tokenizer)
    alone = [made.explain(text, unit="word") for text in TEXTS]
    made.scorer.batch_size = batch_size
    for found, expected in zip(made.explain([*TEXTS[::-1], "a cat"], unit="word"), alone[::-1]):
        assert found.spans.tolist() == expected.spans.tolist()
        np.testing.assert_allclose(found.drops, expected.drops, atol=1e-5)


class Counting:
    """A scorer by the words of a text, which has no logits of variants, as baselines have none."""

    approach, batch_size = "tfidf", 16

    def __init__(self, **weights):
        self.weights, self.seen = weights, []

    def logits(self, texts):
        self.seen += texts
        rows = [[self.weights.get(word.strip(".,!"), 0.0) for word in text.split()] for text in texts]
        return np.array([[sum(row), 0.0] for row in rows], dtype=np.float32).reshape(-1, 2)


def test_words_are_found_by_halves():
    words = [f"w{index}" for index in range(64)]
    scorer = Counting(w9=2.0, w40=1.0)
    found = TextClassifier(scorer, LabelSpace(["a", "b"])).explain(" ".join(words))
    by_text = dict(zip(found.parts(), found.drops_of(), strict=True))
    assert (by_text["w9 "], by_text["w40 "]) == pytest.approx((0.2215, 0.0718), abs=1e-3)
    assert [found.parts()[part] for part in found.ranking()[:2]] == ["w9 ", "w40 "]
    assert np.abs([drop for part, drop in by_text.items() if part not in ("w9 ", "w40 ")]).max() == 0
    assert len(scorer.seen) < 40  # not 64
    assert found.label == found.predicted == "a"


def test_words_of_several_sentences_are_looked_for_in_those_that_matter():
    scorer = Counting(good=1.0, bad=-3.0)
    made = TextClassifier(scorer, LabelSpace(["a", "b"], multi_label=True))
    [found] = made.explain(["It was a good day. It was so long. It was not so bad, was it?"], unit="word", label="a")
    parts = found.parts()
    assert {"bad, ", "good "} <= set(parts)
    assert "It was so long. " in parts
    assert (found.label, found.predicted) == ("a", ["b"])
    drops = dict(zip(parts, found.drops_of("a"), strict=True))
    assert drops["bad, "] < 0 < drops["good "]
    assert (found.drops_of("b") == 0).all()


def test_long_texts_are_left_out_in_groups_first():
    sentences = [f"Sentence of {name}. " for name in ("cats", "dogs")] * 100
    sentences[77] = "A good one. "
    scorer = Counting(good=1.0)
    found = TextClassifier(scorer, LabelSpace(["a", "b"])).explain("".join(sentences))
    assert found.parts()[found.ranking()[0]] == "A good one. "
    assert "".join(found.parts()) == "".join(sentences)
    assert len(found.spans) < 70
    assert len(scorer.seen) < 80


def test_a_text_of_one_word_has_no_drop():
    found = TextClassifier(Counting(good=1.0), LabelSpace(["a", "b"])).explain("good")
    assert np.isnan(found.drops).all()
    assert found.to_dict()["units"] == [{"start": 0, "end": 4, "drop": None}]


def test_a_baseline_is_explained_by_predictions():
    made = TextClassifier(Counting(good=1.0, bad=-2.0, day=0.5), LabelSpace(["a", "b"]), Calibration(2.0))
    check(made, ["A good day. A bad one. A day!", "good bad day"])


def test_empty_texts_and_mistakes():
    made = TextClassifier(Counting(good=1.0), LabelSpace(["a", "b"]))
    first, nothing = made.explain(["A good. A day.", " "], empty="keep")
    assert (first.label, nothing) == ("a", None)
    assert made.explain([]) == []
    for options, message in (
        ({"texts": "a", "unit": "line"}, r"unit must be one of \['sentence', 'word'\], got 'line'"),
        ({"texts": "a", "label": "c"}, "Unknown label 'c'"),
        ({"texts": ["a", ""]}, r"1 of 2 texts are empty; the first are at \[1\]"),
    ):
        with pytest.raises(ValueError, match=message):
            made.explain(**options)
    with pytest.raises(ValueError, match=r"Unknown label 'c'\. Known labels: a, b"):
        first.drops_of("c")


def test_damaged_weights_are_told(tokenizer):
    made = classifier("head", "llama", tokenizer)
    with torch.no_grad():
        made.scorer.model.score.weight[0] = float("nan")
    with pytest.raises(ValueError, match="The model gives no numbers"):
        made.explain(TEXTS)


def test_a_target_prior_is_kept(tokenizer):
    made = classifier("head", "llama", tokenizer)
    made._prior_ratio = np.array([0.1, 1.0, 1.0, 1.0, 5.0])
    check(made)


def test_a_cascade_decides_by_the_stage_that_answered():
    labels = LabelSpace(["a", "b"], multi_label=True)
    stages = [
        TextClassifier(Counting(good=weight), labels, Calibration(1.0, (limit, limit)))
        for weight, limit in ((0.1, 0.2), (1.0, 0.6))
    ]
    made = TextClassifier(Cascade(stages, 0.4), labels)
    check(made, ["A good day. A day.", "One day. Good day good."])


def test_deletion_curves_fall_faster_in_the_order_of_the_drops():
    made = TextClassifier(Counting(good=1.0, great=2.0, bad=-2.0), LabelSpace(["a", "b"]))
    texts = ["A good day. One. It was great. Then. So bad. And so. No more."] * 20
    curves = deletion_curves(made.explain(texts), made.predict_variants)
    assert curves.texts == 20
    np.testing.assert_allclose(curves.by_drop[0, 0], 0.7311 - 0.2689, atol=1e-3)  # without "It was great."
    summary = curves.summary()
    assert summary["aopc_by_drop"] > summary["aopc_at_random"] + 0.1
    assert 0 < summary["interval"][0] <= summary["difference"] <= summary["interval"][1]
    with pytest.raises(ValueError, match="No text has two parts"):
        deletion_curves(made.explain(["one"]), made.predict_variants)
