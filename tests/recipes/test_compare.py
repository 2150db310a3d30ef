"""recipes/compare.py as a user runs it, and what it remembers between two starts."""

import importlib.util
import json
import os
import re
import shutil
import signal
import sys
import textwrap
import time
from pathlib import Path
from urllib.parse import unquote

import forking
import numpy as np
import pytest
import sessions
import yaml
from conftest import make_rows, run_as_main, write_jsonl
from pyarrow import parquet
from tiny import save_encoder

from hf_causal_clf import LabelSpace, TextClassifier
from hf_causal_clf.cli.parsing import parse_arguments
from hf_causal_clf.comparison import running
from hf_causal_clf.comparison.arguments import ComparisonArguments, folder_name
from hf_causal_clf.comparison.plan import read_config, write_config
from hf_causal_clf.comparison.report import combination_text
from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.runs.files import read_json
from hf_causal_clf.runs.results import read_out_of_fold, read_results
from hf_causal_clf.training.arguments import PromptArguments
from hf_causal_clf.training.callbacks import TrainingClock
from hf_causal_clf.training.checkpoints import note_checkpoint, whole_checkpoints

ROOT = Path(__file__).parents[2]
EMBEDDING, INSTRUCTION = "embedding, rank 4", "instruction (small)"
EMBEDDING_FOLDER, INSTRUCTION_FOLDER = "embedding-rank-4", "instruction-small"
CONTEXTUAL_FOLDER = "zero-shot-contextual-calibration"
TRAINING = {
    "lora_r": 4,
    "lora_dropout": 0.0,
    "learning_rate": 1e-2,
    "max_steps": 4,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_strategy": "steps",
    "save_steps": 2,
    "optim": "adamw_torch",
    "report_to": "none",
    "dataloader_pin_memory": False,
}
RUNS = {
    EMBEDDING: {"approach": "embedding", **TRAINING},
    INSTRUCTION: {"approach": "instruction", "activation_checkpointing": False, **TRAINING},
}
BASELINES = ["majority", "contextual", "encoder"]
FOLDERS = {
    f"{EMBEDDING_FOLDER}/seed-42",
    f"{INSTRUCTION_FOLDER}/seed-42",
    "encoder/seed-42",
    "majority-class",
    CONTEXTUAL_FOLDER,
}


@pytest.fixture(scope="module")
def settings(checkpoint, files, tokenizer, tmp_path_factory):
    """A configuration of a comparison, but for its output folder."""
    return {
        **files,
        "model_name_or_path": checkpoint,
        "encoder_name_or_path": save_encoder(tmp_path_factory.mktemp("bert"), tokenizer),
        "encoder_num_train_epochs": 2,
        "encoder_learning_rate": 1e-3,
        "dtype": "float32",
        "max_length": 32,
        "prompt_max_length": 128,
        "baselines": BASELINES,
        "runs": RUNS,
    }


def write_yaml(path, config):
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return str(path)


def in_process_of_its_own(config):
    return forking.run(["recipes/compare.py", "--config", config], timeout=1800)


@pytest.fixture(scope="module")
def finished(settings, tmp_path_factory):
    """The folder of a finished comparison, and its configuration file."""
    folder = tmp_path_factory.mktemp("compare") / "the report"
    config = write_yaml(folder.with_suffix(".yaml"), {**settings, "output_dir": str(folder)})
    done = in_process_of_its_own(config)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("$ accelerate launch") == 2
    (folder.parent / "printed").write_text(done.stdout)
    return folder, config


@pytest.fixture
def compare(monkeypatch, tmp_path, settings):
    """Runs compare.py in this process and returns the folders of the runs and baselines that it did not find finished."""
    spec = importlib.util.spec_from_file_location("compare_recipe", ROOT / "recipes" / "compare.py")
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    started, commands = [], []

    def launch(command):
        commands.append(command)
        options = command[next(index for index, part in enumerate(command) if part.endswith(".py")) :]
        started.append(yaml.safe_load(Path(options[2]).read_text())["output_dir"])
        monkeypatch.setattr(sys, "argv", options)
        run_as_main(options[0])
        return 0

    def in_own_process(function, *arguments):
        started.append(arguments[-1].folder)
        function(*arguments)
        return 0

    def run(output, **changes):
        started.clear()
        commands.clear()
        config = {**settings, "output_dir": str(output), **changes}
        monkeypatch.setattr(sys, "argv", ["compare.py", "--config", write_yaml(tmp_path / "config.yaml", config)])
        recipe.main()
        return {str(Path(folder).relative_to(output)) for folder in started}

    run.recipe, run.commands, run.in_own_process = recipe, commands, running.in_own_process
    monkeypatch.setattr(recipe, "launch", launch)
    monkeypatch.setattr(running, "in_own_process", in_own_process)
    return run


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished comparison, elsewhere."""
    return Path(shutil.copytree(finished[0], tmp_path / "copied"))


def read_report(folder):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads((folder / "report.json").read_text(), parse_constant=refuse)


def contents(folder):
    """Time of change and content of everything that runs and baselines have left."""
    own = {"configs", "figures", "learning_curves.json", "learning_curves.md", "state.json"}
    own |= {"report.html", "report.json", "report.md"}
    files = [path for path in folder.rglob("*") if path.is_file() and not own & set(path.parts)]
    assert any(path.name == "metrics.json" for path in files)
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def numbers(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for item in value for number in numbers(item)]
    return [value] if isinstance(value, (int, float)) else []


def check_links(folder):
    page = (folder / "report.md").read_text()
    links = re.findall(r"!\[.*?\]\(([^) ]*)\)\n", page)
    assert len(links) == page.count("![")
    for link in links:
        assert (folder / unquote(link)).read_bytes().startswith(b"\x89PNG")
    return page, links


def test_report(finished):
    folder, _ = finished
    report = read_report(folder)
    rows = {row["name"]: row for row in report["runs"]}
    assert rows.keys() == {
        *(EMBEDDING, INSTRUCTION, "majority class"),
        *("zero-shot, contextual calibration", "encoder"),
    }
    approaches = {row["approach"] for row in report["runs"]}
    assert approaches == {"embedding", "instruction", "majority", "contextual", "encoder"}
    scores = [row["metrics"]["f1_macro"] for row in report["runs"]]
    assert scores == sorted(scores, reverse=True)
    for name, row in rows.items():
        seeded = name in (EMBEDDING, INSTRUCTION, "encoder")
        assert row["seeds"] == ([42] if seeded else [])
        metrics = read_json(folder / folder_name(name) / ("seed-42" if seeded else "") / "metrics.json")
        assert row["metrics"] == metrics["test"]
        assert row["training"] == metrics["training"]
        for average in ("f1_macro", "f1_micro"):
            interval = row["confidence_intervals"][average]
            assert interval["low"] <= row["metrics"][average] <= interval["high"]
    assert len(report["pairwise"]) == 10
    for pair in report["pairwise"]:
        assert pair.keys() >= {"a", "b", "mcnemar_p", "delta_f1_macro", "ci_low", "ci_high"}
        assert 0 <= pair["mcnemar_p"] <= 1
        assert pair["ci_low"] <= pair["delta_f1_macro"] <= pair["ci_high"]
        difference = rows[pair["a"]]["metrics"]["f1_macro"] - rows[pair["b"]]["metrics"]["f1_macro"]
        assert pair["delta_f1_macro"] == pytest.approx(difference, abs=1e-6)
    assert np.isfinite(numbers(report)).all()
    assert report["recommendation"]["run"] in rows
    assert "malformed_rate" in rows[INSTRUCTION]["metrics"]


def test_page_and_figures(finished):
    folder, _ = finished
    page, links = check_links(folder)
    for name in (EMBEDDING, INSTRUCTION, "majority class", "zero-shot, contextual calibration", "encoder"):
        assert f"| {name} |" in page
    trained = [row["name"] for row in read_report(folder)["runs"] if row["approach"] in ("embedding", "instruction")]
    diagrams = [f"{folder_name(name)}/seed-42/figures/reliability_diagram.png" for name in trained]
    assert links == ["figures/f1_macro.png", "figures/speed.png", *diagrams]
    assert "48 training, 15 validation and 17 test documents, 3 labels, single-label" in page
    assert not list(folder.rglob("checkpoint-*"))
    assert {str(path.parent.relative_to(folder)) for path in folder.rglob("metrics.json")} == FOLDERS


def test_folders_have_plain_names_and_the_terminal_ends_with_the_result(finished):
    folder, _ = finished
    made = [part for path in folder.rglob("*") if path.is_dir() for part in path.relative_to(folder).parts]
    assert all(re.fullmatch("[a-z0-9_-]+", name) for name in made)
    assert {path.name for path in (folder / "configs").iterdir()} == {
        *(f"{EMBEDDING_FOLDER}-42.yaml", f"{INSTRUCTION_FOLDER}-42.yaml")
    }
    assert not (folder / "shared").exists()
    printed = (folder.parent / "printed").read_text().splitlines()
    report = read_report(folder)
    said = [report["recommendation"]["text"], combination_text(report["combination"])]
    lines = [line for text in said for line in textwrap.wrap(text, 100)]
    assert printed[-3 - len(lines) : -3] == lines
    assert printed[-3].startswith("Use it: ")
    assert printed[-1] == f"The report, with every pair, is in {folder / 'report.html'}"
    assert sum(line.startswith(f"{EMBEDDING}  ") for line in printed) == 1  # in the table; the pairs are in the report
    assert not any(line.startswith(("|", "#")) for line in printed)


def loaded_as_said(text, sign):
    """The classifier that a report or a terminal says how to load, in the line that begins with a sign."""
    (line,) = [line for line in text.splitlines() if line.startswith(sign)]
    call = line.removeprefix(sign).strip(" `")
    return eval(call, {"TextClassifier": TextClassifier})


def test_the_recommended_run_can_be_loaded(finished):
    folder, _ = finished
    chosen = read_report(folder)["recommendation"]["run"]
    for text, sign in (
        ((folder / "report.md").read_text(), "To use it:"),
        ((folder.parent / "printed").read_text(), "Use it:"),
    ):
        assert loaded_as_said(text, sign).source.startswith(str(folder / folder_name(chosen)))


def test_a_baseline_that_wins_can_be_loaded(compare, tmp_path, files, capsys):
    output, few = tmp_path / "it's", {"runs": {}, "baselines": ["majority", "tfidf"]}
    assert compare(output, **few) == {"majority-class", "tf-idf-logistic-regression"}
    assert read_report(output)["recommendation"]["run"] == "TF-IDF + logistic regression"
    classifier = loaded_as_said((output / "report.md").read_text(), "To use it:")
    assert loaded_as_said(capsys.readouterr().out, "Use it:").source == classifier.source
    results = read_results(Path(classifier.source), classifier.label_space)
    texts = [json.loads(line)["text"] for line in Path(files["test_file"]).read_text().splitlines()]
    np.testing.assert_allclose(classifier.predict_proba(texts), results.probabilities, atol=1e-6)

    # Elsewhere it is reused by what it is; one that an earlier version wrote has results only
    reused = {"old": {"output_dir": classifier.source}}
    assert compare(tmp_path / "other", runs=reused, baselines=["majority"]) == {"majority-class"}
    assert loaded_as_said((tmp_path / "other" / "report.md").read_text(), "To use it:").source == classifier.source
    assert {row["approach"] for row in read_report(tmp_path / "other")["runs"]} == {"majority", "tfidf"}
    for path in Path(classifier.source).iterdir():
        if path.name not in ("metrics.json", "predictions.parquet", "figures"):
            path.unlink()
    assert compare(output, **few) == set()
    assert "To use it:" not in (output / "report.md").read_text()


def test_runs_in_folders_of_an_earlier_version_are_found(copied, compare):
    """They had the names of the runs."""
    names = {EMBEDDING_FOLDER: EMBEDDING, INSTRUCTION_FOLDER: INSTRUCTION, "majority-class": "majority class"}
    names[CONTEXTUAL_FOLDER] = "zero-shot, contextual calibration"
    state = read_json(copied / "state.json")
    for new, old in names.items():
        (copied / new).rename(copied / old)
        state = {key.replace(new, old): value for key, value in state.items()}
    (copied / "state.json").write_text(json.dumps(state))
    before = contents(copied)
    assert compare(copied) == set()
    assert contents(copied) == before
    assert len(check_links(copied)[1]) == 4
    assert compare(copied, seeds=[42, 7], baselines="none") == {
        *(f"{EMBEDDING_FOLDER}/seed-7", f"{INSTRUCTION_FOLDER}/seed-7")
    }
    assert contents(copied).items() >= before.items()


def test_started_again_it_trains_nothing(finished):
    folder, config = finished
    before = contents(folder)
    reports = [(folder / name).read_bytes() for name in ("report.json", "report.md", "figures/f1_macro.png")]
    done = in_process_of_its_own(config)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "accelerate launch" not in done.stdout
    assert contents(folder) == before
    assert [(folder / name).read_bytes() for name in ("report.json", "report.md", "figures/f1_macro.png")] == reports


def test_neither_place_nor_order_matters(copied, compare, settings, files, tmp_path):
    before, report = contents(copied), (copied / "report.json").read_bytes()
    moved = {name: shutil.copy(path, tmp_path) for name, path in files.items()}
    model = shutil.copytree(settings["model_name_or_path"], tmp_path / "model")
    runs = dict(reversed([(name, dict(reversed(run.items()))) for name, run in RUNS.items()]))
    order = {"runs": runs, "baselines": BASELINES[::-1]}
    assert compare(copied, **moved, **order, model_name_or_path=str(model)) == set()
    assert contents(copied) == before
    assert (copied / "report.json").read_bytes() == report


def test_another_question_trains_nothing(copied, compare):
    before = contents(copied)
    asked = {"f1_average": "micro", "margin": 0.2, "compare": [EMBEDDING, INSTRUCTION, "majority"]}
    assert compare(copied, **asked) == set()
    assert contents(copied) == before
    report = read_report(copied)
    assert set(report["candidates"]) == {EMBEDDING, INSTRUCTION, "majority class"}
    scores = [row["metrics"]["f1_micro"] for row in report["runs"]]
    assert scores == sorted(scores, reverse=True)
    assert sum("p_corrected" in pair for pair in report["pairwise"]) == 5
    page, links = check_links(copied)
    assert links[0] == "figures/f1_micro.png"
    assert "margin of 0.2" in page or "at most 0.2" in page
    assert "the named runs against one another" in page


def test_only_what_has_changed_is_trained_again(copied, compare):
    before = contents(copied)
    changed = {**RUNS, EMBEDDING: {**RUNS[EMBEDDING], "learning_rate": 5e-3}}
    assert compare(copied, runs=changed) == {f"{EMBEDDING_FOLDER}/seed-42"}
    after = contents(copied)
    for path in before:
        assert EMBEDDING_FOLDER in path or after[path] == before[path]
    assert read_json(copied / EMBEDDING_FOLDER / "seed-42" / "metrics.json")["training"]["steps"] == 4
    assert compare(copied, runs=changed) == set()
    # Zero-shot depends on the prompt and the encoder on its own arguments
    assert compare(copied, runs=changed, encoder_learning_rate=1e-4) == {"encoder/seed-42"}
    wording = {"encoder_learning_rate": 1e-4, "instruction": "The subject, of {labels}:"}
    assert compare(copied, runs=changed, **wording) == {
        f"{INSTRUCTION_FOLDER}/seed-42",
        CONTEXTUAL_FOLDER,
    }


def test_other_documents_make_all_runs_others(copied, compare, tmp_path):
    rows = make_rows(48)
    rows[5]["text"] += " again"
    changed = write_jsonl(tmp_path / "train.jsonl", rows)
    assert compare(copied, train_file=changed) == FOLDERS
    assert compare(copied, train_file=changed) == set()


def test_another_model_in_the_same_folder_is_noticed(compare, settings, tmp_path):
    model = Path(shutil.copytree(settings["model_name_or_path"], tmp_path / "model"))
    few = {"runs": {}, "baselines": ["majority", "frozen"], "model_name_or_path": str(model)}
    assert compare(tmp_path / "run", **few) == {"majority-class", "frozen-backbone-head"}
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    assert compare(tmp_path / "run", **few) == {"frozen-backbone-head"}


def test_all_baselines_of_a_multi_label_task(compare, multi_label_files, tmp_path):
    runs = {name: {**run, "max_steps": 2} for name, run in RUNS.items()}
    options = {"multi_label": True, "baselines": None, "runs": runs, **multi_label_files}
    assert len(compare(tmp_path / "run", **options)) == 8
    report = read_report(tmp_path / "run")
    assert len(report["runs"]) == 8
    assert len(report["pairwise"]) == 28
    assert np.isfinite(numbers(report)).all()
    page, links = check_links(tmp_path / "run")
    assert "multi-label" in page
    assert len(links) == 4


def test_finished_runs_are_reused(finished, compare, tmp_path):
    folder, _ = finished
    reused = {f"old {number}": {"output_dir": str(folder / name)} for number, name in enumerate(sorted(FOLDERS))}
    before = contents(folder)
    assert compare(tmp_path / "run", runs=reused, baselines="none") == set()
    assert contents(folder) == before
    found = {row["metrics"]["f1_macro"]: row["approach"] for row in read_report(tmp_path / "run")["runs"]}
    assert found.keys() == {row["metrics"]["f1_macro"] for row in read_report(folder)["runs"]}
    assert {row["approach"] for row in read_report(tmp_path / "run")["runs"]} == {
        *("embedding", "instruction", "encoder", "baseline")
    }
    check_links(tmp_path / "run")


UNFIT = {
    "fewer test documents": (make_rows(11, 200), "not tested on the same documents: 11 against 17|17 against 11"),
    "other gold labels": (make_rows(17, 201), "other gold labels"),
    "other texts": (
        [{**row, "text": f"{row['text']} more"} for row in make_rows(17, 200)],
        "documents with other texts",
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_run_on_other_test_documents_is_refused_before_anything_is_trained(case, finished, compare, tmp_path):
    rows, message = UNFIT[case]
    old = finished[0] / EMBEDDING_FOLDER / "seed-42"
    runs = {"old": {"output_dir": str(old)}, INSTRUCTION: RUNS[INSTRUCTION]}
    test = write_jsonl(tmp_path / "test.jsonl", rows)
    with pytest.raises(ValueError, match=f"Run 'old'.*({message})") as raised:
        compare(tmp_path / "run", runs=runs, test_file=test)
    assert str(old) in str(raised.value)
    assert not list((tmp_path / "run").rglob("metrics.json"))


def test_what_is_no_finished_run_is_refused(compare, tmp_path):
    (tmp_path / "empty").mkdir()
    runs = {"old": {"output_dir": str(tmp_path / "empty")}, EMBEDDING: RUNS[EMBEDDING]}
    with pytest.raises(ValueError, match=r"'old' cannot be reused.*empty has no metrics.json"):
        compare(tmp_path / "run", runs=runs)


def test_several_seeds(copied, compare):
    new = {f"{name}/seed-7" for name in (EMBEDDING_FOLDER, INSTRUCTION_FOLDER, "encoder")}
    assert compare(copied, seeds=[42, 7]) == new
    rows = {row["name"]: row for row in read_report(copied)["runs"]}
    for name in (EMBEDDING, INSTRUCTION, "encoder"):
        tested = [read_json(copied / folder_name(name) / f"seed-{seed}" / "metrics.json")["test"] for seed in (7, 42)]
        assert rows[name]["seeds"] == [7, 42]
        assert rows[name]["metrics"] == tested[0]
        for metric in ("f1_macro", "nll", "ece"):
            values = [each[metric] for each in tested]
            assert rows[name]["mean"][metric] == pytest.approx(np.mean(values))
            assert rows[name]["sd"][metric] == pytest.approx(np.std(values, ddof=1))
    assert rows[EMBEDDING]["sd"]["nll"] > 0
    assert "mean" not in rows["majority class"]
    page, _ = check_links(copied)
    assert "## Several seeds, mean ± standard deviation" in page


@pytest.mark.figures
def test_learning_curves(compare, tmp_path):
    runs = {EMBEDDING: {**RUNS[EMBEDDING], "max_steps": 2}}
    options = {"train_sizes": [12, 6], "seeds": [1, 2], "runs": runs, "baselines": ["majority"]}
    names = {f"{EMBEDDING_FOLDER}/seed-1", f"{EMBEDDING_FOLDER}/seed-2", "majority-class"}
    assert compare(tmp_path / "run", **options) == {f"size-{size}/{name}" for size in (6, 12) for name in names}
    curves = read_json(tmp_path / "run" / "learning_curves.json")
    assert curves["train_sizes"] == [6, 12]
    for index, size in enumerate((6, 12)):
        page, _ = check_links(tmp_path / "run" / f"size-{size}")
        assert f"{size} training, 15 validation" in page
        rows = {row["name"]: row for row in read_report(tmp_path / "run" / f"size-{size}")["runs"]}
        assert curves["f1_macro"]["majority class"][index] == rows["majority class"]["metrics"]["f1_macro"]
        mean_and_sd = [rows[EMBEDDING][part]["f1_macro"] for part in ("mean", "sd")]
        assert curves["f1_macro"][EMBEDDING][index] == mean_and_sd
    for ending in ("png", "svg"):
        assert (tmp_path / "run" / "figures" / f"learning_curves.{ending}").stat().st_size > 1000
    before = contents(tmp_path / "run")
    added = {"train_sizes": [6, 24, 12], "seeds": [1, 2]}
    assert compare(tmp_path / "run", **{**options, **added}) == {f"size-24/{name}" for name in names}
    assert contents(tmp_path / "run").items() >= before.items()


def test_folds_are_the_same_for_runs_and_baselines(compare, settings, tmp_path):
    options = {"folds": 3, "runs": {EMBEDDING: RUNS[EMBEDDING]}, "baselines": ["majority", "tfidf"]}
    started = compare(tmp_path / "out", **options)
    assert started == {f"{EMBEDDING_FOLDER}/seed-42", "majority-class", "tf-idf-logistic-regression"}
    space = LabelSpace(["business", "sport", "tech"])
    first, *others = [read_out_of_fold(tmp_path / "out" / folder, space) for folder in sorted(started)]
    assert len(first.ids) == 63
    for other in others:
        assert other.ids == first.ids
        np.testing.assert_array_equal(other.fold, first.fold)
        np.testing.assert_array_equal(other.gold, first.gold)
    page = (tmp_path / "out" / "report.md").read_text()
    assert "63 training documents in 3 folds and 17 test documents, 3 labels" in page
    assert "after what was fitted out of fold" in page
    assert not compare(tmp_path / "out", **options)
    for folds in (2, 0):
        started = compare(tmp_path / "out", **{**options, "folds": folds, "runs": {}})
        assert started == {"majority-class", "tf-idf-logistic-regression"}
        assert all((tmp_path / "out" / folder / "out_of_fold.parquet").exists() == bool(folds) for folder in started)


def test_train_sizes_have_to_be_there(compare, tmp_path):
    with pytest.raises(ValueError, match="train_sizes has 100, but there are 48 training documents"):
        compare(tmp_path / "run", train_sizes=[10, 100])
    with pytest.raises(ValueError, match="train_sizes takes the place of max_train_samples"):
        compare(tmp_path / "run", train_sizes=[10, 20], max_train_samples=30)
    assert not (tmp_path / "run").exists()


def wait_for(found, seconds=600):
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_an_interrupted_comparison_goes_on(settings, compare, tmp_path, monkeypatch):
    long = {"max_steps": 120, "eval_steps": 6, "save_steps": 6, "early_stopping_patience": 0}
    runs = {EMBEDDING: {**RUNS[EMBEDDING], **long}, INSTRUCTION: RUNS[INSTRUCTION]}
    output, options = tmp_path / "run", {"runs": runs, "baselines": []}
    folder = output / EMBEDDING_FOLDER / "seed-42"
    config = write_yaml(tmp_path / "interrupted.yaml", {**settings, **options, "output_dir": str(output)})
    process = forking.start(["recipes/compare.py", "--config", config], tmp_path, leads=True)
    try:
        wait_for(lambda: list(folder.glob("checkpoint-*/trainer_state.json")) or not process.is_alive())
        assert len(sessions.running(process.pid)) >= 3  # this one, accelerate and the recipe
        process.terminate()
        process.join(60)
        assert process.exitcode
        wait_for(lambda: not sessions.running(process.pid), 60)  # none is left to train on
    finally:
        sessions.kill(process.pid)
    assert not (folder / "metrics.json").exists()
    last = max(int(path.name.split("-")[1]) for path in whole_checkpoints(folder))
    assert 0 < last < 120
    note_checkpoint(folder, 119)  # one that the interruption cut off
    (folder / "checkpoint-119").mkdir()
    (folder / "checkpoint-119" / "adapter_config.json").write_text("{")

    steps, begin = [], TrainingClock.on_train_begin

    def noted(clock, args, state, control, **kwargs):
        steps.append(state.global_step)
        begin(clock, args, state, control, **kwargs)

    monkeypatch.setattr(TrainingClock, "on_train_begin", noted)
    assert compare(output, **options) == {f"{EMBEDDING_FOLDER}/seed-42", f"{INSTRUCTION_FOLDER}/seed-42"}
    assert steps == [last, 0]
    assert ["--resume_from_checkpoint" in command for command in compare.commands] == [True, False]
    assert read_json(folder / "metrics.json")["training"]["steps"] == 120
    assert not list(folder.glob("checkpoint-*"))
    assert compare(output, **options) == set()


STARTS = """
import runpy, signal, sys, time
if sys.argv[2:] == ["nohup"]:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
compare = runpy.run_path("recipes/compare.py")
from hf_causal_clf.cli.starting import run_script
from hf_causal_clf.comparison.report import combination_text
from hf_causal_clf.comparison.running import in_own_process
compare["end_on_signals"]()
launcher = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
starts = {
    "recipe": lambda: compare["launch"]([sys.executable, "-c", launcher]),
    "baseline": lambda: in_own_process(time.sleep, 600),
}
run_script(starts[sys.argv[1]])
"""


@pytest.mark.parametrize(
    ("started", "asked", "code"),
    [
        ("recipe", signal.SIGTERM, 1),
        ("recipe", signal.SIGHUP, 1),
        ("recipe", signal.SIGINT, 130),
        ("baseline", signal.SIGTERM, 1),
    ],
)
def test_all_that_it_started_ends_with_it(started, asked, code, tmp_path):
    process = forking.start(["-c", STARTS, started], tmp_path, leads=True)
    try:
        least = {"recipe": 3, "baseline": 2}[started]
        wait_for(lambda: len(sessions.running(process.pid)) >= least or not process.is_alive(), 120)
        os.kill(process.pid, asked)
        process.join(60)
        assert process.exitcode == code, (tmp_path / "stderr").read_text()
        wait_for(lambda: not sessions.running(process.pid), 60)
    finally:
        sessions.kill(process.pid)


def test_nohup_keeps_it_running(tmp_path):
    process = forking.start(["-c", STARTS, "recipe", "nohup"], tmp_path, leads=True)
    try:
        wait_for(lambda: len(sessions.running(process.pid)) >= 3 or not process.is_alive(), 120)
        os.kill(process.pid, signal.SIGHUP)
        time.sleep(1)
        assert len(sessions.running(process.pid)) >= 3, (tmp_path / "stderr").read_text()
    finally:
        sessions.kill(process.pid)


def test_a_failing_run_is_named_and_what_was_finished_is_kept(compare, tmp_path, monkeypatch):
    options, launch = {"runs": {INSTRUCTION: RUNS[INSTRUCTION]}, "baselines": "majority"}, compare.recipe.launch
    monkeypatch.setattr(compare.recipe, "launch", lambda command: 1)
    with pytest.raises(SystemExit, match=re.escape(f"Run {INSTRUCTION!r}, seed 42 failed")):
        compare(tmp_path / "run", **options)
    assert (tmp_path / "run" / "majority-class" / "metrics.json").is_file()
    monkeypatch.setattr(compare.recipe, "launch", launch)
    assert compare(tmp_path / "run", **options) == {f"{INSTRUCTION_FOLDER}/seed-42"}


def test_a_failing_baseline_is_named(compare, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "in_own_process", lambda *arguments: -9)
    with pytest.raises(SystemExit, match="majority class failed"):
        compare(tmp_path / "run")


def test_exit_code_of_a_process_of_its_own(compare):
    assert compare.in_own_process(time.sleep, 0) == 0
    assert compare.in_own_process(sys.exit, 3) == 3


ARGUMENTS = {"output_dir": "run", "model_name_or_path": "model"}
MISTAKES = {
    "unknown baseline": ({"baselines": ["majority", "tf-idf"]}, r"Unknown baselines \['tf-idf'\]. Known are"),
    "baseline twice": ({"baselines": ["majority", "majority"]}, "baselines must be different"),
    "no encoder": ({"baselines": ["majority", "encoder"]}, "needs encoder_name_or_path"),
    "no approach": ({"runs": {"a": {"lora_r": 8}}}, "Run 'a' needs an approach"),
    "unknown approach": ({"runs": {"a": {"approach": "embed"}}}, "Run 'a' needs an approach"),
    "settings of a reused run": ({"runs": {"a": {"output_dir": "x", "lora_r": 8}}}, "Run 'a' needs an approach"),
    "name of a baseline": ({"runs": {"encoder": {"approach": "embedding"}}}, "cannot be called 'encoder'"),
    "folder of a baseline": ({"runs": {"Majority Class!": {"approach": "embedding"}}}, "folder .* of 'majority class'"),
    "folder of the comparison": ({"runs": {"Configs": {"approach": "embedding"}}}, "the comparison's configs"),
    "folder of another run": (
        {"runs": {"a, b": {"approach": "embedding"}, "A (b)": {"output_dir": "x"}}},
        r"Run 'A \(b\)' would have the folder 'a-b' of 'a, b': call it otherwise",
    ),
    "name of a file": ({"runs": {"report.md": {"approach": "embedding"}}}, "cannot be called 'report.md'"),
    "name with a slash": ({"runs": {"a/b": {"approach": "embedding"}}}, "cannot be called 'a/b'"),
    "name outside": ({"runs": {"..": {"approach": "embedding"}}}, "cannot be called '..'"),
    "no name": ({"runs": {"": {"approach": "embedding"}}}, "cannot be called ''"),
    "seeds twice": ({"seeds": [1, 2, 1]}, "seeds must be one or more different numbers"),
    "no seeds": ({"seeds": []}, "seeds must be one or more different numbers"),
    "negative seed": ({"seeds": -1}, "seeds must be .* at least 0"),
    "sizes twice": ({"train_sizes": [8, 8]}, "train_sizes must be"),
    "no documents": ({"train_sizes": 0}, "train_sizes must be .* at least 1"),
    "own seed": ({"runs": {"a": {"approach": "embedding", "seed": 1}}}, r"Run 'a' sets \['seed'\]"),
    "own folder": ({"runs": {"a": {"approach": "embedding", "output_dir": "x"}}}, r"Run 'a' sets \['output_dir'\]"),
    "own data": ({"runs": {"a": {"approach": "embedding", "test_file": "x"}}}, r"Run 'a' sets \['test_file'\]"),
    "resuming": (
        {"runs": {"a": {"approach": "embedding", "resume_from_checkpoint": True}}},
        "sets .'resume_from_checkpoint'",
    ),
    "runs as a list": ({"runs": ["a"]}, "runs must map names to settings"),
    "run as a text": ({"runs": {"a": "embedding"}}, "runs must map names to settings"),
    "broken JSON": ({"runs": '{"a":'}, "runs is not valid JSON"),
    "no average": ({"f1_average": "weighted"}, r"f1_average must be one of \['macro', 'micro'\], got 'weighted'"),
    "no margin": ({"margin": 0}, "margin is a difference in F1, above 0 and below 1"),
    "margin in percent": ({"margin": 1}, "margin is a difference in F1, above 0 and below 1"),
    "compares what is not there": (
        {"compare": ["majority", "a"]},
        r"compare names \['a'\].*There are .*'majority class'",
    ),
    "compares one": ({"compare": "majority"}, r"two or more different names .* got \['majority'\]"),
    "compares one twice": ({"compare": ["majority", "majority class"]}, "two or more different names"),
    "nothing to compare": ({"baselines": "majority", "runs": "none"}, "nothing to compare"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_in_the_arguments(mistake, tmp_path):
    given, message = MISTAKES[mistake]
    config = write_yaml(tmp_path / "config.yaml", {**ARGUMENTS, **given})
    with pytest.raises(ValueError, match=message):
        parse_arguments([ComparisonArguments], args=["--config", config])


def test_arguments_as_a_user_writes_them(tmp_path):
    given = {
        "seeds": 7,
        "train_sizes": 8,
        "baselines": "none",
        "runs": {1: {"approach": "embedding"}, "b": {"output_dir": "x"}},
    }
    config = write_yaml(tmp_path / "config.yaml", {**ARGUMENTS, **given})
    (arguments,) = parse_arguments([ComparisonArguments], args=["--config", config, "--seeds", "9", "8"])
    assert arguments.seeds == [8, 9]
    assert arguments.train_sizes == [8]
    assert arguments.baselines == []
    assert list(arguments.run_settings) == ["1", "b"]
    (arguments,) = parse_arguments([ComparisonArguments], args=["--config", config])
    assert arguments.seeds == [7]
    line = ["--output_dir", "run", "--model_name_or_path", "m", "--runs", '{"a": {"approach": "embedding"}}']
    (arguments,) = parse_arguments([ComparisonArguments], args=line)
    assert arguments.run_settings == {"a": {"approach": "embedding"}}
    assert arguments.baselines == ["majority", "tfidf", "zero_shot", "contextual", "frozen"]
    (arguments,) = parse_arguments([ComparisonArguments], args=[*line, "--encoder_name_or_path", "bert"])
    assert arguments.baselines[-1] == "encoder"
    assert (arguments.compared, arguments.f1_average, arguments.margin) == ([], "macro", 0.01)
    line += ["--compare", "a", "tfidf", "zero-shot", "--f1_average", "micro", "--margin", "0.02"]
    (arguments,) = parse_arguments([ComparisonArguments], args=line)
    assert arguments.compared == ["a", "TF-IDF + logistic regression", "zero-shot"]
    assert (arguments.f1_average, arguments.margin) == ("micro", 0.02)


NAMES = ["embedding, rank 8", "TF-IDF + logistic regression", "naïve", "-a-", "模型 8", "头", "++", "--", "Größe_1"]


def test_names_of_folders():
    found = {name: folder_name(name) for name in NAMES}
    assert found["embedding, rank 8"] == "embedding-rank-8"
    assert found["TF-IDF + logistic regression"] == "tf-idf-logistic-regression"
    assert (found["naïve"], found["-a-"]) == ("naive", "a")
    assert found["模型 8"].startswith("8-")
    assert all(found[name].startswith("run-") for name in ("头", "++"))
    assert len(set(found.values())) == len(NAMES)
    assert all(re.fullmatch("[a-z0-9_-]+", folder) for folder in found.values())


WRONG_SETTINGS = {
    "unknown": ({"approach": "embedding", "lora_targets": 8}, "Run 'a, b'.*'lora_targets'"),
    "other recipe's": ({"approach": "instruction", "pooling": "mean"}, "Run 'a, b'.*'pooling'"),
    "no number": ({"approach": "embedding", "learning_rate": "much"}, "Run 'a, b'"),
    "prompt of a random head": ({"approach": "embedding", "use_chat_template": True}, "Run 'a, b'.*head_init"),
    "value": ({"approach": "embedding", "pooling": "first"}, "Run 'a, b'.*pooling"),
}


@pytest.mark.parametrize("case", WRONG_SETTINGS)
def test_wrong_settings_of_a_run_are_named_with_the_run(case, files, tmp_path):
    run, message = WRONG_SETTINGS[case]
    arguments = ComparisonArguments(**ARGUMENTS, runs={"a, b": run})
    with pytest.raises((ValueError, SystemExit), match=message):
        write_config(tmp_path, "a, b", 1, arguments, DataArguments(**files), PromptArguments())


def test_configuration_of_a_run(files, checkpoint, tmp_path):
    checkpoint = shutil.copytree(checkpoint, tmp_path / "model")
    runs = {"a": {"approach": "embedding"}, "b": {"approach": "instruction", "max_length": 99, "lora_r": 2}}
    arguments = ComparisonArguments(
        "run", str(checkpoint), runs, max_length=33, prompt_max_length=66, truncation="head"
    )
    prompt = PromptArguments(instruction="Which?", use_chat_template=True)
    data = DataArguments(**files, max_train_samples=9)
    paths = [write_config(tmp_path, name, 5, arguments, data, prompt) for name in runs]
    a, b = (yaml.safe_load(path.read_text()) for path in paths)
    assert (a["max_length"], b["max_length"]) == (33, 99)
    assert a.items() >= {**files, "max_train_samples": 9, "seed": 5, "truncation": "head"}.items()
    assert a["output_dir"] == str(tmp_path / "a" / "seed-5")
    assert "instruction" not in a
    assert b.items() >= {"instruction": "Which?", "use_chat_template": True, "lora_r": 2}.items()
    head = {"a": {"approach": "embedding", "head_init": "verbalizer"}}
    prompted = ComparisonArguments("run", str(checkpoint), head, prompt_max_length=66)
    config = yaml.safe_load(write_config(tmp_path, "a", 5, prompted, data, prompt).read_text())
    assert config.items() >= {"instruction": "Which?", "max_length": 66}.items()
    assert read_config(paths[0]).keys() & {*files, "max_train_samples", "output_dir"} == set()
    before = read_config(paths[0])
    assert read_config(paths[0]) == before
    (tmp_path / "model" / "tokenizer_config.json").write_text("{}")
    assert read_config(paths[0]) != before  # the model is its files


def test_tuning(compare, tmp_path):
    runs = {EMBEDDING: {**RUNS[EMBEDDING], "max_steps": 2}}
    options = {"tune": 2, "runs": runs, "baselines": ["majority", "tfidf"], "seeds": [1, 2]}
    trials = {f"tuning/{EMBEDDING_FOLDER}/trial-{number}/seed-1" for number in (1, 2)}
    trials |= {f"tuning/tf-idf-logistic-regression/trial-{number}" for number in (1, 2)}
    final = {f"{EMBEDDING_FOLDER}/seed-2", "majority-class", "tf-idf-logistic-regression"}  # seed 1 is the best trial
    assert compare(tmp_path / "run", **options) == {*trials, *final}
    report = read_report(tmp_path / "run")
    tuning = report["tuning"]
    assert (tuning["trials"], tuning["seed"], tuning["metric"]) == (2, 1, "f1_macro")
    assert tuning["searches"].keys() == {EMBEDDING, "TF-IDF + logistic regression"}
    for found in tuning["searches"].values():
        assert np.isfinite(numbers([trial["validation"] for trial in found["trials"]])).all()
        assert found["trials"][0]["parameters"] == {name: each["given"] for name, each in found["searched"].items()}
    found = tuning["searches"][EMBEDDING]
    best = found["trials"][found["improvements"][-1] - 1]
    for seed in (1, 2):  # the settings that were chosen are those of all seeds
        config = yaml.safe_load((tmp_path / "run" / "configs" / f"{EMBEDDING_FOLDER}-{seed}.yaml").read_text())
        assert config.items() >= {"learning_rate": best["parameters"]["learning_rate"], "seed": seed}.items()
    metrics = read_json(tmp_path / "run" / EMBEDDING_FOLDER / "seed-1" / "metrics.json")
    assert best["validation"].items() <= metrics["validation"].items()
    classifier = TextClassifier.from_pretrained(tmp_path / "run" / EMBEDDING_FOLDER / "seed-1")
    rows = parquet.read_table(tmp_path / "run" / EMBEDDING_FOLDER / "seed-1" / "predictions.parquet").to_pylist()
    texts = [row["text"] for row in make_rows(17, 200)]
    assert classifier.predict(texts) == [row["predicted"] for row in rows]
    page, _ = check_links(tmp_path / "run")
    assert "## Tuning" in page
    assert "Not tuned: majority class." in page
    before = contents(tmp_path / "run")
    assert compare(tmp_path / "run", **options) == set()
    assert contents(tmp_path / "run") == before
    assert read_report(tmp_path / "run") == report
