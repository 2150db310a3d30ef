"""`BatchClassifier`: a finished run as a step of a pipeline of tables, such as Ray Data's. Imports no Ray."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from .classifier import TextClassifier
from .runs.tables import abstained_column, answer_column, explanation_column, named_probability_column
from .task.texts import Empty, is_empty

OnError = Literal["stop", "record"]
ON_ERROR: tuple[OnError, ...] = ("stop", "record")
_HOPELESS = 16  # documents that fail one by one before any was predicted: the classifier is broken, not they
_LONGEST = 500  # characters of an error that are kept


class BatchClassifier:
    """Adds a run's answers to tables of documents; what `ray.data.Dataset.map_batches` calls in a pool of actors.

    The columns are those of `predict.py`: `predicted` (a label; of a multi-label run the list of its labels),
    `probabilities` (a structure with a float32 field for each label), of a cascade `stage`, and what is asked for.

    ```python
    ray.data.read_parquet("s3://bucket/articles").map_batches(
        BatchClassifier,
        fn_constructor_args=("runs/news",),
        batch_size=1024,
        batch_format="pyarrow",
        num_gpus=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=8),
    ).write_parquet("s3://bucket/labels")
    ```

    Args:
        model_name_or_path: Finished run, as for `TextClassifier.from_pretrained`; or a `TextClassifier`.
        text_column: Column of the documents' texts.
        empty: What a document without text is: an `"error"`, or a row with a null answer (`"keep"`).
        on_error: What a document is that cannot be predicted: the error of the batch (`"stop"`), or a row with a null
            answer and the reason in a column `error` (`"record"`). Documents are then predicted in smaller batches
            until it is found.
        abstain: Whether to add `abstained`, for a run with a target error.
        explain: Whether to add `explanation`.
        options: Of `TextClassifier.from_pretrained`: `batch_size`, `dtype`, `backend` and so on.

    Raises:
        ValueError: If an option is none of these, or the run does not fit them.
    """

    def __init__(
        self,
        model_name_or_path: str | PathLike[str] | TextClassifier,
        *,
        text_column: str = "text",
        empty: Empty = "keep",
        on_error: OnError = "stop",
        abstain: bool = False,
        explain: bool = False,
        **options: Any,
    ) -> None:
        if on_error not in ON_ERROR:
            raise ValueError(f"on_error must be one of {list(ON_ERROR)}, got {on_error!r}.")
        self.text_column = text_column
        self.empty: Empty = empty
        self.on_error = on_error
        self.abstain = abstain
        self.explain = explain
        if not isinstance(model_name_or_path, TextClassifier):
            model_name_or_path = TextClassifier.from_pretrained(model_name_or_path, **options)
        self.classifier = model_name_or_path
        self._worked = False  # whether any document was ever predicted

    def __call__(self, batch: Any) -> pa.Table:
        """Return a batch with the columns of the answers.

        Args:
            batch: An Arrow table, a mapping from column names to arrays or lists, or a pandas table: any `batch_format`
                of Ray Data.

        Raises:
            ValueError: If it has no column of texts, or one with the name of an answer's; or, unless errors are
                recorded, if a text cannot be predicted.
        """
        table = _as_table(batch)
        if self.text_column not in table.column_names:
            raise ValueError(
                f"The batch has no column {self.text_column!r}; it has {table.column_names}. Set text_column to one of "
                "these."
            )
        columns = self.answers(table[self.text_column].to_pylist())
        twice = sorted(set(columns) & set(table.column_names))
        if twice:
            raise ValueError(f"The batch has the columns {twice} before it is predicted. Rename or drop them.")
        for name, column in columns.items():
            table = table.append_column(name, column)
        return table

    def answers(self, texts: Sequence[Any]) -> dict[str, pa.Array]:
        """Return the columns of the answers to texts, by name.

        Raises:
            ValueError: Unless errors are recorded, if a text is not a string or not allowed to be empty; in any case,
                if no text at all can be predicted.
        """
        classifier, errors = self.classifier, None
        if self.on_error == "record":
            errors = [self._wrong(text) for text in texts]
            texts = [None if error else text for text, error in zip(texts, errors, strict=True)]
            probabilities, stages = self._score_what_can_be(texts, errors)
            texts = [None if error else text for text, error in zip(texts, errors, strict=True)]
        else:
            probabilities, stages = classifier.score(texts, empty=self.empty)
        columns = {
            "predicted": answer_column(classifier.decide(probabilities, stages), classifier.label_space),
            "probabilities": named_probability_column(probabilities, classifier.label_space),
        }
        missing = np.isnan(probabilities).any(axis=1)
        if stages is not None:
            columns["stage"] = pa.array(stages, pa.int8(), mask=missing)
        if self.abstain:
            columns["abstained"] = abstained_column(
                classifier.sure(probabilities, stages), missing, classifier.label_space
            )
        if self.explain:
            empty: Empty = self.empty if errors is None else "keep"
            columns["explanation"] = explanation_column(classifier.explain(texts, empty=empty))
        if errors is not None:
            columns["error"] = pa.array(errors, pa.string())
        return columns

    def _wrong(self, text: Any) -> str | None:
        """What is wrong with a text that no model has to be asked about."""
        if is_empty(text):
            return None if self.empty == "keep" else f"no text: {text!r}"
        return None if isinstance(text, str) else f"{text!r:.80} of type {type(text).__name__} instead of a text"

    def _score_what_can_be(self, texts: list[Any], errors: list[str | None]) -> tuple[np.ndarray, np.ndarray | None]:
        """Score texts, in halves where that fails; of a single one that fails, note why.

        Raises:
            Exception: The last of the model's errors, if no text at all can be predicted.
        """
        asked = sum(not is_empty(text) for text in texts)
        failed = 0

        def score(start: int, stop: int) -> list[tuple[np.ndarray, np.ndarray | None]]:
            nonlocal failed
            try:
                found = self.classifier.score(texts[start:stop], empty="keep")
                self._worked |= not np.isnan(found[0]).all()
                return [found]
            except Exception as error:
                if stop - start > 1:
                    middle = (start + stop) // 2
                    return score(start, middle) + score(middle, stop)
                failed += 1
                if failed == asked > 1 or (failed == _HOPELESS and not self._worked):
                    raise
                errors[start] = f"{type(error).__name__}: {error}"[:_LONGEST]
                return [self.classifier.score([None], empty="keep")]  # type: ignore[list-item]

        parts = score(0, len(texts))
        stages = [part for _, part in parts if part is not None]
        return np.concatenate([part for part, _ in parts]), np.concatenate(stages) if stages else None


def _as_table(batch: Any) -> pa.Table:
    if isinstance(batch, pa.Table):
        return batch
    if hasattr(batch, "iloc"):
        return pa.Table.from_pandas(batch, preserve_index=False)
    return pa.table(dict(batch))
