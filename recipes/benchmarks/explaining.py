"""S16: explanations beside the predictions that they are made of."""

from __future__ import annotations

from typing import Any

import numpy as np

from hf_causal_clf.explanation.units import cut, without

from .scoring import FEW, LONG, UNLISTED, head_scorer, label_scorer, texts
from .setting import Setting
from .timing import Measurement, interleave, row

SENTENCES = 10  # of each article


def variants(setting: Setting) -> list[list[str]]:
    """The beginnings of articles, and each without each of its sentences."""
    documents = []
    for text in texts(setting, setting.documents):
        spans = cut(text, "sentence")[:SENTENCES]
        beginning = text[: spans[-1][1]]
        left = [without(beginning, [span]) for span in spans] if len(spans) > 1 else []
        documents.append([beginning, *left])
    return documents


def explanations(setting: Setting) -> dict[str, Any]:
    """S16: each sentence left out, what texts share run once, against predicting each text; the worse scorer."""
    documents = variants(setting)
    everything = [text for each in documents for text in each]
    found: dict[str, Measurement] = {}
    differences = {}
    for name, scorer in (
        ("head", head_scorer(setting, 2 * LONG)),
        ("label scoring", label_scorer(setting, FEW, 2 * LONG, instruction=UNLISTED)),
    ):
        found[name] = interleave(
            lambda pair, scorer=scorer: scorer.logits_of_variants(documents[:1] if pair is None else documents),
            lambda pair, scorer=scorer: scorer.logits(documents[0] if pair is None else everything),
            setting.pairs,
        )
        few = documents[:2]
        shared, alone = scorer.logits_of_variants(few), scorer.logits([text for each in few for text in each])
        differences[name] = float(np.abs(np.concatenate(shared) - alone).max())
    ratios = {name: float(np.median(measured.ratios("at least"))) for name, measured in found.items()}
    worst = min(ratios, key=lambda name: ratios[name])
    work = {"documents": len(documents), "texts": len(everything), "ratios": ratios}
    return row("S16", found[worst], **work, worst=worst, largest_difference_of_logits=differences)
