"""The best checkpoint of a multi-label run, and full fine-tuning in a data type that is too coarse."""

import numpy as np
import pytest
import torch
from conftest import make_rows, write_jsonl
from test_train import embedding_arguments, run_embedding, run_instruction
from transformers import EvalPrediction
from transformers.utils import logging

from hf_causal_clf.embedding.arguments import EmbeddingModelArguments
from hf_causal_clf.embedding.evaluation import head_metrics
from hf_causal_clf.evaluation.metrics import classification_metrics
from hf_causal_clf.training.arguments import RunArguments
from hf_causal_clf.training.train import prepare

GOLD = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0], [0, 0, 1], [0, 0, 0]])


@pytest.mark.parametrize("shift", [-9.0, -3.0, 0.0, 3.0, 9.0])
def test_multi_label_f1_during_training_does_not_depend_on_where_probabilities_lie(shift):
    """A ranking that is right is an F1 of 1, though every probability be below 0.5, or above."""
    found = head_metrics(EvalPrediction((4.0 * GOLD - 2.0 + shift).astype(np.float32), GOLD), multi_label=True)
    assert found["f1_macro"] == found["f1_micro"] == found["accuracy"] == 1.0
    worse = np.where(GOLD[:, ::-1] == 1, 2.0, -2.0) + shift
    assert head_metrics(EvalPrediction(worse.astype(np.float32), GOLD), multi_label=True)["f1_macro"] < 0.6


def test_single_label_metrics_are_those_of_the_most_probable_label():
    logits = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    gold = np.arange(30) % 3
    probabilities = torch.softmax(torch.as_tensor(logits), 1).numpy()
    found = head_metrics(EvalPrediction(logits, gold), multi_label=False)
    assert found == pytest.approx(classification_metrics(gold, probabilities))


@pytest.mark.parametrize("approach", [run_embedding, run_instruction])
def test_a_multi_label_run_without_probabilities_above_a_half_has_a_best_checkpoint(checkpoint, tmp_path, approach):
    """Labels that most documents lack: at first no probability reaches 0.5, where every F1 is 0."""
    files = {}
    for split, (size, offset) in {"train": (24, 0), "validation": (24, 100), "test": (9, 200)}.items():
        rows = make_rows(size, offset)
        for index, row in enumerate(rows):
            row["label"] = [row["label"]] if index % 4 == 0 else []
        files[f"{split}_file"] = write_jsonl(tmp_path / f"{split}.jsonl", rows)
    run = RunArguments(early_stopping_patience=1)
    options = {"num_train_epochs": 3, "learning_rate": 1e-3, "run": run}
    _, metrics, state = approach(checkpoint, tmp_path / "run", {**files, "multi_label": True}, **options)
    assert metrics["training"]["best_f1_macro"] > 0.1
    seen = [entry["eval_f1_macro"] for entry in state.log_history if "eval_f1_macro" in entry]
    assert metrics["training"]["best_f1_macro"] == max(seen)


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        ({"use_peft": False}, True),
        ({"use_peft": False, "dtype": "float16"}, True),
        ({"use_peft": False, "dtype": "auto"}, False),  # the checkpoint is in float32
        ({"use_peft": False, "dtype": "float32"}, False),
        ({}, False),
    ],
)
def test_full_fine_tuning_in_16_bits_is_warned_of(checkpoint, files, tmp_path, monkeypatch, options, warned):
    said = []
    monkeypatch.setattr(logging.get_logger("hf_causal_clf.training.train"), "warning", said.append)
    _, _, arguments = embedding_arguments(checkpoint, tmp_path / "run", files)
    prepare(EmbeddingModelArguments(model_name_or_path=checkpoint, **options), arguments)
    assert len(said) == warned
    assert all("Set dtype to float32" in line for line in said)
