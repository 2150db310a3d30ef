"""A real vLLM beside `TextClassifier`: heads exported and as adapters, answers, softmax and sigmoid, temperatures.

Slow: it starts three servers. vLLM has an environment of its own, which VLLM_PYTHON names (CONTRIBUTING.md).
"""

import json
import os
import signal
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from dataclasses import replace

import httpx
import numpy as np
import pytest
import sessions
import tiny
from test_classifier import save_folder
from test_export import export

from hf_causal_clf import LabelSpace, PromptTemplate, TextClassifier, Verbalizer
from hf_causal_clf.evaluation.calibration import Calibration
from hf_causal_clf.runs.run import Prompt, Run, Truncation
from hf_causal_clf.serving import RemoteClassifier

PYTHON = os.environ.get("VLLM_PYTHON")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PYTHON is None, reason="VLLM_PYTHON names no Python that has vLLM"),
]
NAMES = ["cat", "cat on a mat", "football match"]
TEXTS = [f"the cat {'sat on the football ' * (number % 40)}{number}" for number in range(200)]
SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "PYTHONPATH": "",
}


@contextmanager
def vllm(folder, model, *options):
    """A server of a model; it is ended with all that it started."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--host", "127.0.0.1"]
    common = ["--port", str(port), "--max-model-len", "256", "--max-num-seqs", "16", "--enforce-eager"]
    log = folder / "vllm.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, *common, *options],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | SETTINGS,
            start_new_session=True,
            cwd=folder,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 600
        while not answers(url):
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < end, log.read_text()[-3000:]
            time.sleep(1)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        sessions.kill(process.pid)


def answers(url):
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def base(tokenizer, tmp_path_factory):
    """A tiny model whose heads have a size that vLLM knows."""
    folder = tmp_path_factory.mktemp("base")
    size = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
    return tiny.save_checkpoint(folder, "llama", tokenizer, **size)


def check(remote, run, tolerance, dtype="float32"):
    classifier = TextClassifier.from_pretrained(run, dtype=dtype)
    expected = classifier.predict_proba(TEXTS)
    found = remote.predict_proba(TEXTS)
    assert np.abs(found - expected).max() < tolerance
    limits = np.array(classifier.calibration.thresholds or 0.5)
    margin = np.abs(expected - limits) if classifier.label_space.multi_label else -np.diff(-np.sort(-expected))[:, :1]
    pairs = zip(remote.predict(TEXTS), classifier.predict(TEXTS), (margin > 2 * tolerance).all(1), strict=True)
    assert all(here == there for here, there, sure in pairs if sure)
    assert expected.std(0).max() > 0.01  # the texts are told apart


def test_adapters_with_their_heads_on_one_base(base, tmp_path):
    spaces = {"two": LabelSpace(["a", "b"]), "three": LabelSpace(NAMES, multi_label=True)}
    for name, space in spaces.items():
        save_folder(tmp_path / name, base, "embedding", space)
    run = Run.read(tmp_path / "three")
    calibration = Calibration((0.5, 2.0, 1.5), (0.3, 0.6, 0.5))
    changes = {"calibration": calibration, "truncation": Truncation(60, "head_tail"), "document_suffix": "\n\nTopic:"}
    replace(run, **changes).write(tmp_path / "three")
    changes = {"truncation": Truncation(60, "tail", "chunks"), "calibration": Calibration(2.0)}
    replace(Run.read(tmp_path / "two"), **changes).write(tmp_path / "two")
    options = [
        "--runner",
        "pooling",
        "--convert",
        "classify",
        "--dtype",
        "float32",
        "--enable-lora",
        "--max-loras",
        "2",
    ]
    options += ["--max-lora-rank", "8", "--max-lora-cls-labels", "3"]
    options += ["--lora-modules", *(f"{name}={tmp_path / name}" for name in spaces)]
    with vllm(tmp_path, base, *options) as url:
        for name in spaces:
            check(RemoteClassifier(url, tmp_path / name, model=name), tmp_path / name, 1e-2)


@pytest.mark.parametrize(("multi_label", "dtype"), [(False, "bfloat16"), (True, "float32")])
def test_an_export_with_its_temperature_gives_calibrated_probabilities(base, tmp_path, monkeypatch, multi_label, dtype):
    """Softmax or sigmoid, as `config.json` says, also for who asks without this package."""
    tolerance = {"float32": 1e-2, "bfloat16": 0.08}[dtype]
    save_folder(tmp_path / "run", base, "embedding", LabelSpace(NAMES, multi_label=multi_label))
    calibration = Calibration((0.5, 2.0, 1.5), (0.3, 0.6, 0.5)) if multi_label else Calibration(2.5)
    replace(Run.read(tmp_path / "run"), calibration=calibration).write(tmp_path / "run")
    export(monkeypatch, tmp_path / "run", tmp_path / "out", "--fold_temperature", "true", "--dtype", dtype)
    expected = TextClassifier.from_pretrained(tmp_path / "run", dtype=dtype).predict_proba(TEXTS[:20])
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    with vllm(tmp_path, tmp_path / "out", "--runner", "pooling", "--dtype", dtype) as url:
        body = {"model": str(tmp_path / "out"), "input": TEXTS[:20]}
        said = httpx.post(f"{url}/classify", json=body, timeout=300).json()["data"]
        check(RemoteClassifier(url, tmp_path / "out"), tmp_path / "out", tolerance, dtype)
    found = np.array([row["probs"] for row in said])
    assert np.abs(found - expected).max() < tolerance
    if multi_label:
        limits = config["thresholds"]
        given = [[name for name, p, limit in zip(NAMES, row, limits, strict=True) if p >= limit] for row in found]
        assert given == TextClassifier.from_pretrained(tmp_path / "run").predict(TEXTS[:20])
    else:
        assert [row["label"] for row in said] == [NAMES[row.argmax()] for row in found]


def test_answers_of_an_adapter(base, tmp_path):
    save_folder(tmp_path / "run", base, "instruction")
    space = LabelSpace(["a", "b", "c"])
    prompt = Prompt(PromptTemplate(max_length=160), Verbalizer(space, dict(zip("abc", NAMES, strict=True))))
    changes = {"prompt": prompt, "truncation": Truncation(160), "calibration": Calibration(4.0)}
    replace(Run.read(tmp_path / "run"), **changes).write(tmp_path / "run")
    options = [
        "--dtype",
        "float32",
        "--enable-lora",
        "--max-lora-rank",
        "8",
        "--lora-modules",
        f"run={tmp_path / 'run'}",
    ]
    with vllm(tmp_path, base, *options) as url:
        check(RemoteClassifier(url, tmp_path / "run", model="run"), tmp_path / "run", 1e-2)
