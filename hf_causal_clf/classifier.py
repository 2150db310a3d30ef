"""`TextClassifier`: one door to the predictions of any saved run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from os import PathLike
from typing import Any, cast, overload

import numpy as np
import torch
from transformers import BitsAndBytesConfig

from .cascade import STAGES, Cascade
from .combination import CombinationScorer, Member
from .evaluation.calibration import Calibration
from .evaluation.prior import shift_prior
from .explanation.classifying import ExplainedPrediction
from .instruction.generation import generate_answers
from .instruction.scorer import LabelScorer
from .runs.files import CLASSIFICATION_FILE, find_members
from .runs.prior import TargetPrior, target_ratio
from .runs.run import Run
from .runs.schema import KINDS
from .runs.summary import fitted_in_words
from .scorers import AUTO, load_onnx_scorer, load_scorer
from .selection import SelectivePrediction
from .task.labels import LabelSpace
from .task.scorer import Scorer
from .task.texts import Empty, read_texts
from .task.verbalizer import ParsedAnswer

_LISTED = 12  # labels in `repr`
BACKENDS = ("torch", "onnx")


class TextClassifier(SelectivePrediction, ExplainedPrediction):
    """Predicts labels and their probabilities, whichever approach was trained.

    `TextClassifier.from_pretrained` loads a run; a folder that one's own `Trainer` saved is one after
    `finishing.save_description`.

    Args:
        scorer: Source of the logits. For a model in memory, `HeadScorer(model, tokenizer, encoder)` with the
            encoder that it was trained with, or `LabelScorer(model, tokenizer, template=…, verbalizer=…)`.
        label_space: Labels, in the order of the probabilities' columns.
        calibration: Temperature and thresholds fitted on validation documents.

    Attributes:
        source: Folder or Hub repository that it was loaded from.
        run: What it was loaded from says of itself; `None` for a model in memory.
    """

    def __init__(self, scorer: Scorer, label_space: LabelSpace, calibration: Calibration | None = None) -> None:
        self.scorer = scorer
        self.label_space = label_space
        self.calibration = calibration or Calibration()
        self.source: str | None = None
        self.run: Run | None = None
        self._prior_ratio: np.ndarray | None = None

    @property
    def approach(self) -> str:
        """`"embedding"`, `"instruction"`, or the baseline that it is: one of `schema.KINDS`."""
        return self.scorer.approach

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | PathLike[str],
        *,
        calibrated: bool = True,
        target_prior: TargetPrior | None = None,
        batch_size: int = 16,
        dtype: str | torch.dtype = AUTO,
        quantization_config: BitsAndBytesConfig | str | None = AUTO,
        device_map: Any = None,
        attn_implementation: str | None = None,
        backend: str = "torch",
        **hub_kwargs: Any,
    ) -> TextClassifier:
        """Load a finished run of either approach, of a baseline of a comparison, or of several in one.

        Args:
            pretrained_model_name_or_path: `output_dir` of a run, or a Hub repository pushed from one.
            calibrated: Whether to apply the temperature and the thresholds that were fitted on validation documents.
            target_prior: Share of each label where the classifier is used, if that is not its share in training:
                probabilities are corrected for it, after calibration and before thresholds. Single-label: `"uniform"`
                gives all labels the same.
            batch_size: Documents per forward pass.
            dtype: Data type of the base model's weights; `"auto"` takes that of training.
            quantization_config: Quantisation of the base model's weights; `"auto"` takes that of training, `None` none.
            device_map: As in transformers; by default the model goes to the GPU, where there is one.
            attn_implementation: As in transformers; by default the one that is fastest.
            backend: `"torch"`, or `"onnx"` for the `model.onnx` of an exported run of the embedding-based approach or
                of an encoder (`export.py --onnx true`), in ONNX Runtime on the CPU: float32 probabilities that are the
                same within 1e-3, without the model's weights. It is for CPUs without bfloat16.
            hub_kwargs: `revision`, `token`, `cache_dir`, `local_files_only`, `force_download`.

        Raises:
            FileNotFoundError: If there is no `classification.json`, or no base model; or with `"onnx"` no `model.onnx`.
            ImportError: With `"onnx"`, if ONNX Runtime is not installed.
            ValueError: If a file is damaged or of another version, or files do not fit each other; or if `target_prior`
                does not fit the labels, or the shares in training are not known; or if `backend` does not fit the run
                or the other arguments.
        """
        source = str(pretrained_model_name_or_path)
        if backend not in BACKENDS:
            raise ValueError(f"backend must be one of {list(BACKENDS)}, got {backend!r}.")
        run = Run.read(source, **hub_kwargs)
        ratio = None if target_prior is None else target_ratio(run, target_prior)
        check_calibrated(run, source, calibrated)
        of_members: dict[str, Callable[..., Scorer]] = {"cascade": _load_cascade, "combination": _load_combination}
        load = of_members.get(run.approach, load_scorer)
        options = {
            "dtype": dtype,
            "quantization_config": quantization_config,
            "device_map": device_map,
            "attn_implementation": attn_implementation,
        }
        if backend == "onnx":
            scorer: Scorer = load_onnx_scorer(source, run, hub_kwargs, batch_size, options)
        else:
            scorer = load(source, run, hub_kwargs, batch_size=batch_size, **options)
        classifier = cls(scorer, run.label_space, run.calibration if calibrated else None)
        classifier.source, classifier.run, classifier._prior_ratio = source, run, ratio
        return classifier

    def __repr__(self) -> str:
        kind = "multi-label" if self.label_space.multi_label else "single-label"
        names, more = self.labels[:_LISTED], len(self.labels) - _LISTED
        where = "" if self.source is None else f" from {self.source!r}"
        lines = [
            f"TextClassifier{where}, {KINDS.get(self.approach, self.approach)}, {kind}",
            f"  {len(self.labels)} labels: {', '.join(names)}" + (f" and {more} more" if more > 0 else ""),
            f"  calibration: {fitted_in_words(self.calibration) or 'none'}",
        ]
        if isinstance(self.scorer, Cascade):
            first, second = (KINDS.get(stage.scorer.approach, stage.scorer.approach) for stage in self.scorer.stages)
            lines[-1] = f"  {first} answers from a margin of {self.scorer.threshold:.3g} on, else {second}"
        if self._prior_ratio is not None:
            lines.append("  corrected for other label frequencies than those of training (target_prior)")
        if self.run is not None and self.run.base_model.name_or_path:
            lines.append(f"  base model: {self.run.base_model.name_or_path}")
        return "\n".join(lines)

    @property
    def labels(self) -> list[str]:
        """Label names, in the order of the columns of `predict_proba`."""
        return list(self.label_space.names)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:
        """Push the run that this classifier was loaded from; arguments and errors as for `hub.push_run`.

        Raises:
            ValueError: If it was not loaded from a folder.
        """
        from .sharing.hub import push_run

        if self.source is None or not os.path.isdir(self.source):
            raise ValueError(f"Only a classifier that was loaded from a run's folder is pushed, not {self.source!r}.")
        return push_run(self.source, repo_id, **kwargs)

    def predict_proba(self, texts: str | Iterable[str], *, empty: Empty = "error") -> np.ndarray:
        """Return the probability of each label, float32 `(n, labels)`, in the order of the texts.

        Args:
            texts: A list, tuple, iterator, NumPy or Arrow array of texts, or a column of a table or data set. A single
                text gives a single row, `(labels,)`.
            empty: What a text that is missing or has nothing but white space gives: an `"error"`, or NaN for each label
                (`"keep"`).

        Raises:
            ValueError: If `texts` is something else, or the model gives no numbers for one.
        """
        return self.score(texts, empty=empty)[0]

    def score(self, texts: str | Iterable[str], *, empty: Empty = "error") -> tuple[np.ndarray, np.ndarray | None]:
        """Return the probabilities of `predict_proba`, with its errors, and of a cascade which stage answered.

        That is int64 `(n,)`, 1 or 2, or 0 for an empty text; `None` for any other classifier.
        """
        given = read_texts(texts, empty=empty)
        scorer = self.scorer
        logits, stages = (
            scorer.answer(given.texts) if isinstance(scorer, Cascade) else (scorer.logits(given.texts), None)
        )
        probabilities = self._calibrated(logits)
        given.check_numbers(probabilities)
        if stages is not None:
            stages = np.nan_to_num(given.spread(stages.astype(np.float64))).astype(np.int64)
        return given.spread(probabilities), stages

    def _calibrated(self, logits: np.ndarray) -> np.ndarray:
        multi_label = self.label_space.multi_label
        probabilities = self.calibration.apply(logits, multi_label=multi_label).astype(np.float32, copy=False)
        if self._prior_ratio is None:
            return probabilities
        return shift_prior(probabilities, self._prior_ratio, multi_label=multi_label)

    @overload
    def predict(  # type: ignore[overload-overlap]
        self, texts: str, *, empty: Empty = "error", abstain: bool = False
    ) -> str | list[str] | dict[str, bool | None] | None: ...
    @overload
    def predict(self, texts: Iterable[str], *, empty: Empty = "error", abstain: bool = False) -> list[Any]: ...

    def predict(self, texts: str | Iterable[str], *, empty: Empty = "error", abstain: bool = False) -> Any:
        """Return the label name of each text; in a multi-label space, the list of its label names.

        A single text gives a single answer. An empty text gives `None` where `empty` is `"keep"`.

        Args:
            texts: As for `predict_proba`.
            empty: As for `predict_proba`.
            abstain: Whether a run with a fitted target error answers only where it is sure enough. Where not, a
                single-label run gives `None`. A multi-label run has a target error for each label, and gives a mapping
                from each label to `True`, `False` or, where it is not sure of that label, `None`.

        Raises:
            ValueError: As for `predict_proba`; and with `abstain`, if the run has no fitted target error, or its
                probabilities are not those that it was fitted on (`target_prior`, `calibrated=False`).
        """
        if abstain:
            self._abstention()  # its mistakes are told before anything is predicted
        probabilities, stages = self.score(texts, empty=empty)
        probabilities = np.atleast_2d(probabilities)
        answers: list[Any] = self.decide(probabilities, stages)
        if abstain:
            given = zip(answers, self.sure(probabilities, stages), strict=True)
            answers = [None if answer is None else self._sure_part(answer, sure) for answer, sure in given]
        return answers[0] if isinstance(texts, str) else answers

    def decide(
        self, probabilities: np.ndarray, stages: np.ndarray | None = None
    ) -> list[str | None] | list[list[str] | None]:
        """Turn probabilities `(n, labels)` of `predict_proba` into label names, by the thresholds of the run.

        A row of NaN, which an empty text has, gives `None`. A multi-label cascade, whose stages have thresholds of
        their own, needs the `stages` of `score` as well, and raises a `ValueError` without.
        """
        decisions = self.decisions(probabilities, stages)
        answered = ~np.isnan(probabilities).any(axis=1)
        return [  # type: ignore[return-value]
            self.label_space.decode(decision) if known else None
            for decision, known in zip(decisions, answered, strict=True)
        ]

    @overload
    def generate(self, texts: str) -> ParsedAnswer: ...  # type: ignore[overload-overlap]
    @overload
    def generate(self, texts: Iterable[str]) -> list[ParsedAnswer]: ...

    def generate(self, texts: str | Iterable[str]) -> ParsedAnswer | list[ParsedAnswer]:
        """Answer by plain greedy generation instead of label scoring (instruction-based approach only).

        Args:
            texts: As for `predict_proba`. A long document is cut, where label scoring may read it in chunks.

        Returns:
            A `ParsedAnswer` for each text; for a single text, its own.

        Raises:
            ValueError: If the run is of the embedding-based approach, or `texts` are no texts or one is empty.
        """
        if self.approach != "instruction":
            raise ValueError("Only the instruction-based approach generates answers.")
        scorer, given = cast(LabelScorer, self.scorer), read_texts(texts)
        answers = generate_answers(scorer.model, scorer.encoder, given.texts, batch_size=scorer.batch_size)
        return answers[0] if given.single else answers


def check_calibrated(run: Run, source: str, calibrated: bool) -> None:
    """Raise a `ValueError` where a cascade is asked for probabilities that are not calibrated."""
    if run.approach == "cascade" and not calibrated:
        raise ValueError(
            f"{source!r} is a cascade, which decides by calibrated probabilities who answers: leave calibrated out."
        )


def _load_combination(source: str, run: Run, hub_kwargs: dict[str, Any], **options: Any) -> CombinationScorer:
    members = [
        Member(member.scorer, member.calibration, (run.members or {})[name])
        for name, member in _load_members(source, run, hub_kwargs, options)
    ]
    return CombinationScorer(members, multi_label=run.label_space.multi_label, batch_size=options["batch_size"])


def _load_cascade(source: str, run: Run, hub_kwargs: dict[str, Any], **options: Any) -> Cascade:
    stages = dict(_load_members(source, run, hub_kwargs, options))
    if set(stages) != set(STAGES) or run.cascade_threshold is None:
        raise ValueError(f"{source!r} is a cascade with the members {list(stages)} in place of {list(STAGES)}.")
    return Cascade([stages[name] for name in STAGES], run.cascade_threshold)


def _load_members(
    source: str, run: Run, hub_kwargs: dict[str, Any], options: dict[str, Any]
) -> Iterator[tuple[str, TextClassifier]]:
    folder = find_members(source, **hub_kwargs)
    of_base = {name: value for name, value in hub_kwargs.items() if name not in ("revision", "force_download")}
    for name in run.members or {}:
        if not (folder / name / CLASSIFICATION_FILE).is_file():
            raise FileNotFoundError(f"{source!r} lacks its member {name!r} ({folder / name}). Get it again.")
        member = TextClassifier.from_pretrained(folder / name, **options, **of_base)
        if member.label_space != run.label_space or member.approach == run.approach:
            raise ValueError(f"The member {name!r} of {source!r} is of another run, or has other labels. Get it again.")
        yield name, member
