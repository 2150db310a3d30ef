"""Baselines with folds, against what each is by hand: nothing is chosen or calibrated on documents that it has seen."""

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.multiclass import OneVsRestClassifier
from test_baselines import check_shape, model_arguments, prompt, raw
from tiny import save_encoder
from transformers import AutoModelForCausalLM

from hf_causal_clf import LabelScorer
from hf_causal_clf.baselines import encoder_training as encoder_baseline
from hf_causal_clf.baselines import fitting as baselines
from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.data.splits import load_data
from hf_causal_clf.embedding import frozen_features
from hf_causal_clf.embedding.reading import readings
from hf_causal_clf.training.train import train

LIMITS = {"max_length": 32, "truncation": "tail", "batch_size": 8}


@pytest.fixture(scope="module", params=[False, True], ids=["single", "multi"])
def data(request, files, multi_label_files):
    multi_label = request.param
    return load_data(DataArguments(**(multi_label_files if multi_label else files), multi_label=multi_label), 3)


@pytest.fixture(scope="module")
def single(files):
    return load_data(DataArguments(**files), 3)


def head(strength, multi_label):
    found = LogisticRegression(C=strength, max_iter=1000)
    return OneVsRestClassifier(found) if multi_label else found


def by_hand(data, features, strengths=baselines.STRENGTHS):
    """The lowest out-of-fold NLL, its probabilities, and those of the test documents by the head on all documents.

    `features` gives those of the documents it is to be fitted on, and of others, from texts of both.
    """
    texts, gold, several = np.array(data.texts("train"), dtype=object), data.gold("train"), data.label_space.multi_label
    found = []
    for strength in strengths:
        held_out = np.empty((len(texts), len(data.label_space)))
        for fold in range(3):
            held = data.folds == fold
            seen, unseen = features(texts[~held], texts[held])
            held_out[held] = head(strength, several).fit(seen, gold[~held]).predict_proba(unseen)
        flat = (gold.ravel(), held_out.ravel()) if several else (gold, held_out)
        seen, unseen = features(texts, np.array(data.texts("test"), dtype=object))
        test = head(strength, several).fit(seen, gold).predict_proba(unseen)
        found.append((log_loss(*flat, labels=range(2 if several else 3)), held_out, test))
    return min(found, key=lambda each: each[0])


def check_by_hand(outcome, data, expected):
    check_shape(outcome, data)
    _, held_out, test = expected
    np.testing.assert_allclose(raw(outcome, data)["validation"], held_out, atol=1e-3)
    np.testing.assert_allclose(raw(outcome, data)["test"], test, atol=1e-3)


def test_tfidf(data):
    def features(seen, unseen):
        vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit(seen)
        return vectorizer.transform(seen), vectorizer.transform(unseen)

    check_by_hand(baselines.tfidf(data), data, by_hand(data, features))


def test_tfidf_with_what_was_tuned(data):
    """The out-of-fold logits are those of the given settings, each fold's vocabulary without the fold."""

    def features(seen, unseen):
        vectorizer = TfidfVectorizer(ngram_range=(1, 3), min_df=2, sublinear_tf=False).fit(seen)
        return vectorizer.transform(seen), vectorizer.transform(unseen)

    outcome = baselines.tfidf(data, longest_ngram=3, min_df=2, sublinear_tf=False, strength=3.0)
    check_by_hand(outcome, data, by_hand(data, features, [3.0]))


def test_frozen_backbone_whose_features_are_computed_once(data, checkpoint, tmp_path, monkeypatch):
    computed, real = [], frozen_features.pooled_features

    def counted(backbone, encoder, texts, **options):
        computed.append((list(texts), encoder.suffix, real(backbone, encoder, texts, **options)))
        return computed[-1][2]

    monkeypatch.setattr(frozen_features, "pooled_features", counted)
    outcome = baselines.frozen(data, model_arguments(checkpoint), **LIMITS, cache=tmp_path)
    suffixes = list(dict.fromkeys(reading.suffix for reading in readings("auto", "auto")))
    seen = [(texts, suffix) for texts, suffix, _ in computed]
    assert seen == [(data.texts(split), suffix) for split in ("train", "test") for suffix in suffixes]
    expected = []
    for reading in readings("auto", "auto"):
        found = [(texts, states[reading.pooling]) for texts, suffix, states in computed if suffix == reading.suffix]
        row = {text: vector for texts, states in found for text, vector in zip(texts, states, strict=True)}

        def features(seen, unseen, row=row):
            seen, unseen = (np.array([row[text] for text in texts]) for texts in (seen, unseen))
            mean, spread = seen.mean(axis=0), seen.std(axis=0) + 1e-6
            return (seen - mean) / spread, (unseen - mean) / spread

        expected.append(by_hand(data, features))
    check_by_hand(outcome, data, min(expected, key=lambda each: each[0]))


def test_zero_shot_scores_all_labelled_documents(data, checkpoint, tokenizer, tmp_path):
    outcome = baselines.zero_shot(data, model_arguments(checkpoint), **prompt(data), batch_size=8, cache=tmp_path)
    check_shape(outcome, data)
    wording = prompt(data)
    wording["template"] = wording["template"].reserving(tokenizer, wording["verbalizer"], data.splits["train"]["label"])
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    expected = LabelScorer(model, tokenizer, **wording).probabilities(data.texts("train"))
    np.testing.assert_allclose(raw(outcome, data)["validation"], expected, atol=1e-5)


@pytest.fixture(scope="module")
def bert(tokenizer, tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("bert"), tokenizer)


def train_encoder(data, bert, output, **settings):
    settings = {"max_length": 32, "learning_rate": 5e-3, "num_train_epochs": 1, "batch_size": 8, "seed": 42} | settings
    return encoder_baseline.fine_tuned_encoder(data, bert, output_dir=output, **settings)


def test_encoder_goes_on_with_the_fold_that_is_missing(single, bert, tmp_path, monkeypatch):
    trained, fails_at = [], [1]

    def counted(trainer):
        if len(trained) in fails_at:
            raise RuntimeError("killed")
        trained.append(list(trainer.train_dataset["labels"]))
        return train(trainer)

    monkeypatch.setattr(encoder_baseline, "train", counted)
    with pytest.raises(RuntimeError, match="killed"):
        train_encoder(single, bert, tmp_path / "run")
    fails_at.clear()
    outcome = train_encoder(single, bert, tmp_path / "run")
    parts = [*(single.holding_out(fold).gold("train").tolist() for fold in range(3)), single.gold("train").tolist()]
    assert trained == parts  # the first fold once, then the others, then all
    check_shape(outcome, single)
    assert outcome.training["steps"] == 8
    assert not (tmp_path / "run" / ".unfinished").exists()
    trained.clear()
    whole = train_encoder(single, bert, tmp_path / "whole")
    assert trained == parts
    for split in ("validation", "test"):
        np.testing.assert_allclose(outcome.logits[split], whole.logits[split], atol=1e-5)


def test_encoder_does_not_know_what_it_predicts(single, bert, tmp_path):
    """Out of fold it is as a training on the other folds that has the fold as its test documents."""
    outcome = train_encoder(single, bert, tmp_path / "run")
    part = single.holding_out(1)
    one_fold = type(part)(part.label_space, {**part.splits, "test": part.splits["validation"]}, {})
    alone = train_encoder(one_fold, bert, tmp_path / "alone")  # one epoch: the best is the last
    np.testing.assert_allclose(outcome.logits["validation"][single.folds == 1], alone.logits["test"], atol=1e-4)
