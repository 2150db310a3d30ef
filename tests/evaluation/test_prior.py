"""Probabilities corrected for other label frequencies, against Bayes' rule where the densities are known."""

import numpy as np
import pytest

from hf_causal_clf.evaluation.metrics import negative_log_likelihood
from hf_causal_clf.evaluation.prior import prior_ratio, shift_prior

TRAINING, TARGET = np.array([0.7, 0.2, 0.1]), np.array([0.1, 0.3, 0.6])


def densities(x):
    """Density of three kinds of documents, `(n, 3)`, up to a common factor."""
    return np.exp(-0.5 * (x[:, None] - np.array([-1.0, 0.0, 1.5])) ** 2)


def posterior(x, prior):
    joint = densities(x) * prior
    return joint / joint.sum(axis=1, keepdims=True)


def drawn(prior, count=4000):
    draw = np.random.default_rng(0)
    gold = draw.choice(3, size=count, p=prior)
    return gold, np.array([-1.0, 0.0, 1.5])[gold] + draw.normal(size=count)


def test_single_label_correction_is_bayes_rule():
    gold, x = drawn(TARGET)
    trained = posterior(x, TRAINING)
    found = shift_prior(trained, prior_ratio(TRAINING, TARGET, multi_label=False), multi_label=False)
    np.testing.assert_allclose(found, posterior(x, TARGET), rtol=1e-9)
    assert negative_log_likelihood(gold, found) < negative_log_likelihood(gold, trained) - 0.3
    back = shift_prior(found, prior_ratio(TARGET, TRAINING, multi_label=False), multi_label=False)
    np.testing.assert_allclose(back, trained, rtol=1e-9)


def test_multi_label_correction_is_bayes_rule_for_each_label():
    draw = np.random.default_rng(0)
    gold = (draw.uniform(size=(4000, 3)) < TARGET).astype(int)
    x = 2.0 * gold + draw.normal(size=gold.shape)

    def odds(prior):
        weighted = np.exp(2 * x - 2) * prior / (1 - prior)  # of unit normals around 2 and 0
        return weighted / (1 + weighted)

    trained = odds(TRAINING)
    found = shift_prior(trained, prior_ratio(TRAINING, TARGET, multi_label=True), multi_label=True)
    np.testing.assert_allclose(found, odds(TARGET), rtol=1e-9)
    assert negative_log_likelihood(gold, found) < negative_log_likelihood(gold, trained) - 0.1


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_frequencies_of_training_change_nothing(multi_label):
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), size=50).astype(np.float32)
    found = shift_prior(probabilities, prior_ratio(TARGET, TARGET, multi_label=multi_label), multi_label=multi_label)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, probabilities, rtol=1e-6)


@pytest.mark.parametrize("multi_label", [False, True])
def test_certain_and_missing_rows_stay(multi_label):
    rows = np.array([[1.0, 0.0, 0.0], [np.nan] * 3], dtype=np.float32)
    ratio = prior_ratio(TRAINING, TARGET, multi_label=multi_label)
    np.testing.assert_array_equal(shift_prior(rows, ratio, multi_label=multi_label), rows)


@pytest.mark.parametrize(("multi_label", "shares"), [(False, [0.0, 0.5, 0.5]), (True, [1.0, 0.5, 0.5])])
def test_shares_without_a_ratio(multi_label, shares):
    for pair in ((shares, TARGET), (TARGET, shares)):
        with pytest.raises(ValueError, match="above 0"):
            prior_ratio(*map(np.array, pair), multi_label=multi_label)
