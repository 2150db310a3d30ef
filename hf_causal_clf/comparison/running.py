"""Running a comparison's baselines, each in a process of its own."""

from __future__ import annotations

from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ..backbone.identity import model_content
from ..cli.starting import children_ignore_interrupts, run_script
from ..data.splits import ClassificationData
from ..embedding.arguments import EmbeddingModelArguments
from ..runs.measuring import measure
from ..runs.results import read_results, write_results
from ..training.arguments import PromptArguments
from . import baselines
from .arguments import BASELINE_NAMES, SHARED, ComparisonArguments
from .encoder_baseline import fine_tuned_encoder
from .plan import ComparisonState, given
from .ranking import Entry


def run_baseline(
    kind: str,
    arguments: ComparisonArguments,
    prompt_args: PromptArguments,
    data: ClassificationData,
    state: ComparisonState,
) -> Entry:
    """Run a baseline, in a process of its own so that its peak memory is its own."""
    seeds = arguments.seeds if kind == "encoder" else [None]
    results = []
    for seed in seeds:
        folder, finished = state.folder(
            BASELINE_NAMES[kind], seed, {"kind": kind, **baseline_settings(kind, arguments, prompt_args)}
        )
        if not finished:
            print(f"\n{BASELINE_NAMES[kind]}" + (f", seed {seed}" if seed is not None else ""), flush=True)
            if in_own_process(baseline, kind, arguments, prompt_args, data, seed, folder):
                raise SystemExit(f"{BASELINE_NAMES[kind]} failed; its error is above. What was finished is kept.")
            state.finish(folder)
        results.append(read_results(folder, data.label_space))
    return Entry(BASELINE_NAMES[kind], kind, results, arguments.seeds if kind == "encoder" else ())


def in_own_process(function: Any, *arguments: Any) -> int | None:
    """Call a function in a new process and return the exit code of that."""
    process = get_context("spawn").Process(target=run_script, args=(function, *arguments), daemon=True)
    with children_ignore_interrupts():
        process.start()
    process.join()
    return process.exitcode


def baseline_settings(kind: str, arguments: ComparisonArguments, prompt_args: PromptArguments) -> dict[str, Any]:
    """Return the arguments that a baseline depends on."""
    model = {key: getattr(arguments, key) for key in SHARED}
    model["model_name_or_path"] = model_content(arguments.model_name_or_path)
    if kind in ("zero_shot", "contextual"):
        return {**model, **given(prompt_args), "max_length": arguments.prompt_max_length}
    if kind == "frozen":
        return {**model, "max_length": arguments.max_length}
    if kind == "encoder":
        names = ("encoder_learning_rate", "encoder_num_train_epochs", "max_length")
        encoder = model_content(str(arguments.encoder_name_or_path))
        return {"encoder": encoder, **{name: getattr(arguments, name) for name in names}}
    return {}


def baseline(
    kind: str,
    arguments: ComparisonArguments,
    prompt_args: PromptArguments,
    data: ClassificationData,
    seed: int | None,
    folder: Path,
) -> None:
    """Run a baseline and write its results."""
    model = EmbeddingModelArguments(**{key: getattr(arguments, key) for key in SHARED if key != "truncation"})
    assert arguments.cache_dir is not None
    options: dict[str, Any] = {"batch_size": arguments.per_device_eval_batch_size, "cache": Path(arguments.cache_dir)}
    if kind in ("majority", "tfidf"):
        outcome = getattr(baselines, kind)(data)
    elif kind in ("zero_shot", "contextual"):
        verbalizer = prompt_args.verbalizer(data.label_space)
        template = prompt_args.template(arguments.prompt_max_length, arguments.truncation)
        contextual = kind == "contextual"
        outcome = baselines.zero_shot(data, model, template, verbalizer, contextual=contextual, **options)
    elif kind == "frozen":
        limits: dict[str, Any] = {"max_length": arguments.max_length, "truncation": arguments.truncation}
        outcome = baselines.frozen(data, model, **limits, **options)
    else:
        assert seed is not None
        outcome = fine_tuned_encoder(
            data,
            str(arguments.encoder_name_or_path),
            max_length=arguments.max_length,
            learning_rate=arguments.encoder_learning_rate,
            num_train_epochs=arguments.encoder_num_train_epochs,
            batch_size=16,
            seed=seed,
            output_dir=folder,
        )
    calibration, metrics = measure(data, outcome.logits)
    write_results(folder, data, outcome.logits, calibration, {**metrics, "training": outcome.training})
