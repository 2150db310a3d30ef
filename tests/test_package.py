import subprocess
import sys

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
        "LabelScorer",
        "LabelSpace",
        "PromptTemplate",
        "TextClassifier",
        "Verbalizer",
        "VerbalizerCollator",
    ]
    assert all(hasattr(hf_causal_clf, name) for name in hf_causal_clf.__all__)
