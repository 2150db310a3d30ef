r"""Classify the documents of a file or Hub data set of any size with a finished run.

    accelerate launch recipes/predict.py --model_name_or_path runs/quickstart/embed --test_file documents.jsonl \\
        --output_dir predictions

Documents are streamed, shared out over the processes, and written as Parquet shards with `id`, `predicted` and
`probabilities`. Started again, it goes on where it stopped: finished shards are kept, no row is repeated or lost.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_causal_clf.log_records import hide_by_name

hide_by_name()

from transformers.utils import logging

from hf_causal_clf import TextClassifier
from hf_causal_clf.arguments import parse_arguments
from hf_causal_clf.data import FORMATS
from hf_causal_clf.distributed import process_state, start_cpu_processes
from hf_causal_clf.mistakes import report
from hf_causal_clf.prediction import finish_prediction, predict_shards, start_prediction
from hf_causal_clf.run_files import read_run
from hf_causal_clf.sources import missing_folder
from hf_causal_clf.starting import run_script

logger = logging.get_logger(__name__)


@dataclass
class PredictArguments:
    """Which classifier, which documents, and where to."""

    model_name_or_path: str = field(metadata={"help": "Finished run: its output_dir, or its Hub repository."})
    output_dir: str = field(metadata={"help": "Folder of the shards."})
    model_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the repository."})
    test_file: str | None = field(default=None, metadata={"help": "Documents: CSV, JSON, JSONL or Parquet."})
    dataset_name: str | None = field(default=None, metadata={"help": "Data set on the Hub, or its folder."})
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of the data set."})
    dataset_split: str = field(default="test", metadata={"help": "Split of the data set."})
    text_column: str = field(default="text", metadata={"help": "Column of the document text."})
    id_column: str | None = field(
        default=None, metadata={"help": "Column that identifies a document. Default: its row number."}
    )
    per_device_eval_batch_size: int = field(default=16, metadata={"help": "Documents a device and forward pass."})
    shard_size: int = field(default=1000, metadata={"help": "Documents a shard; what a kill can cost at most."})
    dtype: str = field(default="auto", metadata={"help": "Data type of the base model's weights; auto: of training."})
    calibrated: bool = field(default=True, metadata={"help": "Whether to apply the fitted temperature and thresholds."})

    def __post_init__(self) -> None:
        report(self._mistakes())

    def _mistakes(self) -> Iterator[str]:
        if (missing := missing_folder(self.model_name_or_path)) is not None:
            yield missing
        if bool(self.test_file) == bool(self.dataset_name):
            yield "Give either test_file or dataset_name."
        if self.test_file and not Path(self.test_file).is_file():
            yield f"There is no file {self.test_file!r}. Check test_file."
        elif self.test_file and Path(self.test_file).suffix not in FORMATS:
            yield f"{self.test_file!r} has an unknown ending; known are {', '.join(FORMATS)}."
        for name in ("shard_size", "per_device_eval_batch_size"):
            if getattr(self, name) < 1:
                yield f"{name} must be at least 1, got {getattr(self, name)}."


def main() -> None:
    start_cpu_processes()
    (arguments,) = parse_arguments((PredictArguments,), __doc__)
    state = process_state()
    output = Path(arguments.output_dir)
    total = check_documents(arguments)
    names = read_run(arguments.model_name_or_path, revision=arguments.model_revision)["label_space"]["names"]
    keys = ("model_name_or_path", "model_revision", "test_file", "dataset_name", "dataset_config", "dataset_split")
    keys += ("text_column", "id_column", "shard_size", "dtype", "calibrated")
    with state.main_process_first():
        if state.is_main_process:
            start_prediction(output, {"labels": names, **{key: getattr(arguments, key) for key in keys}})
    rows = predict_shards(
        lambda: TextClassifier.from_pretrained(
            arguments.model_name_or_path,
            revision=arguments.model_revision,
            calibrated=arguments.calibrated,
            batch_size=arguments.per_device_eval_batch_size,
            dtype=arguments.dtype,
        ),
        documents(arguments),
        output,
        shard_size=arguments.shard_size,
        process=state.process_index,
        processes=state.num_processes,
        total=total,
    )
    state.wait_for_everyone()
    if state.is_main_process:
        finish_prediction(output, rows, arguments.shard_size)
        print(f"{rows:,} documents are classified in {output}")


def stream(arguments: PredictArguments) -> Any:
    """Open the documents without loading them."""
    from datasets import load_dataset

    if arguments.test_file:
        kind = FORMATS[Path(arguments.test_file).suffix]
        return load_dataset(kind, data_files=arguments.test_file, split="train", streaming=True)
    return load_dataset(arguments.dataset_name, arguments.dataset_config, split=arguments.dataset_split, streaming=True)


def documents(arguments: PredictArguments) -> Iterator[tuple[Any, Any]]:
    """Yield id and text of each document, in the order of the file."""
    for row, example in enumerate(stream(arguments)):
        yield row if arguments.id_column is None else example[arguments.id_column], example[arguments.text_column]


def check_documents(arguments: PredictArguments) -> int | None:
    """Check that there are documents with the columns that are asked for, before anything is written.

    Returns:
        Their number, for the remaining time; `None` where only reading a remote data set would tell.

    Raises:
        ValueError: If they cannot be read, there are none, or a column is missing.
    """
    source = arguments.test_file or arguments.dataset_name
    try:
        data = stream(arguments)
        first = next(iter(data), None)
        known = (data.info.splits or {}).get(arguments.dataset_split)
        total = known.num_examples if known is not None else None
        total = sum(1 for _ in data) if arguments.test_file and not total else total
    except (ValueError, OSError) as error:
        raise ValueError(f"{source!r} cannot be read: {error}") from error
    if first is None:
        raise ValueError(f"{source!r} has no documents. Check test_file or dataset_name.")
    for option in ("text_column", "id_column"):
        column = getattr(arguments, option)
        if column is not None and column not in first:
            raise ValueError(
                f"{source!r} has no column {column!r}; it has {list(first)}. Set {option} to one of these."
            )
    return total or None


if __name__ == "__main__":
    run_script(main)
