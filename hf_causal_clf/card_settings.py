"""The settings of a training as rows of a model card's table; what is not known has no row."""

from __future__ import annotations

from typing import Any

from .card_content import Run
from .markdown import code, escape

Rows = list[tuple[str, str]]
_SIDES = {"tail": "at their end", "head": "at their beginning", "both": "at both ends"}
_DEVICES = {"cpu": "CPU", "cuda": "GPU", "mps": "Apple GPU"}


def setting_rows(run: Run) -> Rows:
    """Return name and value (Markdown) of each setting."""
    return [*_model(run), *_length(run), *_optimisation(run), *_cost(run)]


def truncation(run: Run) -> str | None:
    """Return where long documents are cut, in words; `None` if they are not."""
    limits = run.description["truncation"]
    return None if limits["max_length"] is None else _SIDES[limits["side"]]


def quantization(run: Run) -> str | None:
    """Return how the base model's weights are quantised, in words; `None` if they are not."""
    settings = run.description["base_model"].get("quantization")
    if not settings:
        return None
    if settings.get("load_in_8bit"):
        return "8-bit"
    kind = str(settings.get("bnb_4bit_quant_type", "")).upper()
    double = ", double quantisation" if settings.get("bnb_4bit_use_double_quant") else ""
    return f"4-bit {kind}{double}".replace("  ", " ")


def _model(run: Run) -> Rows:
    base = run.description["base_model"]
    link = f"[{escape(run.base_id)}](https://huggingface.co/{run.base_id})" if run.base_id else "a local checkpoint"
    rows = [("Base model", link)]
    if run.base_id and base["revision"]:
        rows.append(("Revision of the base model", code(base["revision"])))
    licence = run.facts.get("base_licence", {})
    if licence.get("license"):
        rows.append(("Licence of the base model", escape(licence.get("license_name", licence["license"]))))
    if base.get("dtype") not in (None, "auto"):
        rows.append(("Data type of its weights", code(base["dtype"])))
    rows.append(("Quantisation of its weights", quantization(run) or "none"))
    if run.adapter is not None:
        keys = {"rank": "r", "alpha": "lora_alpha", "dropout": "lora_dropout"}
        known = [f"{word} {run.adapter[key]}" for word, key in keys.items() if run.adapter.get(key) is not None]
        if known:
            rows.append(("LoRA", ", ".join(known)))
        targets = run.adapter.get("target_modules")
        if targets:
            names = [targets] if isinstance(targets, str) else sorted(targets)
            rows.append(("LoRA on", ", ".join(map(code, names))))
    counts = run.results.metrics.get("training", {})
    trained, total = counts.get("trainable_parameters"), counts.get("total_parameters")
    if trained and total:
        rows.append(("Trained parameters", f"{trained:,} of {total:,} ({100 * trained / total:.3g} %)"))
    return rows


def _length(run: Run) -> Rows:
    longest = run.description["truncation"]["max_length"]
    what = "prompt and answer" if "prompt_template" in run.description else "a document"
    if longest is None:
        return []
    return [(f"Most tokens of {what}", f"{longest:,}; longer ones are cut {truncation(run)}")]


def _optimisation(run: Run) -> Rows:
    given: dict[str, Any] = run.facts.get("arguments", {})
    done = run.results.metrics.get("training", {})
    rows: Rows = []
    if "learning_rate" in given:
        rows.append(("Learning rate", f"{given['learning_rate']:g}"))
    if "lr_scheduler_type" in given:
        warmup = given.get("warmup_steps")
        rows.append(("Schedule", code(given["lr_scheduler_type"]) + (f", {warmup} warm-up steps" if warmup else "")))
    if "optim" in given:
        decay = given.get("weight_decay")
        rows.append(("Optimizer", code(given["optim"]) + (f", weight decay {decay:g}" if decay else "")))
    if "epochs" in done:
        limit = f" of at most {given['num_train_epochs']:g}" if "num_train_epochs" in given else ""
        steps = f" ({done['steps']:,} steps)" if "steps" in done else ""
        rows.append(("Epochs", f"{done['epochs']:g}{limit}{steps}"))
    rows += _batch(run)
    if "metric_for_best_model" in given:
        rows.append(("Checkpoint kept", f"best validation {code(given['metric_for_best_model'])}"))
    if "early_stopping_patience" in given:
        patience = given["early_stopping_patience"]
        rows.append(("Early stopping", f"after {patience} evaluation{'s' * (patience != 1)} without a better one"))
    if given.get("label_smoothing"):
        rows.append(("Label smoothing", f"{given['label_smoothing']:g}"))
    if given.get("balanced_classes"):
        rows.append(("Loss", "labels weighted by their inverse frequency"))
    mixed = [name for name in ("bf16", "fp16") if given.get(name)]
    if mixed:
        rows.append(("Mixed precision", code(mixed[0])))
    if "seed" in given:
        rows.append(("Seed", str(given["seed"])))
    return rows


def _batch(run: Run) -> Rows:
    given = run.facts.get("arguments", {})
    keys = ("per_device_train_batch_size", "gradient_accumulation_steps")
    if not all(key in given for key in keys):
        return []
    size, steps = (given[key] for key in keys)
    processes = run.facts.get("hardware", {}).get("processes", 1)
    parts = [f"{size} a device"]
    parts += [f"{steps} accumulation steps"] if steps > 1 else []
    parts += [f"{processes} processes"] if processes > 1 else []
    product = f" ({' × '.join(parts)})" if len(parts) > 1 else ""
    return [("Documents in a step", f"{size * steps * processes}{product}")]


def _cost(run: Run) -> Rows:
    hardware, done = run.facts.get("hardware", {}), run.results.metrics.get("training", {})
    rows: Rows = []
    if "device" in hardware:
        name = f" ({escape(hardware['name'])})" if hardware.get("name") else ""
        rows.append(("Hardware", _DEVICES.get(hardware["device"], escape(hardware["device"])) + name))
    for stage, title in (("train", "Training speed"), ("predict", "Prediction speed")):
        speed = done.get(f"{stage}_samples_per_second")
        if speed:
            rows.append((title, f"{speed:.3g} documents a second"))
    if "peak_memory_bytes" in done:
        rows.append(("Peak memory", f"{done['peak_memory_bytes'] / 2**30:.2f} GiB"))
    return rows
