"""Adapters on the last layers, and frozen layers below them run once: nothing but the time of a training changes."""

import json

import numpy as np
import pytest
import tiny
import torch
from conftest import make_rows, run_in_two_processes, write_jsonl

from hf_causal_clf.backbone.frozen_layers import FrozenLayers
from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.data.splits import load_data
from hf_causal_clf.embedding.arguments import EmbeddingModelArguments, EmbeddingTrainingArguments, HeadArguments
from hf_causal_clf.embedding.trainer import embedding_trainer
from hf_causal_clf.instruction.arguments import InstructionModelArguments, InstructionTrainingArguments
from hf_causal_clf.instruction.trainer import instruction_trainer
from hf_causal_clf.task.documents import DocumentEncoder
from hf_causal_clf.training.arguments import PromptArguments, RunArguments
from hf_causal_clf.training.train import prepare, train

APPROACHES = ["embedding", "instruction"]
PROMPT = PromptArguments(instruction="Sort.", answers='{"tech": "computers and phones in the middle east"}')
LAYERS = {"num_hidden_layers": 4}
NO_DROPOUT = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
SLIDING_AND_FULL = ["sliding_attention", "full_attention"] * 2
CHANGES = {
    "llama": LAYERS,
    "qwen3": LAYERS,
    "mistral_sliding": LAYERS,
    "gemma3": {**LAYERS, "layer_types": SLIDING_AND_FULL},
    "gpt2": {"n_layer": 4, **NO_DROPOUT},
    "opt": {**LAYERS, "dropout": 0.0},
    "gpt_neox": LAYERS,
    "bloom": {"n_layer": 4},
}
TRAINING = {
    "optim": "sgd",
    "learning_rate": 0.1,
    "lr_scheduler_type": "constant",
    "num_train_epochs": 2,
    "logging_steps": 1,
    "eval_strategy": "epoch",
    "save_strategy": "no",
    "load_best_model_at_end": False,
    "report_to": "none",
    "dataloader_pin_memory": False,
}


def load(folder, multi_label=False):
    sizes = {"train": (20, 0), "validation": (9, 100), "test": (3, 200)}
    files = {
        f"{split}_file": write_jsonl(folder / f"{split}.jsonl", make_rows(*size, multi_label))
        for split, size in sizes.items()
    }
    return load_data(DataArguments(**files, multi_label=multi_label))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return load(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def folders(tokenizer, tmp_path_factory):
    return {
        name: tiny.save_checkpoint(tmp_path_factory.mktemp(name), name, tokenizer, **change)
        for name, change in CHANGES.items()
    }


def make_trainer(approach, checkpoint, data, output, cached, model=None, head=None, reading=None, **training):
    model = {"dtype": "float32", "lora_r": 4, "lora_dropout": 0.0, "lora_layers": 2, **(model or {})}
    model |= {"model_name_or_path": checkpoint, "cache_frozen_layers": cached}
    reading = {"truncation": "tail", "long_documents": "truncate", **(reading or {})}
    run = RunArguments(early_stopping_patience=0, long_documents=reading["long_documents"])
    training = {"output_dir": str(output), **TRAINING, **training}
    if approach == "embedding":
        model_arguments = EmbeddingModelArguments(**model)
        arguments = EmbeddingTrainingArguments(**{"max_length": 32, **training})
        tokenizer = prepare(model_arguments, arguments)
        encoder = DocumentEncoder(tokenizer, arguments.max_length, **reading)
        head_arguments = HeadArguments(**{"pooling": "last", **(head or {})})
        return embedding_trainer(data, tokenizer, encoder, model_arguments, arguments, head_arguments, run)
    model_arguments = InstructionModelArguments(**model)
    arguments = InstructionTrainingArguments(**{"max_length": 96, "activation_checkpointing": False, **training})
    tokenizer = prepare(model_arguments, arguments)
    prompt = PROMPT.template(arguments.max_length, **reading), PROMPT.verbalizer(data.label_space)
    return instruction_trainer(data, tokenizer, *prompt, model_arguments, arguments, run)


def weights(trainer):
    return {name: weight.detach().clone() for name, weight in trainer.model.named_parameters() if weight.requires_grad}


def trained(trainer):
    """Losses, gradient norms and metrics of all steps and evaluations, and the weights at the end."""
    train(trainer)
    names = ("loss", "grad_norm", "eval_loss", "eval_nll")
    logged = [entry[name] for entry in trainer.state.log_history for name in names if name in entry]
    return logged, weights(trainer)


def check_same(found, expected, rounding=1e-4):
    np.testing.assert_allclose(found[0], expected[0], rtol=rounding)
    ends, expected_ends = (torch.cat([weight.flatten() for weight in run[1].values()]) for run in (found, expected))
    assert (ends - expected_ends).norm() < rounding * expected_ends.norm()


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("approach", APPROACHES)
def test_training_ends_the_same(approach, name, data, folders, tmp_path):
    found, expected = (
        trained(make_trainer(approach, folders[name], data, tmp_path / str(cached), cached)) for cached in (True, False)
    )
    check_same(found, expected)
