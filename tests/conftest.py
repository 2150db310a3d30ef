import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import gc
import json
import runpy
import shutil
import warnings
from pathlib import Path

import forking
import pytest
import tiny
import torch

SUBJECTS = {
    "sport": ["football match", "cat sat on the football", "match won"],
    "business": ["shares fell", "bank markets", "business shares"],
    "tech": ["new computers", "phones and computers", "tech phones"],
}


def pytest_collection_finish():
    """Let the garbage collector pass over all that was imported: a training collects three times, a second each."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Leave figures blank, but for tests that are marked `figures`: to draw those of a run takes longer than to train."""
    with pytest.MonkeyPatch.context() as patch:
        if item.get_closest_marker("figures") is None:
            patch.setattr("matplotlib.figure.Figure.draw_without_rendering", lambda figure: None)
            patch.setattr("matplotlib.figure.Figure.savefig", write_blank)
        return (yield)


def write_blank(figure, file, *, format, **options):
    file.write({"png": b"\x89PNG", "svg": b"<svg/>"}[format])


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call():
    """Make deprecation warnings errors where this package's code is what they warn about."""
    for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
        warnings.filterwarnings("error", category=category, module=r"hf_causal_clf\b")
    passed_on = r"`(label_smoothing_factor|return_outputs=True)`"  # the user's or the Trainer's, through an override
    warnings.filterwarnings("default", passed_on, FutureWarning, r"hf_causal_clf\.instruction\.shared_prefix")
    return (yield)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tokenizer():
    return tiny.make_tokenizer()


@pytest.fixture(scope="session")
def checkpoint(tokenizer, tmp_path_factory) -> str:
    """A tiny Llama checkpoint with its tokenizer."""
    return tiny.save_checkpoint(tmp_path_factory.mktemp("llama"), "llama", tokenizer)


def write_jsonl(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def make_rows(count: int, offset: int = 0, multi_label: bool = False) -> list[dict]:
    """Labelled documents that differ in text and length."""
    rows = []
    names = list(SUBJECTS)
    for index in range(offset, offset + count):
        label = names[index % 3]
        text = f"{SUBJECTS[label][index // 3 % 3]} the {'cat ' * (index % 7)}{index}"
        if not multi_label:
            rows.append({"text": text, "label": label})
            continue
        other = names[(index + 1) % 3]
        labels = [[label], [label, other], []][index % 5 % 3]
        rows.append({"text": f"{text} {SUBJECTS[other][0] if other in labels else ''}", "label": labels})
    return rows


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium; the tests that take it skip where it is not installed."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> dict[str, str]:
    """Train, validation and test files of a single-label task."""
    return write_splits(tmp_path_factory.mktemp("data"), multi_label=False)


@pytest.fixture(scope="session")
def multi_label_files(tmp_path_factory) -> dict[str, str]:
    """Train, validation and test files of a multi-label task."""
    return write_splits(tmp_path_factory.mktemp("multi"), multi_label=True)


def write_splits(folder: Path, multi_label: bool) -> dict[str, str]:
    sizes = {"train": (48, 0), "validation": (15, 100), "test": (17, 200)}
    return {
        f"{split}_file": write_jsonl(folder / f"{split}.jsonl", make_rows(size, offset, multi_label))
        for split, (size, offset) in sizes.items()
    }


@pytest.fixture
def quickstart_models(tmp_path, monkeypatch):
    """A working folder with the folders of the models that `make quickstart` prepares, which configurations name."""
    for name in ("SmolLM2-135M-Instruct", "all-MiniLM-L6-v2"):
        (tmp_path / "work" / ".cache" / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")


def run_as_main(script: Path) -> None:
    """Run a script in this process; an error that it tells in place of a traceback is raised as it was."""
    try:
        runpy.run_path(str(script), run_name="__main__")
        return
    except SystemExit as end:
        error = end.__cause__ or end
    raise error


def run_in_two_processes(script: str, folder: Path, *arguments: str) -> None:
    """Run Python code, which may import from the tests, in two CPU processes with one thread each."""
    (folder / "script.py").write_text(script)
    done = forking.run_two(["script.py", *arguments], folder)
    assert done.returncode == 0, done.stderr[-3000:]
