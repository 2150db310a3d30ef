"""S5 and S6: training beside the stock trainers; the sides are S7's and S10's too."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)
from trl import SFTConfig, SFTTrainer
from trl.trainer import utils as trl_utils

from hf_causal_clf.backbone.settings import PROJECTIONS, lora_target_modules
from hf_causal_clf.data.splits import ClassificationData
from hf_causal_clf.embedding.arguments import EmbeddingModelArguments, EmbeddingTrainingArguments, HeadArguments
from hf_causal_clf.embedding.trainer import embedding_trainer
from hf_causal_clf.instruction.arguments import InstructionModelArguments, InstructionTrainingArguments
from hf_causal_clf.instruction.trainer import instruction_trainer
from hf_causal_clf.task.documents import DocumentEncoder
from hf_causal_clf.training.arguments import RunArguments

from .scoring import CUT, FEW, MANY, SHORT, UNLISTED
from .setting import Setting, articles, cut, label_space, prompt, tokenizer
from .timing import interleave, row

BATCH, RANK, ALPHA = 8, 8, 16
WHOLE = 1024  # tokens; one article in fifty is longer
LAST_LAYERS = MappingProxyType({"lora_layers": 1 / 3, "cache_frozen_layers": True})
_PATCHED = "_use_triton"  # what `instruction_trainer` changes in TRL, so that the stock side runs without it


def common(setting: Setting, epochs: int) -> dict[str, Any]:
    """Arguments of all four trainers: no evaluation, no checkpoints, no logs."""
    return {
        "output_dir": tempfile.mkdtemp(prefix="benchmark-"),
        "num_train_epochs": epochs,
        "per_device_train_batch_size": BATCH,
        "learning_rate": 1e-4,
        "optim": "adamw_torch",
        "activation_checkpointing": False,
        "eval_strategy": "no",
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "seed": setting.seed,
    }


def lora(setting: Setting) -> dict[str, Any]:
    """Arguments of this package's models; `stock_lora` has the same settings."""
    return {
        "model_name_or_path": setting.model,
        "dtype": setting.dtype,
        "lora_r": RANK,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
    }


def stock_lora(model: Any, task_type: str) -> LoraConfig:
    """PEFT's own configuration."""
    names = lora_target_modules(model.base_model)
    modules = list(PROJECTIONS) if set(PROJECTIONS) <= set(names) else names
    return LoraConfig(task_type=task_type, r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=modules)


def our_head(
    setting: Setting, documents: int, max_length: int, epochs: int = 1, layers: Mapping[str, Any] = MappingProxyType({})
) -> Trainer:
    """Embedding-based training as `recipes/embed.py` does it; `layers` are arguments of the model."""
    rows = articles(setting, documents)
    data = _data(rows, label_space(rows))
    training = EmbeddingTrainingArguments(
        **common(setting, epochs), load_best_model_at_end=False, max_length=max_length
    )
    encoder = DocumentEncoder(tokenizer(setting), max_length)
    model = EmbeddingModelArguments(**lora(setting), **layers)
    return embedding_trainer(
        data, tokenizer(setting), encoder, model, training, HeadArguments(pooling="last"), RunArguments()
    )


def stock_head(setting: Setting, documents: int, max_length: int, epochs: int = 1) -> Trainer:
    """`Trainer`, PEFT, `AutoModelForSequenceClassification` and `DataCollatorWithPadding`."""
    items = articles(setting, documents)
    space, encode = label_space(items), tokenizer(setting)
    torch.manual_seed(setting.seed)
    model = AutoModelForSequenceClassification.from_pretrained(
        setting.model, num_labels=len(space), dtype=setting.dtype
    )
    model.config.pad_token_id = encode.pad_token_id
    rows = [
        {
            "input_ids": encode(item["text"], truncation=True, max_length=max_length)["input_ids"],
            "label": space.encode(item["label"]),
        }
        for item in items
    ]
    return Trainer(
        model=get_peft_model(model, stock_lora(model, "SEQ_CLS")),
        args=TrainingArguments(**common(setting, epochs)),
        train_dataset=Dataset.from_list(rows),
        data_collator=DataCollatorWithPadding(encode),
        processing_class=encode,
    )


def our_answers(setting: Setting, documents: int, max_length: int, epochs: int = 1) -> Trainer:
    """Instruction-based training as `recipes/instruct.py` does it, with documents of at most `max_length` tokens."""
    template, verbalizer = prompt(setting, FEW, max_length)
    data = _data(_instruction_rows(setting, documents, verbalizer.labels), verbalizer.labels)
    training = InstructionTrainingArguments(
        **common(setting, epochs), load_best_model_at_end=False, max_length=template.max_length
    )
    model = InstructionModelArguments(**lora(setting))
    return instruction_trainer(data, tokenizer(setting), template, verbalizer, model, training, RunArguments())


def stock_answers(setting: Setting, documents: int, max_length: int, epochs: int = 1) -> Trainer:
    """TRL's `SFTTrainer` on rows of prompt and completion."""
    template, verbalizer = prompt(setting, FEW, max_length)
    before, after = template.bind(tokenizer(setting), verbalizer).frame
    rows = [
        {
            "prompt": f"{before}{cut(setting, item['text'], max_length)}{after}",
            "completion": f" {item['label']}",
        }
        for item in _instruction_rows(setting, documents, verbalizer.labels)
    ]
    torch.manual_seed(setting.seed)
    model = AutoModelForCausalLM.from_pretrained(setting.model, dtype=setting.dtype)
    return SFTTrainer(
        model=model,
        args=SFTConfig(**common(setting, epochs), bf16=torch.cuda.is_available(), max_length=None),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer(setting),
        peft_config=stock_lora(model, "CAUSAL_LM"),
    )


@contextmanager
def trl_as(value: Any) -> Iterator[None]:
    """Give TRL's switch a value for a while."""
    found = getattr(trl_utils, _PATCHED, None)
    if found is None:
        yield
        return
    setattr(trl_utils, _PATCHED, value)
    try:
        yield
    finally:
        setattr(trl_utils, _PATCHED, found)


class TrainingSide:
    """A trainer that trains from where it stands, with TRL in the state that its set-up left it in."""

    def __init__(self, build: Callable[..., Trainer], *args: Any) -> None:
        stock = getattr(trl_utils, _PATCHED, None)
        with trl_as(stock):
            self.trainer = build(*args)
            self._switch = getattr(trl_utils, _PATCHED, None)
        self.trainer.remove_callback(PrinterCallback)
        self.loss = 0.0

    def __call__(self, pair: int | None = None) -> None:
        """Train for the epochs of its arguments."""
        with trl_as(self._switch):
            self.loss = self.trainer.train().training_loss

    def work(self) -> dict[str, Any]:
        """Say what a call does: documents, tokens before padding, trained parameters; and the last loss."""
        loader = self.trainer.get_train_dataloader()
        batches = [(batch["attention_mask"].sum().item(), batch["attention_mask"].numel()) for batch in loader]
        return {
            "documents": len(self.trainer.train_dataset),
            "batch_size": BATCH,
            "tokens": sum(tokens for tokens, _ in batches),
            "padded_tokens": sum(padded for _, padded in batches),
            "trained_parameters": sum(p.numel() for p in self.trainer.model.parameters() if p.requires_grad),
            "last_loss": self.loss,
        }


def compare(
    name: str, builders: tuple[Any, Any], setting: Setting, max_length: int, source: str, samples: int = 1
) -> dict[str, Any]:
    """Time two trainers on so many samples of documents and check that they do the same."""
    size = samples * max(BATCH, setting.documents)
    ours, other = (TrainingSide(build, setting, size, max_length) for build in builders)
    first, second = ours.work(), other.work()
    for what in ("documents", "trained_parameters"):
        if first[what] != second[what]:
            raise RuntimeError(f"{name}: the sides have {first[what]} and {second[what]} {what}.")
    if abs(first["tokens"] - second["tokens"]) > 0.02 * second["tokens"]:
        raise RuntimeError(f"{name}: the sides have {first['tokens']} and {second['tokens']} tokens.")
    measurement = interleave(ours, other, setting.pairs)
    return row(name, measurement, source=source, ours=ours.work(), other=other.work())


def head_training(setting: Setting) -> dict[str, Any]:
    """S5."""
    return compare("S5", (our_head, stock_head), setting, WHOLE, "BBC News articles")


def short_training(setting: Setting) -> dict[str, Any]:
    """S5b."""
    return compare("S5b", (our_head, stock_head), setting, CUT, "BBC News articles", samples=2)


def cached_layers(setting: Setting) -> dict[str, Any]:
    """S11: an epoch each; what the frozen layers give was computed before."""
    size = 2 * max(BATCH, setting.documents)
    ours, other = (TrainingSide(our_head, setting, size, 2 * SHORT, 1, model) for model in (LAST_LAYERS, {}))
    first, second = ours.work(), other.work()
    if first["tokens"] != second["tokens"]:
        raise RuntimeError(f"S11: the sides have {first['tokens']} and {second['tokens']} tokens.")
    measurement = interleave(ours, other, setting.pairs)
    return row("S11", measurement, source="BBC News articles", ours=ours.work(), other=other.work())


def answer_training(setting: Setting) -> dict[str, Any]:
    """S6."""
    # Two, because a step is short beside what a training does once
    return compare("S6", (our_answers, stock_answers), setting, SHORT, "BBC News articles", samples=2)


def _instruction_rows(setting: Setting, documents: int, space: Any) -> list[dict[str, str]]:
    """Articles with the labels of the task of 20 labels, in turn: what matters here is their length."""
    rows = articles(setting, documents)
    return [{"text": item["text"], "label": space.names[index % len(space)]} for index, item in enumerate(rows)]


def _data(rows: list[dict[str, str]], space: Any) -> ClassificationData:
    splits = {"train": Dataset.from_list(rows), "validation": Dataset.from_list(rows[:2])}
    return ClassificationData(space, splits, {})


def taught_model(setting: Setting, documents: int = 64, epochs: int = 3) -> Any:
    """Return the language model after a minute of instruction-based training on many labels, adapter merged.

    The articles' five classes are given five of the label names.
    """
    template, verbalizer = prompt(setting, MANY, 64, UNLISTED)
    rows = articles(setting, documents)
    classes = sorted({row["label"] for row in rows})
    names = {name: verbalizer.labels.names[2 * index] for index, name in enumerate(classes)}
    data = _data([{**row, "label": names[row["label"]]} for row in rows], verbalizer.labels)
    training = InstructionTrainingArguments(
        **{**common(setting, epochs), "learning_rate": 1e-3},
        load_best_model_at_end=False,
        max_length=template.max_length,
    )
    model = InstructionModelArguments(**lora(setting))
    with trl_as(getattr(trl_utils, _PATCHED, None)):  # and as it was afterwards
        trainer = instruction_trainer(data, tokenizer(setting), template, verbalizer, model, training, RunArguments())
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return trainer.accelerator.unwrap_model(trainer.model).merge_and_unload().eval()
