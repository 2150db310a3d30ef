"""Arguments that are valid but dangerous: what a start may not touch stays as it is, told by a hash of the whole tree.

Each case is refused before anything is loaded, or works beside what it finds.
"""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import make_rows, write_jsonl
from datasets import Dataset
from test_bad_input import refuse_models, snapshot
from test_checkpoints import Stop
from test_classifier import save_folder
from test_recipes import arguments
from test_recipes import run as run_recipe

from hf_causal_clf import TextClassifier
from hf_causal_clf.training.output_folder import check_output_folder, put_in_place

ONE_EPOCH = {"num_train_epochs": "1"}


@pytest.fixture
def place(tmp_path, checkpoint, monkeypatch):
    """A working folder with a model and with documents; both are somebody's own."""
    shutil.copytree(checkpoint, tmp_path / "models" / "base")
    (tmp_path / "models" / "base" / "README.md").write_text("# somebody's model")
    (tmp_path / "data").mkdir()
    for split, (size, offset) in {"train": (12, 0), "validation": (6, 100), "test": (6, 200)}.items():
        write_jsonl(tmp_path / "data" / f"{split}.jsonl", make_rows(size, offset))
    monkeypatch.chdir(tmp_path)
    return tmp_path


FILES = {f"{split}_file": f"data/{split}.jsonl" for split in ("train", "validation", "test")}


def command(recipe, output, model="models/base", **options):
    return arguments(recipe, model, {name: options.pop(name, path) for name, path in FILES.items()}, output, **options)


def unchanged(before, folder):
    after = snapshot(folder)
    return {name: after.get(name) for name in before} == before


def link(target, name="link"):
    Path(name).symlink_to(target, target_is_directory=True)
    return name


MODEL, DOCUMENTS = "is the folder of the model", "the folder of the documents"
REFUSED = {  # what is given as output_dir, other arguments, and what is said
    "the model's folder": (lambda: "models/base", {}, MODEL),
    "with a slash at its end": (lambda: "models/base/", {}, MODEL),
    "spelled in another way": (lambda: "data/../models//./base", {}, MODEL),
    "its whole path": (lambda: str(Path("models/base").resolve()), {}, MODEL),
    "a link to it": (lambda: link("models/base"), {}, MODEL),
    "it by a link to the folder above": (lambda: link("models") + "/base", {}, MODEL),
    "the model by a link to it": (lambda: "models/base", {"model": lambda: link("models/base")}, MODEL),
    "the folder of the data files": (lambda: "data", {}, DOCUMENTS),
    "a link to the folder of the data files": (lambda: link("data"), {}, DOCUMENTS),
    "the folder of one data file": (lambda: ".", {"test_file": lambda: shutil.copy(FILES["test_file"], "x.jsonl")}, DOCUMENTS),
    "the folder of a data set": (lambda: "data", {"dataset_name": lambda: "data"}, DOCUMENTS),
    "a folder in the folder of a data set": (lambda: "data/run", {"dataset_name": lambda: "data"}, DOCUMENTS),
    "where the model is a checkpoint": (
        lambda: "models",
        {"model": lambda: str(Path("models/base").rename("models/checkpoint-3"))},
        "would lose its checkpoint-3",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("recipe", ["embed", "instruct"])
def test_folders_that_are_read_are_not_written_to(place, monkeypatch, recipe, case):
    output, options, says = REFUSED[case]
    options = {name: make() for name, make in options.items()}
    if "dataset_name" in options:
        command_line = [*arguments(recipe, "models/base", options, output())]
    else:
        command_line = command(recipe, output(), **options)
    before = snapshot(place)
    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", refuse_models)
    monkeypatch.setattr("datasets.load_dataset", refuse_models)
    with pytest.raises(ValueError, match=f"output_dir '.*' .*{says}.*Choose another output_dir"):
        run_recipe(recipe, command_line, monkeypatch)
    assert snapshot(place) == before


SOMEBODYS = {  # files in the output folder that a run would replace
    "a model": {"config.json": "{}", "model-00001-of-00002.safetensors": "x", "tokenizer.json": "{}"},
    "an adapter": {"adapter_config.json": "{}", "adapter_model.safetensors": "x"},
    "a README": {"README.md": "# about my folder"},
    "a config.json": {"config.json": "{}"},
    "a run without a list of its files": {"classification.json": "{}", "metrics.json": "{}"},
    "a figure": {"figures/label_f1.png": "x"},
    "a configuration": {"config/config.json": "{}"},
    "a file called figures": {"figures": "x"},
}


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("case", SOMEBODYS)
def test_files_of_somebody_else_are_not_replaced(place, monkeypatch, case, finished):
    """Whether or not there is a run beside them that may be overwritten."""
    output = place / "run"
    for name, text in SOMEBODYS[case].items():
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_text(text)
    if finished:
        (output / "manifest.json").write_text(json.dumps({"files": ["predictions.parquet"], "settings": None}))
    before = snapshot(place)
    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", refuse_models)
    with pytest.raises(ValueError, match=r"has files that a run would replace.*Move them away, or choose another") as e:
        run_recipe("embed", command("embed", "run", overwrite_output_dir="true"), monkeypatch)
    assert all(name in str(e.value) for name in SOMEBODYS[case])
    assert snapshot(place) == before


HARMLESS = {
    "notes.txt": "mine",
    "figures/mine/plot.png": "mine",
    "figures/other.png": "mine",
    "config/mine/config.yaml": "mine",
    "config/accelerate.yaml": "mine",
    "checkpoint-best/model.safetensors": "mine",
    "runs/old/events": "mine",
    "data/documents.jsonl": "mine",
}


@pytest.mark.parametrize("recipe", ["embed", "instruct"])
def test_what_is_beside_a_run_stays_through_two_runs(place, monkeypatch, recipe):
    """The whole life of a folder: a run, another one in its place, the same again. Folders that are read are read-only."""
    for name, text in HARMLESS.items():
        (place / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "run" / name).write_text(text)
    for folder in ("models/base", "data"):
        for path in (place / folder, *(place / folder).iterdir()):
            path.chmod(0o555 if path.is_dir() else 0o444)
    before = snapshot(place)
    run_recipe(recipe, command(recipe, "run/", **ONE_EPOCH), monkeypatch)
    assert unchanged(before, place)
    first = set(snapshot(place)) - set(before)
    TextClassifier.from_pretrained("run")
    options = {"seed": "7", "overwrite_output_dir": "true"}
    run_recipe(recipe, command(recipe, "./run", **ONE_EPOCH, **options), monkeypatch)
    assert unchanged(before, place)
    assert set(snapshot(place)) - set(before) == first  # nothing of the first run is left over
    manifest = json.loads((place / "run" / "manifest.json").read_text())
    written = {name.removeprefix("run/") for name in first if (place / name).is_file()}
    assert set(manifest["files"]) == written - {"manifest.json"}
    assert str(place) not in (place / "run" / "manifest.json").read_text()
    check_output_folder("run", None)  # every file that is written is one that is looked for
    (place / "run" / "manifest.json").rename(place / "manifest.json")
    with pytest.raises(ValueError, match="Move them away") as e:
        check_output_folder("run", None)
    assert all(name in str(e.value) for name in manifest["files"])


def test_a_model_may_be_below_the_output_folder_and_the_other_way_round(place, monkeypatch):
    before = snapshot(place)
    run_recipe("embed", command("embed", "models", **ONE_EPOCH), monkeypatch)
    run_recipe("embed", command("embed", "models/base/run", **ONE_EPOCH), monkeypatch)
    assert unchanged(before, place)
    TextClassifier.from_pretrained("models")
    TextClassifier.from_pretrained("models/base/run")


def finished_run(place, monkeypatch):
    run_recipe("embed", command("embed", "run", **ONE_EPOCH), monkeypatch)
    return snapshot(place / "run")


class TestFinished:
    """A finished run is not trained again without being asked to, and not replaced by another one."""

    @pytest.fixture
    def run(self, place, monkeypatch):
        before = finished_run(place, monkeypatch)
        with monkeypatch.context() as patch:
            patch.setattr("transformers.PreTrainedModel.from_pretrained", refuse_models)
            yield before

    def again(self, monkeypatch, output="run", **options):
        run_recipe("embed", command("embed", output, **{**ONE_EPOCH, **options}), monkeypatch)

    def test_the_same_again_is_finished(self, place, run, monkeypatch, capsys):
        capsys.readouterr()
        shutil.copytree("data", "elsewhere")
        shutil.copytree("models/base", "moved")
        moved = {name: path.replace("data", "elsewhere") for name, path in FILES.items()}
        others = {"model": "moved", "report_to": "tensorboard", **moved}
        for output, options in (("run", {}), ("./run/", others), ("run", {"resume_from_checkpoint": "true"})):
            self.again(monkeypatch, output, **options)
            assert "This run is already finished in run" in capsys.readouterr().out
        assert snapshot(place / "run") == run

    def test_documents_come_onto_its_page_without_a_training(self, place, run, monkeypatch, capsys):
        texts = [json.loads(line)["text"] for line in Path(FILES["test_file"]).read_text().splitlines()]
        page, manifest = place / "run" / "report.html", place / "run" / "manifest.json"
        assert not [text for text in texts if f">{text}<" in page.read_text()]
        page.unlink()  # as of an earlier version
        manifest.write_text(manifest.read_text().replace('    "report.html",\n', ""))
        self.again(monkeypatch, with_documents="true")
        assert f"{Path('run', 'report.html')} shows the text" in " ".join(capsys.readouterr().out.split())
        rows = Dataset.from_parquet("run/predictions.parquet", keep_in_memory=True)
        wrong = [text for text, row in zip(texts, rows) if row["gold"] != row["predicted"]]
        assert wrong
        assert [text for text in texts if f">{text}<" in page.read_text()] == wrong
        self.again(monkeypatch)
        assert {**snapshot(place / "run"), "report.html": ""} == {**run, "report.html": ""}

    CHANGES = {
        "setting": ({"learning_rate": "1e-3"}, r"learning_rate was 0\.01, is 0\.001"),
        "default": ({"truncation": "head"}, "truncation was 'the default', is 'head'"),
        "documents": ({"max_test_samples": "5"}, "other documents"),
        "data type": ({"dtype": "bfloat16"}, "dtype was 'float32', is 'the default', another base model"),
        "rank": ({"lora_r": "3"}, "lora_r was .*, is 3"),
        "adapted modules": (
            {"lora_target_modules": "q_proj"},
            r"lora_target_modules was 'the default', is \['q_proj'\]",
        ),
        "no adapter": ({"use_peft": "false"}, "use_peft was 'the default', is False"),
    }

    @pytest.mark.parametrize("case", CHANGES)
    def test_another_is_refused(self, place, run, monkeypatch, case):
        options, says = self.CHANGES[case]
        with pytest.raises(ValueError, match=rf"finished run with other settings.*{says}.*--overwrite_output_dir true"):
            self.again(monkeypatch, **options)
        assert snapshot(place / "run") == run

    def test_content_counts(self, place, run, monkeypatch):
        rows = make_rows(12)
        rows[3]["label"] = rows[4]["label"]
        write_jsonl(place / "data" / "train.jsonl", rows)
        with pytest.raises(ValueError, match=r"\(other documents\)"):
            self.again(monkeypatch)
        write_jsonl(place / "data" / "train.jsonl", make_rows(12))
        (place / "models" / "base" / "generation_config.json").write_text('{"top_k": 3}')
        with pytest.raises(ValueError, match=r"\(another base model\)"):
            self.again(monkeypatch)
        assert snapshot(place / "run") == run


def test_a_finished_run_is_trained_again_where_that_is_asked_for(place, monkeypatch):
    speeds = []
    for options in ({}, {"overwrite_output_dir": "true"}):
        run_recipe("embed", command("embed", "run", **ONE_EPOCH, **options), monkeypatch)
        speeds.append(json.loads(Path("run/metrics.json").read_text())["training"]["train_samples_per_second"])
    assert speeds[0] != speeds[1]


def test_a_checkpoint_is_gone_on_with_on_the_same_documents_only(place, monkeypatch, caplog):
    """Else test documents of today could be training documents of the checkpoint."""

    def stop(*args, **kwargs):
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr("hf_causal_clf.finishing.save_run", stop)
        with pytest.raises(Stop):
            run_recipe("embed", command("embed", "run", **ONE_EPOCH), patch)
    before, resume = snapshot(place / "run"), {"resume_from_checkpoint": "true"}
    write_jsonl(place / "data" / "train.jsonl", make_rows(12, 400))
    with pytest.raises(ValueError, match=r"checkpoints in 'run' are of a training with other documents\. Go on with"):
        run_recipe("embed", command("embed", "run", **ONE_EPOCH, **resume), monkeypatch)
    assert snapshot(place / "run") == before
    write_jsonl(place / "data" / "train.jsonl", make_rows(12))
    run_recipe("embed", command("embed", "run", num_train_epochs="2", **resume), monkeypatch)
    assert "goes on with other settings: num_train_epochs was 1.0, is 2.0." in caplog.text
    assert json.loads(Path("run/metrics.json").read_text())["training"]["epochs"] == 2


class TestInterruptedEnd:
    """A run replaces another: wherever that is cut off, one of the two is whole or becomes so at the next start."""

    @pytest.fixture
    def run(self, place, monkeypatch):
        return finished_run(place, monkeypatch)

    def replace(self, monkeypatch, **options):
        run_recipe("embed", command("embed", "run", num_train_epochs="1", seed="7", **options), monkeypatch)

    def test_until_it_is_measured_the_earlier_run_is_whole(self, place, run, monkeypatch):
        def stop(*args, **kwargs):
            raise Stop

        for step in ("save_run", "measure_run", "finish_run"):
            options = {"resume_from_checkpoint": "true"} if step != "save_run" else {}
            with monkeypatch.context() as patch:
                patch.setattr(f"hf_causal_clf.finishing.{step}", stop)
                with pytest.raises(Stop):
                    self.replace(patch, overwrite_output_dir="true", **options)
            assert unchanged(run, place / "run")
        self.replace(monkeypatch, resume_from_checkpoint="true")
        assert {name.split("/")[0] for name in snapshot(place / "run")} == {name.split("/")[0] for name in run}
        assert not unchanged(run, place / "run")

    def test_at_any_file_that_is_moved(self, place, run, monkeypatch, capsys):
        moves, most, replace = [], [0], os.replace

        def counted(source, target):
            if len(moves) == most[0] and ".unfinished" in Path(source).parts:
                raise Stop
            replace(source, target)
            moves.append(target)

        monkeypatch.setattr("hf_causal_clf.training.output_folder.os", SimpleNamespace(path=os.path, replace=counted))
        with pytest.raises(Stop):
            self.replace(monkeypatch, overwrite_output_dir="true")
        shutil.copytree("run", "stopped")
        found = []
        for moved in range(len(json.loads((place / "run" / "manifest.json").read_text())["files"]) + 1):
            moves.clear()
            most[0] = moved
            with pytest.raises(Stop):
                put_in_place(Path("run"))
            whole = (place / "run" / "classification.json").is_file()  # then a reader finds all of the new run
            assert not whole or not list((place / "run" / ".unfinished").rglob("adapter*"))
            most[0] = 1000
            assert put_in_place(Path("run"))
            found.append(
                {name: "" if name == "manifest.json" else text for name, text in snapshot(place / "run").items()}
            )
            shutil.rmtree("run")
            shutil.copytree("stopped", "run")
        assert len(found) > 10
        assert all(each == found[0] for each in found)
        assert set(found[0]) == set(run)
        most[0] = 1000
        capsys.readouterr()
        self.replace(monkeypatch, overwrite_output_dir="true")  # the same command again
        assert "This run is already finished" in capsys.readouterr().out
        TextClassifier.from_pretrained("run")

    def test_a_file_that_somebody_puts_there_meanwhile_is_not_replaced(self, place, monkeypatch, capsys):
        from hf_causal_clf import finishing as runs

        def busy(folder, *args, **kwargs):
            (place / "run" / "metrics.json").write_text("mine")
            return write_results(folder, *args, **kwargs)

        write_results = runs.write_results
        monkeypatch.setattr(runs, "write_results", busy)
        with pytest.raises(ValueError, match=r"The new run is whole, but 'run' has metrics\.json, which no run wrote"):
            self.replace(monkeypatch)
        assert (place / "run" / "metrics.json").read_text() == "mine"
        (place / "run" / "metrics.json").rename(place / "mine")
        self.replace(monkeypatch)
        assert "This run is already finished" in capsys.readouterr().out
        TextClassifier.from_pretrained("run")


def test_a_manifest_cannot_reach_out_of_its_folder(place, monkeypatch):
    (place / "run").mkdir()
    for name in ("../data/train.jsonl", str(place / "data" / "train.jsonl"), "a/../../data/train.jsonl", 3):
        (place / "run" / "manifest.json").write_text(json.dumps({"files": [name]}))
        before = snapshot(place)
        with pytest.raises(ValueError, match="does not list files of its folder"):
            run_recipe("embed", command("embed", "run", overwrite_output_dir="true", **ONE_EPOCH), monkeypatch)
        assert snapshot(place) == before


EXPORTS = {  # output_dir of export.py, relative to the working folder; `run` is what is exported
    "the run's folder": "run",
    "the run's folder, spelled in another way": "./run/",
    "a folder with a file": "data",
    "a link to a folder with files": "link",
}


@pytest.mark.parametrize("case", EXPORTS)
def test_an_export_takes_an_empty_folder_only(place, checkpoint, monkeypatch, case):
    save_folder(place / "run", checkpoint, "embedding")
    link("models/base")
    before = snapshot(place)
    with pytest.raises(ValueError, match="is not an empty folder"):
        run_recipe("export", ["--model_name_or_path", "run", "--output_dir", EXPORTS[case]], monkeypatch)
    assert snapshot(place) == before


def test_an_export_into_a_link_to_an_empty_folder_below_the_run(place, checkpoint, monkeypatch):
    save_folder(place / "run", checkpoint, "embedding")
    (place / "run" / "exported").mkdir()
    link("run/exported")
    before = snapshot(place)
    run_recipe("export", ["--model_name_or_path", "run", "--output_dir", "link"], monkeypatch)
    assert unchanged(before, place)
    assert (place / "run" / "exported" / "config.json").is_file()


COMPARISONS = {
    "the model's folder": (lambda place: "models/base/", MODEL),
    "a link to the encoder's folder": (lambda place: link("models/encoder"), MODEL),
    "the folder of the data files": (lambda place: "data", DOCUMENTS),
    "a folder with a report": (lambda place: (place / "out" / "report.md").write_text("mine") and "out", "no comparison"),
    "a folder with a state.json of somebody": (
        lambda place: (place / "out" / "state.json").write_text('{"mine": 1}') and "out",
        "has state.json, but no comparison was started there",
    ),
    "a folder with figures": (lambda place: (place / "out" / "figures").mkdir() or "out", "no comparison"),
    "a folder with a run's name": (
        lambda place: (place / "out" / "majority-class").mkdir() or (place / "out/majority-class/x").touch() or "out",
        "does not know it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", COMPARISONS)
def test_a_comparison_replaces_nothing_of_somebody_else(place, monkeypatch, case):
    shutil.copytree("models/base", "models/encoder")
    (place / "out").mkdir()
    output, says = COMPARISONS[case]
    files = [part for name, path in FILES.items() for part in (f"--{name}", path)]
    models = ["--model_name_or_path", "models/base", "--encoder_name_or_path", "models/encoder"]
    options = [*models, *files, "--baselines", "majority", "tfidf", "--output_dir", output(place)]
    before = snapshot(place)
    with pytest.raises(ValueError, match=says):
        run_recipe("compare", options, monkeypatch)
    assert unchanged(before, place)
    assert not list(place.rglob("report.json"))
