"""`--tune`: what is searched, that the search is fair and goes on where it stopped, and that it never looks at test."""

import json
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
import yaml
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from transformers import TrainerState

from hf_causal_clf.baselines.fitting import Outcome
from hf_causal_clf.comparison import running, tuning
from hf_causal_clf.comparison.arguments import ComparisonArguments
from hf_causal_clf.comparison.plan import TYPES, ComparisonState, check_model_of, read_config
from hf_causal_clf.comparison.registry import BASELINES
from hf_causal_clf.comparison.search_space import (
    Choice,
    LogRange,
    baseline_space,
    changes,
    run_space,
    with_parameters,
)
from hf_causal_clf.comparison.tuning import Tuner, improvements
from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.data.splits import load_data
from hf_causal_clf.runs.schema import HEAD_INITS
from hf_causal_clf.training.arguments import PromptArguments, RunArguments
from hf_causal_clf.training.length import settle_length
from hf_causal_clf.training.train import early_stopping

EMBEDDING = {"approach": "embedding", "learning_rate": 5e-4}
SPACE = {
    "learning_rate": LogRange(1e-3, 1e-4, 2e-3),
    "epochs": Choice(3.0, (1.5, 3.0, 6.0)),
    "start": Choice(None, (None, "a", 2)),
}
OPTIONS = {"metric": "f1_macro", "seed": 7}


def search(*arguments, **options):
    return list(tuning.search(*arguments, **options))


def of(f1, nll=1.0):
    return {"f1_macro": f1, "f1_micro": f1, "nll": nll}


class TestSpace:
    def test_learning_rate_as_given_is_in_its_range(self):
        usual = run_space({"approach": "instruction"}, 48)["learning_rate"]
        assert usual == LogRange(2e-4, 1e-4, 2e-3)  # the recipe's default
        for given in (1e-4, "5e-4", 2e-3):  # YAML reads the second as a text
            found = run_space({"approach": "embedding", "learning_rate": given}, 48)["learning_rate"]
            assert found == LogRange(float(given), 1e-4, 2e-3)
        for given in (1e-5, 1e-2):
            found = run_space({"approach": "embedding", "learning_rate": given}, 48)["learning_rate"]
            assert found.low < given < found.high
            assert found.high / found.low == pytest.approx(20)
            assert found.low * found.high == pytest.approx(given**2)

    def test_length_is_a_factor_of_what_is_given(self):
        assert run_space({**EMBEDDING, "max_steps": 10}, 48)["max_steps"] == Choice(10, (5, 10, 20))
        assert run_space({**EMBEDDING, "max_steps": 1}, 48)["max_steps"] == Choice(1, (1, 2))
        assert run_space({**EMBEDDING, "num_train_epochs": 3}, 48)["num_train_epochs"] == Choice(3.0, (1.5, 3.0, 6.0))
        both = run_space({**EMBEDDING, "num_train_epochs": 3, "max_steps": 4}, 48)
        assert "num_train_epochs" not in both  # max_steps overrides it
        epochs = run_space({**EMBEDDING, "num_train_epochs": "3", "max_steps": -1}, 48)
        assert epochs["num_train_epochs"] == Choice(3.0, (1.5, 3.0, 6.0))
        assert run_space({**EMBEDDING, "max_steps": "10"}, 48)["max_steps"] == Choice(10, (5, 10, 20))

    def test_length_that_is_not_given_is_a_factor_of_what_the_documents_need(self):
        for given in ({}, {"num_train_epochs": None}, {"max_steps": -1}):
            assert run_space({**EMBEDDING, **given}, 48)["max_steps"] == Choice(150, (75, 150, 300))
        batches = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": "4"}
        assert run_space({**EMBEDDING, **batches}, 10_000)["max_steps"] == Choice(625, (310, 625, 1250))

    @pytest.mark.parametrize("approach", ["embedding", "instruction"])
    def test_trials_with_a_factor_differ_in_length_alone(self, approach, files, tmp_path):
        """Evaluations, checkpoints and early stopping are those of a length that is chosen."""

        def settled(steps, **settings):
            space = run_space({"approach": approach, **settings}, 48)
            given = {name: dimension.given for name, dimension in space.items()}
            found = with_parameters({"approach": approach, **settings}, space, {**given, "max_steps": steps})
            del found["approach"]
            run, training = RunArguments, TYPES[approach][-1]
            names = {item.name for item in fields(run)} & found.keys()
            run = run(**{name: found.pop(name) for name in names})
            training = training(str(tmp_path), use_cpu=True, **found)
            settle_length(training, 48, 15)
            stopping = early_stopping(run, training, data)
            state = TrainerState()
            state.compute_steps(training, training.max_steps)
            every = (training.eval_strategy, training.save_strategy, state.eval_steps, state.save_steps)
            return training.max_steps, every, [each.early_stopping_patience for each in stopping]

        data = load_data(DataArguments(**files))
        assert settled(150) == (150, ("steps", "steps", 30, 30), [])
        assert settled(90) == (90, ("steps", "steps", 18, 18), [])
        best = {"early_stopping_patience": 2, "load_best_model_at_end": True}
        assert settled(350, **best) == (350, ("steps", "steps", 70, 70), [2])
        own = {"eval_strategy": "steps", "eval_steps": 7, "save_strategy": "steps", "save_steps": 14}
        assert settled(350, **own) == (350, ("steps", "steps", 7, 14), [])

    def test_head_starts_that_are_possible(self):
        assert run_space(EMBEDDING, 48)["head_init"] == Choice("auto", ("auto", "random", "verbalizer"))
        assert run_space({**EMBEDDING, "head_init": "random"}, 48)["head_init"] == Choice("random", HEAD_INITS)
        assert run_space({**EMBEDDING, "head_init": "verbalizer"}, 48)["head_init"] == Choice(
            "verbalizer", ("verbalizer", *(start for start in HEAD_INITS if start != "verbalizer"))
        )
        assert run_space({**EMBEDDING, "head_init": "another"}, 48)["head_init"].values[0] == "another"
        mean = run_space({**EMBEDDING, "pooling": "mean"}, 48)
        assert "head_init" not in mean or "verbalizer" not in mean["head_init"].values
        # A length with a prompt is not one without
        assert "head_init" not in run_space({**EMBEDDING, "max_length": 32}, 48)
        assert "head_init" not in run_space({"approach": "instruction"}, 48)

    def test_what_was_asked_for_stays_as_it_was_written(self):
        settings = {"approach": "embedding", "learning_rate": "5e-4", "num_train_epochs": 3}
        space = run_space(settings, 48)
        given = {name: dimension.given for name, dimension in space.items()}
        assert with_parameters(settings, space, given) == settings
        assert with_parameters(settings, space, {**given, "num_train_epochs": 6.0}) == {
            **settings,
            "num_train_epochs": 6.0,
        }

    def test_a_prompt_goes_with_the_start_that_needs_it(self):
        settings = {**EMBEDDING, "head_init": "verbalizer", "use_chat_template": True}
        space = run_space(settings, 48)
        given = {name: dimension.given for name, dimension in space.items()}
        assert with_parameters(settings, space, {**given, "learning_rate": 1e-3})["use_chat_template"]
        assert with_parameters(settings, space, {**given, "head_init": "random"}) == {
            **EMBEDDING,
            "head_init": "random",
        }

    def test_baselines(self):
        arguments = ComparisonArguments("run", "model", {"a": EMBEDDING}, encoder_num_train_epochs=4)
        spaces = {name: baseline_space(baseline, arguments, 48) for name, baseline in BASELINES.items()}
        assert {name for name, space in spaces.items() if space} == {"tfidf", "frozen", "encoder"}
        assert spaces["encoder"] == {
            "learning_rate": LogRange(5e-5, 1e-5, 2e-4),
            "num_train_epochs": Choice(4.0, (2.0, 4.0, 8.0)),
        }
        arguments = ComparisonArguments("run", "model", {"a": EMBEDDING})
        lengths = [
            baseline_space(BASELINES["encoder"], arguments, count)["num_train_epochs"] for count in (25, 2500, 1e6)
        ]
        assert lengths == [
            Choice(50.0, (25.0, 50.0, 100.0)),
            Choice(5.0, (2.5, 5.0, 10.0)),
            Choice(3.0, (1.5, 3.0, 6.0)),
        ]
        for dimension in (*spaces["tfidf"].values(), *spaces["frozen"].values()):
            assert dimension.given in dimension.values


class TestSearch:
    def made_up(self, number, parameters):
        """Best at a learning rate of 2e-4 and 6 epochs."""
        distance = abs(parameters["learning_rate"] / 2e-4 - 1) / 10 + (parameters["epochs"] != 6.0) / 2
        return of(max(0.0, 0.9 - distance / 2))

    def test_the_first_trial_is_what_was_asked_for(self):
        trials = search(SPACE, self.made_up, trials=3, **OPTIONS)
        assert trials[0].parameters == {"learning_rate": 1e-3, "epochs": 3.0, "start": None}
        assert changes(SPACE, trials[0].parameters) == {}
        assert [trial.number for trial in trials] == [1, 2, 3]

    @pytest.mark.parametrize("seed", range(5))
    def test_what_is_chosen_is_never_worse_and_most_often_better(self, seed):
        trials = search(SPACE, self.made_up, trials=12, metric="f1_macro", seed=seed)
        scores = [trial.validation["f1_macro"] for trial in trials]
        best = improvements(trials, "f1_macro")
        assert best[-1].validation["f1_macro"] == max(scores) > scores[0]
        assert [trial.number for trial in best] == sorted(trial.number for trial in best)
        for trial in trials:
            assert 1e-4 <= trial.parameters["learning_rate"] <= 2e-3
            assert trial.parameters["epochs"] in (1.5, 3.0, 6.0)

    def test_nothing_is_better_than_what_was_asked_for(self):
        trials = search(SPACE, lambda number, _: of(0.5), trials=5, **OPTIONS)
        assert [trial.number for trial in improvements(trials, "f1_macro")] == [1]

    def test_ties_are_decided_by_likelihood(self):
        nll = {1: 1.0, 2: 1.2, 3: 0.7, 4: 0.7}
        trials = search(SPACE, lambda number, _: of(0.5, nll[number]), trials=4, **OPTIONS)
        assert [trial.number for trial in improvements(trials, "f1_macro")] == [1, 3]

    def test_a_failure_is_the_worst(self):
        """The sampler takes it for the lowest score there is, and goes elsewhere."""

        def only_short(number, parameters):
            return None if parameters["epochs"] == 6.0 else of(0.3)

        def zero(number, parameters):
            return only_short(number, parameters) or of(0.0)

        trials = search(SPACE, only_short, trials=12, **OPTIONS)
        assert None in [trial.validation for trial in trials]
        assert [trial.number for trial in improvements(trials, "f1_macro")] == [1]
        assert [trial.parameters for trial in trials] == [
            trial.parameters for trial in search(SPACE, zero, trials=12, **OPTIONS)
        ]
        failed_first = search(SPACE, lambda number, _: None if number == 1 else of(0.3), trials=3, **OPTIONS)
        assert [trial.number for trial in improvements(failed_first, "f1_macro")] == [2]
        assert improvements(search(SPACE, lambda *_: None, trials=3, **OPTIONS), "f1_macro") == []

    def test_more_trials_begin_with_the_same(self):
        few, many = (search(SPACE, self.made_up, trials=number, **OPTIONS) for number in (6, 11))
        assert many[:6] == few

    def test_seed_and_measurements_decide(self):
        trials = [search(SPACE, self.made_up, trials=8, metric="f1_macro", seed=seed) for seed in (1, 1, 2)]
        assert trials[0] == trials[1]
        assert trials[0] != trials[2]
        others = search(SPACE, lambda number, parameters: of(number / 10), trials=8, metric="f1_macro", seed=1)
        assert [each.parameters for each in others] != [each.parameters for each in trials[0]]


class Recipe:
    """Stands for recipes: writes a run's files, with metrics that the configuration decides."""

    FILES = ("adapter_model.safetensors", "figures/curve.png", "metrics.json")

    def __init__(self):
        self.started, self.fails, self.stops, self.test_f1 = [], (), None, 0.5

    def __call__(self, title, folder, config, approach):
        settings = yaml.safe_load(config.read_text())
        assert settings["output_dir"] == str(folder)
        if len(self.started) == self.stops:
            raise KeyboardInterrupt
        self.started.append((title, settings))
        if len(self.started) in self.fails:
            return False
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        (folder / "figures" / "curve.png").write_text("png")
        (folder / "adapter_model.safetensors").write_text(str(settings["learning_rate"]))
        (folder / "manifest.json").write_text(json.dumps({"files": self.FILES}))
        metrics = {"validation": of(min(1.0, settings["learning_rate"] * 400)), "test": of(self.test_f1)}
        (folder / "metrics.json").write_text(json.dumps(metrics))
        return True


class TestTuner:
    @pytest.fixture
    def recipe(self):
        return Recipe()

    @pytest.fixture
    def tune(self, files, tmp_path, recipe, monkeypatch):
        """Tunes a run as a new start of a comparison does; returns the tuner and what was chosen."""
        recipe.run = tmp_path / "run" / "a-b" / "seed-3"
        monkeypatch.setattr(tuning, "check_model_of", lambda config: None)

        def tune(trials=6, settings=EMBEDDING, **options):
            recipe.started.clear()
            given = {"runs": {"a, b": settings}, "seeds": [9, 3], "tune": trials, **options}
            arguments = ComparisonArguments(str(tmp_path / "run"), "org/model", **given)
            data_args = DataArguments(**files)
            data = load_data(data_args)
            state = ComparisonState(tmp_path / "run", data)
            state.save()
            tuner = Tuner(arguments, data_args, PromptArguments(), data, state, recipe)
            return tuner, tuner.settings("a, b")

        return tune

    def searched(self, tuner):
        return tuner.report()["tuning"]["searches"]["a, b"]

    def test_off(self, tune, recipe, tmp_path):
        tuner, settings = tune(0)
        assert settings == EMBEDDING
        assert [tuner.parameters(baseline) for baseline in BASELINES.values()] == [{}] * len(BASELINES)
        assert tuner.report() == {}
        assert recipe.started == []
        assert not (tmp_path / "run" / "tuning").exists()

    def test_the_best_on_validation_is_taken_and_all_trials_are_told(self, tune, recipe):
        tuner, settings = tune()
        tried = [config for _, config in recipe.started]
        assert [config["seed"] for config in tried] == [3] * 6  # the lowest
        assert tried[0]["learning_rate"] == EMBEDDING["learning_rate"]
        best = max(tried, key=lambda config: min(1.0, config["learning_rate"] * 400))
        assert {name: best[name] for name in settings if name != "approach"} == {
            name: value for name, value in settings.items() if name != "approach"
        }
        found = self.searched(tuner)
        assert [trial["parameters"]["learning_rate"] for trial in found["trials"]] == [
            config["learning_rate"] for config in tried
        ]
        assert found["trials"][0]["validation"] == of(EMBEDDING["learning_rate"] * 400)
        assert found["improvements"][-1] == tried.index(best) + 1
        assert json.loads(json.dumps(tuner.report())) == json.loads(json.dumps(tune()[0].report()))

    def test_a_trial_keeps_its_validation_metrics_only(self, tune, tmp_path):
        tune()
        folders = sorted((tmp_path / "run" / "tuning" / "a-b").glob("trial-*/seed-3/"))
        assert len(folders) == 6
        for folder in folders:
            assert [path.name for path in folder.iterdir()] == ["metrics.json"]
            assert json.loads((folder / "metrics.json").read_text()).keys() == {"validation"}

    def test_somebody_elses_files_in_a_trial_stay(self, tune, tmp_path):
        tune(3)
        folders = sorted((tmp_path / "run" / "tuning" / "a-b").glob("trial-*/seed-3/"))
        for folder in folders:
            (folder / "figures").mkdir()
            (folder / "figures" / "mine.png").write_text("mine")
            (folder / "notes.txt").write_text("mine")
        tune(6)
        for folder in folders:
            assert (folder / "notes.txt").read_text() == (folder / "figures" / "mine.png").read_text() == "mine"

    def test_the_best_trial_is_the_run_of_its_seed(self, tune, recipe, tmp_path):
        tuner, settings = tune()
        assert {path.name for path in recipe.run.iterdir()} == {
            *("metrics.json", "manifest.json", "adapter_model.safetensors", "figures")
        }
        assert float((recipe.run / "adapter_model.safetensors").read_text()) == settings["learning_rate"]
        config = read_config(tuner._write_config("a, b", settings))
        assert tuner.state.is_finished(recipe.run, config)
        changed = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "tuning").rglob("metrics.json")}
        tune()
        assert {path: path.stat().st_mtime_ns for path in changed} == changed

    def test_a_run_that_is_there_is_not_touched_and_is_the_first_trial(self, tune, recipe, tmp_path):
        """It was trained before anybody asked for tuning."""
        tuner, _ = tune(0)
        config = tuner._write_config("a, b", EMBEDDING)
        tuner.state.prepare(recipe.run, read_config(config))
        config.write_text(config.read_text())
        assert recipe("untuned", recipe.run, config, "embedding")
        tuner.state.finish(recipe.run)
        before = {path.name: path.stat().st_mtime_ns for path in recipe.run.iterdir()}
        found = self.searched(tune()[0])
        assert len(recipe.started) == 5
        assert {path.name: path.stat().st_mtime_ns for path in recipe.run.iterdir()} == before
        (tmp_path / "run").rename(tmp_path / "earlier")
        assert self.searched(tune()[0]) == found
        assert len(recipe.started) == 6

    def test_the_best_of_an_interrupted_search_is_whole(self, tune, recipe):
        recipe.stops = 5
        with pytest.raises(KeyboardInterrupt):
            tune()
        recipe.stops = None
        _, settings = tune()
        assert float((recipe.run / "adapter_model.safetensors").read_text()) == settings["learning_rate"]

    def test_test_metrics_change_nothing(self, tune, recipe, tmp_path):
        _, settings = tune()
        tuner = self.searched(tune()[0])
        recipe.test_f1 = 0.99
        (tmp_path / "run").rename(tmp_path / "earlier")
        other, others = tune()
        assert len(recipe.started) == 6
        assert others == settings
        assert self.searched(other) == tuner

    def test_started_again_it_trains_nothing(self, tune, recipe):
        tuner, settings = tune()
        again, same = tune()
        assert recipe.started == []
        assert same == settings
        assert again.report() == tuner.report()

    @pytest.mark.parametrize("finished", [0, 1, 5])
    def test_an_interrupted_search_goes_on(self, tune, recipe, finished, tmp_path):
        whole = self.searched(tune()[0])
        (tmp_path / "run").rename(tmp_path / "whole")
        recipe.stops = finished
        with pytest.raises(KeyboardInterrupt):
            tune()
        assert len(recipe.started) == finished
        recipe.stops = None
        found = self.searched(tune()[0])
        assert len(recipe.started) == 6 - finished
        assert found == whole

    def test_more_trials_go_on_from_those_that_are_there(self, tune, recipe):
        few = self.searched(tune(4)[0])
        more = self.searched(tune(7)[0])
        assert len(recipe.started) == 3
        assert more["trials"][:4] == few["trials"]

    def test_other_settings_are_other_trials(self, tune, recipe):
        tune(3)
        tuner, _ = tune(3, {**EMBEDDING, "lora_r": 4})
        assert [config["lora_r"] for _, config in recipe.started] == [4, 4, 4]
        assert all(trial["validation"] for trial in self.searched(tuner)["trials"])
        tune(3, {**EMBEDDING, "lora_r": 4})
        assert recipe.started == []

    def test_a_failure_is_said_and_kept(self, tune, recipe, capsys):
        recipe.fails = (2,)
        tuner, settings = tune()
        assert "a, b, trial 2 of 6 (" in capsys.readouterr().out.split(") failed; its error is above.")[0]
        found = self.searched(tuner)
        assert [trial["validation"] is None for trial in found["trials"]] == [number == 2 for number in range(1, 7)]
        recipe.fails = ()
        assert tune()[1] == settings
        assert recipe.started == []

    def test_all_fail(self, tune, recipe):
        recipe.fails = range(9)
        with pytest.raises(SystemExit, match="Every trial of 'a, b' failed"):
            tune(3)
        recipe.fails = ()
        tune(3)
        assert len(recipe.started) == 3  # what was wrong with all of them may have been mended

    def test_a_model_that_is_not_there_is_no_failed_trial(self, tune, recipe, monkeypatch):
        monkeypatch.setattr(tuning, "check_model_of", check_model_of)
        with pytest.raises(ValueError, match="'org/model' cannot be read"):
            tune()
        assert recipe.started == []

    def test_somebody_elses_folder_is_left_alone(self, tune, recipe, tmp_path):
        own = tmp_path / "run" / "tuning" / "a-b" / "trial-1" / "seed-3"
        own.mkdir(parents=True)
        (own / "notes.txt").write_text("mine")
        with pytest.raises(ValueError, match="trial-1/seed-3' is there, but"):
            tune()
        assert (own / "notes.txt").read_text() == "mine"
        assert recipe.started == []


@pytest.mark.parametrize("baseline", ["tfidf", "frozen", "encoder"])
def test_baselines_are_tuned_on_validation(baseline, files, tmp_path, monkeypatch):
    jobs = []

    def in_own_process(function, found, job):
        jobs.append(job)
        job.folder.mkdir(parents=True)
        test = of(1.0 / len(jobs))
        metrics = {"validation": of(0.1 * len(jobs) if len(jobs) < 4 else 0.0), "test": test}
        (job.folder / "metrics.json").write_text(json.dumps(metrics))
        return 0

    monkeypatch.setattr(running, "in_own_process", in_own_process)
    monkeypatch.setattr(tuning, "check_model", lambda *_: None)
    given = {"runs": {"a": EMBEDDING}, "encoder_name_or_path": "org/bert", "seeds": [9, 3], "tune": 5}
    arguments = ComparisonArguments(str(tmp_path / "run"), "org/model", **given)
    data = load_data(DataArguments(**files))
    parts = (arguments, DataArguments(**files), PromptArguments(), data)
    tuner = Tuner(*parts, ComparisonState(tmp_path / "run", data), None)
    found = tuner.parameters(BASELINES[baseline])
    assert len(jobs) == 5
    assert jobs[0].parameters == {}
    assert found == jobs[2].parameters != {}
    assert {job.seed for job in jobs} == {3 if baseline == "encoder" else None}
    again = Tuner(*parts, ComparisonState(tmp_path / "run", data), None)
    assert again.parameters(BASELINES[baseline]) == found
    assert len(jobs) == 5


def test_tfidf_and_frozen_take_all_that_is_searched(files, checkpoint, tmp_path):
    """The first trial's probabilities are those of the baseline as it is; another trial's are others."""
    given = {"runs": {"a": EMBEDDING}, "dtype": "float32", "max_length": 32, "cache_dir": str(tmp_path / "cache")}
    arguments = ComparisonArguments(str(tmp_path / "run"), checkpoint, **given)
    data = load_data(DataArguments(**files))

    def logits(name, **parameters):
        job = running.Job(data, arguments, PromptArguments(), None, tmp_path / "run", parameters)
        return BASELINES[name].run(job).logits["test"]

    for name in ("tfidf", "frozen"):
        space = baseline_space(BASELINES[name], arguments, 48)
        plain = logits(name)
        if name == "tfidf":
            assert (logits(name, **{key: choice.given for key, choice in space.items()}) == plain).all()
        for key, choice in space.items():
            values = [value for value in choice.values if value != choice.given]
            assert any((logits(name, **{key: value}) != plain).any() for value in values[:: max(1, len(values) - 1)])


def test_what_is_chosen_is_run(files, tmp_path, monkeypatch):
    """With other parameters a baseline is another one; with none it is the one that was finished without tuning."""
    jobs = []

    def in_own_process(function, baseline, job):
        jobs.append(job)
        function(baseline, job)
        return 0

    monkeypatch.setattr(running, "in_own_process", in_own_process)
    arguments = ComparisonArguments(str(tmp_path / "run"), "org/model", {"a": EMBEDDING})
    data = load_data(DataArguments(**files))
    state = ComparisonState(tmp_path / "run", data)
    found = []
    for parameters in ({}, {}, {"strength": 0.003}, {"strength": 0.003}, {"strength": 100.0}):
        entry = running.run_baseline(BASELINES["tfidf"], arguments, PromptArguments(), data, state, parameters)
        found.append(entry.results[0].metrics["test"]["nll"])
    assert [job.parameters for job in jobs] == [{}, {"strength": 0.003}, {"strength": 100.0}]
    assert found[0] == found[1] != found[2] == found[3] != found[4]


def test_the_encoder_takes_what_is_searched(files, tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr(
        "hf_causal_clf.baselines.encoder_training.fine_tuned_encoder", lambda *_, **options: taken.append(options)
    )
    given = {"encoder_name_or_path": "org/bert", "encoder_learning_rate": 1e-4, "encoder_num_train_epochs": 3}
    arguments = ComparisonArguments(str(tmp_path / "run"), "org/model", {"a": EMBEDDING}, **given)
    data = load_data(DataArguments(**files))
    for parameters in ({}, {"learning_rate": 2e-5}, {"learning_rate": 3e-5, "num_train_epochs": 6.0}):
        BASELINES["encoder"].run(running.Job(data, arguments, PromptArguments(), 1, tmp_path, parameters))
    del given["encoder_num_train_epochs"]
    arguments = ComparisonArguments(str(tmp_path / "run"), "org/model", {"a": EMBEDDING}, **given)
    BASELINES["encoder"].run(running.Job(data, arguments, PromptArguments(), 1, tmp_path, {}))
    found = [(each["learning_rate"], each["num_train_epochs"]) for each in taken]
    assert found == [(1e-4, 3), (2e-5, 3), (3e-5, 6.0), (1e-4, 250 / len(data.splits["train"]) ** 0.5)]


def test_a_baseline_tells_a_trial_its_validation_metrics(files, tmp_path):
    data = load_data(DataArguments(**files))
    right = np.eye(3, dtype=np.float32)[data.gold("validation")] * 9
    logits = {"validation": right, "test": np.zeros((17, 3), dtype=np.float32)}
    baseline = replace(BASELINES["majority"], run=lambda job: Outcome(logits, {}))
    job = running.Job(data, None, None, None, tmp_path / "trial")
    running.write_validation(baseline, job)
    metrics = json.loads((tmp_path / "trial" / "metrics.json").read_text())
    assert metrics.keys() == {"validation"}
    assert metrics["validation"]["f1_macro"] == 1.0
    assert metrics["validation"]["nll"] < 0.01


def test_with_folds_a_trial_is_measured_out_of_fold(files, tmp_path):
    data = load_data(DataArguments(**files), 3)
    parameters = {"longest_ngram": 1, "strength": 0.1}
    running.write_validation(BASELINES["tfidf"], running.Job(data, None, None, None, tmp_path / "trial", parameters))
    found = json.loads((tmp_path / "trial" / "metrics.json").read_text())["validation"]
    texts, gold = np.array(data.texts("train"), dtype=object), data.gold("train")
    predicted = np.empty(len(texts), dtype=int)
    for fold in range(3):
        held = data.folds == fold
        pipeline = make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=0.1, max_iter=1000))
        predicted[held] = pipeline.fit(texts[~held], gold[~held]).predict(texts[held])
    assert found["f1_macro"] == pytest.approx(f1_score(gold, predicted, average="macro"))


def test_texts_are_told_in_one_line():
    changed = {"learning_rate": 0.00012345, "document_suffix": "\n\nTopic:", "pooling": "last", "strength": None}
    assert tuning.described(changed) == (
        r"learning_rate 0.000123, document_suffix '\n\nTopic:', pooling last, strength none"
    )
    assert tuning.described({}) == "as given"


def test_optuna_is_imported_by_a_search_only():
    code = (
        "import sys\nimport hf_causal_clf.comparison.tuning as tuning\nprint('optuna' in sys.modules)\n"
        "list(tuning.search({}, lambda *_: None, trials=1, metric='f1_macro', seed=0))\nprint('optuna' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


@pytest.mark.parametrize("number", [1, -1])
def test_a_wrong_number_of_trials(number):
    with pytest.raises(ValueError, match=rf"tune must be 0 \(off\) or the number of trials, 2 or more; got {number}"):
        ComparisonArguments("run", "model", {"a": EMBEDDING}, tune=number)


def test_without_optuna(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    ComparisonArguments("run", "model", {"a": EMBEDDING})
    with pytest.raises(ValueError, match=r"^tune needs the package optuna, .*: pip install 'hf_causal_clf\[tune\]'$"):
        ComparisonArguments("run", "model", {"a": EMBEDDING}, tune=2)
