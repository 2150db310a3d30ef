"""What fine-tuning has to beat: baselines that give the same matrix of logits.

Each function returns the logits of the validation and test documents, what it cost and, where it can be used on other
documents, what is saved of it.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import AutoTokenizer

from ..backbone.identity import fingerprint
from ..backbone.loading import load_backbone, load_causal_lm
from ..backbone.settings import base_model_of, base_weights, model_identity
from ..data.splits import ClassificationData
from ..evaluation.calibration import Calibration, to_probabilities
from ..evaluation.metrics import negative_log_likelihood
from ..instruction.scorer import LabelScorer
from ..runs.measuring import majority_logits
from ..runs.run import BaseModel, Run, Truncation
from ..task.documents import DocumentEncoder
from ..task.prompts import PromptTemplate
from ..task.verbalizer import Verbalizer
from ..training.facts import base_licence, document_facts
from ..training.memory import peak_memory_bytes
from .cache import cached
from .features import pooled_features
from .linear import LinearHead
from .tfidf import SETTINGS, TfidfScorer

if TYPE_CHECKING:
    from trl import ModelConfig

STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)  # inverse regularisation strengths C, chosen on validation
_MEASURED = ("validation", "test")


@dataclass(frozen=True)
class Outcome:
    """Logits of each measured split, float32 `(n, labels)`, and the `training` part of `metrics.json`.

    The softmax of the logits, or for multi-label their sigmoid, are the uncalibrated probabilities; minus infinity is
    the probability 0.

    Attributes:
        run: What it is as a run, not calibrated yet; `None` for a baseline that is not loaded again.
        save: Writes its weights into a folder.
    """

    logits: dict[str, np.ndarray]
    training: dict[str, float]
    run: Run | None = None
    save: Callable[[Path], Any] | None = None


def describe(
    approach: str,
    data: ClassificationData,
    base_model: BaseModel,
    limits: Truncation,
    *,
    pooling: str | None = None,
    document_suffix: str | None = None,
    training: dict[str, Any] | None = None,
) -> Run:
    """Describe a baseline as a run that is not calibrated yet.

    Args:
        approach: One of `schema.KINDS`.
        data: Documents with gold labels.
        base_model: The model that it starts from, if any.
        limits: How long documents are shortened.
        pooling: That of a head on a language model.
        document_suffix: Text after each document, for such a head.
        training: Facts for the card, beside those of the documents.
    """
    return Run(
        approach=approach,
        label_space=data.label_space,
        truncation=limits,
        calibration=Calibration(),
        base_model=base_model,
        version=version("hf_causal_clf"),
        pooling=pooling,
        document_suffix=document_suffix,
        training={**document_facts(data), **(training or {})},
    )


def majority(data: ClassificationData) -> Outcome:
    """Give every document the label frequencies of the training documents."""
    return Outcome(majority_logits(data), _cost(0))


def tfidf(data: ClassificationData) -> Outcome:
    """TF-IDF of words and word pairs of the whole documents, and logistic regression."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    start = time.perf_counter()
    vectorizer = TfidfVectorizer(**SETTINGS)
    features = {"train": vectorizer.fit_transform(data.texts("train"))}
    features["validation"] = vectorizer.transform(data.texts("validation"))
    head, _ = _best_head(data, features)
    logits = {"validation": head.logits(features["validation"])}
    trained = time.perf_counter()
    scorer = TfidfScorer(vectorizer, head)
    logits["test"] = scorer.logits(data.texts("test"))
    rates = {
        "train_samples_per_second": len(data.splits["train"]) / (trained - start),
        "predict_samples_per_second": len(data.splits["test"]) / (time.perf_counter() - trained),
    }
    run = describe("tfidf", data, BaseModel(None), Truncation(None))
    return Outcome(logits, _cost(head.parameters, **rates), run, scorer.save)


def zero_shot(
    data: ClassificationData,
    model_arguments: ModelConfig,
    template: PromptTemplate,
    verbalizer: Verbalizer,
    *,
    batch_size: int,
    cache: Path,
    contextual: bool = False,
) -> Outcome:
    """Score the labels with the untouched language model.

    With `contextual`, the prior that the model gives the labels for an empty document is divided out (contextual
    calibration: Zhao et al., 2021, arXiv 2102.09690, with the empty text as the content-free input).
    """
    tokenizer = AutoTokenizer.from_pretrained(
        model_arguments.model_name_or_path, revision=model_arguments.model_revision
    )
    template = template.reserving(tokenizer, verbalizer, data.splits["train"]["label"])
    content = {
        "model": model_identity(model_arguments),
        "prompt": [template.to_dict(), template.max_length, template.truncation, verbalizer.to_dict()],
        "labels": data.label_space.to_dict(),
        "output": "logits",
    }

    @functools.cache
    def load() -> LabelScorer:
        weights, revision = base_weights(model_arguments), model_arguments.model_revision
        model = load_causal_lm(model_arguments.model_name_or_path, weights, tokenizer=tokenizer, revision=revision)
        return LabelScorer(model, tokenizer, template=template, verbalizer=verbalizer, batch_size=batch_size)

    def score(texts: list[str], scorer: LabelScorer) -> dict[str, np.ndarray]:
        return {"logits": scorer.logits(texts)}

    logits, seconds = {}, 0.0
    for split in _MEASURED:
        texts = data.texts(split)
        found, seconds = cached(cache, {**content, "texts": fingerprint(texts)}, load, partial(score, texts))
        logits[split] = found["logits"]
    if contextual:
        prior, _ = cached(cache, {**content, "texts": ""}, load, partial(score, [""]))
        logits = {split: matrix - prior["logits"] for split, matrix in logits.items()}
    return Outcome(logits, _cost(0, predict_samples_per_second=len(data.splits["test"]) / seconds))


def frozen(
    data: ClassificationData,
    model_arguments: ModelConfig,
    *,
    max_length: int | None,
    truncation: str,
    batch_size: int,
    cache: Path,
) -> Outcome:
    """Fit a head on the pooled hidden states of the untouched language model; pooling and C chosen on validation."""
    tokenizer = AutoTokenizer.from_pretrained(
        model_arguments.model_name_or_path, revision=model_arguments.model_revision
    )
    encoder = DocumentEncoder(tokenizer, max_length, truncation)
    content = {"model": model_identity(model_arguments), "max_length": max_length, "truncation": truncation}

    @functools.cache
    def load() -> Any:
        weights, revision = base_weights(model_arguments), model_arguments.model_revision
        return load_backbone(model_arguments.model_name_or_path, weights, revision=revision)

    def compute(texts: list[str], backbone: Any) -> dict[str, np.ndarray]:
        return pooled_features(backbone, encoder, texts, batch_size=batch_size)

    features, seconds = {}, {}
    for split in ("train", *_MEASURED):
        texts = data.texts(split)
        key = {**content, "texts": fingerprint(texts)}
        features[split], seconds[split] = cached(cache, key, load, partial(compute, texts))
    start = time.perf_counter()
    heads = {pooling: _head_on_states(data, features, pooling) for pooling in features["train"]}
    pooling, (head, _) = min(heads.items(), key=lambda found: found[1][1])
    fitted = time.perf_counter() - start
    logits = {split: head.logits(features[split][pooling]) for split in _MEASURED}
    rates = {
        "train_samples_per_second": len(data.splits["train"]) / (seconds["train"] + fitted),
        "predict_samples_per_second": len(data.splits["test"]) / seconds["test"],
    }
    limits, base = Truncation(max_length, truncation), base_model_of(model_arguments)
    licence = base_licence(model_arguments.model_name_or_path, model_arguments.model_revision)
    facts = {"base_licence": licence} if licence else {}
    run = describe("frozen", data, base, limits, training=facts, pooling=pooling, document_suffix=encoder.suffix)

    def save(folder: Path) -> None:
        head.save(folder)
        tokenizer.save_pretrained(folder)

    return Outcome(logits, _cost(head.parameters, **rates), run, save)


def _head_on_states(
    data: ClassificationData, features: dict[str, dict[str, np.ndarray]], pooling: str
) -> tuple[LinearHead, float]:
    """The best head on the hidden states of a pooling, fitted on standardised ones, and its validation NLL."""
    mean, spread = features["train"][pooling].mean(axis=0), features["train"][pooling].std(axis=0) + 1e-6
    head, loss = _best_head(data, {split: (features[split][pooling] - mean) / spread for split in features})
    return head.of_unscaled(mean, spread), loss


def _best_head(data: ClassificationData, features: dict[str, Any]) -> tuple[LinearHead, float]:
    """The logistic regression on the training features with the lowest validation NLL, and that NLL."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    found = []
    for strength in STRENGTHS:
        classifier = LogisticRegression(C=strength, max_iter=1000)
        classifier = OneVsRestClassifier(classifier) if data.label_space.multi_label else classifier
        classifier.fit(features["train"], data.gold("train"))
        head = LinearHead.of(classifier, len(data.label_space))
        probabilities = to_probabilities(head.logits(features["validation"]), multi_label=data.label_space.multi_label)
        found.append((head, negative_log_likelihood(data.gold("validation"), probabilities)))
    return min(found, key=lambda pair: pair[1])


def _cost(trainable: int, **rates: float) -> dict[str, float]:
    return {"trainable_parameters": trainable, **rates, "peak_memory_bytes": peak_memory_bytes()}
