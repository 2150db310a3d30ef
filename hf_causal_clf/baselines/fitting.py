"""What fine-tuning has to beat: baselines that give the same matrix of logits.

Each function returns the logits of the validation and test documents, what it cost and, where it can be used on other
documents, what is saved of it. With folds, the logits of the validation documents, which are all labelled ones, are out
of fold: no document is seen by what predicts it.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import AutoTokenizer

from ..backbone.cache import cached
from ..backbone.identity import fingerprint
from ..backbone.loading import load_causal_lm
from ..backbone.settings import base_model_of, base_weights, model_identity
from ..data.splits import ClassificationData
from ..embedding.frozen_features import FrozenFeatures
from ..embedding.reading import Reading, encoders_of, readings
from ..evaluation.calibration import Calibration, to_probabilities
from ..evaluation.metrics import negative_log_likelihood
from ..instruction.scorer import LabelScorer
from ..runs.measuring import majority_logits
from ..runs.run import BaseModel, Run, Truncation
from ..task.prompts import PromptTemplate
from ..task.verbalizer import Verbalizer
from ..training.facts import base_licence, document_facts
from ..training.memory import peak_memory_bytes
from .linear import LinearHead
from .tfidf import TfidfScorer

if TYPE_CHECKING:
    from trl import ModelConfig

    from ..task.documents import DocumentEncoder

STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)  # inverse regularisation strengths C, chosen on validation or out of fold
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


def tfidf(
    data: ClassificationData,
    *,
    longest_ngram: int = 2,
    min_df: int = 1,
    sublinear_tf: bool = True,
    strength: float | None = None,
) -> Outcome:
    """TF-IDF of words and word sequences of the whole documents, and logistic regression.

    Args:
        data: Documents with gold labels.
        longest_ngram: Words of the longest sequence that counts.
        min_df: Number of training documents that a sequence needs to count.
        sublinear_tf: Whether counts enter by their logarithm.
        strength: C, the inverse regularisation strength; by default chosen on validation or, with folds, out of fold.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    start = time.perf_counter()
    vectorizer = TfidfVectorizer(ngram_range=(1, longest_ngram), min_df=min_df, sublinear_tf=sublinear_tf)
    texts = np.array(data.texts("train"), dtype=object)

    def without(held: np.ndarray) -> dict[str, Any]:
        return {"train": vectorizer.fit_transform(texts[~held]), "validation": vectorizer.transform(texts[held])}

    parts = [without(held) for held in data.held_out()]
    features = {"train": vectorizer.fit_transform(texts), "validation": vectorizer.transform(data.texts("validation"))}
    head, _, validation = _best_head(data, features, parts, strength)
    trained = time.perf_counter()
    scorer = TfidfScorer(vectorizer, head)
    logits = {"validation": validation, "test": scorer.logits(data.texts("test"))}
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
    template = template.reserving(tokenizer, verbalizer, data.splits["train"]["label"][:])
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
    pooling: str = "auto",
    document_suffix: str | None = "auto",
    strength: float | None = None,
) -> Outcome:
    """Fit a head on the pooled hidden states of the untouched language model.

    Where it reads (`readings` of `pooling` and `document_suffix`) and C (`strength`) are chosen on validation or, with
    folds, out of fold, where they are not given.
    """
    tokenizer = AutoTokenizer.from_pretrained(
        model_arguments.model_name_or_path, revision=model_arguments.model_revision
    )
    encoders = encoders_of(readings(pooling, document_suffix), tokenizer, max_length, truncation)
    reader = FrozenFeatures(model_arguments, batch_size=batch_size, cache=cache)
    features, seconds = _states(data, encoders, reader)
    start = time.perf_counter()
    heads = {reading: _head_on_states(data, states, strength) for reading, states in features.items()}
    reading, (head, _, validation) = min(heads.items(), key=lambda found: found[1][1])
    fitted = time.perf_counter() - start
    logits = {"validation": validation, "test": head.logits(features[reading]["test"])}
    rates = {
        "train_samples_per_second": len(data.splits["train"]) / (seconds["train"] + fitted),
        "predict_samples_per_second": len(data.splits["test"]) / seconds["test"],
    }
    limits, base = Truncation(max_length, truncation), base_model_of(model_arguments)
    licence = base_licence(model_arguments.model_name_or_path, model_arguments.model_revision)
    facts = {"base_licence": licence} if licence else {}
    run = describe(
        "frozen", data, base, limits, training=facts, pooling=reading.pooling, document_suffix=reading.suffix
    )

    def save(folder: Path) -> None:
        head.save(folder)
        tokenizer.save_pretrained(folder)

    return Outcome(logits, _cost(head.parameters, **rates), run, save)


def _states(
    data: ClassificationData, encoders: dict[Reading, DocumentEncoder], reader: FrozenFeatures
) -> tuple[dict[Reading, dict[str, np.ndarray]], dict[str, float]]:
    """Pooled hidden states of each split for each reading, and the seconds that those of a split took."""
    features: dict[Reading, dict[str, np.ndarray]] = {reading: {} for reading in encoders}
    seconds = dict.fromkeys(("train", *_MEASURED), 0.0)
    for split in seconds:
        texts = data.texts(split)
        for suffix, encoder in {reading.suffix: encoder for reading, encoder in encoders.items()}.items():
            found, spent = reader.of(texts, encoder)
            seconds[split] += spent
            for reading in encoders:
                if reading.suffix == suffix:
                    features[reading][split] = found[reading.pooling]
    return features, seconds


def _head_on_states(
    data: ClassificationData, states: dict[str, np.ndarray], strength: float | None
) -> tuple[LinearHead, float, np.ndarray]:
    """What `_best_head` returns for pooled hidden states of each split, on which it is fitted standardised."""
    parts = [{"train": states["train"][~held], "validation": states["train"][held]} for held in data.held_out()]
    parts = [standardised(part)[0] for part in parts]
    features, mean, spread = standardised(states)
    head, loss, logits = _best_head(data, features, parts, strength)
    return head.of_unscaled(mean, spread), loss, logits


def standardised(states: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Return features less the mean of those of `train` and divided by their spread, the mean, and the spread."""
    mean, spread = states["train"].mean(axis=0), states["train"].std(axis=0) + 1e-6
    return {split: (matrix - mean) / spread for split, matrix in states.items()}, mean, spread


def _best_head(
    data: ClassificationData, features: dict[str, Any], parts: Sequence[dict[str, Any]], strength: float | None
) -> tuple[LinearHead, float, np.ndarray]:
    """The logistic regression on the training features with the lowest NLL, that NLL, and the logits that have it.

    These are the logits of the validation documents, or those of all labelled documents out of fold.

    Args:
        data: Documents with gold labels.
        features: Those of the splits `train` and `validation`.
        parts: With folds: the same for each fold, made without it, the fold as `validation`.
        strength: C, where it is given; one of `STRENGTHS` otherwise.
    """
    gold, rows_of_all = data.gold("train"), np.arange(len(data.splits["validation"]))
    labels = len(data.label_space)
    fits = [(part, gold[~held], rows_of_all[held]) for part, held in zip(parts, data.held_out(), strict=True)]
    fits = fits or [(features, gold, rows_of_all)]
    found = []
    for inverse in STRENGTHS if strength is None else [strength]:
        logits = np.empty((len(rows_of_all), labels), dtype=np.float32)
        for part, known, rows in fits:
            head = fit_head(inverse, part["train"], known, labels)
            logits[rows] = head.logits(part["validation"])
        probabilities = to_probabilities(logits, multi_label=data.label_space.multi_label)
        found.append((head, negative_log_likelihood(data.gold("validation"), probabilities), logits, inverse))
    head, nll, logits, inverse = min(found, key=lambda each: each[1])
    return fit_head(inverse, features["train"], gold, labels) if parts else head, nll, logits


def fit_head(strength: float, features: Any, gold: np.ndarray, labels: int) -> LinearHead:
    """Fit a logistic regression, one for each label where a document may have several; `strength` is C."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    classifier = LogisticRegression(C=strength, max_iter=1000)
    classifier = OneVsRestClassifier(classifier) if gold.ndim == 2 else classifier
    return LinearHead.of(classifier.fit(features, gold), labels)


def _cost(trainable: int, **rates: float) -> dict[str, float]:
    return {"trainable_parameters": trainable, **rates, "peak_memory_bytes": peak_memory_bytes()}
