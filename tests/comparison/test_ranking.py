import json
from itertools import permutations

import numpy as np
import pytest

from hf_causal_clf.comparison.ranking import Entry, compare_runs, documents_needed
from hf_causal_clf.comparison.report import render_report, render_summary
from hf_causal_clf.evaluation.metrics import classification_metrics, decision_metrics
from hf_causal_clf.evaluation.significance import (
    Interval,
    f1_interval,
    holm,
    is_correct,
    mcnemar,
    permutation_tests,
)
from hf_causal_clf.runs.results import Results

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
    for pair in report["pairwise"]:
        a, b = results[pair["a"]], results[pair["b"]]
        assert pair["delta_f1_macro"] >= 0  # the better one comes first
        assert pair["mcnemar_p"] == mcnemar(is_correct(GOLD, a.predicted), is_correct(GOLD, b.predicted))
        assert pair["p_value"] == permutation_tests(GOLD, [a.predicted, b.predicted])[0, 1]
        for average, prefix in (("macro", ""), ("micro", "micro_")):
            expected = f1_interval(GOLD, a.predicted, b.predicted, average=average)
            found = pair[f"delta_f1_{average}"], pair[f"{prefix}ci_low"], pair[f"{prefix}ci_high"]
            assert found == (expected.value, expected.low, expected.high)
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


def make_entry(name, predicted, gold, approach="embedding", speed=10.0):
    """A run with these decisions."""
    base = make_results(0.5, 1).metrics
    metrics = {
        "test": base["test"] | decision_metrics(gold, predicted),
        "training": base["training"] | {"predict_samples_per_second": speed},
    }
    results = Results(list(range(len(gold))), gold, predicted, np.zeros((len(gold), 2)), metrics)
    return Entry(name, approach, [results])


def find_pair(report, *names):
    return next(pair for pair in report["pairwise"] if {pair["a"], pair["b"]} == set(names))


def imbalanced():
    """A finds the 6 documents of a rare label, at the price of 20 wrong answers of the frequent one; B always says that."""
    gold = np.array([0] * 194 + [1] * 6)
    weighted, frequent = gold.copy(), np.zeros(200, dtype=int)
    weighted[:20] = 1
    return gold, weighted, frequent


def test_a_p_value_that_points_to_the_other_run_makes_no_difference_significant():
    gold, weighted, frequent = imbalanced()
    entries = [make_entry("A", weighted, gold), make_entry("B", frequent, gold)]
    report = compare_runs(entries)
    (pair,) = report["pairwise"]
    assert (pair["a"], pair["mcnemar_p"] < 0.05, pair["ci_low"] > 0) == ("A", True, True)
    assert np.mean(weighted == gold) < np.mean(frequent == gold)  # McNemar's p-value speaks for B
    assert pair["significant"] == (pair["p_value"] < 0.05) == False  # noqa: E712
    assert "significantly better" not in report["recommendation"]["text"]
    by_micro = compare_runs(entries, average="micro")
    assert [row["name"] for row in by_micro["runs"]] == ["B", "A"]
    assert by_micro["pairwise"][0]["significant"]
    assert "B is significantly better than every other run in micro F1." in by_micro["recommendation"]["text"]
    assert "micro F1" in by_micro["recommendation"]["rule"]


def test_a_multi_label_difference_that_no_wholly_right_document_shows():
    draw = np.random.default_rng(30)
    gold = (draw.uniform(size=(150, 12)) < 0.4).astype(int)
    runs = [np.where(draw.uniform(size=gold.shape) < noise, 1 - gold, gold) for noise in (0.25, 0.35)]
    assert not any(is_correct(gold, run).sum() > 12 for run in runs)
    report = compare_runs([make_entry(name, run, gold) for name, run in zip("ab", runs)])
    (pair,) = report["pairwise"]
    assert pair["mcnemar_p"] > 0.05
    assert pair["significant"]
    assert report["recommendation"]["text"].startswith("a is significantly better than every other run")


def close_runs():
    """Two runs whose difference is significant on its own, but not after correcting over many comparisons."""
    draw = np.random.default_rng(31)
    gold = draw.integers(0, 4, size=400)
    better = np.where(draw.uniform(size=400) < 0.9, gold, (gold + 1) % 4)
    worse = np.where(draw.uniform(size=400) < 0.025, (gold + 1) % 4, better)
    return gold, [make_entry("better", better, gold, speed=1), make_entry("worse", worse, gold, "instruction", 9)]


@pytest.mark.parametrize("approach", ["tfidf", "embedding"])
def test_hopeless_fillers_change_nothing_that_is_said_of_the_runs(approach):
    gold, runs = close_runs()
    draw = np.random.default_rng(32)
    fillers = [make_entry(f"filler {i}", draw.integers(0, 4, size=400), gold, approach, 1e6) for i in range(7)]
    alone, among = compare_runs(runs), compare_runs([*runs, *fillers])
    for name in ("p_value", "p_corrected", "significant"):
        assert find_pair(alone, "better", "worse")[name] == find_pair(among, "better", "worse")[name]
    assert find_pair(alone, "better", "worse")["significant"]
    pairs = among["pairwise"]
    over_all = holm([pair["p_value"] for pair in pairs])[pairs.index(find_pair(among, "better", "worse"))]
    assert over_all > 0.05  # what correcting over every pair came to
    said, said_among = (report["recommendation"] for report in (alone, among))
    for name in ("run", "within_margin", "undecided", "rule"):
        assert said[name] == said_among[name]
    assert said["text"].split(". ")[0] == said_among["text"].split(". ")[0]
    assert said["text"].split("Of the two approaches")[1] == said_among["text"].split("Of the two approaches")[1]


def test_baselines_are_corrected_among_themselves_and_runs_among_themselves():
    good = [make_entry(f"run {i}", make_results(0.9 - i / 50, i).predicted, GOLD) for i in range(3)]
    others = [make_entry(f"base {i}", make_results(0.85 - i / 30, i + 9).predicted, GOLD, "tfidf") for i in range(3)]
    report = compare_runs([*good, *others])
    best, *rest = report["candidates"]
    assert {best, *rest} == {"run 0", "run 1", "run 2"}
    for names in (rest, ["base 0", "base 1", "base 2"]):
        pairs = [find_pair(report, best, name) for name in names]
        assert [pair["p_corrected"] for pair in pairs] == holm([pair["p_value"] for pair in pairs])
    assert sum("p_corrected" in pair for pair in report["pairwise"]) == 5


def test_named_runs_are_tested_against_one_another():
    report = compare_runs(
        [*ENTRIES, Entry("more", "embedding", [make_results(0.7, 9)], (42,))], named=["bad", "more", "good"]
    )
    assert report["candidates"] == ["good", "more", "bad"]
    pairs = [find_pair(report, *names) for names in (("good", "more"), ("good", "bad"), ("more", "bad"))]
    assert [pair["p_corrected"] for pair in pairs] == holm([pair["p_value"] for pair in pairs])
    outside = find_pair(report, "as good", "good")
    assert outside["p_corrected"] == outside["p_value"]
    assert "p_corrected" not in find_pair(report, "as good", "more")
    assert "the named runs against one another" in report["recommendation"]["rule"]
    assert "good is significantly better than every other" in report["recommendation"]["text"]
    assert "Of the others, against good: no significant difference to it: as good" in report["recommendation"]["text"]


def test_no_significant_difference_is_no_reason_to_take_the_faster_run():
    report = compare_runs(ENTRIES)
    recommendation = report["recommendation"]
    best, faster = (row["name"] for row in report["runs"][:2])
    assert (best, faster) == ("good", "as good")
    assert not find_pair(report, "good", "as good")["significant"]
    assert recommendation["run"] == "good"
    (undecided,) = recommendation["undecided"]
    assert undecided["run"] == "as good"
    assert undecided["documents"] > len(GOLD)
    assert f"{undecided['documents']:,} test documents would tell" in recommendation["text"]
    assert "cannot tell" in recommendation["text"]
    assert (
        "good has the highest macro F1 of the runs, with no significant difference to: as good."
        in recommendation["text"]
    )
    assert all(word in recommendation["rule"] for word in ("0.05", "0.01", "Holm", "permutation"))


def test_a_faster_run_is_recommended_where_its_loss_stays_within_the_margin():
    gold = np.tile(np.arange(4), 500)
    best, faster = gold.copy(), gold.copy()
    best[:60], faster[:62] = (gold[:60] + 1) % 4, (gold[:62] + 1) % 4
    entries = [
        make_entry("best", best, gold, speed=1),
        make_entry("faster", faster, gold, speed=2),
        slow_and_worse(gold),
    ]
    for margin, run in ((0.01, "faster"), (0.001, "best")):
        report = compare_runs(entries, margin=margin)
        pair = find_pair(report, "best", "faster")
        assert (pair["ci_high"] <= margin) == (run == "faster")
        assert report["recommendation"]["run"] == run
        assert report["recommendation"]["within_margin"] == ([] if run == "best" else ["faster"])
    assert [each["run"] for each in report["recommendation"]["undecided"]] == ["faster"]


def slow_and_worse(gold):
    return make_entry("slow and worse", (gold + (np.arange(len(gold)) % 9 == 0)) % 4, gold, speed=0.5)


def test_a_baseline_can_be_the_recommended_one():
    entries = [
        Entry("tuned", "embedding", [make_results(0.8, 5)]),
        Entry("simple", "tfidf", [make_results(0.95, 6, 1e4)]),
    ]
    recommendation = compare_runs(entries)["recommendation"]
    assert recommendation["run"] == "simple"
    assert "Of the baselines, against tuned: significantly better than it: simple (+" in recommendation["text"]
    assert "Recommended: simple, which has the highest macro F1 of all and predicts fastest." in recommendation["text"]
    only = compare_runs([ENTRIES[2], Entry("other", "majority", [make_results(0.2, 8)])])
    assert only["candidates"] == ["bad", "other"]
    assert only["recommendation"]["text"].startswith("bad is significantly better than every other run")


def test_the_two_approaches_are_corrected_over_the_pairs_of_both():
    runs = [
        Entry(f"{approach} {i}", approach, [make_results(0.9 - i / 20, 10 * i + len(approach))])
        for i in range(2)
        for approach in ("embedding", "instruction")
    ]
    report = compare_runs(runs)
    crossing = [pair for pair in report["pairwise"] if pair["a"][:5] != pair["b"][:5]]
    corrected = holm([pair["p_value"] for pair in crossing])[0]  # the best of each comes first
    assert len(crossing) == 4
    assert f"{crossing[0]['a']} against {crossing[0]['b']}: macro F1" in report["recommendation"]["text"]
    assert f"corrected p {corrected:.3g}: " in report["recommendation"]["text"]


def test_number_of_documents_that_would_tell():
    assert documents_needed(Interval(0.0, -0.02, 0.02), 0.01, 500) == 4100  # 500 × (1.43 × 2)²
    assert documents_needed(Interval(0.02, -0.01, 0.05), 0.01, 500) == 9200  # as far beyond the margin
    assert documents_needed(Interval(0.0099, -0.01, 0.03), 0.01, 500) is None
    assert documents_needed(Interval(0.01, -0.01, 0.03), 0.01, 500) is None
    assert documents_needed(Interval(0.01, 0.01, 0.03), 0.01, 500) is None


def test_that_many_documents_tell_in_four_cases_of_five():
    """A mean stands for the F1: its interval shrinks with the square root of the documents."""
    draw = np.random.default_rng(33)
    needed = documents_needed(Interval(0.004, 0.004 - 1.96 * 0.2 / 20, 0.004 + 1.96 * 0.2 / 20), 0.01, 400)
    means = draw.normal(0.004, 0.2 / np.sqrt(needed), size=4000)
    assert np.mean(means + 1.96 * 0.2 / np.sqrt(needed) <= 0.01) == pytest.approx(0.8, abs=0.03)


def test_the_metrics_of_an_earlier_version_are_counted_anew():
    gold = np.array([0, 1] * 50)
    run = np.where(np.arange(100) == 0, 2, gold)  # a label that no document has
    entry = make_entry("old", run, gold)
    entry.results[0].metrics["test"]["f1_macro"] = 0.66  # averaged over three labels
    report = compare_runs([entry, make_entry("new", 1 - gold, gold)])
    assert report["runs"][0]["metrics"]["f1_macro"] == decision_metrics(gold, run)["f1_macro"]
    assert report["pairwise"][0]["delta_f1_macro"] == report["runs"][0]["metrics"]["f1_macro"]


def test_recommendation_of_a_clear_winner():
    fast = Entry("fast", "embedding", [make_results(0.6, 5, speed=1e6)], (42,))
    slow = Entry("slow", "instruction", [make_results(0.97, 6, speed=1)], (42,))
    recommendation = compare_runs([fast, slow])["recommendation"]
    assert recommendation["run"] == "slow"
    assert recommendation["undecided"] == recommendation["within_margin"] == []
    assert "significantly better than every other run" in recommendation["text"]
    assert "slow against fast" in recommendation["text"]


def test_summary_for_the_terminal():
    report = compare_runs(ENTRIES)
    lines = render_summary(report).splitlines()
    table = lines[: lines.index("")]
    assert [line.split("  ")[0] for line in table] == ["run", "good", "as good", "bad"]
    starts = [table[0].index(heading) for heading in ("macro F1", "Δ to good", "corrected p", "documents/s")]
    assert all(line[start - 1] == " " and line[start] != " " for line in table[2:] for start in starts)
    assert "|" not in "".join(lines)
    assert " ".join(lines[len(table) + 1 :]) == report["recommendation"]["text"]
    pair = find_pair(report, "good", "bad")
    assert f"{-pair['delta_f1_macro']:+.3f} [{-pair['ci_high']:+.3f}, {-pair['ci_low']:+.3f}]" in table[3]
    above = compare_runs(
        [
            ENTRIES[2],
            Entry("simple", "tfidf", [make_results(0.95, 6)]),
            Entry("tuned", "embedding", [make_results(0.8, 5)]),
        ]
    )
    pair = find_pair(above, "simple", "tuned")
    simple = render_summary(above).splitlines()[1]
    assert f"{pair['delta_f1_macro']:+.3f} [{pair['ci_low']:+.3f}, {pair['ci_high']:+.3f}]" in simple


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
