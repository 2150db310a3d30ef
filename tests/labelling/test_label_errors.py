import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hf_causal_clf.labelling.errors import label_doubts, label_errors
from hf_causal_clf.labelling.heads import fitted, out_of_fold


@pytest.fixture(scope="module")
def blobs():
    """Features of three labels that overlap a little, their labels, and folds."""
    draw = np.random.default_rng(0)
    gold = draw.integers(0, 3, 240)
    centres = draw.normal(size=(3, 8)) * 1.5
    return (centres[gold] + draw.normal(size=(240, 8))).astype(np.float32), gold, np.arange(240) % 4


def test_a_head_is_the_regression_on_standardised_features(blobs):
    features, gold, _ = blobs
    expected = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)).fit(features, gold)
    logits = fitted(features, gold, 3, 0.1).logits(features)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected.predict_proba(features), atol=1e-3)


@pytest.mark.parametrize("multi_label", [False, True])
def test_no_head_sees_the_labels_of_its_fold(blobs, multi_label):
    features, gold, folds = blobs
    gold = np.eye(3, dtype=int)[gold] if multi_label else gold
    logits, strength = out_of_fold(features, gold, folds, 3)
    held = folds == 2
    alone = fitted(features[~held], gold[~held], 3, strength).logits(features[held])
    np.testing.assert_allclose(logits[held], alone, rtol=1e-5)
    wrong = gold.copy()
    wrong[held] = wrong[held][::-1]
    again, _ = out_of_fold(features, wrong, folds, 3, [strength])
    np.testing.assert_allclose(again[held], logits[held], rtol=1e-5)
    assert not np.allclose(again[~held], logits[~held])


def test_a_label_in_one_fold_alone_has_no_logit_there(blobs):
    features, gold, folds = blobs
    logits, _ = out_of_fold(features, np.where(folds == 1, 3, gold), folds, 4, [0.1])
    assert np.isneginf(logits[folds == 1, 3]).all()
    assert np.isfinite(logits[folds != 1, 3]).all()


def test_doubts_are_those_of_the_label_or_of_the_worst_of_several():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]], dtype=np.float32)
    np.testing.assert_allclose(label_doubts(np.array([0, 2]), probabilities), [0.3, 0.7], atol=1e-6)
    gold = np.array([[1, 0, 0], [1, 1, 0]])
    np.testing.assert_allclose(label_doubts(gold, probabilities), [0.3, 0.9], atol=1e-6)


@pytest.mark.parametrize("multi_label", [False, True])
def test_flipped_labels_are_found(blobs, multi_label):
    pytest.importorskip("cleanlab")
    features, gold, folds = blobs
    flipped = np.random.default_rng(1).permutation(len(gold))[:24]
    given = gold.copy()
    given[flipped] = (given[flipped] + 1) % 3
    given = np.eye(3, dtype=int)[given] if multi_label else given
    logits, _ = out_of_fold(features, given, folds, 3)
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = 1 / (1 + np.exp(-logits)) if multi_label else shifted / shifted.sum(axis=1, keepdims=True)
    surest = np.argsort(-label_doubts(given, probabilities))[:24]
    assert np.isin(surest, flipped).mean() > 0.8
    errors = label_errors(given, probabilities)
    assert errors[flipped].mean() > 0.7
    assert np.isin(np.flatnonzero(errors), flipped).mean() > 0.7


def test_a_label_without_documents_or_probability_is_no_trouble():
    pytest.importorskip("cleanlab")
    gold = np.array([0, 1] * 20)
    probabilities = np.full((40, 4), 0.01)
    probabilities[np.arange(40), gold] = 0.97
    probabilities[0] = [0.0, 1.0, 0.0, 0.0]
    assert np.flatnonzero(label_errors(gold, probabilities)).tolist() == [0]
    assert not label_errors(np.zeros(5, dtype=int), np.full((5, 2), 0.5)).any()
