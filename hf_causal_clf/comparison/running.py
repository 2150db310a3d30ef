"""Running a comparison's baselines, each in a process of its own."""

from __future__ import annotations

from multiprocessing import get_context
from typing import Any

from ..cli.starting import children_ignore_interrupts, run_script
from ..data.splits import ClassificationData
from ..runs.disk import write_json
from ..runs.files import METRICS_FILE
from ..runs.measuring import measure
from ..runs.results import read_results, write_results
from ..training.arguments import PromptArguments
from .arguments import ComparisonArguments
from .plan import ComparisonState, baseline_configuration
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
    """Run a baseline and write its results into its folder."""
    outcome = baseline.run(job)
    calibration, metrics = measure(job.data, outcome.logits)
    write_results(job.folder, job.data, outcome.logits, calibration, {**metrics, "training": outcome.training})


def write_validation(baseline: Baseline, job: Job) -> None:
    """Run a baseline for a trial, and write its validation metrics into its folder."""
    _, metrics = measure(job.data, baseline.run(job).logits)
    job.folder.mkdir(parents=True, exist_ok=True)
    write_json(job.folder / METRICS_FILE, {"validation": metrics["validation"]})
