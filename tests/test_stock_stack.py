"""Where the stock stack fails a test of invariance that this package passes.

These tests assert that it still fails, on the versions of `constraints.txt`: when one of them does not pass any more,
upstream has mended it, and what this package does about it may go.
"""

import pytest
import tiny
import torch
from bitsandbytes.functional import has_avx512bf16
from conftest import SUBJECTS, make_rows, run_in_two_processes
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from test_model import LABELS, NF4, tiny_model
from test_train import first_gradients
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)
from trl import SFTConfig, SFTTrainer

TEXTS = ["the football match", "cat", "shares in the bank fell as markets kept busy", "a new film about computers"]
NO_PAD = ["gpt2", "gpt_neox", "bloom"]  # no pad token in their configurations


@pytest.fixture(scope="module")
def wide(tokenizer, tmp_path_factory):
    """A checkpoint with rows of whole NF4 blocks."""
    size = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    return tiny.save_checkpoint(tmp_path_factory.mktemp("wide"), "llama", tokenizer, **size)


def stock_model(name, tokenizer, **changes):
    """The stock class with a random head."""
    config = tiny.make_config(name, len(tokenizer), num_labels=3, **changes)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    torch.nn.init.normal_(model.score.weight, std=0.3)
    return model


def alone(model, tokenizer, texts=TEXTS):
    with torch.no_grad():
        return torch.cat([model(**tokenizer([text], return_tensors="pt")).logits for text in texts])


def together(model, tokenizer, side="right"):
    batch = tokenizer(TEXTS, padding=True, padding_side=side, return_tensors="pt")
    with torch.no_grad():
        return model(**batch).logits


def differences(model, tokenizer, side="right"):
    """Largest difference of the logits of each shorter document, in a padded batch and alone."""
    found = (together(model, tokenizer, side) - alone(model, tokenizer)).abs().amax(dim=1)
    longest = max(range(len(TEXTS)), key=lambda row: len(tokenizer(TEXTS[row])["input_ids"]))
    assert found[longest] < 1e-5  # it is not padded
    return torch.cat([found[:longest], found[longest + 1 :]])


def test_stock_class_reads_a_text_that_ends_in_the_pad_token_one_token_early(checkpoint):
    model = tiny_model(checkpoint)
    stock = AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=3).eval()
    stock.load_state_dict(model.state_dict())
    ids = torch.tensor([[5, 6, 7, 2]])
    mask = torch.ones_like(ids)
    torch.testing.assert_close(stock(ids, attention_mask=mask).logits, model(ids[:, :3]).logits)
    assert not torch.allclose(model(ids, attention_mask=mask).logits, model(ids[:, :3]).logits)


@pytest.mark.parametrize("name", NO_PAD)
def test_stock_class_refuses_batches_where_the_configuration_has_no_pad_token(name, tokenizer):
    with pytest.raises(ValueError, match="Cannot handle batch sizes > 1 if no padding token is defined"):
        together(stock_model(name, tokenizer), tokenizer)


@pytest.mark.parametrize("name", ["llama", "gemma3", "opt"])
def test_stock_class_reads_the_padding_where_the_tokenizer_pads_with_another_token(name, tokenizer):
    assert differences(stock_model(name, tokenizer, pad_token_id=0), tokenizer).min() > 0.1
    assert differences(stock_model(name, tokenizer, pad_token_id=tokenizer.pad_token_id), tokenizer).max() < 1e-4


def test_stock_gpt2_takes_padding_on_the_left_for_positions(tokenizer):
    model = stock_model("gpt2", tokenizer, pad_token_id=tokenizer.pad_token_id)
    assert differences(model, tokenizer, "left").min() > 0.1
    assert differences(model, tokenizer, "right").max() < 1e-4


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt"])
def test_stock_class_pools_padding_of_embeddings(name, tokenizer):
    model = stock_model(name, tokenizer, pad_token_id=tokenizer.pad_token_id)
    batch = tokenizer(TEXTS, padding=True, padding_side="right", return_tensors="pt")
    embeddings = model.get_input_embeddings()(batch["input_ids"])
    with torch.no_grad():
        found = model(inputs_embeds=embeddings, attention_mask=batch["attention_mask"]).logits
    different = (found - alone(model, tokenizer)).abs().amax(dim=1) > 0.1
    assert different.tolist() == [True, True, False, True]  # the longest is not padded


def stock(checkpoint):
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=3)
    model.config.pad_token_id = 0
    return model


@pytest.mark.parametrize(("size", "steps"), [(4, 2), (1, 8)])
def test_stock_class_has_gradients_that_grow_with_accumulation(size, steps, checkpoint, tmp_path):
    """transformers#47688: `Trainer` believes that the class normalises by `num_items_in_batch`."""
    whole = first_gradients(stock(checkpoint), LABELS, tmp_path, 8, 1)["score.weight"]
    parts = first_gradients(stock(checkpoint), LABELS, tmp_path, size, steps)["score.weight"]
    torch.testing.assert_close(parts, steps * whole, rtol=1e-3, atol=1e-4)


SCRIPT = """
import os, sys
import torch
from test_model import LABELS
from test_stock_stack import stock
from test_train import first_gradients

gradients = first_gradients(stock(sys.argv[1]), LABELS, ".", 4, 1)
assert torch.distributed.get_world_size() == 2
(gradient,) = [value for name, value in gradients.items() if name.endswith("score.weight")]
torch.save(gradient, os.environ["RANK"])
"""


def test_stock_class_has_gradients_that_grow_with_processes(checkpoint, tmp_path):
    whole = first_gradients(stock(checkpoint), LABELS, tmp_path, 8, 1)["score.weight"]
    run_in_two_processes(SCRIPT, tmp_path, checkpoint)
    torch.testing.assert_close(torch.load(tmp_path / "0"), 2 * whole, rtol=1e-3, atol=1e-4)


def lora(task, **kwargs):
    targets = ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]
    return LoraConfig(r=4, lora_dropout=0.0, target_modules=targets, task_type=task, **kwargs)


STOCK = {"report_to": "none", "save_strategy": "no", "dataloader_pin_memory": False, "logging_steps": 1}


def stock_trainer(checkpoint, tokenizer, folder, quantization=None):
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(
        checkpoint, num_labels=3, dtype=torch.float32, quantization_config=quantization
    )
    names = list(SUBJECTS)
    rows = [{**tokenizer(row["text"]), "labels": names.index(row["label"])} for row in make_rows(12)]
    return Trainer(
        model=get_peft_model(model, lora("SEQ_CLS", init_lora_weights=False)),
        args=TrainingArguments(str(folder), **STOCK),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows),
        data_collator=DataCollatorWithPadding(tokenizer),
    )


def trl_trainer(checkpoint, tokenizer, folder, quantization=None, **values):
    """TRL's trainer, on answers of unequal numbers of tokens."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, quantization_config=quantization)
    answers = {name: name for name in SUBJECTS} | {"tech": "computers and phones in the middle east"}
    rows = [{"prompt": row["text"] + "\n", "completion": answers[row["label"]]} for row in make_rows(12)]
    torch.manual_seed(0)
    return SFTTrainer(
        model=model,
        args=SFTConfig(str(folder), bf16=False, activation_checkpointing=False, **{**STOCK, **values}),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=lora("CAUSAL_LM", init_lora_weights=False),
    )


def gradients(trainer):
    trainer.model.zero_grad()
    trainer.model.train()
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(8)])
    trainer.compute_loss(trainer.model, dict(batch)).backward()
    trained = [weight for weight in trainer.model.parameters() if weight.requires_grad]
    found = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in trained]
    return torch.cat([gradient.flatten().float() for gradient in found])


@pytest.mark.parametrize("build", [stock_trainer, trl_trainer])
def test_stock_nf4_training_loses_its_gradients_after_an_evaluation(build, wide, tokenizer, tmp_path):
    """Where the CPU has AVX512-BF16, for which bitsandbytes repacks weights; elsewhere they stay."""
    trainer = build(wide, tokenizer, tmp_path, NF4)
    before = gradients(trainer)
    torch.testing.assert_close(gradients(trainer), before)
    trainer.evaluate()
    similarity = torch.nn.functional.cosine_similarity(gradients(trainer), before, dim=0)
    assert similarity < 0.9 if has_avx512bf16() else similarity > 0.999


def test_trl_rounds_the_adapter_of_an_nf4_model_to_bfloat16(wide, tokenizer, tmp_path):
    trainer = trl_trainer(wide, tokenizer, tmp_path, NF4)
    assert {weight.dtype for weight in trainer.model.parameters() if weight.requires_grad} == {torch.bfloat16}


def test_trl_logs_a_loss_of_evaluation_that_depends_on_the_batch_size(checkpoint, tokenizer, tmp_path):
    """Each batch's mean over tokens counts by its documents."""
    found = {
        size: trl_trainer(checkpoint, tokenizer, tmp_path, per_device_eval_batch_size=size).evaluate()
        for size in (12, 1)
    }
    assert abs(found[1]["eval_loss"] / found[12]["eval_loss"] - 1) > 1e-3


def test_trl_logs_metrics_of_training_that_depend_on_accumulation(checkpoint, tokenizer, tmp_path):
    """The loss does not: it is one over the tokens of the whole step."""
    found = {}
    for size, steps in ((8, 1), (1, 8)):
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps, "max_steps": 1}
        trainer = trl_trainer(checkpoint, tokenizer, tmp_path, **options)
        trainer.train()
        found[size] = trainer.state.log_history[0]
    assert found[1]["loss"] == pytest.approx(found[8]["loss"], rel=1e-4)
    assert abs(found[1]["entropy"] / found[8]["entropy"] - 1) > 1e-3


def test_transformers_rounds_a_saved_adapter_to_the_data_type_of_its_base(checkpoint, tmp_path):
    """PEFT does not: the model in memory is the one that it loads."""
    options = {"num_labels": 3, "dtype": torch.bfloat16}
    torch.manual_seed(0)
    base = AutoModelForSequenceClassification.from_pretrained(checkpoint, **options)
    model = get_peft_model(base, lora("SEQ_CLS", init_lora_weights=False)).eval()
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(checkpoint, **options)
    peft = PeftModel.from_pretrained(again, tmp_path).eval()
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path, **options).eval()
    ids = torch.randint(3, 300, (4, 9))
    with torch.no_grad():
        logits = [each(ids).logits for each in (model, peft, loaded)]
    assert torch.equal(logits[1], logits[0])
    assert (logits[2] - logits[0]).abs().max() > 0.01
