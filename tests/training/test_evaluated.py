"""What is kept of the evaluations in training is what the finished run gives, bit by bit."""

import numpy as np
import pytest
from test_train import embedding_arguments

from hf_causal_clf import TextClassifier
from hf_causal_clf.backbone.settings import base_model_of
from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.data.splits import load_data
from hf_causal_clf.embedding.arguments import HeadArguments
from hf_causal_clf.embedding.trainer import embedding_trainer
from hf_causal_clf.finishing import describe_run, measure_run, save_run
from hf_causal_clf.instruction.arguments import InstructionModelArguments, InstructionTrainingArguments
from hf_causal_clf.instruction.trainer import instruction_trainer
from hf_causal_clf.task.documents import DocumentEncoder
from hf_causal_clf.training.arguments import PromptArguments, RunArguments
from hf_causal_clf.training.evaluated import evaluated_logits
from hf_causal_clf.training.train import prepare, train

FAST = {"optim": "adamw_torch", "report_to": "none", "dataloader_pin_memory": False, "learning_rate": 1e-2}


def embedding(checkpoint, folder, files, run, *, model=None, **training):
    data, model_arguments, arguments = embedding_arguments(
        checkpoint, folder, files, **{"num_train_epochs": 2, **training}
    )
    change(model_arguments, model)
    tokenizer = prepare(model_arguments, arguments)
    encoder = DocumentEncoder(tokenizer, 32, long_documents=run.long_documents)
    head = HeadArguments(pooling="last")
    trainer = embedding_trainer(data, tokenizer, encoder, model_arguments, arguments, head, run)
    return (
        data,
        tokenizer,
        trainer,
        describe_run(encoder, base_model_of(model_arguments), data.label_space, pooling="last"),
    )


def instruction(checkpoint, folder, files, run, *, model=None, **training):
    data = load_data(DataArguments(**files))
    model_arguments = InstructionModelArguments(model_name_or_path=checkpoint, dtype="float32", lora_r=8)
    change(model_arguments, model)
    values = {**FAST, "num_train_epochs": 2, "max_length": 128, "activation_checkpointing": False, **training}
    arguments = InstructionTrainingArguments(str(folder), **values)
    prompt = PromptArguments()
    verbalizer, template = prompt.verbalizer(data.label_space), prompt.template(128, "tail", run.long_documents)
    tokenizer = prepare(model_arguments, arguments)
    trainer = instruction_trainer(data, tokenizer, template, verbalizer, model_arguments, arguments, run)
    encoder = template.bind(tokenizer, verbalizer)
    return (
        data,
        tokenizer,
        trainer,
        describe_run(encoder, base_model_of(model_arguments), data.label_space, pooling=None),
    )


def change(model_arguments, values):
    for name, value in (values or {}).items():
        setattr(model_arguments, name, value)


def both(build, checkpoint, folder, files, run=None, **options):
    """The logits that are kept, and those of the saved run; with the trainer's state."""
    data, tokenizer, trainer, described = build(checkpoint, folder, files, run or RunArguments(), **options)
    train(trainer)
    state, kept = trainer.state, evaluated_logits(trainer)
    batch_size = trainer.args.per_device_eval_batch_size
    saved = save_run(trainer, tokenizer, described)
    classifier = TextClassifier.from_pretrained(saved, calibrated=False, batch_size=batch_size)
    return kept, classifier.scorer.logits(data.texts("validation")), state, (saved, data, batch_size)


APPROACHES = pytest.mark.parametrize("build", [embedding, instruction])
MODELS = {
    "float32": {},
    "bfloat16": {"dtype": "bfloat16"},
    "nf4": {"load_in_4bit": True, "dtype": "bfloat16"},
    "full": {"use_peft": False},
}


@pytest.mark.parametrize("model", list(MODELS))
@APPROACHES
def test_they_are_the_finished_runs(build, model, checkpoint, files, tmp_path):
    options = {"learning_rate": 1e-3} if model == "full" else {}
    kept, finished, _, _ = both(build, checkpoint, tmp_path / "run", files, model=MODELS[model], **options)
    np.testing.assert_array_equal(kept, finished)
    assert len(np.unique(kept.round(4), axis=0)) > 10  # the documents differ


@APPROACHES
def test_multi_label(build, checkpoint, multi_label_files, tmp_path):
    files = {**multi_label_files, "multi_label": True}
    kept, finished, _, _ = both(build, checkpoint, tmp_path / "run", files, per_device_eval_batch_size=4)
    np.testing.assert_array_equal(kept, finished)


@APPROACHES
def test_of_the_best_checkpoint_and_not_of_the_last(build, checkpoint, files, tmp_path):
    best = []
    for greater in (True, False):  # of two evaluations, one of the two takes the first
        options = {"metric_for_best_model": "nll", "greater_is_better": greater, "num_train_epochs": 2}
        run = RunArguments(early_stopping_patience=0)
        kept, finished, state, _ = both(build, checkpoint, tmp_path / str(greater), files, run, **options)
        np.testing.assert_array_equal(kept, finished)
        best.append(state.best_global_step / state.global_step)
    assert sorted(best) == [0.5, 1]


@APPROACHES
def test_of_the_last_step_where_that_is_kept(build, checkpoint, files, tmp_path):
    last = {"load_best_model_at_end": False, "save_strategy": "no"}
    kept, finished, _, _ = both(build, checkpoint, tmp_path / "run", files, num_train_epochs=2, **last)
    np.testing.assert_array_equal(kept, finished)


@APPROACHES
def test_none_where_the_last_weights_were_not_evaluated(build, checkpoint, files, tmp_path):
    steps = {"max_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": False}
    data, _, trainer, _ = build(checkpoint, tmp_path, files, RunArguments(), save_strategy="no", **steps)
    train(trainer)
    assert len(evaluated_logits(trainer)) == len(data.splits["validation"])
    trainer.state.global_step += 1
    assert evaluated_logits(trainer) is None


@APPROACHES
def test_none_with_attention_that_was_asked_for_or_mixed_precision(build, checkpoint, files, tmp_path):
    options = {"max_steps": 1, "eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1, "save_steps": 1}
    model = {"attn_implementation": "eager"}
    assert both(build, checkpoint, tmp_path / "eager", files, model=model, **options)[0] is None
    mixed = {**options, "bf16": True, "use_cpu": True}
    assert both(build, checkpoint, tmp_path / "mixed", files, **mixed)[0] is None


def test_chunks_are_run_in_other_batches_by_a_head_and_not_by_label_scoring(checkpoint, files, tmp_path):
    run = RunArguments(long_documents="chunks")
    options = {"max_steps": 1, "eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1, "save_steps": 1}
    assert both(embedding, checkpoint, tmp_path / "head", files, run, **options)[0] is None
    kept, finished, _, _ = both(instruction, checkpoint, tmp_path / "labels", files, run, **options)
    np.testing.assert_array_equal(kept, finished)


@APPROACHES
def test_a_resumed_run_has_those_of_evaluations_since(build, checkpoint, files, tmp_path):
    """The best checkpoint may be of the start that was cut off: then nothing is known of it."""
    options = {"metric_for_best_model": "nll", "greater_is_better": True, "num_train_epochs": 2}
    run = RunArguments(early_stopping_patience=0)
    _, finished, state, _ = both(build, checkpoint, tmp_path / "run", files, run, **options)
    resumed = {**options, "resume_from_checkpoint": str(tmp_path / "run" / f"checkpoint-{state.global_step}")}
    kept, again, _, _ = both(build, checkpoint, tmp_path / "run", files, run, **resumed)
    assert kept is None
    np.testing.assert_array_equal(again, finished)


@APPROACHES
def test_metrics_are_the_same_and_validation_is_not_run_again(build, checkpoint, files, tmp_path, monkeypatch):
    kept, _, _, (saved, data, batch_size) = both(build, checkpoint, tmp_path / "run", files)
    read, original = [], TextClassifier.from_pretrained

    def recorded(*args, **kwargs):
        classifier = original(*args, **kwargs)
        encode = classifier.scorer.encoder.whole_ids
        classifier.scorer.encoder.whole_ids = lambda text: read.append(text) or encode(text)
        return classifier

    monkeypatch.setattr(TextClassifier, "from_pretrained", recorded)
    training = {"train_loss": 1.0}
    expected = measure_run(saved, data, training, batch_size=batch_size)
    assert set(data.texts("validation")) <= set(read)
    read.clear()
    found = measure_run(saved, data, training, batch_size=batch_size, validation=kept)
    assert not set(data.texts("validation")) & set(read)
    for metrics in (found.metrics, expected.metrics):
        metrics["training"].pop("predict_samples_per_second")
    assert found.metrics == expected.metrics


def test_evaluations_of_label_scoring_tokenise_no_document_again(checkpoint, files, tmp_path, monkeypatch):
    data, _, trainer, _ = instruction(checkpoint, tmp_path, files, RunArguments(early_stopping_patience=0))
    callback = next(each for each in trainer.callback_handler.callbacks if hasattr(each, "scorer"))
    monkeypatch.setattr(callback.scorer.encoder, "whole_ids", None)
    assert len(callback.scorer.logits_of(callback.documents)) == len(data.texts("validation"))
