import dataclasses
import pickle
import re
import subprocess
import sys

import pytest

from hf_causal_clf.comparison.arguments import ComparisonArguments, folder_name
from hf_causal_clf.comparison.registry import BASE_MODEL, BASELINES
from hf_causal_clf.embedding.arguments import EmbeddingModelArguments

ARGUMENTS = {field.name: field for field in dataclasses.fields(ComparisonArguments)}


def test_names_and_folders_are_different():
    titles = [baseline.title for baseline in BASELINES.values()]
    assert [baseline.name for baseline in BASELINES.values()] == list(BASELINES)
    assert len(set(map(folder_name, titles))) == len(titles)


@pytest.mark.parametrize("name", BASELINES)
def test_what_it_names_is_there(name):
    baseline = BASELINES[name]
    assert ARGUMENTS.keys() >= set(baseline.depends_on)
    assert {field.name for field in dataclasses.fields(EmbeddingModelArguments)} >= set(BASE_MODEL)
    if baseline.needs is not None:
        assert ARGUMENTS[baseline.needs].default is None
    assert pickle.loads(pickle.dumps(baseline)) == baseline  # it is run in a process of its own


def test_the_help_lists_them():
    listed = re.search("of (.*);", ARGUMENTS["baselines"].metadata["help"])
    assert listed is not None
    assert listed[1].split(", ") == list(BASELINES)


def test_their_names_load_none_of_them():
    """Arguments are checked before anything is loaded."""
    code = (
        "import sys, hf_causal_clf\n"
        "before = set(sys.modules)\n"
        "import hf_causal_clf.comparison.arguments\n"
        "print(sorted({name.split('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)))\n"
        "print([name for name in sys.modules if name.startswith('hf_causal_clf.comparison.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "['hf_causal_clf']",
        "['hf_causal_clf.comparison.registry', 'hf_causal_clf.comparison.arguments']",
    ]
