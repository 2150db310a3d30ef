"""What a finished run says of documents: scored in shards that a kill cannot lose, out of fold where it has folds."""

from __future__ import annotations

import functools
import gc
import os
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import PartialState
from pyarrow import parquet
from transformers.utils import logging

from ..backbone.identity import fingerprint, identify_run
from ..classifier import TextClassifier
from ..cli.telling import tell
from ..data.splits import ClassificationData
from ..evaluation.metrics import decision_metrics
from ..evaluation.significance import align
from ..runs.files import OUT_OF_FOLD_FILE
from ..runs.results import read_out_of_fold, read_results
from ..runs.run import Run
from ..shards import finish_prediction, predict_shards, progress, shard_path, start_prediction
from ..task.labels import LabelSpace
from ..training.output_folder import documents_content, read_manifest

logger = logging.get_logger(__name__)

SCORES_FOLDER = ".teacher"  # in the student's output folder, until its run is finished
# Names in that folder: of scores, their locks, and what a first student says
_OWN = re.compile(r"[0-9a-f]{16}|\.[0-9a-f]{16}\.lock|first-student-[0-9a-f]{16}\.json")
_SHARD = 200  # documents; a kill costs at most one shard
_METRICS = ("f1_macro", "f1_micro", "accuracy")


@dataclass(frozen=True)
class Teacher:
    """A finished run that teaches.

    Attributes:
        source: Its folder or Hub repository.
        revision: Branch, tag or commit of the repository.
        run: What it says of itself.
        identity: Hash of each of its files, or its commit.
    """

    source: str
    revision: str | None
    run: Run
    identity: dict[str, str]

    @classmethod
    def read(cls, source: str, revision: str | None = None) -> Teacher:
        """Read what a run says of itself; its model is not loaded.

        Raises:
            FileNotFoundError: If there is no run, or its base model is not there.
            OSError: If there is no such folder or repository.
            ValueError: If a file is damaged.
        """
        return cls(source, revision, Run.read(source, revision=revision), identify_run(source, revision))

    def check_labels(self, space: LabelSpace) -> None:
        """Check that documents have the teacher's labels, in whatever order.

        Raises:
            ValueError: If not; it says what differs.
        """
        own = self.run.label_space
        if own.multi_label != space.multi_label:
            kinds = {True: "multi-label", False: "single-label"}
            advice = "true" if own.multi_label else "false"
            raise ValueError(
                f"The teacher {self.source!r} is {kinds[own.multi_label]}, and the documents are read as "
                f"{kinds[space.multi_label]} ones. Set multi_label to {advice}, or give a teacher of their kind."
            )
        missing, more = sorted(set(space.names) - set(own.names)), sorted(set(own.names) - set(space.names))
        if missing or more:
            parts = [f"does not know {missing}"] * bool(missing) + [f"has {more}, which no document has"] * bool(more)
            advice = " Set label_list to all of the teacher's labels if they are the documents' too." if more else ""
            raise ValueError(
                f"The teacher {self.source!r} has other labels than the documents: it {' and '.join(parts)}. Give a "
                f"run that was trained on these labels.{advice}"
            )

    def columns(self, space: LabelSpace) -> list[int]:
        """Where the teacher's probabilities have each label of the documents."""
        return [self.run.label_space.index(name) for name in space.names]


class Said(NamedTuple):
    """What a teacher says of texts.

    Attributes:
        probabilities: Calibrated ones, in the order of the documents' labels, float32 `(n, labels)`.
        labels: What it decides, by its own thresholds: for each text a label name, or a list of them.
    """

    probabilities: np.ndarray
    labels: list[Any]


class Scores:
    """The teacher's calibrated probabilities of texts, kept in shards. All processes have to call its methods.

    Args:
        teacher: The teacher.
        space: The documents' labels, in whose order the probabilities are.
        folder: Where they are kept; each list of texts has a folder of its own there.
        batch_size: Documents per forward pass.
    """

    def __init__(self, teacher: Teacher, space: LabelSpace, folder: Path, batch_size: int) -> None:
        self.teacher = teacher
        self.folder = folder
        self._columns = teacher.columns(space)

        @functools.cache
        def load() -> TextClassifier:
            return TextClassifier.from_pretrained(teacher.source, revision=teacher.revision, batch_size=batch_size)

        self._load: Callable[[], TextClassifier] = load

    def __call__(self, texts: Sequence[str], what: str) -> Said:
        """Return what the teacher says of texts; what an earlier start scored is read.

        Args:
            texts: The texts.
            what: What they are, in words, to be told.
        """
        state = PartialState()
        content = {"documents": {"texts": fingerprint(list(texts))}, "classifier": self.teacher.identity}
        folder = self.folder / fingerprint(content)[:16]
        settings = {"labels": list(self.teacher.run.label_space.names)}
        if state.is_main_process:
            start_prediction(folder, settings, content)
            there = progress(folder, len(texts), _SHARD)
            tell(f"The teacher scores {len(texts):,} {what}." if there is None else f"Scores of {what}: {there}.")
        state.wait_for_everyone()
        shards = predict_shards(
            self._load,
            enumerate(texts),
            folder,
            shard_size=_SHARD,
            process=state.process_index,
            processes=state.num_processes,
            total=len(texts),
        )
        state.wait_for_everyone()
        if state.is_main_process:
            finish_prediction(folder, shards, self.teacher.run.label_space)
        found = [self._read(shard_path(folder, index)) for index, _ in zip(count(), shards)]
        probabilities = np.concatenate([part.probabilities for part in found])[:, self._columns]
        return Said(probabilities, [label for part in found for label in part.labels])

    def _read(self, path: Path) -> Said:
        table = parquet.read_table(path, columns=["predicted", "probabilities"])
        column = table["probabilities"].combine_chunks()
        fields = [column.field(index).to_numpy(zero_copy_only=False) for index in range(column.type.num_fields)]
        return Said(np.stack(fields, axis=1).astype(np.float32), table["predicted"].to_pylist())

    def close(self) -> None:
        """Let go of the teacher's model."""
        self._load.cache_clear()  # type: ignore[attr-defined]
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def remove(self) -> None:
        """Remove what was kept, and the folder if that was all: what others have put there stays."""
        if not PartialState().is_main_process:
            return
        for path in self.folder.glob("*"):
            if _OWN.fullmatch(path.name):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        with suppress(OSError):  # it is not empty, or not there
            self.folder.rmdir()


def warn_of_seen(teacher: Teacher, data: ClassificationData) -> None:
    """Warn where a teacher may have seen the labels of the training documents that were not drawn."""
    folder = Path(teacher.source)
    settings: dict[str, Any] = (read_manifest(folder)["settings"] or {}) if folder.is_dir() else {}
    if settings.get("data") != documents_content(data):
        logger.warning(
            f"unlabelled_rest: the teacher {teacher.source!r} does not tell that it was trained on these documents. If "
            "it has seen the labels of others in train_file, the student is measured too well. Train it with the same "
            "max_train_samples and split_seed."
        )


def out_of_fold(teacher: Teacher, data: ClassificationData) -> np.ndarray | None:
    """Return what trainings of the teacher that did not see a training document say of it, float32 `(n, labels)`.

    Returns:
        `None` where the teacher has no folds or is on the Hub, which never gets these numbers; and where they are of
        other documents, which is warned of.
    """
    folder, space = Path(teacher.source), data.label_space
    if not (folder / OUT_OF_FOLD_FILE).is_file():
        return None
    own = teacher.run.label_space
    found = read_out_of_fold(folder, own)
    place = {str(identifier): row for row, identifier in enumerate(found.ids)}
    ids = list(map(str, data.splits["train"]["id"][:]))
    rows = [row for each in ids if (row := place.get(each, place.get(f"train/{each}"))) is not None]
    known = len(rows) == len(ids)
    if known:
        labels = own.encode_batch(data.splits["train"]["label"][:])
        known = np.array_equal(found.gold[rows], labels) and not found.changed(rows, data.texts("train"))
    if not known:
        logger.warning(
            f"{OUT_OF_FOLD_FILE} of the teacher has other documents than these training documents, or other labels or "
            "texts of theirs: what the finished teacher says of them is taken."
        )
        return None
    return found.probabilities[rows][:, teacher.columns(space)]


def measured_teacher(teacher: Teacher, data: ClassificationData, scores: Scores) -> dict[str, float]:
    """Return F1 and accuracy of the teacher on the test documents: as it has written them down, or measured.

    Args:
        teacher: The teacher.
        data: The documents.
        scores: Its scores of other documents.
    """
    own, gold = teacher.run.label_space, data.splits["test"]["label"][:]
    encoded = own.encode_batch(gold)
    predicted = _written_down(teacher, data, encoded)
    if predicted is None:
        predicted = own.encode_batch(scores(data.texts("test"), "test documents").labels)
    found = decision_metrics(encoded, predicted)
    return {name: found[name] for name in _METRICS}


def _written_down(teacher: Teacher, data: ClassificationData, gold: np.ndarray) -> np.ndarray | None:
    """Its decisions on the test documents, where its folder has those of the very same documents."""
    try:
        results = read_results(Path(teacher.source), teacher.run.label_space)
        rows = align(list(data.splits["test"]["id"]), results.ids)
        settings: dict[str, Any] = read_manifest(Path(teacher.source))["settings"] or {}
    except (OSError, ValueError):
        return None
    same = settings.get("test") == documents_content(data, ("test",)) and np.array_equal(results.gold[rows], gold)
    return results.predicted[rows] if same else None


def taught_by(teacher: Teacher) -> dict[str, Any]:
    """Return what a student's card says of its teacher: what it is, and its public names. No path is among them."""
    base = teacher.run.base_model.hub_id
    public = None if os.path.isdir(teacher.source) else teacher.source
    facts = {"approach": teacher.run.approach, "base_model": base, "repository": public}
    return {"teacher": {name: value for name, value in facts.items() if value is not None}}
