"""compare.py with nothing but a file of documents: what is cheap comes first, and the rest has defaults."""

import csv
import importlib.util
import sys
from pathlib import Path

import pytest
import yaml
from conftest import make_rows

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


def test_baselines_alone_need_no_model(compare, capsys):
    compare("--runs", "none", "--baselines", "tfidf", "majority")
    assert compare.started == []
    assert "Recommended: TF-IDF + logistic regression" in " ".join(capsys.readouterr().out.split())
    assert Path("runs/tickets/compare/report.md").is_file()
    compare("--runs", "none", "--baselines", "tfidf", "majority")  # it goes on in the same folder
    assert len(read_json(Path("runs/tickets/compare/state.json"))) == 2
