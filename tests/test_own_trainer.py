"""A model of one's own `Trainer` or `SFTTrainer` becomes a run, as README's "In your own Trainer" shows."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import test_hub
import torch
from conftest import make_rows
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Trainer, TrainingArguments

from hf_causal_clf import (
    CausalLMForLastTokenClassification,
    LabelScorer,
    LabelSpace,
    PromptTemplate,
    TextClassifier,
    Verbalizer,
)
from hf_causal_clf.embedding.collator import ClassificationCollator
from hf_causal_clf.embedding.scorer import HeadScorer
from hf_causal_clf.finishing import save_description
from hf_causal_clf.runs.run import BaseModel, Run, Truncation
from hf_causal_clf.task.documents import DocumentEncoder

hub = test_hub.hub
ROOT = Path(__file__).parent.parent
HEADING = "## In your own Trainer\n"
LABELS = LabelSpace(["business", "sport", "tech"])
MULTI = LabelSpace(["business", "sport", "tech"], multi_label=True)
TEXTS = [row["text"] for row in make_rows(5, 700)] + ["<|im_end|> the cat " * 30]


def snippets():
    """Those of README."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split(HEADING)[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


def in_memory(model, encoder):
    """The probabilities of a model as it is in memory, by the constructors."""
    if isinstance(encoder, DocumentEncoder) or hasattr(model.config, "pooling"):
        scorer = HeadScorer(model, encoder.tokenizer, encoder)
        return TextClassifier(scorer, model.config.label_space).predict_proba(TEXTS)
    scorer = LabelScorer(model, encoder.tokenizer, template=encoder.template, verbalizer=encoder.verbalizer)
    return TextClassifier(scorer, encoder.verbalizer.labels).predict_proba(TEXTS)


def check_same(model, encoder, folder):
    """Loaded from the folder alone, the probabilities are those in memory, and say something."""
    expected = in_memory(model, encoder)
    found = TextClassifier.from_pretrained(folder).predict_proba(TEXTS)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - found[0]).max() > 1e-3
    return expected


class Poison:
    def __reduce__(self):
        return exec, ("raise AssertionError('a pickle was read')",)


@pytest.mark.parametrize("number", [0, 1])
def test_the_snippets_of_the_readme_run(number, checkpoint, tmp_path):
    code = snippets()[number]
    assert len(snippets()) == 2
    code = code.replace('"HuggingFaceTB/SmolLM2-135M"', repr(checkpoint)).replace("runs/own", str(tmp_path / "own"))
    names = {}
    exec(compile(code, "snippet", "exec"), names)
    assert (tmp_path / "own" / "training_args.bin").is_file()
    torch.save(Poison(), tmp_path / "own" / "training_args.bin")
    model, encoder = names["trainer"].model, names.get("encoder") or names["collator"].encoder
    expected = check_same(model, encoder, tmp_path / "own")
    if number == 0:
        loaded = CausalLMForLastTokenClassification.from_pretrained(tmp_path / "own")
        np.testing.assert_allclose(in_memory(loaded, encoder), expected, atol=1e-5)


def trained(model, encoder, labels, output):
    """Train a model with a plain `Trainer` for two steps and save it as that does."""
    values = [["business"], ["sport", "tech"], []] if labels.multi_label else ["business", "sport", "tech"]
    rows = [
        {"input_ids": encoder.encode(text), "labels": labels.encode(values[index % 3])}
        for index, text in enumerate(TEXTS)
    ]
    arguments = TrainingArguments(str(output), max_steps=2, learning_rate=1e-2, report_to="none", save_strategy="no")
    trainer = Trainer(model, arguments, train_dataset=rows, data_collator=ClassificationCollator(labels))
    trainer.train()
    trainer.save_model(output)


@pytest.mark.parametrize("peft", [True, False])
@pytest.mark.parametrize("prompted", [True, False])
def test_every_kind_of_head(peft, prompted, checkpoint, tokenizer, tmp_path):
    labels = LABELS if peft else MULTI
    model = CausalLMForLastTokenClassification.from_pretrained(checkpoint, label_space=labels, pooling="mean")
    if peft:
        model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"]))
    encoder = DocumentEncoder(tokenizer, 24, "both")
    if prompted:
        encoder = PromptTemplate(max_length=160, truncation="head").bind(tokenizer, Verbalizer(labels))
    trained(model, encoder, labels, tmp_path / "own")
    save_description(tmp_path / "own", model, encoder)
    check_same(model, encoder, tmp_path / "own")
    saved = Run.read(tmp_path / "own")
    assert saved.label_space == labels
    assert saved.pooling == "mean"
    assert saved.truncation == (Truncation(160, "head") if prompted else Truncation(24, "both"))
    assert saved.base_model == BaseModel(checkpoint, revision=None, dtype="float32", quantization=None)


def test_a_whole_causal_model_in_bfloat16_with_a_chat_template(checkpoint, tokenizer, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16)
    encoder = PromptTemplate(use_chat_template=True, max_length=160).bind(tokenizer, Verbalizer(MULTI))
    model.save_pretrained(tmp_path / "own")
    save_description(tmp_path / "own", model, encoder)
    assert Run.read(tmp_path / "own").base_model.dtype == "bfloat16"
    found = TextClassifier.from_pretrained(tmp_path / "own")
    assert found.scorer.model.dtype == torch.bfloat16
    assert found.scorer.encoder.prompt_ids(TEXTS[0]) == encoder.prompt_ids(TEXTS[0])
    # On CPUs the loaded one takes another attention kernel, which rounds bfloat16 in another way
    np.testing.assert_allclose(found.predict_proba(TEXTS), in_memory(model, encoder), atol=5e-3)


def test_quantised_weights_are_quantised_again(tokenizer, checkpoint, tmp_path):
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    model = CausalLMForLastTokenClassification.from_pretrained(
        checkpoint, label_space=LABELS, quantization_config=nf4, device_map={"": "cpu"}, dtype=torch.float32
    )
    model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"], init_lora_weights=False))
    model.save_pretrained(tmp_path / "own")
    encoder = DocumentEncoder(tokenizer, 32)
    save_description(tmp_path / "own", model, encoder)
    settings = Run.read(tmp_path / "own").base_model.quantization
    assert settings["bnb_4bit_quant_type"] == "nf4"
    json.dumps(settings)
    assert TextClassifier.from_pretrained(tmp_path / "own").scorer.model.is_loaded_in_4bit
    check_same(model, encoder, tmp_path / "own")


def test_an_adapter_is_pinned_to_the_commit_of_its_base(hub, tokenizer, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(test_hub.BASE)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    model.save_pretrained(tmp_path / "own")
    save_description(tmp_path / "own", model, PromptTemplate().bind(tokenizer, Verbalizer(LABELS)))
    base = Run.read(tmp_path / "own").base_model
    assert base.name_or_path == test_hub.BASE
    assert re.fullmatch(r"[0-9a-f]{40}", base.revision)
    settings = json.loads((tmp_path / "own" / "adapter_config.json").read_text())
    assert settings["revision"] == base.revision
    assert settings["target_modules"] == ["q_proj"]


def test_what_does_not_fit_is_named_and_nothing_is_written(checkpoint, tokenizer, tmp_path):
    plain = CausalLMForLastTokenClassification.from_pretrained(checkpoint, label_space=LABELS)
    encoder = DocumentEncoder(tokenizer, 32)
    own = tmp_path / "own"
    with pytest.raises(FileNotFoundError, match=r"no weights of the model. Call trainer.save_model"):
        save_description(own, plain, encoder)
    headless = get_peft_model(plain, LoraConfig(target_modules=["q_proj"]))
    headless.save_pretrained(own)
    before = sorted(own.iterdir())
    with pytest.raises(ValueError, match=r'saved without its head. Train it with LoraConfig\(task_type="SEQ_CLS"'):
        save_description(own, headless, encoder)
    other = PromptTemplate().bind(tokenizer, Verbalizer(LabelSpace(["a", "b", "c"])))
    with pytest.raises(ValueError, match=r"labels \['business', 'sport', 'tech'\], the verbalizer \['a', 'b', 'c'\]"):
        save_description(own, headless, other)
    causal = get_peft_model(AutoModelForCausalLM.from_pretrained(checkpoint), LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ValueError, match="LlamaForCausalLM has no classification head, so it answers a prompt"):
        save_description(own, causal, encoder)
    causal.peft_config["default"].base_model_name_or_path = None
    with pytest.raises(ValueError, match="does not know its base model's name"):
        save_description(own, causal, other)
    assert sorted(own.iterdir()) == before
    (own / "metrics.json").write_text("{}")
    with pytest.raises(ValueError, match=r"has \['metrics.json'\] of another run"):
        save_description(own, causal, other)
    with pytest.raises(FileNotFoundError, match=r"your own Trainer, call hf_causal_clf.finishing.save_description"):
        TextClassifier.from_pretrained(own)
