"""Adapters on the last layers, and frozen layers below them run once: nothing but the time of a training changes."""

import json
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from conftest import run_as_main, run_in_two_processes, write_splits
from peft import PeftModel
from test_invariance_training import load
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from hf_causal_clf import TextClassifier
from hf_causal_clf.backbone.batching import OVERHEAD
from hf_causal_clf.backbone.frozen_layers import FrozenLayers
from hf_causal_clf.backbone.layers import decoder_of
from hf_causal_clf.embedding.arguments import EmbeddingModelArguments, EmbeddingTrainingArguments, HeadArguments
from hf_causal_clf.embedding.trainer import embedding_trainer
from hf_causal_clf.instruction.arguments import InstructionModelArguments, InstructionTrainingArguments
from hf_causal_clf.instruction.trainer import LabelScoringCallback, instruction_trainer
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


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return load(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def folders(tokenizer, tmp_path_factory):
    wide = {"wide": {**LAYERS, "hidden_size": 64, "intermediate_size": 128, "head_dim": 16}}  # of whole NF4 blocks
    changes = {**CHANGES, **wide, "gpt2 with dropout": {"n_layer": 4}}
    kinds = {"wide": "llama", "gpt2 with dropout": "gpt2"}
    return {
        name: tiny.save_checkpoint(tmp_path_factory.mktemp("model"), kinds.get(name, name), tokenizer, **change)
        for name, change in changes.items()
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


PRECISIONS = {
    "bfloat16": {"dtype": "bfloat16"},
    "nf4": {"load_in_4bit": True},
    "nf4, bfloat16": {"load_in_4bit": True, "dtype": "bfloat16"},
}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("approach", APPROACHES)
def test_rounded_and_quantised_weights_train_the_same(approach, precision, data, folders, tmp_path):
    found, expected = (
        trained(make_trainer(approach, folders["wide"], data, tmp_path / str(cached), cached, PRECISIONS[precision]))
        for cached in (True, False)
    )
    check_same(found, expected, rounding=0.02 if "bfloat16" in precision else 1e-4)


def batches(size, steps):
    return {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps}


CHUNKS = {"long_documents": "chunks"}
WAYS = {
    "1 x 8": (APPROACHES, batches(1, 8)),
    "4 x 2": (APPROACHES, batches(4, 2)),
    "evaluated 3 at a time": (APPROACHES, {"per_device_eval_batch_size": 3}),
    "checkpointed": (APPROACHES, {"activation_checkpointing": True}),
    "no shared prefix": (["instruction"], {"share_prefix": False}),
    "no length groups": (["embedding"], {"length_groups": False}),
    "chunks": (["embedding"], {"reading": CHUNKS, "max_length": 12}),
    "prompts in chunks": (["instruction"], {"reading": CHUNKS, "max_length": 76}),
    "suffix": (["embedding"], {"reading": {"suffix": "\n\nTopic:"}}),
    "mean": (["embedding"], {"head": {"pooling": "mean"}}),
    "probe": (["embedding"], {"head": {"head_init": "probe"}}),
    "one layer": (APPROACHES, {"model": {"lora_layers": 1}}),
    "three quarters": (APPROACHES, {"model": {"lora_layers": 0.75}}),
    "all linear layers": (APPROACHES, {"model": {"lora_target_modules": "all-linear"}}),
}


@pytest.mark.parametrize(("approach", "way"), [(approach, way) for way in WAYS for approach in WAYS[way][0]])
def test_every_way_to_train_ends_the_same(approach, way, data, folders, tmp_path, monkeypatch):
    monkeypatch.setitem(OVERHEAD, "cpu", 1)  # as many length groups as there are lengths
    found, expected = (
        trained(make_trainer(approach, folders["llama"], data, tmp_path / str(cached), cached, **WAYS[way][1]))
        for cached in (True, False)
    )
    check_same(found, expected)


@pytest.mark.parametrize("approach", APPROACHES)
def test_multi_label_training_ends_the_same(approach, folders, tmp_path):
    data = load(tmp_path, multi_label=True)
    found, expected = (
        trained(make_trainer(approach, folders["llama"], data, tmp_path / str(cached), cached))
        for cached in (True, False)
    )
    check_same(found, expected)


@contextmanager
def counted(trainer):
    """Rows and columns of each call of the first layer's first product."""
    calls = []
    layer = decoder_of(trainer.model).layers[0].self_attn.q_proj
    handle = layer.register_forward_hook(lambda module, args, output: calls.append(tuple(args[0].shape[:2])))
    yield calls
    handle.remove()


def test_a_training_with_a_head_never_runs_the_frozen_layers_again(data, folders, tmp_path):
    trainer = make_trainer("embedding", folders["llama"], data, tmp_path, True)
    with counted(trainer) as calls:
        train(trainer)
    assert calls == []


def test_a_training_with_a_prompt_runs_the_frozen_layers_once_for_each_scored_document(data, folders, tmp_path):
    trainer = make_trainer("instruction", folders["llama"], data, tmp_path, True, num_train_epochs=3)
    with counted(trainer) as calls:
        train(trainer)
    assert [rows for rows, _ in calls] == [1, 8, 1, 1, 1], "the prefix in each evaluation, and once the 9 documents"


@pytest.mark.parametrize("approach", APPROACHES)
def test_a_resumed_run_ends_as_the_uninterrupted_one_without_computing_states_again(approach, data, folders, tmp_path):
    model = {"lora_dropout": 0.2}
    options = {"optim": "adamw_torch", "learning_rate": 1e-2, "lr_scheduler_type": "linear", **batches(4, 2)}
    options |= {"save_strategy": "steps", "save_steps": 2, "save_total_limit": None}
    whole = make_trainer(approach, folders["llama"], data, tmp_path, True, model, **options)
    train(whole)
    expected, written = weights(whole), states_files(tmp_path)
    checkpoint = str(tmp_path / "checkpoint-2")
    trainer = make_trainer(
        approach, folders["llama"], data, tmp_path, True, model, **options, resume_from_checkpoint=checkpoint
    )
    train(trainer)
    torch.testing.assert_close(weights(trainer), expected, rtol=0.0, atol=0.0)
    assert states_files(tmp_path) == written != {}


def states_files(output):
    return {path: path.stat().st_mtime_ns for path in output.glob(".unfinished/frozen/*/*.safetensors")}


TWO = """
import os
import sys
from pathlib import Path
import torch
from test_frozen_training import load, make_trainer, trained

if __name__ == "__main__":
    approach, checkpoint, output = sys.argv[1:]
    folder = Path(output)
    own = folder / f"data{os.environ['RANK']}"
    own.mkdir()
    options = {"per_device_train_batch_size": 4, "use_cpu": True}
    trainer = make_trainer(approach, checkpoint, load(own, train=24, validation=16), folder / "run", True, **options)
    logged, weights = trained(trainer)
    if trainer.is_world_process_zero():
        weights = {name.removeprefix("module."): weight for name, weight in weights.items()}
        torch.save((logged, weights), folder / "found.pt")
    trainer.accelerator.wait_for_everyone()  # a process that ends while another goes on may abort
    trainer.accelerator.end_training()
"""


@pytest.mark.parametrize("approach", APPROACHES)
def test_two_processes_end_as_one_without_frozen_states(approach, folders, tmp_path):
    run_in_two_processes(TWO, tmp_path, approach, folders["llama"], str(tmp_path))
    found = torch.load(tmp_path / "found.pt")
    assert len(states_files(tmp_path / "run")) >= 2
    data = load(tmp_path, train=24, validation=16)
    expected = trained(make_trainer(approach, folders["llama"], data, tmp_path / "one", False))
    check_same(found, expected, rounding=1e-3)


def test_states_beyond_the_bound_are_not_kept(data, folders, tmp_path, capsys):
    small = {"frozen_cache_gb": 1e-6}
    found, expected = (
        trained(make_trainer("embedding", folders["llama"], data, tmp_path / str(cached), cached, small))
        for cached in (True, False)
    )
    check_same(found, expected, rounding=1e-12)
    assert not states_files(tmp_path / "True")
    assert "All layers are run in every epoch" in capsys.readouterr().out


def test_what_is_noted_of_scored_documents_stays_within_the_bound(data, folders, tmp_path):
    found, expected = (
        make_trainer("instruction", folders["llama"], data, tmp_path / str(cached), cached) for cached in (True, False)
    )
    store = frozen_states(found)
    store.limit = store.size + 10_000
    check_same(trained(found), trained(expected))
    assert store.limit - 10_000 < store.size <= store.limit


def frozen_states(trainer):
    callback = next(each for each in trainer.callback_handler.callbacks if isinstance(each, LabelScoringCallback))
    return callback.scorer._frozen.known


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"lora_layers": 0}, "lora_layers must be a number of layers from 1, or a share between 0 and 1, got 0"),
        ({"lora_layers": 1.5}, "lora_layers must be a number of layers from 1.* got 1.5"),
        ({"lora_layers": float("nan")}, "got nan"),
        ({"lora_layers": -1}, "got -1"),
        ({"lora_layers": 5}, "lora_layers is 5, but the model has 4 layers. Give at most 4."),
        ({"lora_layers": 4}, "lora_layers 4 puts an adapter into all 4"),
        ({"lora_layers": None}, "cache_frozen_layers needs layers without an adapter: set lora_layers"),
        ({"use_peft": False}, "but use_peft is false"),
        ({"lora_target_modules": ["layers.*q_proj"]}, "lora_target_modules by their names, not by a pattern"),
        ({"frozen_cache_gb": 0}, "frozen_cache_gb must be above 0, got 0"),
        ({"lora_modules_to_save": ["embed_tokens"]}, "embed_tokens.* are trained"),
    ],
)
def test_wrong_values_are_told(model, message, data, folders, tmp_path):
    with pytest.raises(ValueError, match=message):
        make_trainer("embedding", folders["llama"], data, tmp_path, True, model)


def test_compiled_models_are_refused(data, folders, tmp_path):
    with pytest.raises(ValueError, match="cache_frozen_layers is not possible with torch_compile"):
        make_trainer("embedding", folders["llama"], data, tmp_path, True, torch_compile=True)


def test_dropout_below_the_adapters_is_told(data, folders, tmp_path):
    with pytest.raises(ValueError, match=r"dropout below the adapters: attn_dropout=0.1, drop=0.1, .*config.json"):
        make_trainer("embedding", folders["gpt2 with dropout"], data, tmp_path, True)
    make_trainer("embedding", folders["gpt2 with dropout"], data, tmp_path, False)


def run_recipe(recipe, folder, tmp_path, monkeypatch, **options):
    values = {"model_name_or_path": folder, **write_splits(tmp_path, multi_label=False), "dtype": "float32"}
    values |= {"output_dir": tmp_path / "run", "lora_layers": 2, "cache_frozen_layers": "true", "max_steps": 4}
    values |= {"learning_rate": 1e-2, "report_to": "none", "optim": "adamw_torch", "max_length": 96}
    values |= {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "no", "load_best_model_at_end": "false"}
    values |= {"early_stopping_patience": 0, **options}
    arguments = [part for key, value in values.items() for part in (f"--{key}", str(value))]
    monkeypatch.setattr(sys, "argv", [f"{recipe}.py", *arguments])
    run_as_main(Path(__file__).parents[2] / "recipes" / f"{recipe}.py")
    assert not (tmp_path / "run" / ".unfinished").exists()
    return tmp_path / "run"


def test_trainings_of_folds_share_the_states(folders, tmp_path, monkeypatch):
    computed, compute = [], FrozenLayers.compute

    def counting(self, sequences, batch_size):
        computed.append(len(sequences))
        return compute(self, sequences, batch_size)

    monkeypatch.setattr(FrozenLayers, "compute", counting)
    output = run_recipe("embed", folders["llama"], tmp_path, monkeypatch, folds=2)
    assert computed == [48 + 15, 0, 0]
    assert (output / "out_of_fold.parquet").is_file()


@pytest.mark.parametrize(
    ("recipe", "approach", "name"),
    [("embed", "embedding", "llama"), ("embed", "embedding", "gpt2"), ("instruct", "instruction", "opt")],
)
def test_the_adapter_of_a_finished_run_is_an_ordinary_one(
    recipe, approach, name, folders, tmp_path, monkeypatch, capsys
):
    output = run_recipe(recipe, folders[name], tmp_path, monkeypatch)
    assert "The first 2 layers are frozen" in capsys.readouterr().out
    assert "in layers 2 to 3 (from 0)" in (output / "README.md").read_text()
    adapter = json.loads((output / "adapter_config.json").read_text())
    assert adapter["layers_to_transform"] == [2, 3]
    classifier = TextClassifier.from_pretrained(output, calibrated=False)
    texts = ["football match", "shares fell in the bank", "new computers"]
    if approach == "embedding":
        base = AutoModelForSequenceClassification.from_pretrained(folders[name], num_labels=3)
        stock = PeftModel.from_pretrained(base, output).eval()
        encoder = classifier.scorer.encoder
        inputs = [torch.tensor([encoder.encode(text)]) for text in texts]
        expected = torch.cat([stock(input_ids=ids).logits for ids in inputs]).detach().numpy()
        np.testing.assert_allclose(classifier.scorer.logits(texts), expected, atol=1e-4)
    else:
        stock = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folders[name]), output).eval()
        scorer = classifier.scorer
        ids = torch.tensor([[*scorer.prompt_ids(texts[:1])[0], *scorer.answer_ids[0]]])
        log_probs = stock(input_ids=ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])
        expected = log_probs[-len(scorer.answer_ids[0]) :].sum().item()
        assert scorer.log_probs(texts[:1])[0, 0] == pytest.approx(expected, abs=1e-3)
    trained_layers = {name.split(".lora_")[0] for name in stock.state_dict() if "lora_B" in name}
    assert trained_layers
    assert all({"2", "3"} & set(each.split(".")) for each in trained_layers)
