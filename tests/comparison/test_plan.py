"""Every comparison that is shipped parses, with all its runs; and which runs are finished is known after every start."""

import json
import shutil
from pathlib import Path

import pytest

from hf_causal_clf.backbone.identity import fingerprint
from hf_causal_clf.cli.parsing import parse_arguments
from hf_causal_clf.comparison.arguments import ComparisonArguments, folder_name
from hf_causal_clf.comparison.plan import TYPES, ComparisonState, baseline_configuration, write_config
from hf_causal_clf.comparison.registry import BASELINES
from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.data.splits import load_data
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
        shared = arguments.prompt_max_length if prompted else arguments.max_length
        assert training.max_length == settings.get("max_length", shared)
        assert training.learning_rate == settings["learning_rate"]
        assert parsed[0] == data_args


PROMPT = PromptArguments(instruction="Which?", use_chat_template=True)
# Of version 0.1: with another fingerprint, a finished baseline would be run again
FINGERPRINTS = {
    "majority": "bb9711f3b79d5a40cb03b549673309d15058cecb9875dcbd410df9b5af9a008f",
    "tfidf": "f5cb30b943dfe5b1115c8617b196791eb0001c8777853a377689bf06dcd340fd",
    "zero_shot": "d1a85e3b2d6613cb6fc20bd6ac2bd10aab8b349d58c178ce668becd0f4301e69",
    "contextual": "cd6bf4471be74209ef249c3363081cfa5e082482e7219dc98f51a189b524b065",
    "frozen": "2c0b3bc5e7667685690d3a4ca6bbc1a9f1dbbb84d9eb154d6643b630b2f291e5",
    "encoder": "24713953072ee20110d7c53f04bfd0238307fb2e571651d2422b76f923306828",
}


def configurations(prompt=PROMPT, **changes):
    """The fingerprint of each baseline's configuration."""
    encoder = {"encoder_name_or_path": "org/bert", "encoder_num_train_epochs": 5}  # the default of earlier versions
    given = {"model_name_or_path": "org/model", **encoder, **changes}
    arguments = ComparisonArguments("run", runs={"a": {"approach": "embedding"}}, **given)
    return {name: fingerprint(baseline_configuration(each, arguments, prompt)) for name, each in BASELINES.items()}


def test_finished_baselines_of_earlier_versions_stay_finished():
    assert configurations() == FINGERPRINTS


PROMPTED = {"zero_shot", "contextual"}


@pytest.mark.parametrize(
    ("changes", "others"),
    [
        ({"model_name_or_path": "org/other"}, {*PROMPTED, "frozen"}),
        ({"model_revision": "v2"}, {*PROMPTED, "frozen"}),
        ({"dtype": "float32"}, {*PROMPTED, "frozen"}),
        ({"load_in_4bit": True}, {*PROMPTED, "frozen"}),
        ({"attn_implementation": "eager"}, {*PROMPTED, "frozen"}),
        ({"truncation": "head"}, {*PROMPTED, "frozen"}),
        ({"max_length": 7}, {"frozen", "encoder"}),
        ({"prompt_max_length": 7}, PROMPTED),
        ({"prompt": PromptArguments(instruction="What?")}, PROMPTED),
        ({"encoder_name_or_path": "org/other"}, {"encoder"}),
        ({"encoder_learning_rate": 1e-4}, {"encoder"}),
        ({"encoder_num_train_epochs": 1}, {"encoder"}),
        ({"seeds": [1], "per_device_eval_batch_size": 1, "margin": 0.2, "cache_dir": "elsewhere"}, set()),
    ],
)
def test_a_baseline_is_another_one_when_what_it_depends_on_changes(changes, others):
    changed = configurations(**changes)
    assert {name for name in BASELINES if changed[name] != FINGERPRINTS[name]} == others


def everything(folder):
    """Each file and folder below a folder, with its content and time of change."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in folder.rglob("*")
    }


class TestState:
    """Which runs are finished, in every state that an interruption may leave."""

    @pytest.fixture
    def data(self, files):
        return load_data(DataArguments(**files))

    @pytest.fixture
    def start(self, data, tmp_path):
        """Starts a comparison: returns its state, with a run's folder ready for a configuration."""

        def start(name="a", seed=1, configuration=None):
            state = ComparisonState(tmp_path, data)
            state.save()
            state.prepare(state.folder(name, seed), configuration or {})
            return state, state.folder(name, seed)

        return start

    @pytest.fixture
    def is_finished(self, data, tmp_path):
        """Asks as a new start does. Asking changes nothing."""

        def is_finished(name="a", seed=1, configuration=None, data=data, output=tmp_path):
            before = everything(output)
            state = ComparisonState(output, data)
            answer = state.is_finished(state.folder(name, seed), configuration or {})
            assert everything(output) == before
            return answer

        return is_finished

    def results(self, folder, content="{}"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.json").write_text(content)

    def test_finished_only_with_the_same_configuration(self, start, is_finished, tmp_path):
        state, folder = start(configuration={"x": 1})
        assert folder == tmp_path / "a" / "seed-1"
        assert not state.is_finished(folder, {"x": 1})
        self.results(folder)
        state.finish(folder)
        assert is_finished(configuration={"x": 1})
        assert not is_finished(seed=2, configuration={"x": 1})
        assert not is_finished("b", None, {"x": 1})
        assert state.folder("b", None) == tmp_path / "b"
        assert not is_finished(configuration={"x": 2})
        assert is_finished(configuration={"x": 1})  # being asked for another one is no change
        start(configuration={"x": 2})
        assert not is_finished(configuration={"x": 2})
        assert not is_finished(configuration={"x": 1})

    def test_other_documents(self, start, is_finished, files, tmp_path):
        state, folder = start(seed=None)
        self.results(folder)
        state.finish(folder)
        for index, changes in enumerate([{"max_test_samples": 16}, {"label_list": ["tech", "sport", "business"]}]):
            other = load_data(DataArguments(**files, **changes))
            copy = Path(shutil.copytree(tmp_path, tmp_path.with_name(f"{tmp_path.name}-{index}")))
            assert not is_finished(seed=None, data=other, output=copy)
        assert is_finished(seed=None, data=load_data(DataArguments(**files)))

    def test_ended_before_it_was_noted(self, start, is_finished):
        _, folder = start()
        self.results(folder)
        assert is_finished()
        (folder / ".unfinished").mkdir()
        assert not is_finished()  # its own end has not come

    def test_removed_by_hand(self, start, is_finished):
        state, folder = start()
        self.results(folder)
        state.finish(folder)
        shutil.rmtree(folder)
        assert not is_finished()

    def test_results_of_another_configuration_stay_until_there_are_new_ones(self, start, is_finished):
        state, folder = start(configuration={"x": 1})
        self.results(folder)
        state.finish(folder)
        (folder / "notes.txt").write_text("mine")
        (folder / "checkpoint-3").mkdir()  # of a start that trained again
        assert not is_finished(configuration={"x": 2})
        assert (folder / "checkpoint-3").is_dir()
        for _ in range(2):
            start(configuration={"x": 2})
            assert not is_finished(configuration={"x": 2})
            assert {path.name for path in folder.iterdir()} == {"metrics.json", "notes.txt"}
        self.results(folder, '{"new": 1}')
        assert is_finished(configuration={"x": 2})

    def test_the_end_of_a_run_that_was_cut_off_is_carried_through_first(self, start, is_finished):
        """Else files of the half-moved run would be taken for somebody else's."""
        _, folder = start(configuration={"x": 1})
        saved = folder / ".unfinished" / "seed-1"
        saved.mkdir(parents=True)
        files = ["adapter_model.safetensors", "metrics.json"]
        (folder / files[0]).write_text("moved already")
        (saved / files[1]).write_text("{}")
        (saved / "manifest.json").write_text(json.dumps({"files": files, "settings": None, "checkpoints": True}))
        assert not is_finished(configuration={"x": 1})
        start(configuration={"x": 2})
        assert not is_finished(configuration={"x": 2})
        assert json.loads((folder / "manifest.json").read_text())["files"] == files
        assert (folder / "metrics.json").is_file()
        assert not (folder / ".unfinished").exists()

    def test_a_folder_that_it_does_not_know_is_left_alone(self, start, is_finished, tmp_path):
        self.results(tmp_path / "a" / "seed-1")
        assert not is_finished()
        with pytest.raises(ValueError, match=r"seed-1' is there, but .*state\.json does not know it.*Move it away"):
            start()
        assert (tmp_path / "a" / "seed-1" / "metrics.json").is_file()

    def test_unfinished_checkpoints_stay(self, start, is_finished):
        _, folder = start()
        for step, whole in ((2, True), (4, False)):
            (folder / f"checkpoint-{step}").mkdir(parents=True)
            if whole:
                (folder / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
        assert not is_finished()
        start()
        assert {path.name for path in folder.iterdir()} == {"checkpoint-2", "checkpoint-4"}
