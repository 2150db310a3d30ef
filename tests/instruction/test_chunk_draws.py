"""Instruction-based training on documents in chunks: a batch has one of a document's, drawn anew each epoch."""

import random
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from test_chunk_training import write_data

from hf_causal_clf import LabelSpace, PromptTemplate, Verbalizer, VerbalizerCollator
from hf_causal_clf.instruction.arguments import InstructionModelArguments, InstructionTrainingArguments
from hf_causal_clf.instruction.trainer import instruction_trainer
from hf_causal_clf.training.arguments import PromptArguments, RunArguments
from hf_causal_clf.training.train import prepare, train

LONG = "".join(f"the cat sat on a mat {index}. " for index in range(30))
TRAINING = {
    "optim": "adamw_torch",
    "learning_rate": 1e-2,
    "num_train_epochs": 2,
    "max_length": 60,
    "eval_strategy": "no",
    "save_strategy": "no",
    "load_best_model_at_end": False,
    "activation_checkpointing": False,
    "report_to": "none",
    "logging_steps": 1,
}


def make_collator(tokenizer, long_documents="chunks"):
    template = PromptTemplate("Sort.", max_length=60, long_documents=long_documents)
    return VerbalizerCollator(tokenizer, template, Verbalizer(LabelSpace(["sport", "tech"])))


def drawn(collator, epochs):
    chunks = [tuple(ids) for ids in collator.encoder.chunks(LONG)]
    found = []
    for collator.epoch in epochs:
        ids, labels = collator.encode(LONG, "tech")
        prompt = tuple(ids[: labels.count(-100)])
        assert ids[len(prompt) :] == collator.encoder.target_ids("tech")
        found.append(chunks.index(prompt))
    return found, len(chunks)


def test_every_chunk_is_drawn_equally_often(tokenizer):
    found, chunks = drawn(make_collator(tokenizer), range(600))
    counts = Counter(found)
    assert chunks > 4
    assert set(counts) == set(range(chunks))
    assert max(counts.values()) < 2 * min(counts.values())


def test_a_draw_depends_on_the_epoch_and_the_document_alone(tokenizer):
    random.seed(0)
    one, _ = drawn(make_collator(tokenizer), range(20))
    random.seed(1)
    collator = make_collator(tokenizer)
    collator([{"text": LONG + "x", "label": "sport"}] * 5)
    other, _ = drawn(collator, range(20))
    assert one == other
    assert len(set(one)) > 1


def test_without_an_epoch_draws_differ_all_the_same(tokenizer):
    found, _ = drawn(make_collator(tokenizer), [None] * 40)
    assert len(set(found)) > 3


def test_documents_that_fit_are_batched_as_without_chunks(tokenizer):
    rows = [{"text": "the cat", "label": "sport"}, {"text": "phones", "label": "tech"}]
    state = random.getstate()
    found, expected = (make_collator(tokenizer, way)(rows) for way in ("chunks", "truncate"))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert random.getstate() == state


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("long"))


def make_trainer(checkpoint, data, output, long_documents="chunks", **training):
    model_arguments = InstructionModelArguments(
        model_name_or_path=checkpoint, dtype="float32", lora_r=4, lora_dropout=0.1
    )
    arguments = InstructionTrainingArguments(str(output), **{**TRAINING, **training})
    prompt = PromptArguments(instruction="Sort.")
    tokenizer = prepare(model_arguments, arguments)
    template = prompt.template(arguments.max_length, "tail", long_documents)
    run = RunArguments(early_stopping_patience=0, long_documents=long_documents)
    verbalizer = prompt.verbalizer(data.label_space)
    return instruction_trainer(data, tokenizer, template, verbalizer, model_arguments, arguments, run)


def trained(trainer):
    train(trainer)
    return {name: weight.detach() for name, weight in trainer.model.named_parameters() if weight.requires_grad}


def test_a_resumed_run_ends_exactly_as_the_uninterrupted_one(checkpoint, data, tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": None}
    whole = trained(make_trainer(checkpoint, data, tmp_path, **options))
    again = make_trainer(checkpoint, data, tmp_path, **options, resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    torch.testing.assert_close(trained(again), whole, rtol=0.0, atol=0.0)
    cut = trained(make_trainer(checkpoint, data, tmp_path / "cut", "truncate"))
    assert any(not torch.allclose(cut[name], weight) for name, weight in whole.items())


def test_the_epoch_is_told_unless_workers_would_not_hear_of_it(checkpoint, data, tmp_path):
    for persistent in (False, True):
        workers = {"dataloader_persistent_workers": True, "dataloader_num_workers": 1} if persistent else {}
        trainer = make_trainer(checkpoint, data, tmp_path / str(persistent), **workers)
        state = SimpleNamespace(epoch=3.5)
        trainer.callback_handler.callbacks = [
            callback for callback in trainer.callback_handler.callbacks if type(callback).__name__ == "EpochOfDraws"
        ]
        trainer.callback_handler.on_epoch_begin(trainer.args, state, trainer.control)
        assert trainer.data_collator.epoch == (None if persistent else 3)
