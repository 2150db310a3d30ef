"""What the metrics of a run say, in words and as a table for the terminal. Knows numbers only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..cli.telling import beginning
from ..evaluation.calibration import MIN_DOCUMENTS, Calibration
from ..evaluation.metrics import f1_per_label, label_counts
from .measuring import Metrics

_COLUMNS = ("f1_macro", "f1_micro", "accuracy", "nll", "brier", "ece")


def print_metrics(metrics: Metrics, *, multi_label: bool, write: Callable[[str], Any] = print) -> None:
    """Print a short table of a finished run, the majority baseline's line beside it."""
    fitted, changed = what_was_fitted(metrics["calibration"])
    folds = metrics["calibration"].get("folds")
    held_out = "out of fold" if folds else "validation"
    write(f"\n{'':12}" + "".join(f"{name:>10}" for name in _COLUMNS))
    for split, name in (("validation", held_out), ("test", "test")):
        write(_line(name, metrics[split]))
        if changed:
            write(_line("  before", metrics[split], "uncalibrated_"))
    if "majority" in metrics:
        write(_line("  majority", metrics["majority"]))
    note = "before: without what was" if changed else "probabilities are as the model gives them;"
    if metrics["calibration"].get("by_stages"):
        write(f"({fitted})")
    else:
        write(f"({note} fitted {'out of fold' if held_out != 'validation' else 'on validation'}: {fitted})")
    if "majority" in metrics:
        write("(majority: the label frequencies of training, for every test document)")
    if "abstention" in metrics:
        documents = metrics["calibration"]["documents"]
        write(abstention_in_words(metrics["abstention"], f"{documents:,} {'labelled' if folds else 'validation'}"))
    if "cascade" in metrics:
        write(cascade_in_words(metrics["cascade"], metrics["training"]["predict_samples_per_second"]))
    verdict = nothing_learned(metrics, multi_label=multi_label)
    if verdict:
        write(verdict)
    if "malformed_rate" in metrics["test"]:
        write(_generation(metrics["test"]))


def weakest_labels(gold: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> str:
    """Name the two labels with the lowest F1 on the test documents, of those that have any.

    Args:
        gold: Label ids `(n,)`, or 0/1 `(n, labels)`.
        predicted: Decisions, in the form of `gold`.
        names: Label names.
    """
    scores, counts = f1_per_label(gold, predicted, len(names)), label_counts(gold, len(names))
    there = [label for label in np.argsort(scores, kind="stable").tolist() if counts[label]]
    told = [f"{beginning(names[label])} {scores[label]:.3f} on {counts[label]:,}" for label in there[:2]]
    return f"lowest F1 on test: {', '.join(told)} documents"


def nothing_learned(metrics: Metrics, *, multi_label: bool) -> str | None:
    """Say so where a run is not above the majority baseline on the test documents.

    Args:
        metrics: Content of `metrics.json`.
        multi_label: Whether micro F1 is compared, and not accuracy.

    Returns:
        What the numbers are and what to try; `None` for a run that is above, or whose baseline is not known.
    """
    if "majority" not in metrics:
        return None
    name, word = ("f1_micro", "micro F1") if multi_label else ("accuracy", "accuracy")
    reached, baseline = metrics["test"][name], metrics["majority"][name]
    if reached > baseline:
        return None
    return (
        f"The run has learned nothing that its {word} shows: on test it is {reached:.3f}, not above the {baseline:.3f} "
        "of the majority baseline. Try another learning_rate (a higher one if the training loss hardly falls, a lower "
        "one if it jumps), more epochs or more training documents, and look at a few documents and their labels."
    )


def what_was_fitted(calibration: dict[str, Any]) -> tuple[str, bool]:
    """Return what was fitted on the validation documents, in words, and whether it changes anything.

    Args:
        calibration: The part `calibration` of `metrics.json`.
    """
    found = fitted_in_words(Calibration.from_dict(calibration))
    if calibration.get("by_stages"):
        return "each document is calibrated by the stage that answers it", False
    if found is None:
        documents = f"{calibration['documents']} {'labelled' if calibration.get('folds') else 'validation'}"
        return f"nothing, as {documents} documents are too few, {MIN_DOCUMENTS} are needed", False
    return found, found != "temperature 1"


def cascade_in_words(cascade: dict[str, Any], speed: float) -> str:
    """Say from which margin on a cascade's first stage answers, and what that keeps and costs.

    Args:
        cascade: The part `cascade` of `metrics.json`.
        speed: Test documents a second.
    """
    fitted, test, average = cascade["fitted"], cascade["test"], cascade["f1_average"]
    threshold, expected, loss = fitted["threshold"], fitted["expected_loss"], test["loss"]
    who = f"the first stage answers from a margin of {threshold:.3f} on"
    if threshold in (0, 1):
        who = "the first stage answers all documents" if threshold == 0 else "the second stage answers all documents"
    limit = cascade.get("max_f1_loss")
    unsure = ""
    if limit is not None and expected["high"] > limit:
        unsure = f"; these documents cannot tell whether it stays within {limit:g}"
    go_on = f"{fitted['expected_deferred']:.1%} go on to the second"
    rates = [rate_in_words(rate) for rate in (speed, *test["documents_per_second"])]
    return (
        f"cascade: {who}. Expected, by thresholds fitted on other documents: {go_on}, and the loss of {average} F1 "
        f"against it is {expected['value']:+.3f} [{expected['low']:+.3f}, {expected['high']:+.3f}]{unsure}. On test: "
        f"{test['deferred']:.1%} went on, {average} F1 {test['f1']:.3f} (first alone {test['first_f1']:.3f}, second "
        f"alone {test['second_f1']:.3f}; loss {loss['value']:+.3f} [{loss['low']:+.3f}, {loss['high']:+.3f}]), "
        f"{rates[0]} documents a second (first {rates[1]}, second {rates[2]})."
    )


def abstention_in_words(abstention: dict[str, Any], documents: str) -> str:
    """Say what a run's target error lets it answer.

    Args:
        abstention: The part `abstention` of `metrics.json`.
        documents: What it was fitted on, such as `"500 validation"`.
    """
    target, found = abstention["target_error"], abstention["found"]
    held = [each for each in found if each["threshold"] is not None]
    if not held:
        lowest = min(each["bound"] for each in found)
        return (
            f"target_error {target:g}: no confidence is sure to hold it on {documents} documents, so with abstain "
            f"nothing is answered. What is sure is an error of {lowest:.2g}: take a larger target_error, or more "
            "documents."
        )
    coverage, wrong = answered_and_wrong(abstention)
    error = "" if wrong is None else f", {wrong:.2%} of them wrong"
    if len(found) > 1:
        return (
            f"target_error {target:g}: it holds from some confidence on for {len(held)} of {len(found)} labels. Of all "
            f"decisions on test, {coverage:.1%} are sure{error}."
        )
    return (
        f"target_error {target:g}: answered from a confidence of {held[0]['threshold']:.3f} on, with an error of at "
        f"most {held[0]['bound']:.2%} at 95 % confidence ({held[0]['errors']:,} of {held[0]['answered']:,} answers "
        f"wrong on {documents} documents). On test, {coverage:.1%} of the documents are answered{error}."
    )


def answered_and_wrong(abstention: dict[str, Any]) -> tuple[float, float | None]:
    """Share of the test decisions that a run answers, and of the wrong ones among these (`None` without any).

    Args:
        abstention: The part `abstention` of `metrics.json`; of several labels, all decisions count together.
    """
    test = abstention["test"]
    coverage = sum(each["coverage"] for each in test) / len(test)
    wrong = sum(each["coverage"] * each["error"] for each in test if each["error"] is not None) / len(test)
    return coverage, wrong / coverage if coverage else None


def rate_in_words(rate: float) -> str:
    """Return a number of documents a second with three digits or more, never as a power of ten."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def fitted_in_words(calibration: Calibration) -> str | None:
    """Return temperatures and thresholds in words; `None` where there are none."""
    said = []
    for name, value in (("temperature", calibration.temperature), ("threshold", calibration.thresholds)):
        if isinstance(value, tuple):
            said.append(f"{name}s {min(value):.3g} to {max(value):.3g}")
        elif value is not None:
            said.append(f"{name} {value:.3g}")
    return ", ".join(said) or None


def _line(name: str, metrics: dict[str, float], prefix: str = "") -> str:
    return f"{name:12}" + "".join(f"{metrics[prefix + column]:10.4f}" for column in _COLUMNS)


def _generation(test: dict[str, float]) -> str:
    """What greedy generation got, and on how many documents; an earlier version did not say on how many."""
    if "generation_documents" not in test:
        score, documents = f"{test['generation_f1_macro']:.4f}", "test"
    else:
        low, high = (test[f"generation_f1_macro_ci_{end}"] for end in ("low", "high"))
        score = f"{test['generation_f1_macro']:.4f} [{low:.4f}, {high:.4f}]"
        score += f" (label scoring {test['generation_scoring_f1_macro']:.4f})"
        documents = f"{test['generation_documents']:,} test documents"
    return f"greedy generation on {documents}: f1_macro {score}, malformed answers {test['malformed_rate']:.1%}"
