r"""Answer over HTTP what a finished run says of texts: one process, batches of all requests that wait.

    hf-causal-clf serve --model_name_or_path runs/quickstart/embed
    curl -H 'Content-Type: application/json' -d '{"texts": ["The match ended 2:1."]}' http://127.0.0.1:8000/predict

POST /predict gives a label and calibrated probabilities for each text, GET /health says whether the server answers,
GET /metrics is for Prometheus, GET /openapi.json describes it all. A full queue is answered by 429 with Retry-After.
SIGTERM and Ctrl-C stop it after it has answered what it has accepted. In Python, RemoteClassifier of
hf_causal_clf.serving asks it. It has no passwords and no TLS: where others reach its --host, put it behind a proxy.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: a thread that waits leaves its core to others

from hf_causal_clf.cli.logs import hide_by_name

hide_by_name()

from transformers.utils import logging

from hf_causal_clf import TextClassifier
from hf_causal_clf.classifier import BACKENDS
from hf_causal_clf.cli.mistakes import report
from hf_causal_clf.cli.packages import missing_packages
from hf_causal_clf.cli.parsing import parse_arguments
from hf_causal_clf.cli.sources import missing_folder
from hf_causal_clf.cli.starting import run_script
from hf_causal_clf.serving.app import make_app
from hf_causal_clf.serving.requests import Limits
from hf_causal_clf.serving.server import address_of, open_socket, serve


@dataclass
class ServeArguments:
    """Which classifier, and where it answers."""

    model_name_or_path: str = field(metadata={"help": "Finished run: its output_dir, or its Hub repository."})
    model_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the repository."})
    host: str = field(
        default="127.0.0.1",
        metadata={"help": "Address to listen on. The default is for this machine alone; 0.0.0.0 for everybody."},
    )
    port: int = field(default=8000, metadata={"help": "Port; 0 takes any that is free."})
    per_device_eval_batch_size: int = field(default=16, metadata={"help": "Documents per forward pass."})
    dtype: str = field(default="auto", metadata={"help": "Data type of the base model's weights; auto: of training."})
    backend: str = field(
        default="torch",
        metadata={
            "help": "'onnx' runs the model.onnx of an exported run in ONNX Runtime, on the CPU.",
            "choices": list(BACKENDS),
        },
    )
    max_request_bytes: int = field(default=1_000_000, metadata={"help": "Most bytes of a request; more gets a 413."})
    max_waiting_texts: int = field(
        default=1000,
        metadata={"help": "Most texts that wait, of all requests together. One that does not fit gets a 429."},
    )

    def __post_init__(self) -> None:
        report(self._mistakes())

    def _mistakes(self) -> Iterator[str]:
        yield from missing_packages(("starlette", "uvicorn", "prometheus_client"), "The server")
        if (missing := missing_folder(self.model_name_or_path)) is not None:
            yield missing
        if not 0 <= self.port < 2**16:
            yield f"port must be from 0 to 65535, got {self.port}."
        for name in ("per_device_eval_batch_size", "max_request_bytes", "max_waiting_texts"):
            if getattr(self, name) < 1:
                yield f"{name} must be at least 1, got {getattr(self, name)}."


def main() -> None:
    (arguments,) = parse_arguments((ServeArguments,), __doc__)
    bound = open_socket(arguments.host, arguments.port)
    logging.disable_progress_bar()  # each call would have one
    classifier = TextClassifier.from_pretrained(
        arguments.model_name_or_path,
        revision=arguments.model_revision,
        batch_size=arguments.per_device_eval_batch_size,
        dtype=arguments.dtype,
        backend=arguments.backend,
    )
    app = make_app(classifier, Limits(arguments.max_request_bytes, arguments.max_waiting_texts))
    bound.listen()  # from here on a request waits for its answer
    print(f"{classifier}\nIt answers on {address_of(bound)}; Ctrl-C stops it.", flush=True)
    serve(app, bound)


if __name__ == "__main__":
    run_script(main)
