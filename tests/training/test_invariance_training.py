"""What must not change a training, for several architectures and both approaches, as the package builds their trainers.

Gradient accumulation, order and padding of a batch, length groups and shared prefixes; interruption; saving and
loading; an evaluation in between; and, but for rounding, the data type. Two processes are one in
`test_recipes.test_two_processes_end_as_one` (both approaches), `test_head_init.test_two_processes_start_and_end_as_one`
and `test_shared_prefix.test_two_processes_have_the_gradients_of_one`; resumed runs, with their files and metrics, in
`test_train.test_a_resumed_run_ends_where_the_uninterrupted_one_does` and, killed at random moments, `test_kills`.
"""

import functools

import numpy as np
import pytest
import tiny
import torch
from conftest import make_rows, write_jsonl

from hf_causal_clf import LabelScorer, TextClassifier
from hf_causal_clf.backbone.batching import OVERHEAD, pad
from hf_causal_clf.backbone.settings import base_model_of
from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.data.splits import load_data
from hf_causal_clf.embedding.arguments import EmbeddingModelArguments, EmbeddingTrainingArguments, HeadArguments
from hf_causal_clf.embedding.scorer import HeadScorer
from hf_causal_clf.embedding.trainer import embedding_trainer
from hf_causal_clf.finishing import describe_run, save_run
from hf_causal_clf.instruction import collator as collators
from hf_causal_clf.instruction.arguments import InstructionModelArguments, InstructionTrainingArguments
from hf_causal_clf.instruction.trainer import instruction_trainer
from hf_causal_clf.task.documents import DocumentEncoder
from hf_causal_clf.training.arguments import PromptArguments, RunArguments
from hf_causal_clf.training.train import prepare, train

APPROACHES = ["embedding", "instruction"]
DECODERS = ["llama", "gemma3", "gpt2", "gpt_neox"]
WIDE = ["llama", "mistral_sliding"]
# Answers of one to several tokens, so that a mean over documents or batches is not one over tokens
PROMPT = PromptArguments(instruction="Sort.", answers='{"tech": "computers and phones in the middle east"}')
MODEL = {"dtype": "float32", "lora_r": 4, "lora_dropout": 0.0}
# Plain gradient descent: AdamW divides by the size of the gradient, and makes large steps of rounding where it is tiny
TRAINING = {
    "optim": "sgd",
    "learning_rate": 0.1,
    "lr_scheduler_type": "constant",
    "num_train_epochs": 1,
    "logging_steps": 1,
    "eval_strategy": "no",
    "save_strategy": "no",
    "load_best_model_at_end": False,
    "report_to": "none",
    "dataloader_pin_memory": False,
}


def load(folder, multi_label=False, train=20, validation=9):
    sizes = {"train": (train, 0), "validation": (validation, 100), "test": (3, 200)}
    files = {
        f"{split}_file": write_jsonl(folder / f"{split}.jsonl", make_rows(*size, multi_label))
        for split, size in sizes.items()
    }
    return load_data(DataArguments(**files, multi_label=multi_label))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twenty documents of unequal lengths: the last step of an epoch of batches of eight is half empty."""
    return load(tmp_path_factory.mktemp("data"), multi_label=False)


@pytest.fixture(scope="module")
def folders(tokenizer, tmp_path_factory):
    """Checkpoints without dropout, those of `WIDE` also with rows of whole NF4 blocks."""
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    wide = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    changes = {**dict.fromkeys(DECODERS, dropout), **{f"{name} wide": wide for name in WIDE}}
    return {
        name: tiny.save_checkpoint(tmp_path_factory.mktemp(name), name.removesuffix(" wide"), tokenizer, **change)
        for name, change in changes.items()
    }


def make_trainer(approach, checkpoint, data, output, model=None, **training):
    """The trainer of an approach and its model arguments."""
    run = RunArguments(early_stopping_patience=0)
    values = {"output_dir": str(output), **TRAINING, **training}
    model = {"model_name_or_path": checkpoint, **MODEL, **(model or {})}
    if approach == "embedding":
        model_arguments = EmbeddingModelArguments(**model)
        arguments = EmbeddingTrainingArguments(max_length=32, **values)
        tokenizer = prepare(model_arguments, arguments)
        encoder = DocumentEncoder(tokenizer, 32)
        trainer = embedding_trainer(
            data, tokenizer, encoder, model_arguments, arguments, HeadArguments(pooling="last"), run
        )
        return trainer, model_arguments
    model_arguments = InstructionModelArguments(**model)
    arguments = InstructionTrainingArguments(**{"activation_checkpointing": False, "max_length": 96, **values})
    tokenizer = prepare(model_arguments, arguments)
    template, verbalizer = wording(data)
    trainer = instruction_trainer(data, tokenizer, template, verbalizer, model_arguments, arguments, run)
    return trainer, model_arguments


def wording(data):
    return PROMPT.template(96, "tail"), PROMPT.verbalizer(data.label_space)


def weights(trainer):
    return {name: weight.detach().clone() for name, weight in trainer.model.named_parameters() if weight.requires_grad}


def trained(trainer):
    """Losses and gradient norms of all steps, and how far the weights have gone."""
    before = weights(trainer)
    train(trainer)
    steps = [(entry["loss"], entry["grad_norm"]) for entry in trainer.state.log_history if "grad_norm" in entry]
    return steps, {name: weight - before[name] for name, weight in weights(trainer).items()}


def check_same(found, expected):
    """The same but for the rounding of float32, which three steps and steep losses make larger."""
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4)
    assert len(found[0]) == 3
    moves, expected_moves = (torch.cat([move.flatten() for move in run[1].values()]) for run in (found, expected))
    assert expected_moves.norm() > 0.1
    assert (moves - expected_moves).norm() < 1e-4 * expected_moves.norm()


def pad_more(trainer, monkeypatch, side="right"):
    def padded(sequences, value):
        found = pad([*sequences, [value] * (max(map(len, sequences)) + 5)], value, side=side)
        return {name: tensor[:-1] for name, tensor in found.items()}

    monkeypatch.setattr(collators, "pad", padded)


def pad_more_and_reverse(trainer, monkeypatch):
    pad_more(trainer, monkeypatch)
    collate = trainer.data_collator
    trainer.data_collator = lambda rows: collate(rows[::-1])


def divide_more(trainer, monkeypatch):
    monkeypatch.setitem(OVERHEAD, "cpu", 1)


def batches(size, steps):
    return {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps}


PLAIN = {"embedding": {"length_groups": False}, "instruction": {}}
SAME = {
    "4 x 2": (APPROACHES, batches(4, 2), None),
    "1 x 8": (APPROACHES, batches(1, 8), None),
    "other order, more padding": (APPROACHES, {}, pad_more_and_reverse),
    "padding on the left": (["embedding"], {}, functools.partial(pad_more, side="left")),
    "length groups, 4 x 2": (["embedding"], {"length_groups": True, **batches(4, 2)}, divide_more),
    "no shared prefix": (["instruction"], {"share_prefix": False}, None),
}


@pytest.fixture(scope="module")
def whole(data, folders, tmp_path_factory):
    """Trainings with whole batches of eight, once for each approach and architecture."""

    @functools.cache
    def run(approach, name):
        folder = tmp_path_factory.mktemp("whole")
        return trained(make_trainer(approach, folders[name], data, folder, **PLAIN[approach])[0])

    return run


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize(
    ("approach", "change"), [(approach, change) for change in SAME for approach in SAME[change][0]]
)
def test_training_ends_the_same(approach, name, change, whole, data, folders, tmp_path, monkeypatch):
    expected = whole(approach, name)
    _, options, patch = SAME[change]
    trainer, _ = make_trainer(approach, folders[name], data, tmp_path, **{**PLAIN[approach], **options})
    if patch:
        patch(trainer, monkeypatch)
    check_same(trained(trainer), expected)


@pytest.mark.parametrize("approach", APPROACHES)
def test_multi_label_training_ends_the_same(approach, folders, tmp_path):
    data = load(tmp_path, multi_label=True)
    whole, *parts = (
        trained(make_trainer(approach, folders["llama"], data, tmp_path / "run", **batches(*each))[0])
        for each in ((8, 1), (4, 2), (1, 8))
    )
    for part in parts:
        check_same(part, whole)


@pytest.mark.parametrize("approach", APPROACHES)
def test_a_run_resumed_within_an_epoch_ends_exactly_as_the_uninterrupted_one(approach, data, folders, tmp_path):
    """Dropout, optimizer and the place in the data go on where they were."""
    model = {"lora_dropout": 0.2}
    options = {"optim": "adamw_torch", "learning_rate": 1e-2, "lr_scheduler_type": "linear", **batches(4, 2)}
    options |= {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 2, "save_total_limit": None}
    whole, _ = make_trainer(approach, folders["llama"], data, tmp_path, model, **options)
    train(whole)
    checkpoint = str(tmp_path / "checkpoint-2")
    trainer, _ = make_trainer(
        approach, folders["llama"], data, tmp_path, model, **options, resume_from_checkpoint=checkpoint
    )
    untrained = weights(trainer)
    train(trainer)
    found, expected = weights(trainer), weights(whole)
    torch.testing.assert_close(found, expected, rtol=0.0, atol=0.0)
    assert all(not torch.equal(weight, untrained[name]) for name, weight in expected.items())


def scorer(approach, trainer, data):
    """Predictions of the model in memory."""
    if approach == "embedding":
        tokenizer = trainer.processing_class
        return HeadScorer(trainer.model, tokenizer, DocumentEncoder(tokenizer, 32), batch_size=4)
    template, verbalizer = wording(data)
    return LabelScorer(trainer.model, trainer.processing_class, template=template, verbalizer=verbalizer, batch_size=4)


PRECISIONS = {
    "float32": {},
    "bfloat16": {"dtype": "bfloat16"},
    "nf4": {"load_in_4bit": True},
    "nf4, bfloat16": {"load_in_4bit": True, "dtype": "bfloat16"},
}


@pytest.mark.parametrize(
    ("name", "precision"), [("gemma3", "float32"), ("gpt2", "bfloat16"), ("llama", "nf4, bfloat16")]
)
@pytest.mark.parametrize("approach", APPROACHES)
def test_a_saved_model_predicts_as_the_one_in_memory(approach, name, precision, data, folders, tmp_path):
    trainer, model_arguments = make_trainer(approach, folders[name], data, tmp_path, PRECISIONS[precision])
    texts = [*data.texts("train"), *data.texts("test")]
    predictor = scorer(approach, trainer, data)
    before = predictor.probabilities(texts)
    train(trainer)
    expected = predictor.probabilities(texts)
    assert np.abs(expected - before).max() > 0.05
    pooling = "last" if approach == "embedding" else None
    run = describe_run(predictor.encoder, base_model_of(model_arguments), data.label_space, pooling=pooling)
    folder = save_run(trainer, trainer.processing_class, run)
    saved = TextClassifier.from_pretrained(folder, calibrated=False, batch_size=4)
    np.testing.assert_allclose(saved.predict_proba(texts), expected, atol=1e-5)


def first_batch(trainer):
    """Loss and gradients of a batch in training."""
    trainer.model.zero_grad()
    trainer.model.train()
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(8)])
    loss = trainer.compute_loss(trainer.model, dict(batch))
    loss.backward()
    gradients = [weight.grad.flatten().float() for weight in trainer.model.parameters() if weight.requires_grad]
    return loss.item(), torch.cat(gradients)


def spread_adapter(trainer):
    """Move the adapter away from zero, where half of it has no gradient."""
    torch.manual_seed(0)
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)


@pytest.mark.parametrize("precision", ["nf4", "nf4, bfloat16"])
@pytest.mark.parametrize("name", WIDE)
@pytest.mark.parametrize("approach", APPROACHES)
def test_nf4_is_the_same_before_and_after_an_evaluation(approach, name, precision, data, folders, tmp_path):
    trainer, _ = make_trainer(approach, folders[f"{name} wide"], data, tmp_path, PRECISIONS[precision])
    assert trainer.model.is_loaded_in_4bit
    spread_adapter(trainer)
    predictor, texts = scorer(approach, trainer, data), data.texts("test")
    loss, gradients = first_batch(trainer)
    evaluated, predicted = trainer.evaluate()["eval_loss"], predictor.probabilities(texts)
    again, gradients_again = first_batch(trainer)
    assert gradients.norm() > 0.1
    assert again == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(gradients_again, gradients)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(evaluated, rel=1e-6)
    np.testing.assert_allclose(predictor.probabilities(texts), predicted, atol=1e-6)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("approach", APPROACHES)
def test_bfloat16_is_close_to_float32(approach, name, data, folders, tmp_path):
    found = []
    for precision in ("float32", "bfloat16"):
        trainer, _ = make_trainer(approach, folders[name], data, tmp_path, PRECISIONS[precision])
        spread_adapter(trainer)
        found.append(first_batch(trainer))
    (exact, gradients), (loss, rounded) = found
    assert loss == pytest.approx(exact, rel=0.03)
    assert rounded.norm().item() == pytest.approx(gradients.norm().item(), rel=0.05)
    assert 0.98 < torch.nn.functional.cosine_similarity(rounded, gradients, dim=0) < 1 - 1e-6
