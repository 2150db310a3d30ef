"""Where the head reads: pooling, and a text after each document, chosen out of fold on frozen features.

A decoder-only model's last hidden state is about what comes next. After a document that is often its next word; after
"this text is about:" it is what the document is about (the idea of PromptEOL: Jiang et al., 2023, arXiv 2307.16645,
here with fine-tuning). What helps depends on the task, so the documents decide.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..backbone.cache import cached, computing_versions, shared_folder
from ..backbone.loading import load_backbone
from ..backbone.settings import base_weights, model_identity
from ..cli.telling import tell
from ..data.sampling import stratified_sample
from ..data.splits import ClassificationData
from ..evaluation.metrics import negative_log_likelihood
from ..runs.schema import POOLINGS
from ..task.documents import SUFFIXES, DocumentEncoder
from .features import pooled_features

if TYPE_CHECKING:
    from trl import ModelConfig

_DOCUMENTS = 400  # looked at, at most
_TOKENS = 50_000  # the same in tokens; but at least
_LEAST = 40  # documents
_STRENGTHS = (0.01, 0.1, 1.0)  # inverse regularisation strengths of the logistic regression
_FOLDS = 5


@dataclass(frozen=True)
class Reading:
    """Where a head reads.

    Attributes:
        pooling: `"last"` or `"mean"`.
        suffix: Text after each document; `None` for none.
    """

    pooling: str
    suffix: str | None = None

    def __str__(self) -> str:
        what = "the last token" if self.pooling == "last" else "the mean of all tokens"
        return what if self.suffix is None else f"{what} after {self.suffix!r}"


def readings(pooling: str, suffix: str | None) -> list[Reading]:
    """Return the candidates for a `pooling` and a `suffix`, each of which may be `"auto"`.

    The mean is over the document alone where the suffix is not given: of a text that is the same for all, it says
    nothing.
    """
    poolings = POOLINGS if pooling == "auto" else (pooling,)
    if suffix != "auto":
        return [Reading(each, suffix) for each in poolings]
    found = [Reading(each) for each in poolings]
    return found + [Reading("last", each) for each in SUFFIXES if "last" in poolings]


def encoders_of(
    candidates: list[Reading], tokenizer: PreTrainedTokenizerBase, max_length: int | None, truncation: str
) -> dict[Reading, DocumentEncoder]:
    """Return what reads documents for each candidate, but for suffixes that leave no room for a document.

    Raises:
        ValueError: If there is room for none of them.
    """
    encoders = {}
    for reading in candidates:
        try:
            encoders[reading] = DocumentEncoder(tokenizer, max_length, truncation, suffix=reading.suffix)
        except ValueError:
            if reading is candidates[-1] and not encoders:
                raise
    return encoders


def choose_reading(
    data: ClassificationData,
    tokenizer: PreTrainedTokenizerBase,
    model_arguments: ModelConfig,
    candidates: list[Reading],
    *,
    max_length: int | None,
    truncation: str,
    batch_size: int,
    seed: int = 0,
) -> Reading:
    """Return the candidate whose frozen features tell the labels of training documents best.

    For each candidate, a logistic regression on the features of the untouched base model is fitted and measured by
    cross-validation on training documents, at most 400 of them. The lowest negative log-likelihood out of fold is
    taken. All processes have to call it; they get the same answer.

    Args:
        data: Documents with gold labels.
        tokenizer: The base model's tokenizer.
        model_arguments: The base model.
        candidates: What to choose from; one alone is returned without a look.
        max_length: As for `DocumentEncoder`. A suffix that does not fit is no candidate.
        truncation: As for `DocumentEncoder`.
        batch_size: Documents per forward pass.
        seed: Seed of the draw of documents and of the folds.
    """
    encoders = encoders_of(candidates, tokenizer, max_length, truncation)
    chosen = list(encoders)[:1]
    if len(encoders) > 1 and len(data.splits["train"]) >= _LEAST and PartialState().is_main_process:
        chosen = [_best(data, model_arguments, encoders, batch_size, seed)]
    return broadcast_object_list(chosen)[0]


def _best(
    data: ClassificationData,
    model_arguments: ModelConfig,
    encoders: dict[Reading, DocumentEncoder],
    batch_size: int,
    seed: int,
) -> Reading:
    texts, gold = _looked_at(data, next(iter(encoders.values())), seed)

    def load() -> PreTrainedModel:
        weights, revision = base_weights(model_arguments), model_arguments.model_revision
        return load_backbone(model_arguments.model_name_or_path, weights, revision=revision)

    def compute(backbone: PreTrainedModel) -> dict[str, np.ndarray]:
        found = {}
        by_suffix: dict[str | None, dict[str, np.ndarray]] = {}
        for reading, encoder in encoders.items():
            if reading.suffix not in by_suffix:
                by_suffix[reading.suffix] = pooled_features(backbone, encoder, texts, batch_size=batch_size)
            found[reading] = out_of_fold_nll(by_suffix[reading.suffix][reading.pooling], gold, seed=seed)
        return {"scores": np.array(list(found.values()))}

    content = {
        "scores": [
            [reading.pooling, [encoder.chunks(text) for text in texts]] for reading, encoder in encoders.items()
        ],
        "gold": gold.tolist(),
        "model": [model_identity(model_arguments), model_arguments.attn_implementation],
        "computed": [batch_size, seed, computing_versions()],
    }
    known, _ = cached(shared_folder(), content, load, compute)
    scores = dict(zip(encoders, known["scores"].tolist(), strict=True))
    best = min(scores, key=scores.__getitem__)
    told = "; ".join(f"{reading} {score:.3f}" for reading, score in scores.items())
    tell(f"The head reads {best}. Out of fold, a frozen model's NLL on {len(texts):,} documents: {told}.")
    return best


def _looked_at(data: ClassificationData, encoder: DocumentEncoder, seed: int) -> tuple[list[str], np.ndarray]:
    """Texts and gold labels of the training documents that decide: few enough to be run in seconds on a GPU."""
    texts, gold = data.splits["train"]["text"], data.gold("train")
    some = [len(encoder.encode(text)) for text in texts[:_LEAST]]
    count = min(len(texts), _DOCUMENTS, max(_LEAST, int(_TOKENS / np.mean(some))))
    rows = stratified_sample(gold, count, seed) if count < len(texts) else np.arange(len(texts))
    return texts[rows], gold[rows]


def out_of_fold_nll(features: np.ndarray, gold: np.ndarray, *, seed: int) -> float:
    """Cross-validated negative log-likelihood of a logistic regression on standardised features.

    Args:
        features: `(n, features)`.
        gold: Label ids `(n,)`, or 0/1 `(n, labels)`.
        seed: Seed of the folds.

    Returns:
        The lowest over a few strengths of regularisation. A label that a fold's training lacks has a probability near
        zero there.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import KFold, StratifiedKFold
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    multi_label = gold.ndim == 2
    labels = gold.shape[1] if multi_label else int(gold.max()) + 1
    # With more folds than documents of a label, trainings would lack it
    most = len(gold) if multi_label else int(np.bincount(gold).max())
    kind, folds = (KFold, most) if multi_label or most < 2 else (StratifiedKFold, most)
    splits = kind(max(2, min(_FOLDS, folds)), shuffle=True, random_state=seed)
    found = []
    for strength in _STRENGTHS:
        head = LogisticRegression(C=strength, max_iter=500)
        model = make_pipeline(StandardScaler(), OneVsRestClassifier(head) if multi_label else head)
        probabilities = np.full((len(gold), labels), 1e-3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # labels with fewer documents than folds; fits that are cut off
            for train, held_out in splits.split(features, gold):
                if not multi_label and len(np.unique(gold[train])) == 1:
                    probabilities[held_out, gold[train[0]]] = 1.0
                    continue
                model.fit(features[train], gold[train])
                columns = np.arange(labels) if multi_label else model.classes_
                probabilities[np.ix_(held_out, columns)] = model.predict_proba(features[held_out])
        found.append(negative_log_likelihood(gold, probabilities.clip(1e-6, 1 - 1e-6)))
    return min(found)
