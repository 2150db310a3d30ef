"""The label frequencies that a run was trained for, and those that it is to be used with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..evaluation.prior import prior_ratio
from ..task.labels import LabelSpace
from .run import Run

UNIFORM = "uniform"
TargetPrior = Mapping[str, float] | str  # share of each label, or UNIFORM
_TOLERANCE = 1e-3  # of the sum of all shares


def read_target_prior(given: Any) -> dict[str, float] | str:
    """Return a target prior as an option has it: a mapping from label to share, also as JSON, or `"uniform"`.

    Raises:
        ValueError: If it is something else.
    """
    if given == UNIFORM:
        return UNIFORM
    try:
        shares = json.loads(given) if isinstance(given, str) else given
    except json.JSONDecodeError:
        shares = None
    if not isinstance(shares, Mapping) or not all(map(_is_number, shares.values())):
        raise ValueError(
            f"target_prior must map each label to its share, as in {{'sport': 0.5, …}}, or be {UNIFORM}; got {given!r}."
        )
    return {str(name): float(share) for name, share in shares.items()}


def target_ratio(run: Run, target_prior: TargetPrior) -> np.ndarray:
    """Return what corrects a run's probabilities for other label frequencies, for `shift_prior`.

    Args:
        run: Its training facts have the frequencies of training.
        target_prior: Share of each label where the run is used. Single-label: they sum to 1; `"uniform"` gives all
            labels the same.

    Returns:
        Float64 `(labels,)`.

    Raises:
        ValueError: If a label is missing or unknown, shares are not possible, or the frequencies of training are not
            known or make no ratio.
    """
    labels = run.label_space
    target, trained = _target_shares(read_target_prior(target_prior), labels), _trained_shares(run)
    useless = (trained <= 0) | (trained >= 1)
    if useless.any():
        names = [name for name, bad in zip(labels.names, useless, strict=True) if bad]
        raise ValueError(
            f"target_prior needs labels that some training documents have and others do not, which {names} are not. "
            "Leave target_prior out, or train with such documents."
        )
    return prior_ratio(trained, target, multi_label=labels.multi_label)


def priors_of(runs: Sequence[Run]) -> dict[str, Any]:
    """Return what a run that is made of others keeps of the label frequencies that these were trained for.

    Args:
        runs: Its members; or a student, described without this, and its teacher.

    Returns:
        For its training facts: nothing where all were trained for the frequencies of their documents. Where some were
        not (`class_weight`): `prior` if those of all are the same, else `priors`, for which there is no `target_prior`.
    """
    if not any(map(_is_weighted, runs)):
        return {}
    try:
        shares = [dict(zip(run.label_space.names, _trained_shares(run).tolist(), strict=True)) for run in runs]
    except ValueError:
        return {"priors": []}
    priors = [[each[name] for name in runs[0].label_space.names] for each in shares]
    return {"prior": priors[0]} if np.allclose(priors, priors[0]) else {"priors": priors}


def _is_weighted(run: Run) -> bool:
    """Whether a run was trained for other label frequencies than those of its documents."""
    facts = run.training
    return bool({"prior", "priors"} & set(facts) or facts.get("arguments", {}).get("balanced_classes"))


def _target_shares(target_prior: dict[str, float] | str, labels: LabelSpace) -> np.ndarray:
    names = labels.names
    if isinstance(target_prior, str):
        if labels.multi_label:
            raise ValueError(
                f"target_prior {UNIFORM} is for single-label tasks. Give the share of each label: {list(names)}."
            )
        return np.full(len(names), 1 / len(names))
    missing, unknown = [name for name in names if name not in target_prior], sorted(set(target_prior) - set(names))
    if missing or unknown:
        raise ValueError(
            f"target_prior must have a share for each label: missing are {missing}, unknown {unknown}. The labels are "
            f"{list(names)}."
        )
    shares = np.array([target_prior[name] for name in names])
    if not ((shares > 0) & (shares < 1)).all():
        raise ValueError(f"The shares of target_prior must be above 0 and below 1, got {dict(target_prior)}.")
    if not labels.multi_label and abs(shares.sum() - 1) > _TOLERANCE:
        raise ValueError(f"The shares of target_prior must sum to 1, got {shares.sum():g}: {dict(target_prior)}.")
    return shares


def _trained_shares(run: Run) -> np.ndarray:
    """The share of each label that the probabilities stand for: in the training documents, as they counted."""
    facts = run.training
    if "priors" in facts:
        raise ValueError(
            "target_prior needs probabilities that stand for one set of label frequencies. Those of this run come from "
            "several runs, which were trained for different ones (class_weight). Leave target_prior out, or train all "
            "of them with the same class_weight."
        )
    if facts.get("prior") is not None:
        return np.array(facts["prior"])
    counts = np.array(facts.get("label_counts", {}).get("train", []))
    if len(counts) != len(run.label_space):
        raise ValueError(
            "target_prior needs the label frequencies of training, which classification.json of this run does not have "
            "(training.label_counts.train). Train the run again, or leave target_prior out."
        )
    total = facts["documents"]["train"] if run.label_space.multi_label else counts.sum()
    shares = counts / total
    if not facts.get("arguments", {}).get("balanced_classes"):
        return shares
    present = (shares > 0) & (shares < 1)  # balanced by the weights of the head's loss
    return np.where(present, 0.5 if run.label_space.multi_label else 1 / (shares > 0).sum(), shares)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
