"""Documents to label next, as files: JSON lines, and the import forms of two labelling tools.

`to_label.jsonl` has `text`, `predicted` (a name, or a list of names) and `probabilities` (by name), the document to
label first in the first row. `argilla.json` is what Argilla's `dataset.records.from_json(path)` reads (2.x), for a data
set with a text field `text` and a label question `label`. `label_studio.json` is a list of tasks with predictions for
Label Studio's import, for the project's labelling configuration in `label_studio.xml`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np

from ..runs.disk import write_text
from ..task.labels import LabelSpace
from .files import ARGILLA_FILE, LABEL_STUDIO_CONFIGURATION, LABEL_STUDIO_FILE, PLAIN_FILE


def write_documents(
    output: Path,
    texts: Sequence[str],
    predicted: Sequence[Any],
    probabilities: np.ndarray,
    space: LabelSpace,
    agent: str,
) -> None:
    """Write documents to label, with what is predicted of them, in three forms.

    Args:
        output: Folder.
        texts: The documents.
        predicted: A label name each, or a list of them.
        probabilities: `(n, labels)`.
        space: The labels.
        agent: Who predicts, for the tools.
    """
    named = [dict(zip(space.names, row, strict=True)) for row in probabilities.astype(float).round(6).tolist()]
    rows = list(zip(texts, predicted, named, strict=True))
    plain = [{"text": text, "predicted": label, "probabilities": of} for text, label, of in rows]
    write_text(output / PLAIN_FILE, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in plain))
    _write(output / ARGILLA_FILE, [_record(number, *row, agent) for number, row in enumerate(rows)])
    _write(output / LABEL_STUDIO_FILE, [_task(*row, agent) for row in rows])
    write_text(output / LABEL_STUDIO_CONFIGURATION, _configuration(space))


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    write_text(path, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


def _record(number: int, text: str, label: Any, probabilities: dict[str, float], agent: str) -> dict[str, Any]:
    """Return a record as Argilla's `Record.to_dict` has it."""
    scores = [probabilities[name] for name in label] if isinstance(label, list) else probabilities[label]
    return {
        "id": str(number),
        "fields": {"text": text},
        "metadata": {},
        "suggestions": {"label": {"value": label, "score": scores, "agent": agent}} if label else {},
        "responses": {},
        "vectors": {},
    }


def _task(text: str, label: Any, probabilities: dict[str, float], agent: str) -> dict[str, Any]:
    choices = label if isinstance(label, list) else [label]
    result = {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": choices}}
    score = min((probabilities[name] for name in choices), default=0.0)
    return {
        "data": {"text": text},
        "predictions": [{"model_version": agent, "score": score, "result": [result] if choices else []}],
    }


def _configuration(space: LabelSpace) -> str:
    choices = "".join(f"    <Choice value={quoteattr(name)}/>\n" for name in space.names)
    kind = "multiple" if space.multi_label else "single"
    return (
        '<View>\n  <Text name="text" value="$text"/>\n'
        f'  <Choices name="label" toName="text" choice="{kind}">\n{choices}  </Choices>\n</View>\n'
    )
