"""A training for each fold: no document is seen by what predicts it, and what is done is not done again."""

import numpy as np
import pytest
from datasets import Dataset
from transformers import TrainingArguments

from hf_causal_clf import LabelSpace
from hf_causal_clf.data.folds import assign_folds
from hf_causal_clf.data.splits import ClassificationData
from hf_causal_clf.training.folds import out_of_fold, settle_folds


@pytest.fixture
def data():
    """Documents whose labels have nothing to do with their texts."""
    draw = np.random.default_rng(0)
    labels = [("a", "b")[index] for index in draw.integers(0, 2, 60)]
    rows = Dataset.from_dict({"id": range(60), "text": [f"{index}" for index in range(60)], "label": labels})
    space = LabelSpace(["a", "b"])
    folds = assign_folds(space.encode_batch(labels), range(60), 5, 0)
    return ClassificationData(space, dict.fromkeys(("train", "validation", "test"), rows), {}, None, folds)


class Memoriser:
    """A training that learns each document by heart; it fails before a fold, and counts."""

    def __init__(self, fails_at=None):
        self.fails_at = fails_at
        self.folders = []

    def __call__(self, part, folder):
        if len(self.folders) == self.fails_at:
            folder.mkdir(parents=True)
            (folder / "half").touch()
            raise RuntimeError("killed")
        assert not folder.exists()
        folder.mkdir(parents=True)
        self.folders.append(folder)
        known = dict(zip(part.texts("train"), part.gold("train").tolist()))
        logits = np.zeros((len(part.splits["validation"]), 2), dtype=np.float32)
        for row, text in enumerate(part.texts("validation")):
            logits[row, 1] = float(text)  # to see that rows come back in order
            if text in known:
                logits[row, known[text]] = np.inf
        return logits


def test_no_document_is_known_to_what_predicts_it(data, tmp_path):
    score = Memoriser()
    logits = out_of_fold(data, tmp_path, "content", score)
    assert len(score.folders) == 5
    np.testing.assert_array_equal(logits[:, 1], np.arange(60))
    assert np.isinf(score(data, tmp_path / "all")).sum() == 60  # it does know those that it has seen
    assert not any(folder.exists() for folder in score.folders[:5])


def test_a_start_that_was_cut_off_goes_on(data, tmp_path, capsys):
    first, second = Memoriser(fails_at=2), Memoriser()
    with pytest.raises(RuntimeError, match="killed"):
        out_of_fold(data, tmp_path, {"learning_rate": 1}, first)
    assert len(first.folders) == 2
    capsys.readouterr()
    logits = out_of_fold(data, tmp_path, {"learning_rate": 1}, second)
    assert len(second.folders) == 3
    np.testing.assert_array_equal(logits, out_of_fold(data, tmp_path / "whole", 0, Memoriser()))
    told = capsys.readouterr().out
    assert "Fold 2 of 5: trained by an earlier start." in told
    assert "Fold 3 of 5: training on 48 documents, to predict the other 12." in told


def test_a_start_with_something_else_begins_anew(data, tmp_path):
    out_of_fold(data, tmp_path, {"learning_rate": 1}, Memoriser())
    other = Memoriser()
    out_of_fold(data, tmp_path, {"learning_rate": 2}, other)
    assert len(other.folders) == 5
    again = Memoriser()
    out_of_fold(data, tmp_path, {"learning_rate": 1}, again)
    assert not again.folders


def test_no_evaluation_and_no_choice_of_a_checkpoint(tmp_path):
    options = {
        "eval_strategy": "epoch",
        "load_best_model_at_end": True,
        "save_strategy": "epoch",
        "eval_on_start": True,
    }
    arguments = TrainingArguments(str(tmp_path), **options)
    settle_folds(arguments)
    assert arguments.eval_strategy == "no"
    assert not arguments.load_best_model_at_end
    assert not arguments.eval_on_start
    assert arguments.save_strategy == "epoch"  # the finished run's training can still be gone on with


@pytest.mark.parametrize(("name", "value"), [("save_strategy", "best"), ("lr_scheduler_type", "reduce_lr_on_plateau")])
def test_settings_that_need_evaluations(name, value, tmp_path):
    needed = {"eval_strategy": "epoch", "metric_for_best_model": "loss"}
    with pytest.raises(ValueError, match=f"{name} {value} needs a validation split, and folds do without"):
        settle_folds(TrainingArguments(str(tmp_path), **needed, **{name: value}))


def test_deepspeed_is_refused(tmp_path, monkeypatch):
    arguments = TrainingArguments(str(tmp_path))
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ValueError, match="DeepSpeed has one training a process"):
        settle_folds(arguments)
