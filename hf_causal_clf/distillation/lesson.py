"""What a student learns: documents, and a row of targets for each; and learning it."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from transformers import Trainer
from transformers.trainer_utils import SaveStrategy

from ..backbone.identity import fingerprint
from ..classifier import TextClassifier
from ..cli.telling import tell
from ..data.splits import ClassificationData
from ..finishing import gives_no_numbers, save_run
from ..runs.disk import write_json
from ..runs.files import UNFINISHED_FOLDER, read_json
from ..training.output_folder import settings_of
from ..training.processes import over_processes
from ..training.train import train
from .arguments import DistillationArguments, StudentTrainingArguments
from .documents import unlabelled_texts
from .loss import SoftLabelLoss, teach
from .selecting import drawn, most_teaching
from .students import Student, merge_adapters
from .teacher import Scores, Teacher, out_of_fold, warn_of_seen


@dataclass(frozen=True)
class Lesson:
    """Documents and targets.

    Attributes:
        data: The training documents are the labelled ones, then those without labels, which have the teacher's decision
            in the place of a label. The other splits are as they were.
        targets: Rows of `SoftLabelLoss.targets` of the training documents.
        loss: The loss.
        facts: What is to be kept of it, for the card.
    """

    data: ClassificationData
    targets: np.ndarray
    loss: SoftLabelLoss
    facts: dict[str, Any]


def prepare_lesson(
    arguments: DistillationArguments,
    teacher: Teacher,
    data: ClassificationData,
    scores: Scores,
    student: Student,
    training: StudentTrainingArguments,
) -> Lesson:
    """Score the documents, choose some of those without labels if that is asked for, and put all together.

    All processes have to call it.

    Args:
        arguments: What is asked for.
        teacher: The teacher.
        data: The labelled documents.
        scores: Its scores.
        student: The student, of which a first one may choose documents.
        training: Its training.
    """
    multi_label = data.label_space.multi_label
    loss = SoftLabelLoss(arguments.gold_weight, arguments.distillation_temperature, multi_label)
    texts = unlabelled_texts(arguments, data)
    if arguments.unlabelled_rest:
        warn_of_seen(teacher, data)
    limit = arguments.select
    if limit is not None and limit < len(texts) and arguments.select_by == "random":
        texts = [texts[row] for row in drawn(len(texts), limit, training.seed)]
        tell(f"{limit:,} of them are drawn at random (seed={training.seed}).")
    held_out = out_of_fold(teacher, data)
    known = scores(data.texts("train"), "training documents").probabilities if held_out is None else held_out
    gold = data.gold("train")
    labelled = Lesson(data, loss.targets(known, gold), loss, {})
    taught, decided = scores(texts, "documents without labels") if texts else (None, [])
    if taught is not None and limit is not None and limit < len(texts) and arguments.select_by == "teaching":
        said = _first_student(labelled, student, training, texts, scores.folder)
        rows = most_teaching(taught, said, limit, multi_label=multi_label)
        texts, taught, decided = [texts[row] for row in rows], taught[rows], [decided[row] for row in rows]
        tell(f"{limit:,} of them are chosen, of which the teacher is sure and the first student is not.")
    facts: dict[str, Any] = {
        "labelled": len(gold),
        "unlabelled": len(texts),
        "gold_weight": arguments.gold_weight,
        "temperature": arguments.distillation_temperature,
        "out_of_fold": held_out is not None,
    }
    if arguments.select is not None:
        facts["select_by"] = arguments.select_by
    if taught is None:
        return replace(labelled, facts=facts)
    everything = _joined(data, texts, decided)
    return Lesson(everything, np.concatenate([labelled.targets, loss.targets(taught)]), loss, facts)


def _joined(data: ClassificationData, texts: list[str], decided: list[Any]) -> ClassificationData:
    """The labelled documents and those without labels, which get the teacher's decisions."""
    from datasets import Dataset

    rows = data.splits["train"]
    columns = {
        "id": [f"labelled/{each}" for each in rows["id"][:]] + [f"unlabelled/{row}" for row in range(len(texts))],
        "text": [*rows["text"][:], *texts],
        "label": [*rows["label"][:], *decided],
    }
    return replace(data, splits={**data.splits, "train": Dataset.from_dict(columns)})


def learn(lesson: Lesson, student: Student, arguments: StudentTrainingArguments) -> Trainer:
    """Return a student's trainer, which is to be trained."""
    return teach(student.build(lesson.data, arguments), lesson.targets, lesson.loss)


def _first_student(
    lesson: Lesson, student: Student, arguments: StudentTrainingArguments, texts: list[str], kept: Path
) -> np.ndarray:
    """Probabilities `(n, labels)` of texts by a student that is trained on the labelled documents alone.

    Kept beside the teacher's scores, so that a training that goes on has the same documents.
    """
    output = Path(str(arguments.output_dir))
    settings = settings_of(arguments)
    content = [lesson.targets.tolist(), lesson.data.texts("train"), texts, student.run.to_dict(), settings]
    path = kept / f"first-student-{fingerprint(content)[:16]}.json"
    if path.is_file():
        return np.asarray(read_json(path)["probabilities"], dtype=np.float32)
    tell(f"A first student is trained on the {len(lesson.targets):,} labelled documents, to choose among the others.")
    own = copy.copy(arguments)
    own.output_dir, own.report_to, own.save_strategy = str(output / UNFINISHED_FOLDER / "first"), [], SaveStrategy.NO
    own.resume_from_checkpoint, own.load_best_model_at_end = None, False
    trainer = learn(lesson, student, own)
    train(trainer)
    merge_adapters(trainer, student.run)
    saved = save_run(trainer, student.tokenizer, student.run)
    classifier = TextClassifier.from_pretrained(saved, calibrated=False, batch_size=own.per_device_eval_batch_size)
    found = over_processes(classifier.predict_proba, texts)
    if gives_no_numbers(found, lesson.data):
        raise ValueError("The first student's training diverged: it gives no numbers. Lower learning_rate.")
    if PartialState().is_main_process:
        kept.mkdir(parents=True, exist_ok=True)
        write_json(path, {"probabilities": np.asarray(found, dtype=np.float64).round(6).tolist()})
    PartialState().wait_for_everyone()
    return np.asarray(found, dtype=np.float32)
