import json
from itertools import permutations

import numpy as np
import pytest

from hf_causal_clf.comparison import Entry, compare_runs
from hf_causal_clf.metrics import classification_metrics
from hf_causal_clf.report import render_report
from hf_causal_clf.results import Results
from hf_causal_clf.significance import f1_difference, f1_interval, holm, is_correct, mcnemar

LABELS = 4
GOLD = np.random.default_rng(0).integers(0, LABELS, size=200)


def make_results(accuracy: float, seed: int, speed: float = 10.0, gold: np.ndarray = GOLD, ids=None) -> Results:
    """Results of a run that is right about so often."""
    draw = np.random.default_rng(seed)
    predicted = np.where(draw.uniform(size=len(gold)) < accuracy, gold, (gold + 1) % LABELS)
    probabilities = np.full((len(gold), LABELS), 0.1)
    probabilities[np.arange(len(gold)), predicted] = 0.7
    test = classification_metrics(gold, probabilities)
    test |= {f"uncalibrated_{name}": value + 0.01 for name, value in test.items()}
    test |= {"nll_change": -0.01, "nll_change_ci_low": -0.02, "nll_change_ci_high": 0.0}
    training = {"trainable_parameters": 10, "predict_samples_per_second": speed, "peak_memory_bytes": 2**30}
    ids = list(range(len(gold))) if ids is None else ids
    return Results(ids, gold, predicted, probabilities, {"test": test, "training": training})


ENTRIES = [
    Entry("good", "embedding", [make_results(0.9, 1, speed=10)], (42,)),
    Entry("as good", "instruction", [make_results(0.9, 2, speed=20)], (42,)),
    Entry("bad", "tfidf", [make_results(0.4, 3, speed=5000)]),
]


def test_numbers_are_those_of_the_tests_on_their_own():
    report = compare_runs(ENTRIES)
    results = {entry.name: entry.results[0] for entry in ENTRIES}
    assert [row["metrics"]["f1_macro"] for row in report["runs"]] == sorted(
        (each.metrics["test"]["f1_macro"] for each in results.values()), reverse=True
    )
    assert len(report["pairwise"]) == 3
    p_values = []
    for pair in report["pairwise"]:
        a, b = results[pair["a"]], results[pair["b"]]
        assert pair["delta_f1_macro"] >= 0  # the better one comes first
        p_values.append(mcnemar(is_correct(GOLD, a.predicted), is_correct(GOLD, b.predicted)))
        assert pair["mcnemar_p"] == p_values[-1]
        for average, prefix in (("macro", ""), ("micro", "micro_")):
            expected = f1_difference(GOLD, a.predicted, b.predicted, average=average)
            found = pair[f"delta_f1_{average}"], pair[f"{prefix}ci_low"], pair[f"{prefix}ci_high"]
            assert found == (expected.value, expected.low, expected.high)
    assert [pair["mcnemar_p_holm"] for pair in report["pairwise"]] == holm(p_values)
    for row in report["runs"]:
        expected = f1_interval(GOLD, results[row["name"]].predicted)
        assert row["confidence_intervals"]["f1_macro"] == {"low": expected.low, "high": expected.high}


def test_the_order_of_runs_changes_nothing():
    reports = {json.dumps(compare_runs(order)) for order in permutations(ENTRIES)}
    assert len(reports) == 1


def test_runs_are_joined_by_document_id():
    order = np.random.default_rng(4).permutation(len(GOLD))
    one = ENTRIES[1].results[0]
    shuffled = Results(
        [one.ids[row] for row in order], one.gold[order], one.predicted[order], one.probabilities, one.metrics
    )
    assert compare_runs([ENTRIES[0], Entry("as good", "instruction", [shuffled], (42,))]) == compare_runs(ENTRIES[:2])


def test_other_documents_or_gold_labels_are_an_error():
    other = Entry("other", "embedding", [make_results(0.9, 1, ids=[f"x{row}" for row in range(len(GOLD))])])
    with pytest.raises(ValueError, match=r"'other' and 'good': The runs were not tested on the same documents"):
        compare_runs([ENTRIES[0], other])
    relabelled = Entry("other", "embedding", [make_results(0.9, 1, gold=(GOLD + 1) % LABELS)])
    with pytest.raises(ValueError, match="other gold labels for the same ids"):
        compare_runs([ENTRIES[0], relabelled])


def test_recommendation_takes_the_fastest_of_those_that_do_not_differ():
    recommendation = compare_runs(ENTRIES)["recommendation"]
    assert recommendation["run"] == "as good"
    assert set(recommendation["equivalent"]) == {"good", "as good"}
    assert "no significant difference" in recommendation["text"]
    assert "0.05" in recommendation["rule"]
    assert "Holm" in recommendation["rule"]


def test_recommendation_of_a_clear_winner():
    fast = Entry("fast", "embedding", [make_results(0.6, 5, speed=1e6)], (42,))
    slow = Entry("slow", "instruction", [make_results(0.97, 6, speed=1)], (42,))
    recommendation = compare_runs([fast, slow])["recommendation"]
    assert recommendation["run"] == "slow"
    assert "significantly better than every other run" in recommendation["text"]
    assert "slow against fast" in recommendation["text"]


def test_seeds_have_mean_and_standard_deviation_and_the_first_is_tested():
    several = [make_results(accuracy, 7) for accuracy in (0.9, 0.8, 0.7)]
    report = compare_runs([Entry("many", "embedding", several, (1, 2, 3)), ENTRIES[2]])
    row = next(row for row in report["runs"] if row["name"] == "many")
    scores = [each.metrics["test"]["f1_macro"] for each in several]
    assert row["mean"]["f1_macro"] == pytest.approx(np.mean(scores))
    assert row["sd"]["f1_macro"] == pytest.approx(np.std(scores, ddof=1))
    assert row["metrics"] == several[0].metrics["test"]
    assert "mean" not in next(row for row in report["runs"] if row["name"] == "bad")
    page = render_report(report, title="T", data="D")
    assert f"{np.mean(scores):.3f} ± {np.std(scores, ddof=1):.3f}" in page


def test_page_shows_every_run_and_every_pair():
    report = compare_runs([*ENTRIES, Entry("a|b", "embedding", [make_results(0.5, 9)], (42,))])
    page = render_report(report, title="T", data="D", figures=[("F", "figures/f.png")])
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    for entry in report["runs"]:
        name = entry["name"].replace("|", "\\|")
        assert sum(row.startswith(f"| {name} |") for row in rows) >= 3
        assert f"{entry['metrics']['f1_macro']:.3f} [" in page
    tables = page.split("## Pairwise tests")[1]
    assert sum(line.startswith("| ") for line in tables.splitlines()) == 1 + len(report["pairwise"])
    assert report["recommendation"]["rule"] in page
    assert "![F](figures/f.png)" in page


def test_multi_label_runs():
    draw = np.random.default_rng(8)
    gold = draw.integers(0, 2, size=(60, 3))

    def entry(name, noise):
        predicted = np.where(draw.uniform(size=gold.shape) < noise, 1 - gold, gold)
        base = make_results(0.5, 1).metrics
        metrics = {**base, "test": base["test"] | classification_metrics(gold, predicted * 0.8 + 0.1)}
        return Entry(name, "embedding", [Results(list(range(60)), gold, predicted, predicted * 1.0, metrics)], (42,))

    report = compare_runs([entry("a", 0.05), entry("b", 0.4)])
    assert report["pairwise"][0]["significant"]
    assert report["recommendation"]["run"] == "a"
