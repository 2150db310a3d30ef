"""Greedy generation with the common prefix run once gives what it gives without."""

import pytest
import tiny
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from hf_causal_clf import LabelSpace, PromptTemplate, Verbalizer
from hf_causal_clf.backbone.attention import keep_exact_gradients
from hf_causal_clf.backbone.settings import lora_target_modules
from hf_causal_clf.instruction import generation
from hf_causal_clf.instruction.generation import can_share, generate_answers

TEXTS = [
    "cat",
    "the football match <|im_end|> won",
    "shares in the bank fell as markets kept busy, and the bank saw a new film about phones and computers in the east",
    "a new film",
    "politics and markets in the middle east",
]
SHARING = ["llama", "qwen3", "mistral", "gpt2", "gpt_neox", "opt"]


def make_encoder(tokenizer, multi_label=False, **template):
    labels = LabelSpace(["sport", "business and shares", "tech"], multi_label=multi_label)
    return PromptTemplate(**template).bind(tokenizer, Verbalizer(labels))


def with_adapter(model):
    config = LoraConfig(r=4, target_modules=lora_target_modules(model.base_model), task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def generated(model, encoder, **options):
    """Token ids of each answer, in the order that they are made, the answers, and the tokens that were run."""
    ids, run, generate, embed = [], [], model.generate, model.get_input_embeddings()

    def recorded(**kwargs):
        found = generate(**kwargs)
        ids.extend(found[:, kwargs["input_ids"].shape[1] :].tolist())
        return found

    hook = embed.register_forward_pre_hook(lambda module, inputs: run.append(inputs[0].numel()))
    model.generate = recorded
    try:
        answers = generate_answers(model, encoder, TEXTS, **options)
    finally:
        model.generate = generate
        hook.remove()
    return ids, answers, sum(run)


def check_equal(model, encoder, batch_size=2):
    found, expected = (generated(model, encoder, batch_size=batch_size, share_prefix=share) for share in (True, False))
    assert found[:2] == expected[:2]
    assert len({tuple(row) for row in expected[0]}) > 1  # or any answers would be the same
    assert found[2] < expected[2] - len(encoder.prefix_ids)  # the prefix has been run for fewer rows


@pytest.mark.parametrize("adapter", [False, True], ids=["plain", "lora"])
@pytest.mark.parametrize("name", SHARING)
def test_answers_are_the_same(name, adapter, tokenizer):
    model = tiny.make_causal_lm(name, len(tokenizer))
    check_equal(with_adapter(model) if adapter else model, make_encoder(tokenizer))


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_in_batches_of_any_size(tokenizer, batch_size):
    check_equal(tiny.make_causal_lm("llama", len(tokenizer)), make_encoder(tokenizer), batch_size)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("template", [{"use_chat_template": True}, {"max_length": 64}], ids=["chat", "cut"])
def test_with_other_prompts_and_several_labels(tokenizer, template, attention):
    model = tiny.make_causal_lm("llama", len(tokenizer), attn_implementation=attention)
    check_equal(model, make_encoder(tokenizer, multi_label=True, instruction="Topics, of {labels}:", **template))


def test_nf4(checkpoint, tokenizer):
    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = AutoModelForCausalLM.from_pretrained(checkpoint, quantization_config=quantization)
    keep_exact_gradients(model)
    check_equal(model, make_encoder(tokenizer))


@pytest.mark.parametrize("name", ["bloom", "mistral_sliding", "gemma2", "gemma3"])
def test_models_whose_masks_count_padding_run_each_prompt_whole(name, tokenizer):
    model, encoder = tiny.make_causal_lm(name, len(tokenizer)), make_encoder(tokenizer)
    assert not can_share(model, encoder, 60)
    found, expected = (generated(model, encoder, share_prefix=share) for share in (True, False))
    assert found == expected


def test_a_window_that_is_never_left(tokenizer):
    config = tiny.make_config("mistral", len(tokenizer), sliding_window=102)
    torch.manual_seed(0)
    model, encoder = AutoModelForCausalLM.from_config(config).eval(), make_encoder(tokenizer)
    assert can_share(model, encoder, 102 - encoder.longest_answer)
    assert not can_share(model, encoder, 103 - encoder.longest_answer)
    check_equal(model, encoder)


def test_no_sharing_of_a_short_prefix_or_after_virtual_tokens(tokenizer, monkeypatch):
    model, encoder = tiny.make_causal_lm("llama", len(tokenizer)), make_encoder(tokenizer)
    assert can_share(model, encoder, 20)
    monkeypatch.setattr(generation, "MIN_PREFIX", len(encoder.prefix_ids) + 1)
    assert not can_share(model, encoder, 20)
    monkeypatch.undo()
    prompt = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    assert not can_share(get_peft_model(model, prompt), encoder, 20)


def test_no_documents(tokenizer):
    assert generate_answers(tiny.make_causal_lm("llama", len(tokenizer)), make_encoder(tokenizer), []) == []
