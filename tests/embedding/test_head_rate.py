"""A learning rate of its own for the head."""

import json

import pytest
import torch
from test_recipes import arguments as command
from test_recipes import run as run_recipe
from test_train import embedding_arguments
from transformers import Trainer, TrainerCallback

from hf_causal_clf.embedding.arguments import EmbeddingTrainingArguments, HeadArguments
from hf_causal_clf.embedding.trainer import embedding_trainer
from hf_causal_clf.task.documents import DocumentEncoder
from hf_causal_clf.training.arguments import RunArguments
from hf_causal_clf.training.train import prepare, train

RATES = {"learning_rate": 1e-3, "head_learning_rate": 5e-2}


class Seen(TrainerCallback):
    """Keeps the learning rates of all steps."""

    def __init__(self):
        self.rates = []

    def on_step_begin(self, args, state, control, optimizer=None, **kwargs):
        self.rates.append([group["lr"] for group in optimizer.param_groups])


def make_trainer(checkpoint, folder, files, model=None, **training):
    training = {"num_train_epochs": 2, "weight_decay": 0.1, "eval_strategy": "no", **training}
    training |= {"load_best_model_at_end": False}
    data, model_arguments, arguments = embedding_arguments(checkpoint, folder, files, **training)
    for name, value in (model or {}).items():
        setattr(model_arguments, name, value)
    tokenizer = prepare(model_arguments, arguments)
    run, encoder = RunArguments(early_stopping_patience=0), DocumentEncoder(tokenizer, 32)
    return embedding_trainer(data, tokenizer, encoder, model_arguments, arguments, HeadArguments(pooling="last"), run)


def weights(trainer):
    return {name: weight.detach().clone() for name, weight in trainer.model.named_parameters() if weight.requires_grad}


def rates(trainer):
    """Learning rate and weight decay of each trained weight."""
    found = {}
    for group in trainer.optimizer.param_groups:
        found |= {id(weight): (group["lr"], group["weight_decay"]) for weight in group["params"]}
    return {name: found[id(weight)] for name, weight in trainer.model.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize(
    ("model", "optim"),
    [
        ({}, "adamw_torch"),
        ({"use_peft": False}, "adamw_torch"),
        ({"load_in_4bit": True, "dtype": "bfloat16"}, "adamw_8bit"),
        ({}, "paged_adamw_32bit"),
        ({}, "sgd"),
    ],
)
def test_rates_and_weight_decay_of_each_weight(model, optim, checkpoint, files, tmp_path):
    plain = make_trainer(checkpoint, tmp_path / "plain", files, model, optim=optim)
    plain.create_optimizer()
    trainer = make_trainer(checkpoint, tmp_path / "run", files, model, optim=optim, **RATES)
    trainer.create_optimizer()
    assert type(trainer.optimizer) is type(plain.optimizer)
    found, expected = rates(trainer), rates(plain)
    assert found.keys() == expected.keys()
    for name, (rate, decay) in found.items():
        assert rate == (5e-2 if "score" in name else 1e-3), name
        assert decay == expected[name][1], name
    assert sum("score" in name for name in found) == 1
    assert len({decay for _, decay in found.values()}) == (1 if model.get("use_peft", True) else 2)
    before = weights(trainer)
    train(trainer)
    assert all(not torch.equal(weight, before[name]) for name, weight in weights(trainer).items())


def test_the_same_rate_is_none(checkpoint, files, tmp_path):
    plain = make_trainer(checkpoint, tmp_path / "plain", files, learning_rate=1e-2)
    train(plain)
    trainer = make_trainer(checkpoint, tmp_path / "run", files, learning_rate=1e-2, head_learning_rate=1e-2)
    train(trainer)
    torch.testing.assert_close(weights(trainer), weights(plain), rtol=0.0, atol=0.0)


def test_a_head_without_a_rate_stays(checkpoint, files, tmp_path):
    trainer = make_trainer(checkpoint, tmp_path / "run", files, head_learning_rate=0.0, weight_decay=0.0)
    before = weights(trainer)
    train(trainer)
    for name, weight in weights(trainer).items():
        assert torch.equal(weight, before[name]) == ("score" in name), name


def test_a_schedule_multiplies_both(checkpoint, files, tmp_path):
    options = {**RATES, "lr_scheduler_type": "linear", "warmup_steps": 0, "max_steps": 4, "logging_steps": 1}
    trainer = make_trainer(checkpoint, tmp_path / "run", files, **options)
    train(trainer)
    logged = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert logged == pytest.approx([1e-3, 0.75e-3, 0.5e-3, 0.25e-3])  # that of all other weights
    ratio = trainer.lr_scheduler.get_last_lr()
    assert ratio == pytest.approx([0.0, 0.0])
    assert trainer.lr_scheduler.base_lrs == [1e-3, 5e-2]


def test_a_resumed_run_goes_on_with_both_rates(checkpoint, files, tmp_path):
    options = {
        **RATES,
        "lr_scheduler_type": "linear",
        "warmup_steps": 0,
        "save_strategy": "steps",
        "save_steps": 5,
        "save_total_limit": 9,
    }
    whole = make_trainer(checkpoint, tmp_path / "run", files, **options)
    train(whole)
    steps = whole.state.max_steps
    checkpoint_folder = str(tmp_path / "run" / "checkpoint-5")
    trainer = make_trainer(checkpoint, tmp_path / "run", files, **options, resume_from_checkpoint=checkpoint_folder)
    seen = Seen()
    trainer.add_callback(seen)
    train(trainer)
    assert seen.rates[0] == pytest.approx([rate * (1 - 5 / steps) for rate in (1e-3, 5e-2)])
    assert len(seen.rates) == steps - 5
    torch.testing.assert_close(weights(trainer), weights(whole), rtol=0.0, atol=0.0)


def test_an_optimizer_that_groups_the_weights_itself(checkpoint, files, tmp_path, monkeypatch):
    own = (torch.optim.AdamW, {"params": [], "lr": 1e-3})
    for found in (own, (lambda: None, {})):
        monkeypatch.setattr(Trainer, "get_optimizer_cls_and_kwargs", staticmethod(lambda *_, found=found: found))
        with pytest.raises(ValueError, match="not possible with adamw_torch, which groups the weights itself"):
            make_trainer(checkpoint, tmp_path / "run", files, **RATES)


def test_mistakes_are_told_with_the_arguments(tmp_path, monkeypatch):
    for rate in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="head_learning_rate must be 0 or more, got"):
            EmbeddingTrainingArguments(str(tmp_path), head_learning_rate=rate)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="head_learning_rate is not possible with FSDP"):
        EmbeddingTrainingArguments(str(tmp_path), head_learning_rate=1e-3)
    EmbeddingTrainingArguments(str(tmp_path))


def test_the_run_and_its_card_say_the_rate(checkpoint, files, tmp_path, monkeypatch):
    options = {"head_learning_rate": "5e-2", "num_train_epochs": "1"}
    run_recipe("embed", command("embed", checkpoint, files, tmp_path / "run", **options), monkeypatch)
    saved = json.loads((tmp_path / "run" / "classification.json").read_text())
    assert saved["training"]["arguments"]["head_learning_rate"] == 5e-2
    assert "the head's 0.05" in (tmp_path / "run" / "README.md").read_text()
