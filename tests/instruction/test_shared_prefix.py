"""Training with a shared prefix is TRL's training, only faster."""

import json

import pytest
import tiny
import torch
from conftest import run_in_two_processes
from datasets import Dataset
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file
from test_recipes import arguments, run
from test_train import FirstGradients
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Gemma2Config
from trl import SFTConfig, SFTTrainer

from hf_causal_clf import LabelSpace, PromptTemplate, Verbalizer, VerbalizerCollator
from hf_causal_clf.backbone.attention import keep_exact_gradients
from hf_causal_clf.backbone.settings import lora_target_modules
from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.data.splits import load_data
from hf_causal_clf.instruction import shared_prefix
from hf_causal_clf.instruction.arguments import InstructionModelArguments, InstructionTrainingArguments
from hf_causal_clf.instruction.shared_prefix import SharedPrefixSFTTrainer, common_prefix, sharing_obstacle
from hf_causal_clf.instruction.trainer import instruction_trainer
from hf_causal_clf.training.arguments import PromptArguments, RunArguments
from hf_causal_clf.training.train import prepare

ROWS = [
    {"text": "football match", "label": "sport"},
    {"text": "shares in the bank fell", "label": "business"},
    {"text": "cat", "label": "sport"},
    {"text": "new computers and phones for the markets and the cat", "label": "tech"},
]


def make_model(name, tokenizer, monkeypatch, *, lora=False, dtype=torch.float32):
    if name == "gemma2":  # full attention
        size = {**tiny._SIZE, "head_dim": 8, "layer_types": ["full_attention"] * 2}
        monkeypatch.setitem(tiny.ARCHITECTURES, name, (Gemma2Config, size))
    model = tiny.make_causal_lm(name, len(tokenizer)).to(dtype)
    return add_lora(model) if lora else model


def add_lora(model):
    config = LoraConfig(r=4, target_modules=lora_target_modules(model.base_model), task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_" in name:  # B is zero otherwise, and A has no gradient
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def make_trainer(kind, model, tokenizer, folder, rows=ROWS, callbacks=(), **values):
    verbalizer = Verbalizer(LabelSpace(["sport", "business", "tech"]))
    defaults = {
        "activation_checkpointing": False,
        "report_to": "none",
        "bf16": False,
        "max_length": 128,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "remove_unused_columns": False,
        "save_strategy": "no",
        "dataloader_pin_memory": False,
    }
    return kind(
        model=model,
        args=SFTConfig(str(folder), **{**defaults, **values}),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        data_collator=VerbalizerCollator(tokenizer, PromptTemplate(), verbalizer),
        callbacks=list(callbacks),
    )


@pytest.fixture
def lengths(monkeypatch):
    """Lengths of the prefixes that were run once a batch."""
    found, original = [], shared_prefix._run_shared

    def counted(forward, length, *args, **kwargs):
        found.append(length)
        return original(forward, length, *args, **kwargs)

    monkeypatch.setattr(shared_prefix, "_run_shared", counted)
    return found


def one_batch(trainer):
    """Loss, gradients and logged metrics of one batch."""
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(ROWS))
    loss.backward()
    gradients = {name: weight.grad for name, weight in trainer.model.named_parameters() if weight.grad is not None}
    return loss.item(), gradients, {name: values[-1] for name, values in trainer._metrics["eval"].items()}


def cosine(first, second):
    first, second = (torch.cat([g.float().flatten() for g in part.values()]) for part in (first, second))
    return torch.nn.functional.cosine_similarity(first, second, dim=0).item()


def check_equal(found, expected):
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert found[2] == pytest.approx(expected[2], rel=1e-4)
    assert {"entropy", "mean_token_accuracy", "num_tokens"} <= set(found[2])
    check_gradients(found[1], expected[1])


def check_gradients(found, expected):
    assert set(found) == set(expected)
    largest = max(gradient.abs().max().item() for gradient in expected.values())
    assert largest > 1e-3
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5 * largest, msg=name)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "gemma2", "opt"])
def test_loss_gradients_and_metrics_are_those_of_trl(name, lora, tokenizer, tmp_path, monkeypatch, lengths):
    found, expected = (
        one_batch(make_trainer(kind, make_model(name, tokenizer, monkeypatch, lora=lora), tokenizer, tmp_path))
        for kind in (SharedPrefixSFTTrainer, SFTTrainer)
    )
    check_equal(found, expected)
    assert len(lengths) == 1
    assert lengths[0] > 20


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_bfloat16_differs_by_rounding_only(name, tokenizer, tmp_path, monkeypatch, lengths):
    options = {"lora": True, "dtype": torch.bfloat16}
    (loss, gradients, _), (expected_loss, expected, _) = (
        one_batch(make_trainer(kind, make_model(name, tokenizer, monkeypatch, **options), tokenizer, tmp_path))
        for kind in (SharedPrefixSFTTrainer, SFTTrainer)
    )
    assert loss == pytest.approx(expected_loss, rel=1e-2)
    assert cosine(gradients, expected) > 0.999
    assert lengths


def test_nf4(checkpoint, tokenizer, tmp_path, lengths):
    found = []
    for kind in (SharedPrefixSFTTrainer, SFTTrainer):
        quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
        model = AutoModelForCausalLM.from_pretrained(checkpoint, quantization_config=quantization)
        keep_exact_gradients(model)
        trainer = make_trainer(kind, add_lora(model), tokenizer, tmp_path)
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        found.append(one_batch(trainer))
    check_equal(*found)
    assert lengths


def first_gradients(kind, size, accumulation, tokenizer, folder, monkeypatch):
    callback = FirstGradients()
    model = make_model("llama", tokenizer, monkeypatch, lora=True)
    options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation, "max_grad_norm": 0}
    trainer = make_trainer(kind, model, tokenizer, folder, callbacks=[callback], max_steps=1, **options)
    trainer.train()
    return callback.gradients


def test_accumulation_does_not_change_gradients(tokenizer, tmp_path, monkeypatch, lengths):
    expected = first_gradients(SFTTrainer, 4, 1, tokenizer, tmp_path, monkeypatch)
    for size, accumulation, batches in ((4, 1, 1), (2, 2, 2), (1, 4, 0)):  # nothing to share in a single row
        found = first_gradients(SharedPrefixSFTTrainer, size, accumulation, tokenizer, tmp_path, monkeypatch)
        check_gradients(found, expected)
        assert len(lengths) == batches
        lengths.clear()


def test_evaluation_has_the_same_loss(tokenizer, tmp_path, monkeypatch, lengths):
    found, expected = (
        make_trainer(kind, make_model("llama", tokenizer, monkeypatch), tokenizer, tmp_path).evaluate()
        for kind in (SharedPrefixSFTTrainer, SFTTrainer)
    )
    names = ("eval_loss", "eval_entropy", "eval_mean_token_accuracy")
    assert [found[name] for name in names] == pytest.approx([expected[name] for name in names], rel=1e-4)
    assert lengths


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_what_needs_the_logits_has_them(name, tokenizer, tmp_path, monkeypatch, lengths):
    def trainer(kind):
        model = make_model(name, tokenizer, monkeypatch)
        return make_trainer(kind, model, tokenizer, tmp_path, label_smoothing_factor=0.1)

    pair = trainer(SharedPrefixSFTTrainer), trainer(SFTTrainer)
    check_equal(*(one_batch(each) for each in pair))
    (loss, logits, _), (expected_loss, expected, _) = (
        each.prediction_step(each.model, each.data_collator(ROWS), prediction_loss_only=False) for each in pair
    )
    torch.testing.assert_close(loss, expected_loss)
    real = pair[0].data_collator(ROWS)["attention_mask"].bool()
    torch.testing.assert_close(logits[real], expected[real], rtol=1e-4, atol=1e-4)
    assert len(lengths) == 5  # TRL runs the model twice for the smoothed loss, and once more for the logits


def test_the_decoder_is_the_same_outside_the_loss(tokenizer, tmp_path, monkeypatch, lengths):
    model = make_model("llama", tokenizer, monkeypatch)
    ids = torch.tensor([[5, 6, 7] * 5, [5, 6, 7] * 4 + [8, 9, 10]])
    logits, generated = model(ids).logits, model.generate(ids, do_sample=False, max_new_tokens=3)
    trainer = make_trainer(SharedPrefixSFTTrainer, model, tokenizer, tmp_path)
    one_batch(trainer)
    assert lengths
    lengths.clear()
    assert torch.equal(trainer.model(ids).logits, logits)
    assert torch.equal(trainer.model.generate(ids, do_sample=False, max_new_tokens=3), generated)
    assert not lengths


def batch(rows, masks=None, labels=None):
    input_ids = torch.tensor(rows)
    attention_mask = torch.tensor(masks) if masks else torch.ones_like(input_ids)
    targets = torch.full_like(input_ids, -100)
    targets[:, labels if labels is not None else -1 :] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": targets}


COMMON = list(range(10, 22))


def test_common_prefix():
    assert common_prefix(batch([[*COMMON, 1, 2], [*COMMON, 3, 2]])) == 12
    assert common_prefix({**batch([[*COMMON, 1, 2], [*COMMON, 3, 2]]), "use_cache": False}) == 12
    assert common_prefix(batch([COMMON, COMMON])) == 11  # a token is left
    assert common_prefix(batch([COMMON, COMMON], [[1] * 12, [1] * 10 + [0] * 2])) == 9  # to the shorter one too
    assert common_prefix(batch([[*COMMON, 1, 2], [*COMMON, 3, 2]], labels=9)) == 9  # and all answers
    assert common_prefix(batch([[*COMMON[:8], 1], [*COMMON[:8], 2]])) == 8
    assert common_prefix(batch([[*COMMON[:7], 1], [*COMMON[:7], 2]])) == 0  # not worth it
    assert common_prefix(batch([[*COMMON, 1], [9, *COMMON]])) == 0
    assert common_prefix(batch([[*COMMON, 1], [*COMMON, 2]], [[0] + [1] * 12, [1] * 13])) == 0  # left padding
    assert common_prefix(batch([[*COMMON, 1]])) == 0
    assert common_prefix({**batch([[*COMMON, 1], [*COMMON, 2]]), "position_ids": torch.zeros(2, 13)}) == 0


OBSTACLES = {
    "checkpointing": ({"activation_checkpointing": True}, {}, "activation_checkpointing discards the key-value cache"),
    "offloading": ({"activation_offloading": True}, {}, "has not been tested with activation_offloading"),
    "compile": ({"torch_compile": True}, {}, "has not been tested with torch_compile"),
    "fsdp": ({}, {"ACCELERATE_USE_FSDP": "true"}, "FSDP"),
    "deepspeed": ({}, {"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed"),
    "parallelism": ({}, {"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "parallelism_config"),
}


@pytest.mark.parametrize("case", OBSTACLES)
def test_obstacles_in_the_arguments(case, tokenizer, tmp_path, monkeypatch):
    values, environment, message = OBSTACLES[case]
    model = make_model("llama", tokenizer, monkeypatch)
    settings = SFTConfig(str(tmp_path), **{"activation_checkpointing": False, "bf16": False, **values})
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert message in sharing_obstacle(model, settings)


def test_obstacles_in_the_model(tokenizer, tmp_path, monkeypatch):
    settings = SFTConfig(str(tmp_path), activation_checkpointing=False, bf16=False, max_length=8)
    model = make_model("mistral_sliding", tokenizer, monkeypatch)
    assert "window of 7 tokens is shorter than max_length=8" in sharing_obstacle(model, settings)
    settings.max_length = 7
    assert sharing_obstacle(model, settings) is None
    settings.max_length = None
    assert "window of 7 tokens" in sharing_obstacle(model, settings)
    assert sharing_obstacle(make_model("llama", tokenizer, monkeypatch, lora=True), settings) is None
    assert "BloomForCausalLM" in sharing_obstacle(make_model("bloom", tokenizer, monkeypatch), settings)
    virtual = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    model = make_model("llama", tokenizer, monkeypatch)
    assert "virtual tokens" in sharing_obstacle(get_peft_model(model, virtual), settings)


def test_the_trainer_raises_where_it_is_not_possible(tokenizer, tmp_path, monkeypatch):
    model = make_model("mistral_sliding", tokenizer, monkeypatch)
    with pytest.raises(ValueError, match=r"cannot be run once a batch: the model's attention window of 7 tokens"):
        make_trainer(SharedPrefixSFTTrainer, model, tokenizer, tmp_path)
    with pytest.raises(ValueError, match=r"share_prefix needs .* set activation_checkpointing to false"):
        InstructionTrainingArguments(str(tmp_path), share_prefix=True)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({}, SFTTrainer),  # TRL turns checkpointing on
        ({"activation_checkpointing": False}, SharedPrefixSFTTrainer),
        ({"activation_checkpointing": False, "share_prefix": True}, SharedPrefixSFTTrainer),
        ({"activation_checkpointing": False, "share_prefix": False}, SFTTrainer),
    ],
)
def test_what_the_recipe_takes(values, kind, checkpoint, files, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("hf_causal_clf.instruction.trainer.logger.info", said.append)
    trainer = build(checkpoint, files, tmp_path, **values)
    assert type(trainer) is kind
    assert len(said) == (not values)
    assert all("set it to false" in line for line in said)


def build(checkpoint, files, folder, **values):
    data = load_data(DataArguments(**files))
    model = InstructionModelArguments(model_name_or_path=checkpoint, dtype="float32", lora_r=8)
    settings = InstructionTrainingArguments(str(folder), max_length=128, optim="adamw_torch", **values)
    verbalizer = PromptArguments().verbalizer(data.label_space)
    template = PromptArguments().template(128, "tail")
    return instruction_trainer(data, prepare(model, settings), template, verbalizer, model, settings, RunArguments())


def test_a_model_that_cannot_is_named(tokenizer, files, tmp_path):
    sliding = tiny.save_checkpoint(tmp_path / "sliding", "mistral_sliding", tokenizer)
    options = {"activation_checkpointing": False}
    assert type(build(sliding, files, tmp_path, **options)) is SFTTrainer
    with pytest.raises(
        ValueError, match="share_prefix is set, but the model's attention window of 7 tokens is shorter"
    ):
        build(sliding, files, tmp_path, share_prefix=True, **options)


def test_a_recipe_ends_the_same_with_and_without(checkpoint, files, tmp_path, monkeypatch, lengths):
    def run_recipe(share):
        options = {"num_train_epochs": "1", "share_prefix": share}
        run("instruct", arguments("instruct", checkpoint, files, tmp_path / share, **options), monkeypatch)
        weights = load_file(tmp_path / share / "adapter_model.safetensors")
        return json.loads((tmp_path / share / "metrics.json").read_text()), weights, len(lengths)

    expected, expected_weights, shared = run_recipe("false")
    assert not shared
    found, weights, shared = run_recipe("true")
    assert shared > found["training"]["steps"] == 6
    for split in ("validation", "test"):
        assert found[split] == pytest.approx(expected[split], abs=2e-3)
    for name, weight in expected_weights.items():
        torch.testing.assert_close(weights[name], weight, rtol=0, atol=1e-3, msg=name)


SCRIPT = """
import os, sys
import tiny, torch
from hf_causal_clf.instruction import shared_prefix
from hf_causal_clf.instruction.shared_prefix import SharedPrefixSFTTrainer
from test_shared_prefix import first_gradients

folder, calls, original = sys.argv[1], [], shared_prefix._run_shared
shared_prefix._run_shared = lambda *args, **kwargs: calls.append(1) or original(*args, **kwargs)
gradients = first_gradients(SharedPrefixSFTTrainer, 2, 1, tiny.make_tokenizer(), folder, None)
assert torch.distributed.get_world_size() == 2 and calls
torch.save({name.removeprefix("module."): value for name, value in gradients.items()}, f"{folder}/{os.environ['RANK']}")
"""


def test_two_processes_have_the_gradients_of_one(tokenizer, tmp_path, monkeypatch, lengths):
    expected = first_gradients(SFTTrainer, 4, 1, tokenizer, tmp_path, monkeypatch)
    run_in_two_processes(SCRIPT, tmp_path, ".")
    for rank in "01":
        check_gradients(torch.load(tmp_path / rank), expected)
