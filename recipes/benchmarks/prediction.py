"""S8, S10 and S14: prediction beside the stock pipeline and ONNX Runtime, and a frozen backbone beside training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from transformers import AutoModelForSequenceClassification, pipeline

from hf_causal_clf import DocumentEncoder, TextClassifier
from hf_causal_clf.backbone.loading import load_backbone
from hf_causal_clf.backbone.weights import BaseWeights
from hf_causal_clf.baselines.fitting import STRENGTHS
from hf_causal_clf.embedding.features import pooled_features
from hf_causal_clf.embedding.onnx_scorer import OnnxScorer
from hf_causal_clf.sharing.onnx import export_onnx, require_onnx

from .scoring import CUT as SHORTEST
from .scoring import LONG, head_scorer, texts
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


def onnx_runtime(setting: Setting) -> dict[str, Any]:
    """S14: logits of the same documents in float32 at two lengths; the row is the worse of the two.

    Beside them, as `work`: the same model in the setting's data type, and the file in ONNX Runtime's dynamic int8.
    """
    require_onnx()
    from onnxruntime.quantization import quantize_dynamic

    whole = replace(setting, dtype="float32")
    scorers = {length: (head_scorer(whole, length), head_scorer(setting, length)) for length in (SHORTEST, LONG)}
    documents, found, details = texts(setting, 2 * setting.documents), {}, {}
    with TemporaryDirectory() as folder:
        path = export_onnx(scorers[LONG][0].model, Path(folder))
        quantize_dynamic(path, small := path.with_name("int8.onnx"))
        for length, (ours, other_type) in scorers.items():
            labels, options = ours.model.config.num_labels, {"batch_size": setting.batch_size}
            plain, int8 = (
                OnnxScorer(each, tokenizer(setting), ours.encoder, labels, **options) for each in (path, small)
            )
            expected = ours.logits(documents)
            found[length] = interleave(
                lambda pair, ours=ours: ours.logits(documents),
                lambda pair, plain=plain: plain.logits(documents),
                setting.pairs,
            )
            beside = interleave(
                lambda pair, other=other_type: other.logits(documents),
                lambda pair, int8=int8: int8.logits(documents),
                setting.pairs,
            )
            details[length] = {
                "ratio": median(found[length].ratios("at least")),
                "largest_difference": float(np.abs(plain.logits(documents) - expected).max()),
                "int8_largest_difference": float(np.abs(int8.logits(documents) - expected).max()),
                "seconds": {"float32": found[length].ours, "onnx_float32": found[length].other},
                f"seconds_{setting.dtype}": beside.ours,
                "seconds_onnx_int8": beside.other,
            }
    worst = min(details, key=lambda length: details[length]["ratio"])
    return row("S14", found[worst], documents=len(documents), worst=worst, tokens=details)
