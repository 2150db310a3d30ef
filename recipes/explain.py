r"""Say why a finished run answers as it does: what each sentence or word of a document does to the probability.

    hf-causal-clf explain --model_name_or_path runs/quickstart/embed --test_file documents.jsonl --output_dir why

Each part of a document is left out and the document predicted again: exact, for every kind of run, on calibrated
probabilities. `explanations.jsonl` has a row for each document: `id`, `predicted`, the `label` that is explained (the
most probable one, or --label), its `probability`, and `units` with `start` and `end` in characters and the `drop` of
the probability without that part; `explanations.html` shows them as marked text, and so does a terminal. Sentences are
left out; with --unit word halves of each, then halves of what matters, down to words. A text of one sentence is
explained by its words.
"""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: a thread that waits leaves its core to others

from hf_causal_clf.cli.logs import hide_by_name

hide_by_name()

from hf_causal_clf import TextClassifier
from hf_causal_clf.cli.mistakes import report
from hf_causal_clf.cli.parsing import parse_arguments
from hf_causal_clf.cli.sources import missing_folder
from hf_causal_clf.cli.starting import run_script
from hf_causal_clf.cli.telling import beginning, tell
from hf_causal_clf.data.arguments import TEXT_NAMES
from hf_causal_clf.data.columns import ID_COLUMN_HELP, TEXT_COLUMN_HELP, settled_text_column
from hf_causal_clf.data.files import FORMATS, stream_file
from hf_causal_clf.explanation.explanation import Explanation
from hf_causal_clf.explanation.faithfulness import SHARES, deletion_curves
from hf_causal_clf.explanation.page import render_explanations
from hf_causal_clf.explanation.showing import heading, marked_text, printable
from hf_causal_clf.explanation.units import UNITS
from hf_causal_clf.runs.disk import taken_names, write_json, write_text
from hf_causal_clf.runs.run import Run
from hf_causal_clf.task.texts import is_empty

ROWS_FILE, PAGE_FILE, CURVES_FILE = "explanations.jsonl", "explanations.html", "faithfulness.json"
AT_ONCE = 64  # documents between two writes
IN_TERMINAL = 5


@dataclass
class ExplainArguments:
    """Which classifier, which documents, and where to."""

    model_name_or_path: str = field(metadata={"help": "Finished run: its output_dir, or its Hub repository."})
    test_file: str = field(metadata={"help": "Documents: CSV, JSON, JSONL or Parquet."})
    output_dir: str = field(metadata={"help": f"Folder of {ROWS_FILE} and {PAGE_FILE}."})
    model_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the repository."})
    text_column: str | None = field(default=None, metadata={"help": TEXT_COLUMN_HELP})
    id_column: str | None = field(default=None, metadata={"help": ID_COLUMN_HELP})
    max_test_samples: int | None = field(
        default=None, metadata={"help": "Number of documents to explain, the first ones. Default: all."}
    )
    unit: str = field(
        default="sentence",
        metadata={
            "help": "Smallest part that is left out. A text of one sentence is explained by its words.",
            "choices": list(UNITS),
        },
    )
    label: str | None = field(
        default=None, metadata={"help": "Label to explain. Default: each document's most probable one."}
    )
    faithfulness: bool = field(
        default=False,
        metadata={
            "help": "Whether to measure, too, how much faster the probability falls where the parts with the largest "
            f"drops are left out together than where others are: {CURVES_FILE}. Takes about as long again."
        },
    )
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Whether to replace what an earlier start left in output_dir."}
    )
    per_device_eval_batch_size: int = field(default=16, metadata={"help": "Documents, or parts left out, per forward."})
    dtype: str = field(default="auto", metadata={"help": "Data type of the base model's weights; auto: of training."})

    def __post_init__(self) -> None:
        report(self._mistakes())

    def _mistakes(self) -> Iterator[str]:
        if (missing := missing_folder(self.model_name_or_path)) is not None:
            yield missing
        if not Path(self.test_file).is_file():
            yield f"There is no file {self.test_file!r}. Check test_file."
        elif Path(self.test_file).suffix not in FORMATS:
            yield f"{self.test_file!r} has an unknown ending; known are {', '.join(FORMATS)}."
        if Path(self.output_dir).exists() and not Path(self.output_dir).is_dir():
            yield f"{self.output_dir!r} is not a folder. Choose another output_dir."
        files = (ROWS_FILE, PAGE_FILE, CURVES_FILE)
        yield from taken_names(Path(self.output_dir), files, overwrite=self.overwrite_output_dir)
        if self.unit not in UNITS:
            yield f"unit must be one of {list(UNITS)}, got {self.unit!r}."
        for name in ("max_test_samples", "per_device_eval_batch_size"):
            if (value := getattr(self, name)) is not None and value < 1:
                yield f"{name} must be at least 1, got {value}."


def main() -> None:
    (arguments,) = parse_arguments((ExplainArguments,), __doc__)
    run = Run.read(arguments.model_name_or_path, revision=arguments.model_revision)
    if arguments.label is not None:
        run.label_space.index(arguments.label)
    documents = read_documents(arguments, run.training.get("text_column"))
    if not documents:
        raise ValueError(f"{arguments.test_file!r} has no documents. Check test_file.")
    classifier = TextClassifier.from_pretrained(
        arguments.model_name_or_path,
        revision=arguments.model_revision,
        batch_size=arguments.per_device_eval_batch_size,
        dtype=arguments.dtype,
    )
    output = Path(arguments.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    found = list(explained(classifier, documents, arguments))
    write_text(output / ROWS_FILE, "".join(map(row_of, found)))
    shown = [(name, explanation) for name, explanation in found if explanation is not None]
    name = Path(arguments.model_name_or_path).name
    write_text(output / PAGE_FILE, render_explanations(shown, run=name, rows_file=ROWS_FILE))
    if sys.stdout.isatty():
        for name, explanation in shown[:IN_TERMINAL]:
            text = printable(explanation.text) if "NO_COLOR" in os.environ else marked_text(explanation)
            print(f"{heading(explanation, name)}\n{text}\n")
    tell(f"{len(documents):,} documents are explained in {output / ROWS_FILE} and {output / PAGE_FILE}.")
    if arguments.faithfulness:
        measure(classifier, [explanation for _, explanation in shown], output)


def read_documents(arguments: ExplainArguments, trained: str | None) -> list[tuple[Any, str]]:
    """Return id and text of each document.

    Args:
        arguments: Which documents.
        trained: Text column of the documents that the run was trained with, if that is known.

    Raises:
        ValueError: If the file cannot be read, a column is missing, it is not clear which is the text, or a cell has
            none.
    """
    source, columns = arguments.test_file, {"text_column": arguments.text_column, "id_column": arguments.id_column}
    named = (*columns.values(), trained, *TEXT_NAMES)
    rows = list(islice(stream_file(Path(source), [name for name in named if name]), arguments.max_test_samples))
    if not rows:
        return []
    column = settled_text_column(list(rows[0]), source, trained, **columns)
    texts = [row[column] for row in rows]
    for place, text in enumerate(texts):
        if not isinstance(text, str) and not is_empty(text):
            wrong = f"{beginning(text)} in {column!r}"
            raise ValueError(f"Row {place} of {source!r}, counted from 0, has {wrong}, which is no text. Give texts.")
    ids = [place if arguments.id_column is None else row[arguments.id_column] for place, row in enumerate(rows)]
    return list(zip(ids, texts, strict=True))


def explained(
    classifier: TextClassifier, documents: list[tuple[Any, str]], arguments: ExplainArguments
) -> Iterator[tuple[Any, Explanation | None]]:
    """Yield id and explanation of each document; a document without text has none."""
    for start in range(0, len(documents), AT_ONCE):
        names, texts = zip(*documents[start : start + AT_ONCE], strict=True)
        found = classifier.explain(list(texts), unit=arguments.unit, label=arguments.label, empty="keep")
        yield from zip(names, found, strict=True)


def row_of(found: tuple[Any, Explanation | None]) -> str:
    """Return the row of a document, as a line of JSON."""
    name, explanation = found
    nothing = {"predicted": None, "label": None, "probability": None, "units": []}
    row = {"id": name, **(nothing if explanation is None else explanation.to_dict())}
    return json.dumps(row, ensure_ascii=False, allow_nan=False, default=str) + "\n"


def measure(classifier: TextClassifier, explanations: list[Explanation], output: Path) -> None:
    """Measure how faithful explanations are, write that, and tell it."""
    summary = deletion_curves(explanations, classifier.predict_variants).summary()
    write_json(output / CURVES_FILE, summary)
    shares = f"{SHARES[0]:.0%} to {SHARES[-1]:.0%}"
    low, high = summary["interval"]
    tell(
        f"Where {shares} of the parts of {summary['texts']:,} documents are left out, the probability falls by "
        f"{summary['aopc_by_drop']:.3f} on average in the order of their drops, at random by "
        f"{summary['aopc_at_random']:.3f}: {summary['difference']:+.3f}, 95 % interval from {low:+.3f} to {high:+.3f}."
    )


if __name__ == "__main__":
    run_script(main)
