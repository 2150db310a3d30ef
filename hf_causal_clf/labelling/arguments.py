"""Arguments of the audit and the plan of labels, and of the language model whose frozen features are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

from ..cli.mistakes import report
from ..cli.packages import missing_packages
from ..cli.sources import missing_folder
from ..data.arguments import DataArguments
from ..data.files import FORMATS
from ..data.folds import FOLDS, check_folds
from ..runs.disk import taken_names
from ..runs.files import CLASSIFICATION_FILE
from ..task.tokens import TRUNCATION_SIDES
from ..training.arguments import setting
from ..training.output_folder import check_places
from .choosing import SELECTIONS
from .files import AUDIT_FILES, PLAN_FILES

if TYPE_CHECKING:
    from trl import ModelConfig


@dataclass
class FrozenModelArguments:
    """A language model that stays as it is, and how it reads documents."""

    _argument_group_name = "Model"

    model_name_or_path: str = field(
        metadata={"help": "Language model: a Hub id or a folder. Or the output_dir of a finished run (audit only)."}
    )
    model_revision: str = setting("main", "Branch, tag or commit of the model.")
    dtype: str | None = setting("bfloat16", "Data type of the model's weights.")
    attn_implementation: str | None = setting(None, "Attention, as in transformers.")
    load_in_4bit: bool = setting(False, "Whether to load the model in NF4.")
    max_length: int | None = setting(512, "Maximum number of tokens of a document.")
    truncation: str = setting("tail", "Where a document that is too long loses text.", choices=list(TRUNCATION_SIDES))
    per_device_eval_batch_size: int = setting(16, "Documents per forward pass.")
    cache_dir: str | None = setting(
        None, "Cache of the features, which a comparison or another audit may share. Default: cache in output_dir."
    )

    def __post_init__(self) -> None:
        report(self._mistakes())

    def _mistakes(self) -> Iterator[str]:
        if (missing := missing_folder(self.model_name_or_path)) is not None:
            yield missing
        for name in ("max_length", "per_device_eval_batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                yield f"{name} must be at least 1, got {value}."

    def cache(self, output: Path) -> Path:
        """Return the folder of the cache, for an output folder."""
        return output / "cache" if self.cache_dir is None else Path(self.cache_dir)

    def model_config(self) -> ModelConfig:
        """Return the model's part, as TRL has it."""
        from ..embedding.arguments import EmbeddingModelArguments

        names = ("model_name_or_path", "model_revision", "dtype", "attn_implementation", "load_in_4bit")
        return EmbeddingModelArguments(**{name: getattr(self, name) for name in names})


@dataclass
class AuditArguments:
    """What is looked for in labelled documents."""

    _argument_group_name = "Audit"

    output_dir: str = field(metadata={"help": "Folder of what is found."})
    folds: int = setting(5, f"Number of folds, {FOLDS[0]} to {FOLDS[1]}: a document is judged by the others' heads.")
    similarity: float = setting(
        0.8,
        "From which similarity on two documents are near-duplicates: the cosine of their TF-IDF of 3 to 5 characters. "
        "1: the same words.",
    )
    slice_columns: list[str] | None = setting(
        None, "Columns of train_file by whose values documents are compared, beside their length and labels."
    )
    fixed_file: str | None = setting(
        None,
        "Corrections: a .csv, .jsonl or .parquet file with the columns id and label, such as audit.parquet once you "
        "have corrected its labels. The training file is written with them into output_dir, and nothing else is done.",
    )
    with_documents: bool = setting(False, "Whether audit.html shows the text of the documents that it lists.")
    overwrite_output_dir: bool = setting(False, "Whether to replace what an earlier start left in output_dir.")

    def __post_init__(self) -> None:
        report(self._mistakes())
        check_folds(self.folds)

    def _mistakes(self) -> Iterator[str]:
        if self.folds == 0:
            yield f"folds must be from {FOLDS[0]} to {FOLDS[1]}, got 0: without folds, nothing is held out."
        if not 0 < self.similarity <= 1:
            yield f"similarity is a cosine, above 0 and up to 1; got {self.similarity:g}."
        if self.fixed_file and not Path(self.fixed_file).is_file():
            yield f"There is no file {self.fixed_file!r}. Check fixed_file."
        elif self.fixed_file and Path(self.fixed_file).suffix not in FORMATS:
            yield f"{self.fixed_file!r} has an unknown ending; known are {', '.join(FORMATS)}."
        if self.fixed_file is None:
            yield from missing_packages(["cleanlab"], "An audit")
            yield from taken_names(Path(self.output_dir), AUDIT_FILES, overwrite=self.overwrite_output_dir)

    def check(self, data: DataArguments, model: FrozenModelArguments) -> None:
        """Check what depends on other arguments: the output folder, the training file, and the model.

        Raises:
            ValueError: If the output folder is one that is read; or a training file is needed, and there is none; or a
                finished run is given settings of heads.
        """
        check_places(self.output_dir, data, model_name_or_path=model.model_name_or_path)
        if (Path(model.model_name_or_path) / CLASSIFICATION_FILE).is_file() and not self.fixed_file:
            fresh = FrozenModelArguments(model.model_name_or_path)
            given = [item.name for item in fields(model) if getattr(model, item.name) != getattr(fresh, item.name)]
            given += ["folds"] if self.folds != type(self).folds else []
            if given:
                raise ValueError(
                    f"{model.model_name_or_path!r} is a finished run, which judges as it was trained: leave "
                    f"{', '.join(given)} out, or give a language model."
                )
        for option in ("fixed_file", "slice_columns"):
            if getattr(self, option) and (data.train_file is None or Path(data.train_file).is_dir()):
                raise ValueError(
                    f"{option} is for documents in a file: give train_file, a .csv, .json, .jsonl or .parquet."
                )


@dataclass
class PlanArguments:
    """How many labels, and of which documents."""

    _argument_group_name = "Plan"

    output_dir: str = field(metadata={"help": "Folder of the plan."})
    forecast_at: list[int] | None = setting(
        None, "Numbers of labelled documents whose F1 is forecast. Default: twice and four times as many as there are."
    )
    f1_average: str = setting("macro", "F1 that is forecast.", choices=["macro", "micro"])
    unlabelled_file: str | None = setting(
        None, f"Documents without labels, of which some are chosen to label next: {', '.join(FORMATS)}."
    )
    select: int = setting(50, "Number of documents to label next.")
    select_by: str = setting(
        "mix",
        "'uncertainty': those whose decision is nearest to another one; 'diversity': those in the middle of clusters; "
        "'mix': both; 'random'.",
        choices=list(SELECTIONS),
    )
    with_documents: bool = setting(False, "Whether plan.html shows the text of the documents that it lists.")
    overwrite_output_dir: bool = setting(False, "Whether to replace what an earlier start left in output_dir.")

    def __post_init__(self) -> None:
        report(self._mistakes())

    def _mistakes(self) -> Iterator[str]:
        if self.forecast_at is not None and min(self.forecast_at, default=0) < 1:
            yield f"forecast_at takes numbers of documents, at least 1 each; got {self.forecast_at}."
        if self.f1_average not in ("macro", "micro"):
            yield f"f1_average must be macro or micro, got {self.f1_average!r}."
        if self.unlabelled_file and not Path(self.unlabelled_file).is_file():
            yield f"There is no file {self.unlabelled_file!r}. Check unlabelled_file."
        elif self.unlabelled_file and Path(self.unlabelled_file).suffix not in FORMATS:
            yield f"{self.unlabelled_file!r} has an unknown ending; known are {', '.join(FORMATS)}."
        yield from taken_names(Path(self.output_dir), PLAN_FILES, overwrite=self.overwrite_output_dir)
        if self.select < 1:
            yield f"select must be at least 1, got {self.select}."
        if self.select_by not in SELECTIONS:
            yield f"select_by must be one of {list(SELECTIONS)}, got {self.select_by!r}."
