import json

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from hf_causal_clf.evaluation.calibration import (
    MIN_DOCUMENTS,
    MIN_EXAMPLES,
    Calibration,
    best_threshold,
    fit_calibration,
    to_logits,
    to_probabilities,
)
from hf_causal_clf.evaluation.metrics import expected_calibration_error, negative_log_likelihood


def softmax(logits):
    return torch.from_numpy(logits).softmax(-1).numpy()


def sigmoid(logits):
    return torch.from_numpy(logits).sigmoid().numpy()


@pytest.mark.parametrize("temperature", [0.05, 0.5, 1.0, 2.5, 8.0, 20.0])
def test_temperature_divides_the_logits(temperature):
    logits = np.random.default_rng(0).normal(size=(50, 4)) * 60  # probabilities from 1e-100 on
    one, several = Calibration(temperature), Calibration((temperature, 2 * temperature, temperature, 1.0))
    np.testing.assert_allclose(one.apply(logits, multi_label=False), softmax(logits / temperature), rtol=1e-9)
    np.testing.assert_allclose(
        several.apply(logits, multi_label=True), sigmoid(logits / several.temperature), rtol=1e-9
    )
    found = one.apply(logits.astype(np.float32), multi_label=False)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, softmax(logits / temperature), atol=1e-5 / temperature)


@pytest.mark.parametrize("multi_label", [False, True])
def test_logits_of_probabilities(multi_label):
    probabilities = np.array([[0.5, 0.5 - 1e-13, 1e-13], [0.0, 1.0, 0.0]])
    np.testing.assert_allclose(
        to_probabilities(to_logits(probabilities, multi_label=multi_label), multi_label=multi_label),
        probabilities,
        rtol=1e-12,
    )


@pytest.mark.parametrize("factor", [0.4, 3.0])
def test_the_true_temperature_is_found(factor):
    """Labels drawn from the model's own distribution, whose logits are then multiplied: the factor is the temperature."""
    draw = np.random.default_rng(1)
    logits = draw.normal(size=(20_000, 4)) * 1.5
    gold = np.array([draw.choice(4, p=row) for row in softmax(logits)])
    off = softmax(logits * factor)
    found = fit_calibration(gold, logits * factor)
    assert found.temperature == pytest.approx(factor, rel=0.05)
    calibrated = found.apply(logits * factor, multi_label=False)
    assert negative_log_likelihood(gold, calibrated) < negative_log_likelihood(gold, off)
    assert expected_calibration_error(gold, calibrated) < 0.02
    assert np.array_equal(calibrated.argmax(1), off.argmax(1))
    assert found.thresholds is None


def test_multi_label_temperatures_are_each_labels_own():
    draw = np.random.default_rng(2)
    logits = draw.normal(size=(20_000, 2)) * 2
    gold = (draw.uniform(size=logits.shape) < sigmoid(logits)).astype(int)
    found = fit_calibration(gold, logits * [0.5, 4.0])
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
    found = fit_calibration(gold, draw.normal(size=(MIN_DOCUMENTS - 1, 3)))
    assert found == Calibration()
    assert f"{MIN_DOCUMENTS - 1} validation documents are too few" in caplog.text
    logits = draw.normal(size=(5, 3)).astype(np.float32)
    np.testing.assert_array_equal(
        found.apply(logits, multi_label=multi_label), to_probabilities(logits, multi_label=multi_label)
    )


def one_scarce_label(seed, labels, common):
    """Gold labels and logits of 400 documents; all but one too few have the same gold value of the last label."""
    draw = np.random.default_rng(seed)
    probabilities = draw.uniform(size=(400, labels))
    gold = (draw.uniform(size=(400, labels)) < probabilities).astype(int)
    gold[:, -1] = common
    gold[: MIN_EXAMPLES - 1, -1] = 1 - common
    return gold, to_logits(probabilities, multi_label=True)


def test_a_rare_label_takes_what_fits_all_labels(caplog):
    gold, logits = one_scarce_label(seed=4, labels=3, common=0)
    found = fit_calibration(gold, logits)
    assert "1 of 3 labels have fewer than 20 positive or negative" in caplog.text
    calibrated = found.apply(logits, multi_label=True)
    assert found.thresholds[2] == pytest.approx(best_threshold(gold.ravel(), calibrated.ravel()), abs=1e-4)
    assert found.thresholds[0] == pytest.approx(best_threshold(gold[:, 0], calibrated[:, 0]), abs=1e-4)
    gold[MIN_EXAMPLES - 1, 2] = 1
    caplog.clear()
    assert fit_calibration(gold, logits).thresholds[2] != found.thresholds[2]
    assert not caplog.text


def test_calibration_never_hurts_the_likelihood_it_was_fitted_on():
    draw = np.random.default_rng(5)
    for _ in range(10):
        probabilities = draw.dirichlet(np.ones(4), size=60)
        gold = draw.integers(0, 4, size=60)
        logits = to_logits(probabilities, multi_label=False)
        calibrated = fit_calibration(gold, logits).apply(logits, multi_label=False)
        assert negative_log_likelihood(gold, calibrated) <= negative_log_likelihood(gold, probabilities) + 1e-6


@pytest.mark.parametrize("calibration", [Calibration(), Calibration(1.5), Calibration((1.0, 2.0), (0.3, 0.6))])
def test_json_round_trip(calibration):
    assert Calibration.from_dict(json.loads(json.dumps(calibration.to_dict()))) == calibration


def test_decisions_use_the_thresholds():
    calibration = Calibration((1.0, 1.0), (0.3, 0.6))
    assert calibration.decide(np.array([[0.4, 0.5]]), multi_label=True).tolist() == [[1, 0]]
    assert Calibration(1.0).decide(np.array([[0.4, 0.6]]), multi_label=False).tolist() == [1]


def test_impossible_and_certain_stay_finite():
    """Probabilities of exactly 0 and 1, and temperatures so low that powers would vanish."""
    with np.errstate(all="raise", under="ignore"):
        for temperature in (1e-3, 0.05, 1.0, 20.0):
            for certain, multi_label in (([[0.0, 1.0, 0.0]], False), ([[0.0, 1.0]], True)):
                logits = to_logits(np.array(certain), multi_label=multi_label)
                found = to_probabilities(logits, multi_label=multi_label, temperature=temperature)
                assert found.tolist() == certain  # what is impossible stays impossible
        cold = Calibration(1e-3).apply(np.log([[0.5, 0.3, 0.2], [0.4, 0.3, 0.3], [0.9, 0.1, 0.1]]), multi_label=False)
        np.testing.assert_allclose(cold, [[1, 0, 0]] * 3, atol=1e-9)


def test_a_gold_label_that_is_impossible_does_not_stop_the_fit():
    draw = np.random.default_rng(11)
    logits = draw.normal(size=(200, 3)).astype(np.float32)
    gold = logits.argmax(axis=1)
    logits[:, 2] = -np.inf
    found = fit_calibration(gold, logits)
    assert found.temperature < 0.5
    assert (found.apply(logits, multi_label=False)[:, 2] == 0).all()


@pytest.mark.parametrize("calibration", [Calibration(1.5), Calibration((1.0, 2.0), (0.3, 0.6))])
def test_calibrated_probabilities_are_float32_and_jsonable(calibration):
    multi_label = calibration.thresholds is not None
    logits = np.array([[-1.0, 2.0]], dtype=np.float32)
    assert calibration.apply(logits, multi_label=multi_label).dtype == np.float32
    assert type(calibration.to_dict()["temperature"]) in (float, list)


def test_as_many_documents_as_are_needed_are_enough(caplog):
    draw = np.random.default_rng(7)
    probabilities = draw.dirichlet(np.ones(3), size=MIN_DOCUMENTS)
    gold = probabilities.argmax(1)
    logits = to_logits(probabilities, multi_label=False)
    assert fit_calibration(gold, logits).temperature < 0.5
    assert not caplog.text
    fit_calibration(gold[1:], logits[1:])
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{MIN_DOCUMENTS - 1} validation documents are too few to calibrate on ({MIN_DOCUMENTS} are needed): "
        "probabilities and thresholds stay as they are."
    )


def test_a_label_that_is_nearly_everywhere_is_scarce_too(caplog):
    gold, logits = one_scarce_label(seed=8, labels=2, common=1)
    found = fit_calibration(gold, logits)
    common = fit_calibration(gold.reshape(-1, 1), logits.reshape(-1, 1))
    assert found.temperature[1] == pytest.approx(common.temperature[0])
    assert found.temperature[0] != pytest.approx(found.temperature[1], rel=0.01)
    (record,) = caplog.records
    assert record.getMessage() == (
        f"1 of 2 labels have fewer than {MIN_EXAMPLES} positive or negative validation documents and take the "
        "temperature and threshold fitted on all labels together."
    )
    caplog.clear()
    gold[MIN_EXAMPLES - 1, 1] = 0
    assert fit_calibration(gold, logits).temperature[1] != pytest.approx(common.temperature[0], rel=0.01)
    assert not caplog.text


def test_where_no_temperature_is_better_nothing_changes():
    gold = np.arange(60) % 3
    assert fit_calibration(gold, np.zeros((60, 3))).temperature == 1.0


def test_among_equal_thresholds_the_one_nearest_to_one_half_is_taken():
    gold = np.array([1, 0, 0, 1])  # F1 is 2/3 after the first, and again after the last
    assert best_threshold(gold, np.array([0.99, 0.95, 0.9, 0.85])) == pytest.approx(0.425)
    assert best_threshold(gold, np.array([0.6, 0.3, 0.2, 0.1])) == pytest.approx(0.45)
