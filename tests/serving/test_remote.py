"""`RemoteClassifier`: what it says beside `TextClassifier`, and what it does where the server does not answer."""

import asyncio
import contextlib
import random
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("prometheus_client", reason="the server needs the extra: pip install 'hf_causal_clf[serve]'")

import uvicorn
from lengths import LIMITS, length_classifier, numbered

from hf_causal_clf.evaluation.calibration import Calibration
from hf_causal_clf.evaluation.selective import Abstention
from hf_causal_clf.serving import RemoteClassifier
from hf_causal_clf.serving.app import make_app
from hf_causal_clf.serving.remote import ServerLost, TextsRefused
from hf_causal_clf.serving.requests import Limits
from hf_causal_clf.serving.server import address_of, open_socket


class Server:
    """The application behind a real socket, in a thread, which can die and come back."""

    def __init__(self, classifier, limits=LIMITS):
        self.classifier, self.limits, self.port = classifier, limits, 0

    def __enter__(self):
        bound = open_socket("127.0.0.1", self.port)
        bound.listen()
        self.port, self.url = bound.getsockname()[1], address_of(bound)
        app = make_app(self.classifier, self.limits)
        self.server = uvicorn.Server(uvicorn.Config(app, log_config=None, log_level="critical"))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [bound]})
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.should_exit = True
        self.thread.join()

    def die(self):
        """End without answering."""
        self.server.force_exit = True
        self.__exit__()


@pytest.fixture
def texts():
    return numbered(random.Random(0), 300)


@pytest.mark.parametrize("multi_label", [False, True])
def test_it_says_what_the_classifier_says(multi_label, texts, monkeypatch):
    classifier = length_classifier(multi_label=multi_label)
    classifier.calibration = Calibration(None, (0.51, 0.55)) if multi_label else Calibration(0.5)
    with Server(classifier) as server:
        remote = RemoteClassifier(server.url, batch_size=7)
        assert remote.labels == classifier.labels
        expected = classifier.predict_proba(texts)
        found = remote.predict_proba(texts)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)
        assert remote.predict(texts) == classifier.predict(texts)
        np.testing.assert_array_equal(remote.predict_proba(texts[0]), expected[0])
        assert remote.predict(texts[0]) == classifier.predict(texts[0])
        assert remote.predict_proba([]).shape == (0, 2)
        assert remote.predict(iter(["", texts[1]]), empty="keep") == [None, classifier.predict(texts[1])]
        assert np.isnan(remote.predict_proba([None, texts[1]], empty="keep")).all(1).tolist() == [True, False]
        with pytest.raises(ValueError, match="1 of 2 texts are empty"):
            remote.predict(["", "the cat"])
        with pytest.raises(ValueError, match="abstain needs a run with a fitted target error"):
            remote.predict(texts, abstain=True)

        async def in_a_loop():
            np.testing.assert_array_equal(await remote.apredict_proba(texts), expected)
            assert await remote.apredict(texts[:3]) == classifier.predict(texts[:3])
            return remote.predict(texts[:3])  # as in a notebook

        assert asyncio.run(in_a_loop()) == classifier.predict(texts[:3])


@pytest.mark.parametrize("multi_label", [False, True])
def test_abstention(multi_label, texts):
    classifier = length_classifier(multi_label=multi_label)
    probabilities = classifier.predict_proba(texts)
    limits = (0.53, None) if multi_label else (float(np.median(probabilities.max(1))),)
    classifier.run = SimpleNamespace(abstention=Abstention(0.1, limits), calibration=classifier.calibration)
    with Server(classifier) as server:
        remote = RemoteClassifier(server.url)
        expected = classifier.predict(texts, abstain=True)
        assert remote.predict(texts, abstain=True) == expected
        assert remote.predict(texts) == classifier.predict(texts)
    assert expected != classifier.predict(texts)


def test_long_texts_are_sent_in_requests_that_the_server_takes():
    texts = [f"{'größer ' * size}{size}" for size in range(1, 100, 3)]
    classifier = length_classifier()
    with Server(classifier, Limits(max_request_bytes=1000, max_texts=5)) as server:
        found = RemoteClassifier(server.url, concurrency=1).predict_proba(texts)
        np.testing.assert_array_equal(found, classifier.predict_proba(texts))
        with pytest.raises(TextsRefused, match=r"refuses text 1 of .*more than 1,000 bytes") as told:
            RemoteClassifier(server.url, concurrency=1).predict_proba(["the cat 1", "cat " * 400])
    np.testing.assert_array_equal(np.isnan(told.value.probabilities).all(1), [False, True])


@pytest.mark.parametrize("text", ["a\0", "a\ud800"])
def test_a_refused_text_is_named_by_its_place_among_all(text, texts):
    with Server(length_classifier()) as server:
        remote = RemoteClassifier(server.url, batch_size=8, concurrency=1)
        with pytest.raises(TextsRefused, match="refuses text 21 of those given, counted from 0: ") as told:
            remote.predict([None, *texts[:20], text, *texts[:9]], empty="keep")
    assert isinstance(told.value, ValueError)
    assert np.isnan(told.value.probabilities).all(1).tolist() == [True] + [False] * 16 + [True] * 14


def test_a_full_server_is_asked_again(texts):
    classifier = length_classifier(0.01)
    with Server(classifier, Limits(10_000, 20)) as server:
        remote = RemoteClassifier(server.url, batch_size=20, concurrency=3)
        np.testing.assert_array_equal(remote.predict_proba(texts[:60]), classifier.predict_proba(texts[:60]))


def test_it_goes_on_where_it_was_when_a_server_dies_and_comes_back(texts):
    classifier = length_classifier(0.02)
    with contextlib.ExitStack() as stack:
        server = Server(classifier).__enter__()
        remote = RemoteClassifier(server.url, batch_size=8, concurrency=2, retry_for=30)
        found = []
        asking = threading.Thread(target=lambda: found.append(remote.predict_proba(texts)))
        asking.start()
        while len(calls := classifier.scorer.calls) < 5:
            time.sleep(0.005)
        server.die()
        before = len(calls)
        stack.enter_context(server)
        asking.join()
    np.testing.assert_array_equal(found[0], length_classifier().predict_proba(texts))
    assert before < len(calls)
    assert sum(map(len, calls)) <= len(texts) + 2 * 8  # what was answered is not asked again


def test_a_server_that_stays_away_loses_no_answer(texts):
    classifier = length_classifier(0.02)
    server = Server(classifier).__enter__()
    remote = RemoteClassifier(server.url, batch_size=8, concurrency=2, retry_for=0.5)

    def end():
        while len(classifier.scorer.calls) < 5:
            time.sleep(0.005)
        server.die()

    threading.Thread(target=end).start()
    with pytest.raises(ServerLost, match=r"has not answered for 0\.5 s") as told:
        remote.predict_proba(texts)
    assert isinstance(told.value, OSError)
    done = ~np.isnan(told.value.probabilities).any(1)
    assert 0 < done.sum() < len(texts)
    np.testing.assert_array_equal(told.value.probabilities[done], classifier.predict_proba(texts)[done])


def test_who_is_no_server_is_told_at_once():
    with pytest.raises(ValueError, match=r"url must be like 'http://127\.0\.0\.1:8000', got '127"):
        RemoteClassifier("127.0.0.1:8000")
    with pytest.raises(ServerLost, match=r"http://127\.0\.0\.1:1 has not answered for 0\.2 s \(ConnectError\)") as told:
        RemoteClassifier("http://user:password@127.0.0.1:1", retry_for=0.2)
    assert "password" not in str(told.value)

    async def other(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"<html>"})

    server = Server(None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("test_remote.make_app", lambda *_: other)
        with server, pytest.raises(OSError, match="is no server of hf-causal-clf serve"):
            RemoteClassifier(server.url)
