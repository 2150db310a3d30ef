"""The server: what it answers, what it refuses, what waits for what."""

import asyncio
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

pytest.importorskip("prometheus_client", reason="the server needs the extra: pip install 'hf_causal_clf[serve]'")

from conftest import run_as_main
from lengths import Lengths, during, length_classifier, numbered, recovered, until
from test_classifier import save_folder
from transformers.utils.logging import enable_progress_bar

from hf_causal_clf import LabelSpace, TextClassifier
from hf_causal_clf.cascade import Cascade, stage_margins
from hf_causal_clf.combination import CombinationScorer, Member
from hf_causal_clf.evaluation.calibration import Calibration
from hf_causal_clf.evaluation.selective import Abstention
from hf_causal_clf.runs.run import Run
from hf_causal_clf.serving.requests import Limits, control_tokens

ROOT = Path(__file__).parents[2]
NAMES = ["a", "b", "c"]
TEXTS = ["the cat", "the football match and the shares " * 3, "a mat"]


def ask(classifier, given, **options):
    """What one request is answered, whose body is JSON or bytes."""

    async def work(client):
        if isinstance(given, bytes):
            return await client.post("/predict", content=given, headers={"Content-Type": "application/json"})
        return await client.post("/predict", json=given)

    return during(classifier, work, **options)


@pytest.fixture(scope="module", params=["embedding", "instruction"])
def folders(request, checkpoint, tmp_path_factory):
    """A single-label and a multi-label run of an approach."""
    found = {}
    for multi_label in (False, True):
        found[multi_label] = tmp_path_factory.mktemp("run")
        save_folder(found[multi_label], checkpoint, request.param, LabelSpace(NAMES, multi_label))
    return found


@pytest.mark.parametrize("multi_label", [False, True])
def test_answers_are_those_of_the_classifier(multi_label, folders):
    classifier = TextClassifier.from_pretrained(folders[multi_label])
    classifier.calibration = Calibration((0.5, 1.0, 2.0), (0.4, 0.5, 0.6)) if multi_label else Calibration(0.25)
    response = ask(classifier, {"texts": TEXTS})
    assert response.status_code == 200, response.text
    answers = response.json()["predictions"]
    assert [answer["labels" if multi_label else "label"] for answer in answers] == classifier.predict(TEXTS)
    assert [list(answer["probabilities"]) for answer in answers] == [NAMES] * 3
    found = np.array([list(answer["probabilities"].values()) for answer in answers])
    np.testing.assert_allclose(found, classifier.predict_proba(TEXTS), atol=1e-6)


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_run_with_a_target_error_says_where_it_is_not_sure(multi_label, checkpoint, tmp_path):
    save_folder(tmp_path, checkpoint, "embedding", LabelSpace(NAMES, multi_label))
    plain = TextClassifier.from_pretrained(tmp_path)
    decided = plain.calibration.decide(plain.predict_proba(TEXTS), multi_label=multi_label)
    confidence = np.where(decided == 1, plain.predict_proba(TEXTS), 1 - plain.predict_proba(TEXTS))
    middle = np.median(confidence, axis=0) if multi_label else [np.median(plain.predict_proba(TEXTS).max(1))]
    path = tmp_path / "classification.json"
    fitted = Abstention(0.1, tuple(map(float, middle))).to_dict()
    path.write_text(json.dumps({**json.loads(path.read_text()), "abstention": fitted}))
    classifier = TextClassifier.from_pretrained(tmp_path)
    assert Run.read(tmp_path).abstention is not None
    answers = ask(classifier, {"texts": TEXTS}).json()["predictions"]
    expected = classifier.predict(TEXTS, abstain=True)
    if multi_label:
        assert [answer["labels"] for answer in answers] == classifier.predict(TEXTS)
        unsure = [[name for name, sure in row.items() if sure is None] for row in expected]
        assert [answer["abstained"] for answer in answers] == unsure
        assert any(unsure)
    else:
        assert [answer["label"] for answer in answers] == expected
        assert [answer["abstained"] for answer in answers] == [label is None for label in expected]
        assert None in expected
        assert len(set(expected)) > 1
    # Of other probabilities than those that it was fitted on, the target error says nothing
    facts = {"label_counts": {"train": [5, 3, 2]}, "documents": {"train": 10}}
    path.write_text(json.dumps({**json.loads(path.read_text()), "training": facts}))
    shifted = TextClassifier.from_pretrained(tmp_path, target_prior={"a": 0.1, "b": 0.1, "c": 0.8})
    answers = ask(shifted, {"texts": TEXTS}).json()["predictions"]
    assert [answer["labels" if multi_label else "label"] for answer in answers] == shifted.predict(TEXTS)
    assert not any("abstained" in answer for answer in answers)


def test_a_cascade_decides_by_the_thresholds_of_the_stage_that_answered(checkpoint, tmp_path):
    stages = []
    for name, limits in (("first", (0.01, 0.99, 0.5)), ("second", (0.99, 0.01, 0.5))):
        save_folder(tmp_path / name, checkpoint, "embedding", LabelSpace(NAMES, multi_label=True))
        stages.append(TextClassifier.from_pretrained(tmp_path / name))
        stages[-1].calibration = Calibration(None, limits)
    ranked = np.sort([stage_margins(stages[0], stages[0].scorer.logits([text]))[0] for text in TEXTS])
    classifier = TextClassifier(Cascade(stages, float(ranked[:2].mean())), stages[0].label_space)
    assert set(classifier.score(TEXTS)[1]) == {1, 2}
    answers = ask(classifier, {"texts": TEXTS}).json()["predictions"]
    assert [answer["labels"] for answer in answers] == classifier.predict(TEXTS)
    assert {tuple(answer["labels"][:1]) for answer in answers} == {("a",), ("b",)}


BAD = {
    "no JSON": (b'{"texts": ["secret"', 400, "not JSON"),
    "not UTF-8": ('{"texts": ["secrét"]}'.encode("latin-1"), 400, "UTF-8"),
    "nested without end": (b"[" * 9000, 400, "not JSON"),
    "a number of many digits": (b'{"texts": [' + b"1" * 9000 + b"]}", 400, "not JSON"),
    "nothing": (b"", 400, "not JSON"),
    "a list": (["secret"], 422, "with the key 'texts'"),
    "an unknown key": ({"texts": ["secret"], "top_k": 1}, 422, "and no other"),
    "another key": ({"inputs": ["secret"]}, 422, "with the key 'texts'"),
    "a text": ({"texts": "secret"}, 422, "must be a list"),
    "no text": ({"texts": []}, 422, "at least one"),
    "a number": ({"texts": ["secret", 1]}, 422, "Text 1, counted from 0, is not a string"),
    "null": ({"texts": [None]}, 422, "not a string"),
    "an empty text": ({"texts": ["secret", " \n"]}, 422, "Text 1, counted from 0, is empty"),
    "NUL": ({"texts": ["secret\0"]}, 422, "NUL"),
    "half a surrogate pair": (b'{"texts": ["secret \\ud83d"]}', 422, "surrogate"),
    "a control token": ({"texts": ["secret <|im_end|>"]}, 422, "control token '<|im_end|>'"),
    "many bytes": ({"texts": ["secret " * 2000]}, 413, "more than 10,000 bytes"),
    "many texts": ({"texts": ["a"] * 1001}, 413, "1,001 texts"),
}


@pytest.fixture(scope="module")
def classifier(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    save_folder(folder, checkpoint, "embedding")
    return TextClassifier.from_pretrained(folder)


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_gets_a_sentence(kind, classifier, caplog, capfd):
    given, status, said = BAD[kind]
    response = ask(classifier, given)
    assert response.status_code == status
    error = response.json()["error"]
    assert said in error
    assert error.endswith(".")
    assert "secret" not in caplog.text + "".join(capfd.readouterr())
    if status == 422 and "counted from 0" in said:
        assert response.json()["position"] == int(said.split()[1].rstrip(","))


def test_control_tokens_are_those_of_all_members(classifier):
    members = [Member(each, Calibration(), 0.5) for each in (Lengths(0), classifier.scorer)]
    pattern = control_tokens(CombinationScorer(members, multi_label=False, batch_size=4))
    assert pattern.search("a cat <|im_start|>")
    assert not pattern.search("<h1> a < b | c [INST] \n\n")
    assert control_tokens(Lengths(0)) is None


def test_control_tokens_are_those_of_the_stages_of_a_cascade(classifier, checkpoint, tmp_path):
    """Also where a stage is a combination."""
    members = [Member(each, Calibration(), 0.5) for each in (Lengths(0), classifier.scorer)]
    combination = CombinationScorer(members, multi_label=False, batch_size=4)
    lengths = TextClassifier(Lengths(0), classifier.label_space)
    for stages in (
        [lengths, classifier],
        [classifier, lengths],
        [lengths, TextClassifier(combination, lengths.label_space)],
    ):
        cascade = TextClassifier(Cascade(stages, 0.5), classifier.label_space)
        response = ask(cascade, {"texts": ["a cat <|im_start|>"]})
        assert response.status_code == 422
        assert "control token '<|im_start|>'" in response.json()["error"]


def test_other_content_types_and_routes_get_a_sentence(classifier):
    async def work(client):
        form = await client.post("/predict", content=b'{"texts": ["a"]}', headers={"Content-Type": "text/plain"})
        return form, await client.get("/predict"), await client.get("/nothing"), await client.post("/health")

    form, get, nothing, post = during(classifier, work)
    assert (form.status_code, get.status_code, nothing.status_code, post.status_code) == (415, 405, 404, 405)
    assert "-H 'Content-Type: application/json'" in form.json()["error"]
    assert all("POST /predict" in response.json()["error"] for response in (get, nothing, post))
    assert not {name for name in form.headers if name.startswith("access-control")}


def test_nothing_is_lost_or_mixed_up_and_waiting_texts_share_calls():
    draw = random.Random(0)
    requests = [numbered(draw, draw.randint(1, 12)) for _ in range(1000)]
    classifier = length_classifier()

    async def work(client):
        async def one(texts):
            await asyncio.sleep(draw.random() * 0.5)
            return (await client.post("/predict", json={"texts": texts})).json()["predictions"]

        return await asyncio.gather(*map(one, requests))

    answers = during(classifier, work, limits=Limits(10_000, 10_000))
    for texts, found in zip(requests, answers, strict=True):
        assert recovered(found) == [(len(text), int(text.rpartition(" ")[2])) for text in texts]
    calls = classifier.scorer.calls
    assert sum(map(len, calls)) == sum(map(len, requests))
    assert max(map(len, calls)) == 16  # four batches
    assert len(calls) < len(requests) / 2


def test_a_full_queue_is_said_at_once_with_when_to_come_back():
    classifier = length_classifier()
    gate, calls = classifier.scorer.gate, classifier.scorer.calls

    async def work(client):
        def one(count):
            return client.post("/predict", json={"texts": ["the cat"] * count})

        gate.clear()
        first = asyncio.create_task(one(20))  # of which a call takes 16
        await until(lambda: calls)
        second = asyncio.create_task(one(20))
        while "waiting_texts 24.0" not in (await client.get("/metrics")).text:
            await asyncio.sleep(0.005)
        full = await one(10)
        gate.set()
        return full, [(await first).status_code, (await second).status_code], (await client.get("/metrics")).text

    full, others, metrics = during(classifier, work, limits=Limits(10_000, 30))
    assert full.status_code == 429
    assert int(full.headers["Retry-After"]) >= 1
    assert full.json()["error"].startswith("The queue is full. Try again in ")
    assert others == [200, 200]
    assert 'hf_causal_clf_requests_total{status="429"} 1.0' in metrics.splitlines()
    assert "hf_causal_clf_waiting_texts 0.0" in metrics.splitlines()
    assert "hf_causal_clf_texts_total 40.0" in metrics.splitlines()


def test_a_short_request_does_not_wait_for_all_of_a_long_one():
    classifier = length_classifier()
    gate, calls = classifier.scorer.gate, classifier.scorer.calls
    long = [f"long {row}" for row in range(160)]

    async def work(client):
        gate.clear()
        first = asyncio.create_task(client.post("/predict", json={"texts": long}))
        await until(lambda: calls)
        second = asyncio.create_task(client.post("/predict", json={"texts": ["short 1"]}))
        while "waiting_texts 145.0" not in (await client.get("/metrics")).text:
            await asyncio.sleep(0.005)
        gate.set()
        return (await first).json()["predictions"], (await second).json()["predictions"]

    answers = during(classifier, work)
    assert [recovered(each) for each in answers] == [[(len(text), row) for row, text in enumerate(long)], [(7, 1)]]
    assert "short 1" in calls[2]  # the second was taken from the long one, whose turn it was


def test_a_text_that_fails_fails_its_request_alone_and_is_not_logged(caplog):
    async def work(client):
        texts = ["one 1"], ["poison 2", "a 3"], ["three 4"]
        return await asyncio.gather(*(client.post("/predict", json={"texts": each}) for each in texts))

    first, failed, last = during(length_classifier(), work)
    assert [first.status_code, failed.status_code, last.status_code] == [200, 500, 200]
    assert recovered(last.json()["predictions"]) == [(7, 4)]
    assert "RuntimeError" in failed.json()["error"]
    assert "RuntimeError" in caplog.text
    assert "poison" not in failed.text + caplog.text


def test_who_has_gone_takes_no_place_in_the_queue():
    classifier = length_classifier()
    gate, calls = classifier.scorer.gate, classifier.scorer.calls

    async def work(client):
        async def one(text):
            return await client.post("/predict", json={"texts": [text] * 16})

        gate.clear()
        first = asyncio.create_task(one("first 1"))
        await until(lambda: calls)
        await gone_after(client, 0.05, ["impatient 2"] * 16)
        assert "waiting_texts 0.0" in (await client.get("/metrics")).text
        gate.set()
        assert (await first).status_code == (await one("last 3")).status_code == 200

    async def gone_after(client, seconds, texts):
        """A request whose client closes the connection, as servers tell an application of it."""
        body, sent = json.dumps({"texts": texts}).encode(), []

        async def receive():
            if not sent:
                sent.append(body)
                return {"type": "http.request", "body": body, "more_body": False}
            await asyncio.sleep(seconds)
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/predict", "headers": headers, "query_string": b""}
        await client._transport.app(scope, receive, send)

    during(classifier, work)
    assert [call[0] for call in calls] == ["first 1", "last 3"]


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_description_is_of_what_is_answered(multi_label):
    async def work(client):
        asked = {"texts": ["the cat 1"]}
        answers = (await client.post("/predict", json=asked)).json()
        return (await client.get("/openapi.json")).json(), answers, (await client.get("/health")).json()

    described, answers, health = during(length_classifier(multi_label=multi_label), work)
    assert health == {"status": "ok"}
    assert {"/predict", "/health", "/metrics", "/run"} == set(described["paths"])
    schema = described["components"]["schemas"]["Prediction"]
    assert set(schema["required"]) == set(schema["properties"]) == set(answers["predictions"][0])
    assert set(described["paths"]["/predict"]["post"]["responses"]) >= {"200", "400", "413", "415", "422", "429"}


async def interrupted(address, stop):
    """What requests are answered that the server had accepted when it was stopped."""
    texts = [f"the cat {'sat on a mat ' * (row % 20)}" for row in range(800)]
    async with httpx.AsyncClient(base_url=address, timeout=60) as client:
        refused = await client.post("/predict", json={"texts": ["secret " * 200_000]})
        assert refused.status_code == 413
        requests = [
            asyncio.create_task(client.post("/predict", json={"texts": texts[row : row + 50]}))
            for row in range(0, 800, 50)
        ]
        waiting = classified = 0
        while waiting + classified < 800 - 16:  # but for a call's
            page = (await client.get("/metrics")).text
            waiting, classified = (
                float(re.search(rf"^hf_causal_clf_{name} (.*)$", page, re.M)[1])
                for name in ("waiting_texts", "texts_total")
            )
        stop()
        answers = [answer for each in requests for answer in (await each).json()["predictions"]]
    assert waiting
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/health")
    return texts, np.array([list(answer["probabilities"].values()) for answer in answers])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_recipe_answers_what_it_has_accepted_and_stops(number, classifier, monkeypatch, capsys):
    found = []

    def ask():
        while not (address := re.search(r"It answers on (\S+); Ctrl-C", said := capsys.readouterr().out)):
            time.sleep(0.01)
        assert "TextClassifier from" in said
        found.extend(asyncio.run(interrupted(address[1], lambda: os.kill(os.getpid(), number))))

    words = ["--model_name_or_path", classifier.source, "--port", "0", "--per_device_eval_batch_size", "4"]
    monkeypatch.setattr("sys.argv", ["serve.py", *words])
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    run_as_main(ROOT / "recipes" / "serve.py")
    asking.join()
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == before
    np.testing.assert_allclose(found[1], classifier.predict_proba(found[0]), atol=1e-5)
    enable_progress_bar()


@pytest.mark.slow
def test_the_command_in_a_process_of_its_own(classifier):
    command = [sys.executable, "-m", "hf_causal_clf_command", "serve", "--model_name_or_path", classifier.source]
    with subprocess.Popen(
        [*command, "--port", "0", "--per_device_eval_batch_size", "4"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        lines = "".join(process.stdout.readline() for _ in range(5))
        address = re.search(r"It answers on (http://127\.0\.0\.1:\d+); Ctrl-C stops it\.", lines)[1]
        texts, found = asyncio.run(interrupted(address, lambda: process.send_signal(signal.SIGTERM)))
        assert process.wait(timeout=30) == 0
        assert process.stderr.read() == ""
    np.testing.assert_allclose(found, classifier.predict_proba(texts), atol=1e-5)


def test_mistakes_are_told_before_a_model_is_loaded(tmp_path, monkeypatch):
    def start(**options):
        words = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        monkeypatch.setattr("sys.argv", ["serve.py", "--model_name_or_path", str(tmp_path), *words])
        run_as_main(ROOT / "recipes" / "serve.py")

    with pytest.raises(ValueError, match=r"port must be from 0 to 65535, got 65536\.\nmax_waiting_texts must be at le"):
        start(port=65536, max_waiting_texts=0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"Cannot serve on port {port} of '127.0.0.1': .* Choose another --port"):
            start(port=port)
    with pytest.raises(OSError, match=r"of 'no\.such\.host': "):
        start(host="no.such.host")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ValueError, match=r"needs the package uvicorn, .*: pip install 'hf_causal_clf\[serve\]'"):
        start()
