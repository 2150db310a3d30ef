"""What TensorBoard and trackio have of a run.

The runs that trackio watches are processes of their own: it reads `TRACKIO_DIR` once, and its threads end with them.
"""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_recipes import ROOT, arguments, run
from test_train import RUN_FILES
from transformers.integrations import TensorBoardCallback

from hf_causal_clf.sharing.hub import stage_run
from hf_causal_clf.training.tracking import RunTracking

pytestmark = pytest.mark.figures

TOKEN = "hf_" + "x" * 30
RECIPES = ("embed", "instruct")
EVALUATED = ("f1_macro", "f1_micro", "ece")


def scalars(log, name):
    return [(event.step, event.value) for event in log.Scalars(name)]


def read_log(folder):
    log = EventAccumulator(str(folder))
    log.Reload()
    return log


def final_metrics(output):
    return json.loads((output / "metrics.json").read_text())["test"]


@pytest.fixture(scope="module")
def runs(checkpoint, files, tmp_path_factory):
    """Folder with a finished run of each recipe that both trackers have watched, one after the other."""
    folder = tmp_path_factory.mktemp("tracked")
    (folder / "config.yaml").write_text("report_to: [tensorboard, trackio]\nproject: topics\n")
    commands = {}
    for recipe in RECIPES:
        commands[recipe] = arguments(recipe, checkpoint, files, folder / recipe, hub_token=TOKEN)
        place = commands[recipe].index("--report_to")
        commands[recipe][place : place + 2] = ["--config", str(folder / "config.yaml")]
    program = (
        "import json, runpy, sys\n"
        "for recipe, options in json.loads(sys.argv[1]).items():\n"
        "    sys.argv = [recipe, *options]\n"
        "    runpy.run_path(f'recipes/{recipe}.py', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(commands)],
        cwd=ROOT,
        env={**os.environ, "TRACKIO_DIR": str(folder / "trackio")},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(params=RECIPES)
def tracked(request, runs):
    """Folder of a finished run; trackio's files are beside it."""
    return runs / request.param


def evaluations(output):
    """Epoch ends of the run: two."""
    steps = json.loads((output / "metrics.json").read_text())["training"]["steps"]
    return [steps // 2, steps]


def test_tensorboard_has_each_evaluation_and_the_diagram(tracked):
    (folder,) = (tracked / "runs").iterdir()
    log = read_log(folder)
    for name in EVALUATED:
        assert [step for step, _ in scalars(log, f"eval/{name}")] == evaluations(tracked)
    for name, value in final_metrics(tracked).items():
        assert scalars(log, f"test/{name}") == [(evaluations(tracked)[-1], pytest.approx(value))]
    (image,) = log.Images("reliability_diagram")
    assert image.step == evaluations(tracked)[-1]
    shown = imread(BytesIO(image.encoded_image_string), format="png")
    assert np.array_equal(shown, imread(tracked / "figures" / "reliability_diagram.png"))


def test_trackio_has_each_evaluation_and_the_diagram_in_one_run(tracked):
    storage = tracked.parent / "trackio"
    with closing(sqlite3.connect(storage / "topics.db")) as database:
        configs = {run_id: json.loads(text) for run_id, text in database.execute("SELECT run_id, config FROM configs")}
        stored = database.execute("SELECT run_id, step, metrics FROM metrics ORDER BY id").fetchall()
    assert len(configs) == len({run_id for run_id, _, _ in stored}) == len(RECIPES)
    # The configuration is as the Trainer sent it, though the run was resumed
    (found,) = (run_id for run_id, config in configs.items() if config["output_dir"] == str(tracked))
    assert configs[found]["hub_token"] == "<HUB_TOKEN>"
    rows = [json.loads(metrics) for run_id, _, metrics in stored if run_id == found]
    assert [step for run_id, step, _ in stored if run_id == found] == list(range(len(rows)))
    for name in EVALUATED:
        steps = [row["train/global_step"] for row in rows if f"eval/{name}" in row]
        assert steps == evaluations(tracked)
    last = rows.pop()
    for name, value in final_metrics(tracked).items():
        assert last[f"test/{name}"] == pytest.approx(value)
    assert last["train/global_step"] == evaluations(tracked)[-1]
    image = storage / "media" / last["reliability_diagram"]["file_path"]
    assert image.read_bytes() == (tracked / "figures" / "reliability_diagram.png").read_bytes()
    assert not any("reliability_diagram" in row for row in rows)


def test_the_token_and_the_logs_stay_where_they_are(tracked, tmp_path):
    """Neither in the trackers' files, nor published."""
    written = [path for path in tracked.parent.rglob("*") if path.is_file()]
    assert {"events", "topics"} <= {path.name.split(".")[0] for path in written}
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]
    assert {path.name for path in tracked.iterdir()} == RUN_FILES | {"runs"}
    stage_run(tracked, tmp_path, "user/topics", ("user/base", None))
    assert {path.name for path in tmp_path.iterdir()} == RUN_FILES - {
        "predictions.parquet",
        "manifest.json",
        "report.html",
    }


def test_each_run_has_a_tensorboard_folder_of_its_own(checkpoint, files, tmp_path, monkeypatch):
    """One that `TENSORBOARD_LOGGING_DIR` names, or one below the output folder; trackio is not asked."""
    monkeypatch.setitem(sys.modules, "trackio", None)
    options = arguments("embed", checkpoint, files, tmp_path / "run", num_train_epochs="1", report_to="tensorboard")
    run("embed", options, monkeypatch)
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    run("embed", [*options, "--overwrite_output_dir", "true"], monkeypatch)
    (first,) = (tmp_path / "run" / "runs").iterdir()
    for folder in (first, tmp_path / "logs"):
        log = read_log(folder)
        assert [step for step, _ in scalars(log, "eval/ece")] == [6]
        assert [image.step for image in log.Images("reliability_diagram")] == [6]
    assert {path.name for path in (tmp_path / "run").iterdir()} == RUN_FILES | {"runs"}


@pytest.mark.parametrize("main", [True, False])
def test_only_the_main_process_sends(runs, tmp_path, monkeypatch, main):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    monkeypatch.setattr("hf_causal_clf.training.tracking.PartialState", lambda: SimpleNamespace(is_main_process=main))
    handler = SimpleNamespace(callbacks=[TensorBoardCallback()])
    tracking = RunTracking(SimpleNamespace(callback_handler=handler, add_callback=handler.callbacks.append))
    tracking.send(runs / "embed", {"ece": 0.5})
    assert (tmp_path / "logs").exists() is main
