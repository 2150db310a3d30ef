"""The language model's loss on the answer, added to that of a head which reads the answer slot."""

import numpy as np
import pytest
import tiny
import torch
from conftest import make_rows, write_jsonl
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.data.splits import load_data
from hf_causal_clf.embedding.arguments import EmbeddingModelArguments, EmbeddingTrainingArguments, HeadArguments
from hf_causal_clf.embedding.head_init import read_output_embeddings
from hf_causal_clf.embedding.trainer import embedding_trainer
from hf_causal_clf.training.arguments import PromptArguments, RunArguments
from hf_causal_clf.training.train import prepare, train

PROMPT = PromptArguments(instruction="Sort.", answers='{"tech": "computers and phones in the middle east"}')
SCALED = {"llama": {}, "gemma2": {"final_logit_softcapping": 3.0}, "gpt2": {}}
CHANGES = {"gpt2": dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Documents of a single and of a multi-label task."""
    found = {}
    for multi_label in (False, True):
        folder = tmp_path_factory.mktemp("data")
        sizes = {"train": (20, 0), "validation": (9, 100), "test": (3, 200)}
        files = {
            f"{split}_file": write_jsonl(folder / f"{split}.jsonl", make_rows(*size, multi_label))
            for split, size in sizes.items()
        }
        found[multi_label] = load_data(DataArguments(**files, multi_label=multi_label))
    return found


@pytest.fixture(scope="module")
def folders(tokenizer, tmp_path_factory):
    return {
        name: tiny.save_checkpoint(tmp_path_factory.mktemp(name), name, tokenizer, **CHANGES.get(name, {}), **scaled)
        for name, scaled in SCALED.items()
    }


def make_trainer(checkpoint, data, output, head=None, model=None, run=None, max_length=96, **training):
    model = {"model_name_or_path": checkpoint, "dtype": "float32", "lora_r": 4, "lora_dropout": 0.0, **(model or {})}
    model_arguments = EmbeddingModelArguments(**model)
    training = {
        "optim": "sgd",
        "learning_rate": 0.05,
        "lr_scheduler_type": "constant",
        "num_train_epochs": 1,
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "report_to": "none",
        "dataloader_pin_memory": False,
        "output_dir": str(output),
        **training,
    }
    arguments = EmbeddingTrainingArguments(max_length=max_length, **training)
    tokenizer = prepare(model_arguments, arguments)
    run = RunArguments(early_stopping_patience=0, **(run or {}))
    template = PROMPT.template(max_length, run.truncation, run.long_documents)
    encoder = template.bind(tokenizer, PROMPT.verbalizer(data.label_space))
    head_arguments = HeadArguments(head_init="verbalizer", **(head or {}))
    trainer = embedding_trainer(data, tokenizer, encoder, model_arguments, arguments, head_arguments, run)
    return trainer, encoder


def batch_of(trainer, rows, side="right"):
    columns = ("input_ids", "labels", "answer_tokens")
    batch = trainer.data_collator([{name: trainer.train_dataset[row][name] for name in columns} for row in rows])
    if side == "left":
        shifts = (batch["attention_mask"] == 0).sum(dim=1)
        for name in ("input_ids", "attention_mask"):
            moved = [row.roll(int(by)) for row, by in zip(batch[name], shifts, strict=True)]
            batch[name] = torch.stack(moved)
    return batch


@pytest.mark.parametrize("multi_label", [False, True], ids=["single", "multi"])
@pytest.mark.parametrize("name", SCALED)
def test_the_loss_is_the_heads_and_the_language_models(name, multi_label, data, folders, tmp_path):
    """Document by document, unpadded, from the stock model; gemma2 caps its logits, which the loss has to do too."""
    weight = 0.7
    trainer, encoder = make_trainer(folders[name], data[multi_label], tmp_path, {"answer_loss_weight": weight})
    causal_lm = AutoModelForCausalLM.from_pretrained(folders[name]).eval()
    model, rows = trainer.model, range(6)
    head = model.base_model.model.score.modules_to_save["default"].weight.detach()
    answers, heads = [], []
    for row in rows:
        text, label = (data[multi_label].splits["train"][row][key] for key in ("text", "label"))
        answer = encoder.target_ids(label)
        prompt = encoder.prompt_ids(text, answer_tokens=len(answer))
        with torch.no_grad():
            outputs = causal_lm(torch.tensor([prompt + answer]), output_hidden_states=True)
        answers.append(F.cross_entropy(outputs.logits[0, len(prompt) - 1 : -1], torch.tensor(answer)))
        logits = head @ outputs.hidden_states[-1][0, len(prompt) - 1]
        gold = torch.as_tensor(data[multi_label].label_space.encode(label))
        if multi_label:
            heads.append(F.binary_cross_entropy_with_logits(logits, gold.float()))
        else:
            heads.append(F.cross_entropy(logits, gold))
    expected = torch.stack(heads).mean() + weight * torch.stack(answers).mean()
    assert torch.stack(answers).mean() > 1
    for side in ("right", "left"):
        for training in (False, True):  # in training, in groups of similar length
            model.train(training)
            loss = model(**batch_of(trainer, rows, side)).loss
            torch.testing.assert_close(loss.detach(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("multi_label", [False, True], ids=["single", "multi"])
def test_gradients_do_not_depend_on_how_documents_are_batched(multi_label, data, folders, tmp_path):
    trainer, _ = make_trainer(
        folders["llama"], data[multi_label], tmp_path, run={} if multi_label else {"class_weight": "balanced"}
    )
    model, found = trainer.model.train(), []
    items = 6 * (len(data[True].label_space) if multi_label else 1)
    for parts in ([range(6)], [[5, 0], [3], [1, 4, 2]]):
        model.zero_grad()
        for rows in parts:
            model(**batch_of(trainer, rows), num_items_in_batch=items).loss.backward()
        found.append(torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None]))
    assert found[0].norm() > 0.1
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def weights(trainer):
    return torch.cat([weight.detach().flatten() for weight in trainer.model.parameters() if weight.requires_grad])


def test_a_training_learns_the_answers_and_none_at_0(data, folders, tmp_path):
    """With the loss, the language model gives the answers more probability at the end."""
    found, lm_head = {}, read_output_embeddings(folders["llama"])
    for weight in (None, 0):
        options = {"num_train_epochs": 4, "optim": "adamw_torch", "learning_rate": 0.01}
        head = {"answer_loss_weight": weight}
        trainer, encoder = make_trainer(folders["llama"], data[False], tmp_path / str(weight), head, **options)
        assert ("answer_tokens" in trainer.train_dataset.column_names) == (weight is None)
        assert "answer_tokens" not in trainer.eval_dataset.column_names
        train(trainer)
        answers = []
        for row in data[False].splits["train"]:
            answer, model = encoder.target_ids(row["label"]), trainer.model.eval().base_model.model
            ids = torch.tensor([encoder.prompt_ids(row["text"]) + answer])
            with torch.no_grad():
                states = model.backbone(ids).last_hidden_state[0, -len(answer) - 1 : -1]
            answers.append(F.cross_entropy(states @ lm_head.T, torch.tensor(answer)).item())
        found[weight] = np.mean(answers)
    assert found[None] < found[0] - 0.3


def test_it_is_the_same_above_cached_layers_and_in_nf4(data, folders, tmp_path):
    for kind in ({}, {"load_in_4bit": True, "dtype": "bfloat16"}):
        ends = []
        for cached in (True, False):
            model = {"lora_layers": 1, "cache_frozen_layers": cached, **kind}
            trainer, _ = make_trainer(folders["llama"], data[False], tmp_path / f"{cached}{len(kind)}", model=model)
            before = weights(trainer)
            train(trainer)
            ends.append(weights(trainer) - before)
        assert ends[1].norm() > 0.01
        assert (ends[0] - ends[1]).norm() < (0.02 if kind else 1e-4) * ends[1].norm()


def test_a_model_that_would_see_the_answer_is_refused(data, tokenizer, tmp_path):
    base = tiny.save_checkpoint(tmp_path / "base", "gemma3", tokenizer, use_bidirectional_attention=True)
    with pytest.raises(ValueError, match=r"a token sees those after it.* Set answer_loss_weight to 0"):
        make_trainer(base, data[False], tmp_path / "run")
    make_trainer(base, data[False], tmp_path / "run", {"answer_loss_weight": 0.0})


def test_documents_in_chunks_have_no_answer(data, folders, tmp_path):
    run = {"long_documents": "chunks"}
    trainer, _ = make_trainer(folders["llama"], data[False], tmp_path, run=run, max_length=40)
    assert "answer_tokens" not in trainer.train_dataset.column_names
    with pytest.raises(ValueError, match=r"answer_loss_weight is not possible with long_documents chunks.*Leave one"):
        make_trainer(folders["llama"], data[False], tmp_path, {"answer_loss_weight": 1.0}, run=run, max_length=40)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"answer_loss_weight": -1.0, "head_init": "verbalizer"}, r"must be 0 or more, got -1\.0"),
        ({"answer_loss_weight": float("nan"), "head_init": "verbalizer"}, "must be 0 or more, got nan"),
        ({"answer_loss_weight": 0.5}, r"is for head_init verbalizer, .*not auto: leave it out"),
    ],
)
def test_values_that_make_no_sense(given, message):
    with pytest.raises(ValueError, match=message):
        HeadArguments(**given)
