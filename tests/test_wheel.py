"""The wheel by itself: what is in it, and what starts from it outside the clone."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from test_recipes import arguments

import hf_causal_clf

ROOT = Path(__file__).parents[1]
pytest.importorskip("hatchling", reason="The lowest versions are installed without what builds a wheel.")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The built wheel."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Runs a program of an environment that has the wheel, and the dependencies of the tests' environment."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    # Folders alone: what stands in .pth files there, such as the clone, is not taken over
    (packages / "dependencies.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--ignore-installed", str(wheel)], check=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(program, *words):
        command = [str(folder / "bin" / program), *words]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)

    return run


def test_recipes_and_templates_are_in_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
    own = {path.relative_to(ROOT).as_posix() for path in (ROOT / "hf_causal_clf").rglob("*.py")}
    recipes = {f"hf_causal_clf/recipes/{path.name}" for path in (ROOT / "recipes").glob("*.py")}
    cards = {f"hf_causal_clf/model_cards/{path.name}" for path in (ROOT / "model_cards").glob("*.md")}
    templates = (ROOT / "hf_causal_clf" / room / "templates" for room in ("pages", "serving"))
    pages = {path.relative_to(ROOT).as_posix() for folder in templates for path in folder.iterdir()}
    cards.discard("hf_causal_clf/model_cards/README.md")
    expected = own | recipes - {"hf_causal_clf/recipes/quickstart.py"} | cards | pages | {"hf_causal_clf_command.py"}
    assert expected <= names
    beside = ("accelerate_configs/", "benchmarks/", "configs/", "help/", "README.md")
    known = (
        *(f"hf_causal_clf/recipes/{name}" for name in beside),
        f"hf_causal_clf-{hf_causal_clf.__version__}.dist-info/",
    )
    assert {name for name in names - expected if not name.startswith(known)} == {
        "hf_causal_clf/README.md",
        "hf_causal_clf/py.typed",
    }
    assert "hf_causal_clf/recipes/configs/quickstart/embed.yaml" in names


def test_what_is_imported_is_the_wheel(installed):
    code = (
        "from importlib import metadata, util\n"
        "print(util.find_spec('hf_causal_clf').origin, metadata.version('hf_causal_clf'))"
    )
    path, version = installed("python", "-c", code).stdout.split()
    assert not Path(path).is_relative_to(ROOT)
    assert version == hf_causal_clf.__version__


def test_the_command_answers(installed):
    assert installed("hf-causal-clf", "--version").stdout == f"hf-causal-clf {hf_causal_clf.__version__}\n"
    assert "  embed " in installed("hf-causal-clf", "--help").stdout
    shown = installed("hf-causal-clf", "embed", "--help").stdout
    assert shown == (ROOT / "recipes" / "help" / "embed.txt").read_text(encoding="utf-8")


def test_a_run_is_trained_and_predicts(installed, checkpoint, files, tmp_path):
    options = arguments("embed", checkpoint, files, tmp_path / "run", num_train_epochs="1")
    done = installed("hf-causal-clf", "embed", *options)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "run" / "README.md").is_file()
    where = ["--model_name_or_path", str(tmp_path / "run"), "--output_dir", str(tmp_path / "predictions")]
    done = installed("hf-causal-clf", "predict", "--num_processes", "1", *where, "--test_file", files["test_file"])
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(pd.read_parquet(tmp_path / "predictions")) == 17
