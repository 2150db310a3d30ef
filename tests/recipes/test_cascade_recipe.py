"""`cascade.py` as a user runs it, and `predict.py` with what it leaves."""

import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import hub_client
import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import make_rows, run_as_main, write_jsonl
from hub_server import HubServer
from test_classifier import save_folder

from hf_causal_clf import LabelSpace, TextClassifier
from hf_causal_clf.cascading import find_stages
from hf_causal_clf.comparison import registry
from hf_causal_clf.comparison.arguments import ComparisonArguments
from hf_causal_clf.comparison.ranking import compare_runs
from hf_causal_clf.comparison.report import render_report
from hf_causal_clf.comparison.running import write_baseline
from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.data.splits import load_data
from hf_causal_clf.evaluation.cascade import deferred_rows, margins
from hf_causal_clf.runs.files import read_json
from hf_causal_clf.runs.results import read_out_of_fold, read_results
from hf_causal_clf.runs.run import Run
from hf_causal_clf.sharing.hub import push_run
from hf_causal_clf.training.arguments import PromptArguments

ROOT = Path(__file__).parents[2]
SIZES = {"train": (72, 0), "validation": (60, 100), "test": (20, 200)}


@pytest.fixture(scope="module")
def runs(checkpoint, tmp_path_factory):
    """A folder with the files of single-label documents, a run with random adapters and one of TF-IDF."""
    folder = tmp_path_factory.mktemp("runs")
    for split, size in SIZES.items():
        write_jsonl(folder / f"{split}.jsonl", make_rows(*size))
    data = load_data(DataArguments(**{f"{split}_file": str(folder / f"{split}.jsonl") for split in SIZES}))
    save_folder(folder / "embed", checkpoint, "embedding", data.label_space)
    for name, documents in (
        ("tfidf", data),
        ("folded", load_data(DataArguments(train_file=str(folder / "train.jsonl")), 4)),
    ):
        job = registry.Job(documents, ComparisonArguments(), PromptArguments(), None, folder / name)
        write_baseline(registry.BASELINES["tfidf"], job)
    return folder


def start(monkeypatch, runs, output, *more, stages=("embed", "tfidf"), splits=("validation", "test")):
    words = ["--stages", *(str(runs / stage) for stage in stages), "--output_dir", str(output)]
    words += [word for split in splits for word in (f"--{split}_file", str(runs / f"{split}.jsonl"))]
    monkeypatch.setattr(sys, "argv", ["cascade.py", *words, *map(str, more)])
    run_as_main(ROOT / "recipes" / "cascade.py")


def test_a_cascade_is_made_told_of_and_predicted_with(runs, tmp_path, monkeypatch, capsys):
    start(monkeypatch, runs, tmp_path / "cascade", "--max_deferred", 0.5)
    printed = " ".join(capsys.readouterr().out.split())
    found = read_json(tmp_path / "cascade" / "metrics.json")["cascade"]
    assert found["max_deferred"] == 0.5
    assert 0 < found["fitted"]["deferred"] <= 0.5
    assert found["fitted"]["first_f1"] < found["fitted"]["f1"] < found["fitted"]["second_f1"] == 1.0
    assert found["test"]["first_f1"] < found["test"]["f1"]
    assert f"from a margin of {found['fitted']['threshold']:.3f} on" in printed
    assert "majority" not in printed
    assert "Whether it was trained or calibrated on test documents is not known" in (
        tmp_path / "cascade" / "README.md"
    ).read_text().replace("\n", " ")

    documents = write_jsonl(tmp_path / "more.jsonl", [*make_rows(20, 200), {"text": " ", "label": None}])
    words = ["--model_name_or_path", tmp_path / "cascade", "--test_file", documents, "--output_dir", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, words), "--calibrated", "false"])
    with pytest.raises(ValueError, match="leave calibrated out"):
        run_as_main(ROOT / "recipes" / "predict.py")
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, words), "--shard_size", "7"])
    run_as_main(ROOT / "recipes" / "predict.py")
    rows = pd.read_parquet(tmp_path / "out")
    results = read_results(tmp_path / "cascade", Run.read(tmp_path / "cascade").label_space)
    assert rows["stage"].isna().tolist() == [False] * 20 + [True]
    assert (rows["stage"][:20] == 2).mean() == pytest.approx(found["test"]["deferred"])
    classifier = TextClassifier.from_pretrained(tmp_path / "cascade")
    names = classifier.labels
    shown = np.array([[row[name] for name in names] for row in rows["probabilities"][:20]])
    np.testing.assert_allclose(shown, results.probabilities, atol=1e-5)
    assert rows["predicted"][:20].tolist() == [names[label] for label in results.predicted]


def test_with_the_training_documents_it_knows_what_overlaps_and_the_majority(runs, tmp_path, monkeypatch, capsys):
    start(monkeypatch, runs, tmp_path / "cascade", "--max_f1_loss", 0.0, splits=SIZES)
    assert "majority" in capsys.readouterr().out
    saved = Run.read(tmp_path / "cascade")
    assert saved.training["overlap"] == {"train/validation": 0, "train/test": 0, "validation/test": 0}
    assert sum(saved.training["label_counts"]["train"]) == 72
    found = read_json(tmp_path / "cascade" / "metrics.json")["cascade"]["fitted"]
    assert found["f1"] == found["second_f1"] == 1.0


def test_the_threshold_is_fitted_out_of_fold(runs, tmp_path, monkeypatch):
    """The finished run was trained on these very documents: in it, margins are larger than out of fold."""
    start(
        monkeypatch,
        runs,
        tmp_path / "cascade",
        *("--folds", 4, "--max_deferred", 0.3),
        stages=("folded", shutil.copytree(runs / "folded", tmp_path / "other")),
        splits=("train",),
    )
    saved = Run.read(tmp_path / "cascade")
    found = read_json(tmp_path / "cascade" / "metrics.json")["cascade"]["fitted"]
    held_out = read_out_of_fold(runs / "folded", saved.label_space)
    expected = deferred_rows(margins(held_out.probabilities, multi_label=False), saved.cascade_threshold).mean()
    assert found["deferred"] == pytest.approx(expected)
    assert found["first_f1"] == pytest.approx(found["second_f1"])


def test_the_configuration_names_what_there_is(tmp_path, monkeypatch):
    path = ROOT / "recipes" / "configs" / "cascade" / "bbc.yaml"
    assert path.read_text().splitlines()[0] == "# python recipes/cascade.py --config recipes/configs/cascade/bbc.yaml"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["cascade.py", "--config", str(path)])
    with pytest.raises(ValueError, match="There is no folder 'runs/compare/bbc_news/tf-idf-logistic-regression'"):
        run_as_main(ROOT / "recipes" / "cascade.py")
    for stage in yaml.safe_load(path.read_text())["stages"]:
        (tmp_path / stage).mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"has no classification\.json"):
        run_as_main(ROOT / "recipes" / "cascade.py")


def test_a_comparison_takes_it_like_any_run(runs, tmp_path, monkeypatch):
    start(monkeypatch, runs, tmp_path / "cascade", "--max_deferred", 0.5, splits=SIZES)
    data = load_data(DataArguments(**{f"{split}_file": str(runs / f"{split}.jsonl") for split in SIZES}))
    compare = runpy.run_path(str(ROOT / "recipes" / "compare.py"))
    entries = [
        compare["reuse"](name, folder, data)
        for name, folder in (("cascade", tmp_path / "cascade"), ("tfidf", runs / "tfidf"))
    ]
    assert [entry.approach for entry in entries] == ["cascade", "tfidf"]
    report = compare_runs(entries)
    page = render_report({**report, "combination": None}, title="Comparison", data="")
    assert "| cascade | cascade |" in page
    assert "calibrated by the stage that answers" in page
    assert "Pareto front" in page


def test_a_stage_may_be_on_the_hub(runs, tmp_path):
    texts = ["the football match", "shares fell"]
    with HubServer() as server, hub_client.using(server, tmp_path / "home", server.token):
        push_run(runs / "tfidf", "alice/cheap")
        first, second = find_stages(["alice/cheap", str(runs / "embed")])
    assert second == runs / "embed"
    expected = TextClassifier.from_pretrained(runs / "tfidf").predict_proba(texts)
    np.testing.assert_array_equal(TextClassifier.from_pretrained(first).predict_proba(texts), expected)


def test_a_finished_run_is_replaced_only_if_that_is_asked_for(runs, tmp_path, monkeypatch):
    start(monkeypatch, runs, tmp_path / "cascade")
    before = (tmp_path / "cascade" / "metrics.json").read_bytes()
    with pytest.raises(ValueError, match="has a finished run"):
        start(monkeypatch, runs, tmp_path / "cascade", "--max_deferred", 0)
    assert (tmp_path / "cascade" / "metrics.json").read_bytes() == before
    start(monkeypatch, runs, tmp_path / "cascade", "--max_deferred", 0, "--overwrite_output_dir", "true")
    assert Run.read(tmp_path / "cascade").cascade_threshold == 0.0


def other_labels(runs, folder):
    run = Run.read(runs / "embed")
    shutil.copytree(runs / "embed", folder)
    replace(run, label_space=LabelSpace(["a", "b", "c"], multi_label=False)).write(folder)
    return folder


def several_labels(runs, folder):
    run = Run.read(runs / "embed")
    shutil.copytree(runs / "embed", folder)
    replace(run, label_space=LabelSpace(run.label_space.names, multi_label=True)).write(folder)
    return folder


@pytest.mark.parametrize(
    ("options", "more", "said"),
    [
        ({"stages": ("embed",)}, (), "stages takes two runs, the cheap one first"),
        ({"stages": ("embed", "tfidf", "folded")}, (), "stages takes two runs"),
        ({"stages": ("embed", "embed/../embed")}, (), "has the same run twice"),
        ({"stages": ("embed", "nowhere")}, (), "There is no folder .*nowhere"),
        ({"stages": ("embed", other_labels)}, (), "The stages have different labels"),
        ({"stages": (several_labels, "tfidf")}, (), "The first stage is multi-label, the second single-label"),
        ({"splits": ("validation",)}, (), "Give validation_file and test_file, or train_file"),
        ({}, ("--max_validation_samples", 49), "49 validation documents are too few .* 50 are needed"),
        ({}, ("--max_f1_loss", 0.1, "--max_deferred", 0.1), "Give either max_f1_loss or max_deferred"),
        ({}, ("--max_f1_loss", 5), "max_f1_loss must be from 0 to 1, got 5"),
        ({}, ("--target_error", 0), "target_error must be a share between 0 and 1"),
        ({}, ("--target_error", 0.01), "60 documents are too few to be sure of target_error 0.01"),
        ({}, ("--multi_label", "true"), "these are single-label: leave it out"),
        ({}, ("--folds", 4), "with folds, its documents are needed"),
        ({"splits": ("train",)}, ("--folds", 4), "was trained without folds: leave folds out"),
        ({"output": "embed"}, (), "is the folder of the model"),
        ({"splits": ("other", "test")}, (), r"labels that the runs do not know: \['weather'\]"),
    ],
)
def test_bad_input_is_named_before_a_model_is_loaded(options, more, said, runs, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_causal_clf.cascading.TextClassifier", None)
    stages = options.get("stages", ("embed", "tfidf"))
    stages = [each if isinstance(each, str) else each(runs, tmp_path / "changed") for each in stages]
    splits = options.get("splits", ("validation", "test"))
    if "other" in splits:
        rows = [*make_rows(60, 100), {"text": "rain", "label": "weather"}]
        more, splits = (*more, "--validation_file", write_jsonl(tmp_path / "other.jsonl", rows)), ("test",)
    output = runs / options["output"] if "output" in options else tmp_path / "out"
    with pytest.raises((ValueError, OSError), match=said):
        start(monkeypatch, runs, output, *more, stages=stages, splits=splits)
    assert not (tmp_path / "out" / "classification.json").exists()


def test_documents_that_a_stage_may_have_seen_are_warned_of(runs, tmp_path, monkeypatch, caplog):
    seen = Path(shutil.copytree(runs / "tfidf", tmp_path / "seen"))
    manifest = read_json(seen / "manifest.json")
    manifest["settings"] = {"arguments": {}, "model": "", "data": "others", "test": ""}
    pd.Series(manifest).to_json(seen / "manifest.json")
    start(monkeypatch, runs, tmp_path / "cascade", stages=("embed", seen), splits=SIZES)
    assert "seen was trained on other documents" in caplog.text
