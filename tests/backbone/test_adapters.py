"""Adapters that compute in bfloat16: the ordinary outputs and gradients, float32 weights."""

import copy

import pytest
import tiny
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from hf_causal_clf.backbone.adapters import BFloat16Linear, compute_in_bfloat16

IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [11, 5, 12, 6, 7, 4]])
NF4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)


def adapted(checkpoint, dtype, **options):
    """A model with an adapter of random weights; drawn alike each time."""
    torch.manual_seed(0)
    quantised = {"quantization_config": options.pop("quantised")} if "quantised" in options else {}
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype, **quantised)
    given = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "up_proj", "down_proj"], "task_type": "CAUSAL_LM"}
    return get_peft_model(model, LoraConfig(**{**given, "init_lora_weights": False, **options}))


def outcome(model):
    """Logits and, as one vector, the gradients of the trained weights."""
    model.zero_grad()
    logits = model(input_ids=IDS).logits.float()
    torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten()).backward()
    gradients = [weight.grad for weight in model.parameters() if weight.requires_grad]
    assert {gradient.dtype for gradient in gradients} == {torch.float32}
    return logits.detach(), torch.cat([gradient.flatten() for gradient in gradients])


def errors(found, expected):
    """Relative errors of logits and gradients."""
    return [float((ours - other).norm() / other.norm()) for ours, other in zip(found, expected, strict=True)]


def check_as_exact_as_peft(model, exact):
    """Both round; `compute_in_bfloat16` is not further from what is right than PEFT is."""
    stock = outcome(model)
    compute_in_bfloat16(model)
    found = outcome(model)
    assert (found[0] != stock[0]).any()  # or nothing was changed
    for ours, other in zip(errors(found, exact), errors(stock, exact), strict=True):
        assert ours < 1.5 * other < 0.2


@pytest.mark.parametrize("options", [{}, {"lora_bias": True}, {"use_rslora": True}], ids=str)
def test_outputs_and_gradients_are_those_of_peft(checkpoint, options):
    model = adapted(checkpoint, torch.bfloat16, **options)
    exact = copy.deepcopy(model).float()
    check_as_exact_as_peft(model, outcome(exact))
    assert {weight.dtype for weight in model.parameters() if weight.requires_grad} == {torch.float32}


def test_adapters_of_transposed_weights(tokenizer, tmp_path):
    """GPT-2's layers are no `nn.Linear`; their adapters are."""
    source = tiny.save_checkpoint(tmp_path, "gpt2", tokenizer)
    model = adapted(source, torch.bfloat16, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True, lora_dropout=0.0)
    check_as_exact_as_peft(model, outcome(copy.deepcopy(model).float()))


def test_what_a_layer_keeps_for_the_backward_pass_is_bfloat16(checkpoint):
    def kept(model):
        found = []
        with torch.autograd.graph.saved_tensors_hooks(lambda each: (found.append(each), each)[1], lambda each: each):
            model(input_ids=IDS)
        return sum(each.numel() for each in found if each.dtype == torch.float32)

    model = adapted(checkpoint, torch.bfloat16)
    before = kept(model)
    compute_in_bfloat16(model)
    assert kept(model) < 0.8 * before  # norms keep float32 too


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_other_data_types_are_computed_as_peft_does(checkpoint, dtype):
    model = adapted(checkpoint, dtype)
    expected = outcome(model)
    compute_in_bfloat16(model)
    assert errors(outcome(model), expected) == [0, 0]


def test_quantised_weights(tokenizer, tmp_path):
    size = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}  # rows of whole blocks
    model = adapted(tiny.save_checkpoint(tmp_path, "llama", tokenizer, **size), torch.bfloat16, quantised=NF4)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    exact = copy.deepcopy(model)
    exact.base_model.model.dequantize()
    for name, weight in exact.named_parameters():
        weight.requires_grad_("lora_" in name)
    check_as_exact_as_peft(model, outcome(exact.float()))


def test_dora_stays_as_it_is(checkpoint):
    model = adapted(checkpoint, torch.bfloat16, use_dora=True)
    expected = outcome(model)
    compute_in_bfloat16(model)
    assert not any(isinstance(module, BFloat16Linear) for module in model.modules())
    assert errors(outcome(model), expected) == [0, 0]


def test_it_is_saved_copied_and_merged_as_any_other(checkpoint, tmp_path):
    model = adapted(checkpoint, torch.bfloat16)
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    compute_in_bfloat16(model)
    compute_in_bfloat16(model)  # as a loaded adapter that is trained on
    expected, _ = outcome(model)
    torch.testing.assert_close(outcome(copy.deepcopy(model))[0], expected, atol=0, rtol=0)
    model.save_pretrained(tmp_path)
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16), tmp_path)
    assert all(torch.equal(weights[name], weight) for name, weight in plain.state_dict().items())
    merged = model.merge_and_unload()
    assert errors([merged(input_ids=IDS).logits.float()], [expected])[0] < 0.05
