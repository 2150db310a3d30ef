"""`--folds` as a user runs the recipes, beside the same trainings started one by one."""

import gc
import json
import weakref

import numpy as np
import pytest
from conftest import make_rows, write_jsonl
from safetensors.torch import load_file
from test_recipes import arguments, run, run_two
from test_train import RUN_FILES

from hf_causal_clf import TextClassifier, folding
from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.data.splits import load_data
from hf_causal_clf.evaluation.calibration import fit_calibration
from hf_causal_clf.runs.results import read_out_of_fold
from hf_causal_clf.training.train import train

FOLDS = {"folds": "2"}
PLAIN = {
    "eval_strategy": "no",
    "load_best_model_at_end": "false",
    "save_strategy": "no",
    "early_stopping_patience": "0",
}


def saved_rows(folder, split, data):
    rows = [
        {"text": text, "label": label} for text, label in zip(data.splits[split]["text"], data.splits[split]["label"])
    ]
    return write_jsonl(folder / f"{split}.jsonl", rows)


@pytest.mark.parametrize(("recipe", "multi_label"), [("embed", True), ("instruct", False)])
def test_folds_are_the_trainings_one_by_one(
    recipe, multi_label, checkpoint, files, multi_label_files, tmp_path, monkeypatch
):
    files = multi_label_files if multi_label else files
    options = {"multi_label": "true"} if multi_label else {}
    run(recipe, arguments(recipe, checkpoint, files, tmp_path / "run", **options, **FOLDS), monkeypatch)
    data = load_data(DataArguments(**files, multi_label=multi_label), 2)
    found = read_out_of_fold(tmp_path / "run", data.label_space)
    assert found.ids == data.splits["train"]["id"]
    np.testing.assert_array_equal(found.fold, data.folds)
    assert {path.name for path in (tmp_path / "run").iterdir()} == RUN_FILES | {"out_of_fold.parquet"}

    for fold, part in enumerate([data.holding_out(0), data.holding_out(1), data]):
        folder = tmp_path / str(fold)
        folder.mkdir()
        paths = {f"{split}_file": saved_rows(folder, split, part) for split in part.splits}
        run(recipe, arguments(recipe, checkpoint, paths, folder / "run", **PLAIN, **options), monkeypatch)
        if fold < 2:
            classifier = TextClassifier.from_pretrained(folder / "run", calibrated=False, batch_size=8)
            logits = classifier.scorer.logits(part.texts("validation"))
            np.testing.assert_allclose(found.logits[found.fold == fold], logits, atol=1e-4)
    final, alone = (load_file(path / "run" / "adapter_model.safetensors") for path in (tmp_path, tmp_path / "2"))
    assert final.keys() == alone.keys()
    for name, weight in final.items():
        np.testing.assert_array_equal(weight.numpy(), alone[name].numpy(), err_msg=name)

    classifier = TextClassifier.from_pretrained(tmp_path / "run")
    assert classifier.calibration == fit_calibration(found.gold, found.logits)
    assert classifier.calibration.temperature is not None
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["calibration"]["folds"] == 2
    assert metrics["calibration"]["documents"] == 63
    assert metrics["training"]["steps"] == 16  # of two epochs with all 63 documents


def test_a_killed_start_goes_on_with_the_fold_that_is_missing(checkpoint, files, tmp_path, monkeypatch):
    run("embed", arguments("embed", checkpoint, files, tmp_path / "whole", **FOLDS), monkeypatch)
    trained, killed = [], [1]

    def counted(trainer, *settings):
        gc.collect()
        assert not any(model() for model in trained)  # one model at a time
        if len(trained) in killed:
            raise RuntimeError("killed")
        trained.append(weakref.ref(trainer.model))
        return train(trainer, *settings)

    monkeypatch.setattr(folding, "train", counted)
    options = arguments("embed", checkpoint, files, tmp_path / "run", **FOLDS)
    with pytest.raises(RuntimeError, match="killed"):
        run("embed", options, monkeypatch)
    assert not (tmp_path / "run" / "metrics.json").exists()
    killed.clear()
    trained.clear()
    run("embed", options, monkeypatch)
    assert len(trained) == 1
    whole, cut = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("whole", "run"))
    for part in ("validation", "test", "calibration"):
        assert cut[part] == pytest.approx(whole[part])
    trained.clear()
    run("embed", options, monkeypatch)  # it is finished
    assert not trained


@pytest.mark.parametrize(
    "changed", [{"learning_rate": "2e-2"}, {"split_seed": "1"}, {"seed": "1"}, {"folds": "3"}, {"train_file": None}]
)
def test_another_start_does_not_take_the_folds_of_this_one(changed, checkpoint, files, tmp_path, monkeypatch):
    names = []

    def stopped(trainer, *settings):
        names.append(trainer.args.output_dir)
        if len(names) > 1:
            raise RuntimeError("killed")
        return train(trainer, *settings)

    monkeypatch.setattr(folding, "train", stopped)
    if "train_file" in changed:
        changed = {"train_file": write_jsonl(tmp_path / "other.jsonl", make_rows(47))}
    for options in ({}, changed):
        names.clear()
        with pytest.raises(RuntimeError, match="killed"):
            run("embed", arguments("embed", checkpoint, files, tmp_path / "run", **{**FOLDS, **options}), monkeypatch)
        assert [name.rpartition("/")[2] for name in names] == ["fold-0", "fold-1"]


def test_a_run_without_folds_takes_the_place_of_one_with_folds(checkpoint, files, tmp_path, monkeypatch):
    options = {"num_train_epochs": "1"}
    run("embed", arguments("embed", checkpoint, files, tmp_path / "run", **FOLDS, **options), monkeypatch)
    assert (tmp_path / "run" / "out_of_fold.parquet").is_file()
    with pytest.raises(ValueError, match="folds was 2, is 'the default'"):
        run("embed", arguments("embed", checkpoint, files, tmp_path / "run", **options), monkeypatch)
    again = arguments("embed", checkpoint, files, tmp_path / "run", overwrite_output_dir="true", **options)
    run("embed", again, monkeypatch)
    assert {path.name for path in (tmp_path / "run").iterdir()} == RUN_FILES


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"folds": "1"}, r"folds must be 0 \(off\) or from 2 to 20, got 1"),
        ({"folds": "20", "max_train_samples": "12"}, "and there are 12. Lower folds"),
        ({"folds": "2", "validation_file": None, "validation_fraction": "0.5"}, "leave validation_fraction out"),
        ({"folds": "2", "save_strategy": "best"}, "save_strategy best needs a validation split"),
        ({"folds": "2", "max_length": "9999", "save_strategy": "best"}, "(?s)save_strategy best.*max_length"),
    ],
)
def test_mistakes(wrong, message, checkpoint, files, tmp_path, monkeypatch):
    files = {name: path for name, path in files.items() if name not in wrong}
    options = {name: value for name, value in wrong.items() if value is not None}
    with pytest.raises((ValueError, SystemExit), match=message):
        run("embed", arguments("embed", checkpoint, files, tmp_path / "run", **options), monkeypatch)
    assert not (tmp_path / "run").exists()


def test_two_processes_end_as_one(checkpoint, files, tmp_path, monkeypatch):
    paths = {"train_file": write_jsonl(tmp_path / "train.jsonl", make_rows(96)), "test_file": files["test_file"]}
    options = {"folds": "2", "num_train_epochs": "1"}
    run("embed", arguments("embed", checkpoint, paths, tmp_path / "one", **options), monkeypatch)
    half = {"per_device_train_batch_size": "4", **options}
    done = run_two("embed", arguments("embed", checkpoint, paths, tmp_path / "two", **half))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Fold 2 of 2: training on 48 documents") == 1
    assert {path.name for path in (tmp_path / "two").iterdir()} == RUN_FILES | {"out_of_fold.parquet"}
    space = load_data(DataArguments(**paths), 2).label_space
    one, two = (read_out_of_fold(tmp_path / name, space) for name in ("one", "two"))
    assert one.ids == two.ids
    np.testing.assert_allclose(two.logits, one.logits, atol=1e-3)
    one, two = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two"))
    assert two["calibration"] == pytest.approx(one["calibration"], abs=1e-3)
    assert two["test"] == pytest.approx(one["test"], abs=2e-3)
