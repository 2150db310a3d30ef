"""Documents that weigh differently in the loss of the instruction-based approach."""

import numpy as np
import pytest
import torch
from conftest import make_rows, run_in_two_processes, write_jsonl
from test_invariance_training import PROMPT, TRAINING
from test_shared_prefix import ROWS, FirstGradients, check_gradients, make_model, make_trainer
from trl import SFTTrainer

from hf_causal_clf import LabelSpace
from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.data.splits import load_data
from hf_causal_clf.instruction.arguments import InstructionModelArguments, InstructionTrainingArguments
from hf_causal_clf.instruction.shared_prefix import SharedPrefixSFTTrainer
from hf_causal_clf.instruction.trainer import instruction_trainer
from hf_causal_clf.instruction.weighting import weigh_documents
from hf_causal_clf.training.arguments import RunArguments
from hf_causal_clf.training.facts import training_facts
from hf_causal_clf.training.train import prepare

WEIGHTS = (0.5, 2.0, 0.0, 1.5)
KINDS = [SFTTrainer, SharedPrefixSFTTrainer]


def weighted(kind, weights, tokenizer, folder, monkeypatch, rows=ROWS, **values):
    model = make_model("llama", tokenizer, monkeypatch, lora=True)
    rows = [{**row, "weight": weight} for row, weight in zip(rows, weights, strict=True)]
    trainer = make_trainer(kind, model, tokenizer, folder, rows, **values)
    trainer.data_collator.weight_column = "weight"
    weigh_documents(trainer)
    return trainer, rows


def whole_batch(trainer, rows):
    """Summed loss and gradients of all rows in one batch."""
    batch = trainer.data_collator(rows)
    tokens = int((batch["labels"] != -100).sum())
    loss = trainer.compute_loss(trainer.model, batch) * tokens
    loss.backward()
    return loss.item(), {name: each.grad for name, each in trainer.model.named_parameters() if each.grad is not None}


@pytest.mark.parametrize("kind", KINDS)
def test_equal_weights_are_none(kind, tokenizer, tmp_path, monkeypatch):
    plain = make_trainer(SFTTrainer, make_model("llama", tokenizer, monkeypatch, lora=True), tokenizer, tmp_path)
    expected = whole_batch(plain, ROWS)
    found = whole_batch(*weighted(kind, [1.0] * 4, tokenizer, tmp_path, monkeypatch))
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    check_gradients(found[1], expected[1])


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_those_of_each_document_alone(kind, tokenizer, tmp_path, monkeypatch):
    found = whole_batch(*weighted(kind, WEIGHTS, tokenizer, tmp_path, monkeypatch))
    plain = make_trainer(SFTTrainer, make_model("llama", tokenizer, monkeypatch, lora=True), tokenizer, tmp_path)
    total = 0.0
    for row, weight in zip(ROWS, WEIGHTS, strict=True):
        batch = plain.data_collator([row])
        labels = batch.pop("labels")
        log_probs = plain.model(**batch).logits[0, :-1].log_softmax(-1)
        real = labels[0, 1:] != -100
        total = total - weight * log_probs[real, labels[0, 1:][real]].sum()
    total.backward()
    expected = {name: each.grad for name, each in plain.model.named_parameters() if each.grad is not None}
    assert found[0] == pytest.approx(total.item(), rel=1e-5)
    check_gradients(found[1], expected)


def test_a_weight_of_two_is_the_document_twice(tokenizer, tmp_path, monkeypatch):
    found = whole_batch(*weighted(SFTTrainer, (1, 2, 1, 1), tokenizer, tmp_path, monkeypatch))
    model = make_model("llama", tokenizer, monkeypatch, lora=True)
    plain = make_trainer(SFTTrainer, model, tokenizer, tmp_path)
    expected = whole_batch(plain, [*ROWS, ROWS[1]])
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    check_gradients(found[1], expected[1])


def first_gradients(kind, size, accumulation, tokenizer, folder, monkeypatch):
    callback = FirstGradients()
    options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation, "max_grad_norm": 0}
    options |= {"callbacks": [callback], "max_steps": 1}
    rows, weights = [*ROWS, *ROWS[::-1]], (*WEIGHTS, 3.0, 0.25, 1.0, 4.0)
    weighted(kind, weights, tokenizer, folder, monkeypatch, rows, **options)[0].train()
    return callback.gradients


@pytest.mark.parametrize("kind", KINDS)
def test_accumulation_does_not_change_gradients(kind, tokenizer, tmp_path, monkeypatch):
    expected = first_gradients(SFTTrainer, 8, 1, tokenizer, tmp_path, monkeypatch)
    for size, accumulation in ((8, 1), (4, 2), (2, 4), (1, 8)):
        check_gradients(first_gradients(kind, size, accumulation, tokenizer, tmp_path, monkeypatch), expected)


SCRIPT = """
import os, sys
import tiny, torch
from trl import SFTTrainer
from test_weighting import first_gradients

gradients = first_gradients(SFTTrainer, 2, 2, tiny.make_tokenizer(), ".", None)
assert torch.distributed.get_world_size() == 2
torch.save({name.removeprefix("module."): value for name, value in gradients.items()}, os.environ["RANK"])
"""


def test_two_processes_have_the_gradients_of_one(tokenizer, tmp_path, monkeypatch):
    expected = first_gradients(SFTTrainer, 8, 1, tokenizer, tmp_path, monkeypatch)
    run_in_two_processes(SCRIPT, tmp_path)
    for rank in "01":
        check_gradients(torch.load(tmp_path / rank), expected)


def rare(folder, multi_label):
    """Documents of which few have the label tech."""
    rows = [row for row in make_rows(60, multi_label=multi_label) if "tech" not in row["label"]][:30]
    rows += [row for row in make_rows(60, multi_label=multi_label) if "tech" in row["label"]][:3]
    files = {f"{split}_file": write_jsonl(folder / f"{split}.jsonl", rows) for split in ("train", "validation", "test")}
    return files, load_data(DataArguments(**files, multi_label=multi_label))


def balanced(checkpoint, data, folder, **values):
    model = InstructionModelArguments(model_name_or_path=checkpoint, dtype="float32", lora_dropout=0.0)
    settings = {**TRAINING, "activation_checkpointing": False, "max_length": 96, **values}
    arguments = InstructionTrainingArguments(str(folder), **settings)
    template, verbalizer = PROMPT.template(96, "tail"), PROMPT.verbalizer(data.label_space)
    run = RunArguments(class_weight="balanced")
    tokenizer = prepare(model, arguments)
    return instruction_trainer(data, tokenizer, template, verbalizer, model, arguments, run), model


@pytest.mark.parametrize("multi_label", [False, True])
def test_balanced_weights_of_a_run(multi_label, checkpoint, tmp_path):
    files, data = rare(tmp_path, multi_label)
    trainer, model = balanced(checkpoint, data, tmp_path / "run")
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(33)])
    weights = batch["weights"].numpy()
    assert weights.mean() == pytest.approx(1)
    if multi_label:
        gold = data.gold("train")
        sizes = [*gold.sum(0), (gold.sum(1) == 0).sum()]
        each = [np.mean([1 / sizes[label] for label in (np.flatnonzero(row) if row.any() else [3])]) for row in gold]
        np.testing.assert_allclose(weights, np.array(each) / np.mean(each), rtol=1e-5)
    else:
        expected = np.array(data.balanced_weights()["class_weights"])[data.gold("train")]
        np.testing.assert_allclose(weights, expected, rtol=1e-5)
    evaluated = [trainer.eval_dataset[row] for row in range(33)]
    np.testing.assert_array_equal(trainer.data_collator(evaluated)["weights"], batch["weights"])
    facts = training_facts(trainer, data, DataArguments(**files), model)
    assert facts["arguments"]["balanced_classes"] is True
    rows = data.gold("train") if multi_label else np.eye(3)[data.gold("train")]
    np.testing.assert_allclose(facts["prior"], weights @ rows / 33, rtol=1e-5)
    if not multi_label:
        np.testing.assert_allclose(facts["prior"], [1 / 3] * 3)
    trainer.train()
    assert trainer.evaluate()["eval_loss"] > 0


def test_a_label_without_training_documents_has_a_weight(tmp_path):
    labels = LabelSpace(["sport", "business", "tech", "film"])
    train = write_jsonl(tmp_path / "train.jsonl", make_rows(12))
    data = load_data(DataArguments(train_file=train, test_file=train, label_list=list(labels.names)))
    weights = np.array(data.weighted("train")["weight"])
    assert np.isfinite(weights).all()
    assert weights.mean() == pytest.approx(1)


@pytest.mark.parametrize("values", [{"label_smoothing_factor": 0.1}, {"loss_type": "dft"}])
def test_a_loss_that_weights_do_not_reach_is_refused_before_the_model_is_loaded(
    values, checkpoint, tmp_path, monkeypatch
):
    _, data = rare(tmp_path, multi_label=False)
    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", lambda *args, **kwargs: pytest.fail("loaded"))
    with pytest.raises(ValueError, match=r"goes neither with label_smoothing_factor .* nor with loss_type"):
        balanced(checkpoint, data, tmp_path / "run", **values)
