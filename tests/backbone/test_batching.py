"""Rows of a training batch in groups of similar length: less padding, the same gradients."""

import itertools
from types import SimpleNamespace

import pytest
import tiny
import torch
from test_train import run_embedding

from hf_causal_clf import CausalLMForLastTokenClassification, LabelSpace
from hf_causal_clf.backbone.batching import OVERHEAD, length_batches, pad, partition, prediction_batches
from hf_causal_clf.embedding.trainer import _groups_lengths

LENGTHS = [3, 200, 5, 4, 90, 80, 150, 2]


def cost(groups, lengths, overhead):
    return sum(len(rows) * max(lengths[row] for row in rows) + overhead for rows in groups)


def test_partition_is_the_cheapest():
    draw = torch.Generator().manual_seed(0)
    for _ in range(20):
        lengths = torch.randint(1, 60, (6,), generator=draw).tolist()
        ordered = sorted(range(6), key=lengths.__getitem__)
        found = partition(lengths, 25)
        assert sorted(row for rows in found for row in rows) == list(range(6))
        options = []
        for cuts in itertools.product([False, True], repeat=5):
            groups = [[ordered[0]]]
            for cut, row in zip(cuts, ordered[1:]):
                groups.append([row]) if cut else groups[-1].append(row)
            options.append(cost(groups, lengths, 25))
        assert cost(found, lengths, 25) == min(options)
    assert partition([7] * 8, 1) == [list(range(8))]


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3"])
def test_loss_and_gradients_are_those_of_the_whole_batch(name, side, pooling, tokenizer, tmp_path):
    checkpoint = tiny.save_checkpoint(tmp_path, name, tokenizer)
    model = CausalLMForLastTokenClassification.from_pretrained(
        checkpoint, label_space=LabelSpace(["a", "b", "c"]), pooling=pooling, dtype=torch.float32
    )
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.train()
    draw = torch.Generator().manual_seed(1)
    rows = [torch.randint(3, 300, (length,), generator=draw).tolist() for length in LENGTHS]
    batch = {**pad(rows, 2, side=side), "labels": torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])}
    found = {}
    for groups in (False, True):
        calls = []
        hook = model.backbone.register_forward_hook(lambda *_: calls.append(1))  # noqa: B023
        model.length_groups = groups
        model.zero_grad()
        output = model(**batch, num_items_in_batch=8)
        output.loss.backward()
        hook.remove()
        gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
        found[groups] = output.loss, output.logits, gradients, len(calls)
    assert found[False][3] == 1
    assert found[True][3] > 1
    torch.testing.assert_close(found[True][:3], found[False][:3], atol=2e-5, rtol=1e-4)
    model.eval()
    calls = []
    model.backbone.register_forward_hook(lambda *_: calls.append(1))
    model(**batch)
    assert len(calls) == 1  # prediction makes batches of similar length instead


def test_a_run_with_groups_ends_as_one_without(checkpoint, files, tmp_path, monkeypatch):
    monkeypatch.setitem(OVERHEAD, "cpu", 1)
    runs = {
        groups: run_embedding(checkpoint, tmp_path / str(groups), files, num_train_epochs=1, length_groups=groups)[1]
        for groups in (None, False)
    }
    assert runs[None]["test"] == pytest.approx(runs[False]["test"], abs=1e-4)


def test_groups_are_refused_where_processes_have_to_make_the_same_calls(monkeypatch):
    arguments = SimpleNamespace(fsdp="", deepspeed=None, torch_compile=False, length_groups=None)
    assert _groups_lengths(arguments)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert not _groups_lengths(arguments)
    arguments.length_groups = True
    with pytest.raises(ValueError, match="length_groups is not possible with FSDP, DeepSpeed"):
        _groups_lengths(arguments)


def test_pad_and_length_batches():
    assert pad([[1], [2, 3]], 0, side="left")["input_ids"].tolist() == [[0, 1], [2, 3]]
    lengths = [3, 9, 1, 7, 5]
    batches = length_batches(lengths, 2)
    assert batches == [[1, 3], [4, 0], [2]]
    assert length_batches([], 4) == []


def test_batches_of_a_prediction_are_run_in_evaluation_mode():
    model = torch.nn.Dropout()
    found = []
    for rows in prediction_batches(model, [3, 9, 1, 7, 5], 2, description="Predicting"):
        assert not model.training
        assert not torch.is_grad_enabled()
        found.append(rows)
    assert found == [[1, 3], [4, 0], [2]]
    assert model.training
    assert torch.is_grad_enabled()


def test_a_prediction_that_fails_leaves_the_model_as_it_was():
    model = torch.nn.Dropout()

    def fail():
        for rows in prediction_batches(model, [3, 9, 1], 2, description="Predicting"):
            raise KeyError(rows[0])

    with pytest.raises(KeyError):
        fail()
    assert model.training
    assert torch.is_grad_enabled()
