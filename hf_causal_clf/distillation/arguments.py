"""Arguments of a distillation: the teacher, the documents without labels, the loss, and the student's training."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..backbone.identity import fingerprint, identify_dataset, identify_file
from ..cli.mistakes import report
from ..cli.sources import missing_folder
from ..data.arguments import DataArguments
from ..data.files import FORMATS
from ..embedding.arguments import EmbeddingModelArguments, EmbeddingTrainingArguments, HeadArguments
from ..training.arguments import RunArguments, setting
from ..training.output_folder import check_places

SELECTIONS = ("random", "teaching")
WHOLE_LEARNING_RATE, LORA_LEARNING_RATE = 5e-5, 2e-4
_UNLABELLED = ("unlabelled_file", "unlabelled_dataset_name", "unlabelled_rest")
_OF_AN_ADAPTER = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "use_rslora", "use_dora")
_OF_A_RUN = ("truncation", "long_documents", "class_weight", "folds")


@dataclass(frozen=True)
class Content:
    """What makes a student of one distillation another than that of the next: the teacher and documents by content."""

    teacher: str | None = None
    unlabelled: str | None = None
    unlabelled_rest: bool = False
    select: int | None = None
    select_by: str = SELECTIONS[0]
    gold_weight: float = 0.5
    distillation_temperature: float = 1.0


@dataclass
class DistillationArguments:
    """Who teaches, on which documents beside the labelled ones, and how much the gold labels count."""

    _argument_group_name = "Distillation"

    teacher: str = field(metadata={"help": "Finished run that teaches: its output_dir, or its Hub repository."})
    teacher_revision: str | None = setting(None, "Branch, tag or commit of the teacher's repository.")
    unlabelled_file: str | None = setting(
        None, "Documents without labels, which the teacher labels: .csv, .json, .jsonl or .parquet."
    )
    unlabelled_dataset_name: str | None = setting(None, "Data set of such documents: its id on the Hub, or a folder.")
    unlabelled_dataset_config: str | None = setting(None, "Configuration of that data set.")
    unlabelled_dataset_split: str = setting("train", "Split of that data set.")
    unlabelled_rest: bool = setting(
        False,
        "Whether the training documents that max_train_samples leaves out are such documents; labels are not read.",
    )
    select: int | None = setting(None, "Number of documents without labels to use. Default: all.")
    select_by: str = setting(
        "random",
        "With select: 'random' ones, which the teacher then scores alone; or those that are 'teaching': of which the "
        "teacher is sure and a first student, trained on the labelled documents, is not.",
        choices=list(SELECTIONS),
    )
    gold_weight: float = setting(
        0.5,
        "Share of the gold label in the loss of a labelled document; the rest is the teacher's. 1: no teacher there.",
    )
    distillation_temperature: float = setting(
        1.0, "Temperature of the teacher's and the student's probabilities in the loss; above 1 they are more even."
    )
    teacher_scores: str | None = setting(
        None,
        "Folder of what the teacher says of the documents, which another student's training takes from there. Default: "
        "one in output_dir, which goes away when the run is finished.",
    )

    def __post_init__(self) -> None:
        report(self._mistakes())

    def _mistakes(self) -> Iterator[str]:
        if (missing := missing_folder(self.teacher, "teacher")) is not None:
            yield missing
        if self.unlabelled_file and not Path(self.unlabelled_file).is_file():
            yield f"There is no file {self.unlabelled_file!r}. Check unlabelled_file."
        elif self.unlabelled_file and Path(self.unlabelled_file).suffix not in FORMATS:
            yield f"{self.unlabelled_file!r} has an unknown ending; known are {', '.join(FORMATS)}."
        if self.unlabelled_dataset_name:
            missing = missing_folder(self.unlabelled_dataset_name, "unlabelled_dataset_name")
            if missing is not None:
                yield missing
        if not 0 <= self.gold_weight <= 1:
            yield f"gold_weight is a share, from 0 to 1; got {self.gold_weight:g}."
        if not 0 < self.distillation_temperature < math.inf:
            yield f"distillation_temperature must be above 0, got {self.distillation_temperature:g}. 1 is usual."
        if self.select_by not in SELECTIONS:
            yield f"select_by must be one of {list(SELECTIONS)}, got {self.select_by!r}."
        if self.select is not None and self.select < 1:
            yield f"select must be at least 1, got {self.select}. Leave it out to use all."
        if not self.has_unlabelled and (self.select is not None or self.select_by != SELECTIONS[0]):
            yield f"select is for documents without labels: give {', '.join(_UNLABELLED[:-1])} or {_UNLABELLED[-1]}."

    @property
    def has_unlabelled(self) -> bool:
        """Whether there are documents without labels."""
        return any(getattr(self, name) for name in _UNLABELLED)

    def content(self, teacher: dict[str, str], data: DataArguments) -> Content:
        """Return what makes a student of one distillation another than that of the next.

        Args:
            teacher: Hash of each of the teacher's files, or its commit.
            data: Where the labelled documents are, and the rest of them.
        """
        given: list[Any] = []
        sources = [self.unlabelled_file, *([data.train_file] if self.unlabelled_rest else [])]
        for path in filter(None, sources):
            found = identify_dataset(path) if os.path.isdir(path) else identify_file(path)
            given.append(sorted(found.values()))
        if self.unlabelled_rest and data.dataset_name:
            given.append(identify_dataset(data.dataset_name, data.dataset_config))
        if self.unlabelled_dataset_name:
            name, config = self.unlabelled_dataset_name, self.unlabelled_dataset_config
            given.append([identify_dataset(name, config), self.unlabelled_dataset_split])
        shared = {item.name: getattr(self, item.name) for item in fields(Content) if hasattr(self, item.name)}
        shared |= {"teacher": fingerprint(teacher)[:16], "unlabelled": fingerprint(given)[:16] if given else None}
        return Content(**shared)

    def check(self, output_dir: str, data: DataArguments, run: RunArguments, head: HeadArguments) -> None:
        """Raise a `ValueError` for what does not go together with the other arguments."""
        places = {"teacher": self.teacher, "teacher_scores": self.teacher_scores}
        check_places(output_dir, None, **places)
        output = Path(output_dir).resolve()
        if os.path.isdir(self.teacher) and Path(self.teacher).resolve() in output.parents:
            raise ValueError(
                f"output_dir {output_dir!r} is inside the folder of the teacher {self.teacher!r}. Choose another one."
            )
        if self.unlabelled_file and Path(self.unlabelled_file).resolve().parent == output:
            raise ValueError(
                f"output_dir {output_dir!r} is the folder of the documents, unlabelled_file {self.unlabelled_file!r}. "
                "Choose another output_dir."
            )
        if self.unlabelled_rest and data.max_train_samples is None:
            raise ValueError(
                "unlabelled_rest takes the training documents that max_train_samples leaves out: set that, or leave "
                "unlabelled_rest out."
            )
        for name, default in (("folds", 0), ("class_weight", None)):
            if getattr(run, name) != default:
                raise ValueError(f"{name} is not for a distillation, whose labels are a teacher's. Leave it out.")
        if head.head_init == "verbalizer":
            raise ValueError("head_init verbalizer is not for a student, which has no prompt. Leave it out.")


@dataclass
class StudentModelArguments(EmbeddingModelArguments):
    """Model arguments of a student: a decoder gets adapters, an encoder where they are asked for."""

    use_peft: bool | None = setting(  # type: ignore[assignment]
        None, "Whether to train LoRA adapters, not all weights. Default: a decoder's, not an encoder's."
    )

    def __post_init__(self) -> None:
        self.asked_for_peft = bool(self.use_peft)
        if self.use_peft is None:
            self.use_peft = True
        super().__post_init__()


@dataclass
class StudentTrainingArguments(EmbeddingTrainingArguments):
    """`TrainingArguments` of a student: an encoder's or a decoder's."""

    _argument_group_name = "Training"

    learning_rate: float | None = setting(  # type: ignore[assignment]
        None,
        f"Highest learning rate, at the end of the warm-up. Default: {WHOLE_LEARNING_RATE:g} for all weights of an "
        f"encoder, {LORA_LEARNING_RATE:g} for adapters and decoders.",
    )
    optim: str = setting("adamw_torch", "The optimizer.")
    weight_decay: float = setting(0.01, "Weight decay.")
    per_device_train_batch_size: int = setting(16, "Documents per device and step in training.")
    per_device_eval_batch_size: int = setting(16, "Documents per device and forward pass, of teacher and student.")

    def _mistakes(self) -> Iterator[str]:
        yield from super()._mistakes()
        if self.label_smoothing_factor:
            yield "label_smoothing_factor is not for a distillation, whose labels are soft. Leave it out."


def settle_encoder(
    model: StudentModelArguments, head: HeadArguments, run: RunArguments, training: StudentTrainingArguments
) -> None:
    """Set what an encoder is trained with: all of its weights, or adapters that end up in them; in float32.

    Raises:
        ValueError: For options that only a decoder has.
    """
    own = {"model_name_or_path", "model_revision", "use_peft", *(["dtype"] if model.dtype == "float32" else [])}
    if model.asked_for_peft:
        own |= {*_OF_AN_ADAPTER}
    parts = [(model, _changed(model) - own), (head, _changed(head)), (run, _changed(run) & set(_OF_A_RUN))]
    given = sorted(name for _, names in parts for name in names)
    if training.head_learning_rate is not None or training.length_groups is not None:
        given += [name for name in ("head_learning_rate", "length_groups") if getattr(training, name) is not None]
    if given:
        trained, more = "all its weights", "; for adapters, set use_peft to true"
        if model.asked_for_peft:
            trained, more = "adapters", ""
        raise ValueError(
            f"{model.model_name_or_path!r} is an encoder, trained on {trained}, on documents cut at their end: leave "
            f"{', '.join(given)} out, or give a decoder-only model{more}."
        )
    model.use_peft, model.dtype = model.asked_for_peft, "float32"


def settle_learning_rate(training: StudentTrainingArguments, *, whole_encoder: bool) -> None:
    """Fill in the learning rate, where it is not given."""
    if training.learning_rate is None:
        training.learning_rate = WHOLE_LEARNING_RATE if whole_encoder else LORA_LEARNING_RATE


def _changed(arguments: Any) -> set[str]:
    """Names of the arguments that are not as by default."""
    fresh = type(arguments)(**({"model_name_or_path": "any"} if hasattr(arguments, "model_name_or_path") else {}))
    return {item.name for item in fields(arguments) if getattr(arguments, item.name) != getattr(fresh, item.name)}
