import numpy as np
import pytest

from hf_causal_clf.evaluation.metrics import decision_metrics
from hf_causal_clf.labelling.forecast import Curve, PowerLaw, fit_power_law, forecast, learning_curve
from hf_causal_clf.labelling.heads import fitted

SIZES = [20, 28, 40, 57, 80, 113, 160]


def test_a_law_is_found_again():
    law = PowerLaw(0.9, 2.0, 0.5)
    found = fit_power_law(SIZES, law.at(np.array(SIZES)))
    assert (found.limit, found.scale, found.exponent) == pytest.approx((0.9, 2.0, 0.5), abs=1e-6)
    assert found.at(np.array([1000]))[0] == pytest.approx(0.9 - 2 / 1000**0.5)


@pytest.mark.parametrize(
    "scores",
    [
        np.linspace(0.2, 0.99, 7),  # a line would go beyond 1
        np.linspace(0.8, 0.7, 7),  # a curve does not fall
        np.full(7, 0.7),
        np.ones(7),
    ],
)
def test_a_forecast_rises_and_stays_within_0_and_1(scores):
    law = fit_power_law(SIZES, scores)
    values = law.at(np.array([1, 10, 100, 1000, 10**6]))
    assert (np.diff(values) >= 0).all()
    assert values.min() >= 0
    assert values.max() <= 1


def test_larger_parts_weigh_more():
    law = PowerLaw(0.9, 2.0, 0.5)
    wrong_at_start, wrong_at_end = law.at(np.array(SIZES)), law.at(np.array(SIZES))
    wrong_at_start[0] -= 0.05
    wrong_at_end[-1] -= 0.05
    moved = [abs(fit_power_law(SIZES, each).at(500) - law.at(500)) for each in (wrong_at_start, wrong_at_end)]
    assert moved[0] < moved[1] / 2


@pytest.fixture(scope="module")
def documents():
    draw = np.random.default_rng(0)
    gold = draw.integers(0, 3, 360)
    return (draw.normal(size=(3, 12))[gold] + draw.normal(size=(360, 12))).astype(np.float32), gold


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_curve_is_of_nested_parts_and_ends_with_all_documents(documents, multi_label):
    features, gold = documents
    gold = np.eye(3, dtype=int)[gold] if multi_label else gold
    curve = learning_curve(features[:160], gold[:160], features[160:], gold[160:], labels=3, strength=0.1)
    assert curve.sizes == SIZES
    assert curve.decisions.shape[:3] == (10, 7, 200)
    logits = fitted(features[:160], gold[:160], 3, 0.1).logits(features[160:])
    of_all = (logits >= 0).astype(int) if multi_label else logits.argmax(axis=1)
    assert (curve.decisions[:, -1] == of_all).all()
    assert (curve.decisions[0, 0] != curve.decisions[1, 0]).any()
    average = "micro" if multi_label else "macro"
    found = forecast(curve, [320, 640], average=average, resamples=50)
    metric = decision_metrics(gold[160:], of_all)[f"f1_{average}"]
    assert found.measured[-1].value == pytest.approx(metric)
    values = [each.value for each in (*found.measured, *found.expected)]
    assert all(each.low < each.value < each.high for each in found.measured)
    assert values[0] < values[-2] <= values[-1]
    again = forecast(curve, [320, 640], average=average, resamples=50)
    assert again == found


def test_the_interval_holds_what_is_reached():
    """Decisions that are right as often as a law says, by chance: of twenty intervals, one or two may miss."""
    held, law = 0, PowerLaw(0.95, 3.0, 0.6)
    for seed in range(20):
        draw = np.random.default_rng(seed)
        gold, luck = draw.integers(0, 2, 400), draw.random((400, 10))
        right = luck.T[:, None] < law.at(np.array(SIZES))[None, :, None]
        found = forecast(Curve(SIZES, np.where(right, gold, 1 - gold), gold), [640], average="micro", resamples=100)
        held += found.expected[0].low <= law.at(640) <= found.expected[0].high
    assert held >= 17


def test_there_is_no_forecast_from_a_handful(documents):
    features, gold = documents
    with pytest.raises(ValueError, match=r"at least 40 labelled documents .* there are 39"):
        learning_curve(features[:39], gold[:39], features, gold, labels=3, strength=0.1)
