"""The margins of a cascade's first stage, and the threshold that is fitted on them."""

import numpy as np
import pytest

from hf_causal_clf.evaluation.cascade import Judged, Rule, deferral_curve, deferred_rows, fit_cascade, margins
from hf_causal_clf.evaluation.metrics import decision_metrics
from hf_causal_clf.evaluation.significance import f1_interval

SECONDS = (0.01, 1.0)


def decided(draw, gold, right, labels):
    """Decisions of which a share is right."""
    if gold.ndim == 1:
        return np.where(draw.random(len(gold)) < right, gold, draw.integers(0, labels, len(gold)))
    return np.where(draw.random(gold.shape) < right, gold, 1 - gold)


@pytest.fixture(params=["single", "multi"])
def drawn(request):
    """Gold labels, margins with ties and decisions of a worse and a better stage; a label is never gold."""
    draw = np.random.default_rng(0)
    shape = 80 if request.param == "single" else (80, 4)
    gold = draw.integers(0, 3, 80) if request.param == "single" else draw.integers(0, 2, shape) * [1, 1, 0, 1]
    found = (draw.random(80) * 20).round() / 20
    return gold, found, decided(draw, gold, 0.6, 4), decided(draw, gold, 0.9, 4)


def mixed(first, second, passed_on):
    return np.where(passed_on if first.ndim == 1 else passed_on[:, None], second, first)


def test_the_margin_of_a_single_label_is_between_the_two_highest():
    found = margins(np.array([[0.5, 0.2, 0.3], [0.1, 0.1, 0.8], [1 / 3] * 3], dtype=np.float32), multi_label=False)
    np.testing.assert_allclose(found, [0.2, 0.7, 0.0], atol=1e-7)
    assert margins(np.zeros((0, 3)), multi_label=False).shape == (0,)
    assert np.isnan(margins(np.array([[0.5, np.nan, 0.5]]), multi_label=False)).all()


def test_the_margin_of_several_labels_is_the_least_share_of_the_way_from_a_threshold():
    rows = np.array([[0.02, 0.9], [0.05, 0.75], [0.0, 1.0], [0.1, 0.5]])
    found = margins(rows, multi_label=True, thresholds=[0.1, 0.5])
    np.testing.assert_allclose(found, [0.8, 0.5, 1.0, 0.0])
    assert found[0] == margins(rows[:1], multi_label=True, thresholds=(0.1, 0.5))  # a low threshold is no small margin
    np.testing.assert_allclose(margins(rows[:1], multi_label=True), [0.8])  # 0.5 for all
    np.testing.assert_allclose(margins(rows[2:3], multi_label=True, thresholds=[0.0, 1.0]), [0.0])


def test_the_ends_of_the_threshold_are_all_and_none():
    found = np.array([0.0, 0.5, 1.0, np.nan])
    assert deferred_rows(found, 0.0).tolist() == [False] * 4
    assert deferred_rows(found, 1.0).tolist() == [True] * 4
    assert deferred_rows(found, 0.5).tolist() == [True, False, False, False]


@pytest.mark.parametrize("average", ["macro", "micro"])
def test_the_curve_is_that_of_each_threshold_by_itself(average, drawn):
    gold, found, first, second = drawn
    curve = deferral_curve(gold, found, first, second, average=average)
    assert len(curve.threshold) == len(np.unique(found)) + 1
    assert (np.diff(curve.threshold) < 0).all()
    for threshold, deferred, f1 in zip(curve.threshold, curve.deferred, curve.f1):
        passed_on = deferred_rows(found, threshold)
        assert deferred == pytest.approx(passed_on.mean())
        expected = decision_metrics(gold, mixed(first, second, passed_on))[f"f1_{average}"]
        assert f1 == pytest.approx(expected, abs=1e-12)


def test_the_best_within_the_budget_is_chosen(drawn):
    gold, found, first, second = drawn
    fitted = fit_cascade(Judged(*drawn), SECONDS, Rule(max_deferred=0.4))
    points = []
    for threshold in [1.0, *np.unique(found) + 0.01, 0.0]:
        passed_on = deferred_rows(found, threshold)
        points.append((passed_on.mean(), decision_metrics(gold, mixed(first, second, passed_on))["f1_macro"]))
    assert fitted.f1 == pytest.approx(max(f1 for share, f1 in points if share <= 0.4))
    assert 0 < fitted.deferred <= 0.4
    assert fitted.second_f1 == pytest.approx(decision_metrics(gold, second)["f1_macro"])
    assert fitted.first_f1 == pytest.approx(decision_metrics(gold, first)["f1_macro"])
    assert deferred_rows(found, fitted.threshold).mean() == pytest.approx(fitted.deferred)
    assert fitted.expected_loss.low <= fitted.expected_loss.value <= fitted.expected_loss.high


@pytest.mark.parametrize("max_loss", [0.0, 0.05, 0.2, 1.0])
def test_fewer_are_deferred_as_long_as_a_larger_loss_is_excluded(max_loss, drawn):
    gold, found, first, second = drawn
    fitted = fit_cascade(Judged(*drawn), SECONDS, Rule(max_f1_loss=max_loss))
    curve, chosen = deferral_curve(*drawn), 1.0
    shares = [*(share / 100 for share in range(100, 10, -5)), 0.1, 0.08, 0.06, 0.04, 0.03, 0.02, 0.01, 0.0]
    for share in shares:
        point = np.abs(curve.deferred - share).argmin()
        decisions = mixed(first, second, deferred_rows(found, curve.threshold[point]))
        if f1_interval(gold, second, decisions, resamples=1000, level=0.9).high > max_loss:  # one-sided: 95 %
            break
        chosen = curve.deferred[point]
    assert fitted.deferred == pytest.approx(chosen)
    assert (fitted.deferred == 0.0) == (max_loss == 1.0)


def test_a_larger_loss_is_rare_on_other_documents():
    """The first stage is right in 75 % of documents, the second in 95 %, and the margins tell nothing."""
    draw, larger, naive = np.random.default_rng(0), 0, 0
    for _ in range(20):
        gold = draw.integers(0, 2, 150)
        documents = Judged(gold, draw.random(150), decided(draw, gold, 0.5, 2), decided(draw, gold, 0.9, 2))
        curve = documents.curve("macro")
        fitted = fit_cascade(documents, SECONDS, Rule(max_f1_loss=0.05))
        larger += 0.2 * (1 - fitted.deferred) > 0.05
        naive += 0.2 * (1 - curve.deferred[curve.f1 >= curve.f1[0] - 0.05].min()) > 0.05
    assert larger <= 2
    assert naive >= 8  # the least share whose loss is no larger on these documents


def test_a_first_stage_that_costs_as_much_as_the_second_saves_is_left_out(drawn):
    rule = Rule(max_f1_loss=0.15)
    free = fit_cascade(Judged(*drawn), SECONDS, rule)
    dear = fit_cascade(Judged(*drawn), (0.99, 1.0), rule)
    assert free.deferred < 0.9
    assert (dear.threshold, dear.deferred) == (1.0, 1.0)
    gold, found, _, second = drawn
    same = fit_cascade(Judged(gold, found, second, second), SECONDS, Rule(max_f1_loss=0.0))
    assert (same.threshold, same.deferred) == (0.0, 0.0)
    assert same.expected_loss.high == 0.0


def test_a_rule_is_one_of_two():
    for given in ({}, {"max_f1_loss": 0.1, "max_deferred": 0.5}):
        with pytest.raises(ValueError, match="Give either max_f1_loss or max_deferred"):
            Rule(**given)
    with pytest.raises(ValueError, match=r"max_deferred must be from 0 to 1, got 50"):
        Rule(max_deferred=50)
