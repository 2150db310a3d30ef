"""S8 and S10: prediction beside the stock pipeline, and a frozen backbone beside LoRA training."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from transformers import AutoModelForSequenceClassification, pipeline

from hf_causal_clf import DocumentEncoder, TextClassifier
from hf_causal_clf.backbone.loading import load_backbone
from hf_causal_clf.backbone.weights import BaseWeights
from hf_causal_clf.baselines.features import pooled_features
from hf_causal_clf.baselines.fitting import STRENGTHS

from .scoring import head_scorer
from .setting import Setting, articles, label_space, mixed_texts, tokenizer
from .timing import interleave, row, timed
from .training import TrainingSide, our_head

CUT, SHORT = 128, 64
BATCH_SIZES = (1, 2, 4, 8, 16)
EPOCHS = 10


def stock_pipeline(setting: Setting, weights: torch.Tensor) -> Any:
    """`pipeline("text-classification")` with the stock class and a given head."""
    model = AutoModelForSequenceClassification.from_pretrained(
        setting.model, num_labels=len(weights), dtype=setting.dtype
    )
    model.score.weight.data.copy_(weights)
    model.config.pad_token_id = tokenizer(setting).pad_token_id
    return pipeline("text-classification", model=model.eval(), tokenizer=tokenizer(setting), top_k=None)


def pipeline_probabilities(pipe: Any, documents: list[str], batch_size: int) -> np.ndarray:
    """Probabilities `(n, labels)` of a pipeline, in the order of its label ids."""
    found = pipe(documents, batch_size=batch_size, truncation=True, max_length=CUT)
    ids = pipe.model.config.label2id
    probabilities = np.empty((len(documents), len(ids)), dtype=np.float32)
    for index, scores in enumerate(found):
        for score in scores:
            probabilities[index, ids[score["label"]]] = score["score"]
    return probabilities


def mixed_lengths(setting: Setting) -> dict[str, Any]:
    """S8: each pair predicts its own part of the documents, so that all pairs together predict them all."""
    documents, source = mixed_texts(setting, max(setting.mixed_documents, setting.pairs))
    scorer = head_scorer(setting, CUT)
    scorer.model.score.to(torch.bfloat16 if setting.dtype == "bfloat16" else torch.float32)  # as the stock head
    classifier = TextClassifier(scorer, scorer.model.config.label_space)
    pipe = stock_pipeline(setting, scorer.model.score.weight.data)
    sample = documents[: min(64, len(documents))]
    pipeline_probabilities(pipe, sample[:4], 1)
    tried = {size: timed(lambda _, size=size: pipeline_probabilities(pipe, sample, size), None) for size in BATCH_SIZES}
    best = min(tried, key=lambda size: tried[size])
    parts = [documents[start :: setting.pairs] for start in range(setting.pairs)]

    def part(pair: int | None) -> list[str]:
        return sample[:16] if pair is None else parts[pair]

    measurement = interleave(
        lambda pair: classifier.predict_proba(part(pair)),
        lambda pair: pipeline_probabilities(pipe, part(pair), best),
        setting.pairs,
    )
    difference = np.abs(classifier.predict_proba(sample) - pipeline_probabilities(pipe, sample, best)).max()
    return row(
        "S8",
        measurement,
        documents=len(documents),
        source=source,
        tokens=sum(len(scorer.encoder.encode(text)) for text in documents),
        pipeline_batch_size=best,
        pipeline_seconds_by_batch_size=tried,
        largest_difference=float(difference),
    )


def frozen_backbone(setting: Setting) -> dict[str, Any]:
    """S10: features once and heads of every pooling and regularisation, against 10 epochs of LoRA."""
    size = setting.documents
    rows = articles(setting, size)
    documents = [item["text"] for item in rows]
    gold = label_space(rows).encode_batch([item["label"] for item in rows])
    backbone = load_backbone(setting.model, BaseWeights(setting.dtype))
    encoder = DocumentEncoder(tokenizer(setting), SHORT)

    def ours(pair: int | None) -> None:
        features = pooled_features(backbone, encoder, documents, batch_size=setting.batch_size)
        for matrix in features.values():
            scaled = (matrix - matrix.mean(axis=0)) / (matrix.std(axis=0) + 1e-6)
            for strength in STRENGTHS:
                LogisticRegression(C=strength, max_iter=1000).fit(scaled, gold)

    training = TrainingSide(our_head, setting, size, SHORT, EPOCHS)
    warm = TrainingSide(our_head, setting, size, SHORT, 1)
    measurement = interleave(ours, lambda pair: warm() if pair is None else training(), setting.pairs)
    return row(
        "S10", measurement, source="BBC News articles", epochs=EPOCHS, heads=2 * len(STRENGTHS), **training.work()
    )
