import json

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from hf_causal_clf.calibration import (
    MIN_DOCUMENTS,
    MIN_EXAMPLES,
    Calibration,
    best_threshold,
    divide_out,
    fit_calibration,
    sharpen,
    sharpen_each,
)
from hf_causal_clf.metrics import expected_calibration_error, negative_log_likelihood


def softmax(logits):
    return torch.from_numpy(logits).softmax(-1).numpy()


def sigmoid(logits):
    return torch.from_numpy(logits).sigmoid().numpy()


def test_temperature_on_probabilities_is_temperature_on_logits():
    logits = np.random.default_rng(0).normal(size=(20, 4)) * 3
    for temperature in (0.5, 1.0, 2.5):
        np.testing.assert_allclose(sharpen(softmax(logits), temperature), softmax(logits / temperature), atol=1e-9)
        np.testing.assert_allclose(sharpen_each(sigmoid(logits), temperature), sigmoid(logits / temperature), atol=1e-9)


@pytest.mark.parametrize("factor", [0.4, 3.0])
def test_the_true_temperature_is_found(factor):
    """Labels drawn from the model's own distribution, whose logits are then multiplied: the factor is the temperature."""
    draw = np.random.default_rng(1)
    logits = draw.normal(size=(20_000, 4)) * 1.5
    gold = np.array([draw.choice(4, p=row) for row in softmax(logits)])
    off = softmax(logits * factor)
    found = fit_calibration(gold, off)
    assert found.temperature == pytest.approx(factor, rel=0.05)
    calibrated = found.apply(off)
    assert negative_log_likelihood(gold, calibrated) < negative_log_likelihood(gold, off)
    assert expected_calibration_error(gold, calibrated) < 0.02
    assert np.array_equal(calibrated.argmax(1), off.argmax(1))
    assert found.thresholds is None


def test_multi_label_temperatures_are_each_labels_own():
    draw = np.random.default_rng(2)
    logits = draw.normal(size=(20_000, 2)) * 2
    gold = (draw.uniform(size=logits.shape) < sigmoid(logits)).astype(int)
    found = fit_calibration(gold, sigmoid(logits * [0.5, 4.0]))
    assert found.temperature == pytest.approx((0.5, 4.0), rel=0.06)


@pytest.mark.parametrize("seed", range(20))
def test_best_threshold_is_that_of_a_naive_search(seed):
    draw = np.random.default_rng(seed)
    probabilities = draw.integers(0, 12, size=30) / 12  # many ties
    gold = (draw.uniform(size=30) < probabilities).astype(int)
    found = f1_score(gold, probabilities >= best_threshold(gold, probabilities), zero_division=0)
    best = max(f1_score(gold, probabilities >= limit, zero_division=0) for limit in np.linspace(0, 1, 121))
    assert found == pytest.approx(best)


def test_best_threshold_with_nothing_to_find():
    assert best_threshold(np.zeros(5, dtype=int), np.linspace(0, 1, 5)) == 0.5
    assert best_threshold(np.array([0, 1]), np.array([0.2, 0.9])) == pytest.approx(0.55)


@pytest.mark.parametrize("multi_label", [False, True])
def test_few_documents_are_not_overfitted(multi_label, caplog):
    draw = np.random.default_rng(3)
    gold = (
        draw.integers(0, 2, size=(MIN_DOCUMENTS - 1, 3)) if multi_label else draw.integers(0, 3, size=MIN_DOCUMENTS - 1)
    )
    found = fit_calibration(gold, draw.dirichlet(np.ones(3), size=MIN_DOCUMENTS - 1))
    assert found == Calibration()
    assert f"{MIN_DOCUMENTS - 1} validation documents are too few" in caplog.text
    probabilities = np.array([[0.2, 0.7, 0.1]], dtype=np.float32)
    assert found.apply(probabilities) is probabilities


def one_scarce_label(seed, labels, common):
    """Gold labels and probabilities of 400 documents; all but one too few have the same gold value of the last label."""
    draw = np.random.default_rng(seed)
    probabilities = draw.uniform(size=(400, labels))
    gold = (draw.uniform(size=(400, labels)) < probabilities).astype(int)
    gold[:, -1] = common
    gold[: MIN_EXAMPLES - 1, -1] = 1 - common
    return gold, probabilities


def test_a_rare_label_takes_what_fits_all_labels(caplog):
    gold, probabilities = one_scarce_label(seed=4, labels=3, common=0)
    found = fit_calibration(gold, probabilities)
    assert "1 of 3 labels have fewer than 20 positive or negative" in caplog.text
    calibrated = found.apply(probabilities)
    assert found.thresholds[2] == pytest.approx(best_threshold(gold.ravel(), calibrated.ravel()), abs=1e-4)
    assert found.thresholds[0] == pytest.approx(best_threshold(gold[:, 0], calibrated[:, 0]), abs=1e-4)
    gold[MIN_EXAMPLES - 1, 2] = 1
    caplog.clear()
    assert fit_calibration(gold, probabilities).thresholds[2] != found.thresholds[2]
    assert not caplog.text


def test_calibration_never_hurts_the_likelihood_it_was_fitted_on():
    draw = np.random.default_rng(5)
    for _ in range(10):
        probabilities = draw.dirichlet(np.ones(4), size=60)
        gold = draw.integers(0, 4, size=60)
        calibrated = fit_calibration(gold, probabilities).apply(probabilities)
        assert negative_log_likelihood(gold, calibrated) <= negative_log_likelihood(gold, probabilities) + 1e-6


@pytest.mark.parametrize("calibration", [Calibration(), Calibration(1.5), Calibration((1.0, 2.0), (0.3, 0.6))])
def test_json_round_trip(calibration):
    assert Calibration.from_dict(json.loads(json.dumps(calibration.to_dict()))) == calibration


def test_decisions_use_the_thresholds():
    calibration = Calibration((1.0, 1.0), (0.3, 0.6))
    assert calibration.decide(np.array([[0.4, 0.5]]), multi_label=True).tolist() == [[1, 0]]
    assert Calibration(1.0).decide(np.array([[0.4, 0.6]]), multi_label=False).tolist() == [1]


@pytest.mark.parametrize("multi_label", [False, True])
def test_divide_out(multi_label):
    draw = np.random.default_rng(9)
    probabilities, prior = draw.dirichlet(np.ones(4), size=6), draw.dirichlet(np.ones(4), size=1)
    found = divide_out(probabilities, prior, multi_label)
    if multi_label:

        def logit(p):
            return np.log(p / (1 - p))

        np.testing.assert_allclose(logit(found), logit(probabilities) - logit(prior), atol=1e-4)
        np.testing.assert_allclose(divide_out(prior, prior, True), 0.5, atol=1e-6)
    else:
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(
            found[:, 0] / found[:, 1], probabilities[:, 0] * prior[0, 1] / probabilities[:, 1] / prior[0, 0], rtol=1e-4
        )
        np.testing.assert_allclose(divide_out(prior, prior, False), 0.25, atol=1e-6)
    hard = np.array([[1.0, 0.0, 0.0, 0.0]])
    assert np.isfinite(divide_out(hard, hard, multi_label)).all()


def test_impossible_and_certain_stay_finite():
    """Probabilities of exactly 0 and 1, and temperatures so low that powers would vanish."""
    with np.errstate(all="raise", under="ignore"):
        assert sharpen(np.array([[0.0, 1.0, 0.0]]), 0.5).tolist() == [
            [pytest.approx(0, abs=1e-12), 1.0, pytest.approx(0, abs=1e-12)]
        ]
        found = sharpen_each(np.array([[0.0, 1.0]]), 2.0)
        assert 0 < found[0, 0] < 1e-3
        assert 1 - 1e-3 < found[0, 1] < 1
        cold = sharpen(np.array([[0.5, 0.3, 0.2], [0.4, 0.3, 0.3], [1.0, 0.0, 0.0]]), 1e-3)
        np.testing.assert_allclose(cold, [[1, 0, 0]] * 3, atol=1e-9)


@pytest.mark.parametrize("calibration", [Calibration(1.5), Calibration((1.0, 2.0), (0.3, 0.6))])
def test_calibrated_probabilities_are_float32_and_jsonable(calibration):
    assert calibration.apply(np.array([[0.4, 0.6]])).dtype == np.float32
    assert type(calibration.to_dict()["temperature"]) in (float, list)


def test_as_many_documents_as_are_needed_are_enough(caplog):
    draw = np.random.default_rng(7)
    probabilities = draw.dirichlet(np.ones(3), size=MIN_DOCUMENTS)
    gold = probabilities.argmax(1)
    assert fit_calibration(gold, probabilities).temperature < 0.5
    assert not caplog.text
    fit_calibration(gold[1:], probabilities[1:])
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{MIN_DOCUMENTS - 1} validation documents are too few to calibrate on ({MIN_DOCUMENTS} are needed): "
        "probabilities and thresholds stay as they are."
    )


def test_a_label_that_is_nearly_everywhere_is_scarce_too(caplog):
    gold, probabilities = one_scarce_label(seed=8, labels=2, common=1)
    found = fit_calibration(gold, probabilities)
    common = fit_calibration(gold.reshape(-1, 1), probabilities.reshape(-1, 1))
    assert found.temperature[1] == pytest.approx(common.temperature[0])
    assert found.temperature[0] != pytest.approx(found.temperature[1], rel=0.01)
    (record,) = caplog.records
    assert record.getMessage() == (
        f"1 of 2 labels have fewer than {MIN_EXAMPLES} positive or negative validation documents and take the "
        "temperature and threshold fitted on all labels together."
    )
    caplog.clear()
    gold[MIN_EXAMPLES - 1, 1] = 0
    assert fit_calibration(gold, probabilities).temperature[1] != pytest.approx(common.temperature[0], rel=0.01)
    assert not caplog.text


def test_where_no_temperature_is_better_nothing_changes():
    gold = np.arange(60) % 3
    assert fit_calibration(gold, np.full((60, 3), 1 / 3)).temperature == 1.0


def test_among_equal_thresholds_the_one_nearest_to_one_half_is_taken():
    gold = np.array([1, 0, 0, 1])  # F1 is 2/3 after the first, and again after the last
    assert best_threshold(gold, np.array([0.99, 0.95, 0.9, 0.85])) == pytest.approx(0.425)
    assert best_threshold(gold, np.array([0.6, 0.3, 0.2, 0.1])) == pytest.approx(0.45)
