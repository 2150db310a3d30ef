"""What is told of a training before its model is loaded."""

import pytest
from datasets import Dataset
from test_train import embedding_arguments
from transformers import Trainer, TrainerState, TrainingArguments

from hf_causal_clf import LabelSpace
from hf_causal_clf.data.splits import ClassificationData
from hf_causal_clf.embedding.arguments import HeadArguments
from hf_causal_clf.embedding.trainer import embedding_trainer
from hf_causal_clf.instruction.arguments import InstructionModelArguments, InstructionTrainingArguments
from hf_causal_clf.instruction.trainer import instruction_trainer
from hf_causal_clf.task.documents import DocumentEncoder
from hf_causal_clf.training.arguments import PromptArguments, RunArguments
from hf_causal_clf.training.callbacks import TimeEstimate
from hf_causal_clf.training.outline import planned_steps, sampled_lengths, tell_outline
from hf_causal_clf.training.train import prepare


def documents_of(count, of_fold=False):
    """Documents of two labels: every third is `b`, the second is the first again, and one is tested on."""
    texts = [f"text {max(row, 1)}" for row in range(count)]
    splits = {
        split: Dataset.from_dict(
            {"id": rows, "text": [texts[row] for row in rows], "label": ["aab"[row % 3] for row in rows]}
        )
        for split, rows in (("train", range(count)), ("validation", [0, 2]), ("test", range(min(count, 5))))
    }
    overlap = {"train/validation": 0, "train/test": 1, "validation/test": 0}
    return ClassificationData(LabelSpace(["a", "b"]), splits, overlap, repeated={"train": 1}, of_fold=of_fold)


def told(capsys, lengths, budget, documents, of_fold=False, **arguments):
    settings = TrainingArguments("x", report_to="none", **arguments)
    settings.max_length = 32
    tell_outline(documents_of(documents, of_fold), lengths, budget, settings)
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) < 100 and line == line.rstrip() and "\x1b" not in line for line in lines)
    return lines


def test_one_table_of_the_documents_and_the_steps(capsys):
    assert told(capsys, range(1, 101), 32, 100, per_device_train_batch_size=8, num_train_epochs=2) == [
        "                            training  validation  test",
        "documents                        100           2     5",
        "  repeated                         1           0     0",
        "  also in training                             0     1",
        "  also in validation                                 0",
        "label 0 'a'                       67           1     4",
        "label 1 'b'                       33           1     1",
        "tokens, 50th percentile           50",
        "tokens, 95th percentile           95",
        "  cut: max_length 32              68",
        "  tokens that are not read     46.5%",
        "Steps: 13 per epoch, 26 in all at most, each with 8 documents.",
    ]
    assert sum(range(1, 69)) / sum(range(1, 101)) == pytest.approx(0.465, abs=5e-4)


def test_room_beside_a_prompt_and_a_sample(capsys):
    said = [" ".join(line.split()) for line in told(capsys, [10, 20, 30, 40], 25, 5000)]
    assert "cut: max_length 32, 25 for a document 2" in said
    assert "tokens that are not read 20.0%" in said
    assert "(Tokens: of 4 training documents, drawn at random.)" in said


@pytest.mark.parametrize("budget", [40, None])
def test_no_document_is_cut(capsys, budget):
    assert not any("not read" in line for line in told(capsys, [10, 40, 12], budget, 3))


def test_the_training_without_a_fold_tells_its_steps_alone(capsys):
    assert len(told(capsys, [10, 40, 12], 20, 3, of_fold=True)) == 1


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
    assert f"cut: max_length 8 {long} " in " ".join(capsys.readouterr().out.split())
    assert max(len(row["input_ids"]) for row in trainer.train_dataset) == 8
    model_arguments = InstructionModelArguments(model_name_or_path=checkpoint, dtype="float32")
    arguments = InstructionTrainingArguments(str(tmp_path / "instruct"), max_length=128, report_to="none")
    verbalizer, template = PromptArguments().verbalizer(data.label_space), PromptArguments().template(128, "tail")
    instruction_trainer(data, tokenizer, template, verbalizer, model_arguments, arguments, RunArguments())
    said = capsys.readouterr().out
    assert "tokens, 50th percentile " in said
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
