"""What of a run a stock checkpoint holds, and what it leaves to whoever uses it. Knows runs, no model."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..runs.run import Run

THRESHOLDS = "thresholds"  # entry of an exported config.json


def own_thresholds(run: Run) -> list[float] | None:
    """Return from which of the checkpoint's own probabilities on it gives a label; `None` for 0.5, and single-label.

    The run's thresholds are for calibrated probabilities: where its temperatures are not in the head, the sigmoid of
    its logits reaches σ(T·logit(t)) when the calibrated one reaches t.
    """
    from scipy.special import expit, logit

    calibration = run.calibration
    if calibration.thresholds is None:
        return None
    temperature = np.asarray(1.0 if calibration.temperature is None else calibration.temperature)
    with np.errstate(divide="ignore"):  # of a threshold of 0 or 1
        return [float(each) for each in expit(temperature * logit(np.array(calibration.thresholds)))]


def left_to_the_caller(run: Run) -> str | None:
    """Say what the run does with documents and logits, where neither a stock model nor its tokenizer does it."""
    left = list(_left(run))
    if not left:
        return None
    searched = run.approach == "instruction" and run.label_space.multi_label
    remote = "" if searched else "; so does hf_causal_clf.serving.RemoteClassifier(url, folder) where vLLM serves it"
    return "\n".join([*left, f"TextClassifier, which loads this folder too, does{remote}."])


def _left(run: Run) -> Iterator[str]:
    if run.approach == "instruction":
        yield (
            "The run asks for the answer in a prompt, and its probabilities are those of whole answers: whoever uses "
            "the checkpoint has to write the one and to add up the other."
        )
        if run.label_space.multi_label:
            yield "Several labels make one answer here, so vLLM cannot give their probabilities: they need a search."
    elif run.prompt is not None:
        yield (
            "The run reads each document in a prompt (head_init verbalizer): whoever uses the checkpoint has to write "
            "it, as token ids."
        )
    if run.document_suffix:
        yield (
            f"The run reads {run.document_suffix!r} after each document: whoever uses the checkpoint has to append it, "
            "after what is cut."
        )
    yield from _long_documents(run)
    if run.calibration.temperature is not None and run.approach != "instruction":
        yield "The run's temperature is not in the checkpoint: fold_temperature puts it there."


def _long_documents(run: Run) -> Iterator[str]:
    longest, side = run.truncation.max_length, run.truncation.side
    if longest is None:
        return
    if run.truncation.long_documents == "chunks":
        yield (
            f"The run reads what is longer than {longest:,} tokens in overlapping chunks and averages their logits; "
            "the checkpoint sees one chunk. Whoever uses it has to cut a document and to average "
            "(TextClassifier's scorer.encoder.chunks(document) are the token ids)."
        )
    elif side in ("both", "head_tail"):
        where = {"both": "at both ends", "head_tail": "in their middle"}[side]
        yield (
            f"The run cuts documents that are longer than {longest:,} tokens {where}; stock tokenizers cut at one end. "
            "Whoever uses the checkpoint has to cut them."
        )
