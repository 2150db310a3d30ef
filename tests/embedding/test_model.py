import copy

import pytest
import tiny
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
)

from hf_causal_clf import CausalLMForLastTokenClassification, CausalLMForLastTokenClassificationConfig, LabelSpace
from hf_causal_clf.backbone.settings import lora_target_modules
from hf_causal_clf.embedding.model import pool

LABELS = LabelSpace(["a", "b", "c"])
MULTI = LabelSpace(["a", "b", "c"], multi_label=True)
ASKED_FOR = ("llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3", "phi3", "gpt2", "gpt_neox", "opt", "bloom")
NF4 = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype=torch.float32,
)


@pytest.fixture(scope="module", params=ASKED_FOR)
def causal_lm_folder(request, tokenizer, tmp_path_factory):
    return tiny.save_checkpoint(tmp_path_factory.mktemp(request.param), request.param, tokenizer)


def tiny_model(checkpoint, labels=LABELS, **kwargs):
    torch.manual_seed(1)
    return CausalLMForLastTokenClassification.from_pretrained(checkpoint, label_space=labels, **kwargs)


def test_causal_lm_checkpoint_keeps_its_backbone(causal_lm_folder):
    model = tiny_model(causal_lm_folder)
    original = AutoModelForCausalLM.from_pretrained(causal_lm_folder).state_dict()
    ours = model.state_dict()
    assert ours.pop("score.weight").shape == (3, 32)
    assert len(ours) > 10
    for name, weight in ours.items():
        assert torch.equal(weight, original[name]), name


def test_same_weights_and_logits_as_the_stock_class(causal_lm_folder):
    model = tiny_model(causal_lm_folder)
    stock = AutoModelForSequenceClassification.from_pretrained(causal_lm_folder, num_labels=3).eval()
    assert set(stock.state_dict()) == set(model.state_dict())
    stock.load_state_dict(model.state_dict())
    stock.config.pad_token_id = 0
    input_ids = torch.randint(3, 300, (2, 9))
    mask = torch.ones_like(input_ids)
    theirs = stock(input_ids, attention_mask=mask).logits
    assert theirs.abs().max() > 0.01
    torch.testing.assert_close(model(input_ids, attention_mask=mask).logits, theirs, atol=1e-5, rtol=1e-5)
    other = copy.deepcopy(model)
    torch.nn.init.zeros_(other.score.weight)
    other.load_state_dict(stock.state_dict())
    torch.testing.assert_close(other(input_ids).logits, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_padding_does_not_matter(causal_lm_folder, pooling):
    model = tiny_model(causal_lm_folder, pooling=pooling)
    pad = 2  # the end-of-sequence token, with which the documents end as well
    texts = [torch.randint(3, 300, (length,)) for length in (4, 9, 6)]
    texts = [torch.cat([text, torch.tensor([pad])]) for text in texts]
    alone = torch.cat([model(text[None]).logits for text in texts])
    for side in ("right", "left"):
        ids, mask = torch.full((3, 12), pad), torch.zeros(3, 12, dtype=torch.long)
        for row, text in enumerate(texts):
            place = slice(0, len(text)) if side == "right" else slice(12 - len(text), 12)
            ids[row, place], mask[row, place] = text, 1
        torch.testing.assert_close(model(ids, attention_mask=mask).logits, alone, atol=1e-5, rtol=1e-5)
        embeds = model.get_input_embeddings()(ids)
        if "Gemma" not in type(model.backbone).__name__:  # Gemma scales the embeddings that it looks up itself
            out = model(inputs_embeds=embeds, attention_mask=mask).logits
            torch.testing.assert_close(out, alone, atol=1e-5, rtol=1e-5)


def test_cached_tokens_come_before(checkpoint):
    model = tiny_model(checkpoint)
    ids, mask = torch.randint(3, 300, (2, 9)), torch.ones(2, 9, dtype=torch.long)
    mask[0, :2] = 0
    cached = model(ids[:, :5], attention_mask=mask[:, :5], use_cache=True).past_key_values
    rest = model(ids[:, 5:], attention_mask=mask, past_key_values=cached)
    torch.testing.assert_close(rest.logits, model(ids, attention_mask=mask).logits, atol=1e-5, rtol=1e-5)


def test_pool_over_a_mask():
    hidden = torch.arange(24.0).view(2, 4, 3)
    mask = torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1]])
    assert torch.equal(pool(hidden, mask, "last"), torch.stack([hidden[0, 2], hidden[1, 3]]))
    assert torch.equal(pool(hidden, mask, "mean"), torch.stack([hidden[0, 1:3].mean(0), hidden[1].mean(0)]))
    assert torch.equal(pool(hidden, None, "last"), hidden[:, -1])
    assert torch.equal(pool(hidden, None, "mean"), hidden.mean(1))


def test_head_stays_in_float32(checkpoint):
    model = tiny_model(checkpoint, dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert model.score.weight.dtype == torch.float32
    ids = torch.tensor([[5, 6, 7]])
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(ids).logits
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())


def test_save_and_load_a_full_model_auto_style(checkpoint, tmp_path):
    model = tiny_model(checkpoint, MULTI, pooling="mean")
    model.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, CausalLMForLastTokenClassificationConfig)
    assert config.label_space == MULTI
    assert str(checkpoint) not in (tmp_path / "config.json").read_text()
    ids = torch.tensor([[5, 6, 7]])
    for auto in (AutoModelForSequenceClassification, AutoModel, CausalLMForLastTokenClassification):
        again = auto.from_pretrained(tmp_path)
        assert type(again) is CausalLMForLastTokenClassification
        assert torch.equal(again(ids).logits, model(ids).logits)


def test_single_label_loss(checkpoint):
    model = tiny_model(checkpoint, class_weights=[1.0, 2.0, 0.5], label_smoothing=0.1)
    logits, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, -100])
    expected = F.cross_entropy(
        logits, labels, weight=torch.tensor([1.0, 2.0, 0.5]), label_smoothing=0.1, reduction="sum"
    )
    torch.testing.assert_close(model.loss(logits, labels), expected / 4)
    torch.testing.assert_close(model.loss(logits, labels, num_items_in_batch=10), expected / 10)
    plain = tiny_model(checkpoint)
    torch.testing.assert_close(plain.loss(logits, labels), F.cross_entropy(logits, labels))


def test_multi_label_loss_takes_integers(checkpoint):
    model = tiny_model(checkpoint, MULTI, pos_weight=[1.0, 2.0, 3.0])
    logits, labels = torch.randn(4, 3), torch.randint(0, 2, (4, 3))
    expected = F.binary_cross_entropy_with_logits(logits, labels.float(), pos_weight=torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(model.loss(logits, labels), expected)
    torch.testing.assert_close(model.loss(logits, labels.float()), expected)
    torch.testing.assert_close(model.loss(logits, labels, num_items_in_batch=24), expected / 2)
    partly = labels.clone()
    partly[0] = -100
    rest = F.binary_cross_entropy_with_logits(logits[1:], labels[1:].float(), pos_weight=torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(model.loss(logits, partly), rest)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"pooling": "max"}, r"`pooling` must be one of \['last', 'mean'\], got 'max'"),
        ({"problem_type": "regression"}, "`problem_type` must be one of"),
        ({"label_smoothing": 1.0}, r"must be in \[0, 1\)"),
    ],
)
def test_bad_configuration(kwargs, message):
    with pytest.raises(ValueError, match=message):
        CausalLMForLastTokenClassificationConfig(**kwargs)


def test_labels_of_a_new_head_must_be_given(checkpoint):
    with pytest.raises(ValueError, match=r"has no classification head yet\. Pass its labels"):
        CausalLMForLastTokenClassification.from_pretrained(checkpoint)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama", ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]),
        ("gpt2", ["c_attn", "c_fc", "c_proj"]),
        ("phi3", ["down_proj", "gate_up_proj", "o_proj", "qkv_proj"]),
    ],
)
def test_lora_goes_on_all_linear_layers_but_the_head(tokenizer, name, expected):
    model = tiny.make_causal_lm(name, len(tokenizer))
    assert lora_target_modules(model.base_model) == expected
    config = CausalLMForLastTokenClassificationConfig.from_backbone(tiny.make_config(name, len(tokenizer)), LABELS)
    classifier = CausalLMForLastTokenClassification(config)
    assert lora_target_modules(classifier.base_model) == expected


def with_adapter(model, rank=4):
    config = LoraConfig(
        r=rank, target_modules=lora_target_modules(model.base_model), task_type="SEQ_CLS", init_lora_weights=False
    )
    return get_peft_model(model, config)


@pytest.mark.parametrize("skipped", [None, ["lm_head"]])
def test_head_is_never_quantised(checkpoint, skipped):
    """Trap T5: an explicit skip list replaces the default one."""
    config = copy.deepcopy(NF4)
    config.llm_int8_skip_modules = skipped
    model = tiny_model(checkpoint, quantization_config=config)
    assert type(model.score) is torch.nn.Linear
    assert type(model.model.layers[0].mlp.up_proj).__name__ == "Linear4bit"
    assert model.is_loaded_in_4bit


def nf4_gradients(model, batch):
    model.zero_grad()
    model.train()
    model(**batch).loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.requires_grad}


def test_nf4_gradients_are_exact_after_an_evaluation(checkpoint):
    """Trap T6: bitsandbytes repacks weights in evaluation mode, and the gradient below them is lost."""
    torch.manual_seed(0)
    model = with_adapter(tiny_model(checkpoint, quantization_config=NF4, dtype=torch.float32))
    batch = {"input_ids": torch.randint(3, 300, (4, 9)), "labels": torch.tensor([0, 1, 2, 0])}
    before = nf4_gradients(model, batch)
    model.eval()
    with torch.no_grad():
        model(batch["input_ids"])
    after = nf4_gradients(model, batch)
    assert len(before) > 10
    for name, gradient in before.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(after[name], gradient, atol=1e-6, rtol=1e-5)


def test_adapter_of_stock_peft_loads_with_its_head(checkpoint, tmp_path):
    model = with_adapter(tiny_model(checkpoint))
    ids = torch.randint(3, 300, (2, 9))
    logits = model.eval()(ids).logits
    model.save_pretrained(tmp_path)
    base = AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=3)
    base.config.pad_token_id = 0
    stock = PeftModel.from_pretrained(base, tmp_path).eval()
    torch.testing.assert_close(stock(ids).logits, logits, atol=1e-5, rtol=1e-5)
