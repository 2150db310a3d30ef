"""Weights of a combination: the best there are, whatever the order; and better only where it is."""

import itertools

import numpy as np
import pytest
from scipy.special import expit, log_softmax

from hf_causal_clf.evaluation.calibration import to_probabilities
from hf_causal_clf.evaluation.combination import combine, fit_weights, judge, member_scores
from hf_causal_clf.evaluation.metrics import negative_log_likelihood


def make_gold(count, *, multi_label=False, labels=4, seed=0):
    draw = np.random.default_rng(seed)
    return draw.integers(0, 2, (count, labels)) if multi_label else draw.integers(0, labels, count)


def make_member(gold, strength, seed, labels=4):
    """Scores of a member that knows something of the labels, its errors its own."""
    multi_label = gold.ndim == 2
    truth = 2 * gold - 1 if multi_label else np.eye(labels)[gold]
    logits = strength * truth + np.random.default_rng(seed).normal(0, 1.2, truth.shape)
    return member_scores(logits.astype(np.float32), multi_label=multi_label)


def naive_loss(scores, weights, gold):
    """The mean negative log-likelihood, with what a deviation from equal weights costs."""
    logits = sum(weight * each for weight, each in zip(weights, scores))
    if gold.ndim == 2:
        nll = -np.where(gold == 1, np.log(expit(logits)), np.log(expit(-logits))).sum()
    else:
        nll = -log_softmax(logits, axis=1)[np.arange(len(gold)), gold].sum()
    return (nll + sum((weight - 1 / len(scores)) ** 2 for weight in weights)) / gold.size


@pytest.mark.parametrize("multi_label", [False, True])
def test_no_weights_of_a_grid_are_better(multi_label):
    gold = make_gold(120, multi_label=multi_label)
    scores = [make_member(gold, strength, seed) for seed, strength in enumerate((0.9, 0.6))]
    found = fit_weights(scores, gold)
    assert (found > 0).all()
    grid = itertools.product(np.linspace(0, 3, 61), repeat=2)
    lowest, best = min((naive_loss(scores, weights, gold), weights) for weights in grid)
    assert naive_loss(scores, found, gold) <= lowest + 1e-9
    np.testing.assert_allclose(found, best, atol=0.05)


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_order_of_the_members_makes_no_difference(multi_label):
    gold = make_gold(150, multi_label=multi_label)
    scores = [make_member(gold, strength, seed) for seed, strength in enumerate((1.0, 0.1, 0.8, 0.6, 0.9, 0.7))]
    found, verdict = fit_weights(scores, gold), judge(scores, gold)
    assert 2 <= np.count_nonzero(found) <= 4  # few
    for order in (list(range(6))[::-1], [3, 0, 5, 1, 4, 2]):
        shuffled = [scores[member] for member in order]
        np.testing.assert_allclose(fit_weights(shuffled, gold), found[order], atol=1e-5)
        again = judge(shuffled, gold)
        assert again.nll_change.value == pytest.approx(verdict.nll_change.value, abs=1e-5)
        assert (again.f1, again.best_f1) == (verdict.f1, verdict.best_f1)


def test_no_weight_is_negative_and_a_member_that_misleads_is_left_out():
    gold = make_gold(200)
    scores = [make_member(gold, 1.0, 0), make_member(gold, -1.0, 1), make_member(gold, 0.0, 2)]
    assert (fit_weights(scores, gold) > 0).tolist() == [True, False, False]


def test_alike_members_share_the_weight():
    gold = make_gold(100)
    one, other = make_member(gold, 1.0, 0), make_member(gold, 0.9, 1)
    weights = fit_weights([one, one + 1e-3 * np.random.default_rng(3).normal(size=one.shape), other], gold)
    assert np.count_nonzero(weights) == 2  # a second time the same costs its prediction and tells nothing


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("count", [60, 200])
def test_it_is_better_where_members_complement_one_another(multi_label, count):
    gold = make_gold(count, multi_label=multi_label)
    scores = [make_member(gold, 1.5, seed) for seed in range(3)]
    verdict = judge(scores, gold)
    assert verdict.better
    assert verdict.f1 > verdict.best_f1
    assert verdict.nll_change.low <= verdict.nll_change.value <= verdict.nll_change.high < 0


@pytest.mark.parametrize("multi_label", [False, True])
def test_it_is_not_better_than_a_member_that_knows_all_that_the_others_know(multi_label):
    for seed in range(5):
        gold = make_gold(100, multi_label=multi_label, seed=seed)
        logits = 1.5 * (2 * gold - 1 if multi_label else np.eye(4)[gold])
        logits = logits + np.random.default_rng(seed + 10).normal(0, 1, logits.shape)
        noisier = logits + np.random.default_rng(seed + 20).normal(0, 1, logits.shape)
        scores = [member_scores(each, multi_label=multi_label, temperature=0.67) for each in (logits, noisier)]
        assert not judge(scores, gold).better


def test_each_document_is_judged_by_weights_that_did_not_see_it():
    """Labels that are drawn by chance cannot be told, however many members there are."""
    gold = make_gold(80)
    scores = [make_member(np.zeros(80, dtype=int), 0.0, seed) for seed in range(12)]
    fitted = to_probabilities(combine(scores, fit_weights(scores, gold)), multi_label=False)
    assert negative_log_likelihood(gold, fitted) < min(
        negative_log_likelihood(gold, to_probabilities(each, multi_label=False)) for each in scores
    )
    assert judge(scores, gold).f1 < 0.45  # chance is 0.25


def test_scores_are_calibrated_log_probabilities():
    logits = np.array([[2.0, 0.0, -1.0]], dtype=np.float32)
    np.testing.assert_allclose(
        member_scores(logits, multi_label=False, temperature=2.0), log_softmax(logits.astype(float) / 2, axis=1)
    )
    np.testing.assert_allclose(member_scores(logits, multi_label=True, temperature=[1.0, 2.0, 0.5]), [[2.0, 0.0, -2.0]])


def test_no_member_rules_out_a_label():
    """As TF-IDF does with one that it saw no document of."""
    gold = np.array([0, 1, 2, 2])
    with np.errstate(divide="ignore"):
        certain = member_scores(np.log(np.eye(3)[[0, 1, 0, 1]]), multi_label=False)
    assert np.isfinite(certain).all()
    other = member_scores(20 * np.eye(3)[gold], multi_label=False)
    assert (combine([certain, other], [1.0, 1.1]).argmax(axis=1) == gold).all()
    odds = member_scores(np.array([[np.inf, -np.inf, 0.0]]), multi_label=True)
    assert np.isfinite(odds).all()
    assert np.isnan(member_scores(np.array([[np.nan, 0.0]]), multi_label=False)).any()  # damaged weights are told of
