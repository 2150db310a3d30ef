"""The one place that base models are loaded in."""

import pytest
import tiny
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from test_classifier import save_folder
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from hf_causal_clf import LabelSpace
from hf_causal_clf.backbone import loading
from hf_causal_clf.backbone.attention import PLAIN_ATTENTION
from hf_causal_clf.backbone.loading import load_backbone, load_causal_lm
from hf_causal_clf.backbone.settings import base_weights
from hf_causal_clf.backbone.weights import AS_SAVED, BaseWeights
from hf_causal_clf.instruction.arguments import InstructionModelArguments

IDS = torch.tensor([[5, 6, 7, 8]])
NF4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)


@pytest.fixture
def adapter(checkpoint, tmp_path):
    """An adapter with random weights beside its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    config = LoraConfig(r=4, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_a_checkpoint_is_loaded_as_it_is(checkpoint):
    expected = AutoModelForCausalLM.from_pretrained(checkpoint)
    found = load_causal_lm(checkpoint)
    assert type(found) is type(expected)
    assert not found.training
    assert found.dtype == expected.dtype
    assert torch.equal(found(IDS).logits, expected(IDS).logits)


def test_an_adapter_is_loaded_into_its_base_model(checkpoint, adapter):
    expected = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(checkpoint), adapter).eval()
    found = load_causal_lm(adapter, BaseWeights(dtype="float32"))
    assert not found.training
    torch.testing.assert_close(found(IDS).logits, expected(IDS).logits, atol=1e-6, rtol=1e-6)
    untouched = AutoModelForCausalLM.from_pretrained(checkpoint)(IDS).logits
    assert (found(IDS).logits - untouched).abs().max() > 0.01


@pytest.mark.parametrize("with_adapter", [False, True])
def test_quantised_weights_keep_exact_gradients(checkpoint, adapter, with_adapter):
    model = load_causal_lm(adapter if with_adapter else checkpoint, BaseWeights("float32", NF4), place=False)
    layers = [module for module in model.modules() if hasattr(module, "support_avx512bf16_for_cpu")]
    assert len(layers) == 14  # seven projections in each of two layers
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)


@pytest.mark.parametrize(("asked", "expected"), [(None, PLAIN_ATTENTION), ("sdpa", "sdpa"), ("eager", "eager")])
@pytest.mark.parametrize("load", [load_causal_lm, load_backbone])
def test_kernels_are_chosen_where_none_are_asked_for(checkpoint, load, asked, expected):
    model = load(checkpoint, BaseWeights("bfloat16", attn_implementation=asked))
    assert model.dtype == torch.bfloat16
    assert model.config._attn_implementation == expected


@pytest.mark.parametrize(
    ("weights", "place", "device"),
    [
        (AS_SAVED, True, "meta"),
        (AS_SAVED, False, "cpu"),
        (BaseWeights(device_map="cpu"), True, "cpu"),
        (BaseWeights("float32", NF4, device_map="cpu"), True, "cpu"),
    ],
    ids=["placed", "left to a trainer", "device map", "quantised"],
)
def test_the_device_is_this_process_or_what_was_asked_for(checkpoint, weights, place, device, monkeypatch):
    monkeypatch.setattr(loading, "process_device", lambda: torch.device("meta"))
    assert load_causal_lm(checkpoint, weights, place=place).device.type == device


def test_a_tokenizer_of_another_model_is_refused(tokenizer, tmp_path):
    source = tiny.save_checkpoint(tmp_path, "llama", tokenizer)
    assert load_causal_lm(source, tokenizer=tokenizer)
    few = tiny.make_config("llama", 300)
    AutoModelForCausalLM.from_config(few).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has 368 tokens, but the model has embeddings for 300"):
        load_causal_lm(source, tokenizer=AutoTokenizer.from_pretrained(source))


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "opt"])
def test_a_backbone_is_the_decoder_alone(name, tokenizer, tmp_path, caplog):
    source = tiny.save_checkpoint(tmp_path, name, tokenizer, tie_word_embeddings=False)
    backbone, whole = load_backbone(source), AutoModelForCausalLM.from_pretrained(source)
    assert type(backbone) is type(whole.base_model)
    assert "LOAD REPORT" not in caplog.text  # the LM head is not wanted
    expected = whole.base_model(IDS).last_hidden_state
    assert torch.equal(backbone(IDS).last_hidden_state, expected)


def test_training_and_prediction_load_the_same_weights(checkpoint, tmp_path):
    """What the arguments of a training ask for is what its run is loaded with."""
    arguments = InstructionModelArguments(model_name_or_path=checkpoint, load_in_4bit=True, attn_implementation="eager")
    weights = base_weights(arguments)
    assert (weights.dtype, weights.attn_implementation, weights.device_map) == ("bfloat16", "eager", None)
    assert weights.kwargs()["device_map"] == {"": torch.device("cpu")}
    assert "device_map" not in base_weights(InstructionModelArguments(model_name_or_path=checkpoint)).kwargs()
    save_folder(tmp_path / "run", checkpoint, "instruction", LabelSpace(["a", "b"]), quantized=True)
    trained = InstructionModelArguments(model_name_or_path=checkpoint, dtype="float32", load_in_4bit=True)
    expected = load_causal_lm(tmp_path / "run", base_weights(trained))
    assert expected.is_loaded_in_4bit
    from hf_causal_clf import TextClassifier

    found = TextClassifier.from_pretrained(tmp_path / "run").scorer.model
    assert torch.equal(found(IDS).logits, expected(IDS).logits)
