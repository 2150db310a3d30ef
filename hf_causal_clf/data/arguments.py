"""Where the documents are and which of them are used, as arguments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ..cli.mistakes import report
from ..cli.sources import missing_folder
from .wipo import LEVELS, check_wipo

SPLITS = ("train", "validation", "test")
DEFAULT_OUTPUT = "runs/{name}/{approach}"  # filled in when the documents are known
CUT_FRACTIONS = {"test": 0.2, "validation": 0.1}  # of the training documents, where a split is missing
TEXT_NAMES = (
    *("text", "texts", "document", "content", "body", "message", "sentence", "review", "abstract", "description"),
    *("article", "comment", "question", "query", "utterance", "tweet", "post"),
)
LABEL_NAMES = (
    *("label", "labels", "category", "categories", "class", "classes", "target", "topic", "topics", "intent"),
    *("sentiment", "emotion", "genre", "tag", "tags"),
)


@dataclass
class DataArguments:
    """Which documents to use: `train_file`, or `dataset_name`."""

    _argument_group_name = "Documents"

    dataset_name: str | None = field(
        default=None, metadata={"help": "Data set: its id on the Hub, or a folder. In place of train_file."}
    )
    dataset_config: str | None = field(
        default=None, metadata={"help": "Configuration of the data set. Default: its only one."}
    )
    train_file: str | None = field(
        default=None,
        metadata={
            "help": "File of the training documents: .csv, .json, .jsonl or .parquet; or a folder of WIPO-Alpha XML "
            "records. In place of dataset_name."
        },
    )
    validation_file: str | None = field(
        default=None,
        metadata={"help": "File of the validation documents. Default: they are cut from the training documents."},
    )
    test_file: str | None = field(
        default=None,
        metadata={"help": "File of the test documents. Default: they are cut from the training documents."},
    )
    text_column: str | None = field(
        default=None,
        metadata={
            "help": f"Column of the document's text. Default: a column with a known name ({', '.join(TEXT_NAMES[:4])} "
            "and the like), else the one with long texts where only two columns could be meant."
        },
    )
    label_column: str | None = field(
        default=None,
        metadata={
            "help": "Column of the label (a name or an id), or of a list of labels. Default: a column with a known "
            f"name ({', '.join(LABEL_NAMES[:4])} and the like), else the one whose values repeat and are no numbers, "
            "where only two columns could be meant."
        },
    )
    id_column: str | None = field(
        default=None, metadata={"help": "Column that identifies a document. Default: its row number in its split."}
    )
    multi_label: bool = field(
        default=False, metadata={"help": "Whether a document can have several labels, or none. Default: exactly one."}
    )
    label_delimiter: str | None = field(
        default=None,
        metadata={
            "help": "Text between the labels of a document, where they are one text, such as ';' (multi-label only). "
            "Default: they are a list."
        },
    )
    label_list: list[str] | None = field(
        default=None,
        metadata={"help": "All labels, in the order of their ids. Default: the labels of the training documents."},
    )
    validation_fraction: float | None = field(
        default=None,
        metadata={
            "help": "Share of the training documents that is cut off for validation, each label in proportion. "
            f"Default: {CUT_FRACTIONS['validation']} where there is no validation split."
        },
    )
    test_fraction: float | None = field(
        default=None,
        metadata={
            "help": "Share of the training documents that is cut off for the test, each label in proportion, before "
            f"anything else is drawn. Default: {CUT_FRACTIONS['test']} where there is no test split."
        },
    )
    max_train_samples: int | None = field(
        default=None,
        metadata={"help": "Number of training documents to use, each label in proportion. Default: all."},
    )
    max_validation_samples: int | None = field(
        default=None,
        metadata={"help": "Number of validation documents to use. Default: all.", "aliases": ["--max_eval_samples"]},
    )
    max_test_samples: int | None = field(
        default=None,
        metadata={"help": "Number of test documents to use. Default: all.", "aliases": ["--max_predict_samples"]},
    )
    ipc_level: str = field(
        default="section",
        metadata={"help": "WIPO-Alpha: level of the IPC codes that are the labels.", "choices": list(LEVELS)},
    )
    ipc_fields: list[str] = field(
        default_factory=lambda: ["ti", "ab"],
        metadata={"help": "WIPO-Alpha: texts to join, of ti (title), ab (abstract), cl (claims), txt (description)."},
    )
    split_seed: int = field(
        default=42,
        metadata={"help": "Seed with which splits are cut and documents drawn. The seed of training is another."},
    )

    def __post_init__(self) -> None:
        report(self._mistakes())
        check_wipo(self.ipc_level, self.ipc_fields)

    def _mistakes(self) -> Iterator[str]:
        files = [name for name in (f"{split}_file" for split in SPLITS) if getattr(self, name)]
        if bool(self.dataset_name) == bool(files):
            yield "Give either dataset_name or train_file, " + (
                f"not both (got dataset_name={self.dataset_name!r} and {files})." if files else "but none is given."
            )
        elif self.dataset_name and (missing := missing_folder(self.dataset_name, "dataset_name")) is not None:
            yield missing
        for name in ("validation_fraction", "test_fraction"):
            share = getattr(self, name)
            if share is not None and not 0 < share < 1:
                yield f"{name} must be between 0 and 1, got {share}."
        if self.label_delimiter is not None and not self.multi_label:
            yield "label_delimiter is for multi-label tasks: set multi_label to true, or leave it out."
        if not 0 <= self.split_seed < 2**32:
            yield f"split_seed must be from 0 to 2**32 - 1, got {self.split_seed}."
        for split in SPLITS:
            limit = getattr(self, f"max_{split}_samples")
            if limit is not None and limit < 1:
                yield f"max_{split}_samples must be at least 1, got {limit}."
