"""What is told of a training before its model is loaded."""

import pytest
from test_train import embedding_arguments
from transformers import Trainer, TrainerState, TrainingArguments

from hf_causal_clf.embedding.arguments import HeadArguments
from hf_causal_clf.embedding.trainer import embedding_trainer
from hf_causal_clf.instruction.arguments import InstructionModelArguments, InstructionTrainingArguments
from hf_causal_clf.instruction.trainer import instruction_trainer
from hf_causal_clf.task.documents import DocumentEncoder
from hf_causal_clf.training.arguments import PromptArguments, RunArguments
from hf_causal_clf.training.callbacks import TimeEstimate
from hf_causal_clf.training.outline import planned_steps, sampled_lengths, tell_outline
from hf_causal_clf.training.train import prepare


def told(capsys, lengths, budget, documents, **arguments):
    settings = TrainingArguments("x", report_to="none", **arguments)
    settings.max_length = 32
    tell_outline(lengths, budget, documents, settings)
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) < 100 for line in lines)
    return [" ".join(line.split()) for line in lines]


def test_lengths_cuts_and_steps(capsys):
    assert told(capsys, range(1, 101), 32, 100, per_device_train_batch_size=8, num_train_epochs=2) == [
        "Tokens of a training document: 50 at the 50th percentile, 95 at the 95th.",
        "max_length=32 cuts 68 of 100 documents: 46.5% of all tokens are not read.",
        "Steps: 13 per epoch, 26 in all at most, each with 8 documents.",
    ]
    assert sum(range(1, 69)) / sum(range(1, 101)) == pytest.approx(0.465, abs=5e-4)


def test_room_beside_a_prompt_and_a_sample(capsys):
    said = " ".join(told(capsys, [10, 20, 30, 40], 25, 5000))
    sample = "(4 of 5,000, drawn at random)"
    assert f"Tokens of a training document {sample}: 25 at the 50th percentile, 38 at the 95th." in said
    assert "max_length=32 leaves 25 tokens for a document, and cuts 2 of 4 documents: 20.0% of" in said


@pytest.mark.parametrize("budget", [40, None])
def test_no_document_is_cut(capsys, budget):
    assert told(capsys, [10, 40], budget, 2)[1] == "max_length=32 cuts none of them."


@pytest.mark.parametrize("documents", [1, 7, 8, 9, 48])
@pytest.mark.parametrize(
    "settings",
    [
        {"per_device_train_batch_size": 8},
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3, "num_train_epochs": 2.5},
        {"per_device_train_batch_size": 4, "max_steps": 5},
        {"per_device_train_batch_size": 1, "dataloader_drop_last": True, "num_train_epochs": 1},
    ],
)
def test_steps_are_those_of_the_trainer(tmp_path, documents, settings):
    import torch

    arguments = TrainingArguments(str(tmp_path), report_to="none", **settings)
    trainer = Trainer(torch.nn.Linear(1, 1), arguments, train_dataset=[{"x": 0}] * documents)
    found = trainer.set_initial_training_values(arguments, trainer.get_train_dataloader())
    assert planned_steps(arguments, documents) == (found[1], found[-1])


def test_processes_share_the_batches(tmp_path, monkeypatch):
    arguments = TrainingArguments(str(tmp_path), report_to="none", per_device_train_batch_size=4, num_train_epochs=2)
    monkeypatch.setattr(TrainingArguments, "world_size", 2)
    assert planned_steps(arguments, 17) == (3, 6)  # 5 batches for 2 processes


def test_of_many_documents_a_thousand_are_looked_at():
    class Encoder:
        document_budget = None

        def whole_ids(self, document):
            return [0] * int(document)

    lengths = sampled_lengths(Encoder(), [str(number) for number in range(3000)])
    assert len(lengths) == len(set(lengths)) == 1000
    assert sampled_lengths(Encoder(), ["3", "1"]) in ([3, 1], [1, 3])


def test_both_trainers_tell_and_no_document_is_tokenised_twice(checkpoint, files, tmp_path, capsys, monkeypatch):
    data, model_arguments, arguments = embedding_arguments(checkpoint, tmp_path / "embed", files, max_length=8)
    tokenizer = prepare(model_arguments, arguments)
    encoder, seen = DocumentEncoder(tokenizer, 8), []
    whole_ids = encoder.whole_ids
    monkeypatch.setattr(encoder, "whole_ids", lambda document: seen.append(document) or whole_ids(document))
    head = HeadArguments(pooling="last")  # a probe reads the same tokens
    trainer = embedding_trainer(data, tokenizer, encoder, model_arguments, arguments, head, RunArguments())
    assert sorted(seen) == sorted(data.texts("train") + data.texts("validation"))
    long = sum(len(whole_ids(text)) > encoder.document_budget for text in data.texts("train"))
    assert f"cuts {long} of 48 documents" in capsys.readouterr().out.replace("\n  ", " ")
    assert max(len(row["input_ids"]) for row in trainer.train_dataset) == 8
    model_arguments = InstructionModelArguments(model_name_or_path=checkpoint, dtype="float32")
    arguments = InstructionTrainingArguments(str(tmp_path / "instruct"), max_length=128, report_to="none")
    verbalizer, template = PromptArguments().verbalizer(data.label_space), PromptArguments().template(128, "tail")
    instruction_trainer(data, tokenizer, template, verbalizer, model_arguments, arguments, RunArguments())
    said = capsys.readouterr().out
    assert "Tokens of a training document: " in said
    assert "Steps: 6 per epoch, 150 in all at most, each with 8 documents." in said


@pytest.mark.parametrize(
    ("seconds", "told"), [(7.0, "10 minutes"), (0.1, None), (90.0, "2.2 hours"), (0.7, "1 minute")]
)
def test_the_rest_of_a_training_is_estimated_from_its_first_steps(seconds, told, capsys, monkeypatch):
    """The first step of a start, also of one that goes on from a checkpoint, is slower and does not count."""
    now = [0.0]
    monkeypatch.setattr("hf_causal_clf.training.callbacks.time.perf_counter", lambda: now[0])
    estimate, state = TimeEstimate(), TrainerState(max_steps=200)
    for step in range(101, 201):
        now[0] += 1000.0 if step == 101 else seconds
        state.global_step = step
        estimate.on_step_end(None, state, None)
    printed = " ".join(capsys.readouterr().out.split())
    if told is None:
        assert not printed
    else:
        assert printed.startswith(f"The 89 steps that are left take about {told}, by the last 10;")
