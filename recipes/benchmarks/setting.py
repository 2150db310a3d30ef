"""What the rows share: settings, model, documents and label names."""

from __future__ import annotations

import functools
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging

from hf_causal_clf import LabelSpace, PromptTemplate, Verbalizer
from hf_causal_clf.backbone.loading import load_causal_lm
from hf_causal_clf.backbone.weights import BaseWeights

_SUBJECTS = """
marine solar medical digital rural urban nuclear legal fiscal social mobile optical thermal organic wireless
electric hydraulic financial industrial chemical coastal dental genetic maritime military musical postal
prison public railway retail satellite school security space sports steel storage surgical tax textile timber
tourism traffic transport travel vaccine veterinary video voting warehouse waste water weather welding
wildlife wind wine aviation banking battery border bridge budget cancer cargo census civic climate cloud
cotton court dairy defence desert diamond election energy export family farm fashion film fire fishing flood
food forest fuel garden glass gold harbour health heritage hospital hotel insurance laser mining
"""
_FIELDS = "systems research policy markets equipment services history safety training materials"
SUBJECTS, FIELDS = tuple(_SUBJECTS.split()), tuple(_FIELDS.split())
CLINC, PATENTS = "clinc_domains", "patents_ipc"


@dataclass(frozen=True)
class Setting:
    """Settings of a run of the benchmark.

    Attributes:
        model: Folder or Hub id of the language model.
        news: Folder with the articles that `recipes/quickstart.py --prepare_only` writes.
        shared: Folder with more documents (`clinc_domains`, `patents_ipc`), where it is there.
        documents: Documents of a sample; each row has its own multiple of it.
        mixed_documents: Documents of S8 over all pairs.
        pairs: Timed pairs of each row.
        threads: CPU threads of either side.
        batch_size: Documents a forward pass in prediction.
        dtype: Data type of the base model's weights.
        seed: Seed of draws and training.
    """

    model: str
    news: Path
    shared: Path
    documents: int = 16
    mixed_documents: int = 5000
    pairs: int = 5
    threads: int = 2
    batch_size: int = 8
    dtype: str = "bfloat16"
    seed: int = 42

    def prepare(self) -> None:
        """Settle threads and logging in this process."""
        torch.set_num_threads(self.threads)
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        datasets.disable_progress_bars()
        warnings.simplefilter("ignore", FutureWarning)


@functools.cache
def tokenizer(setting: Setting) -> PreTrainedTokenizerBase:
    """Return the model's tokenizer."""
    return AutoTokenizer.from_pretrained(setting.model)


@functools.cache
def causal_lm(setting: Setting, stock: bool = True) -> Any:
    """Return the untouched language model, as transformers loads it or as this package does."""
    if stock:
        return AutoModelForCausalLM.from_pretrained(setting.model, dtype=setting.dtype).eval()
    return load_causal_lm(setting.model, BaseWeights(setting.dtype), place=False)


def label_names(count: int) -> list[str]:
    """Return real two-word label names, such as "marine systems".

    The first hundred begin with different words; after that every beginning is used once more for each further hundred.
    """
    if count > len(SUBJECTS) * len(FIELDS):
        raise ValueError(f"There are {len(SUBJECTS) * len(FIELDS)} label names, not {count}.")
    names = []
    for index in range(count):
        turn, subject = divmod(index, len(SUBJECTS))
        names.append(f"{SUBJECTS[subject]} {FIELDS[(subject + turn) % len(FIELDS)]}")
    return names


def prompt(
    setting: Setting, labels: int, document_tokens: int, instruction: str | None = None
) -> tuple[PromptTemplate, Verbalizer]:
    """Return template and answers of a task with so many labels, in which a document has so many tokens at most.

    By default the prompt is the model's chat template, where it has one, and its instruction lists the labels.
    """
    chat = instruction is None and tokenizer(setting).chat_template is not None
    verbalizer = Verbalizer(LabelSpace(label_names(labels)))
    free = PromptTemplate(instruction, use_chat_template=chat, max_length=None).bind(tokenizer(setting), verbalizer)
    frame = len(free.prefix_ids) + len(free.suffix_ids) + free.longest_answer
    return PromptTemplate(instruction, use_chat_template=chat, max_length=frame + document_tokens), verbalizer


@functools.cache
def _read(folder: Path) -> list[dict[str, Any]]:
    files = [folder / f"{split}.jsonl" for split in ("train", "validation", "test")]
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def articles(setting: Setting, count: int) -> list[dict[str, str]]:
    """Return BBC News articles with their labels, in a random order; repeated where there are too few."""
    rows = _read(setting.news)
    order = np.random.default_rng(setting.seed).permutation(len(rows))
    return [rows[order[index % len(rows)]] for index in range(count)]


def mixed_texts(setting: Setting, count: int) -> tuple[list[str], str]:
    """Return documents of mixed length in a random order, and where they are from.

    Half are requests of about 8 words, a quarter patents of about 97 and a quarter articles. Without the shared
    folder, they are pieces of the articles, of 5 to 150 words.
    """
    draw = np.random.default_rng(setting.seed)
    if not all((setting.shared / name / "train.jsonl").is_file() for name in (CLINC, PATENTS)):
        words = [row["text"].split() for row in articles(setting, count)]
        sizes = draw.integers(5, 150, size=count)
        return [" ".join(text[:size]) for text, size in zip(words, sizes, strict=True)], "pieces of BBC News articles"
    shares = {CLINC: count - 2 * (count // 4), PATENTS: count // 4}
    texts = [row["text"] for row in articles(setting, count // 4)]
    for name, share in shares.items():
        rows = _read(setting.shared / name)
        chosen = draw.permutation(len(rows))[:share]
        texts += [rows[index]["text"] for index in chosen]
    return [texts[index] for index in draw.permutation(len(texts))], "CLINC requests, patents and BBC News articles"


def cut(setting: Setting, text: str, tokens: int) -> str:
    """Shorten a text to so many tokens."""
    encode = tokenizer(setting)
    ids = encode(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    return text if len(ids) <= tokens else encode.decode(ids[:tokens])


def label_space(rows: list[dict[str, str]]) -> LabelSpace:
    """Return the labels of labelled documents."""
    return LabelSpace(sorted({row["label"] for row in rows}))
