import json

import numpy as np
import pytest
from scipy.stats import binom

from hf_causal_clf.evaluation.selective import (
    LEVEL,
    Abstention,
    answered_errors,
    decision_confidence,
    error_bound,
    fewest_documents,
    fit_abstention,
    fit_threshold,
    risk_coverage,
)


def draw_documents(draw, count, *, ties=False, noise=0.0):
    """Confidences and errors of a calibrated classifier; `noise` is a share of wrong gold labels at every confidence."""
    confidence = draw.beta(3, 1, size=count) * 0.5 + 0.5
    if ties:
        confidence = np.ceil(confidence * 20) / 20
    return confidence, draw.random(count) < noise + (1 - noise) * (1 - confidence)


def naive_curve(confidence, wrong):
    """Point by point, by the definition."""
    points = []
    for threshold in sorted(set(confidence), reverse=True):
        answered = [error for own, error in zip(confidence, wrong, strict=True) if own >= threshold]
        points.append((len(answered) / len(wrong), sum(answered) / len(answered), threshold))
    return points


@pytest.mark.parametrize("ties", [False, True])
def test_the_risk_coverage_curve_is_that_of_the_definition(ties):
    confidence, wrong = draw_documents(np.random.default_rng(0), 200, ties=ties)
    found, expected = risk_coverage(confidence, wrong), naive_curve(confidence.tolist(), wrong.tolist())
    np.testing.assert_allclose(np.transpose([found.coverage, found.risk, found.threshold]), expected, rtol=1e-12)
    at = {threshold: risk for _, risk, threshold in expected}
    assert found.aurc == pytest.approx(np.mean([at[own] for own in confidence]), rel=1e-12)
    order = np.random.default_rng(1).permutation(200)
    again = risk_coverage(confidence[order], wrong[order])
    np.testing.assert_array_equal(again.risk, found.risk)
    assert again.aurc == pytest.approx(found.aurc, rel=1e-12)


def test_a_perfect_order_has_the_smallest_area_and_one_confidence_has_the_error():
    wrong = np.arange(100) >= 90
    best, worst = (risk_coverage(sign * np.arange(100.0), wrong).aurc for sign in (-1, 1))
    assert best < 0.1 * 0.1 < 0.1 < worst
    same = risk_coverage(np.full(100, 0.7), wrong)
    assert (same.coverage.tolist(), same.risk.tolist(), same.aurc) == ([1.0], [0.1], pytest.approx(0.1))


def test_the_bound_is_where_so_few_errors_have_a_chance_of_five_percent():
    for errors, documents in ((0, 149), (3, 200), (199, 200)):
        bound = error_bound(errors, documents)
        assert binom.cdf(errors, documents, bound) == pytest.approx(1 - LEVEL)
    assert error_bound(200, 200) == error_bound(0, 0) == 1.0


@pytest.mark.parametrize("target", [0.005, 0.02, 0.05, 0.3])
def test_the_fewest_documents_are_those_that_hold_the_target_without_an_error(target):
    count = fewest_documents(target)
    confidence, right = np.linspace(0.6, 0.9, count), np.zeros(count, dtype=bool)
    assert error_bound(0, count) <= target < error_bound(0, count - 1)
    assert fit_threshold(confidence, right, target).answered == count
    with pytest.raises(ValueError, match=f"{count - 1} documents are too few .* at least {count} are needed"):
        fit_threshold(confidence[1:], right[1:], target)


def test_twenty_documents_are_too_few_and_the_message_says_what_they_are_enough_for():
    confidence, right = np.linspace(0.6, 0.9, 20), np.zeros(20, dtype=bool)
    with pytest.raises(ValueError, match=r"at least 149 are needed.* target_error above 0\.14\."):
        fit_threshold(confidence, right, 0.02)
    assert fit_threshold(confidence, right, 0.1392).answered == 20


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("target", "noise"), [(0.1, 0.0), (0.05, 0.0), (0.1, 0.05)])
def test_the_error_of_the_answers_exceeds_the_target_in_at_most_five_percent_of_draws(target, noise, ties):
    """Over many draws of the documents that a threshold is fitted on; the true error is that of a million others."""
    draw = np.random.default_rng(0)
    truth = risk_coverage(*draw_documents(draw, 1_000_000, ties=ties, noise=noise))
    falling = truth.threshold[::-1]

    def true_error(threshold):
        row = np.searchsorted(falling, threshold)  # the lowest confidence that reaches it
        return truth.risk[::-1][row]

    draws, exceeded, naive, coverage = 1000, 0, 0, []
    for _ in range(draws):
        confidence, wrong = draw_documents(draw, 600, ties=ties, noise=noise)
        found = fit_threshold(confidence, wrong, target)
        coverage.append(found.answered / 600)
        exceeded += found.threshold is not None and true_error(found.threshold) > target
        curve = risk_coverage(confidence, wrong)
        held = np.flatnonzero(curve.risk <= target)
        naive += len(held) > 0 and true_error(curve.threshold[held[-1]]) > target
    assert exceeded / draws <= 1 - LEVEL + 2 * np.sqrt(0.05 * 0.95 / draws)
    assert naive / draws > 0.15  # what the observed error alone would give
    assert np.mean(coverage) > 0.05  # and it does answer


def test_errors_that_do_not_fall_with_confidence_still_exceed_it_seldom():
    """The error among the answers is above and below the target in turn, where the bound assumes that it rises."""
    draw, target, exceeded = np.random.default_rng(0), 0.1, 0
    for _ in range(1000):
        confidence = draw.random(300)
        rate = np.where((confidence * 10).astype(int) % 2 == 1, 0.12, 0.09)
        found = fit_threshold(confidence, draw.random(300) < rate, target)
        if found.threshold is not None:
            grid = np.linspace(found.threshold, 1, 10_001)[:-1]
            exceeded += np.where((grid * 10).astype(int) % 2 == 1, 0.12, 0.09).mean() > target
    assert 0 < exceeded <= 1000 * (1 - LEVEL)


def test_a_stricter_target_answers_no_more_and_errors_too_many_answer_nothing():
    confidence, wrong = draw_documents(np.random.default_rng(2), 3000)
    found = [fit_threshold(confidence, wrong, target) for target in (0.02, 0.05, 0.1, 0.2, 0.5)]
    answered = [selection.answered for selection in found]
    assert answered == sorted(answered)
    assert answered[0] < answered[-1] == 3000
    assert found[-1].threshold == 0.0
    for selection, target in zip(found, (0.02, 0.05, 0.1, 0.2, 0.5), strict=True):
        if selection.threshold is not None:
            chosen = confidence >= selection.threshold
            assert (chosen.sum(), wrong[chosen].sum()) == (selection.answered, selection.errors)
            assert selection.bound <= target
    none = fit_threshold(confidence, np.ones(3000, dtype=bool), 0.5)
    assert (none.threshold, none.answered, none.bound) == (None, 0, 1.0)


def test_the_first_number_of_documents_that_does_not_hold_ends_the_search():
    """There is no going on behind it, be the error as small as one likes: that is why the bound holds."""
    confidence = np.linspace(1.0, 0.5, 1000)
    wrong = (np.arange(1000) >= 300) & (np.arange(1000) < 332)
    assert error_bound(32, 1000, level=0.99) < 0.05
    assert 300 < fit_threshold(confidence, wrong, 0.05).answered < 332
    wrong = (np.arange(1000) >= 300) & (np.arange(1000) < 308)  # that, the second start leaves behind
    assert fit_threshold(confidence, wrong, 0.05).answered == 1000
    assert fit_threshold(confidence[:250], np.arange(250) < 2, 0.02).threshold is None  # one start, one error too many


def test_two_starts_share_the_chance_of_being_wrong():
    for count, level in ((1000, 0.975), (100, 0.95)):  # with few documents, there is one
        found = fit_threshold(np.linspace(1.0, 0.5, count), np.arange(count) >= 0.98 * count, 0.05)
        assert 0 < found.answered <= count
        assert found.bound == pytest.approx(error_bound(found.errors, found.answered, level=level))


def test_documents_with_the_same_confidence_are_answered_together():
    confidence = np.repeat([0.9, 0.8], [200, 200])
    for errors, answered, threshold in ((10, 400, 0.0), (30, 200, 0.85)):
        for dtype in (np.float64, np.float32):
            found = fit_threshold(confidence.astype(dtype), np.arange(400) >= 400 - errors, 0.05)
            assert found.answered == answered
            assert found.threshold == pytest.approx(threshold)
    assert fit_threshold(np.full(300, 1.0), np.zeros(300, dtype=bool), 0.02).answered == 300


def test_confidence_is_that_of_the_decision():
    single = np.array([[0.2, 0.8], [0.7, 0.3]], dtype=np.float32)
    np.testing.assert_allclose(decision_confidence(single, single.argmax(1)), [0.8, 0.7], rtol=1e-6)
    multi, given = np.array([[0.2, 0.8], [0.3, 0.4]]), np.array([[0, 1], [1, 0]])
    np.testing.assert_allclose(decision_confidence(multi, given), [[0.8, 0.8], [0.3, 0.6]])


def test_each_label_of_a_multi_label_task_has_a_threshold_of_its_own():
    draw = np.random.default_rng(3)
    probabilities = draw.random((600, 3)) * [0.05, 1.0, 1.0]
    gold = (draw.random((600, 3)) < probabilities).astype(np.int64)
    gold[:, 2] = draw.integers(0, 2, size=600)  # nothing is known of this label
    decisions = (probabilities >= 0.5).astype(np.int64)
    abstention, found = fit_abstention(gold, probabilities, decisions, 0.15)
    confidence = decision_confidence(probabilities, decisions)
    alone = [fit_threshold(confidence[:, k], decisions[:, k] != gold[:, k], 0.15) for k in range(3)]
    assert found == alone
    assert abstention.thresholds == tuple(selection.threshold for selection in alone)
    assert abstention.thresholds[0] == 0.0
    assert abstention.thresholds[1] > 0.5
    assert abstention.thresholds[2] is None
    answered = abstention.answers(probabilities, decisions)
    assert answered.sum(axis=0).tolist() == [selection.answered for selection in found]


def test_what_is_saved_answers_alike_and_wrong_entries_are_named():
    confidence, wrong = draw_documents(np.random.default_rng(4), 1000)
    probabilities = np.stack([1 - confidence, confidence], axis=1).astype(np.float32)
    decisions = np.ones(1000, dtype=np.int64)
    abstention, (found,) = fit_abstention((~wrong).astype(np.int64), probabilities, decisions, 0.1)
    again = Abstention.from_dict(json.loads(json.dumps(abstention.to_dict())))
    assert again == abstention
    assert 0 < found.answered < 1000
    assert again.answers(probabilities, decisions).sum() == found.answered
    missing = np.full((1, 2), np.nan, dtype=np.float32)
    assert not Abstention(0.1, (0.0,)).answers(missing, missing.argmax(1)).any()
    again.check(2, multi_label=False)
    for bad in (Abstention(0.1, (0.5, 0.5)), Abstention(0.1, ("x",)), Abstention(2.0, (0.5,)), Abstention(0.1, (-1,))):
        with pytest.raises(ValueError, match=r"abstention must have 1 thresholds|target_error must be"):
            bad.check(2, multi_label=False)


@pytest.mark.parametrize("target", [0.0, 1.0, -0.1, float("nan"), True, "0.02"])
def test_a_target_error_is_a_share(target):
    with pytest.raises(ValueError, match="target_error must be a share between 0 and 1"):
        fit_threshold(np.ones(500), np.zeros(500, dtype=bool), target)


def test_bad_arrays_are_named():
    with pytest.raises(ValueError, match=r"two arrays \(n,\)"):
        risk_coverage(np.ones(3), np.ones(2, dtype=bool))
    with pytest.raises(ValueError, match="at least one document"):
        risk_coverage(np.ones(0), np.ones(0, dtype=bool))
    with pytest.raises(ValueError, match="1 confidences are no numbers"):
        fit_threshold(np.array([np.nan] + [0.5] * 199), np.zeros(200, dtype=bool), 0.02)


def test_shares_of_answers():
    wrong = np.array([True, False, False, True])
    assert answered_errors([True, True, True, False], wrong) == {"coverage": 0.75, "error": pytest.approx(1 / 3)}
    assert answered_errors([False] * 4, wrong) == {"coverage": 0.0, "error": None}
