"""What fine-tuning has to beat: baselines that give the same matrix of logits.

Each function returns the logits of the validation and test documents and what it cost.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import AutoTokenizer, PreTrainedModel

from ..backbone.batching import pad, prediction_batches
from ..backbone.identity import fingerprint
from ..backbone.loading import load_backbone, load_causal_lm
from ..backbone.settings import base_weights, model_identity
from ..data.splits import ClassificationData
from ..embedding.configuration import POOLINGS
from ..embedding.model import pool
from ..evaluation.calibration import to_logits, to_probabilities
from ..evaluation.metrics import negative_log_likelihood
from ..instruction.scorer import LabelScorer
from ..runs.measuring import majority_logits
from ..task.documents import DocumentEncoder
from ..task.prompts import PromptTemplate
from ..task.verbalizer import Verbalizer
from ..training.memory import peak_memory_bytes
from .cache import cached

if TYPE_CHECKING:
    from trl import ModelConfig

STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)  # inverse regularisation strengths C, chosen on validation
_MEASURED = ("validation", "test")


@dataclass(frozen=True)
class Outcome:
    """Logits of each measured split, float32 `(n, labels)`, and the `training` part of `metrics.json`.

    The softmax of the logits, or for multi-label their sigmoid, are the uncalibrated probabilities; minus infinity is
    the probability 0.
    """

    logits: dict[str, np.ndarray]
    training: dict[str, float]


def majority(data: ClassificationData) -> Outcome:
    """Give every document the label frequencies of the training documents."""
    return Outcome(majority_logits(data), _cost(0))


def tfidf(
    data: ClassificationData,
    *,
    longest_ngram: int = 2,
    min_df: int = 1,
    sublinear_tf: bool = True,
    strength: float | None = None,
) -> Outcome:
    """TF-IDF of words and word pairs of the whole documents, and logistic regression.

    Args:
        data: Documents with gold labels.
        longest_ngram: Words of the longest n-gram.
        min_df: Number of training documents that an n-gram needs to count.
        sublinear_tf: Whether counts enter by their logarithm.
        strength: C, the inverse regularisation strength; by default chosen on validation.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    start = time.perf_counter()
    vectorizer = TfidfVectorizer(ngram_range=(1, longest_ngram), min_df=min_df, sublinear_tf=sublinear_tf)
    features = {"train": vectorizer.fit_transform(data.texts("train"))}
    features["validation"] = vectorizer.transform(data.texts("validation"))
    head, _ = _best_head(data, features, strength)
    trained = time.perf_counter()
    features["test"] = vectorizer.transform(data.texts("test"))
    logits = {split: _logits(head, features[split], len(data.label_space)) for split in _MEASURED}
    rates = {
        "train_samples_per_second": len(data.splits["train"]) / (trained - start),
        "predict_samples_per_second": len(data.splits["test"]) / (time.perf_counter() - trained),
    }
    return Outcome(logits, _cost(_size(head), **rates))


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
    pooling: str | None = None,
    strength: float | None = None,
) -> Outcome:
    """Fit a head on the pooled hidden states of the untouched language model.

    Pooling and `strength`, the inverse regularisation strength C, are chosen on validation where they are not given.
    """
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
    heads = {}
    for read in features["train"] if pooling is None else [pooling]:
        columns = _standardised({split: features[split][read] for split in features})
        heads[read] = (*_best_head(data, columns, strength), columns)
    head, _, columns = min(heads.values(), key=lambda found: found[1])
    fitted = time.perf_counter() - start
    logits = {split: _logits(head, columns[split], len(data.label_space)) for split in _MEASURED}
    rates = {
        "train_samples_per_second": len(data.splits["train"]) / (seconds["train"] + fitted),
        "predict_samples_per_second": len(data.splits["test"]) / seconds["test"],
    }
    return Outcome(logits, _cost(_size(head), **rates))


def _best_head(data: ClassificationData, features: dict[str, Any], strength: float | None) -> tuple[Any, float]:
    """The logistic regression on the training features with the lowest validation NLL, and that NLL."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    found = []
    for inverse in STRENGTHS if strength is None else [strength]:
        head = LogisticRegression(C=inverse, max_iter=1000)
        head = OneVsRestClassifier(head) if data.label_space.multi_label else head
        head.fit(features["train"], data.gold("train"))
        logits = _logits(head, features["validation"], len(data.label_space))
        probabilities = to_probabilities(logits, multi_label=data.label_space.multi_label)
        found.append((head, negative_log_likelihood(data.gold("validation"), probabilities)))
    return min(found, key=lambda pair: pair[1])


def _logits(head: Any, features: Any, labels: int) -> np.ndarray:
    """Float32 `(n, labels)`; minus infinity for a label that no training document has, infinity for one of all."""
    logits = np.full((features.shape[0], labels), -np.inf, dtype=np.float32)
    if hasattr(head, "estimators_"):  # one for each label, or a constant
        for label, part in enumerate(head.estimators_):
            if hasattr(part, "coef_"):
                logits[:, label] = part.decision_function(features)
            else:
                logits[:, label] = to_logits(part.predict(features), multi_label=True)
        return logits
    found = head.decision_function(features)
    logits[:, head.classes_] = found if found.ndim == 2 else np.stack([np.zeros_like(found), found], axis=1)
    return logits


def _standardised(features: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    mean, spread = features["train"].mean(axis=0), features["train"].std(axis=0) + 1e-6
    return {split: (matrix - mean) / spread for split, matrix in features.items()}


def _size(head: Any) -> int:
    parts = [part for part in getattr(head, "estimators_", [head]) if hasattr(part, "coef_")]
    return int(sum(part.coef_.size + part.intercept_.size for part in parts))


def _cost(trainable: int, **rates: float) -> dict[str, float]:
    return {"trainable_parameters": trainable, **rates, "peak_memory_bytes": peak_memory_bytes()}


def pooled_features(
    backbone: PreTrainedModel, encoder: DocumentEncoder, texts: Sequence[str], *, batch_size: int
) -> dict[str, np.ndarray]:
    """Return the pooled last hidden states of documents, float32 `(n, hidden)` for each pooling."""
    encoded = [encoder.encode(text) for text in texts]
    width = backbone.config.get_text_config().hidden_size
    features = {pooling: np.empty((len(texts), width), dtype=np.float32) for pooling in POOLINGS}
    lengths = [len(ids) for ids in encoded]
    for rows in prediction_batches(backbone, lengths, batch_size, description="Computing features"):
        batch = {name: tensor.to(backbone.device) for name, tensor in pad([encoded[row] for row in rows], 0).items()}
        hidden = backbone(**batch, use_cache=False).last_hidden_state
        for pooling, matrix in features.items():
            matrix[rows] = pool(hidden, batch["attention_mask"], pooling).float().cpu().numpy()
    return features
