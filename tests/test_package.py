import subprocess
import sys

import pytest
from minimum_versions import minimum_versions
from mutation_score import mutation_score

import hf_causal_clf


def test_import_is_light():
    """What is needed for training, quantisation or plots is imported where it is used."""
    code = (
        "import sys, hf_causal_clf\n"
        "heavy = ('trl', 'peft', 'bitsandbytes', 'matplotlib', 'sklearn', 'datasets', 'evaluate')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


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
