"""SIGKILL at random moments: the next start loses nothing, repeats nothing, and ends as if nothing had happened.

Slow: `make test-slow`. Each kill goes to all that was started, at a random moment of the time that an uninterrupted
start takes after its imports: 32 that hit, over all tests.
"""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import hub_client
import numpy as np
import pandas as pd
import pytest
import sessions
import yaml
from conftest import make_rows, write_jsonl
from datasets import Dataset
from hub_server import HubServer
from huggingface_hub import HfApi
from test_classifier import TEXTS, save_folder
from test_hub import BASE, REPO, finish
from test_recipes import arguments

from hf_causal_clf import TextClassifier
from hf_causal_clf.training.checkpoints import whole_checkpoints

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
IMPORTS = 0.4  # share of an uninterrupted start that is over before anything is written


def run(command, env=None, kill_after=None):
    """Run a command; kill it and all that it has started after so many seconds. Returns its exit code and its log."""
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        log, _ = process.communicate(timeout=kill_after or 600)
    except subprocess.TimeoutExpired:
        sessions.kill(process.pid)
        log, _ = process.communicate()
    return process.returncode, log


def killed_starts(command, kills, duration, seed, env=None):
    """Start again and again until so many kills have hit; yields after each start whether it was killed.

    `command` returns the command of the next start. One that ends before its kill does not count.
    """
    draw, hits = random.Random(seed), 0
    for _ in range(5 * kills):
        code, log = run(command(), env, kill_after=duration * draw.uniform(IMPORTS, 1.0))
        assert code in (0, -signal.SIGKILL), log[-3000:]
        hits += code != 0
        yield code != 0
        if hits == kills:
            print(f"{hits} kills hit")
            return
    raise AssertionError(f"{hits} of {kills} kills hit")


def timed(command, env=None):
    """Seconds of an uninterrupted start."""
    start = time.monotonic()
    code, log = run(command, env)
    assert code == 0, log[-3000:]
    return time.monotonic() - start


def predictions(folder):
    rows = Dataset.from_parquet(str(folder / "predictions.parquet"), keep_in_memory=True)
    return list(rows["id"]), np.array(list(rows["probabilities"]))


def readable(folder):
    """Whatever is there is whole: a reader never sees half a file."""
    for path in folder.rglob("*.json"):
        if not any(part.startswith(("checkpoint-", ".unfinished", "tmp")) for part in path.relative_to(folder).parts):
            json.loads(path.read_text())


@pytest.mark.parametrize(("recipe", "kills"), [("embed", 8), ("instruct", 6)])
def test_training_and_saving(recipe, kills, checkpoint, files, tmp_path):
    """Early stopping and the best checkpoint included."""
    options = {"num_train_epochs": "6", "eval_strategy": "steps", "eval_steps": "2", "save_strategy": "steps"}
    options |= {"save_steps": "2", "early_stopping_patience": "2", "learning_rate": "3e-2", "data_seed": "1"}
    script, output = f"recipes/{recipe}.py", tmp_path / "run"
    duration = timed([script, *arguments(recipe, checkpoint, files, tmp_path / "whole", **options)])
    reached = 0

    def command():
        nonlocal reached
        steps = [int(path.name.rpartition("-")[2]) for path in whole_checkpoints(output)]
        assert max(steps, default=0) >= reached  # no finished step is lost
        reached = max(steps, default=0)
        resume = ["--resume_from_checkpoint", "true"] if steps else []
        return [script, *arguments(recipe, checkpoint, files, output, **options), *resume]

    for killed in killed_starts(command, kills, duration, seed=1):
        readable(output)
        if not killed or (output / "README.md").is_file():  # finished, the card last: from the beginning
            shutil.rmtree(output)
            reached = 0
    timed(command())
    ids, probabilities = predictions(output)
    expected_ids, expected = predictions(tmp_path / "whole")
    assert ids == expected_ids
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in (output, tmp_path / "whole")]
    assert metrics[0]["training"]["steps"] == metrics[1]["training"]["steps"] < 36
    assert metrics[0]["training"]["train_loss"] == pytest.approx(metrics[1]["training"]["train_loss"], rel=1e-4)
    assert metrics[0]["test"] == pytest.approx(metrics[1]["test"], abs=1e-4)
    assert not list(output.glob("checkpoint-*"))


def test_prediction(checkpoint, tmp_path):
    save_folder(tmp_path / "model", checkpoint, "instruction")
    rows = [{"id": index, **row} for index, row in enumerate(make_rows(400))]
    documents = write_jsonl(tmp_path / "documents.jsonl", rows)

    def command(output):
        names = {
            "model_name_or_path": tmp_path / "model",
            "test_file": documents,
            "output_dir": output,
            "shard_size": 9,
        }
        return ["recipes/predict.py", *(str(part) for name, value in names.items() for part in (f"--{name}", value))]

    duration, done = timed(command(tmp_path / "whole")), {}
    for killed in killed_starts(lambda: command(tmp_path / "out"), 6, duration, seed=2):
        shards = {
            path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in (tmp_path / "out").glob("shard-*")
        }
        assert done.items() <= shards.items()  # what was finished is kept, not made again
        done = shards
        if not killed:
            shutil.rmtree(tmp_path / "out")
            done = {}
    timed(command(tmp_path / "out"))
    found, expected = (
        [Dataset.from_parquet(str(path), keep_in_memory=True) for path in sorted((tmp_path / name).glob("shard-*"))]
        for name in ("out", "whole")
    )
    assert [row for part in found for row in part["id"]] == list(range(400))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(*(pd.DataFrame(list(part["probabilities"])) for part in (one, other)), atol=1e-6)


def test_comparison(checkpoint, files, tmp_path):
    config = {
        **files,
        "model_name_or_path": checkpoint,
        "dtype": "float32",
        "max_length": 32,
        "prompt_max_length": 128,
        "baselines": ["majority", "tfidf", "frozen"],
        "runs": {"head": {"approach": "embedding", "num_train_epochs": 1, "optim": "adamw_torch", "report_to": "none"}},
    }

    def command(output):
        path = tmp_path / f"{output.name}.yaml"
        path.write_text(yaml.safe_dump({**config, "output_dir": str(output)}))
        return ["recipes/compare.py", "--config", str(path)]

    duration, finished = timed(command(tmp_path / "whole")), {}
    for killed in killed_starts(lambda: command(tmp_path / "out"), 6, duration, seed=3):
        readable(tmp_path / "out")
        state = tmp_path / "out" / "state.json"
        runs = json.loads(state.read_text()) if state.is_file() else {}
        now = {
            name: (tmp_path / "out" / name / "metrics.json").stat().st_mtime_ns
            for name in runs
            if runs[name]["finished"]
        }
        assert finished.items() <= now.items()  # no finished run is run again
        finished = now
        if not killed:
            shutil.rmtree(tmp_path / "out")
            finished = {}
    timed(command(tmp_path / "out"))
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("out", "whole")]
    for one, other in zip(*(report["runs"] for report in reports), strict=True):
        assert one["name"] == other["name"]
        assert one["metrics"]["f1_macro"] == pytest.approx(other["metrics"]["f1_macro"], abs=1e-6)


PUSH = "import sys; from hf_causal_clf.sharing.hub import push_run; push_run(sys.argv[1], sys.argv[2], base_model=sys.argv[3])"


def test_pushing(checkpoint, tmp_path):
    save_folder(tmp_path / "run", checkpoint, "embedding")
    finish(tmp_path / "run")
    expected = TextClassifier.from_pretrained(tmp_path / "run").predict_proba(TEXTS)
    with HubServer() as server, hub_client.using(server, tmp_path / "home", server.token):
        HfApi().create_repo(BASE)
        HfApi().upload_folder(repo_id=BASE, folder_path=checkpoint)
        env = hub_client.environment(server, tmp_path / "pusher", server.token)

        def push(repo):
            return ["-c", PUSH, str(tmp_path / "run"), repo, BASE]

        duration = timed(push("alice/whole"), env)
        for _ in killed_starts(lambda: push(REPO), 6, duration, seed=4, env=env):
            shutil.rmtree(tmp_path / "home", ignore_errors=True)
            published = REPO in {name for _, name in server.repos} and "classification.json" in server.files(REPO)
            if published:  # all of it
                found = TextClassifier.from_pretrained(REPO).predict_proba(TEXTS)
                np.testing.assert_allclose(found, expected, atol=1e-5)
            else:
                assert REPO not in {name for _, name in server.repos} or server.files(REPO) == {}
        timed(push(REPO), env)
        assert server.files(REPO).keys() == server.files("alice/whole").keys()
