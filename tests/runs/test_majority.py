"""One majority baseline, of the training documents, beside the metrics of a run; and what calibration did, per run."""

import json
import re

import numpy as np
import pytest
from conftest import make_rows, write_jsonl
from test_train import run_embedding

from hf_causal_clf.baselines import fitting as baselines
from hf_causal_clf.comparison.ranking import Entry, compare_runs
from hf_causal_clf.comparison.report import render_report
from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.data.splits import load_data
from hf_causal_clf.runs.measuring import majority_metrics, measure
from hf_causal_clf.runs.results import Results, read_results, write_results
from hf_causal_clf.runs.summary import print_metrics
from hf_causal_clf.sharing.card import render_card


def write_rows(folder, validation=15, multi_label=False):
    """Splits whose training documents are mostly business and whose test documents are mostly sport."""
    folder.mkdir()
    business = [row for row in make_rows(60, 300, multi_label) if row["label"] in ("business", ["business"])]
    sport = [row for row in make_rows(45, 500, multi_label) if row["label"] in ("sport", ["sport"])]
    splits = {
        "train": [*make_rows(30, 0, multi_label), *business],
        "validation": make_rows(validation, 100, multi_label),
        "test": [*make_rows(15, 200, multi_label), *sport],
    }
    files = {f"{split}_file": write_jsonl(folder / f"{split}.jsonl", rows) for split, rows in splits.items()}
    return {**files, "multi_label": multi_label}


def results(data, logits):
    """What is written of logits, and read back for a report."""
    calibration, metrics = measure(data, logits)
    multi_label = data.label_space.multi_label
    probabilities = calibration.apply(logits["test"], multi_label=multi_label)
    predicted = calibration.decide(probabilities, multi_label=multi_label)
    metrics["training"] = {"trainable_parameters": 0, "peak_memory_bytes": 0}
    return Results(list(data.splits["test"]["id"]), data.gold("test"), predicted, probabilities, metrics)


def test_terminal_card_and_report_have_the_majority_of_training(checkpoint, tmp_path, capsys):
    files = write_rows(tmp_path / "data")
    data, metrics, _ = run_embedding(checkpoint, tmp_path / "run", files, num_train_epochs=1)
    gold = np.array(data.splits["test"]["label"])
    business = float((gold == "business").mean())
    assert business < (gold == "sport").mean()  # the most frequent label of test is another one
    assert metrics["majority"]["accuracy"] == business
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["majority"] == metrics["majority"]
    (line,) = [line.split() for line in capsys.readouterr().out.splitlines() if line.split()[:1] == ["majority"]]
    assert line[3] == f"{business:.4f}"
    card = render_card(tmp_path / "run").text
    assert re.search(rf"\| Accuracy \| [^|]+ \| [^|]+ \| {business:.3f} \|", card)
    entry = Entry("majority class", "majority", [results(data, baselines.majority(data).logits)])
    run = Entry("run", "embedding", [read_results(tmp_path / "run", data.label_space)], (42,))
    row = next(row for row in compare_runs([entry, run])["runs"] if row["name"] == "majority class")
    assert row["metrics"] == metrics["majority"]


@pytest.mark.parametrize("validation", [15, 60])
def test_multi_label_majority_is_the_frequencies_of_training(tmp_path, validation, caplog):
    data = load_data(DataArguments(**write_rows(tmp_path / "data", validation, multi_label=True)))
    shares = data.gold("train").mean(axis=0)
    found = majority_metrics(data)
    assert not caplog.records  # what cannot be fitted is said of the run, once
    assert found == measure(data, baselines.majority(data).logits)[1]["test"]
    if validation == 15:
        assert caplog.records
        clipped = np.where(data.gold("test") == 1, shares, 1 - shares)
        assert found["nll"] == pytest.approx(-np.log(clipped).mean(), abs=1e-5)


def fixed_metrics(**test):
    """Metrics of a run that answers .6 of the documents right where the majority baseline is at .5."""
    names = ("f1_macro", "f1_micro", "accuracy", "nll", "brier", "ece")
    part = {**dict.fromkeys(names, 0.6), **test}
    part |= {f"uncalibrated_{name}": value for name, value in part.items()}
    calibration = {"documents": 80, "temperature": 0.7, "thresholds": None}
    majority = dict.fromkeys(names, 0.5)
    return {"validation": part, "test": part, "calibration": calibration, "majority": majority, "training": {}}


def printed(metrics, multi_label=False):
    lines = []
    print_metrics(metrics, multi_label=multi_label, write=lines.append)
    return "\n".join(lines)


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_run_that_is_not_above_the_majority_baseline_is_told(multi_label):
    name, word = ("f1_micro", "micro F1") if multi_label else ("accuracy", "accuracy")
    other = "accuracy" if multi_label else "f1_micro"
    for value in (0.048, 0.5):
        page = printed(fixed_metrics(**{name: value, other: 0.9}), multi_label)
        assert f"learned nothing that its {word} shows: on test it is {value:.3f}, not above the 0.500" in page
        assert "Try another learning_rate" in page
    assert "learned nothing" not in printed(fixed_metrics(**{name: 0.501, other: 0.1}), multi_label)


def test_the_terminal_says_what_was_fitted():
    metrics = fixed_metrics()
    page = printed(metrics)
    assert page.count("  before") == 2
    assert "(before: without what was fitted on validation: temperature 0.7)" in page
    metrics["calibration"] = {"documents": 60, "temperature": [0.5, 1.5], "thresholds": [0.3, 0.61]}
    assert "temperatures 0.5 to 1.5, thresholds 0.3 to 0.61)" in printed(metrics, multi_label=True)
    metrics["calibration"] = {"documents": 19, "temperature": None, "thresholds": None}
    page = printed(metrics)
    assert "  before" not in page
    assert "fitted on validation: nothing, as 19 validation documents are too few, 50 are needed)" in page
    metrics["calibration"] = {"documents": 90, "temperature": 1.0, "thresholds": None}
    page = printed(metrics)
    assert "  before" not in page
    assert "as the model gives them; fitted on validation: temperature 1)" in page


def drawn(data, scale=1.0):
    """Logits that are right more often than not, and not calibrated."""
    draw = np.random.default_rng(int(scale * 10))
    logits = {}
    for split in ("validation", "test"):
        gold = data.gold(split)
        hits = np.eye(len(data.label_space))[gold] if gold.ndim == 1 else gold
        logits[split] = (scale * (2 * hits + draw.normal(size=hits.shape))).astype(np.float32)
    return logits


def page_of(*entries):
    return render_report(compare_runs(entries), title="T", data="D")


def test_a_report_without_any_calibration_has_no_table_of_it(tmp_path):
    data = load_data(DataArguments(**write_rows(tmp_path / "data", validation=19)))
    page = page_of(
        Entry("run", "embedding", [results(data, drawn(data))], (42,)),
        Entry("majority class", "majority", [results(data, baselines.majority(data).logits)]),
    )
    assert "after the temperature" not in page
    assert "All numbers are of the test split, with the probabilities as the models give them." in page
    section = page.split("## Calibration, before and after")[1].split("##")[0]
    assert "|" not in section
    assert "Unchanged: run; majority class (fitted: nothing, as 19 validation documents are too few" in section


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_report_says_for_each_run_what_was_fitted(tmp_path, multi_label):
    data = load_data(DataArguments(**write_rows(tmp_path / "data", 60, multi_label)))
    few = load_data(DataArguments(**write_rows(tmp_path / "few", 19, multi_label)))
    run, plain = results(data, drawn(data, 4.0)), results(few, drawn(few))
    flat = {split: np.full_like(matrix, 1 / 3) for split, matrix in drawn(data).items()}
    page = page_of(
        Entry("sure", "embedding", [run], (42,)),
        Entry("plain", "embedding", [plain], (42,)),
        Entry("flat", "tfidf", [results(data, flat)]),
    )
    assert "after what was fitted on the validation split, where anything was (see below)" in page
    section = page.split("## Calibration, before and after")[1].split("## Cost")[0]
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in section.splitlines() if line.startswith("| ")}
    part = run.metrics["calibration"]
    if multi_label:
        assert f"temperatures {min(part['temperature']):.3g} to {max(part['temperature']):.3g}" in rows["sure"]
        assert f"thresholds {min(part['thresholds']):.3g} to {max(part['thresholds']):.3g}" in rows["sure"]
    else:
        assert f"| temperature {part['temperature']:.3g} |" in rows["sure"]
        assert "Unchanged: flat (fitted: temperature 1)." in section
        assert "flat" not in rows
    assert "plain" not in rows
    assert "Unchanged: plain (fitted: nothing, as 19 validation documents are too few, 50 are needed)." in section


def test_a_run_of_before_can_be_reused_in_a_report(tmp_path):
    data = load_data(DataArguments(**write_rows(tmp_path / "data", 60)))
    raw = drawn(data)
    calibration, metrics = measure(data, raw)
    del metrics["calibration"]
    metrics["training"] = {"trainable_parameters": 0, "peak_memory_bytes": 0}
    write_results(tmp_path / "old", data, raw, calibration, metrics)
    page = page_of(Entry("old", "embedding", [read_results(tmp_path / "old", data.label_space)]))
    assert "| old | not recorded |" in page
