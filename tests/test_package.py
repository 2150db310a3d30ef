import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from minimum_versions import minimum_versions
from mutation_score import mutation_score
from test_classifier import save_folder

import hf_causal_clf
from hf_causal_clf import LabelSpace

ROOT = Path(__file__).parent.parent


def test_public_names():
    assert sorted(hf_causal_clf.__all__) == [
        "CausalLMForLastTokenClassification",
        "CausalLMForLastTokenClassificationConfig",
        "ClassificationCollator",
        "DocumentEncoder",
        "LabelScorer",
        "LabelSpace",
        "PromptTemplate",
        "TextClassifier",
        "Verbalizer",
        "VerbalizerCollator",
    ]
    assert all(hasattr(hf_causal_clf, name) for name in hf_causal_clf.__all__)


@pytest.mark.parametrize(("module", "is_error"), [("hf_causal_clf.task.labels", True), ("another.package", False)])
@pytest.mark.parametrize("category", [DeprecationWarning, FutureWarning])
def test_deprecation_warnings_about_this_package_are_errors(module, is_error, category):
    code = compile("import warnings; warnings.warn('old', category)", "<code>", "exec")
    caught = pytest.raises(category, match="old") if is_error else pytest.warns(category, match="old")
    with caught:
        exec(code, {"__name__": module, "category": category})


def test_minimum_versions_are_the_lower_ends():
    lines = minimum_versions(
        {
            "dependencies": ["torch>=2.13,<3", "numpy>=2.4"],
            "optional-dependencies": {"test": ["hf_causal_clf[onnx]", "pytest>=9"], "onnx": ["onnx>=1.23,<2"]},
            "name": "hf_causal_clf",
        }
    )
    assert lines == ["torch==2.13", "numpy==2.4", "pytest==9", "onnx==1.23"]
    with pytest.raises(ValueError, match=r"'numpy<3' has no lower end"):
        minimum_versions({"dependencies": ["numpy<3"], "name": "x", "optional-dependencies": {}})


def test_mutation_score_counts_what_no_test_runs_as_missed():
    counts = {"killed": 80, "timeout": 5, "survived": 10, "no_tests": 5, "skipped": 10, "total": 110}
    assert mutation_score(counts) == 0.85


HEAVY = ("trl", "matplotlib", "sklearn", "datasets", "evaluate", "pandas", "pyarrow", "onnx", "tensorboard", "trackio")


@pytest.mark.parametrize("approach", ["embedding", "instruction"])
def test_importing_and_predicting_load_nothing_of_training_or_figures(approach, checkpoint, tmp_path):
    """With a plain run, one with a quantised model and a multi-label one, calibrated."""
    kinds = {"plain": {}, "quantised": {"quantized": True}, "multi-label": {}}
    kinds["multi-label"]["labels"] = LabelSpace(["a", "b", "c"], multi_label=True)
    for kind, options in kinds.items():
        save_folder(tmp_path / kind, checkpoint, approach, **options)
    path = tmp_path / "multi-label" / "classification.json"
    values = {"temperature": [1.5, 0.8, 1.0], "thresholds": [0.4, 0.5, 0.6]}
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    code = (
        "import sys\n"
        "from hf_causal_clf import TextClassifier\n"
        f"print([name for name in ('peft', 'bitsandbytes', *{HEAVY}) if name in sys.modules])\n"
        "for folder in sys.argv[1:]:\n"
        "    classifier = TextClassifier.from_pretrained(folder)\n"
        "    assert classifier.predict_proba(['the cat', 'a mat']).shape == (2, 3)\n"
        "    assert len(classifier.predict(['the cat', 'a football match'])) == 2\n"
        f"    print([name for name in {HEAVY} if name in sys.modules])"
    )
    folders = [str(tmp_path / kind) for kind in kinds]
    done = subprocess.run([sys.executable, "-c", code, *folders], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == ["[]"] * 4


def imported_packages():
    """Every package that the code of the package, its recipes and its command imports."""
    files = [*ROOT.glob("hf_causal_clf/**/*.py"), *ROOT.glob("recipes/**/*.py"), ROOT / "hf_causal_clf_command.py"]
    names = set()
    for node in (node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module)
    return {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names)


def test_what_is_imported_is_declared_and_the_other_way_round():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {
        name: lines for name, lines in project["optional-dependencies"].items() if name not in ("test", "quality")
    }
    base, optional = (
        {re.match(r"[\w-]+", line)[0].replace("-", "_") for line in lines}
        for lines in (project["dependencies"], [line for lines in extras.values() for line in lines])
    )
    names = {"sklearn": "scikit_learn", "yaml": "pyyaml"}
    imported = {names.get(name, name) for name in imported_packages()}
    own = {"hf_causal_clf", "benchmarks"}  # the second are the parts of recipes/benchmark.py
    assert imported - base - optional == own | {"tensorboardX"}  # which the Trainer takes as well
    assert base - imported == {"bitsandbytes"}  # through transformers
