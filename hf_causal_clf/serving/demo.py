"""A page to try a finished run in a browser, by Gradio. Knows `TextClassifier` and what it says of documents.

The page loads nothing from elsewhere, and no text of a document, a label or a file is ever read as HTML.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cascade import Cascade
from ..classifier import TextClassifier
from ..cli.mistakes import raised_here
from ..pages.text import clean
from ..runs.files import is_hub_id
from ..runs.schema import KINDS
from ..runs.summary import fitted_in_words
from .documents import DocumentAnswer, classify_document, classify_file
from .requests import Limits, log_failure
from .server import address_of, open_socket, serve

if TYPE_CHECKING:
    import gradio
    from jinja2 import Template

LIMITS = Limits(max_request_bytes=1_000_000, max_texts=1000)
ANSWERS_FILE = "answers.csv"
_KEPT_FOR = 3600  # seconds that an uploaded file and its answers are kept
_LOOKED_AFTER = 300  # seconds; how often what is older is removed
_WAITING = 32  # of all visitors together, before they are told to come back
_PATIENCE = 3  # seconds that a stopping server waits for pages that are open
_SHOWN = 20  # labels of a document before "all others"
_EXAMPLES = 12
_TEMPLATES = Path(__file__).parent / "templates"
_TRUST = {"Content-Security-Policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"}


def run_demo(
    model_name_or_path: str | PathLike[str],
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    max_request_bytes: int = LIMITS.max_request_bytes,
    max_documents: int = LIMITS.max_texts,
    examples: Sequence[str] | None = None,
    **kwargs: Any,
) -> None:
    """Show a finished run on a page, until SIGTERM or Ctrl-C.

    Uploaded files and their answers are kept in a folder for temporary files for an hour, and removed at the end.

    Args:
        model_name_or_path: `output_dir` of a run, or a Hub repository pushed from one.
        host: Address to listen on. The default is for this machine alone.
        port: Port; 0 takes any that is free.
        max_request_bytes: Most bytes of a text or of a file.
        max_documents: Most documents of a file.
        examples: Texts to try; by default the labels' names.
        kwargs: For `TextClassifier.from_pretrained`.

    Raises:
        ImportError: If Gradio is not installed.
        OSError: If the address is taken or not one of this machine.
        FileNotFoundError: As `TextClassifier.from_pretrained`; and `ValueError`.
    """
    bound = open_socket(host, port)
    classifier = TextClassifier.from_pretrained(model_name_or_path, **kwargs)
    with tempfile.TemporaryDirectory(prefix="hf-causal-clf-demo-") as folder, _gradio_in(folder):
        limits = Limits(max_request_bytes, max_documents)
        app = make_app(make_page(classifier, folder, limits=limits, examples=examples), limits)
        bound.listen()
        print(f"{classifier}\nOpen {address_of(bound)} in a browser; Ctrl-C stops it.", flush=True)
        serve(app, bound, patience=_PATIENCE)


@contextmanager
def _gradio_in(folder: str) -> Iterator[None]:
    """Give Gradio a folder for its files, and keep it from telling anybody that it runs."""
    settings = {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def make_page(
    classifier: TextClassifier, folder: str, *, limits: Limits = LIMITS, examples: Sequence[str] | None = None
) -> gradio.Blocks:
    """Return the page, to be served by `make_app`.

    Args:
        classifier: A loaded run.
        folder: Where answers to files go. It has to be Gradio's own folder (`GRADIO_TEMP_DIR`), which it cleans up.
        limits: How much a visitor may give.
        examples: Texts to try; by default the labels' names.
    """
    import gradio

    def read_text(text: str) -> str:
        return _answered(lambda: {"answer": classify_document(classifier, text, limits)}, classifier)

    def read_file(source: str | None, text_column: str) -> tuple[str, Any]:
        target = Path(tempfile.mkdtemp(dir=folder), ANSWERS_FILE)

        def answer() -> dict[str, Any]:
            if source is None or not _is_uploaded(source, folder):
                raise ValueError("There is no file, or it was removed in the meantime. Choose one.")
            column = text_column.strip() or None
            return {"summary": classify_file(classifier, Path(source), target, limits, text_column=column)}

        shown = _answered(answer, classifier)
        return shown, gradio.DownloadButton(
            value=str(target) if target.is_file() else None, interactive=target.is_file()
        )

    texts = list(classifier.labels[:_EXAMPLES] if examples is None else examples)
    with gradio.Blocks(
        analytics_enabled=False, title=_title(classifier), delete_cache=(_LOOKED_AFTER, _KEPT_FOR)
    ) as page:
        gradio.HTML(_about(classifier), elem_classes="about", js_on_load=None)
        with gradio.Tab("A document"):
            document = gradio.Textbox(label="Document", lines=6, max_lines=20)
            ask = gradio.Button("Classify", variant="primary")
            answer = gradio.HTML(elem_classes="answer", js_on_load=None)
            gradio.Examples([[text] for text in texts], document, label="Examples", cache_examples=False)
        with gradio.Tab("A CSV file"):
            file = gradio.File(label=f"CSV file, at most {limits.max_texts:,} documents", file_types=[".csv"])
            column = gradio.Textbox(label="Text column", info="Empty: the column is found by its name.")
            ask_all = gradio.Button("Classify all", variant="primary")
            summary = gradio.HTML(elem_classes="answer", js_on_load=None)
            download = gradio.DownloadButton("Download the answers", interactive=False)
        one = {"concurrency_limit": 1, "concurrency_id": "classifier", "api_visibility": "private"}
        ask.click(read_text, document, answer, **one)
        ask_all.click(read_file, [file, column], [summary, download], **one)
    return page.queue(max_size=_WAITING)


def make_app(page: gradio.Blocks, limits: Limits = LIMITS) -> Any:
    """Return the ASGI application of a page; a browser that shows it asks no other host for anything."""
    import gradio
    from fastapi import FastAPI

    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    theme = gradio.themes.Default(primary_hue="blue", **fonts).set(  # its own colours have too little contrast
        block_info_text_color="*neutral_500",
        body_text_color_subdued="*neutral_500",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
    )
    app = gradio.mount_gradio_app(
        FastAPI(openapi_url=None),
        page,
        path="/",
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        pwa=False,
        max_file_size=limits.max_request_bytes,
        theme=theme,
        css=(_TEMPLATES / "demo.css").read_text(encoding="utf-8"),
    )
    page.has_launched = True  # only so does Gradio refuse paths of files that nobody has uploaded
    headers = [(name.lower().encode(), value.encode()) for name, value in _TRUST.items()]

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *headers]}
            await send(message)

        await app(scope, receive, send_with_headers)

    return guarded


def _answered(answer: Any, classifier: TextClassifier) -> str:
    """What is shown of an answer, or of why there is none."""
    try:
        values = answer()
    except Exception as error:
        told = isinstance(error, ValueError) and raised_here(error)
        values = {"mistake": str(error) if told else log_failure(error)}
    return show_answer(multi_label=classifier.label_space.multi_label, **values)


def show_answer(
    *, multi_label: bool, answer: DocumentAnswer | None = None, summary: str = "", mistake: str = ""
) -> str:
    """Return what is shown as HTML, with any text in it escaped.

    Args:
        multi_label: Whether labels have thresholds.
        answer: What a run says of a document.
        summary: What it says of a file.
        mistake: Why it says nothing.
    """
    values = {"multi_label": multi_label, "answer": answer, "summary": summary, "mistake": mistake, "shown": _SHOWN}
    return _template("answer.html").render(values)


def _is_uploaded(source: str, folder: str) -> bool:
    """Whether a path, which is the client's word, is that of a file in Gradio's folder."""
    path = Path(source).resolve()
    return path.is_file() and path.is_relative_to(Path(folder).resolve())


def _about(classifier: TextClassifier) -> str:
    run, fitted = classifier.run, fitted_in_words(classifier.calibration)
    calibrated = f"Probabilities are calibrated on validation documents ({fitted})."
    if isinstance(classifier.scorer, Cascade):
        calibrated = "Probabilities are calibrated by the stage that answers."
    elif fitted is None:
        calibrated = "Probabilities are as the model gives them."
    kind = KINDS.get(classifier.approach, classifier.approach)
    return _template("about.html").render(
        title=_title(classifier),
        kind=f"{kind[0].upper()}{kind[1:]}",
        multi_label=classifier.label_space.multi_label,
        labels=len(classifier.labels),
        calibrated=calibrated,
        target=run.abstention.target_error if run is not None and run.abstention is not None else None,
    )


def _title(classifier: TextClassifier) -> str:
    """The run's name; of a folder its own alone, as where it lies is nobody's business."""
    source = classifier.source or "Text classification"
    return Path(source).resolve().name if os.path.isdir(source) or not is_hub_id(source) else source


@cache
def _template(name: str) -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    options: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True, "autoescape": True, "finalize": clean}
    return Environment(loader=FileSystemLoader(_TEMPLATES), undefined=StrictUndefined, **options).get_template(name)
