"""The model card of a run: the `README.md` that a visitor of its Hub page reads.

Everything in it comes from the run's folder; what the folder does not tell is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..evaluation.calibration import MIN_EXAMPLES
from ..evaluation.conformal import LEAST
from ..runs.finished import FinishedRun
from ..runs.schema import APPROACHES
from ..runs.summary import abstention_in_words, cascade_in_words, nothing_learned
from ..task.prompts import PLAIN_FRAME
from .card_facts import (
    folds,
    headline_metrics,
    in_chunks,
    label_table,
    member_table,
    metric_name,
    metric_table,
    quantization,
    scarce_labels,
    setting_rows,
    teacher,
    truncation,
    trust,
)
from .markdown import code
from .templates import template_environment

PAPER = "2512.12677"
OWNER = "your-name"  # in the snippets of a card that does not know its repository
DOCUMENT = "{document}"
_WIDTH = 90  # of a line in a snippet
_TEMPLATES = dict.fromkeys(("tfidf", "frozen", "encoder"), "baseline.md")
_HUB_METRICS = {"accuracy", "f1", "precision", "recall"}  # metrics that the Hub knows by these names


def render_card(folder: str | PathLike[str], *, repo_id: str | None = None) -> ModelCard:
    """Render the model card of a finished run.

    Args:
        folder: `output_dir` of the run.
        repo_id: Hub repository that the card is for, such as `me/news`. By default the name of the folder stands in
            for it.

    Returns:
        The card; `str(card)` is the content of `README.md`.

    Raises:
        FileNotFoundError: If the run has not been finished.
        ValueError: If a file of the run is damaged.
    """
    return card_of(FinishedRun.read(Path(folder)), repo_id=repo_id)


def card_of(run: FinishedRun, *, repo_id: str | None = None) -> ModelCard:
    """Render the model card of a run that has been read; arguments as for `render_card`."""
    repo_id = repo_id or f"{OWNER}/{_repository_name(run.folder.resolve().name)}"
    approach = run.description.approach
    body = _environment().get_template(_TEMPLATES.get(approach, f"{approach}.md")).render(_context(run, repo_id))
    return ModelCard(f"---\n{card_data(run, repo_id).to_yaml()}\n---\n\n{body}")


def card_data(run: FinishedRun, repo_id: str) -> ModelCardData:
    """Return the metadata of a card."""
    space, facts = run.label_space, run.facts
    kind = "multi-label" if space.multi_label else "single-label"
    dataset = facts.get("dataset", {})
    return ModelCardData(
        **_licence(run),
        base_model=run.description.base_model.hub_id,
        library_name=_library(run),
        pipeline_tag="text-classification",
        datasets=[dataset["id"]] if dataset else None,
        tags=["hf_causal_clf", *_tags(run, f"{kind}-classification")],
        model_name=repo_id.split("/")[-1],
        eval_results=[
            EvalResult(
                task_type="text-classification",
                task_name=f"{kind.capitalize()} text classification",
                dataset_type=dataset.get("id", "custom"),
                dataset_name=dataset.get("id", "Own documents"),
                dataset_config=dataset.get("config"),
                dataset_split="test",
                metric_type=_metric_type(key),
                metric_name=metric_name(key, space.multi_label),
                metric_value=round(value, 6),
            )
            for key, value in headline_metrics(run).items()
        ],
    )


def _library(run: FinishedRun) -> str:
    """The library that loads it, as the Hub names it."""
    if run.description.approach in ("tfidf", "frozen", "combination", "cascade"):
        return "hf_causal_clf"
    return "transformers" if run.adapter is None else "peft"


def _tags(run: FinishedRun, task: str) -> list[str]:
    approach = run.description.approach
    if approach not in APPROACHES:
        return [{"tfidf": "tf-idf", "frozen": "frozen-features"}.get(approach, approach), task]
    training = "full-fine-tuning" if run.adapter is None else "qlora" if quantization(run) else "lora"
    return [f"{approach}-based", task, training, f"arxiv:{PAPER}"]


def _environment() -> Any:
    environment = template_environment()
    environment.filters |= {"quoted": _quoted, "python": _python, "listed": _listed}
    return environment


def _context(run: FinishedRun, repo_id: str) -> dict[str, Any]:
    facts = run.facts
    return {
        "run": run.description,
        "overlap": facts.get("overlap"),
        "versions": facts.get("versions", {}),
        "repo_id": repo_id,
        "paper": PAPER,
        "base": run.description.base_model.hub_id,
        "dataset": facts.get("dataset", {}).get("id"),
        "labels": run.label_space.names,
        "multi_label": run.label_space.multi_label,
        "adapter": run.adapter is not None,
        "lora": "lora" in facts,
        "metrics": metric_table(run),
        "test_documents": len(run.results.gold),
        "label_table": label_table(run),
        "members": member_table(run),
        "teacher": teacher(run),
        "nothing_learned": nothing_learned(run.results.metrics, multi_label=run.label_space.multi_label),
        "abstention": _abstention(run),
        "cascade": _cascade(run),
        "sets": _has_sets(run),
        "trust": trust(run),
        "scarce": scarce_labels(run),
        "has_majority": "majority" in run.results.metrics,
        "few": MIN_EXAMPLES,
        "folds": folds(run),
        "figures": run.figures,
        "settings": setting_rows(run),
        "quantization": quantization(run),
        "truncation": truncation(run),
        "chunks": in_chunks(run),
        "prompt": _prompt(run),
    }


def _abstention(run: FinishedRun) -> str | None:
    """What its target error lets it answer; `None` for a run that always answers."""
    metrics = run.results.metrics
    if run.description.abstention is None or "abstention" not in metrics:
        return None
    kind = "labelled" if folds(run) else "validation"
    return abstention_in_words(metrics["abstention"], f"{metrics['calibration']['documents']:,} {kind}")


def _cascade(run: FinishedRun) -> str | None:
    """What a cascade keeps and costs; `None` for any other run."""
    metrics = run.results.metrics
    if "cascade" not in metrics:
        return None
    return cascade_in_words(metrics["cascade"], metrics["training"]["predict_samples_per_second"])


def _has_sets(run: FinishedRun) -> bool:
    conformal = run.description.conformal
    return conformal is not None and not run.label_space.multi_label and conformal.documents >= LEAST


def _prompt(run: FinishedRun) -> dict[str, Any] | None:
    """The prompt around a document, as far as it is known, and what has to be known to read the answers."""
    if run.description.prompt is None:
        return None
    template, verbalizer = run.description.prompt.template, run.description.prompt.verbalizer
    instruction = template.render_instruction(verbalizer)
    frame = run.facts.get("prompt")
    if frame is None and not template.use_chat_template:
        frame = [instruction + PLAIN_FRAME[0], PLAIN_FRAME[1]]
    longest = verbalizer.verbalize(run.label_space.names if run.label_space.multi_label else 0)
    characters = max(map(len, (longest, *verbalizer.answers)))  # no fewer than tokens
    return {
        "instruction": instruction,
        "frame": frame,
        "text": None if frame is None else DOCUMENT.join(frame),
        "chat": template.use_chat_template,
        "delimiter": verbalizer.delimiter,
        "empty_answer": verbalizer.empty_answer,
        "answer_tokens": run.facts.get("answer_tokens", characters + 1),
    }


def _licence(run: FinishedRun) -> dict[str, Any]:
    """The base model's licence, which a fine-tuned model is under as well; with a link that works from its page."""
    licence = dict(run.facts.get("base_licence", {}))
    link = licence.get("license_link", "")
    if link and not link.startswith("http"):
        licence.pop("license_link")
        base = run.description.base_model.hub_id
        if base:
            licence["license_link"] = f"https://huggingface.co/{base}/blob/main/{link.lstrip('./')}"
    return licence


def _metric_type(key: str) -> str:
    kind = key.split("_")[0]
    return kind if kind in _HUB_METRICS else key


def _repository_name(folder: str) -> str:
    return re.sub(r"[^\w.-]+", "-", folder, flags=re.ASCII).strip("-.") or "model"


def _python(value: Any) -> str:
    """A Python literal for a snippet: a text in double quotes, a number to six digits, or a list of them in lines."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str):
        whole = json.dumps(value, ensure_ascii=False)
        lines = [json.dumps(line, ensure_ascii=False) for line in value.splitlines(keepends=True)]
        return whole if len(whole) <= _WIDTH or len(lines) == 1 else "(\n    " + "\n    ".join(lines) + "\n)"
    items = list(map(_python, value))
    line = ", ".join(items)
    if len(line) <= _WIDTH:
        return f"[{line}]"
    lines = [""]
    for item in items:
        if lines[-1] and len(lines[-1]) + len(item) > _WIDTH:
            lines.append("")
        lines[-1] += f"{item}, "
    return "[\n" + "".join(f"    {line.rstrip()}\n" for line in lines) + "]"


def _quoted(text: str) -> str:
    """Text in quotes, as code, so that its white space is seen."""
    return code(json.dumps(text, ensure_ascii=False))


def _listed(names: Sequence[str], most: int = 10) -> str:
    """Names in a sentence, as code."""
    shown = ", ".join(map(code, names[:most]))
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
