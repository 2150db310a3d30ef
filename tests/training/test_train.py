import json
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from conftest import make_rows, write_jsonl
from datasets import Dataset
from safetensors.torch import load_file
from transformers import (
    BertConfig,
    BitsAndBytesConfig,
    T5Config,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from hf_causal_clf import CausalLMForLastTokenClassification, LabelSpace, TextClassifier
from hf_causal_clf.backbone.settings import base_model_of, base_weights, peft_config, quantization_settings
from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.data.splits import load_data
from hf_causal_clf.embedding.arguments import EmbeddingModelArguments, EmbeddingTrainingArguments, HeadArguments
from hf_causal_clf.embedding.collator import ClassificationCollator
from hf_causal_clf.embedding.trainer import embedding_trainer
from hf_causal_clf.evaluation.calibration import fit_calibration
from hf_causal_clf.evaluation.metrics import classification_metrics
from hf_causal_clf.finishing import describe_run, finish_run, measure_run, print_run, save_run
from hf_causal_clf.instruction.arguments import InstructionModelArguments, InstructionTrainingArguments
from hf_causal_clf.instruction.trainer import instruction_trainer
from hf_causal_clf.runs.measuring import generation_metrics
from hf_causal_clf.task.documents import DocumentEncoder
from hf_causal_clf.training.arguments import PromptArguments, RunArguments
from hf_causal_clf.training.facts import training_facts
from hf_causal_clf.training.train import prepare, train

LABELS = LabelSpace(["a", "b", "c"])
MULTI = LabelSpace(["a", "b", "c"], multi_label=True)
RUN_FILES = {
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "chat_template.jinja",
    "classification.json",
    "config",
    "figures",
    "manifest.json",
    "metrics.json",
    "predictions.parquet",
    "tokenizer.json",
    "tokenizer_config.json",
    "report.html",
}


class FirstGradients(TrainerCallback):
    """Keeps the gradients of the first optimizer step."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if not hasattr(self, "gradients"):
            self.gradients = {
                name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None
            }


def first_gradients(model, labels, folder, batch_size, steps):
    """Gradients of one optimizer step over the same eight documents, of different lengths."""
    draw = np.random.default_rng(0)
    rows = [
        {
            "input_ids": draw.integers(3, 300, size=4 + index).tolist(),
            "labels": labels.encode(["a", "b", "c"][index % 3] if not labels.multi_label else ["a", "b"][: index % 3]),
        }
        for index in range(8)
    ]
    callback = FirstGradients()
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            str(folder),
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=steps,
            max_steps=1,
            max_grad_norm=0,
            report_to="none",
            save_strategy="no",
        ),
        train_dataset=Dataset.from_list(rows),
        data_collator=ClassificationCollator(labels),
        callbacks=[callback],
    )
    trainer.train()
    return callback.gradients


@pytest.mark.parametrize("labels", [LABELS, MULTI], ids=["single", "multi"])
def test_accumulation_does_not_change_gradients(checkpoint, tmp_path, labels):
    def model():
        torch.manual_seed(0)
        extra = {} if labels.multi_label else {"class_weights": [1.0, 2.0, 0.5], "label_smoothing": 0.1}
        return CausalLMForLastTokenClassification.from_pretrained(checkpoint, label_space=labels, **extra)

    whole = first_gradients(model(), labels, tmp_path, 8, 1)
    assert len(whole) > 10
    for batch_size, steps in ((4, 2), (1, 8)):
        parts = first_gradients(model(), labels, tmp_path, batch_size, steps)
        for name, gradient in whole.items():
            torch.testing.assert_close(parts[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


def embedding_arguments(checkpoint, output, files, **training):
    data = load_data(DataArguments(**files))
    model_arguments = EmbeddingModelArguments(model_name_or_path=checkpoint, dtype="float32", lora_dropout=0.0)
    values = {
        "learning_rate": 1e-2,
        "num_train_epochs": 3,
        "optim": "adamw_torch",
        "report_to": "none",
        "max_length": 32,
        "dataloader_pin_memory": False,
    }
    return data, model_arguments, EmbeddingTrainingArguments(str(output), **{**values, **training})


def run_embedding(checkpoint, output, files, head=None, run=None, **training):
    data, model_arguments, arguments = embedding_arguments(checkpoint, output, files, **training)
    head, run = head or HeadArguments(pooling="last"), run or RunArguments()
    tokenizer = prepare(model_arguments, arguments)
    encoder = DocumentEncoder(tokenizer, arguments.max_length, run.truncation)
    trainer = embedding_trainer(data, tokenizer, encoder, model_arguments, arguments, head, run)
    training_metrics = train(trainer)
    history = trainer.state
    facts = training_facts(trainer, data, DataArguments(**files), model_arguments)
    base = base_model_of(model_arguments)
    described = describe_run(encoder, base, data.label_space, pooling=head.pooling, training=facts)
    return data, finished(trainer, tokenizer, described, data, training_metrics), history


def finished(trainer, tokenizer, run, data, training):
    """Save, measure and finish a run as the recipes do; return its metrics."""
    saved = save_run(trainer, tokenizer, run)
    measured = measure_run(saved, data, training, batch_size=8, generate="all")
    finish_run(saved, data, measured, log_history=trainer.state.log_history)
    print_run(trainer.args.output_dir, measured.metrics, multi_label=data.label_space.multi_label)
    return measured.metrics


def check_run_folder(output: Path, data, metrics) -> None:
    """The folder has exactly the promised files, and they agree with each other and with the classifier."""
    assert {path.name for path in output.iterdir()} == RUN_FILES
    assert json.loads((output / "metrics.json").read_text()) == metrics
    assert {"validation", "test", "majority", "calibration", "training"} == set(metrics)
    kinds = {"reliability_diagram", "label_f1", "thresholds", "training_curves"}
    kinds |= set() if data.label_space.multi_label else {"confusion_matrix"}
    conformal = TextClassifier.from_pretrained(output).run.conformal
    kinds |= {"set_sizes"} if conformal is not None and conformal.documents >= 50 else set()
    assert {path.name for path in (output / "figures").iterdir()} == {
        f"{k}.{s}" for k in kinds for s in ("json", "png", "svg")
    }
    rows = Dataset.from_parquet(str(output / "predictions.parquet"), keep_in_memory=True)
    assert rows.column_names == ["id", "gold", "predicted", "probabilities"]
    probabilities = np.array(list(rows["probabilities"]))
    again = TextClassifier.from_pretrained(output)
    np.testing.assert_allclose(again.predict_proba(data.texts("test")), probabilities, atol=1e-5)
    assert again.predict(data.texts("test")) == list(rows["predicted"])
    space = data.label_space
    assert list(rows["gold"]) == [space.decode(space.encode(label)) for label in data.splits["test"]["label"]]
    decisions = again.calibration.decide(probabilities, multi_label=space.multi_label)
    recomputed = classification_metrics(data.gold("test"), probabilities, decisions)
    assert {name: metrics["test"][name] for name in recomputed} == pytest.approx(recomputed, abs=1e-5)
    assert {
        "trainable_parameters",
        "total_parameters",
        "train_samples_per_second",
        "predict_samples_per_second",
        "peak_memory_bytes",
    } <= set(metrics["training"])


@pytest.mark.figures
def test_embedding_run(checkpoint, files, tmp_path):
    data, metrics, history = run_embedding(checkpoint, tmp_path / "run", files, num_train_epochs=6)
    check_run_folder(tmp_path / "run", data, metrics)
    losses = [entry["eval_loss"] for entry in history.log_history if "eval_loss" in entry]
    assert losses[-1] < 0.8 * losses[0]
    assert metrics["training"]["best_f1_macro"] == pytest.approx(metrics["validation"]["f1_macro"])
    saved = json.loads((tmp_path / "run" / "classification.json").read_text())
    assert saved["approach"] == "embedding"
    assert saved["label_space"] == {"names": ["business", "sport", "tech"], "multi_label": False}
    assert saved["truncation"] == {"max_length": 32, "side": "tail", "long_documents": "truncate"}
    assert saved["training"]["text_column"] == "text"


@pytest.mark.figures
def test_embedding_run_multi_label_with_all_the_options(checkpoint, multi_label_files, tmp_path):
    files = {**multi_label_files, "multi_label": True}
    head = HeadArguments(pooling="mean")
    run = RunArguments(truncation="both", early_stopping_patience=0, class_weight="balanced")
    data, metrics, _ = run_embedding(
        checkpoint, tmp_path / "run", files, head, run, num_train_epochs=1, activation_checkpointing=True
    )
    check_run_folder(tmp_path / "run", data, metrics)
    model = CausalLMForLastTokenClassification.from_pretrained(tmp_path / "run")
    assert model.config.pooling == "mean"
    assert model.config.label_space == data.label_space


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_run_is_calibrated_on_its_validation_documents(checkpoint, tmp_path, multi_label):
    splits = {"train": (24, 0), "validation": (60, 100), "test": (20, 200)}
    files = {
        f"{split}_file": write_jsonl(tmp_path / f"{split}.jsonl", make_rows(*size, multi_label))
        for split, size in splits.items()
    }
    data, metrics, _ = run_embedding(
        checkpoint, tmp_path / "run", {**files, "multi_label": multi_label}, num_train_epochs=2
    )
    check_run_folder(tmp_path / "run", data, metrics)
    raw = TextClassifier.from_pretrained(tmp_path / "run", calibrated=False)
    validation = raw.scorer.logits(data.texts("validation"))
    expected = fit_calibration(data.gold("validation"), validation)
    assert expected.temperature not in (None, 1.0)
    classifier = TextClassifier.from_pretrained(tmp_path / "run")
    np.testing.assert_allclose(classifier.calibration.temperature, expected.temperature, rtol=1e-3)
    np.testing.assert_allclose(
        classifier.predict_proba(data.texts("validation")),
        expected.apply(validation, multi_label=multi_label),
        atol=1e-3,
    )
    assert metrics["validation"]["nll"] < metrics["validation"]["uncalibrated_nll"]
    before = classification_metrics(data.gold("test"), raw.predict_proba(data.texts("test")))
    assert metrics["test"]["uncalibrated_ece"] == pytest.approx(before["ece"], abs=1e-4)
    if multi_label:  # thresholds are fitted to each label's F1, so their mean cannot be lower
        assert metrics["validation"]["f1_macro"] >= metrics["validation"]["uncalibrated_f1_macro"]


def test_class_weights_are_those_of_scikit_learn(checkpoint, files, tmp_path):
    from sklearn.utils.class_weight import compute_class_weight

    data, model_arguments, arguments = embedding_arguments(checkpoint, tmp_path, files, label_smoothing_factor=0.1)
    tokenizer = prepare(model_arguments, arguments)
    trainer = embedding_trainer(
        data,
        tokenizer,
        DocumentEncoder(tokenizer, 32),
        model_arguments,
        arguments,
        HeadArguments(pooling="last"),
        RunArguments(class_weight="balanced"),
    )
    gold = data.gold("train")
    config = trainer.model.config
    np.testing.assert_allclose(config.class_weights, compute_class_weight("balanced", classes=np.arange(3), y=gold))
    assert config.label_smoothing == 0.1
    assert trainer.label_smoother is None  # the model's own loss does it


def test_early_stopping_and_best_checkpoint(checkpoint, files, tmp_path):
    run = RunArguments(early_stopping_patience=1)
    _, metrics, state = run_embedding(checkpoint, tmp_path / "run", files, run=run, num_train_epochs=30)
    evaluations = [entry["eval_f1_macro"] for entry in state.log_history if "eval_f1_macro" in entry]
    assert len(evaluations) < 30
    assert metrics["validation"]["f1_macro"] == pytest.approx(max(evaluations))


def run_instruction(checkpoint, output, files, prompt=None, run=None, **training):
    data = load_data(DataArguments(**files))
    model_arguments = InstructionModelArguments(
        model_name_or_path=checkpoint, dtype="float32", lora_r=8, lora_dropout=0.0
    )
    values = {
        "learning_rate": 1e-2,
        "warmup_steps": 0,
        "num_train_epochs": 2,
        "optim": "adamw_torch",
        "report_to": "none",
        "max_length": 128,
        "activation_checkpointing": False,
        "dataloader_pin_memory": False,
    }
    arguments = InstructionTrainingArguments(str(output), **{**values, **training})
    prompt, run = prompt or PromptArguments(), run or RunArguments()
    verbalizer = prompt.verbalizer(data.label_space)
    template = prompt.template(arguments.max_length, run.truncation)
    tokenizer = prepare(model_arguments, arguments)
    encoder = template.bind(tokenizer, verbalizer)
    trainer = instruction_trainer(data, tokenizer, template, verbalizer, model_arguments, arguments, run)
    training_metrics = train(trainer)
    state = trainer.state
    facts = training_facts(trainer, data, DataArguments(**files), model_arguments, encoder)
    base = base_model_of(model_arguments)
    described = describe_run(encoder, base, data.label_space, pooling=None, training=facts)
    return data, finished(trainer, tokenizer, described, data, training_metrics), state


def test_projecting_answers_only_gives_the_same_loss_and_gradients(checkpoint, files, tmp_path, monkeypatch):
    from trl.trainer import utils

    data = load_data(DataArguments(**files))
    model_arguments = InstructionModelArguments(model_name_or_path=checkpoint, dtype="float32", lora_dropout=0.0)
    arguments = InstructionTrainingArguments(str(tmp_path), max_length=128, activation_checkpointing=False)
    verbalizer = PromptArguments().verbalizer(data.label_space)
    template = PromptArguments().template(128, "tail")
    tokenizer = prepare(model_arguments, arguments)
    run = RunArguments(early_stopping_patience=0)
    trainer = instruction_trainer(data, tokenizer, template, verbalizer, model_arguments, arguments, run)
    rows = [data.splits["train"][row] for row in range(5)]
    batch = trainer.data_collator(rows)
    projected = []
    apply = utils._ChunkedLogProbFunction.apply
    monkeypatch.setattr(
        utils._ChunkedLogProbFunction,
        "apply",
        lambda hidden, *rest: projected.append(len(hidden)) or apply(hidden, *rest),
    )
    found = []
    for decide in (utils._use_triton, lambda device: False):  # TRL's own on a CPU: every position
        monkeypatch.setattr(utils, "_use_triton", decide)
        trainer.model.zero_grad()
        loss = trainer.compute_loss(trainer.model, dict(batch))
        loss.backward()
        found.append((loss.item(), [p.grad.clone() for p in trainer.model.parameters() if p.grad is not None]))
    assert projected == [int((batch["labels"] != -100).sum()), batch["labels"][:, 1:].numel()]
    (loss, gradients), (expected_loss, expected) = found
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert any(gradient.abs().max() > 1e-6 for gradient in expected)
    for gradient, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-6)


@pytest.mark.figures
def test_instruction_run(checkpoint, files, tmp_path):
    prompt = PromptArguments(use_chat_template=True, answers='{"tech": "computers and phones"}')
    data, metrics, state = run_instruction(checkpoint, tmp_path / "run", files, prompt)
    check_run_folder(tmp_path / "run", data, metrics)
    evaluations = [entry["eval_f1_macro"] for entry in state.log_history if "eval_f1_macro" in entry]
    assert len(evaluations) == 2
    assert metrics["training"]["best_f1_macro"] == max(evaluations)
    assert metrics["validation"]["f1_macro"] == pytest.approx(max(evaluations))
    assert metrics["test"]["malformed_rate"] < 0.5
    classifier = TextClassifier.from_pretrained(tmp_path / "run")
    answers = classifier.generate(data.texts("test"))
    scored = data.label_space.encode_batch(classifier.predict(data.texts("test")))
    expected = generation_metrics(answers, data.gold("test"), data.label_space, scored)
    assert expected.items() <= metrics["test"].items()
    assert expected["generation_scoring_f1_macro"] == metrics["test"]["f1_macro"]
    assert classifier.scorer.verbalizer.answers[2] == "computers and phones"


def test_a_model_that_would_know_the_answer_is_refused(tokenizer, files, tmp_path):
    base = tiny.save_checkpoint(tmp_path / "base", "llama", tokenizer, is_causal=False)
    with pytest.raises(ValueError, match=r"a token sees those after it.* Train a head on it, with embed\.py"):
        run_instruction(base, tmp_path / "run", files)


def test_instruction_run_multi_label(checkpoint, multi_label_files, tmp_path):
    data, metrics, _ = run_instruction(checkpoint, tmp_path / "run", {**multi_label_files, "multi_label": True})
    check_run_folder(tmp_path / "run", data, metrics)


@pytest.mark.parametrize("approach", [run_embedding, run_instruction])
def test_a_resumed_run_ends_where_the_uninterrupted_one_does(checkpoint, files, tmp_path, approach, monkeypatch):
    _, whole, _ = approach(checkpoint, tmp_path / "whole", files, num_train_epochs=2)

    class Killed(Exception):
        pass

    class Kill(TrainerCallback):
        def on_epoch_begin(self, args, state, control, **kwargs):
            if state.epoch >= 1:
                raise Killed

    original = Trainer.train
    monkeypatch.setattr(Trainer, "train", lambda self, **kwargs: (self.add_callback(Kill()), original(self, **kwargs)))
    with pytest.raises(Killed):
        approach(checkpoint, tmp_path / "run", files, num_train_epochs=2)
    monkeypatch.undo()
    with pytest.raises(
        ValueError, match=r"has checkpoints of a run that did not finish, the last is checkpoint-6\. Go on with"
    ):
        approach(checkpoint, tmp_path / "run", files, num_train_epochs=2)
    _, resumed, _ = approach(checkpoint, tmp_path / "run", files, num_train_epochs=2, resume_from_checkpoint="true")
    assert resumed["test"] == pytest.approx(whole["test"], abs=1e-4)
    assert {path.name for path in (tmp_path / "run").iterdir()} == RUN_FILES


@pytest.mark.parametrize("approach", ["embedding", "instruction"])
def test_full_fine_tuning_leaves_a_full_model(checkpoint, files, tmp_path, approach, monkeypatch):
    kind = {"embedding": "EmbeddingModelArguments", "instruction": "InstructionModelArguments"}[approach]
    original = globals()[kind]
    monkeypatch.setitem(globals(), kind, lambda **kwargs: original(**kwargs, use_peft=False))
    run = {"embedding": run_embedding, "instruction": run_instruction}[approach]
    data, metrics, _ = run(checkpoint, tmp_path / "run", files, num_train_epochs=1, learning_rate=1e-3)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"config.json", "model.safetensors", "metrics.json"} <= names
    assert "adapter_config.json" not in names
    assert metrics["training"]["trainable_parameters"] == metrics["training"]["total_parameters"]
    found = TextClassifier.from_pretrained(tmp_path / "run").predict_proba(data.texts("test"))
    monkeypatch.undo()
    run(checkpoint, tmp_path / "run", files, num_train_epochs=1)
    assert {path.name for path in (tmp_path / "run").iterdir()} == RUN_FILES  # nothing of the full model is left
    recomputed = classification_metrics(data.gold("test"), found)
    assert metrics["test"]["nll"] == pytest.approx(recomputed["nll"], abs=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_length": 300}, r"max_length=300 is beyond the model's context of 256 tokens"),
        ({"resume_from_checkpoint": "true"}, "There is no checkpoint to resume from"),
    ],
)
def test_prepare_names_mistakes(checkpoint, files, tmp_path, change, message):
    _, model_arguments, arguments = embedding_arguments(checkpoint, tmp_path, files, **change)
    with pytest.raises(ValueError, match=message):
        prepare(model_arguments, arguments)


@pytest.mark.parametrize("config", [T5Config(d_model=8, num_layers=1), BertConfig(hidden_size=24)])
def test_only_decoders_are_taken(files, tmp_path, config):
    config.save_pretrained(tmp_path / "other")
    _, model_arguments, arguments = embedding_arguments(str(tmp_path / "other"), tmp_path, files)
    with pytest.raises(ValueError, match=f"is not a decoder-only model, but of type '{config.model_type}'"):
        prepare(model_arguments, arguments)


def test_several_gpus_in_one_process_are_refused(checkpoint, files, tmp_path, monkeypatch):
    _, model_arguments, arguments = embedding_arguments(checkpoint, tmp_path, files)
    monkeypatch.setattr(TrainingArguments, "n_gpu", 2)
    monkeypatch.setattr(sys, "argv", ["recipes/embed.py"])
    with pytest.raises(ValueError, match="One process sees 2 GPUs") as raised:
        prepare(model_arguments, arguments)
    for advice in ("embed --num_processes 2 …", "embed --num_processes 1 --gpu_ids 0 …", "CUDA_VISIBLE_DEVICES=0"):
        assert advice in str(raised.value)


def test_label_smoothing_is_for_single_label(checkpoint, multi_label_files, tmp_path):
    with pytest.raises(ValueError, match="label_smoothing_factor is for single-label tasks"):
        run_embedding(checkpoint, tmp_path, {**multi_label_files, "multi_label": True}, label_smoothing_factor=0.1)


@pytest.mark.parametrize("kind", [EmbeddingTrainingArguments, InstructionTrainingArguments])
def test_the_best_metric_is_large_or_small_by_its_name(tmp_path, kind):
    for name, greater in (("f1_macro", True), ("accuracy", True), ("nll", False), ("loss", False), ("ece", False)):
        assert kind(str(tmp_path), metric_for_best_model=name).greater_is_better is greater
    assert kind(str(tmp_path), metric_for_best_model="nll", greater_is_better=True).greater_is_better
    with pytest.raises(ValueError, match="load_best_model_at_end needs evaluations"):
        kind(str(tmp_path), num_train_epochs=1, eval_strategy="no", save_strategy="no")


def test_diverged_training_says_so(checkpoint, files, tmp_path):
    with pytest.raises(ValueError, match=r"Training diverged.*Lower learning_rate"):
        run_embedding(checkpoint, tmp_path / "run", files, num_train_epochs=1, learning_rate=1e30, max_grad_norm=0)
    assert not (tmp_path / "run" / "metrics.json").exists()


@pytest.mark.parametrize("approach", ["embedding", "instruction"])
def test_a_bfloat16_run_is_reloaded_as_it_was_trained(checkpoint, files, tmp_path, approach, monkeypatch):
    """transformers rounds float32 adapters to the base model's bfloat16 when it loads them."""
    kind = {"embedding": "EmbeddingModelArguments", "instruction": "InstructionModelArguments"}[approach]
    original = globals()[kind]
    monkeypatch.setitem(globals(), kind, lambda **kwargs: original(**{**kwargs, "dtype": "bfloat16"}))
    run = {"embedding": run_embedding, "instruction": run_instruction}[approach]
    _, metrics, state = run(checkpoint, tmp_path / "run", files, num_train_epochs=1, per_device_eval_batch_size=8)
    trained = [entry["eval_nll"] for entry in state.log_history if "eval_nll" in entry]
    assert metrics["validation"]["uncalibrated_nll"] == pytest.approx(trained[-1], abs=2e-2)
    model = TextClassifier.from_pretrained(tmp_path / "run").scorer.model
    saved = load_file(tmp_path / "run" / "adapter_model.safetensors")
    loaded = {f"base_model.model.{name.replace('.default', '')}": value for name, value in model.named_parameters()}
    compared = 0
    for name, weight in saved.items():
        if name in loaded:
            assert torch.equal(loaded[name], weight), name
            compared += 1
    assert compared >= 14


def test_the_trained_model_is_let_go_before_the_saved_one_is_loaded(checkpoint, files, tmp_path):
    data, model_arguments, arguments = embedding_arguments(checkpoint, tmp_path, files, num_train_epochs=1)
    tokenizer = prepare(model_arguments, arguments)
    encoder = DocumentEncoder(tokenizer, 32)
    trainer = embedding_trainer(
        data, tokenizer, encoder, model_arguments, arguments, HeadArguments(pooling="last"), RunArguments()
    )
    train(trainer)
    alive = weakref.ref(trainer.model.base_model.model)
    save_run(
        trainer, tokenizer, describe_run(encoder, base_model_of(model_arguments), data.label_space, pooling="last")
    )
    assert alive() is None


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({}, "No model is given"),
        ({"model_name_or_path": "x", "load_in_4bit": True, "use_peft": False}, "set use_peft to true"),
        ({"model_name_or_path": "x", "load_in_4bit": True, "dtype": "auto"}, "needs a dtype to compute in"),
    ],
)
def test_bad_model_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        EmbeddingModelArguments(**kwargs)


def test_4bit_without_bitsandbytes(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ValueError, match=r"load_in_8bit needs the package bitsandbytes, .* pip install bitsandbytes$"):
        EmbeddingModelArguments(model_name_or_path="x", load_in_4bit=True)


@pytest.mark.parametrize(("kind", "rank"), [(EmbeddingModelArguments, 8), (InstructionModelArguments, 64)])
def test_presets(kind, rank, checkpoint):
    arguments = kind(model_name_or_path=checkpoint, load_in_4bit=True)
    weights = base_weights(arguments)
    quantization = weights.quantization_config
    assert weights.kwargs()["device_map"] == {"": torch.device("cpu")}
    settings = json.loads(json.dumps(quantization_settings(arguments)))
    assert BitsAndBytesConfig(**settings).to_dict() == quantization.to_dict()
    assert quantization.bnb_4bit_quant_type == "nf4"
    assert quantization.bnb_4bit_use_double_quant
    assert quantization.bnb_4bit_compute_dtype == torch.bfloat16
    model = CausalLMForLastTokenClassification.from_pretrained(checkpoint, label_space=LABELS)
    config = peft_config(arguments, model)
    assert config.r == rank
    assert config.target_modules == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert config.task_type == {8: "SEQ_CLS", 64: "CAUSAL_LM"}[rank]
