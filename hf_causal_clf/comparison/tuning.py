"""Fair tuning: the same number of trials for every run and baseline, chosen on the validation documents.

The first trial is what was asked for, so nothing worse on validation can be chosen. A trial's folder keeps its
validation metrics and nothing else: no trial is known by its test documents. Started again, the same sampler asks for
the same trials, and those that are finished are read.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.arguments import DataArguments
from ..data.splits import ClassificationData
from ..runs.disk import folder_written_aside, write_json
from ..runs.files import MANIFEST_FILE, METRICS_FILE, read_json
from ..training.arguments import PromptArguments
from ..training.checkpoints import remove_traces
from ..training.output_folder import read_manifest
from . import running
from .arguments import ComparisonArguments, folder_name
from .plan import (
    ComparisonState,
    baseline_configuration,
    check_model,
    check_model_of,
    read_config,
    run_folder,
    write_config,
)
from .registry import Baseline, Job
from .search_space import Choice, Space, baseline_space, changes, run_space, with_parameters

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    Plan = tuple[dict[str, Any], Callable[[], bool]]  # what makes a trial another one, and what runs it

TUNING_FOLDER = "tuning"
_RANDOM_TRIALS = 4  # the first ones, before the sampler learns from them
_METRICS = ("f1_macro", "f1_micro", "nll")


@dataclass(frozen=True)
class Trial:
    """A trial.

    Attributes:
        number: From 1, which is what was asked for.
        parameters: Value of each setting that is searched.
        validation: Metrics of the validation documents; `None` if it failed.
    """

    number: int
    parameters: dict[str, Any]
    validation: dict[str, float] | None


def search(
    space: Space,
    measure: Callable[[int, dict[str, Any]], dict[str, float] | None],
    *,
    trials: int,
    metric: str,
    seed: int,
) -> Iterator[Trial]:
    """Yield the trials of a search by Optuna's tree-structured Parzen estimator (Bergstra et al., 2011).

    The first has the given settings. The same measurements lead to the same trials, so that what an interruption has
    left can be told again.

    Args:
        space: What is searched.
        measure: Returns the validation metrics of a trial, by its number and settings; `None` if it failed, which
            counts as the worst.
        trials: Number of trials.
        metric: The one that should be large, from 0 to 1.
        seed: Of the sampler.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=_RANDOM_TRIALS)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.enqueue_trial({name: dimension.given for name, dimension in space.items()})
    distributions = {name: _distribution(dimension) for name, dimension in space.items()}
    for number in range(1, trials + 1):
        asked = study.ask(distributions)
        parameters = {name: asked.params[name] for name in space}
        validation = measure(number, parameters)
        study.tell(asked, 0.0 if validation is None else validation[metric])
        yield Trial(number, parameters, validation)


def _distribution(dimension: Any) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if isinstance(dimension, Choice):
        return CategoricalDistribution(dimension.values)
    return FloatDistribution(dimension.low, dimension.high, log=True)


def improvements(trials: Sequence[Trial], metric: str) -> list[Trial]:
    """Return the trials that were better than all before them, ties decided by NLL; the last one is the best."""
    found: list[Trial] = []
    for trial in trials:
        if trial.validation is not None and (not found or _score(trial, metric) > _score(found[-1], metric)):
            found.append(trial)
    return found


def _score(trial: Trial, metric: str) -> tuple[float, float]:
    assert trial.validation is not None
    return trial.validation[metric], -trial.validation["nll"]


class Tuner:
    """Tunes the runs and baselines of a comparison, where `--tune` asks for it.

    Args:
        arguments: Arguments of the comparison.
        data_args: Where the documents are.
        prompt_args: The prompt.
        data: The documents.
        state: What is finished.
        train: Trains with a recipe: given a title, the folder, the configuration file and the approach, it returns
            whether that succeeded.
    """

    def __init__(
        self,
        arguments: ComparisonArguments,
        data_args: DataArguments,
        prompt_args: PromptArguments,
        data: ClassificationData,
        state: ComparisonState,
        train: Callable[[str, Path, Path, str], bool],
    ) -> None:
        self.arguments, self.data_args, self.prompt_args = arguments, data_args, prompt_args
        self.data, self.state, self.train = data, state, train
        self.metric = f"f1_{arguments.f1_average}"
        self.seed = arguments.seeds[0]
        self._found: dict[str, dict[str, Any]] = {}

    def settings(self, name: str) -> dict[str, Any]:
        """Return the settings of a run that are best on validation; those that were asked for where nothing is tuned.

        Raises:
            SystemExit: If every trial failed.
        """
        given = self.arguments.run_settings[name]
        if not self.arguments.tune:
            return given
        space = run_space(given, len(self.data.splits["train"]))
        run = self.state.folder(name, self.seed)

        def plan(title: str, folder: Path, parameters: dict[str, Any]) -> Plan:
            settings = with_parameters(given, space, parameters)
            config = self._write_config(name, settings, folder)
            configuration = read_config(config)

            def start() -> bool:
                if not self.state.is_finished(run, configuration):
                    check_model_of(config)
                    return self.train(title, folder, config, settings["approach"])
                folder.mkdir(parents=True, exist_ok=True)
                write_json(folder / METRICS_FILE, read_json(run / METRICS_FILE))
                return True

            return configuration, start

        best = self._best(name, self.seed, space, plan)
        settings = with_parameters(given, space, best.parameters)
        trial = self._folder(name, best.number, self.seed)
        if (trial / MANIFEST_FILE).is_file() and not run.exists():  # with this seed, it is the run
            self.state.prepare(run, read_config(self._write_config(name, settings)))
            with folder_written_aside(run) as aside:
                shutil.copytree(trial, aside, dirs_exist_ok=True)
            self.state.finish(run)
        _keep_validation(trial)
        return settings

    def parameters(self, baseline: Baseline) -> dict[str, Any]:
        """Return the parameters of a baseline that are best on validation, where they are other than by default.

        Raises:
            SystemExit: If every trial failed.
        """
        space = baseline_space(baseline, self.arguments, len(self.data.splits["train"])) if self.arguments.tune else {}
        if not space:
            return {}
        same = baseline_configuration(baseline, self.arguments, self.prompt_args)
        seed = self.seed if baseline.seeded else None

        def plan(title: str, folder: Path, parameters: dict[str, Any]) -> Plan:
            changed = changes(space, parameters)
            job = Job(self.data, self.arguments, self.prompt_args, seed, folder, changed)

            def start() -> bool:
                if "model_name_or_path" in baseline.depends_on:
                    check_model(self.arguments.model_name_or_path, self.arguments.model_revision)
                print(f"\n{title}", flush=True)
                return not running.in_own_process(running.write_validation, baseline, job)

            return {**same, "tuned": changed}, start

        best = self._best(baseline.title, seed, space, plan)
        _keep_validation(self._folder(baseline.title, best.number, seed))
        return changes(space, best.parameters)

    def report(self) -> dict[str, Any]:
        """Return the part `tuning` of `report.json`; nothing where nothing is tuned."""
        if not self.arguments.tune:
            return {}
        about = {"trials": self.arguments.tune, "seed": self.seed, "metric": self.metric}
        return {"tuning": {**about, "searches": self._found}}

    def _best(
        self, name: str, seed: int | None, space: Space, plan: Callable[[str, Path, dict[str, Any]], Plan]
    ) -> Trial:
        """Search, and return the best trial, whose folder is whole if it was run now; the others' are not."""

        def measure(number: int, parameters: dict[str, Any]) -> dict[str, float] | None:
            folder = self._folder(name, number, seed)
            title = f"{name}, trial {number} of {self.arguments.tune} ({described(changes(space, parameters))})"
            return self._validation(title, folder, *plan(title, folder, parameters))

        options: dict[str, Any] = {"trials": self.arguments.tune, "metric": self.metric, "seed": self.seed}
        trials: list[Trial] = []
        for trial in search(space, measure, **options):
            trials.append(trial)
            better = improvements(trials, self.metric)
            for other in trials:
                if other not in better[-1:]:
                    _keep_validation(self._folder(name, other.number, seed))
        if not better:
            for each in trials:  # to be tried again: what was wrong with all of them may be mended
                (self._folder(name, each.number, seed) / METRICS_FILE).unlink()
            raise SystemExit(f"Every trial of {name!r} failed; the errors are above. What was finished is kept.")
        self._found[name] = {
            "searched": {key: vars(dimension) for key, dimension in space.items()},
            "trials": [vars(each) for each in trials],
            "improvements": [each.number for each in better],
            "chosen": described(changes(space, better[-1].parameters)),
        }
        return better[-1]

    def _validation(
        self, title: str, folder: Path, configuration: dict[str, Any], start: Callable[[], bool]
    ) -> dict[str, float] | None:
        """Run a trial unless it is finished, and return its validation metrics; `None` if it failed."""
        path = folder / METRICS_FILE
        if not self.state.is_finished(folder, configuration):
            self.state.prepare(folder, configuration)
            path.unlink(missing_ok=True)  # of a trial with other settings
            if not start():
                print(f"{title} failed; its error is above. It counts as the worst.", flush=True)
                folder.mkdir(parents=True, exist_ok=True)
                write_json(path, {"validation": None})
            self.state.finish(folder)
        found = read_json(path)["validation"]
        if found is None:
            return None
        print(f"{title}: {self.metric} {found[self.metric]:.3f} on validation", flush=True)
        return {name: found[name] for name in _METRICS}

    def _write_config(self, name: str, settings: dict[str, Any], folder: Path | None = None) -> Path:
        parts = (self.arguments, self.data_args, self.prompt_args)
        return write_config(self.state.output, name, self.seed, *parts, settings=settings, folder=folder)

    def _folder(self, name: str, number: int, seed: int | None) -> Path:
        """The folder of a trial; its last name is that of the run's, which the model card has."""
        return run_folder(self.state.output / TUNING_FOLDER / folder_name(name), f"trial-{number}", seed)


def _keep_validation(folder: Path) -> None:
    """Remove from the folder of a trial what the trial wrote, all but the validation metrics."""
    path = folder / METRICS_FILE
    if read_json(path).keys() != {"validation"}:
        write_json(path, {"validation": read_json(path)["validation"]})
    remove_traces(folder)
    written = {folder / name for name in (*read_manifest(folder)["files"], MANIFEST_FILE)} - {path}
    for other in written:
        other.unlink(missing_ok=True)
    for parent in {other.parent for other in written} - {folder}:
        if parent.is_dir() and not any(parent.iterdir()):
            parent.rmdir()


def described(changed: dict[str, Any]) -> str:
    """Return settings that are other than was asked for as one reads them."""
    return ", ".join(f"{name} {_written(value)}" for name, value in changed.items()) or "as given"


def _written(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, str) and not value.isidentifier():  # a text with line breaks
        return repr(value)
    return "none" if value is None else str(value)
