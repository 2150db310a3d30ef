"""A comparison that ends with several runs in one: kept where that is better, and used like any other run."""

import importlib.util
import json
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import run_as_main, write_jsonl

from hf_causal_clf import TextClassifier
from hf_causal_clf.comparison import running
from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.data.splits import load_data
from hf_causal_clf.evaluation.calibration import to_probabilities
from hf_causal_clf.runs.files import read_json
from hf_causal_clf.runs.results import read_results
from hf_causal_clf.runs.run import Run

ROOT = Path(__file__).parents[2]
SIGNS = {"sport": ("football", "match"), "business": ("shares", "bank"), "tech": ("computers", "phones")}
TRUE = (0.9, 0.2)  # how often a sign of each kind is not a random one
TRAINING = {
    "lora_r": 4,
    "lora_dropout": 0.0,
    "learning_rate": 1e-2,
    "max_steps": 40,
    "per_device_train_batch_size": 8,
    "eval_strategy": "no",
    "save_strategy": "no",
    "load_best_model_at_end": False,
    "optim": "adamw_torch",
    "report_to": "none",
    "dataloader_pin_memory": False,
}
RUNS = {
    "beginning": {"approach": "embedding", "max_length": 4, **TRAINING},
    "the end": {"approach": "embedding", "max_length": 4, "truncation": "head", **TRAINING},
}


def noisy_rows(count, seed):
    """Documents whose first and last word each say something of the label: a half of them much, the others little."""
    draw, rows, names = random.Random(seed), [], list(SIGNS)
    for index in range(count):
        label = names[index % 3]
        kinds = draw.choices((0, 1), k=2)
        first, last = (SIGNS[label if draw.random() < TRUE[kind] else draw.choice(names)][kind] for kind in kinds)
        rows.append({"text": f"{first} the cat sat on a mat and saw the {index} {last}", "label": label})
    return rows


@pytest.fixture(scope="module")
def settings(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("noisy")
    sizes = {"train": 120, "validation": 150, "test": 90}
    return {
        **{
            f"{split}_file": write_jsonl(folder / f"{split}.jsonl", noisy_rows(size, size))
            for split, size in sizes.items()
        },
        "model_name_or_path": checkpoint,
        "dtype": "float32",
        "baselines": ["majority"],
        "runs": RUNS,
    }


class Comparison:
    """Runs compare.py in this process and notes what it starts."""

    def __init__(self):
        spec = importlib.util.spec_from_file_location("compare_recipe", ROOT / "recipes" / "compare.py")
        self.recipe = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.recipe)
        self.started = []

    def launch(self, command):
        self.started.append("run")
        options = command[next(index for index, part in enumerate(command) if part.endswith(".py")) :]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", options)
            run_as_main(options[0])
        return 0

    def in_own_process(self, function, *arguments):
        self.started.append(function.__name__)
        function(*arguments)
        return 0

    def run(self, output, **config):
        self.started.clear()
        path = output.with_suffix(".json")
        path.write_text(json.dumps({**config, "output_dir": str(output)}))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["compare.py", "--config", str(path)])
            patch.setattr(self.recipe, "launch", self.launch)
            patch.setattr(self.recipe, "in_own_process", self.in_own_process)
            patch.setattr(running, "in_own_process", self.in_own_process)
            self.recipe.main()
        return list(self.started)


@pytest.fixture(scope="module")
def finished(settings, tmp_path_factory):
    """The folder of a finished comparison whose combination is kept."""
    output = tmp_path_factory.mktemp("compare") / "report"
    assert Comparison().run(output, **settings) == ["write_baseline", "run", "run", "combine_runs"]
    return output


@pytest.fixture
def copied(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "copied"))


def test_it_is_kept_where_it_is_better(finished):
    report = read_json(finished / "report.json")
    decision, rows = report["combination"], {row["name"]: row for row in report["runs"]}
    assert decision["kept"]
    assert decision["nll_change"]["high"] < 0
    assert decision["candidates"] == ["beginning", "the end"]
    assert set(decision["weights"]) == {"beginning", "the end"}
    assert report["runs"][0]["name"] == "combination"
    assert set(report["candidates"]) == {"beginning", "the end", "combination"}
    assert rows["combination"]["metrics"]["nll"] < min(rows[name]["metrics"]["nll"] for name in RUNS)
    trained = [rows[name]["training"]["trainable_parameters"] for name in RUNS]
    assert rows["combination"]["training"]["trainable_parameters"] == sum(trained)
    page = (finished / "report.md").read_text()
    assert "The combination adds up the log-probabilities of" in page
    assert f"TextClassifier.from_pretrained('{finished / 'combination'}')" in page


def test_it_is_loaded_as_one_classifier(finished, settings):
    data = load_data(DataArguments(**{name: value for name, value in settings.items() if name.endswith("_file")}))
    texts, folder = data.texts("test"), finished / "combination"
    classifier = TextClassifier.from_pretrained(folder, batch_size=7)
    probabilities = classifier.predict_proba(texts)
    results = read_results(folder, data.label_space)
    np.testing.assert_allclose(probabilities, results.probabilities, atol=1e-5)
    assert classifier.predict(texts) == [data.label_space.names[label] for label in results.predicted]
    # The same by hand
    run, total = Run.read(folder), 0
    for name, weight in run.members.items():
        member = TextClassifier.from_pretrained(finished / name / "seed-42")
        total = total + weight * np.log(member.predict_proba(texts).astype(np.float64))
    np.testing.assert_allclose(
        to_probabilities(total / run.calibration.temperature, multi_label=False), probabilities, atol=1e-5
    )
    assert "combination of runs, single-label" in repr(classifier)
    assert classifier.predict_proba(texts[0]).shape == (3,)


def contents(folder):
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def test_started_again_it_is_neither_fitted_nor_measured(copied, settings):
    assert Comparison().run(copied, **settings) == []
    before, report = contents(copied / "combination"), read_json(copied / "report.json")
    assert Comparison().run(copied, **settings) == []
    assert contents(copied / "combination") == before
    assert read_json(copied / "report.json") == report


def test_what_was_cut_off_is_made_up_for(copied, settings):
    metrics = read_json(copied / "combination" / "metrics.json")
    (copied / "combination.json").unlink()  # it is written last
    assert Comparison().run(copied, **settings) == ["combine_runs"]
    assert read_json(copied / "combination" / "metrics.json")["test"] == pytest.approx(metrics["test"])
    shutil.rmtree(copied / "combination")
    assert Comparison().run(copied, **settings) == ["combine_runs"]
    assert TextClassifier.from_pretrained(copied / "combination").labels == sorted(SIGNS)


def test_with_other_members_it_is_another(copied, settings, capsys):
    changed = {**RUNS, "the end": {**RUNS["the end"], "max_steps": 30}}
    before = read_json(copied / "combination.json")
    assert Comparison().run(copied, **{**settings, "runs": changed}) == ["run", "combine_runs"]
    after = read_json(copied / "combination.json")
    assert after["mark"] != before["mark"]
    assert after["weights"] != before["weights"]
    # TF-IDF reads both words: with it, the others are of no use
    options = {"runs": changed, "baselines": ["majority", "tfidf"]}
    assert Comparison().run(copied, **{**settings, **options}) == ["write_baseline", "combine_runs"]
    report = read_json(copied / "report.json")
    assert report["combination"]["candidates"] == ["TF-IDF + logistic regression", "beginning", "the end"]
    rows = {row["name"] for row in report["runs"]}
    assert ("combination" in rows) == report["combination"]["kept"]
    told = "The combination adds up" if report["combination"]["kept"] else "No combination of 3 runs is kept"
    assert told in " ".join(capsys.readouterr().out.split())
    assert told in (copied / "report.md").read_text()


def reused(folder, **names):
    return {name: {"output_dir": str(folder / of / "seed-42")} for name, of in names.items()}


def test_a_run_and_itself_are_no_better_than_one(finished, settings, tmp_path, capsys):
    runs = reused(finished, one="beginning", two="beginning")
    output = tmp_path / "report"
    options = {**settings, "runs": runs, "baselines": "none"}
    assert Comparison().run(output, **options) == ["combine_runs"]
    assert not (output / "combination").exists()
    report = read_json(output / "report.json")
    assert report["combination"]["kept"] is False
    assert {row["name"] for row in report["runs"]} == {"one", "two"}
    said = " ".join(capsys.readouterr().out.split())
    assert "No combination of 2 runs is kept: on the 150 validation documents" in said
    assert "No combination of 2 runs is kept" in (output / "report.md").read_text()
    assert Comparison().run(output, **options) == []  # that is remembered, too


def test_a_run_that_may_have_seen_the_validation_documents_is_no_member(finished, settings, tmp_path):
    runs = reused(finished, one="beginning", two="the-end")
    other = write_jsonl(tmp_path / "validation.jsonl", noisy_rows(150, 7))
    options = {**settings, "runs": runs, "baselines": "none", "validation_file": other}
    assert Comparison().run(tmp_path / "report", **options) == []
    assert read_json(tmp_path / "report" / "report.json")["combination"] is None


def test_it_takes_enough_validation_documents(finished, settings, tmp_path):
    few = write_jsonl(tmp_path / "validation.jsonl", noisy_rows(150, 150)[:49])
    runs = {name: {**run, "max_steps": 2} for name, run in RUNS.items()}
    options = {**settings, "validation_file": few, "runs": runs}
    assert "combine_runs" not in Comparison().run(tmp_path / "report", **options)
    page = (tmp_path / "report" / "report.md").read_text()
    assert "No combination was tried: fitting and judging its weights takes 50 validation documents." in page


def test_a_combination_that_fails_is_named(copied, settings, monkeypatch):
    (copied / "combination.json").unlink()
    comparison = Comparison()
    monkeypatch.setattr(comparison, "in_own_process", lambda *arguments: 1)
    with pytest.raises(SystemExit, match="The combination failed; its error is above"):
        comparison.run(copied, **settings)


def test_no_other_run_may_take_its_place(copied, settings):
    with pytest.raises(ValueError, match="cannot be called 'combination'"):
        Comparison().run(copied, **{**settings, "runs": {"combination": RUNS["beginning"]}})


def test_learning_curves_are_of_what_is_there_at_each_size(settings, tmp_path):
    options = {**settings, "train_sizes": [12, 120]}
    Comparison().run(tmp_path / "report", **options)
    kept = [
        read_json(tmp_path / "report" / f"size-{size}" / "report.json")["combination"]["kept"] for size in (12, 120)
    ]
    names = read_json(tmp_path / "report" / "learning_curves.json")["f1_macro"].keys()
    assert ("combination" in names) == all(kept)
    assert {"beginning", "the end"} <= names
