"""The folders of the package: what may import what."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "hf_causal_clf"
FOLDERS = sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))


def lint(folder: Path) -> subprocess.CompletedProcess:
    """Check the imports of a copy of the package."""
    return subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("file", "planted", "broken"),
    [
        (None, "", None),
        (
            "task/labels.py",
            "from ..training import train",
            "hf_causal_clf.task is not allowed to import hf_causal_clf.training",
        ),
        (
            "embedding/scorer.py",
            "from ..instruction import trie",
            "hf_causal_clf.embedding is not allowed to import hf_causal_clf.instruction",
        ),
        ("classifier.py", "from .comparison import ranking", "hf_causal_clf.comparison"),
        ("evaluation/metrics.py", "import torch", "hf_causal_clf.evaluation is not allowed to import torch"),
    ],
)
def test_a_planted_import_is_found(tmp_path, file, planted, broken):
    shutil.copytree(PACKAGE, tmp_path / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    if file is not None:
        path = tmp_path / PACKAGE.name / file
        path.write_text(f"{path.read_text()}\n{planted}\n")
    done = lint(tmp_path)
    assert (done.returncode == 0) == (broken is None), done.stdout
    assert broken is None or broken in done.stdout


def test_folders_say_what_they_know():
    assert len(FOLDERS) == 17
    for folder in FOLDERS:
        body = ast.parse((folder / "__init__.py").read_text()).body
        names = [ast.ImportFrom] if folder.name == "serving" else []  # `hf_causal_clf.serving.RemoteClassifier`
        assert [type(node) for node in body] == [ast.Expr, *names], folder
        assert isinstance(body[0].value, ast.Constant)
        assert f"`{folder.name}/`" in (PACKAGE / "README.md").read_text()


def test_tests_have_the_same_folders():
    assert {folder.name for folder in FOLDERS} - {path.name for path in (ROOT / "tests").iterdir()} == set()
