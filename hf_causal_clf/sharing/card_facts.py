"""What a model card says: results, settings and limits of a run, as text and tables."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ..evaluation.calibration import MIN_DOCUMENTS, MIN_EXAMPLES
from ..evaluation.metrics import f1_per_label, label_counts
from ..runs.files import MEMBERS_FOLDER
from ..runs.finished import FinishedRun
from ..runs.run import Run
from ..runs.schema import KINDS
from ..runs.summary import rate_in_words
from .cells import Cell, Code, Name, Table, hub_link

_OTHERWISE = ("uncalibrated_", "nll_change", "generation_")  # what a test metric would be otherwise
_NAMES = {
    "accuracy": "Accuracy",
    "nll": "Negative log-likelihood",
    "brier": "Brier score",
    "ece": "Expected calibration error",
    "malformed_rate": "Malformed greedy answers",
}
_BESIDE_TEST = {"majority": "majority baseline", "validation": "validation"}
_BESIDE_TEST_WITH_FOLDS = {**_BESIDE_TEST, "validation": "out of fold"}
_HEADLINES = ("f1_macro", "f1_micro", "f1_weighted", "accuracy", "nll", "brier", "ece")

Rows = list[tuple[str, Cell]]

_SIDES = {"tail": "at their end", "head": "at their beginning", "both": "at both ends", "head_tail": "in their middle"}

_DEVICES = {"cpu": "CPU", "cuda": "GPU", "mps": "Apple GPU"}


def headline_metrics(run: FinishedRun) -> dict[str, float]:
    """Return the metrics of the test documents, each once: as `TextClassifier` predicts."""
    return {key: value for key, value in run.results.metrics["test"].items() if not key.startswith(_OTHERWISE)}


def metric_name(key: str, multi_label: bool) -> str:
    """Return the name of a metric for readers, such as `Macro F1`."""
    if key in _NAMES:
        return _NAMES[key] + (" (all labels of a document right)" if key == "accuracy" and multi_label else "")
    found = re.fullmatch(r"(f1|precision|recall)_(micro|macro|weighted)", key)
    return f"{found[2].capitalize()} {found[1].replace('f1', 'F1')}" if found else key


def folds(run: FinishedRun) -> int:
    """Return the number of folds; 0 for a run with a validation split."""
    return run.results.metrics.get("calibration", {}).get("folds", 0)


def metric_table(run: FinishedRun) -> Table:
    """Return the test metrics that matter most: intervals, majority baseline and validation split beside them."""
    metrics = run.results.metrics
    titles = _BESIDE_TEST_WITH_FOLDS if folds(run) else _BESIDE_TEST
    beside = {part: title for part, title in titles.items() if part in metrics}
    rows = [["", "test", "95 % interval", *beside.values()]]
    for key in _HEADLINES:
        interval = run.intervals.get(key)
        shown = "" if interval is None else f"{interval.low:.3f} – {interval.high:.3f}"
        values = [f"{metrics[part][key]:.3f}" for part in ("test", *beside)]
        rows.append([metric_name(key, run.label_space.multi_label), values[0], shown, *values[1:]])
    return rows


def label_table(run: FinishedRun, *, total: bool = True) -> Table:
    """Return a row for each label: documents in each split, F1 and, where there are any, threshold and answer.

    Args:
        run: The run.
        total: Whether a last row has the number of all documents.
    """
    gold, space, facts, prompt = run.results.gold, run.label_space, run.facts, run.description.prompt
    tested, scores = test_counts(run), f1_per_label(gold, run.results.predicted, len(space))
    columns: dict[str, list[Cell]] = {"label": list(map(Name, space.names))}
    for split, title in (("train", "training"), ("validation", "validation")):
        if facts.get("label_counts", {}).get(split) and not (split == "validation" and folds(run)):
            columns[title] = [f"{count:,}" for count in facts["label_counts"][split]]
    columns["test"] = [f"{count:,}" for count in tested]
    columns["F1 on test"] = [f"{score:.3f}" if count else "–" for score, count in zip(scores, tested, strict=True)]
    if space.multi_label and run.description.approach != "cascade":
        thresholds = run.description.calibration.thresholds or [0.5] * len(space)
        columns["threshold"] = [f"{threshold:.3f}" for threshold in thresholds]
    if prompt is not None:
        columns["answer"] = list(map(Code, prompt.verbalizer.answers))
    rows: list[list[Cell]] = [list(columns), *map(list, zip(*columns.values(), strict=True))]
    if total and "documents" in facts:
        sizes = {"training": facts["documents"]["train"], "validation": facts["documents"]["validation"]}
        sizes["test"] = len(gold)
        sums = {"label": "**documents**", **{title: f"{size:,}" for title, size in sizes.items()}}
        rows.append([sums.get(title, "") for title in columns])
    return rows


def member_table(run: FinishedRun) -> Table | None:
    """Return what each member is, and of a combination its share of the weights; `None` for a run without members."""
    members = run.description.members
    if members is None:
        return None
    cascade = run.results.metrics.get("cascade")
    rows: list[list[Cell]] = [["member", "what it is", "base model", "most tokens"]]
    rows[0] += ["share of the weights"] if cascade is None else ["answers on test", "F1 alone", "documents a second"]
    for name, weight in sorted(members.items(), key=lambda member: -member[1]):
        member = Run.read(run.folder / MEMBERS_FOLDER / name)
        base, longest = member.base_model, member.truncation.max_length
        none = "" if base.name_or_path is None else "a local checkpoint"
        link = hub_link(base.hub_id) if base.hub_id else none
        cells = [f"{weight / sum(members.values()):.0%}"] if cascade is None else _of_stage(cascade["test"], name)
        rows.append([Name(name), KINDS[member.approach], link, "" if longest is None else f"{longest:,}", *cells])
    return rows


def _of_stage(test: dict[str, Any], name: str) -> list[str]:
    """What a stage of a cascade did on the test documents: its share of the answers, its F1 alone and its speed."""
    place = ("first", "second").index(name)
    share = test["deferred"] if place else 1.0 - test["deferred"]
    return [f"{share:.1%}", f"{test[f'{name}_f1']:.3f}", f"{rate_in_words(test['documents_per_second'][place])}"]


def teacher(run: FinishedRun) -> dict[str, Any] | None:
    """Return what a student's card says of its teacher, and what it learned; `None` for any other run."""
    facts, reached = run.facts.get("distillation"), run.results.metrics.get("teacher")
    if not facts or not reached:
        return None
    taught, base = facts["teacher"], facts["teacher"].get("base_model")
    best, own = reached["f1_macro"], run.results.metrics["test"]["f1_macro"]
    return {
        **facts,
        "kind": KINDS[taught["approach"]],
        "repository": taught.get("repository"),
        "base": None if base is None else hub_link(base),
        "f1": best,
        "share": own / best if best else None,
    }


def test_counts(run: FinishedRun) -> list[int]:
    """Return the number of test documents of each label."""
    return label_counts(run.results.gold, len(run.label_space)).tolist()


def trust(run: FinishedRun) -> dict[str, Any]:
    """Return what calibration did to the probabilities of the test documents."""
    test = run.results.metrics["test"]
    low, high = test.get("nll_change_ci_low"), test.get("nll_change_ci_high")
    verdict = None
    if low is not None and high is not None:
        verdict = "better" if high < 0 else "worse" if low > 0 else "unclear"
    return {
        "temperature": run.description.calibration.temperature,
        "extreme": _extreme(run.description.calibration.temperature),
        "verdict": verdict,
        "needed": MIN_DOCUMENTS,
        **test,
    }


def _extreme(temperature: float | tuple[float, ...] | None) -> dict[str, int]:
    """How many labels' probabilities a calibration makes more or less extreme, or leaves as they are."""
    values = temperature if isinstance(temperature, tuple) else () if temperature is None else (temperature,)
    shown = [float(f"{value:.3g}") for value in values]
    counts = {"more": sum(value < 1 for value in shown), "less": sum(value > 1 for value in shown)}
    return counts | {"same": sum(value == 1 for value in shown)}


def scarce_labels(run: FinishedRun) -> dict[str, list[str]]:
    """Return the labels without training documents, with few test documents, and with a threshold shared by all."""
    names, facts = run.label_space.names, run.facts
    counts = facts.get("label_counts", {})
    trained, validation = counts.get("train", []), counts.get("validation", [])
    size = facts.get("documents", {}).get("validation", 0)
    shared = [min(count, size - count) < MIN_EXAMPLES for count in validation]
    if run.description.calibration.thresholds is None:
        shared = []
    return {
        "untrained": [name for name, count in zip(names, trained, strict=False) if count == 0],
        "untested": [name for name, count in zip(names, test_counts(run), strict=True) if count < MIN_EXAMPLES],
        "shared": [name for name, together in zip(names, shared, strict=False) if together],
    }


def setting_rows(run: FinishedRun) -> Rows:
    """Return name and value of each setting, below a heading."""
    return [("setting", "value"), *_model(run), *_length(run), *_optimisation(run), *_cost(run)]


def truncation(run: FinishedRun) -> str | None:
    """Return where long documents are cut, in words; `None` if they are not."""
    limits = run.description.truncation
    return None if limits.max_length is None or in_chunks(run) else _SIDES[limits.side]


def in_chunks(run: FinishedRun) -> bool:
    """Whether long documents are read in chunks."""
    limits = run.description.truncation
    return limits.max_length is not None and limits.long_documents == "chunks"


def quantization(run: FinishedRun) -> str | None:
    """Return how the base model's weights are quantised, in words; `None` if they are not."""
    settings = run.description.base_model.quantization
    if not settings:
        return None
    if settings.get("load_in_8bit"):
        return "8-bit"
    kind = str(settings.get("bnb_4bit_quant_type", "")).upper()
    double = ", double quantisation" if settings.get("bnb_4bit_use_double_quant") else ""
    return f"4-bit {kind}{double}".replace("  ", " ")


def _model(run: FinishedRun) -> Rows:
    rows = [] if run.description.approach in ("tfidf", "combination", "cascade") else _base_model(run)
    counts = run.results.metrics.get("training", {})
    trained, total = counts.get("trainable_parameters"), counts.get("total_parameters")
    if trained and total:
        rows.append(("Trained parameters", f"{trained:,} of {total:,} ({100 * trained / total:.3g} %)"))
    elif trained:
        rows.append(("Trained parameters", f"{trained:,}"))
    return rows


def _base_model(run: FinishedRun) -> Rows:
    base = run.description.base_model
    rows: Rows = [("Base model", hub_link(base.hub_id) if base.hub_id else "a local checkpoint")]
    if base.hub_id and base.revision:
        rows.append(("Revision of the base model", Code(base.revision)))
    licence = run.facts.get("base_licence", {})
    if licence.get("license"):
        rows.append(("Licence of the base model", Name(licence.get("license_name", licence["license"]))))
    if base.dtype is not None and base.dtype != "auto":
        rows.append(("Data type of its weights", Code(base.dtype)))
    rows.append(("Quantisation of its weights", quantization(run) or "none"))
    if lora := run.adapter or run.facts.get("lora"):  # an encoder's is in its weights
        keys = {"rank": "r", "alpha": "lora_alpha", "dropout": "lora_dropout"}
        known = [f"{word} {lora[key]}" for word, key in keys.items() if lora.get(key) is not None]
        if known:
            rows.append(("LoRA", ", ".join(known)))
        targets = lora.get("target_modules")
        if targets:
            names = [targets] if isinstance(targets, str) else sorted(targets)
            rows.append(("LoRA on", (*_listed(names), _adapted_layers(lora))))
    return rows


def _listed(names: Sequence[str]) -> list[str]:
    """Names as code, with commas between them."""
    return [part for name in names for part in (", ", Code(name))][1:]


def _adapted_layers(adapter: dict[str, Any]) -> str:
    """Which layers an adapter is in, counted from 0; nothing where it is in all."""
    layers = adapter.get("layers_to_transform")
    layers = [layers] if isinstance(layers, int) else sorted(layers or [])
    if not layers:
        return ""
    in_a_row = layers == list(range(layers[0], layers[-1] + 1))
    return f", in layers {f'{layers[0]} to {layers[-1]}' if in_a_row else ', '.join(map(str, layers))} (from 0)"


def _length(run: FinishedRun) -> Rows:
    longest = run.description.truncation.max_length
    what = "a document" if run.description.prompt is None else "prompt and answer"
    if longest is None:
        return []
    longer = "longer documents are read in chunks" if in_chunks(run) else f"longer ones are cut {truncation(run)}"
    return [(f"Most tokens of {what}", f"{longest:,}; {longer}")]


def _optimisation(run: FinishedRun) -> Rows:
    given: dict[str, Any] = run.facts.get("arguments", {})
    done = run.results.metrics.get("training", {})
    rows: Rows = []
    if "learning_rate" in given:
        head = given.get("head_learning_rate")
        rows.append(
            ("Learning rate", f"{given['learning_rate']:g}" + ("" if head is None else f"; the head's {head:g}"))
        )
    if "lr_scheduler_type" in given:
        warmup = given.get("warmup_steps")
        rows.append(("Schedule", (Code(given["lr_scheduler_type"]), f", {warmup} warm-up steps" if warmup else "")))
    if "optim" in given:
        decay = given.get("weight_decay")
        rows.append(("Optimizer", (Code(given["optim"]), f", weight decay {decay:g}" if decay else "")))
    if "epochs" in done:
        limit = f" of at most {given['num_train_epochs']:g}" if "num_train_epochs" in given else ""
        steps = f" ({done['steps']:,} steps)" if "steps" in done else ""
        rows.append(("Epochs", f"{done['epochs']:g}{limit}{steps}"))
    rows += _batch(run)
    if "metric_for_best_model" in given:
        rows.append(("Checkpoint kept", ("best validation ", Code(given["metric_for_best_model"]))))
    if "early_stopping_patience" in given:
        patience = given["early_stopping_patience"]
        rows.append(("Early stopping", f"after {patience} evaluation{'s' * (patience != 1)} without a better one"))
    if given.get("label_smoothing"):
        rows.append(("Label smoothing", f"{given['label_smoothing']:g}"))
    if given.get("balanced_classes"):
        rows.append(("Loss", "labels weighted by their inverse frequency"))
    mixed = [name for name in ("bf16", "fp16") if given.get(name)]
    if mixed:
        rows.append(("Mixed precision", Code(mixed[0])))
    if "seed" in given:
        rows.append(("Seed", str(given["seed"])))
    return rows


def _batch(run: FinishedRun) -> Rows:
    given = run.facts.get("arguments", {})
    keys = ("per_device_train_batch_size", "gradient_accumulation_steps")
    if not all(key in given for key in keys):
        return []
    size, steps = (given[key] for key in keys)
    processes = run.facts.get("hardware", {}).get("processes", 1)
    parts = [f"{size} per device"]
    parts += [f"{steps} accumulation steps"] if steps > 1 else []
    parts += [f"{processes} processes"] if processes > 1 else []
    product = f" ({' × '.join(parts)})" if len(parts) > 1 else ""
    return [("Documents in a step", f"{size * steps * processes}{product}")]


def _cost(run: FinishedRun) -> Rows:
    hardware, done = run.facts.get("hardware", {}), run.results.metrics.get("training", {})
    rows: Rows = []
    if "device" in hardware:
        device, name = hardware["device"], hardware.get("name")
        named: tuple[str, ...] = (" (", Name(name), ")") if name else ()
        rows.append(("Hardware", (_DEVICES.get(device, Name(device)), *named)))
    for stage, title in (("train", "Training speed"), ("predict", "Prediction speed")):
        speed = done.get(f"{stage}_samples_per_second")
        if speed:
            rows.append((title, f"{rate_in_words(speed)} documents a second"))
    if "peak_memory_bytes" in done:
        rows.append(("Peak memory", f"{done['peak_memory_bytes'] / 2**30:.2f} GiB"))
    return rows
