import numpy as np
import pytest

from hf_causal_clf.evaluation.metrics import decision_metrics, f1_per_label
from hf_causal_clf.evaluation.slices import one_way_confusions, slice_scores


def decisions(gold, wrong, labels, seed=0):
    """Right decisions but where they are wrong; then those of another label."""
    moved = np.random.default_rng(seed).integers(1, labels, len(gold))
    return np.where(wrong, (gold + moved) % labels, gold)


@pytest.fixture
def draw():
    return np.random.default_rng(0)


def test_a_part_that_is_worse_is_found_and_scored_as_by_the_metrics(draw):
    gold = draw.integers(0, 3, 600)
    part = draw.random(600) < 0.2
    other = draw.random(600) < 0.5
    predicted = decisions(gold, draw.random(600) < np.where(part, 0.4, 0.1), 3)
    found = slice_scores(gold, predicted, {"part": part, "other": other}, 3, resamples=2000)
    assert next(iter(found)) == "part"
    assert found["part"].p_value < 0.01 < 0.05 < found["other"].p_value
    assert found["part"].documents == part.sum()
    assert found["part"].f1 == pytest.approx(decision_metrics(gold[part], predicted[part])["f1_micro"])
    assert found["part"].rest_f1 == pytest.approx(decision_metrics(gold[~part], predicted[~part])["f1_micro"])
    assert [found[label].f1 for label in range(3)] == pytest.approx(f1_per_label(gold, predicted, 3).tolist())


def test_a_label_that_is_worse_is_found_where_documents_have_several(draw):
    gold = (draw.random((500, 4)) < 0.4).astype(int)
    predicted = np.where(draw.random((500, 4)) < [0.05, 0.05, 0.3, 0.05], 1 - gold, gold)
    found = slice_scores(gold, predicted, {}, 4, resamples=2000)
    assert next(iter(found)) == 2
    assert [label for label, scores in found.items() if scores.p_value < 0.05] == [2]
    rest = np.delete(np.arange(4), 2)
    assert found[2].rest_f1 == pytest.approx(decision_metrics(gold[:, rest], predicted[:, rest])["f1_micro"])


def test_where_no_part_is_worse_few_are_called_so(draw):
    """Ten random parts of documents on which errors are random: Holm keeps one false alarm in about twenty audits."""
    alarms = 0
    for seed in range(60):
        gold = draw.integers(0, 2, 200)
        predicted = decisions(gold, draw.random(200) < 0.2, 2, seed)
        parts = {number: draw.random(200) < 0.25 for number in range(10, 20)}
        alarms += any(each.p_value < 0.05 for each in slice_scores(gold, predicted, parts, 2, resamples=500).values())
    assert alarms <= 9  # the binomial 99.8 % point of 5 % of 60


def test_small_parts_and_whole_ones_are_left_out(draw):
    gold = draw.integers(0, 2, 50)
    parts = {"small": np.arange(50) < 19, "enough": np.arange(50) < 20, "all": np.ones(50, dtype=bool)}
    assert set(slice_scores(gold, gold, parts, 2, resamples=10)) == {"enough", 0, 1}
    assert slice_scores(gold[:10], gold[:10], {}, 2) == {}


@pytest.mark.parametrize("multi_label", [False, True])
def test_labels_are_taken_for_others_in_one_direction(multi_label):
    gold = np.repeat([0, 1, 2], [40, 40, 40])
    predicted = gold.copy()
    predicted[:15] = 1  # 0 for 1
    predicted[40:42] = 0  # 1 for 0
    predicted[80:86], predicted[42:47] = 1, 2  # 1 and 2 both ways
    if multi_label:
        gold, predicted = np.eye(3, dtype=int)[gold], np.eye(3, dtype=int)[predicted]
    first, second = one_way_confusions(gold, predicted, 3)
    assert (first.label, first.predicted, first.documents, first.reverse) == (0, 1, 15, 2)
    assert first.p_value == pytest.approx(2 * 2 * (1 + 17 + 17 * 16 / 2) / 2**17)
    assert {second.documents, second.reverse} == {6, 5}
    assert second.p_value == 1.0
    assert one_way_confusions(gold, gold, 3) == []
