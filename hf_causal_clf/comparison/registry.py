"""The baselines of a comparison: their names, what their results depend on, and how each is run.

Nothing here loads a model, and what a baseline needs is imported when it is run: arguments are checked against the
names before that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..training import length

if TYPE_CHECKING:
    from ..baselines.fitting import Outcome
    from ..data.splits import ClassificationData
    from ..embedding.arguments import EmbeddingModelArguments
    from ..training.arguments import PromptArguments
    from .arguments import ComparisonArguments

BASE_MODEL = ("model_name_or_path", "model_revision", "dtype", "attn_implementation", "load_in_4bit")
_ENCODER_BATCH_SIZE = 16
ENCODER_LENGTH = f"{length.ENCODER_READS}/√documents, at least {length.ENCODER_LEAST_EPOCHS}"


def encoder_epochs(arguments: ComparisonArguments, documents: int) -> float:
    """Return the epochs of the encoder: as given, or as its training documents need."""
    if arguments.encoder_num_train_epochs is not None:
        return arguments.encoder_num_train_epochs
    return length.encoder_epochs(documents)


@dataclass(frozen=True)
class Job:
    """What a baseline is run on.

    Attributes:
        data: Documents with gold labels.
        arguments: Arguments of the comparison.
        prompt_args: The prompt.
        seed: Training seed; `None` for a baseline without one.
        folder: Where its results will be, and its checkpoints while it goes on.
        parameters: Of the baseline's function, where `--tune` has found others than the default ones.
    """

    data: ClassificationData
    arguments: ComparisonArguments
    prompt_args: PromptArguments
    seed: int | None
    folder: Path
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Baseline:
    """A baseline.

    Attributes:
        name: Short name, for arguments and `report.json`.
        title: Its name in the report.
        run: Returns the logits of the validation and test documents, and what they cost.
        depends_on: Arguments of the comparison that, when they change, make it another baseline.
        prompted: Whether it depends on the prompt as well.
        seeded: Whether it is run with each of the training seeds.
        needs: Argument without which it cannot run. By default it is left out then.
    """

    name: str
    title: str
    run: Callable[[Job], Outcome]
    depends_on: tuple[str, ...] = ()
    prompted: bool = False
    seeded: bool = False
    needs: str | None = None

    @property
    def cost(self) -> int:
        """How much there is to compute: 0 needs no model, 1 leaves the model as it is, 2 trains one."""
        return 2 if self.seeded else int("model_name_or_path" in self.depends_on)


def _majority(job: Job) -> Outcome:
    from ..baselines.fitting import majority

    return majority(job.data)


def _tfidf(job: Job) -> Outcome:
    from ..baselines.fitting import tfidf

    return tfidf(job.data, **job.parameters)


def _zero_shot(job: Job, *, contextual: bool = False) -> Outcome:
    from ..baselines.fitting import zero_shot

    arguments = job.arguments
    return zero_shot(
        job.data,
        _base_model(arguments),
        job.prompt_args.template(arguments.prompt_max_length, arguments.truncation),
        job.prompt_args.verbalizer(job.data.label_space),
        contextual=contextual,
        **_prediction(arguments),
    )


def _contextual(job: Job) -> Outcome:
    return _zero_shot(job, contextual=True)


def _frozen(job: Job) -> Outcome:
    from ..baselines.fitting import frozen

    arguments = job.arguments
    limits: dict[str, Any] = {"max_length": arguments.max_length, "truncation": arguments.truncation}
    return frozen(job.data, _base_model(arguments), **limits, **_prediction(arguments), **job.parameters)


def _encoder(job: Job) -> Outcome:
    from ..baselines.encoder_training import fine_tuned_encoder

    arguments = job.arguments
    assert job.seed is not None
    given = {
        "learning_rate": arguments.encoder_learning_rate,
        "num_train_epochs": encoder_epochs(arguments, len(job.data.splits["train"])),
    }
    return fine_tuned_encoder(
        job.data,
        str(arguments.encoder_name_or_path),
        max_length=arguments.max_length,
        batch_size=_ENCODER_BATCH_SIZE,
        seed=job.seed,
        output_dir=job.folder,
        **{**given, **job.parameters},
    )


def _base_model(arguments: ComparisonArguments) -> EmbeddingModelArguments:
    from ..embedding.arguments import EmbeddingModelArguments

    return EmbeddingModelArguments(**{name: getattr(arguments, name) for name in BASE_MODEL})


def _prediction(arguments: ComparisonArguments) -> dict[str, Any]:
    assert arguments.cache_dir is not None
    return {"batch_size": arguments.per_device_eval_batch_size, "cache": Path(arguments.cache_dir)}


_SCORING = (*BASE_MODEL, "truncation", "prompt_max_length")
_ALL = (
    Baseline("majority", "majority class", _majority),
    Baseline("tfidf", "TF-IDF + logistic regression", _tfidf),
    Baseline("zero_shot", "zero-shot", _zero_shot, _SCORING, prompted=True),
    Baseline("contextual", "zero-shot, contextual calibration", _contextual, _SCORING, prompted=True),
    Baseline("frozen", "frozen backbone + head", _frozen, (*BASE_MODEL, "truncation", "max_length")),
    Baseline(
        "encoder",
        "encoder",
        _encoder,
        ("encoder_name_or_path", "encoder_learning_rate", "encoder_num_train_epochs", "max_length"),
        seeded=True,
        needs="encoder_name_or_path",
    ),
)
BASELINES = {baseline.name: baseline for baseline in _ALL}


def cheapest_first(names: Iterable[str]) -> Iterator[list[Baseline]]:
    """Baselines of these names in groups, those that cost least first."""
    ordered = sorted((BASELINES[name] for name in names), key=lambda baseline: (baseline.cost, baseline.prompted))
    return (list(group) for _, group in groupby(ordered, key=lambda baseline: baseline.cost))
