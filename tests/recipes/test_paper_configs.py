"""The paper's experiments: every configuration parses and builds, with the paper's numbers of trained parameters.

Built on the meta device, without weights, from the architectures in architectures.json.
"""

import json
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from test_parsing import TYPES
from transformers import AutoConfig, AutoModelForCausalLM

from hf_causal_clf import CausalLMForLastTokenClassification, CausalLMForLastTokenClassificationConfig, LabelSpace
from hf_causal_clf.backbone.settings import base_weights, peft_config
from hf_causal_clf.cli.parsing import parse_arguments

ROOT = Path(__file__).parents[2]
ARCHITECTURES = json.loads((Path(__file__).parents[1] / "architectures.json").read_text())
CONFIGS = sorted((ROOT / "recipes" / "configs" / "paper").glob("*.yaml"))
FIVE = LabelSpace(["A", "B", "C", "D", "E"])


def trained_parameters(path, rank=None, monkeypatch=None):
    """LoRA and head parameters that a configuration trains."""
    recipe = path.stem.split("-")[0]
    extra = ["--lora_r", str(rank)] if rank else []
    parsed = parse_arguments(TYPES[recipe], args=["--config", str(path), *extra])
    arguments = parsed[1]
    monkeypatch.setattr("hf_causal_clf.backbone.settings.base_revision", lambda _: None)
    config = AutoConfig.for_model(**ARCHITECTURES[arguments.model_name_or_path])
    with torch.device("meta"):
        if recipe == "embed":
            head = CausalLMForLastTokenClassificationConfig.from_backbone(config, FIVE)
            model = CausalLMForLastTokenClassification(head)
        else:
            model = AutoModelForCausalLM.from_config(config)
        trained = get_peft_model(model, peft_config(arguments, model))
    counts = {"lora": 0, "head": 0}
    for name, parameter in trained.named_parameters():
        if parameter.requires_grad:
            counts["lora" if "lora_" in name else "head"] += parameter.numel()
    return counts, parsed


def test_both_approaches_on_all_five_models():
    models = {"llama-3.2-1b", "llama-3.2-3b", "llama-3.1-8b", "mistral-7b", "qwen2.5-7b"}
    assert {path.stem for path in CONFIGS} == {
        f"{recipe}-{name}" for recipe in ("embed", "instruct") for name in models
    }


@pytest.mark.parametrize(
    ("name", "lora", "head"),
    [
        ("embed-llama-3.2-1b", 5_636_096, 10_240),
        ("embed-llama-3.2-3b", 12_156_928, 15_360),
        ("embed-llama-3.1-8b", 41_943_040, 20_480),
        ("instruct-llama-3.2-1b", 45_088_768, 0),
        ("instruct-mistral-7b", 167_772_160, 0),
    ],
)
def test_trained_parameters_are_the_papers(name, lora, head, monkeypatch):
    counts, _ = trained_parameters(ROOT / "recipes" / "configs" / "paper" / f"{name}.yaml", monkeypatch=monkeypatch)
    assert counts == {"lora": lora, "head": head}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_settings_are_the_papers(path, monkeypatch):
    _, parsed = trained_parameters(path, monkeypatch=monkeypatch)
    model, training = parsed[1], parsed[-1]
    quantization = base_weights(model).quantization_config
    assert quantization.load_in_4bit
    assert quantization.bnb_4bit_quant_type == "nf4"
    assert quantization.bnb_4bit_use_double_quant
    assert training.per_device_train_batch_size * training.gradient_accumulation_steps == 8
    if path.stem.startswith("embed"):
        assert model.lora_r in (8, 16)
        assert (training.optim, training.lr_scheduler_type) == ("adamw_8bit", "linear")
        assert (training.num_train_epochs, parsed[-2].early_stopping_patience) == (20, 3)
        assert 1e-4 <= training.learning_rate <= 2e-4
    else:
        assert model.lora_r == 64
        assert (training.optim, training.lr_scheduler_type) == ("paged_adamw_32bit", "cosine")
        assert training.num_train_epochs == 5
