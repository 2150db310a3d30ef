"""Packages that not everybody needs: which of them are missing, and the command that installs them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec

EXTRAS = {  # of pyproject.toml
    "cleanlab": "audit",
    "fastapi": "demo",
    "gguf": "quickstart",
    "gradio": "demo",
    "httpx": "serve",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "onnxscript": "onnx",
    "optuna": "tune",
    "prometheus_client": "serve",
    "ray": "ray",
    "sentencepiece": "tokenizers",
    "starlette": "serve",
    "tensorboard": "tracking",
    "tiktoken": "tokenizers",
    "trackio": "tracking",
    "uvicorn": "serve",
}


def missing_packages(packages: Sequence[str], purpose: str) -> Iterator[str]:
    """Say which packages are not installed and what to type, in one sentence; nothing if all are there.

    Args:
        packages: Names of packages, as they are imported; none is imported here.
        purpose: What needs them: the subject of the sentence, in the singular.
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        wanted = sorted({f"'hf_causal_clf[{EXTRAS[name]}]'" if name in EXTRAS else name for name in missing})
        kind = "package" if len(missing) == 1 else "packages"
        yield f"{purpose} needs the {kind} {' and '.join(missing)}, not installed here: pip install {' '.join(wanted)}"
