"""Where the documents are and which of them are used, as arguments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ..cli.mistakes import report
from ..cli.sources import missing_folder
from .wipo import LEVELS, check_wipo

SPLITS = ("train", "validation", "test")


@dataclass
class DataArguments:
    """Which documents to use. Either `dataset_name` or the three files."""

    _argument_group_name = "Documents"

    dataset_name: str | None = field(default=None, metadata={"help": "Data set on the Hub, or its folder."})
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of the data set."})
    train_file: str | None = field(
        default=None,
        metadata={"help": "Training documents: CSV, JSON, JSONL or Parquet, or a folder of WIPO-Alpha XML records."},
    )
    validation_file: str | None = field(default=None, metadata={"help": "Validation documents."})
    test_file: str | None = field(default=None, metadata={"help": "Test documents."})
    text_column: str = field(default="text", metadata={"help": "Column of the document text."})
    label_column: str = field(
        default="label", metadata={"help": "Column of the label(s): names, ids or lists of them."}
    )
    id_column: str | None = field(
        default=None, metadata={"help": "Column that identifies a document. Default: its row number in its split."}
    )
    multi_label: bool = field(default=False, metadata={"help": "Whether a document has any number of labels."})
    label_delimiter: str | None = field(
        default=None, metadata={"help": "Text that separates labels in the label column, where they are one string."}
    )
    label_list: list[str] | None = field(
        default=None, metadata={"help": "All labels, in the order of their ids. Default: those of the training split."}
    )
    validation_fraction: float | None = field(
        default=None, metadata={"help": "Share of the training split to set apart for validation, stratified."}
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Use so many training documents only, drawn stratified."}
    )
    max_validation_samples: int | None = field(
        default=None, metadata={"help": "Use so many validation documents only.", "aliases": ["--max_eval_samples"]}
    )
    max_test_samples: int | None = field(
        default=None, metadata={"help": "Use so many test documents only.", "aliases": ["--max_predict_samples"]}
    )
    ipc_level: str = field(
        default="section",
        metadata={"help": "WIPO-Alpha: level of the IPC codes that are the labels.", "choices": list(LEVELS)},
    )
    ipc_fields: list[str] = field(
        default_factory=lambda: ["ti", "ab"],
        metadata={"help": "WIPO-Alpha: texts to join, of ti (title), ab (abstract), cl (claims), txt (description)."},
    )
    split_seed: int = field(default=42, metadata={"help": "Seed of all of these draws, apart from the training seed."})

    def __post_init__(self) -> None:
        report(self._mistakes())
        check_wipo(self.ipc_level, self.ipc_fields)

    def _mistakes(self) -> Iterator[str]:
        files = [name for name in (f"{split}_file" for split in SPLITS) if getattr(self, name)]
        if bool(self.dataset_name) == bool(files):
            yield (
                "Give either dataset_name or train_file, validation_file and test_file, "
                + (f"not both (got dataset_name={self.dataset_name!r} and {files})." if files else "but none is given.")
            )
        elif self.dataset_name and (missing := missing_folder(self.dataset_name, "dataset_name")) is not None:
            yield missing
        if self.validation_fraction is not None and not 0 < self.validation_fraction < 1:
            yield f"validation_fraction must be between 0 and 1, got {self.validation_fraction}."
        if self.label_delimiter is not None and not self.multi_label:
            yield "label_delimiter is for multi-label tasks: set multi_label to true, or leave it out."
        if not 0 <= self.split_seed < 2**32:
            yield f"split_seed must be from 0 to 2**32 - 1, got {self.split_seed}."
        for split in SPLITS:
            limit = getattr(self, f"max_{split}_samples")
            if limit is not None and limit < 1:
                yield f"max_{split}_samples must be at least 1, got {limit}."
