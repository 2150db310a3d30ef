"""Running a comparison's baselines, each in a process of its own."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ..cli.starting import children_ignore_interrupts, run_script
from ..data.splits import ClassificationData
from ..pages.run import write_card_and_page
from ..runs.disk import write_json
from ..runs.files import FIGURES, FIGURES_FOLDER, MANIFEST_FILE, METRICS_FILE, PREDICTIONS_FILE
from ..runs.measuring import majority_metrics, measure
from ..runs.results import read_results, write_results
from ..runs.selecting import fit_run_abstention
from ..training.arguments import PromptArguments
from ..training.output_folder import finish, unfinished_folder
from .arguments import ComparisonArguments
from .plan import ComparisonState, baseline_configuration, check_model
from .ranking import Entry
from .registry import Baseline, Job


def run_baseline(
    baseline: Baseline,
    arguments: ComparisonArguments,
    prompt_args: PromptArguments,
    data: ClassificationData,
    state: ComparisonState,
    parameters: dict[str, Any] | None = None,
) -> Entry:
    """Run a baseline unless it is finished, in a process of its own so that its peak memory is its own.

    With `parameters`, those of its function that `--tune` has found are taken.

    Raises:
        SystemExit: If it fails.
    """
    configuration = baseline_configuration(baseline, arguments, prompt_args)
    if parameters:
        configuration["tuned"] = parameters
    seeds = arguments.seeds if baseline.seeded else []
    starts: list[int | None] = list(seeds) or [None]
    results = []
    for seed in starts:
        folder = state.folder(baseline.title, seed)
        if not state.is_finished(folder, configuration):
            if "model_name_or_path" in baseline.depends_on:
                check_model(arguments.model_name_or_path, arguments.model_revision)
            state.prepare(folder, configuration)
            job = Job(data, arguments, prompt_args, seed, folder, parameters or {})
            print(f"\n{baseline.title}" + (f", seed {seed}" if seed is not None else ""), flush=True)
            if in_own_process(write_baseline, baseline, job):
                raise SystemExit(f"{baseline.title} failed; its error is above. What was finished is kept.")
            state.finish(folder)
        results.append(read_results(folder, data.label_space))
    return Entry(baseline.title, baseline.name, results, seeds)


def in_own_process(function: Any, *arguments: Any) -> int | None:
    """Call a function in a new process, which ends with this one, and return the exit code of that."""
    process = get_context("spawn").Process(target=run_script, args=(function, *arguments), daemon=True)
    with children_ignore_interrupts():
        process.start()
    process.join()
    return process.exitcode


def write_baseline(baseline: Baseline, job: Job) -> None:
    """Run a baseline and write its results into its folder; it is a finished run there, if it can be one."""
    start = time.perf_counter()
    outcome = baseline.run(job)
    training = {**outcome.training, "seconds": time.perf_counter() - start}
    calibration, metrics = measure(job.data, outcome.logits)
    metrics |= {"majority": majority_metrics(job.data), "training": training}
    abstention, target_error = None, job.arguments.target_error
    if target_error is not None:
        abstention, metrics["abstention"] = fit_run_abstention(job.data, outcome.logits, calibration, target_error)
    _list_earlier_results(job.folder)
    folder = unfinished_folder(job.folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if outcome.run is not None and outcome.save is not None:
        outcome.save(folder)
        replace(outcome.run, calibration=calibration, abstention=abstention).write(folder)
    write_results(folder, job.data, outcome.logits, calibration, metrics)
    if outcome.run is not None:
        write_card_and_page(folder)
    for path in (path for path in folder.rglob("*") if path.is_file()):
        os.chmod(path, 0o644)
    finish(folder)


def _list_earlier_results(folder: Path) -> None:
    """List the files of a baseline that a version before `manifest.json` wrote, so that they may be replaced."""
    if (folder / MANIFEST_FILE).exists():
        return
    patterns = (METRICS_FILE, PREDICTIONS_FILE, *(f"{FIGURES_FOLDER}/{name}.*" for name in FIGURES))
    files = sorted(path.relative_to(folder).as_posix() for pattern in patterns for path in folder.glob(pattern))
    if files:
        write_json(folder / MANIFEST_FILE, {"settings": None, "files": files, "checkpoints": False})


def write_validation(baseline: Baseline, job: Job) -> None:
    """Run a baseline for a trial, and write its validation metrics into its folder."""
    _, metrics = measure(job.data, baseline.run(job).logits)
    job.folder.mkdir(parents=True, exist_ok=True)
    write_json(job.folder / METRICS_FILE, {"validation": metrics["validation"]})
