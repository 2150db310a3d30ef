import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score, log_loss

from hf_causal_clf.evaluation.metrics import (
    METRICS,
    bin_index,
    classification_metrics,
    decide,
    decision_metrics,
    document_nll,
    expected_calibration_error,
    f1_per_label,
    label_counts,
)


def test_single_label_by_hand():
    gold = np.array([0, 1, 2, 1])
    probabilities = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.5, 0.3, 0.2], [0.1, 0.6, 0.3]])
    metrics = classification_metrics(gold, probabilities)
    assert metrics["accuracy"] == metrics["f1_micro"] == 0.75
    assert metrics["f1_macro"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert metrics["f1_weighted"] == pytest.approx((2 / 3 + 2 * 1 + 0) / 4)
    assert metrics["nll"] == pytest.approx(-np.log([0.8, 0.7, 0.2, 0.6]).mean())
    brier = [(0.2**2 + 0.1**2 * 2), (0.2**2 + 0.3**2 + 0.1**2), (0.5**2 + 0.3**2 + 0.8**2), (0.1**2 + 0.4**2 + 0.3**2)]
    assert metrics["brier"] == pytest.approx(np.mean(brier))
    # bins of 1/15: each confidence is alone in its bin
    assert metrics["ece"] == pytest.approx((0.2 + 0.3 + 0.5 + 0.4) / 4)


def test_multi_label_by_hand():
    gold = np.array([[1, 0], [1, 1], [0, 0]])
    probabilities = np.array([[0.9, 0.4], [0.6, 0.3], [0.1, 0.2]])
    metrics = classification_metrics(gold, probabilities)
    assert metrics["accuracy"] == pytest.approx(2 / 3)
    assert metrics["f1_micro"] == pytest.approx(4 / 5)
    assert metrics["f1_macro"] == pytest.approx(1 / 2)
    assert metrics["nll"] == pytest.approx(-np.log([0.9, 0.6, 0.6, 0.3, 0.9, 0.8]).mean())
    assert metrics["brier"] == pytest.approx(np.mean([0.01, 0.16, 0.16, 0.49, 0.01, 0.04]))


def test_against_scikit_learn():
    draw = np.random.default_rng(0)
    probabilities = draw.dirichlet(np.ones(4), size=200)
    gold = draw.integers(0, 4, size=200)
    metrics = classification_metrics(gold, probabilities)
    for average in ("micro", "macro", "weighted"):
        expected = f1_score(gold, probabilities.argmax(1), average=average)
        assert metrics[f"f1_{average}"] == pytest.approx(expected)
    assert metrics["nll"] == pytest.approx(log_loss(gold, probabilities))


def test_calibrated_probabilities_have_a_small_ece_and_boundaries_belong_to_the_bin_below():
    draw = np.random.default_rng(0)
    confidence = draw.uniform(0.5, 1, size=20_000)
    gold = np.where(draw.uniform(size=20_000) < confidence, 0, 1)
    assert expected_calibration_error(gold, np.stack([confidence, 1 - confidence], axis=1)) < 0.02
    certain = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert expected_calibration_error(np.array([0, 1]), certain) == 0
    assert expected_calibration_error(np.array([1, 0]), certain) == 1


def test_calibration_error_by_hand():
    gold = np.array([0, 1, 1, 0])
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]])
    # two bins: all confidences are in the upper one; three of four are right
    assert expected_calibration_error(gold, probabilities, bins=2) == pytest.approx(0.75 - 0.75)
    # equal mass: {0.6, 0.7} with one hit, {0.8, 0.9} with two
    by_mass = expected_calibration_error(gold, probabilities, bins=2, strategy="mass")
    assert by_mass == pytest.approx((abs(1.3 - 1) + abs(1.7 - 2)) / 4)
    # class-wise with two bins, class 0: {0.2} without hit, {0.9, 0.6, 0.7} with two; class 1 mirrors it
    classwise = expected_calibration_error(gold, probabilities, bins=2, classwise=True)
    assert classwise == pytest.approx((0.2 + abs(2.2 - 2)) / 4)
    with pytest.raises(ValueError, match="'width' or 'mass', got 'size'"):
        expected_calibration_error(gold, probabilities, strategy="size")


def test_f1_of_each_label():
    assert f1_per_label(np.array([0, 1, 1]), np.array([0, 1, 0]), 3).tolist() == pytest.approx([2 / 3, 2 / 3, 0])
    gold, predicted = np.array([[1, 0], [1, 1]]), np.array([[1, 0], [0, 1]])
    assert f1_per_label(gold, predicted, 2).tolist() == pytest.approx([2 / 3, 1])


def test_a_missing_answer_is_wrong_and_a_hit_for_no_label():
    metrics = decision_metrics(np.array([0, 1, 1, 0]), np.array([0, -1, 1, -1]))
    assert metrics["accuracy"] == 0.5
    assert metrics["precision_macro"] == 1.0
    assert metrics["recall_micro"] == 0.5


def test_decide():
    probabilities = np.array([[0.2, 0.5], [0.6, 0.4]])
    assert decide(probabilities, multi_label=False).tolist() == [1, 0]
    assert decide(probabilities, multi_label=True).tolist() == [[0, 1], [1, 0]]
    assert decide(probabilities, multi_label=True, thresholds=[0.7, 0.4]).tolist() == [[0, 1], [0, 1]]


def test_shapes_that_do_not_belong_together():
    with pytest.raises(ValueError, match="Got 2 gold labels and probabilities of 3 documents"):
        classification_metrics(np.array([0, 1]), np.ones((3, 2)))


GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "metrics.json").read_text())


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["name"])
def test_golden_values(case):
    """Values of an independent computation: tests/golden/make_metrics.py. Macro averages count the labels named there."""
    gold, probabilities, expected = np.array(case["gold"]), np.array(case["probabilities"]), case["expected"]
    found = classification_metrics(gold, probabilities)
    found["ece_width"] = found.pop("ece")
    decided = decide(probabilities, multi_label=gold.ndim == 2)
    found["f1_per_label"] = f1_per_label(gold, decided, probabilities.shape[1]).tolist()
    found["ece_mass"] = expected_calibration_error(gold, probabilities, strategy="mass")
    for strategy in ("width", "mass"):
        error = expected_calibration_error(gold, probabilities, strategy=strategy, classwise=True)
        found[f"ece_{strategy}_classwise"] = error
    assert set(found) == set(expected)
    assert found["f1_macro"] == pytest.approx(np.mean([found["f1_per_label"][label] for label in case["macro_labels"]]))
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-9), name


def test_impossible_events_that_happen_cost_much_but_not_everything():
    with np.errstate(all="raise"):
        assert 20 < document_nll(np.array([1]), np.array([[1.0, 0.0]]))[0] < 100
        certain = document_nll(np.array([[1, 0], [0, 1]]), np.array([[1.0, 0.0], [1.0, 1.0]]))
    assert certain.shape == (2,)
    assert certain[0] == pytest.approx(0, abs=1e-9)
    assert 10 < certain[1] < 50  # half of the labels, at the most that one can cost


def test_f1_of_labels_in_a_multi_label_task_and_of_labels_that_are_not_there():
    gold, predicted = np.array([[1, 0, 0], [1, 1, 0]]), np.array([[1, 0, 0], [0, 1, 0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(f1_per_label(gold, predicted, 3), [2 / 3, 1, 0])
        np.testing.assert_allclose(f1_per_label(np.array([0, 2]), np.array([0, 2]), 4), [1, 0, 1, 0])
        assert decision_metrics(np.array([0, 0]), np.array([0, -1]))["recall_macro"] == 0.5
        none = decision_metrics(np.array([[1, 0]]), np.array([[0, 0]]))
    assert none["precision_macro"] == 0


def test_bins():
    assert bin_index(np.array([0.0, 0.1, 0.11, 1.0]), 10, "width").tolist() == [0, 0, 1, 9]
    assert bin_index(np.array([1.0000001]), 10, "width").tolist() == [9]
    assert bin_index(np.array([0.5]), 4, "mass").tolist() == [0]
    assert bin_index(np.array([0.3, 0.1, 0.2, 0.4]), 2, "mass").tolist() == [1, 0, 0, 1]
    assert bin_index(np.array([]), 2, "mass").tolist() == []


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_label_that_no_document_has_counts_in_no_macro_average(multi_label):
    gold, predicted = np.array([0, 1, 1, 0]), np.array([0, 1, 2, 0])
    if multi_label:
        gold, predicted = np.eye(4, dtype=int)[gold], np.eye(4, dtype=int)[predicted]
    found = decision_metrics(gold, predicted)
    assert found["f1_macro"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["precision_macro"] == 1.0
    assert found["recall_macro"] == 0.75
    assert found["f1_micro"] == pytest.approx(3 / 4)  # the wrong answer costs its document, here and above
    assert found["f1_weighted"] == pytest.approx((1 + 2 / 3) / 2)


def test_no_document_with_any_label():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = decision_metrics(np.zeros((3, 2), dtype=int), np.array([[0, 0], [1, 0], [0, 0]]))
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert {found[f"f1_{average}"] for average in ("micro", "macro", "weighted")} == {0}


@pytest.mark.parametrize("gold", [np.array([0, 1, 1]), np.array([[1, 0], [0, 1], [1, 1]])])
def test_the_names_that_a_best_model_can_be_chosen_by_are_those_of_the_metrics(gold):
    assert set(METRICS) == set(classification_metrics(gold, np.full((3, 2), 0.5)))


def test_documents_of_each_label_are_counted():
    for gold in (np.array([2, 0, 2, 2]), np.array([2, 0, 2, 2], dtype=np.int32)):
        found = label_counts(gold, 4)
        assert found.tolist() == [1, 0, 3, 0]
        assert found.dtype == np.int64
    several = np.array([[1, 0, 1], [1, 0, 0]], dtype=np.int8)
    assert label_counts(np.repeat(several, 100, axis=0), 3).tolist() == [200, 0, 100]  # more than an int8 holds
    assert label_counts(several, 3).dtype == np.int64
    assert label_counts(np.array([], dtype=np.int64), 2).tolist() == [0, 0]
    assert label_counts(np.empty((0, 2), dtype=np.int64), 2).tolist() == [0, 0]
