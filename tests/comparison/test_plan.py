"""Every comparison that is shipped parses, with all its runs."""

from pathlib import Path

import pytest

from hf_causal_clf.cli.parsing import parse_arguments
from hf_causal_clf.comparison.arguments import ComparisonArguments, folder_name
from hf_causal_clf.comparison.plan import TYPES, write_config
from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.training.arguments import PromptArguments

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(
    path for folder in ("compare", "first") for path in (ROOT / "recipes" / "configs" / folder).glob("*.yaml")
)


@pytest.mark.usefixtures("quickstart_models")
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_comparison_parses(path, tmp_path):
    types = (ComparisonArguments, DataArguments, PromptArguments)
    arguments, data_args, prompt_args = parse_arguments(types, args=["--config", str(path)])
    assert arguments.run_settings
    assert f"python recipes/compare.py --config recipes/configs/{path.parent.name}/{path.name}" in path.read_text()
    assert arguments.output_dir == f"runs/{path.parent.name}/{path.stem}"
    for name, settings in arguments.run_settings.items():
        written = write_config(tmp_path, name, 7, arguments, data_args, prompt_args)
        parsed = parse_arguments(TYPES[settings["approach"]], args=["--config", str(written)])
        training = parsed[-1]
        assert training.seed == 7
        assert training.output_dir == str(tmp_path / folder_name(name) / "seed-7")
        prompted = settings["approach"] == "instruction" or settings.get("head_init") == "verbalizer"
        assert training.max_length == (arguments.prompt_max_length if prompted else arguments.max_length)
        assert training.learning_rate == settings["learning_rate"]
        assert parsed[0] == data_args
