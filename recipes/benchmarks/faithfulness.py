r"""Do explanations name the parts that a run goes by? `python recipes/benchmarks/faithfulness.py --help`.

The parts of each document are left out, the first 10 to 50 % of them together, in three orders: that of the explanation
(leave one out), that of integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365), and at random. The mean fall
of the explained label's probability over these shares is the AOPC (Samek et al. 2017, arXiv 1509.06321).

Integrated gradients get as many forward passes as leaving out took, and the backward passes beside. They are those of
the log-odds of the calibrated probability by the token embeddings, along a line from the embedding of a line break in
the place of each token of the document (that of the padding token may be zero, where norms have no gradient); a part
has the sum over its tokens. For runs with a head that read a document in one piece and without a prompt.

Each document is a line of OUTPUT; started again, the script goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_causal_clf import TextClassifier
from hf_causal_clf.data.files import stream_file
from hf_causal_clf.embedding.scorer import HeadScorer
from hf_causal_clf.explanation.explanation import Explanation
from hf_causal_clf.explanation.faithfulness import SHARES, falls, paired_difference, parts_read, ranked
from hf_causal_clf.explanation.units import UNITS
from hf_causal_clf.task.documents import DocumentEncoder
from hf_causal_clf.task.tokens import token_ids

ORDERS = ("leave one out", "integrated gradients", "random")
SETTINGS = ("model_name_or_path", "test_file", "text_column", "unit", "dtype", "seed")


def main(words: list[str] | None = None) -> None:
    given = arguments(words)
    settings = {name: str(getattr(given, name)) for name in SETTINGS}
    rows = read_rows(given.output, settings)
    texts = [row[given.text_column] for row in stream_file(given.test_file, [given.text_column])]
    drawn = np.random.default_rng(given.seed).permutation(len(texts))[: given.max_test_samples].tolist()
    if left := [row for row in drawn if row not in rows]:
        options = {"batch_size": given.batch_size, "dtype": given.dtype}
        classifier = TextClassifier.from_pretrained(given.model_name_or_path, **options)
        check(classifier)
        for row in left:
            rows[row] = measure(classifier, texts[row], given.unit, (given.seed, row))
            with given.output.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"row": row, **rows[row]}) + "\n")
            print(f"{len(rows):,} of {len(drawn):,} documents", flush=True)
    print("\n".join(summary([rows[row] for row in drawn])))


def arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True, help="Finished run with a head.")
    parser.add_argument("--test_file", type=Path, required=True, help="Documents.")
    parser.add_argument("--output", type=Path, required=True, help="File of what is measured, .jsonl.")
    parser.add_argument("--max_test_samples", type=int, default=200, help="Number of documents, drawn with the seed.")
    parser.add_argument("--text_column", default="text")
    parser.add_argument("--unit", default="sentence", choices=UNITS)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(words)


def read_rows(path: Path, settings: dict[str, str]) -> dict[int, dict[str, Any]]:
    """Return what is measured already, by row number; begin the file where there is none."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings) + "\n", encoding="utf-8")
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0] + "\n"  # without a line that a kill cut off
    path.write_text(whole, encoding="utf-8")
    first, *rows = map(json.loads, whole.splitlines())
    if first != settings:
        raise SystemExit(f"{path} was begun with {first}. Choose another --output.")
    return {row.pop("row"): row for row in rows}


def check(classifier: TextClassifier) -> None:
    """Let no gradient be computed that is not needed, and take no run that integrated gradients are not written for."""
    encoder = getattr(classifier.scorer, "encoder", None)
    if (
        not isinstance(classifier.scorer, HeadScorer)
        or not isinstance(encoder, DocumentEncoder)
        or encoder.long_documents == "chunks"
    ):
        raise SystemExit("Give a run of embed.py that reads a document in one piece and without a prompt.")
    classifier.scorer.model.requires_grad_(False)


def measure(classifier: TextClassifier, text: str, unit: str, seed: tuple[int, int]) -> dict[str, Any]:
    """Return what becomes of the probability of a document's label in each order, and what that took."""
    passes = 0
    predict = classifier.predict_variants

    def counted(documents):
        nonlocal passes
        passes += sum(map(len, documents))
        return predict(documents)

    classifier.predict_variants = counted
    start = time.perf_counter()
    explanation = classifier.explain(text, unit=unit)
    middle = time.perf_counter()
    classifier.predict_variants = predict
    found = {"label": explanation.label, "probability": explanation.probability, "passes": passes}
    read, attributions = parts_read(explanation), integrated_gradients(classifier, explanation, passes)
    found["seconds"] = [round(middle - start, 3), round(time.perf_counter() - middle, 3)]
    if len(read) < 2 or attributions is None:
        return {**found, "falls": None}
    drawn = np.random.default_rng(seed).permutation(read)
    orders = ranked(explanation.drops_of(), read), ranked(attributions, read), drawn
    [curves] = falls([explanation], [orders], classifier.predict_variants)
    return {**found, "parts": len(read), "falls": curves.round(6).tolist()}


def integrated_gradients(classifier: TextClassifier, explanation: Explanation, steps: int) -> np.ndarray | None:
    """Return the integrated gradients of each part, float64 `(parts,)`.

    `None` for a text with control tokens, which are cut apart so that no token knows its place.
    """
    scorer = classifier.scorer
    known = scorer.encoder.tokenizer(
        explanation.text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
    )
    whole = scorer.encoder.whole_ids(explanation.text)
    if whole != list(known["input_ids"]):
        return None
    # The encoder cuts numbers below 0 as it cuts tokens: they say which token of the document stands where
    places = np.array(scorer.encoder.fit([-1 - token for token in range(len(whole))]))
    of_document = places < 0
    tokens = -1 - places[of_document]
    of_tokens = token_gradients(classifier, scorer.encoder.encode(explanation.text), of_document, explanation, steps)
    middles = np.array(known["offset_mapping"]).mean(axis=1)[tokens]
    parts = np.searchsorted(explanation.spans[:, 1], middles, side="right").clip(max=len(explanation.spans) - 1)
    return np.bincount(parts, weights=of_tokens[of_document], minlength=len(explanation.spans))


def token_gradients(
    classifier: TextClassifier, ids: list[int], changed: np.ndarray, explanation: Explanation, steps: int
) -> np.ndarray:
    """Return the integrated gradients of each token, float64 `(tokens,)`: Gauss-Legendre quadrature, as captum's.

    Args:
        classifier: A run with a head.
        ids: Token ids of the document as the head reads it.
        changed: Which of these are another one at the start of the line, bool `(tokens,)`.
        explanation: Of the document, for the label.
        steps: Number of forward passes.
    """
    model = classifier.scorer.model
    embed = model.backbone.get_input_embeddings()
    reference = torch.tensor(ids, device=model.device)
    reference[torch.from_numpy(changed)] = token_ids(classifier.scorer.encoder.tokenizer, "\n")[-1]
    with torch.no_grad():
        start, end = embed(reference), embed(torch.tensor(ids, device=model.device))
    score = log_odds(classifier, explanation.label)
    points, weights = np.polynomial.legendre.leggauss(steps)
    total = torch.zeros(start.shape, dtype=torch.float64)
    for first in range(0, steps, classifier.scorer.batch_size):
        rows = slice(first, first + classifier.scorer.batch_size)
        shares = torch.tensor((1 + points[rows]) / 2, device=model.device)[:, None, None]
        inputs = (start + shares * (end - start)).to(start.dtype).requires_grad_()
        with torch.enable_grad():
            [gradients] = torch.autograd.grad(score(inputs).sum(), inputs)
        total += torch.einsum("s,sth->th", torch.tensor(weights[rows] / 2), gradients.double().cpu())
    return (total * (end - start).double().cpu()).sum(dim=-1).numpy()


def log_odds(classifier: TextClassifier, label: str) -> Any:
    """Return what gives the log-odds of a label's calibrated probability, `(rows,)`, of token embeddings."""
    column, multi_label = classifier.label_space.index(label), classifier.label_space.multi_label
    temperature = torch.tensor(classifier.calibration.temperature or 1.0)

    def score(embeddings: torch.Tensor) -> torch.Tensor:
        logits = classifier.scorer.model(inputs_embeds=embeddings).logits / temperature
        if multi_label:
            return logits[:, column]
        others = [other for other in range(logits.shape[1]) if other != column]
        return logits[:, column] - logits[:, others].logsumexp(dim=1)

    return score


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """Return what was found, in lines."""
    measured = [row for row in rows if row["falls"] is not None]
    if not measured:
        return ["No document has two parts that the run reads."]
    curves = np.array([row["falls"] for row in measured])
    areas = dict(zip(ORDERS, curves.mean(axis=2).T, strict=True))
    parts, passes = (np.mean([row[name] for row in measured]) for name in ("parts", "passes"))
    seconds = np.mean([row["seconds"] for row in measured], axis=0)
    lines = [f"{len(measured):,} of {len(rows):,} documents have two parts that are read; {parts:.1f} on average"]
    lines += [
        f"{name}: AOPC {areas[name].mean():.4f}; without {', '.join(f'{share:.0%}' for share in SHARES)} of the parts "
        f"{', '.join(f'{fall:.3f}' for fall in curves[:, place].mean(axis=0))}"
        for place, name in enumerate(ORDERS)
    ]
    for other in ORDERS[1:]:
        difference, (low, high) = paired_difference(areas[ORDERS[0]], areas[other])
        lines.append(f"{ORDERS[0]} - {other}: {difference:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}")
    difference, (low, high) = paired_difference(areas[ORDERS[1]], areas[ORDERS[2]])
    lines.append(f"{ORDERS[1]} - {ORDERS[2]}: {difference:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}")
    took = f"{seconds[0]:.2f} s to leave one out, {seconds[1]:.2f} s for integrated gradients"
    lines.append(f"Each document: {passes:.1f} forward passes for either, {took}")
    return lines


if __name__ == "__main__":
    main()
