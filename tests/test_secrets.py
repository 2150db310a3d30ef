"""Planted secrets: in nothing that a run writes, logs or publishes."""

import base64
import os
import random
import string
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import hub_client
import pytest
from conftest import make_rows, write_jsonl
from datasets import Dataset
from hub_server import HubServer
from huggingface_hub import HfApi
from test_hub import BASE, REPO
from test_recipes import arguments

ROOT = Path(__file__).parent.parent
VARIABLES = ("WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "SOME_TOKEN")


def word(draw, length=16):
    return "".join(draw.choices(string.ascii_lowercase, k=length))


@pytest.fixture
def planted(recipe, checkpoint, tmp_path):
    """A Hub with the base model, a home folder, and what nobody else may ever see, by name: drawn for each recipe."""
    draw = random.Random(recipe)
    home = tmp_path / f"home-of-{word(draw)}"
    home.mkdir()
    with HubServer() as server:
        with hub_client.using(server, tmp_path / "maker", server.token):
            HfApi().create_repo(BASE)
            HfApi().upload_folder(repo_id=BASE, folder_path=checkpoint)
        server.requests.clear()
        secrets = {"home": str(home), "token": server.token, **{name: word(draw, 40) for name in VARIABLES}}
        counts = {"train_file": 24, "validation_file": 9, "test_file": 9}
        for name, count in counts.items():
            rows = make_rows(count)
            for index, row in enumerate(rows):
                secrets[f"document {index} of {name}"] = secret = word(draw)
                row["text"] += f" {secret}"
            write_jsonl(home / f"{name}.jsonl", rows)
        yield server, home, {name: f"{name}.jsonl" for name in counts}, secrets


def forms(secret):
    """How a secret may be written down."""
    yield secret.encode()
    yield quote(secret, safe="").encode()
    yield secret.encode("utf-16-le")
    for shift in range(3):  # inside a longer base64 text, at each of the three alignments
        coded = base64.b64encode(b"\0" * shift + secret.encode())
        yield coded[4 if shift else 0 : -4]


def strings(folder):
    """Name and content of each file, with the columns of Parquet files, which are compressed."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.name, path.name.encode() + path.read_bytes()
        if path.suffix == ".parquet":
            yield path.name, repr(Dataset.from_parquet(str(path), cache_dir=str(folder.parent / "read"))[:]).encode()


def test_every_form_is_found():
    secret = "abcdefghijklmnop/qrst"
    for number, form in enumerate(forms(secret)):
        assert len(form) > 8
        shown = (
            secret.encode(),
            quote(secret, safe="").encode(),
            secret.encode("utf-16-le"),
            *(base64.b64encode(b"xy"[:shift] + secret.encode() + b"tail") for shift in range(3)),
        )
        assert form in shown[number]


@pytest.mark.parametrize(
    ("home", "messages"),
    [
        ("/home/ada", {"read %s/run, not %s": "read ~/run, not ~", "/home/adam/run %s": "/home/adam/run ~"}),
        ("/", {"read /run, not %s": "read /run, not /"}),
    ],
)
def test_log_messages_name_the_home_folder_by_its_sign(home, messages):
    code = (
        "import logging, sys; from hf_causal_clf.cli.logs import hide_home_folder; hide_home_folder()\n"
        "for message in sys.argv[2:]: logging.warning(message, *[sys.argv[1]] * message.count('%'))"
    )
    command = [sys.executable, "-c", code, home, *messages]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HOME": home}, check=True)
    assert done.stderr.splitlines() == list(messages.values())


def test_what_a_library_logs_is_written_once_and_without_the_home_folder():
    names = ["transformers", "datasets", "huggingface_hub", "accelerate", "hf_causal_clf"]
    code = (
        "import sys, logging, transformers, datasets, hf_causal_clf; from hf_causal_clf.cli.logs import hide_home_folder; "
        "hide_home_folder(); hide_home_folder()\n"
        "for name in sys.argv[1:]: logging.getLogger(name + '.part').warning('%s read %s', name, '/home/ada/x')"
    )
    command = [sys.executable, "-c", code, *names]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HOME": "/home/ada"}, check=True)
    written = [line.removeprefix("[transformers] ") for line in done.stderr.splitlines()]
    assert written == [f"{name} read ~/x" for name in names]


@pytest.mark.parametrize("recipe", ["embed", "instruct"])
def test_a_run_tells_nothing(planted, tmp_path, recipe):
    server, home, files, secrets = planted
    options = {"num_train_epochs": "1", "hub_model_id": REPO, "push_to_hub": "true", "hub_token": server.token}
    options |= {"report_to": "tensorboard", "logging_steps": "1", "log_level": "info"}
    command = [str(ROOT / "recipes" / f"{recipe}.py"), *arguments(recipe, BASE, files, "run", **options)]
    variables = {"HOME": str(home), **{name: secrets[name] for name in VARIABLES}}
    done = hub_client.run(server, command, home / "hub", server.token, variables, cwd=home)
    assert done.returncode == 0, done.stderr[-3000:]
    predict = [str(ROOT / "recipes" / "predict.py"), "--model_name_or_path", REPO, "--output_dir", "predicted"]
    again = hub_client.run(
        server, [*predict, "--test_file", files["test_file"]], home / "hub", server.token, variables, cwd=home
    )
    assert again.returncode == 0, again.stderr[-3000:]

    written = [*strings(home / "run"), *strings(home / "predicted")]
    assert {"README.md", "classification.json", "metrics.json", "adapter_config.json", "predictions.parquet"} <= {
        name for name, _ in written
    }
    written += [("log", (process.stdout + process.stderr).encode()) for process in (done, again)]
    assert "The run is published" in done.stdout
    for secret_name, secret in secrets.items():
        for form in forms(secret):
            assert not [name for name, content in written if form in content], secret_name
    for path, content in server.files(REPO).items():
        assert not [name for name, secret in secrets.items() if any(form in content for form in forms(secret))], path
    assert not [name for name, secret in secrets.items() if name != "token" and server.find(secret)]
