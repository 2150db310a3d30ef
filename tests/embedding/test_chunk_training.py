"""Training a head on documents in chunks: the loss is that of a document's pooled logits, in bounded memory."""

import json

import numpy as np
import pytest
import torch
from conftest import SUBJECTS, run_in_two_processes, write_jsonl
from torch.nn import functional as F

from hf_causal_clf import DocumentEncoder, LabelSpace, TextClassifier
from hf_causal_clf.backbone.settings import base_model_of
from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.data.splits import load_data
from hf_causal_clf.embedding.arguments import EmbeddingModelArguments, EmbeddingTrainingArguments, HeadArguments
from hf_causal_clf.embedding.collator import ClassificationCollator
from hf_causal_clf.embedding.model import CausalLMForLastTokenClassification
from hf_causal_clf.embedding.scorer import HeadScorer
from hf_causal_clf.embedding.trainer import embedding_trainer
from hf_causal_clf.finishing import describe_run, save_run
from hf_causal_clf.training.arguments import RunArguments
from hf_causal_clf.training.train import prepare, train

LABELS = LabelSpace(["a", "b", "c"])
LENGTHS = [[16, 16, 13, 16, 16], [5], [16, 12, 16]]  # tokens of each chunk of each document
TRAINING = {
    "optim": "sgd",
    "learning_rate": 0.1,
    "lr_scheduler_type": "constant",
    "num_train_epochs": 1,
    "max_length": 24,
    "eval_strategy": "no",
    "save_strategy": "no",
    "load_best_model_at_end": False,
    "report_to": "none",
    "logging_steps": 1,
}


def make_rows(lengths=LENGTHS):
    draw = np.random.default_rng(0)
    chunks = [[draw.integers(3, 300, size=size).tolist() for size in document] for document in lengths]
    return [{"input_ids": ids, "labels": index % 3} for index, ids in enumerate(chunks)]


def load(checkpoint, **kwargs):
    torch.manual_seed(0)
    return CausalLMForLastTokenClassification.from_pretrained(checkpoint, label_space=LABELS, **kwargs).train()


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters()}


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("length_groups", [False, True])
@pytest.mark.parametrize("layers_checkpointed", [False, True])
def test_loss_and_gradients_are_those_of_the_naive_loop(checkpoint, pooling, length_groups, layers_checkpointed):
    rows = make_rows()
    model = load(checkpoint, pooling=pooling)
    logits = torch.stack(
        [torch.cat([model(torch.tensor([ids])).logits for ids in row["input_ids"]]).mean(0) for row in rows]
    )
    expected = F.cross_entropy(logits, torch.tensor([row["labels"] for row in rows]))
    expected_gradients = gradients(model, expected)
    if layers_checkpointed:
        model.activation_checkpointing_enable()
    model.length_groups = length_groups
    found = model(**ClassificationCollator(LABELS)(rows))
    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(found.logits, logits, atol=1e-4, rtol=1e-4)
    for name, gradient in gradients(model, found.loss).items():
        torch.testing.assert_close(gradient, expected_gradients[name], atol=1e-5, rtol=1e-3, msg=name)


def test_documents_of_one_chunk_are_bit_for_bit_those_without_chunks(checkpoint):
    rows = make_rows([[16], [5], [12]])
    model = load(checkpoint)
    model.length_groups = True
    whole = ClassificationCollator(LABELS)([{**row, "input_ids": row["input_ids"][0]} for row in rows])
    parts = ClassificationCollator(LABELS)(rows)
    assert "chunks" not in whole
    one, other = model(**whole), model(**parts)
    assert torch.equal(one.logits, other.logits)
    expected = gradients(model, one.loss)
    assert all(torch.equal(gradient, expected[name]) for name, gradient in gradients(model, other.loss).items())


def saved_bytes(model, rows):
    """Most rows in a call of the backbone, and what the forward pass keeps for the backward pass."""
    sizes, kept = [], []
    handle = model.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    weights = {weight.data_ptr() for weight in model.parameters()}

    def keep(tensor):
        if tensor.data_ptr() not in weights:
            kept.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(**ClassificationCollator(LABELS)(rows)).loss
    forward = sum(kept)
    loss.backward()
    handle.remove()
    return max(sizes), forward


def test_memory_does_not_grow_with_the_length_of_a_document(checkpoint):
    model = load(checkpoint)
    rows, cut = saved_bytes(model, make_rows([[16]] * 4))
    assert rows == 4
    rows, long = saved_bytes(model, make_rows([[16] * 200, [16], [16], [16]]))
    assert rows == 4
    per_chunk = long / 203
    assert per_chunk < cut / 4 / 10  # its token ids, mask and pooled state


def write_data(folder):
    """Documents whose subject is said once, far from their beginning; a third of them are short."""
    draw = np.random.default_rng(0)

    def document(index, label):
        filler = ["the cat sat on a mat. "] * (0 if index % 3 == 0 else int(draw.integers(2, 12)))
        filler.insert(int(draw.integers(len(filler) // 2, len(filler) + 1)), f"{SUBJECTS[label][index % 3]}. ")
        return "".join(filler) + str(index)

    files = {}
    for split, (size, offset) in {"train": (24, 0), "validation": (9, 100), "test": (12, 200)}.items():
        names = [list(SUBJECTS)[index % 3] for index in range(size)]
        rows = [{"text": document(offset + index, name), "label": name} for index, name in enumerate(names)]
        files[f"{split}_file"] = write_jsonl(folder / f"{split}.jsonl", rows)
    return load_data(DataArguments(**files))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("long"))


def make_trainer(checkpoint, data, output, dtype="float32", long_documents="chunks", max_length=24, **training):
    model_arguments = EmbeddingModelArguments(model_name_or_path=checkpoint, dtype=dtype, lora_r=4, lora_dropout=0.0)
    arguments = EmbeddingTrainingArguments(str(output), **{**TRAINING, "max_length": max_length, **training})
    arguments.dataloader_pin_memory = False
    tokenizer = prepare(model_arguments, arguments)
    encoder = DocumentEncoder(tokenizer, max_length, long_documents=long_documents)
    run = RunArguments(early_stopping_patience=0, long_documents=long_documents)
    trainer = embedding_trainer(
        data, tokenizer, encoder, model_arguments, arguments, HeadArguments(pooling="last"), run
    )
    return trainer, encoder, model_arguments


def trained(trainer):
    train(trainer)
    return {name: weight.detach() for name, weight in trainer.model.named_parameters() if weight.requires_grad}


@pytest.fixture(scope="module")
def whole(checkpoint, data, tmp_path_factory):
    return trained(make_trainer(checkpoint, data, tmp_path_factory.mktemp("whole"))[0])


@pytest.mark.parametrize(
    "training",
    [
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
        {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8, "length_groups": False},
        {"activation_checkpointing": True},
    ],
)
def test_training_ends_the_same(training, checkpoint, data, whole, tmp_path):
    found = trained(make_trainer(checkpoint, data, tmp_path, **training)[0])
    torch.testing.assert_close(found, whole, atol=1e-4, rtol=1e-3)
    cut = trained(make_trainer(checkpoint, data, tmp_path / "cut", long_documents="truncate")[0])
    head = next(name for name in whole if "score" in name)
    assert not torch.allclose(cut[head], whole[head], atol=1e-3)


TWO = """
import sys
from pathlib import Path
import torch
from test_chunk_training import make_trainer, trained, write_data

if __name__ == "__main__":
    checkpoint, output = sys.argv[1:]
    folder = Path(output)
    rank = int(__import__("os").environ["RANK"])
    (folder / f"data{rank}").mkdir()
    trainer = make_trainer(
        checkpoint, write_data(folder / f"data{rank}"), folder / "run", per_device_train_batch_size=4, use_cpu=True
    )[0]
    weights = trained(trainer)
    metrics = trainer.evaluate()
    if trainer.is_world_process_zero():
        torch.save({name.removeprefix("module."): weight for name, weight in weights.items()}, folder / "weights.pt")
        torch.save(metrics, folder / "metrics.pt")
"""


def test_two_processes_end_as_one(checkpoint, data, whole, tmp_path):
    run_in_two_processes(TWO, tmp_path, checkpoint, str(tmp_path))
    torch.testing.assert_close(torch.load(tmp_path / "weights.pt"), whole, atol=1e-4, rtol=1e-3)
    trainer, _, _ = make_trainer(checkpoint, data, tmp_path / "one")
    trained(trainer)
    expected = trainer.evaluate()
    found = torch.load(tmp_path / "metrics.pt")
    for name in ("eval_nll", "eval_f1_macro"):
        assert found[name] == pytest.approx(expected[name], abs=1e-3)


def test_documents_that_fit_are_trained_bit_for_bit_as_without_chunks(checkpoint, data, tmp_path):
    found, expected = (
        trained(make_trainer(checkpoint, data, tmp_path / way, long_documents=way, max_length=250)[0])
        for way in ("chunks", "truncate")
    )
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_saved_run_reads_chunks_as_its_training_did(dtype, checkpoint, data, tmp_path):
    trainer, encoder, model_arguments = make_trainer(checkpoint, data, tmp_path, dtype=dtype)
    train(trainer)
    texts = data.texts("validation")
    evaluated = trainer.predict(trainer.eval_dataset).predictions[np.argsort(trainer.compute_metrics.order)]
    memory = HeadScorer(trainer.model, trainer.processing_class, encoder, batch_size=8).logits(texts)
    rounding = 1e-4 if dtype == "float32" else 0.1
    np.testing.assert_allclose(memory, evaluated, atol=rounding)
    run = describe_run(encoder, base_model_of(model_arguments), data.label_space, pooling="last")
    folder = save_run(trainer, trainer.processing_class, run)
    saved = json.loads((folder / "classification.json").read_text())
    assert saved["truncation"] == {"max_length": 24, "side": "tail", "long_documents": "chunks"}
    classifier = TextClassifier.from_pretrained(folder, batch_size=8)
    np.testing.assert_allclose(classifier.scorer.logits(texts), memory, atol=1e-5 if dtype == "float32" else rounding)


def test_bfloat16_is_close_to_float32(checkpoint, data, tmp_path):
    losses = []
    for dtype in ("float32", "bfloat16"):
        trainer, _, _ = make_trainer(checkpoint, data, tmp_path / dtype, dtype=dtype)
        batch = trainer.data_collator([trainer.train_dataset[row] for row in range(8)])
        assert len(batch["input_ids"]) > len(batch["chunks"]) == 8
        losses.append(trainer.compute_loss(trainer.model.train(), batch).item())
    assert losses[1] == pytest.approx(losses[0], rel=0.03)


def test_where_processes_have_to_call_the_model_alike_chunks_are_refused(checkpoint, data, tmp_path):
    with pytest.raises(ValueError, match="long_documents chunks is not possible with torch_compile"):
        make_trainer(checkpoint, data, tmp_path, torch_compile=True)
