"""The server: what it answers, what it refuses, what waits for what."""

import asyncio
import time

import httpx
import numpy as np
import pytest

pytest.importorskip("prometheus_client", reason="the server needs the extra: pip install 'hf_causal_clf[serve]'")

from test_classifier import save_folder

from hf_causal_clf import LabelSpace, TextClassifier
from hf_causal_clf.evaluation.calibration import Calibration
from hf_causal_clf.serving.app import make_app
from hf_causal_clf.serving.requests import Limits

LIMITS = Limits(max_request_bytes=10_000, max_texts=1000)


class Lengths:
    """A scorer whose logits say how long a text is, so that mixed-up answers show."""

    approach, batch_size = "tfidf", 4

    def __init__(self, seconds=0.0):
        self.seconds, self.calls = seconds, []

    def logits(self, texts):
        self.calls.append(list(texts))
        time.sleep(self.seconds)
        if any("poison" in text for text in texts):
            raise RuntimeError("of a text: poison")
        return np.array([[len(text) / 100, int(text.rpartition(" ")[2] or 0) / 1000] for text in texts], np.float32)


def length_classifier(seconds=0.0, multi_label=True):
    return TextClassifier(Lengths(seconds), LabelSpace(["length", "number"], multi_label))


def during(classifier, work, limits=LIMITS):
    """Give a client of the application to a coroutine function, in an event loop of its own."""
    app = make_app(classifier, limits)

    async def main():
        transport = httpx.ASGITransport(app)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://a") as one:
            return await work(one)

    return asyncio.run(main())


def ask(classifier, texts, limits=LIMITS):
    async def work(client):
        return await client.post("/predict", json={"texts": texts})

    return during(classifier, work, limits)


@pytest.mark.parametrize("approach", ["embedding", "instruction"])
@pytest.mark.parametrize("multi_label", [False, True])
def test_answers_are_those_of_the_classifier(approach, multi_label, checkpoint, tmp_path):
    save_folder(tmp_path, checkpoint, approach, LabelSpace(["a", "b", "c"], multi_label))
    classifier = TextClassifier.from_pretrained(tmp_path)
    classifier.calibration = Calibration((0.5, 1.0, 2.0), (0.4, 0.5, 0.6)) if multi_label else Calibration(0.25)
    texts = ["the cat", "the football match and the shares " * 3, "a mat"]
    response = ask(classifier, texts)
    assert response.status_code == 200, response.text
    answers = response.json()["predictions"]
    assert [answer["labels" if multi_label else "label"] for answer in answers] == classifier.predict(texts)
    assert [list(answer["probabilities"]) for answer in answers] == [["a", "b", "c"]] * 3
    found = np.array([list(answer["probabilities"].values()) for answer in answers])
    np.testing.assert_allclose(found, classifier.predict_proba(texts), atol=1e-6)
