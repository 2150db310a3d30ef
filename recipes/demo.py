r"""Try a finished run in a browser: a document or a CSV file in, labels and calibrated probabilities out.

    hf-causal-clf demo --model_name_or_path runs/quickstart/embed
    hf-causal-clf demo --model_name_or_path alice/news --push_to_space alice/news-demo

The page loads nothing from other hosts, and no text is sent to any. It has no passwords and no TLS: where others reach
its --host, put it behind a proxy. --push_to_space starts no page here: it writes a Space for a run that is on the Hub,
and replaces no file that somebody else has written or changed there.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: a thread that waits leaves its core to others

from hf_causal_clf.cli.logs import hide_by_name

hide_by_name()

from transformers.utils import logging

from hf_causal_clf.cli.mistakes import report
from hf_causal_clf.cli.packages import missing_packages
from hf_causal_clf.cli.parsing import parse_arguments
from hf_causal_clf.cli.sources import missing_folder
from hf_causal_clf.cli.starting import run_script
from hf_causal_clf.runs.files import is_hub_id
from hf_causal_clf.serving.demo import LIMITS, run_demo
from hf_causal_clf.serving.space import not_on_the_hub, push_space


@dataclass
class DemoArguments:
    """Which classifier, and where its page is."""

    model_name_or_path: str = field(metadata={"help": "Finished run: its output_dir, or its Hub repository."})
    model_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the repository."})
    host: str = field(
        default="127.0.0.1",
        metadata={"help": "Address to listen on. The default is for this machine alone; 0.0.0.0 for everybody."},
    )
    port: int = field(default=7860, metadata={"help": "Port; 0 takes any that is free."})
    examples: list[str] | None = field(
        default=None, metadata={"help": "Texts to try, each in quotes. Default: names of labels."}
    )
    max_request_bytes: int = field(
        default=LIMITS.max_request_bytes, metadata={"help": "Most bytes of a text or of a file."}
    )
    max_documents: int = field(default=LIMITS.max_texts, metadata={"help": "Most documents of a file."})
    push_to_space: str | None = field(default=None, metadata={"help": "Space to write: user/name."})
    hub_private_repo: bool | None = field(
        default=None,
        metadata={"help": "Whether a new Space is private. Default: if the run is, else the account's setting."},
    )

    def __post_init__(self) -> None:
        report(self._mistakes())

    def _mistakes(self) -> Iterator[str]:
        yield from missing_packages(("gradio",), "The page")
        if (missing := missing_folder(self.model_name_or_path)) is not None:
            yield missing
        elif self.push_to_space is not None and (wrong := not_on_the_hub(self.model_name_or_path)) is not None:
            yield wrong
        if self.push_to_space is not None and not is_hub_id(self.push_to_space):
            yield f"push_to_space must have the form user/name, got {self.push_to_space!r}."
        if not 0 <= self.port < 2**16:
            yield f"port must be from 0 to 65535, got {self.port}."
        for name in ("max_request_bytes", "max_documents"):
            if getattr(self, name) < 1:
                yield f"{name} must be at least 1, got {getattr(self, name)}."


def main() -> None:
    (arguments,) = parse_arguments((DemoArguments,), __doc__)
    source, revision = arguments.model_name_or_path, arguments.model_revision
    options = {name: getattr(arguments, name) for name in ("max_request_bytes", "max_documents", "examples")}
    if arguments.push_to_space is not None:
        private = arguments.hub_private_repo
        address = push_space(arguments.push_to_space, source, revision=revision, private=private, **options)
        print(f"The Space is written: {address}")
        print(f"If {source!r} is private, give the Space a token that may read it: a secret with the name HF_TOKEN.")
        return
    logging.disable_progress_bar()  # each call would have one
    run_demo(source, host=arguments.host, port=arguments.port, revision=revision, **options)


if __name__ == "__main__":
    run_script(main)
