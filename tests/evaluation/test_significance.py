import time
from itertools import product

import numpy as np
import pytest
from scipy.stats import binom, binomtest
from sklearn.metrics import f1_score

from hf_causal_clf.evaluation.metrics import decision_metrics
from hf_causal_clf.evaluation.significance import (
    align,
    bootstrap_f1,
    f1_interval,
    holm,
    is_correct,
    mcnemar,
    mean_interval,
    percentile_interval,
    permutation_tests,
)


def draw_run(draw, gold, accuracy, labels=3):
    wrong = (gold + draw.integers(1, labels, size=len(gold))) % labels
    return np.where(draw.uniform(size=len(gold)) < accuracy, gold, wrong)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (5, 0), (3, 9), (10, 10)])
def test_mcnemar_is_the_exact_binomial_test(first, second):
    correct = np.array([True] * first + [False] * second + [True, False] * 4)
    other = np.array([False] * first + [True] * second + [True, False] * 4)
    discordant, least = first + second, min(first, second)
    expected = min(1.0, 2 * binom.cdf(least, discordant, 0.5)) if discordant else 1.0
    assert mcnemar(correct, other) == pytest.approx(expected)
    assert mcnemar(other, correct) == mcnemar(correct, other)


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("average", ["macro", "micro"])
@pytest.mark.parametrize("multi_label", [False, True])
def test_point_estimates_are_those_of_scikit_learn(average, multi_label):
    draw = np.random.default_rng(0)
    if multi_label:
        gold, first, second = (draw.integers(0, 2, size=(80, 4)) for _ in range(3))
    else:
        gold = draw.integers(0, 3, size=80)
        first, second = draw_run(draw, gold, 0.8), draw_run(draw, gold, 0.6)
    a, b = f1_score(gold, first, average=average), f1_score(gold, second, average=average)
    found = f1_interval(gold, first, second, average=average, resamples=500)
    assert found.value == pytest.approx(a - b, abs=1e-6)
    assert found.low <= found.value <= found.high
    assert f1_interval(gold, first, average=average, resamples=500).value == pytest.approx(a, abs=1e-6)


def test_interval_equals_that_of_a_naive_loop():
    draw = np.random.default_rng(1)
    gold = draw.integers(0, 3, size=60)
    first, second = draw_run(draw, gold, 0.8), draw_run(draw, gold, 0.6)
    deltas = []
    for _ in range(1500):
        rows = draw.integers(0, 60, size=60)
        deltas.append(
            f1_score(gold[rows], first[rows], average="macro") - f1_score(gold[rows], second[rows], average="macro")
        )
    found = f1_interval(gold, first, second, resamples=10_000)
    np.testing.assert_allclose([found.low, found.high], np.quantile(deltas, [0.025, 0.975]), atol=0.02)


def test_interval_is_antisymmetric_seeded_and_fast():
    draw = np.random.default_rng(2)
    gold = draw.integers(0, 10, size=4500)
    first, second = draw_run(draw, gold, 0.9, 10), draw_run(draw, gold, 0.88, 10)
    start = time.perf_counter()
    one = f1_interval(gold, first, second)
    assert time.perf_counter() - start < 30
    other = f1_interval(gold, second, first)
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low), abs=1e-6)
    assert one == f1_interval(gold, first, second)
    assert f1_interval(gold, first, first, resamples=100).high == 0


def test_interval_has_its_nominal_coverage():
    """Over many drawn test sets, a 90 % interval holds the true difference about nine times in ten."""
    draw = np.random.default_rng(3)
    population = draw.integers(0, 3, size=200_000)
    runs = draw_run(draw, population, 0.8), draw_run(draw, population, 0.75)
    truth = np.subtract(*(f1_score(population, run, average="macro") for run in runs))
    covered = []
    for _ in range(300):
        rows = draw.integers(0, len(population), size=300)
        found = f1_interval(population[rows], runs[0][rows], runs[1][rows], level=0.9, resamples=500)
        covered.append(found.low <= truth <= found.high)
    assert 0.85 <= np.mean(covered) <= 0.95


def test_runs_are_joined_by_document():
    assert align([3, 1, 2], [1, 2, 3]).tolist() == [2, 0, 1]
    assert align(["3", "1", "2"], [1, 2, 3]).tolist() == align([3, 1, 2], ["1", "2", "3"]).tolist() == [2, 0, 1]
    for ids in ([1, 2], [1, 2, 4], [1, 2, 3, 3]):
        with pytest.raises(ValueError, match="not tested on the same documents"):
            align([3, 1, 2], ids)


def test_correctness_of_a_document():
    assert is_correct(np.array([0, 1]), np.array([0, 2])).tolist() == [True, False]
    assert is_correct(np.array([[1, 0], [1, 1]]), np.array([[1, 0], [1, 0]])).tolist() == [True, False]


def test_bad_average():
    with pytest.raises(ValueError, match="'macro' or 'micro', got 'weighted'"):
        f1_interval(np.array([0, 1]), np.array([0, 1]), average="weighted")


def test_several_runs_at_once_equal_pair_by_pair():
    draw = np.random.default_rng(5)
    gold = draw.integers(0, 3, size=70)
    runs = [draw_run(draw, gold, accuracy) for accuracy in (0.9, 0.7, 0.5)]
    values, samples = bootstrap_f1(gold, runs, resamples=700)
    for a, b in ((0, 1), (2, 0)):
        expected = f1_interval(gold, runs[a], runs[b], resamples=700)
        assert percentile_interval(values[a] - values[b], samples[a] - samples[b]) == expected
    assert f1_interval(gold, runs[1], resamples=700) == percentile_interval(values[1], samples[1])


def test_mean_interval_is_that_of_the_normal_approximation():
    values = np.random.default_rng(6).normal(2.0, 3.0, size=900)
    found = mean_interval(values)
    half = 1.96 * values.std() / 30
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)
    constant = mean_interval(np.full(20, -0.5))
    assert (constant.low, constant.high) == pytest.approx((-0.5, -0.5), abs=1e-6)


def test_adjusted_p_values_are_at_most_one():
    assert holm([0.8, 0.9, 0.7]) == [1.0, 1.0, 1.0]


def test_unmatched_documents_are_named():
    message = r"5 against 5; 8 ids are in one only, such as \['1', '2', '3'\]. Predict the same test split with both\.$"
    with pytest.raises(ValueError, match=message):
        align([1, 2, 3, 4, 5], [5, 9, 8, 7, 6])


@pytest.mark.parametrize("interval", ["mean", "f1", "difference"])
def test_intervals_have_a_seed_a_level_and_ten_thousand_samples(interval):
    draw = np.random.default_rng(9)
    gold = draw.integers(0, 3, size=50)
    first, second = draw_run(draw, gold, 0.8), draw_run(draw, gold, 0.6)

    def found(**kwargs):
        if interval == "mean":
            return mean_interval(np.square(np.arange(50.0)), **kwargs)
        if interval == "f1":
            return f1_interval(gold, first, **kwargs)
        return f1_interval(gold, first, second, **kwargs)

    default = found()
    assert default == found(seed=0, level=0.95, resamples=10_000)
    assert default != found(seed=1)
    assert found(seed=1) == found(seed=1)
    assert default != found(resamples=10_001)
    narrow = found(level=0.5)
    assert default.low < narrow.low < narrow.value < narrow.high < default.high


@pytest.mark.parametrize("average", ["macro", "micro"])
@pytest.mark.parametrize("multi_label", [False, True])
def test_estimates_are_the_metrics_whatever_was_predicted(average, multi_label):
    """Labels that no document has, predicted or not, and answers that are no label."""
    draw = np.random.default_rng(11)
    if multi_label:
        gold = np.stack([draw.uniform(size=40) < rate for rate in (0.5, 0.0, 0.2, 0.0)], axis=1).astype(int)
        run = np.where(draw.uniform(size=gold.shape) < [0.1, 0.1, 0.3, 0.0], 1 - gold, gold)
    else:
        gold = draw.choice([0, 2, 4], size=40)
        run = np.where(draw.uniform(size=40) < 0.7, gold, draw.integers(-1, 7, size=40))
    values, samples = bootstrap_f1(gold, [run, gold], average=average, resamples=10)
    assert values[0] == pytest.approx(decision_metrics(gold, run)[f"f1_{average}"], abs=1e-12)
    assert values[1] == 1
    assert (values.dtype, samples.dtype, samples.shape) == (np.float64, np.float64, (2, 10))


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_rare_label_counts_in_every_resample(multi_label):
    """Left out where it is not drawn, a label of 2 documents moved the macro F1 of 3 labels by half of itself."""
    gold = np.array([0, 1] * 49 + [2, 2])
    wrong_about_it, right = np.where(gold == 2, 0, gold), gold
    if multi_label:
        gold, wrong_about_it, right = (np.eye(3, dtype=int)[ids] for ids in (gold, wrong_about_it, right))
    values, samples = bootstrap_f1(gold, [wrong_about_it, right], resamples=2000)
    assert values[0] == pytest.approx((98 / 100 + 1 + 0) / 3)
    assert samples[0].max() <= 2 / 3  # never above what the two other labels can give
    assert (samples[1] == 1).all()  # a resample without the label says nothing against the run
    difference = f1_interval(gold, right, wrong_about_it, resamples=2000)
    assert 1 / 3 <= difference.low <= difference.value <= difference.high < 0.36


@pytest.mark.parametrize("multi_label", [False, True])
def test_many_rare_labels_leave_the_estimate_inside_its_interval(multi_label):
    """150 labels of two documents each: every seventh label is missing from a resample."""
    gold = np.repeat(np.arange(150), 2)
    run = draw_run(np.random.default_rng(12), gold, 0.9, 150)
    if multi_label:
        gold, run = np.eye(150, dtype=int)[gold], np.eye(150, dtype=int)[run]
    found = f1_interval(gold, run, resamples=1000)
    assert found.low < found.value < found.high


@pytest.mark.parametrize("average", ["macro", "micro"])
def test_samples_are_of_the_same_f1_as_the_estimate(average):
    draw = np.random.default_rng(10)
    gold = np.stack([draw.uniform(size=400) < rate for rate in (0.9, 0.3, 0.0)], axis=1).astype(int)
    run = np.where(draw.uniform(size=gold.shape) < [0.95, 0.6, 1.0], gold, 1 - gold)
    values, samples = bootstrap_f1(gold, [run, gold], average=average, resamples=400)
    assert values[0] == pytest.approx(f1_score(gold, run, labels=[0, 1], average=average), abs=1e-12)
    np.testing.assert_allclose(samples.mean(axis=1), values, atol=0.01)


def test_a_label_of_one_document_counts():
    values, _ = bootstrap_f1(np.array([0, 1]), [np.array([0, -1])], resamples=10)
    assert values.tolist() == [0.5]


def draw_task(draw, size, multi_label):
    """Gold labels, one of them rare, and a function that draws a run whose errors gather on the same hard documents."""
    if multi_label:
        gold = (draw.uniform(size=(size, 4)) < [0.5, 0.3, 0.1, 0.04]).astype(int)
        hard = draw.uniform(size=(size, 1))
    else:
        gold, hard = draw.choice(4, p=[0.55, 0.3, 0.11, 0.04], size=size), draw.uniform(size=size)

    def run(quality):
        right = (hard + draw.uniform(size=gold.shape)) / 2 < quality
        if multi_label:
            return np.where(right, gold, 1 - gold)
        return np.where(right, gold, draw.integers(-1, 4, size=size))  # -1: an answer that is no label

    return gold, run


@pytest.mark.parametrize("average", ["macro", "micro"])
@pytest.mark.parametrize("multi_label", [False, True])
def test_p_values_are_those_of_all_exchanges(average, multi_label):
    """With eight documents every exchange can be tried."""
    gold, run = draw_task(np.random.default_rng(20), 8, multi_label)
    runs = [run(0.8), run(0.3), run(0.6)]
    found = permutation_tests(gold, runs, average=average, resamples=20_000)
    assert found.shape == (3, 3)
    assert (np.diag(found) == 1).all()
    for first, second in ((0, 1), (0, 2), (1, 2)):
        differences = []
        for swap in product([False, True], repeat=8):
            chosen = np.reshape(swap, (8, 1) if multi_label else 8)
            a, b = np.where(chosen, runs[second], runs[first]), np.where(chosen, runs[first], runs[second])
            differences.append(abs(np.subtract(*bootstrap_f1(gold, [a, b], average=average, resamples=1)[0])))
        exact = np.mean(np.array(differences) >= differences[0] - 1e-12)
        assert found[first, second] == found[second, first] == pytest.approx(exact, abs=0.015)


def test_p_values_of_runs_that_decide_alike_or_never_alike():
    gold = np.array([0, 1] * 100)
    wrong = 1 - gold
    assert permutation_tests(gold, [gold, gold], resamples=50)[0, 1] == 1
    assert permutation_tests(gold, [gold, wrong], resamples=999)[0, 1] == 1 / 1000
    assert permutation_tests(gold, [gold, wrong])[0, 1] == 1 / 10_001
    silent = np.full(200, -1)
    assert permutation_tests(gold, [wrong, silent], resamples=50)[0, 1] == 1  # both have F1 0


def test_p_values_depend_on_the_two_runs_alone():
    gold, run = draw_task(np.random.default_rng(21), 80, False)
    runs = [run(0.9), run(0.8), run(0.75)]
    together = permutation_tests(gold, runs, resamples=700)
    for first, second in ((0, 1), (2, 0), (1, 2)):
        assert permutation_tests(gold, [runs[first], runs[second]], resamples=700)[0, 1] == together[first, second]
    assert (together != permutation_tests(gold, runs, resamples=700, seed=1)).any()
    assert (together == permutation_tests(gold, runs, resamples=700, seed=0)).all()
    with pytest.raises(ValueError, match="'macro' or 'micro', got 'weighted'"):
        permutation_tests(gold, runs, average="weighted")


@pytest.mark.parametrize("average", ["macro", "micro"])
@pytest.mark.parametrize("multi_label", [False, True])
def test_error_rate_and_power_of_the_permutation_test(average, multi_label):
    """Two equally good runs are told apart in 5 % of 400 test splits, two that differ in most of them."""
    draw, rejected, found = np.random.default_rng(22), 0, 0
    for _ in range(400):
        gold, run = draw_task(draw, 150, multi_label)
        runs = [run(0.75), run(0.75), run(0.6)]
        p_values = permutation_tests(gold, runs, average=average, resamples=200)
        rejected += p_values[0, 1] < 0.05
        found += p_values[0, 2] < 0.05
    assert binomtest(rejected, 400, 0.05).pvalue > 0.01, rejected
    assert found > 300


def test_the_best_of_equal_runs_is_seldom_better_than_every_other():
    """Chosen by the same documents that it is tested on, corrected over the comparisons with it alone."""
    draw, said = np.random.default_rng(23), {2: 0, 4: 0}
    for _ in range(300):
        gold, run = draw_task(draw, 150, False)
        runs = [run(0.75) for _ in range(4)]
        scores, _ = bootstrap_f1(gold, runs, resamples=1)
        p_values = permutation_tests(gold, runs, resamples=200)
        for count in said:
            best = int(np.argmax(scores[:count]))
            said[count] += max(holm([p_values[best, other] for other in range(count) if other != best])) < 0.05
    assert binomtest(said[2], 300, 0.05).pvalue > 0.01, said
    assert said[4] < 0.03 * 300


@pytest.mark.parametrize("multi_label", [False, True])
def test_permutation_test_of_many_runs_and_labels_is_fast(multi_label):
    draw = np.random.default_rng(24)
    gold = draw.integers(0, 50, size=2000)
    runs = [draw_run(draw, gold, accuracy, 50) for accuracy in (0.9, 0.88, 0.85, 0.5)]
    if multi_label:
        gold, *runs = (np.eye(50, dtype=int)[ids] for ids in (gold, *runs))
    start = time.process_time()
    p_values = permutation_tests(gold, runs, resamples=2000)
    assert time.process_time() - start < 10
    assert p_values[0, 3] == 1 / 2001
