"""The recipes as a user runs them."""

import json
import subprocess
import sys
from pathlib import Path

import forking
import numpy as np
import pytest
from conftest import make_rows, run_as_main, write_jsonl
from datasets import Dataset
from test_train import RUN_FILES

from hf_causal_clf import TextClassifier

ROOT = Path(__file__).parents[2]
COMMON = {
    "dtype": "float32",
    "lora_r": "8",
    "lora_dropout": "0.0",
    "num_train_epochs": "2",
    "learning_rate": "1e-2",
    "optim": "adamw_torch",
    "report_to": "none",
    "dataloader_pin_memory": "false",
}
OPTIONS = {
    "embed": {"max_length": "32", "pooling": "last", "document_suffix": "none", "head_init": "random"},
    "instruct": {"max_length": "128", "activation_checkpointing": "false"},
}


def arguments(recipe, checkpoint, files, output, **options):
    options = {
        "model_name_or_path": checkpoint,
        **files,
        "output_dir": str(output),
        **COMMON,
        **OPTIONS[recipe],
        **options,
    }
    return [part for name, value in options.items() for part in (f"--{name}", value)]


def launch(recipe, options):
    """Start a recipe by the command, in two CPU processes with a thread each."""
    command = [sys.executable, "-m", "hf_causal_clf_command", recipe, "--cpu", "--num_processes", "2"]
    return subprocess.run(
        [*command, *options, "--num_cpu_threads_per_process", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )


def run_two(recipe, options):
    """Run a recipe in two such processes, which start at once."""
    return forking.run_two([ROOT / "recipes" / f"{recipe}.py", *options])


def steps(output):
    return json.loads((output / "metrics.json").read_text())["training"]["steps"]


def run(recipe, options, monkeypatch):
    monkeypatch.setattr(sys, "argv", [f"{recipe}.py", *options])
    run_as_main(ROOT / "recipes" / f"{recipe}.py")


@pytest.mark.parametrize(("recipe", "launch"), [("embed", launch), ("instruct", run_two)])
def test_two_processes_end_as_one(recipe, launch, checkpoint, files, tmp_path, monkeypatch, capsys):
    run(recipe, arguments(recipe, checkpoint, files, tmp_path / "one"), monkeypatch)
    assert "TextClassifier.from_pretrained" in capsys.readouterr().out
    half = {"per_device_train_batch_size": "4"}
    done = launch(recipe, arguments(recipe, checkpoint, files, tmp_path / "two", **half))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("TextClassifier.from_pretrained") == 1
    assert done.stderr.count("validation documents are too few to calibrate on") == 1
    assert steps(tmp_path / "two") == steps(tmp_path / "one") == 12
    assert {path.name for path in (tmp_path / "two").iterdir()} == RUN_FILES
    one, two = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two"))
    for split in ("validation", "test"):
        assert two[split] == pytest.approx(one[split], abs=2e-3)
    rows = [
        Dataset.from_parquet(str(tmp_path / name / "predictions.parquet"), keep_in_memory=True)
        for name in ("one", "two")
    ]
    assert list(rows[1]["id"]) == list(rows[0]["id"]) == list(range(17))
    assert list(rows[1]["gold"]) == list(rows[0]["gold"])


@pytest.mark.parametrize(("recipe", "room"), [("embed", 12), ("instruct", 84)])
def test_documents_are_read_in_chunks(recipe, room, checkpoint, files, tmp_path, monkeypatch, capsys):
    options = {"long_documents": "chunks", "max_length": str(room), "num_train_epochs": "1"}
    run(recipe, arguments(recipe, checkpoint, files, tmp_path / "run", **options), monkeypatch)
    assert f"in chunks: max_length {room}" in " ".join(capsys.readouterr().out.split())
    assert {path.name for path in (tmp_path / "run").iterdir()} == RUN_FILES
    saved = json.loads((tmp_path / "run" / "classification.json").read_text())
    assert saved["truncation"] == {"max_length": room, "side": "tail", "long_documents": "chunks"}
    rows = Dataset.from_parquet(str(tmp_path / "run" / "predictions.parquet"), keep_in_memory=True)
    texts = [json.loads(line)["text"] for line in Path(files["test_file"]).read_text().splitlines()]
    classifier = TextClassifier.from_pretrained(tmp_path / "run")
    assert max(len(classifier.scorer.encoder.chunks(text)) for text in texts) > 1
    np.testing.assert_allclose(classifier.predict_proba(texts), list(rows["probabilities"]), atol=1e-5)
    assert "in overlapping chunks" in (tmp_path / "run" / "README.md").read_text()


def test_nf4_and_8bit_adamw_train_and_evaluate(checkpoint, files, tmp_path, monkeypatch):
    options = {"load_in_4bit": "true", "optim": "adamw_8bit", "dtype": "bfloat16", "num_train_epochs": "6"}
    run("embed", arguments("embed", checkpoint, files, tmp_path / "run", **options), monkeypatch)
    saved = json.loads((tmp_path / "run" / "classification.json").read_text())
    assert saved["base_model"]["quantization"]["bnb_4bit_quant_type"] == "nf4"
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["training"]["train_loss"] < 1.0  # log 3 is 1.1


def test_paged_adamw_and_nf4_train_the_instruction_approach(checkpoint, files, tmp_path, monkeypatch):
    options = {"load_in_4bit": "true", "optim": "paged_adamw_32bit", "dtype": "bfloat16", "num_train_epochs": "1"}
    run("instruct", arguments("instruct", checkpoint, files, tmp_path / "run", **options), monkeypatch)
    assert {path.name for path in (tmp_path / "run").iterdir()} == RUN_FILES


MISTAKES = {
    "unknown label": ({}, {"test": [{"text": "x", "label": "film"}]}, r"training split does not have: \['film'\]"),
    "single class": (
        {},
        {"train": [{"text": "x", "label": "sport"}]},
        "single label|no training document|does not have",
    ),
    "missing file": ({"train_file": "nowhere.jsonl"}, {}, "There is no file 'nowhere.jsonl'"),
    "short prompt": ({"max_length": "20"}, {}, "max_length=20 leaves no room for the document"),
    "colliding answers": ({"answers": '{"tech": "SPORT"}'}, {}, "collide"),
    "no such model": ({"model_name_or_path": "nowhere/nothing"}, {}, "nowhere/nothing"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_found_before_the_model_is_loaded(mistake, checkpoint, files, tmp_path, monkeypatch):
    options, rows, message = MISTAKES[mistake]
    files = {
        **files,
        **{f"{split}_file": write_jsonl(tmp_path / f"{split}.jsonl", data) for split, data in rows.items()},
    }
    loaded = []
    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", lambda *args, **kwargs: loaded.append(args))
    with pytest.raises((ValueError, OSError), match=message):
        run("instruct", arguments("instruct", checkpoint, files, tmp_path / "run", **options), monkeypatch)
    assert not loaded
    assert not (tmp_path / "run").exists()


def test_rerunning_replaces_an_earlier_run(checkpoint, files, tmp_path, monkeypatch):
    options = arguments("embed", checkpoint, files, tmp_path / "run", num_train_epochs="1")
    run("embed", options, monkeypatch)
    first = (tmp_path / "run" / "metrics.json").read_text()
    test = write_jsonl(tmp_path / "test.jsonl", make_rows(6, 300))
    run("embed", [*options, "--test_file", test, "--overwrite_output_dir", "true"], monkeypatch)
    assert len(Dataset.from_parquet(str(tmp_path / "run" / "predictions.parquet"), keep_in_memory=True)) == 6
    assert (tmp_path / "run" / "metrics.json").read_text() != first
    assert {path.name for path in (tmp_path / "run").iterdir()} == RUN_FILES


def test_all_mistakes_of_arguments_documents_model_and_output_are_told_in_one_start(
    checkpoint, files, tmp_path, monkeypatch
):
    (tmp_path / "run").write_text("a file")
    wrong = {"instruction": "What?", "text_column": "body", "max_length": "1000", "report_to": "none"}
    with pytest.raises(ValueError, match="belong to the prompt") as raised:
        run("embed", arguments("embed", checkpoint, files, tmp_path / "run", **wrong), monkeypatch)
    told = str(raised.value).splitlines()
    assert len(told) == 5
    assert [line.startswith("The ") for line in told] == [False, True, True, True, False]
    assert "max_length=1000 is beyond the model's context of 256 tokens" in told[-1]


def test_of_two_processes_one_tells_what_is_wrong_and_nothing_else_is_told(checkpoint, files, tmp_path):
    options = arguments("embed", checkpoint, files, tmp_path / "run", train_file="nowhere.jsonl", max_length="1000")
    done = launch("embed", options)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "There is no file 'nowhere.jsonl'. Check train_file, validation_file and test_file.",
        "max_length=1000 is beyond the model's context of 256 tokens. Lower it.",
    ]
