"""compare.py with nothing but a file of documents: what is cheap comes first, and the rest has defaults."""

import csv
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import make_rows

from hf_causal_clf import TextClassifier
from hf_causal_clf.comparison import running
from hf_causal_clf.comparison.arguments import DEFAULT_MODEL
from hf_causal_clf.runs.files import read_json

ROOT = Path(__file__).parents[2]


@pytest.fixture
def compare(monkeypatch, tmp_path):
    """Starts compare.py with options in a folder that has tickets.csv; baselines run in this process."""
    spec = importlib.util.spec_from_file_location("compare_recipe", ROOT / "recipes" / "compare.py")
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    started = []
    monkeypatch.setattr(recipe, "launch", lambda command: started.append(command) or 1)
    monkeypatch.setattr(running, "in_own_process", lambda function, *arguments: function(*arguments))
    monkeypatch.chdir(tmp_path)
    with open("tickets.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ("text", "label"))
        writer.writeheader()
        writer.writerows(make_rows(60))

    def run(*options):
        monkeypatch.setattr(sys, "argv", ["compare.py", "--train_file", "tickets.csv", *options])
        recipe.main()

    run.started = started
    return run


def test_the_cheap_table_comes_before_the_model_is_looked_for(compare, capsys):
    with pytest.raises(
        ValueError, match=r"(?s)cannot be read.*choose a language model with --model_name_or_path"
    ) as told:
        compare()
    assert DEFAULT_MODEL in str(told.value)
    printed = capsys.readouterr().out
    assert "this comparison goes to runs/tickets/compare." in printed
    heading, best, worst = printed.strip().splitlines()[-3:]
    assert heading.split() == ["macro", "F1", "[95", "%", "interval]", "NLL", "seconds"]
    assert best.startswith("TF-IDF + logistic regression  1.000 [")
    assert worst.startswith("majority class  ")
    assert compare.started == []
    seconds = read_json(Path("runs/tickets/compare/majority-class/metrics.json"))["training"]["seconds"]
    assert 0 < seconds < 60


def test_by_default_each_approach_is_trained_as_its_recipe_has_it(compare, checkpoint, capsys):
    with pytest.raises(SystemExit, match="Run 'embedding', seed 42 failed"):
        compare("--model_name_or_path", checkpoint, "--dtype", "float32")
    tables = [part for part in capsys.readouterr().out.split("\n\n") if "interval]  NLL" in part]
    names = [{line.split("  ")[0] for line in table.strip().splitlines()[1:]} for table in tables]
    cheap = {"majority class", "TF-IDF + logistic regression"}
    model = {"frozen backbone + head", "zero-shot", "zero-shot, contextual calibration"}
    assert names == [cheap, cheap | model]
    (command,) = compare.started
    config = yaml.safe_load(Path(command[command.index("--config") + 1]).read_text())
    assert {"learning_rate", "lora_r", "num_train_epochs", "head_init"} & set(config) == set()
    assert {path.name for path in Path("runs/tickets/compare/configs").iterdir()} == {
        *("embedding-42.yaml", "instruction-42.yaml")
    }


def test_each_run_gets_the_target_error_of_the_comparison_unless_it_has_its_own(compare, checkpoint):
    runs = '{"a": {"approach": "embedding"}, "b": {"approach": "embedding", "target_error": 0.3}}'
    model = ("--model_name_or_path", checkpoint, "--dtype", "float32", "--validation_fraction", "0.4")
    with pytest.raises(SystemExit, match="Run 'a', seed 42 failed"):
        compare(*model, "--runs", runs, "--baselines", "none", "--target_error", "0.2")
    configs = [yaml.safe_load(Path(f"runs/tickets/compare/configs/{name}-42.yaml").read_text()) for name in "ab"]
    assert [config["target_error"] for config in configs] == [0.2, 0.3]


def test_baselines_alone_need_no_model(compare, capsys):
    compare("--runs", "none", "--baselines", "tfidf", "majority")
    assert compare.started == []
    assert "Recommended: TF-IDF + logistic regression" in " ".join(capsys.readouterr().out.split())
    assert Path("runs/tickets/compare/report.md").is_file()
    compare("--runs", "none", "--baselines", "tfidf", "majority")  # it goes on in the same folder
    assert len(read_json(Path("runs/tickets/compare/state.json"))) == 2


def test_what_each_answers_at_a_target_error_is_fitted_and_reported(compare):
    given = ("--runs", "none", "--baselines", "tfidf", "majority", "--validation_fraction", "0.4")
    output = Path("runs/tickets/compare")
    compare(*given)
    assert "target error" not in (output / "report.md").read_text()
    compare(*given, "--target_error", "0.2")  # the same folder: both are fitted anew
    rows = {row["name"]: row["abstention"] for row in read_json(output / "report.json")["runs"]}
    assert set(rows) == {"majority class", "TF-IDF + logistic regression"}
    assert rows["majority class"]["test"][0]["coverage"] == 0.0
    assert rows["majority class"]["found"][0]["threshold"] is None
    found = rows["TF-IDF + logistic regression"]
    for name in ("report.md", "report.html"):
        assert "Answers at a target error" in (output / name).read_text()
    classifier = TextClassifier.from_pretrained(output / "tf-idf-logistic-regression")
    predictions = pd.read_parquet(output / "tf-idf-logistic-regression" / "predictions.parquet")
    tickets = pd.read_csv("tickets.csv")["text"]
    answers = classifier.predict([tickets[identifier] for identifier in predictions["id"]], abstain=True)
    assert found["test"][0]["coverage"] == np.mean([answer is not None for answer in answers]) > 0


@pytest.mark.parametrize(
    ("error", "said"), [("1.5", "share between 0 and 1"), ("0.001", "documents are too few to be sure of target_error")]
)
def test_a_target_error_that_cannot_hold_is_named_before_anything_is_fitted(error, said, compare):
    with pytest.raises(ValueError, match=said):
        compare("--runs", "none", "--baselines", "tfidf", "majority", "--target_error", error)
    assert not list(Path("runs/tickets/compare").glob("*/metrics.json"))
